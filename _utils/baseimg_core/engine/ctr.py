"""
A client of containerd that runs its command ``ctr``.

Only containerd's database records the directory of a committed snapshot (a layer). This module creates a short-lived
``view`` of the snapshot: the options of the view's mount name the directories of all layers.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, cast

from ..errors import EngineUnreachable, StorageUnsupported

SNAPSHOTTER = "overlayfs"
_TIMEOUT = 60  # seconds for one command
_BLOBS = "io.containerd.content.v1.content/blobs/sha256"  # below containerd's root
_ABSENT = "not found"  # in every containerd message about a missing object


class Absent(Exception):
    """containerd has no such object."""


class Ctr:
    """One namespace of the containerd at ``address``, the path of its socket."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address, self.namespace = address, namespace
        #: The options of every mount that containerd has described.
        self.mount_options: set[str] = set()

    def run(self, *arguments: str) -> str:
        """
        Run a ``ctr`` command and return its output.

        Raises:
            EngineUnreachable: containerd does not answer.
            Absent: The object does not exist.
        """
        try:
            process = subprocess.run(self._command(*arguments), capture_output=True, timeout=_TIMEOUT, check=False)
        except FileNotFoundError:
            raise EngineUnreachable(*_no_ctr()) from None
        except subprocess.TimeoutExpired:
            raise EngineUnreachable(f"no answer from containerd at {self.address} in {_TIMEOUT} s") from None
        if process.returncode:
            self._fail(process.stderr)
        return process.stdout.decode(errors="replace")

    def table(self, *arguments: str) -> list[list[str]]:
        """Run a command that prints a table. Return the words of each line, without the heading."""
        return [line.split() for line in self.run(*arguments).splitlines()[1:] if line.strip()]

    def run_json(self, *arguments: str) -> Any:
        """Run a command that prints JSON. Return the parsed output."""
        return json.loads(self.run(*arguments))

    def read_blob(self, digest: str) -> Any:
        """
        Return a JSON document from the content store.

        Reads the blob's file and verifies its digest. Falls back to ``ctr``, whose start is slower than the read.
        """
        data = b""
        with suppress(OSError), open(os.path.join(self._blobs, digest.removeprefix("sha256:")), "rb") as file:
            data = file.read()
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            return self.run_json("content", "get", digest)
        return json.loads(data)

    @property
    def _blobs(self) -> str:
        """The directory of the blobs, if the snapshotter uses its default directory."""
        return os.path.join(os.path.dirname(os.path.dirname(self.root)), _BLOBS)

    @contextmanager
    def stream_blob(self, digest: str) -> Iterator[io.BufferedReader]:
        """Open a stream of a blob in the content store."""
        command = self._command("content", "get", digest)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                yield cast(io.BufferedReader, process.stdout)
            finally:
                process.kill()

    @cached_property
    def root(self) -> str:
        """
        The directory of the snapshotter's snapshots.

        Raises:
            StorageUnsupported: This containerd lacks the snapshotter.
        """
        details = self.run("plugins", "ls", "-d", f"type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}")
        for line in details.splitlines():
            name, _, value = line.strip().partition(" ")
            if name == "root":
                return os.path.join(value.strip(), "snapshots")
        raise StorageUnsupported(f"the containerd at {self.address} has no snapshotter {SNAPSHOTTER!r}")

    @property
    def snapshotters(self) -> list[str]:
        """The snapshotters that work here."""
        rows = self.table("plugins", "ls", "type==io.containerd.snapshotter.v1")
        return [row[1] for row in rows if row[-1] == "ok"]

    @property
    def namespaces(self) -> list[str]:
        """The namespaces of this containerd."""
        return self.run("namespaces", "ls", "-q").split()

    def directories(self, chain_id: str) -> tuple[str, ...]:
        """
        Return the directories of a chain of layers, bottom first; raise :class:`Absent`.

        The view has no lease, so the garbage collector removes a view that a crash left behind.
        """
        key = f"baseimg-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            mounts = self.run_json("snapshots", "--snapshotter", SNAPSHOTTER, "view", "--mounts", key, chain_id)
        finally:
            self._remove(key)
        self.mount_options.update(option for mount in mounts for option in mount.get("Options") or ())
        return _lower_directories(mounts)

    def _remove(self, key: str) -> None:
        with suppress(Absent):  # never created, or removed by the collector
            self.run("snapshots", "--snapshotter", SNAPSHOTTER, "rm", key)

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", self.address, "--namespace", self.namespace, *arguments]

    def _fail(self, stderr: bytes) -> None:
        message = stderr.decode(errors="replace").strip()
        if _ABSENT in message:
            raise Absent(message)
        raise EngineUnreachable(f"containerd at {self.address}: {message.splitlines()[-1] if message else 'no answer'}")


def _no_ctr() -> tuple[str, str]:
    return "cannot run ctr: not found in PATH", "install containerd's ctr in a directory of the minion's PATH"


def _lower_directories(mounts: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """
    Return the lower directories of a view, bottom first.

    A view of one layer is a bind mount of its directory.
    """
    for mount in mounts:
        if mount["Type"] == "bind":
            return (mount["Source"],)
        for option in mount.get("Options") or ():
            name, _, value = option.partition("=")
            if name == "lowerdir":
                return tuple(reversed(value.split(":")))
    raise StorageUnsupported(f"containerd mounts a snapshot in an unknown way: {mounts}")

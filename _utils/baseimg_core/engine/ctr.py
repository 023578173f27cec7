"""
containerd through its own command, ``ctr``.

A committed snapshot, as every image layer is, has no mounts, and no file tells which directory is whose. So its
directories are asked for with a short-lived ``view`` on top of it, whose mount names them all.
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
_TIMEOUT = 60  # seconds for one answer
_BLOBS = "io.containerd.content.v1.content/blobs/sha256"  # below containerd's root
_ABSENT = "not found"  # how every message of containerd's ends that says so


class Absent(Exception):
    """containerd has no such thing (any more)."""


class Ctr:
    """One namespace of the containerd at ``address``, the path of its socket."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address, self.namespace = address, namespace

    def call(self, *arguments: str) -> str:
        """What a command of ``ctr`` prints; raises :class:`EngineUnreachable`, :class:`Absent`."""
        try:
            done = subprocess.run(self._command(*arguments), capture_output=True, timeout=_TIMEOUT, check=False)
        except FileNotFoundError:
            raise EngineUnreachable(*_no_ctr()) from None
        except subprocess.TimeoutExpired:
            raise EngineUnreachable(f"no answer from containerd at {self.address} in {_TIMEOUT} s") from None
        if done.returncode:
            self._fail(done.stderr)
        return done.stdout.decode(errors="replace")

    def rows(self, *arguments: str) -> list[list[str]]:
        """The words of each line of a table, without its heading."""
        return [line.split() for line in self.call(*arguments).splitlines()[1:] if line.strip()]

    def json(self, *arguments: str) -> Any:
        return json.loads(self.call(*arguments))

    def blob(self, digest: str) -> Any:
        """
        A JSON document of the content store: its file, else what ``ctr`` gives, whose start takes longer than all else
        of an operation that asks for two of each image. The digest says whether the file is the right one.
        """
        data = b""
        with suppress(OSError), open(os.path.join(self._blobs, digest.removeprefix("sha256:")), "rb") as file:
            data = file.read()
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            return self.json("content", "get", digest)
        return json.loads(data)

    @property
    def _blobs(self) -> str:
        """Where blobs lie, unless the snapshotter was given a directory of its own."""
        return os.path.join(os.path.dirname(os.path.dirname(self.root)), _BLOBS)

    @contextmanager
    def content(self, digest: str) -> Iterator[io.BufferedReader]:
        """A blob of the content store, to be read once from its beginning."""
        command = self._command("content", "get", digest)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            try:
                yield cast(io.BufferedReader, process.stdout)
            finally:
                process.kill()

    @cached_property
    def root(self) -> str:
        """The directory in which the snapshotter keeps its snapshots."""
        details = self.call("plugins", "ls", "-d", f"type==io.containerd.snapshotter.v1,id=={SNAPSHOTTER}")
        for line in details.splitlines():
            name, _, value = line.strip().partition(" ")
            if name == "root":
                return os.path.join(value.strip(), "snapshots")
        raise StorageUnsupported(f"the containerd at {self.address} has no snapshotter {SNAPSHOTTER!r}")

    def directories(self, chain_id: str) -> tuple[str, ...]:
        """
        The directories of a chain of layers, bottom first; raises :class:`Absent` where it was not unpacked.

        The view is not kept from the garbage collector, so that one which a crash left goes by itself.
        """
        key = f"baseimg-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            mounts = self.json("snapshots", "--snapshotter", SNAPSHOTTER, "view", "--mounts", key, chain_id)
        finally:
            self._remove(key)
        return _lower(mounts)

    def _remove(self, key: str) -> None:
        with suppress(Absent):  # it was not made, or the collector was quicker
            self.call("snapshots", "--snapshotter", SNAPSHOTTER, "rm", key)

    def _command(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", self.address, "--namespace", self.namespace, *arguments]

    def _fail(self, stderr: bytes) -> None:
        message = stderr.decode(errors="replace").strip()
        if _ABSENT in message:
            raise Absent(message)
        raise EngineUnreachable(f"containerd at {self.address}: {message.splitlines()[-1] if message else 'no answer'}")


def _no_ctr() -> tuple[str, str]:
    return "the command 'ctr' is not here", "install containerd's ctr where Salt's PATH finds it"


def _lower(mounts: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The lower directories of a view, bottom first. A view of one layer is a bind mount of its directory."""
    for one in mounts:
        if one["Type"] == "bind":
            return (one["Source"],)
        for option in one.get("Options") or ():
            name, _, value = option.partition("=")
            if name == "lowerdir":
                return tuple(reversed(value.split(":")))
    raise StorageUnsupported(f"containerd mounts a snapshot in a way that is not known here: {mounts}")

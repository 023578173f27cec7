"""
The records of rollouts, on the master::

    <cachedir>/baseimg/rollouts/        0700
        <id>.json                       the record, 0600, replaced atomically
        <id>.halt                       somebody asked for a halt
        <base, quoted>.lock             held by the process that moves this base, released by the kernel when it ends
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from urllib.parse import quote

from ..errors import RolloutBusy, RolloutUnknown
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout

_RECORD, _HALT, _LOCK = ".json", ".halt", ".lock"


class Store:
    def __init__(self, cachedir: str) -> None:
        self.home = os.path.join(cachedir, "baseimg", "rollouts")

    def ids(self) -> list[str]:
        """Of every rollout, the newest first."""
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.home)
            return sorted((name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD)), reverse=True)
        return []

    def read(self, name: str) -> Rollout:
        """One record; raises :class:`RolloutUnknown`, :class:`RecordInvalid`."""
        if name not in self.ids():
            raise RolloutUnknown(f"there is no rollout {name!r}")
        path = self._path(name, _RECORD)
        with open(path, "rb") as file:
            return rollout_record.parse(file.read(), path)

    def of_base(self, base: str) -> list[Rollout]:
        """Every rollout of a base, the newest first."""
        return [one for one in map(self.read, self.ids()) if one.base == base]

    def find(self, name: str | None, states: frozenset[str]) -> Rollout:
        """
        The rollout that is meant: by ID, by base (its newest), or without a name the only base's newest in one of
        ``states``.
        """
        if name is not None and name in self.ids():
            return self.read(name)
        newest: dict[str, Rollout] = {}
        for one in map(self.read, self.ids()):
            newest.setdefault(one.base, one)
        if name is not None:
            if name not in newest:
                raise RolloutUnknown(f"there is no rollout {name!r}, nor one of a base of that name")
            return newest[name]
        found = [one for one in newest.values() if one.state in states]
        if len(found) != 1:
            names = ", ".join(f"{one.id} ({one.base}, {one.state})" for one in found) or "none"
            raise RolloutUnknown(f"it is not clear which rollout is meant; there are: {names}")
        return found[0]

    def save(self, record: Rollout) -> None:
        with translate_os_errors(self.home):
            os.makedirs(self.home, mode=0o700, exist_ok=True)
            files.save(self._path(record.id, _RECORD), record.dump())

    @contextlib.contextmanager
    def lock(self, base: str) -> Iterator[None]:
        """Be the one process that moves this base; raises :class:`RolloutBusy`."""
        with translate_os_errors(self.home):
            os.makedirs(self.home, mode=0o700, exist_ok=True)
            descriptor = os.open(self._path(quote(base, safe=""), _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
                raise RolloutBusy(f"a rollout of {base} is going on ({held})") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def ask_to_halt(self, name: str) -> None:
        with translate_os_errors(self.home):
            files.save(self._path(name, _HALT), b"")

    def asked_to_halt(self, name: str) -> bool:
        return os.path.exists(self._path(name, _HALT))

    def forget_halt(self, name: str) -> None:
        files.discard(self._path(name, _HALT))

    def _path(self, name: str, kind: str) -> str:
        return os.path.join(self.home, name + kind)

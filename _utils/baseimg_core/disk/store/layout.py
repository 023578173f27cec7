"""Read what a node remembers of one base's generations. Creates and changes nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from typing import Any

from ...errors import ContentUnknown, RecordInvalid
from ...model.store import record as model_record
from ...model.store.record import Record

# what the live content is called in a layer's own directory: by overlay2 and Podman, and by containerd's overlayfs
_LIVE = ("diff", "fs")


class Records:
    """The record beside one layer's ``diff``; :mod:`generations` draws the tree and says what holds."""

    def __init__(self, layer: str) -> None:
        live = [path for name in _LIVE if os.path.isdir(path := os.path.join(layer, name))]
        self.live = live[0] if live else os.path.join(layer, _LIVE[0])
        self.home = os.path.join(layer, "baseimg")
        self._layer = layer
        self._generations = os.path.join(self.home, "generations")
        self._indexes = os.path.join(self.home, "index")
        self.staging = os.path.join(self.home, "staging")
        self._lock = os.path.join(self.home, "lock")
        self._state = os.path.join(self.home, "state.json")
        self._history = os.path.join(self.home, "history.jsonl")
        self.restarting = os.path.join(self.home, "restarting.json")

    def read(self) -> Record | None:
        """
        The record, with what the inodes tell: which generation is live (``current``), and which are gone (``inode`` 0).

        ``None`` where nothing was applied yet. Raises :class:`RecordInvalid`, :class:`ContentUnknown`.
        """
        record = self.load()
        return self.matched(record) if record else None

    def matched(self, record: Record) -> Record:
        """The record with what the inodes tell; raises :class:`ContentUnknown`."""
        live = record.by_inode(self.inode)
        if live is None:
            raise ContentUnknown(f"{self.live} is none of the generations that {self._state} knows")
        record.current = live.number
        there = {live.inode, *self.places().values()}
        for one in record.generations.values():
            if one.inode not in there:
                one.inode = 0
        return record

    def load(self) -> Record | None:
        """The record as it was written, without a look at what is there; raises :class:`RecordInvalid`."""
        try:
            with open(self._state, "rb") as file:
                return model_record.parse(file.read(), self._state)
        except FileNotFoundError:
            if os.path.exists(self._history) or self._kept():
                raise RecordInvalid(f"{self._state} is missing, but there are generations beside it") from None
            return None

    def _kept(self) -> dict[str, int]:
        """The inodes of the directories below ``generations``, by path."""
        while os.path.isdir(self._generations):
            paths = [os.path.join(self._generations, name) for name in os.listdir(self._generations)]
            with contextlib.suppress(FileNotFoundError):  # renamed at this moment, by whoever holds the lock
                return {path: os.stat(path).st_ino for path in paths}
        return {}

    def places(self) -> dict[str, int]:
        """The inodes of all directories that may be a complete generation, but the live one, by path."""
        found = self._kept()
        with contextlib.suppress(FileNotFoundError):
            found[self.staging] = os.stat(self.staging).st_ino
        return found

    @property
    def interrupted(self) -> bool:
        """Whether something is under way, or was when a crash came: :meth:`recover` has work to do."""
        record = self.read()
        if record is None:
            return os.path.isdir(self.home)
        unused = any(not one.activated for one in record.generations.values())
        unused |= os.path.exists(self.restarting)
        return unused or record.intent is not None or os.path.isdir(self.staging)

    @property
    def reference(self) -> str:
        """What the record calls its base, also where it does not know the live directory; empty where it is broken."""
        try:
            with open(self._state, "rb") as file:
                return model_record.parse(file.read(), self._state).reference
        except (OSError, RecordInvalid):
            return ""

    @property
    def written(self) -> tuple[int, int]:
        """Which writing of the record is there: another one has other figures. Zeros where there is no record."""
        try:
            st = os.stat(self._state)
        except FileNotFoundError:
            return 0, 0
        return st.st_mtime_ns, st.st_ino

    @property
    def inode(self) -> int:
        """The live directory's inode."""
        return os.stat(self.live).st_ino

    def path(self, record: Record, number: int) -> str:
        """Where a generation's content lies now, also in the middle of a swap."""
        wanted = record.generations[number].inode
        if wanted == self.inode:
            return self.live
        for path, inode in self.places().items():
            if inode == wanted:
                return path
        raise RecordInvalid(f"the content of generation {number} is missing below {self._generations}")

    def index(self, number: int) -> str:
        """Where the index of a generation is kept (:mod:`index`); the pristine one has none."""
        return os.path.join(self._indexes, f"{number}.jsonl")

    def history(self) -> list[dict[str, Any]]:
        """Every swap so far, oldest first."""
        try:
            return [json.loads(line) for line in self._logged()]
        except ValueError as exc:
            raise RecordInvalid(
                f"{self._history} is damaged: {exc}", "move that file away; nothing depends on it"
            ) from exc

    def _logged(self) -> list[bytes]:
        """The lines of the history, each with its end: a damaged one must not hinder the next swap."""
        try:
            with open(self._history, "rb") as file:
                return [line.rstrip(b"\n") + b"\n" for line in file]
        except FileNotFoundError:
            return []


def siblings(layer: bytes) -> list[bytes]:
    """Return the directories that may share inodes with a layer directory: the layer's generations."""
    records = Records(os.path.dirname(os.fsdecode(layer)))
    return [os.fsencode(path) for path in (records.live, *records.places())]


def now() -> str:
    """The present time for records: ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

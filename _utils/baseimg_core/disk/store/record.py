"""Reads and writes the record of one base and the history of its swaps (:mod:`model.store.record`)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ...errors import ContentUnknown, RecordInvalid, SpaceExhausted
from ...linux import files, syscalls
from ...linux.oserrors import FULL_ERRNOS
from ...model.store import record as model_record
from ...model.store.generations import directory_of
from ...model.store.record import Record
from .layout import Layout, identify_directory, now

_MAX_HISTORY = 1 << 20  # bytes, about 2,500 swaps; a larger file is rotated, and one rotated file is kept
_ROTATED = ".1"
_INTENT = 1 << 10  # bytes that an intent adds to a record
_NEEDED = 1 << 18  # bytes of a record with its spare, the history, and the times of swaps
_RESERVED = 1 << 14  # bytes allocated ahead for the next lines, so that a swap needs no free space


class RecordFile:
    """The files ``state.json`` and ``history.jsonl`` of one layer."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read(self) -> Record | None:
        """
        Return the record, matched with the existing directories; ``None`` if there is no record.

        Raises:
            RecordInvalid: The record is damaged or lost.
            RecordNewer: A newer baseimg wrote the record.
            ContentUnknown: The live directory is not a generation in the record.
        """
        record = self.load()
        return self.match(record) if record else None

    def load(self) -> Record | None:
        """
        Return the record as stored; ``None`` if there is none.

        Raises:
            RecordInvalid: The record is damaged, or it is missing although generations exist.
            RecordNewer: A newer baseimg wrote the record.
        """
        state = self._layout.state
        try:
            data = files.read_regular(state)
        except FileNotFoundError:
            if self._layout.has_history or self._layout.kept():
                raise RecordInvalid(f"{state} is missing, but generations exist beside it") from None
            return None
        except ValueError as exc:
            raise RecordInvalid(str(exc)) from exc
        return model_record.parse(data, state)

    def match(self, record: Record) -> Record:
        """
        Match a record with the directories on disk, and return it.

        Sets ``current`` to the live generation, and each generation's ``inode`` (0 without a directory).

        Raises:
            ContentUnknown: The live directory is not a generation in the record.
        """
        live = identify_directory(self._layout.live)
        directories = [live, *self._layout.others().values()]
        ids = [generation.id for generation in record.generations.values() if generation.id]
        current = None
        for generation in record.generations.values():
            directory = directory_of(generation, directories, ids)
            generation.inode = directory.inode if directory else 0
            if directory is live:
                current = generation.number
        if current is None:
            raise ContentUnknown(f"{self._layout.live} is not a generation that {self._layout.state} knows")
        record.current = current
        return record

    def save(self, record: Record) -> None:
        """Replace the record, atomically and durably. New damage gets the current time."""
        record.date_damage(now())
        files.save_over_spare(self._layout.state, record.dump())

    @property
    def reference(self) -> str:
        """The base's reference in the record; empty if the record is unreadable. Ignores the live directory."""
        try:
            return model_record.parse(files.read_regular(self._layout.state), self._layout.state).reference
        except (OSError, ValueError, RecordInvalid):
            return ""

    @property
    def fingerprint(self) -> tuple[int, int]:
        """Fingerprint (mtime in ns, inode) of the record file, to detect changes; zeros if there is none."""
        return files.fingerprint(self._layout.state)

    def history(self) -> list[dict[str, Any]]:
        """
        Return the swaps, oldest first, with the fields of docs/reference/store-format.md.

        Raises:
            RecordInvalid: The file is damaged.
        """
        try:
            return [json.loads(line) for line in self._lines()]
        except ValueError as exc:
            raise RecordInvalid(
                f"{self._layout.history} is damaged: {exc}", "move that file away; nothing depends on it"
            ) from exc

    def reserve_history(self) -> None:
        """
        Create the history with space for its first lines, so that a full disk stops a first swap before its exchange.

        Raises:
            OSError: The file system has no space. The history does not exist then.
        """
        path = self._layout.history
        files.drop_irregular(path)
        if os.path.exists(path):
            return
        descriptor = files.open_private(path, os.O_RDWR)
        try:
            syscalls.allocate(descriptor, _RESERVED)
        except OSError as exc:
            if exc.errno in FULL_ERRNOS:
                files.unlink_if_exists(path)
                raise
        finally:
            os.close(descriptor)

    def check_space(self, record: Record) -> None:
        """
        Check that a swap can be recorded. Space that earlier writes reserved is enough, except on btrfs.

        Args:
            record: The record to save.

        Raises:
            SpaceExhausted: The file system is full.
        """
        with contextlib.suppress(FileNotFoundError):
            spare = os.stat(self._layout.state + files.SPARE).st_size
            if os.path.exists(self._layout.history) and spare >= len(record.dump()) + _INTENT:
                return
        st = os.statvfs(self._layout.layer)
        if st.f_bavail * st.f_frsize < _NEEDED:
            free = st.f_bavail * st.f_frsize / 1e6
            needs = f"the record of a swap takes up to {_NEEDED / 1e6:.1f} MB"
            raise SpaceExhausted(f"{self._layout.layer} has {free:.1f} MB free, and {needs}")

    def log_swap(self, swap: Mapping[str, Any]) -> None:
        """Append a swap to the history, unless the last line has the same ``id``."""
        path = self._layout.history
        files.drop_irregular(path)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size > _MAX_HISTORY:
                os.replace(path, path + _ROTATED)
        last = files.last_line(path)
        if swap["id"].encode() not in last:
            files.append_line(path, json.dumps(swap, sort_keys=True).encode(), _RESERVED)

    def _lines(self) -> list[bytes]:
        """Return the lines of the history, starting with the rotated file."""
        lines: list[bytes] = []
        for path in (self._layout.history + _ROTATED, self._layout.history):
            with contextlib.suppress(FileNotFoundError):
                lines += files.last_lines(path, 2 * _MAX_HISTORY)  # earlier releases did not rotate the file
        return lines

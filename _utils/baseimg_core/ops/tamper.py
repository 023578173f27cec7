"""On a node: what was changed behind our back, in one generation and in those that have the same file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from ..context import Context
from ..disk.store import index
from ..disk.store.index import Finding
from ..errors import RecordInvalid
from ..model.store.record import Record
from .bases import Base


def settle(context: Context, base: Base) -> bool:
    """
    Whether the content that :func:`mark` looks at was changed; what is damaged is in the record when this returns, so
    it is not used either where nothing can be done now.
    """
    record = base.store.read()
    if record is None or not mark(base, record):
        return False
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        drifted = record is not None and mark(base, record)
        if record and drifted:
            base.store.save(record)
    return drifted


def mark(base: Base, record: Record) -> bool:
    """
    Whether the live content is no longer what was made; it is marked in the record then, which is not saved, and with
    it each generation that has a changed file in common with it.

    The original content has no index, but what was linked from it has: where it is live, that tells of its files.
    """
    drifted = False
    for number in [record.current] if record.current else [one.number for one in record.usable if one.number]:
        findings: list[Finding] | None = None
        with contextlib.suppress(RecordInvalid):
            findings = list(
                index.compare(base.store.layout.index(number), base.store.path(record, number), None, False)
            )
        shared = sharers(base, record, number, findings or ())
        if findings != [] and (number == record.current or shared):
            drifted |= record.current in {number, *shared}
            for one in (number, *shared):
                record.generations[one].damaged = True
    return drifted


def sharers(base: Base, record: Record, number: int, findings: Iterable[Finding]) -> set[int]:
    """The generations that have a file in common with ``number`` which was found changed there."""
    places = {other: os.fsencode(base.store.path(record, other)) for other in record.present}
    own = places.pop(number)
    found: set[int] = set()
    for finding in findings:
        inode = _linked(own + b"/" + finding.path)
        found |= {other for other, place in places.items() if inode and _linked(place + b"/" + finding.path) == inode}
    return found


def _linked(path: bytes) -> int | None:
    """The inode of a file that has several links."""
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_ino if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) else None

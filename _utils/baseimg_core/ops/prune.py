"""Prune: delete generations that nothing uses, and pin generations that must stay."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..context import Context
from ..disk.store import lifetimes, space
from ..disk.store.generations import Store
from ..engine import mounts
from ..errors import BaseimgError, NoWayBack
from ..linux.oserrors import translate_os_errors
from ..model.policy import validation
from ..model.store import generations
from ..model.store.record import Record
from . import bases, declared_bases, swap
from .bases import Base
from .containers import usage

_PAUSES = (0.05, 0.1, 0.2, 0.4)  # seconds between checks of users whose generation is uncertain


def prune(context: Context, name: str | None, keep: int, test: bool) -> list[dict[str, Any]]:
    """
    Delete generations that nothing uses.

    :func:`model.store.generations.removable` has the rule. Generations that a mount or a process may use stay, and
    those that were swapped out less than ``context.grace`` seconds ago.

    Args:
        context: The context of the operation.
        name: A base; ``None`` for every base with a record.
        keep: The number of other contents that stay; the way back counts, and always stays.
        test: True to change nothing.

    Returns:
        For each base ``base``, the ``removed`` versions, the ``kept`` generations with the reasons, the content bytes
        ``freed``, ``in_use`` (:func:`generations.in_use`), and ``warnings``.
    """
    if name is None and not test:
        _delete_unfinished(context)
    selected = bases.recorded(context.engine) if name is None else bases.locate_all(context.engine, name)
    return [_prune(context, base, keep, test) for base in selected]


def _delete_unfinished(context: Context) -> None:
    """Delete the unfinished content of first runs that were killed: they leave no record."""
    for layer in context.engine.layer_homes():
        store = Store(layer)
        if os.path.isdir(store.layout.staging):
            swap.delete_unfinished(context, store)


def pin(context: Context, name: str, version: str, pinned: bool) -> dict[str, Any]:
    """
    Pin the generations of a version, so that prune keeps them, or unpin them.

    Args:
        context: The context of the operation.
        name: The base.
        version: The version.
        pinned: True to pin, False to unpin.

    Returns:
        ``changed``, ``base``, ``version`` and ``pinned``.

    Raises:
        NoWayBack: The base has no generation of the version.
    """
    named_bases = bases.locate_all(context.engine, name)
    results = [
        done for _base, done in declared_bases.each(named_bases, lambda base: _pin(context, base, version, pinned))
    ]
    return {**results[0], "changed": any(done["changed"] for done in results)}


def _pin(context: Context, base: Base, version: str, pinned: bool) -> dict[str, Any]:
    with base.store.lock(context.lock_timeout, context.by, context.operation):
        record = base.store.recover()
        present = [record.generations[number] for number in record.present] if record else []
        matching = [generation for generation in present if generation.version == version]
        if record is None or not matching:
            known = validation.quoted(sorted({generation.version for generation in present})) or "none but its own"
            raise NoWayBack(f"{base.reference} has no generation of version {version}; it has {known}")
        changed = [generation for generation in matching if generation.pinned is not pinned]
        for generation in changed:
            generation.pinned = pinned
        if changed:
            base.store.save(record)
        return {"changed": bool(changed), "base": record.reference, "version": version, "pinned": pinned}


def _undeclared_above(context: Context, converged: Sequence[Base]) -> list[Base]:
    """
    Return the recorded bases above these bases that pillar does not declare. No other converge prunes them.

    Args:
        context: The context of the operation.
        converged: The bases of a converge.
    """
    above = []
    for layer in context.engine.layer_homes():
        with contextlib.suppress(BaseimgError):  # status reports an unreadable record
            record = Store(layer).read()
            if record and not _declared(context, record) and any(_is_above(record, base) for base in converged):
                above.append(bases.by_chain(context.engine, record.chain_id, record.reference, record.diff_ids))
    return above


def _is_above(record: Record, base: Base) -> bool:
    height = len(base.diff_ids)
    return len(record.diff_ids) > height and tuple(record.diff_ids[:height]) == base.diff_ids


def prune_after_change(context: Context, converged: Sequence[Base], keep: int) -> dict[str, Any]:
    """
    Delete the generations of a converge's bases afterwards, and those of undeclared bases above, which got masks.

    Args:
        context: The context of the operation.
        converged: The bases of the converge.
        keep: As for :func:`prune`.

    Returns:
        The ``removed`` versions, the content bytes ``freed``, ``in_use`` (:func:`generations.in_use` of each base that
        has such generations), and ``warnings``. A base whose generations cannot be deleted is a warning.
    """
    results, warnings = [], []
    above = _undeclared_above(context, converged)
    for base in (*converged, *above):
        try:
            results.append(_prune(context, base, keep, False, masks=base not in above))
        except BaseimgError as exc:
            warnings.append(f"old generations of {base.reference} were not deleted: [{exc.code}] {exc.message}")
    return merge(results, warnings)


def preview_after_change(
    context: Context, converged: Sequence[Base], simulated: Mapping[str, Record], keep: int
) -> dict[str, Any]:
    """
    Return what :func:`prune_after_change` would do after a change.

    Args:
        context: The context of the operation.
        converged: The bases of the converge.
        simulated: The records that the change would leave, by layer directory.
        keep: As for :func:`prune`.
    """
    above = _undeclared_above(context, converged)
    return merge([_preview(context, base, simulated, keep, masks=base not in above) for base in (*converged, *above)])


def _preview(context: Context, base: Base, simulated: Mapping[str, Record], keep: int, masks: bool) -> dict[str, Any]:
    """Return a base's result for :func:`merge`; ``simulated`` is as for :func:`preview_after_change`."""
    try:
        on_disk = base.store.read()
    except BaseimgError:  # a repair writes the record again
        on_disk = None
    if on_disk is None:
        return _nothing_kept(base)
    record, users = _as_left(on_disk, simulated.get(base.store.layout.layer)), _Users(context, base, on_disk)
    swapped_out = {on_disk.current: "swapped out"} if context.grace else {}
    declared, lower = _declared(context, record), _lower_records(base, simulated)
    unused, reasons = generations.removable(record, keep, lambda: {**users.reasons, **swapped_out}, declared, lower)
    freed = space.released(base.store.paths(on_disk, unused).values())
    return _result(context, record, unused, reasons, freed, generations.in_use(record, keep, users.names), masks)


def _as_left(on_disk: Record, simulated: Record | None) -> Record:
    """Return a copy of a record as a change would leave it; ``simulated`` is ``None`` for no change."""
    record = copy.deepcopy(simulated or on_disk)
    if record.current != on_disk.current:
        record.previous = swap.previous_after(on_disk, record.live)
    return record


def merge(results: Sequence[Mapping[str, Any]], warnings: Sequence[str] = ()) -> dict[str, Any]:
    """
    Return the results of several bases as one; see :func:`prune_after_change`.

    Args:
        results: The results of :func:`prune`.
        warnings: Further warnings.
    """
    removed = [version for result in results for version in result["removed"]]
    return {
        "removed": removed,
        "freed": sum(result["freed"] for result in results),
        "in_use": [{"base": result["base"], **result["in_use"]} for result in results if result["in_use"]],
        "warnings": [*warnings, *(results[0]["warnings"] if removed else ())],
    }


def _prune(context: Context, base: Base, keep: int, test: bool, masks: bool = True) -> dict[str, Any]:
    record = base.store.read()
    if record is None:
        if not test:  # a first run that was killed leaves unfinished content without a record
            swap.delete_unfinished(context, base.store)
        return _nothing_kept(base)
    unused, reasons, held = _choose(context, base, record, keep)
    if test:
        freed = space.released(base.store.paths(record, unused).values())
        return _result(context, record, unused, reasons, freed, held, masks)
    if not (unused or base.store.interrupted) and os.path.exists(base.store.layout.lifetimes):
        return _result(context, record, unused, reasons, 0, held, masks)  # takes no lock
    with base.store.lock(context.lock_timeout, context.by, context.operation):
        record = base.store.recover() or record
        unused, reasons, held = _choose(context, base, record, keep)
        present = copy.deepcopy(record)
        freed = _delete(context, base, record, unused, reasons)
        removed = [number for number in unused if number not in reasons]
        return _result(context, present, removed, reasons, freed, held, masks)


def _choose(
    context: Context, base: Base, record: Record, keep: int
) -> tuple[list[int], dict[int, str], dict[str, Any]]:
    """Return the generations to delete, why others stay, and the generations that only their users keep."""
    users = _Users(context, base, record)
    declared, lower = _declared(context, record), _lower_records(base)
    unused, reasons = generations.removable(record, keep, lambda: users.reasons, declared, lower)
    return unused, reasons, generations.in_use(record, keep, users.names)


def _result(
    context: Context,
    record: Record,
    removed: list[int],
    reasons: Mapping[int, str],
    freed: int,
    held: Mapping[str, Any],
    masks: bool,
) -> dict[str, Any]:
    """Return a base's result. Without ``masks``, ``removed`` leaves out deleted masks of versions that stay."""
    versions = {number: generation.version for number, generation in record.generations.items()}
    stay = {versions[number] for number in reasons}
    return {
        "base": record.reference,
        "removed": [versions[number] for number in removed if masks or versions[number] not in stay],
        "kept": {f"{versions[number]} ({number})": reason for number, reason in sorted(reasons.items())},
        "freed": freed,
        "in_use": held,
        "warnings": _warnings(context),
    }


def _nothing_kept(base: Base) -> dict[str, Any]:
    """Return the result for a base without a record."""
    return {"base": base.reference, "removed": [], "kept": {}, "freed": 0, "in_use": {}, "warnings": []}


def _declared(context: Context, record: Record) -> set[str]:
    """Return the versions that pillar declares for a base."""
    own = {record.chain_id, record.reference, *record.names}
    return {version for name, (chain_id, version) in context.versions.items() if {name, chain_id} & own}


def _lower_records(base: Base, simulated: Mapping[str, Record] = MappingProxyType({})) -> list[Record]:
    """Return the records of the bases below a base; ``simulated`` has records to use in place of those on disk."""
    records = []
    for layer in map(os.path.dirname, base.lower):
        with contextlib.suppress(BaseimgError):  # a mask is made again if it is needed
            if record := Store(layer).read():
                records.append(_as_left(record, simulated.get(layer)))
    return records


def _delete(context: Context, base: Base, record: Record, unused: list[int], reasons: dict[int, str]) -> int:
    """Mark generations as garbage, recheck their use, delete them; return the bytes freed."""

    def in_use() -> dict[int, str]:
        users = _Users(context, base, record)
        reasons.update({number: reason for number, reason in users.visible.items() if number in unused})
        return reasons

    freed = base.store.prune(record, unused, in_use) if unused else 0
    if not os.path.exists(base.store.layout.lifetimes):  # swapped by an earlier release: the grace period starts now
        with translate_os_errors(base.store.layout.lifetimes):
            lifetimes.read(base.store.layout.lifetimes, record).save(base.store.layout.lifetimes)
    return freed


def _warnings(context: Context) -> list[str]:
    if context.grace:
        return []
    return ["baseimg:grace is 0: a container that is being started right now may lose its files"]


class _Users:
    """The users of a base's generations, read on first use."""

    def __init__(self, context: Context, base: Base, record: Record) -> None:
        self._context, self._base, self._record = context, base, record
        #: The names of the users of each generation, by number.
        self.names: dict[int, list[str]] = {}

    @functools.cached_property
    def visible(self) -> dict[int, str]:
        """Why generations may be in use: their first user, by number."""
        reasons: dict[int, str] = {}
        for number, holder, is_certain in self._read_again():
            reasons.setdefault(number, f"{'in use' if is_certain else 'may be in use'} by {holder}")
            self.names.setdefault(number, []).append(holder)
        return reasons

    def _read_again(self) -> list[tuple[int, str, bool]]:
        """
        Return the users. While it is not certain whether one of them uses a generation, look again for a moment.

        A new mount namespace has copies of all mounts, also of mounts whose directories were just deleted. Such a copy
        cannot be resolved, and disappears when the new container changes its root.
        """
        users = list(self._read())
        for pause in _PAUSES:
            if all(is_certain for _number, _holder, is_certain in users):
                break
            time.sleep(pause)
            users = list(self._read())
        return users

    @property
    def reasons(self) -> dict[int, str]:
        """As :attr:`visible`, and generations that a mount may use that is not visible yet."""
        reasons, context = dict(self.visible), self._context
        ages = lifetimes.read(self._base.store.layout.lifetimes, self._record)
        for number in self._record.present:
            if ages.age(number) < context.grace:
                reasons.setdefault(number, f"swapped out less than {context.grace:g} s ago (baseimg:grace)")
        return reasons

    def _read(self) -> Iterator[tuple[int, str, bool]]:
        """Yield containers, other mounts, and processes with open files: number, name, and whether it is proven."""
        base, record = self._base, self._record
        surveyed = usage.survey(self._context.engine, base, record)
        for use in surveyed.uses:
            yield from ((number, use.holder, use.generation is not None) for number in use.possible)
        yield from ((number, holder, True) for number, holder in surveyed.live_users)
        table = mounts.read_table()
        for holder in table.unreadable:
            yield from ((number, holder, False) for number in record.present)
        old = [number for number in record.present if number != record.current]
        paths_by_number = base.store.paths(record, old)
        places = {number: os.fsencode(os.path.realpath(path)) for number, path in paths_by_number.items()}
        for opened, holder in mounts.read_open_files(table, places):
            yield from ((number, holder, opened is not None) for number in (old if opened is None else [opened]))

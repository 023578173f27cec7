"""Make masks: generations that show one image over several contents below (docs/design/adr/0016-nests.md)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..context import Context
from ..disk.stack.directories import Stack
from ..disk.stack.mask import mask
from ..disk.store import index, links, space
from ..disk.store.generations import FilledContent
from ..disk.store.mask import MaskWriter, measure
from ..errors import SpaceExhausted
from ..model.store import nests
from ..model.store.record import ASSUMED, Generation, Record
from . import bases
from .bases import Base
from .stage import prune_hint


@dataclass(slots=True)
class NestedBase:
    """One base of a nest."""

    #: The base.
    base: Base
    #: Its record; a new record if the base has none on disk.
    record: Record
    #: True if the base is a version of a lower base of the nest.
    is_version: bool = False

    @property
    def live(self) -> Generation:
        """The live generation."""
        return self.record.generations[self.record.current]

    def path(self, number: int) -> str:
        """Return the current path of a generation's content."""
        return self.base.store.path(self.record, number)


def like(generation: Generation, needed: nests.Contents, by: str) -> Generation:
    """
    Return the record of a mask that shows a generation; staging sets its ID and index.

    Args:
        generation: The generation.
        needed: The contents over which the mask is right.
        by: The requester.
    """
    return replace(
        generation,
        number=-1,
        inode=0,
        id="",
        index="",
        proof=generation.proof or ("" if generation.number else ASSUMED),
        created="",
        activated="",
        prepared="",
        by=by,
        pinned=False,
        over=nests.over(needed),
    )


def _prove(_root: str, _digests: Mapping[bytes, str]) -> None:
    """Skip the proof: a mask inherits the proof and the view digest of its generation."""


def make(
    context: Context,
    member: NestedBase,
    generation: Generation,
    needed: nests.Contents,
    places: Mapping[str, list[str]],
) -> Generation:
    """
    Make the mask of a generation. Needs the lock of its base.

    Args:
        context: The context of the operation.
        member: The base.
        generation: The generation, whose image the mask shows.
        needed: The contents over which the mask is right.
        places: The possible directories of each layer below, by its live directory.

    Raises:
        SpaceExhausted: The mask does not fit.
    """
    store = member.base.store
    target = Stack([member.path(generation.number), *bases.pristine_lower(member.base)])
    entries = mask(target, [Stack(below) for below in _stacks(member, places)])
    size = measure(entries, target)
    space.check_space(
        store.layout.home, size, len(entries), context.reserve, lambda: prune_hint(member.base, member.record)
    )
    own = member.path(generation.number)
    sharing = links.resolve(context.link, store.layout.home)

    def report(paths: int) -> None:
        if context.progress:
            context.progress("masking", paths, 0)

    def fill(root: str) -> FilledContent:
        writer = MaskWriter(root, target, sharing, own, context.pace)
        try:
            writer.write(entries, report)
        finally:
            writer.close()
        known = index.digests(store.layout.index(generation.number)) if generation.number else {}
        kept = {path: known[path] for path in writer.own if path in known}
        return FilledContent(writer.bytes, writer.paths, {**kept, **writer.digests})

    made = like(generation, needed, context.by)
    try:
        return store.stage(member.record, made, fill, _prove)
    except SpaceExhausted as exc:
        hint = prune_hint(member.base, member.record)
        raise space.exhausted_while_writing(store.layout.home, size, len(entries), hint, exc) from exc


def _stacks(member: NestedBase, places: Mapping[str, list[str]]) -> list[list[str]]:
    """Return every combination of contents below a base, top first."""
    return [list(below) for below in itertools.product(*(places.get(lower, [lower]) for lower in member.base.lower))]

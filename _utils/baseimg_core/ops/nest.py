"""
Nests: bases built on one another (docs/design/adr/0016-nests.md).

An *exact* base shows its own image, whatever content is below it. Before a base changes, every exact base above it
gets a mask: a generation that is right over both the old and the new content below. Masks are swapped in first. So
every intermediate state is allowed by the declarations, and a crash needs no repair.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from ..context import Context
from ..disk.store.generations import Store
from ..errors import BaseNested, GenerationDamaged, PristineDamaged
from ..model.store import nests
from ..model.store.record import Generation, Record
from . import bases, masks, prove
from .bases import Base
from .masks import NestedBase
from .stage import keep_prepared
from .tamper import Audit


@dataclass(frozen=True, slots=True)
class Kept:
    """A base that stays exact while a base below it changes."""

    #: The reference in the base's record.
    base: str
    #: The chain ID of the base.
    chain_id: str
    #: The live version.
    version: str
    #: Names of the images on it.
    images: list[str]
    #: The version that pillar declares for it; ``None`` without one.
    declared: str | None

    def as_dict(self, masked: dict[str, object] | None = None) -> dict[str, object]:
        """Return plain data, for results; ``masked`` is what it hides of the change (:mod:`ops.masking`)."""
        return {**asdict(self), "masked": masked}


class Nest:
    """A base with the bases below and above it on this node. Each record is read once."""

    def __init__(
        self,
        context: Context,
        changing: NestedBase,
        lower: Sequence[NestedBase],
        versions: Collection[str],
        simulated: Mapping[str, Record],
        audits: dict[str, Audit],
    ) -> None:
        """
        Args:
            context: The context of the operation.
            changing: The base that changes.
            lower: The bases below it that have a record.
            versions: Chain IDs of images that are versions of the base.
            simulated: Records to use in place of those on disk, by layer directory.
            audits: The comparisons of this operation, by layer directory.
        """
        self._context, self.changing, self.lower = context, changing, lower
        self._versions, self._simulated, self._audits = versions, simulated, audits

    @classmethod
    def read(
        cls,
        context: Context,
        base: Base,
        record: Record,
        versions: Collection[str] = (),
        simulated: Mapping[str, Record] | None = None,
        audits: dict[str, Audit] | None = None,
    ) -> Nest:
        """
        Read the records of a nest: those below the base now, those above it on first use.

        Args:
            context: The context of the operation.
            base: The base that changes.
            record: Its record.
            versions: Chain IDs of images that are versions of the base, in addition to those in its record.
            simulated: Records to use in place of those on disk, by layer directory; see :meth:`simulate_swap`.
            audits: The comparisons of this operation, by layer directory; shared with the nest that it reads later.

        Raises:
            RecordInvalid, ContentUnknown: The record of a base in the nest does not match the disk.
        """
        simulated, audits = simulated or {}, {} if audits is None else audits
        lower = _read_lower(context, base, simulated)
        below = {chain_id for member in lower for chain_id in nests.versions(member.record)}
        changing = NestedBase(base, record, base.chain_id in below)
        own_versions = {*versions, *nests.versions(record)} - {base.chain_id, ""}
        return cls(context, changing, lower, own_versions, simulated, audits)

    @functools.cached_property
    def upper(self) -> list[NestedBase]:
        """The bases above that have a record, and images that are versions of the base, lowest first."""
        return self._read_upper(self.changing.base, self._versions)

    @property
    def layers(self) -> dict[str, bool]:
        """
        The layers to lock by directory; True if the operation may change the layer.

        All layers below are locked, even without a record. A base below may change for the first time now, and it must
        see the records above it.
        """
        lower = dict.fromkeys(map(os.path.dirname, self.changing.base.lower), False)
        return {**lower, **dict.fromkeys((_layer(member) for member in (self.changing, *self.upper)), True)}

    def is_exact(self, member: NestedBase, generation: Generation) -> bool:
        """True if a base shows its own image with a generation, whatever content is below it."""
        return self.is_exact_with(member, nests.content(generation))

    def is_exact_with(self, member: NestedBase, content: str) -> bool:
        """True if a base shows its own image with a content (:func:`nests.content`), whatever is below it."""
        return nests.is_exact(member.base.chain_id, content, self._declared_below(member), member.is_version)

    def _declared_below(self, member: NestedBase) -> str | None:
        """Return the value of ``below`` that pillar declares for a base by one of its names."""
        declared = self._context.below
        names = (member.base.chain_id, member.base.reference, member.record.reference)
        return next((declared[name] for name in names if name in declared), None)

    def is_right_over_lower(self, generation: Generation) -> bool:
        """True if a generation of the changing base is right over the live contents below it."""
        return not self.is_exact(self.changing, generation) or nests.is_right(generation, self._contents(self.changing))

    def exact_uppers(self, content: str = "") -> list[NestedBase]:
        """Return the bases above that stay exact. ``content`` is the chain ID of the base's next content."""
        own_content = content or nests.content(self.changing.live)
        return [
            member
            for member in self.upper
            if self.is_exact(member, member.live) and nests.content(member.live) != own_content
        ]

    def kept(self, content: str = "") -> list[Kept]:
        """Return the bases above that stay exact, as :meth:`exact_uppers`, with their images."""
        return [
            Kept(
                member.record.reference,
                member.base.chain_id,
                member.live.version,
                [image.name for image in bases.images_on(self._context.engine, member.base.chain_id)],
                self._declared(member),
            )
            for member in self.exact_uppers(content)
        ]

    def _declared(self, member: NestedBase) -> str | None:
        """Return the version that pillar declares for a base by one of its names."""
        names = {member.base.chain_id, member.base.reference, member.record.reference}
        declared = self._context.versions
        return next((version for name, (located, version) in declared.items() if {name, located} & names), None)

    def adapt_to_lower(self, generation: Generation) -> Generation:
        """
        Return a generation with this content that is right over the live contents below its base.

        Makes a mask if no generation qualifies. Needs the locks.

        Raises:
            SpaceExhausted, BaseNested: The mask cannot be made. A generation that was never live is deleted.
        """
        if self.is_right_over_lower(generation):
            return generation
        try:
            return self._mask_of(self.changing, generation, self._contents(self.changing), {})
        finally:
            _delete_unused(self.changing, generation)

    def are_uppers_right(self) -> bool:
        """True if every exact base above is right over the live contents below it."""
        return all(
            nests.is_right(member.live, self._contents(member))
            for member in self.upper
            if self.is_exact(member, member.live)
        )

    def mask_uppers(self, generation: Generation) -> bool:
        """
        Swap in a mask on each exact base above, right before and after the swap to ``generation``. Needs the locks.

        All masks exist before the first is live.

        Returns:
            True if a mask was swapped in.
        """
        staged = self._stage_uppers(generation)
        self._note_below()
        for member, made in reversed(staged):
            self._swap(member, made)
        return bool(staged)

    def prepare_uppers(self, generation: Generation) -> bool:
        """
        Make the masks that :meth:`mask_uppers` would make for ``generation``, and keep them as prepared.

        Returns:
            True if a mask was made.
        """
        new = [(member, made) for member, made in self._stage_uppers(generation) if made.is_garbage]
        for member, made in new:
            keep_prepared(member.base, member.record, made)
        return bool(new)

    def _stage_uppers(self, generation: Generation) -> list[tuple[NestedBase, Generation]]:
        """Return the bases above that need a mask for a swap to ``generation``, each with its mask, lowest first."""
        staged: list[tuple[NestedBase, Generation]] = []
        for member in self.upper:
            member.record = member.base.store.recover() or member.record
        places = {self.changing.base.directory: [self.changing.path(generation.number)]}
        try:
            for member in self.upper:  # lowest first: each mask must be right over the masks below it
                needed = self._contents(member, nests.content(generation))
                if not self.is_exact(member, member.live) or nests.is_right(member.live, needed):
                    continue
                made = self._mask_of(member, member.live, needed, places)
                staged.append((member, made))
                places[member.base.directory] = [member.path(made.number)]
        except BaseException:
            for member, made in staged:
                _delete_unused(member, made)
            _delete_unused(self.changing, generation)
            raise
        return staged

    def unmasked_uppers(self, content: str) -> list[NestedBase]:
        """Return the bases above for which a swap to a content has to make a mask."""
        return [
            member
            for member in self.upper
            if self.is_exact(member, member.live)
            and not nests.find(member.record, member.live, self._contents(member, content))
        ]

    def is_ready_for(self, generation: Generation) -> bool:
        """True if a swap to an existing generation makes no mask."""
        changing, content = self.changing, nests.content(generation)
        own = self.is_right_over_lower(generation) or nests.find(changing.record, generation, self._contents(changing))
        return bool(own) and not self.unmasked_uppers(content)

    def _note_below(self) -> None:
        """Record the declared values of ``below``, so that status and the grain know them without pillar."""
        for member in (self.changing, *self.upper):
            below = self._declared_below(member) or ""
            if member.record.below != below:
                member.record.below = below
                member.base.store.save(member.record)

    def release_uppers(self) -> None:
        """Restore the own layers of the versions above if every base below is pristine. Needs the locks."""
        for member in self.upper:
            if self._is_obsolete(member):
                self._swap(member, member.record.pristine)

    def _is_obsolete(self, member: NestedBase) -> bool:
        """True if a base above shows its own image with a mask, and its own layer shows it again."""
        own = member.record.pristine
        return (
            member.live is not own
            and member.live.chain_id == member.base.chain_id
            and bool(own.inode)
            and nests.is_right(own, self._contents(member))
        )

    def simulate_swap(self, generation: Generation) -> dict[str, Record]:
        """
        Change the records in memory as a swap of the changing base to ``generation`` would.

        Args:
            generation: A generation of the changing base, on disk or simulated.

        Returns:
            The records of the changing base and of the bases above by layer directory.

        Raises:
            BaseNested: The swap needs a mask that cannot be made.
        """
        if not self.is_right_over_lower(generation):
            generation = self._simulate_mask(self.changing, generation, self._contents(self.changing))
        for member in self.upper:
            needed = self._contents(member, nests.content(generation))
            if self.is_exact(member, member.live) and not nests.is_right(member.live, needed):
                member.record.current = self._simulate_mask(member, member.live, needed).number
        self.changing.record.current = generation.number
        for member in self.upper:
            if self._is_obsolete(member):
                member.record.current = 0
        return {_layer(member): member.record for member in (self.changing, *self.upper)}

    def _simulate_mask(self, member: NestedBase, generation: Generation, needed: nests.Contents) -> Generation:
        """Return the generation that :func:`masks.make` would make, or the one on disk that makes it unnecessary."""
        if kept := nests.find(member.record, generation, needed):
            return kept
        self._check_lower(member)
        return nests.simulate(member.record, masks.like(generation, needed, self._context.by))

    def _read_upper(self, base: Base, versions: Collection[str]) -> list[NestedBase]:
        engine = self._context.engine
        members: dict[str, NestedBase] = {}
        own = {os.path.dirname(directory) for directory in (base.directory, *base.lower)}
        # containerd takes two commands to tell an image's directories, so they are read only if one can matter
        others = any(layer not in own and self._is_recorded(layer) for layer in engine.layer_homes())
        for image in bases.images_on(engine, base.chain_id):
            if not others and not set(versions).intersection(image.chain_ids):
                continue
            for directory, chain_id in zip(image.directories, image.chain_ids, strict=True):
                if directory == base.directory or directory in base.lower or directory in members:
                    continue
                is_version = chain_id in versions
                record = _read_record(os.path.dirname(directory), self._simulated)
                if record:
                    upper = bases.by_chain(engine, chain_id, record.reference)
                    members[directory] = NestedBase(upper, record, is_version)
                elif is_version:
                    upper = bases.by_chain(engine, chain_id)
                    members[directory] = NestedBase(upper, bases.initial_record(engine, upper), is_version)
        return sorted(members.values(), key=lambda member: len(member.base.diff_ids))

    def _is_recorded(self, layer: str) -> bool:
        return layer in self._simulated or os.path.isdir(Store(layer).layout.home)

    def _swap(self, member: NestedBase, generation: Generation) -> None:
        """Swap in a generation with the same content. A rollback still leads to the content before it."""
        previous = member.record.previous
        member.base.store.activate(member.record, generation.number, "mask", self._context.by)
        member.record.previous = previous if previous != generation.number else None
        member.base.store.save(member.record)

    def _mask_of(
        self, member: NestedBase, generation: Generation, needed: nests.Contents, places: Mapping[str, list[str]]
    ) -> Generation:
        """Return a sound generation with the content of another one that is right over the needed contents."""
        while kept := nests.find(member.record, generation, needed):
            if self._audit(member).is_sound(member.record, kept.number):
                return kept
        source = self._sound_source(member, generation)
        if not source.number:
            prove.pristine(self._context, member.base, member.record, ())
        return masks.make(self._context, member, source, needed, self._places(member, places))

    def check_sources(self, content: str, save: bool = True) -> None:
        """
        Compare the contents that masks would be made of with their indexes, before the locks.

        Args:
            content: The chain ID of the changing base's next content.
            save: False to record no damage.

        Raises:
            GenerationDamaged: A base that stays exact has no sound generation of its content.
            BaseNested: A content below a mask was changed.
        """
        try:
            for member in (self.changing, *self.upper):
                live = member is not self.changing
                after = content if live else ""
                own = nests.content(member.live) if live else content
                if self.is_exact_with(member, own) and nests.uncovered(own, self._contents(member, after)):
                    if live and not nests.is_right(member.live, self._contents(member, after)):
                        self._sound_source(member, member.live)
                    self._check_lower(member)
        finally:
            for audited in (*self.lower, self.changing, *self.upper):
                if save and (audit := self._audits.get(_layer(audited))):
                    audit.persist(self._context)

    def _sound_source(self, member: NestedBase, generation: Generation) -> Generation:
        """Return the source for a mask: this generation, or the newest other sound one with the same content."""
        record = member.record
        if nests.is_simulated(generation):
            return generation
        same = [other for other in record.usable if other.inode > 0 and other.shows_the_same_as(generation)]
        for source in [generation, *reversed([other for other in same if other is not generation])]:
            if self._audit(member).is_sound(record, source.number):
                return source
        raise GenerationDamaged(
            f"generation {generation.number} of {record.reference}, version {generation.version}, was changed on this "
            f"node: {generation.damage or 'see baseimg.verify'}"
        )

    def _audit(self, member: NestedBase) -> Audit:
        return self._audits.setdefault(_layer(member), Audit(member.base))

    def _contents(self, member: NestedBase, after: str = "") -> dict[str, set[str]]:
        """Return the live contents below a base, and the changing base's next content ``after``."""
        contents: dict[str, set[str]] = {}
        for below in self._below(member):
            contents[below.base.chain_id] = {nests.content(below.live)}
            if after and below is self.changing:
                contents[below.base.chain_id].add(after)
        return contents

    def _below(self, member: NestedBase) -> list[NestedBase]:
        directories = set(member.base.lower)
        return [other for other in (*self.lower, self.changing, *self.upper) if other.base.directory in directories]

    def _places(self, member: NestedBase, more: Mapping[str, list[str]] | None = None) -> dict[str, list[str]]:
        """Return the possible directories of each layer below a base: pristine, live, and ``more``."""
        self._check_lower(member)
        places = {}
        for below in self._below(member):
            own = [below.path(0), below.path(below.record.current), *(more or {}).get(below.base.directory, ())]
            places[below.base.directory] = list(dict.fromkeys(own))
        return places

    def _check_lower(self, member: NestedBase) -> None:
        """Refuse a mask over content that is not as recorded."""
        for below in self._below(member):
            # a repair replaces the live content of the changing base
            numbers = {0} if below is self.changing else {0, below.record.current}
            for number in numbers:
                if below.record.generations[number].inode > 0:
                    self._audit(below).is_sound(below.record, number)
            _check_known(below, member, below is not self.changing)


def _read_record(layer: str, simulated: Mapping[str, Record]) -> Record | None:
    # a copy: a plan that fails must not change what other plans simulate
    return copy.deepcopy(simulated.get(layer)) or Store(layer).read()


def _read_lower(context: Context, base: Base, simulated: Mapping[str, Record]) -> list[NestedBase]:
    """Return the bases below that have a record."""
    members = []
    for directory in base.lower:
        if record := _read_record(os.path.dirname(directory), simulated):
            members.append(NestedBase(bases.by_chain(context.engine, record.chain_id, record.reference), record))
    return members


def _layer(member: NestedBase) -> str:
    return os.path.dirname(member.base.directory)


def _delete_unused(member: NestedBase, generation: Generation) -> None:
    """Delete a generation that is not kept."""
    if generation.is_garbage:
        member.base.store.delete(member.record, generation)


def _check_known(below: NestedBase, member: NestedBase, with_live: bool) -> None:
    """Refuse a mask over content that differs from its record or has lost its pristine content."""
    is_damaged = with_live and below.live.damaged
    state = "damaged" if is_damaged else below.record.pristine_state
    if state != "kept":
        raise BaseNested(
            f"{member.record.reference} is built on {below.record.reference}, whose "
            f"{'live' if is_damaged else 'original'} content is {state}",
            "" if is_damaged else PristineDamaged.hint,
        )

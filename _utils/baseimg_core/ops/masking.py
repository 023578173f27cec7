"""
Find fixes of a lower base that do not reach the images on an exact base of a nest (ADR 16).

An exact base shows its own image. If a base below it changes, the images on the exact base get only the part of the
change that its own image was built on. The change is refused if a required fix is in the other part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from ..context import Context
from ..disk.fixes import delivered
from ..disk.impact.masked import ImageView, Masked, digest_of_file, masked
from ..disk.packages import databases
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store.layout import siblings
from ..errors import FixMissing
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.packages.advisories import is_advisory
from ..model.packages.difference import Packages
from ..model.store import nests
from ..model.store.record import Generation
from . import bases, verdicts
from .masks import NestedBase
from .nest import Nest
from .plan import Catalogue, Plan
from .verdicts import Changes, ImageJudge

_REFUSED = 5  # maximum fixes and images in an error
_EXAMPLES = 3


@dataclass(slots=True)
class BaseDifference:
    """A change of a base, as far as the images on other bases can get it."""

    #: The content before the change.
    start: Stack
    #: The changed paths.
    expected: ExpectedPaths
    #: The changed packages; ``None`` if they are unknown.
    packages: Packages | None
    #: The files on disk by path, for digests that ``expected`` lacks.
    files: Mapping[bytes, bytes] = field(default_factory=dict)

    def digest_of(self, path: bytes) -> str | None:
        """Return the digest of a changed file on disk; ``None`` if it is not on disk."""
        return digest_of_file(self.files[path]) if self.files.get(path) else None

    def hidden(self, view: ImageView) -> Masked:
        """Return the parts of the change that an image does not show."""
        return masked(self.expected, self.packages, view, self.digest_of)


#: Changes of bases that the same run makes before, by chain ID.
Earlier = Mapping[str, BaseDifference]


class Masking:
    """The fixes that a change of a base masks: its own for the bases above, and those below for its own images."""

    def __init__(
        self,
        context: Context,
        nest: Nest,
        plan: Plan,
        content: str,
        changes: Changes | None,
        earlier: Earlier = MappingProxyType({}),
    ) -> None:
        """
        Args:
            context: The context of the operation.
            nest: The nest of the base.
            plan: The planned change.
            content: The chain ID of the content that becomes live.
            changes: The changes of the plan's bundles; ``None`` without bundles, or if one is unreadable yet.
            earlier: Changes of other bases that the same run makes before, by chain ID, for a plan.
        """
        self._context, self._nest, self._plan = context, nest, plan
        #: The chain ID of the content that becomes live.
        self.content = content
        self._changes, self._earlier = changes, earlier
        #: True if the change cannot be read before its content is staged.
        self.is_unknown = bool(plan.route) and changes is None

    @cached_property
    def own(self) -> BaseDifference | None:
        """
        The base's change; of a live content, its difference from the pristine one.

        ``None`` if a bundle is not readable yet, or the content is pristine.
        """
        generation = self._plan.generation
        if self._changes:
            return BaseDifference(self._changes.start, self._changes.expected, self._changes.packages)
        on_node = _same_on_disk(self._nest.changing, generation) if generation and generation.number else None
        return on_disk(self._nest.changing, on_node) if on_node else None

    @cached_property
    def above(self) -> dict[str, Masked]:
        """
        The parts of the change that each exact base above hides, by chain ID.

        Bases without a known answer are left out.
        """
        exact = self._nest.exact_uppers(self.content)
        views = {member.base.chain_id: self._view(member) for member in exact if self.own}
        return {chain_id: self.own.hidden(view) for chain_id, view in views.items() if view and self.own}

    @cached_property
    def below(self) -> dict[str, Masked]:
        """
        The parts of the live change of each base below that this base hides once it is exact, by chain ID.

        Bases without a known answer are left out.
        """
        changed = self.changed_below()
        view = self._next_view() if changed else None
        differences = {member.base.chain_id: self._difference(member) for member in changed if view}
        return {chain_id: own.hidden(view) for chain_id, own in differences.items() if own and view}

    def changed_below(self) -> list[NestedBase]:
        """Return the bases below that show another version than their own, if this base is exact over them."""
        if not self._nest.lower or not self._nest.is_exact_with(self._nest.changing, self.content):
            return []
        return [member for member in self._nest.lower if member.record.current]

    def _difference(self, member: NestedBase) -> BaseDifference | None:
        own = _same_on_disk(member, member.live)
        return on_disk(member, own) if own else self._earlier.get(member.base.chain_id)

    def _view(self, member: NestedBase) -> ImageView | None:
        """Return the image of a base above: of its live generation, or of the one that an earlier plan makes."""
        if own := _same_on_disk(member, member.live):
            return ImageView(_stack(member, own))
        before = self._earlier.get(member.base.chain_id)
        return ImageView(before.start, before.expected, before.packages) if before else None

    def _next_view(self) -> ImageView | None:
        if self._plan.generation and (own := _same_on_disk(self._nest.changing, self._plan.generation)):
            return ImageView(_stack(self._nest.changing, own))
        changes = self._changes
        return ImageView(changes.start, changes.expected, changes.packages) if changes else None

    def kept(self, nest: Nest | None = None) -> list[dict[str, Any]]:
        """
        Return the bases above that stay exact, as in the result of ``baseimg.converge``.

        Args:
            nest: The nest with its locks held; ``None`` for the nest that was planned with.
        """
        kept = nest.kept() if nest else self._nest.kept(self.content)
        nothing = Masked() if self._plan.generation and not self._plan.generation.number else None
        return [effect.as_dict(as_dict(self.above.get(effect.chain_id, nothing))) for effect in kept]

    def masked(self) -> list[dict[str, Any]]:
        """Return the fixes of the bases below that the images on the base lose, as in that result."""
        return masked_of(self.changed_below(), {chain_id: as_dict(hidden) for chain_id, hidden in self.below.items()})

    def check_required(self) -> None:
        """
        Refuse a change if a required fix does not reach an image that is started.

        Raises:
            FixMissing: The message names each fix and image.
        """
        changing = self._nest.changing
        missing: list[str] = []
        for member in self._nest.exact_uppers(self.content):
            if hidden := self.above.get(member.base.chain_id):
                where = f"kept at {member.record.reference} {member.live.version}"
                missing += self._missing(changing, member, hidden, where)
        for member in self.changed_below():
            if hidden := self.below.get(member.base.chain_id):
                missing += self._missing(member, changing, hidden, f"{self._plan.version} was not built on it")
        if missing := list(dict.fromkeys(missing)):
            more = f" and {len(missing) - _REFUSED} more" if len(missing) > _REFUSED else ""
            raise FixMissing(f"{changing.base.reference} is not changed: {'; '.join(missing[:_REFUSED])}{more}")

    def _missing(self, fixed: NestedBase, exact: NestedBase, hidden: Masked, reason: str) -> list[str]:
        """Return the required fixes of one base that do not reach the images on another."""
        names = self._context.protection.acceptance(fixed.base.reference, fixed.base.chain_id).require
        missing = {name: parts for name in names if (parts := self._hidden_parts(fixed, hidden, name))}
        if not missing:
            return []
        used = self._context.engine.used_images()
        images = bases.images_on(self._context.engine, exact.base.chain_id)
        return [
            f"{name} does not reach {image.name}, {reason}: {', '.join(parts[:_EXAMPLES])}"
            for name, parts in missing.items()
            for image in images
            if verdicts.is_started(image, exact.base, used)
        ]

    def _hidden_parts(self, fixed: NestedBase, hidden: Masked, name: str) -> list[str]:
        """Return the parts of a required fix that are hidden; of an advisory, those of the packages that fix it."""
        own = self.own if fixed is self._nest.changing else self._difference(fixed)
        names = own.packages.fixing(name) if own and own.packages and is_advisory(name) else [name]
        return [part for each in names for part in hidden.hides(each, self._files(own, each))]

    def _files(self, own: BaseDifference | None, name: str) -> set[bytes]:
        """Return the files of a package in the old content of a base; dpkg lists packaged paths without ``usr``."""
        if own is None or own.packages is None or name[:1] == "/":
            return set()
        listed = databases.files(own.start, own.packages.manager, [name]).get(name, frozenset())
        return {*listed, *(b"usr/" + path for path in listed)}


def masking_of(
    context: Context,
    nest: Nest,
    plan: Plan,
    catalogue: Catalogue,
    judge: ImageJudge | None,
    earlier: Earlier = MappingProxyType({}),
) -> Masking:
    """
    Return the fixes that a plan masks.

    Args:
        context: The context of the operation.
        nest: The nest of the base.
        plan: The planned change.
        catalogue: The declared bundles.
        judge: The judge of the plan's bundles; ``None`` without bundles, or if one is unreadable yet.
        earlier: As for :class:`Masking`.
    """
    generation = plan.generation
    content = nests.content(generation) if generation else catalogue.manifest(plan.route[-1]).target.chain_id
    return Masking(context, nest, plan, content, judge.changes if judge else None, earlier)


def on_disk(member: NestedBase, generation: Generation) -> BaseDifference | None:
    """Return the difference between the pristine content of a base and a generation; ``None`` without the former."""
    if not member.record.pristine.inode:
        return None
    old, new = _stack(member, member.record.pristine), _stack(member, generation)
    changes = compare(old, new, links=True, siblings=siblings)
    expected = ExpectedPaths(
        {change.path: ExpectedPath(change.path, change.entry, is_time=change.is_time) for change in changes}
    )
    files = {change.path: change.real for change in changes}
    path = member.base.store.layout.delivered
    packages = delivered.of_content(path, generation.bundle, old, new, expected.by_path.keys())
    return BaseDifference(old, expected, packages, files)


def masked_of(changed: Sequence[NestedBase], hidden: Mapping[str, dict[str, Any] | None]) -> list[dict[str, Any]]:
    """
    Return the bases below whose fixes are hidden, as in the result of ``baseimg.converge``.

    Args:
        changed: The bases below that show another version than their own.
        hidden: What is hidden of each, as :func:`as_dict`, by chain ID; bases without a known answer are left out.
    """
    known = [(member, hidden.get(member.base.chain_id) or {}) for member in changed]
    return [
        {"base": member.record.reference, "version": member.live.version, **parts}
        for member, parts in known
        if any(parts.values())
    ]


def as_dict(hidden: Masked | None) -> dict[str, Any] | None:
    """Return the number of ``paths``, and the ``packages`` with both versions; ``None`` if unknown."""
    if hidden is None:
        return None
    return {"paths": len(hidden.paths), "packages": {name: list(pair) for name, pair in hidden.packages.items()}}


def _stack(member: NestedBase, generation: Generation) -> Stack:
    return Stack([member.path(generation.number), *bases.pristine_lower(member.base)])


def _same_on_disk(member: NestedBase, generation: Generation) -> Generation | None:
    """Return a generation on disk with the same image; masks of one image are equal over the pristine contents."""
    record = member.record
    same = (other for other in record.usable if other.inode > 0 and other.shows_the_same_as(generation))
    return next(same, None)

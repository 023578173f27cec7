"""The answers of ``baseimg.fixes`` from all nodes, reduced so that thousands of them fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...display import printable
from ..rollout import shapes

FORMAT = 1
INVALID = "answer-invalid"
_UPDATES = {"*": {"from": str, "to": str, "advisories": {"*": str}, "unread?": str}}
_PENDING = {"*": {"state": str, "reason?": str, "paths?": [str], "hidden?": int}}
_IMAGE = {"image": str, "id": str, "digests": [str], "has_awaited": bool, "pending": _PENDING}
_CONTAINER = {"container": str, "image": str, "image_id": str, "has_awaited": bool, "pending": _PENDING}
_BASE = {
    **dict.fromkeys(("base", "chain_id", "version", "bundle", "manager", "unknown", "activated", "signed_by"), str),
    "updates": {},
    "images": [_IMAGE],
    "containers": [_CONTAINER],
    "installed?": {"*": str},
    "distro?": {"*": str},
}
_AWAITED = {"version": str, "reason": str, "held": bool, "known": bool, "updates": {}}
_OTHER = {"image": str, "id": str, "chain_ids": [str], "digests?": [str]}
_ANSWER = {
    "format": int,
    "at": str,
    "bases": [_BASE],
    "errors": [{"base": str, "error": str}],
    "others": [_OTHER],
}
_T = TypeVar("_T")

Updates = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Item:
    """One image or container on a node."""

    #: True for a container.
    is_container: bool
    #: The name of the image or container.
    name: str
    #: ID of the image.
    image_id: str
    #: Names with digests of the image; empty for a container.
    digests: tuple[str, ...]
    #: True if the image has the awaited version itself.
    has_awaited: bool
    #: The updates that are not in effect, by package.
    pending: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Awaited:
    """The declared version that is not live on a node."""

    #: The version.
    version: str
    #: Why it is not live.
    reason: str
    #: True if it is held.
    held: bool
    #: False if its bundle could not be read.
    known: bool
    #: Its updates.
    updates: Updates


@dataclass(frozen=True, slots=True)
class Observed:
    """One base on one node."""

    #: The node.
    node: str
    #: The reference of the base.
    base: str
    #: Its chain ID.
    chain_id: str
    #: The live version.
    version: str
    #: Digest of the bundle that led to it; empty for pristine content.
    bundle: str
    #: The package manager; empty if unknown.
    manager: str
    #: Why nothing can be said; empty if it can.
    unknown: str
    #: The updates of the live content.
    updates: Updates
    #: The declared version, if another one is live.
    awaited: Awaited | None
    #: Versions of the packages that were asked for; ``None`` if none were.
    installed: Mapping[str, str] | None
    #: ``id`` and ``version`` of the distribution, as far as known.
    distro: Mapping[str, str]
    #: The images and containers.
    items: tuple[Item, ...]

    @property
    def sources(self) -> list[tuple[Updates, str]]:
        """The updates of the live and of the awaited version, each with the version."""
        awaited = [(self.awaited.updates, self.awaited.version)] if self.awaited else []
        return [(self.updates, self.version), *awaited]


@dataclass(slots=True)
class Fleet:
    """What is known of the nodes."""

    #: The bases on the nodes.
    observed: list[Observed] = field(default_factory=list)
    #: Images on none of these bases: node, image and chain IDs.
    others: list[tuple[str, Item, tuple[str, ...]]] = field(default_factory=list)
    #: Nodes that answered.
    answered: set[str] = field(default_factory=set)
    #: Why nothing, or not everything, is known of a node.
    silent: dict[str, str] = field(default_factory=dict)
    #: One object for equal values.
    _shared: dict[Any, Any] = field(default_factory=dict)
    #: The distinct updates of bases.
    _updates: list[Updates] = field(default_factory=list)

    def add(self, node: str, answer: object) -> None:
        """
        Add the answer of a node. An invalid answer counts as silence, with the reason.

        Args:
            node: The name of the node.
            answer: The return of ``baseimg.fixes full=True``, or the error that replaced it.
        """
        if not isinstance(answer, Mapping):
            self.silent[node] = printable(str(answer), 300)
            return
        try:
            _check(answer)
            observed = [self._base(node, base) for base in answer["bases"]]
        except shapes.ShapeInvalid as exc:
            self.silent[node] = printable(f"[{INVALID}] {exc}", 300)
            return
        self.answered.add(node)
        self.observed += observed
        for other in answer["others"]:
            chain_ids = self._same(tuple(self._same(str(chain_id)) for chain_id in other["chain_ids"]))
            digests = self._same(tuple(other.get("digests", ())))
            item = Item(False, self._same(other["image"]), self._same(other["id"]), digests, False, _NOTHING)
            self.others.append((node, item, chain_ids))
        if answer["errors"]:
            error = answer["errors"][0]
            self.silent[node] = printable(f"{error['base'] or 'an engine'}: {error['error']}", 300)

    def _base(self, node: str, base: Mapping[str, Any]) -> Observed:
        awaited = None
        if base.get("awaited") is not None:
            shapes.check_shape(base["awaited"], _AWAITED, "awaited")
            fields = {key: base["awaited"][key] for key in ("version", "reason", "held", "known")}
            awaited = Awaited(**fields, updates=self._same_updates(base["awaited"]["updates"]))
        texts = {key: self._same(base[key]) for key in ("base", "chain_id", "version", "bundle", "manager", "unknown")}
        items = [
            Item(
                False,
                self._same(image["image"]),
                self._same(image["id"]),
                self._same(tuple(image["digests"])),
                image["has_awaited"],
                image["pending"] or _NOTHING,
            )
            for image in base["images"]
        ]
        items += [
            Item(
                True,
                item["container"],
                self._same(item["image_id"]),
                (),
                item["has_awaited"],
                item["pending"] or _NOTHING,
            )
            for item in base["containers"]
        ]
        updates = self._same_updates(base["updates"])
        distro = self._same(tuple(sorted(base.get("distro", {}).items())))
        return Observed(
            node,
            **texts,
            updates=updates,
            awaited=awaited,
            installed=base.get("installed"),
            distro=dict(distro),
            items=tuple(items),
        )

    def _same(self, value: _T) -> _T:
        """Return one object for equal values: nodes repeat names, IDs and digests."""
        shared: _T = self._shared.setdefault(value, value)
        return shared

    def _same_updates(self, updates: Updates) -> Updates:
        for known in self._updates:
            if known == updates:
                return known
        shapes.check_shape(updates, _UPDATES, "updates")
        self._updates.append(updates)
        return updates


def _check(answer: Mapping[str, Any]) -> None:
    if answer.get("format") != FORMAT:
        raise shapes.ShapeInvalid(f"its format is {answer.get('format')!r}, expected {FORMAT}")
    shapes.check_shape(answer, _ANSWER, "the answer")


_NOTHING: Mapping[str, Mapping[str, Any]] = {}

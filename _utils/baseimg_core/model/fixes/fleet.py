"""The answers of ``baseimg.fixes`` from all nodes, reduced so that thousands of them fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...display import printable
from ..rollout import shapes
from .query import matching, without_architecture

FORMAT = 1
INVALID = "answer-invalid"
_UPDATES = {"*": {"from": str, "to": str, "advisories": {"*": str}, "unread?": str}}
_PENDING = {"*": {"state": str, "reason?": str, "paths?": [str], "hidden?": int}}
_ITEM = {"has_awaited": bool, "pending": _PENDING, "awaited_pending?": _PENDING, "installed?": {"*": str}}
_IMAGE = {"image": str, "id": str, "digests": [str], **_ITEM}
_CONTAINER = {"container": str, "image": str, "image_id": str, **_ITEM}
_BASE = {
    **dict.fromkeys(("base", "chain_id", "version", "bundle", "manager", "unknown", "activated", "signed_by"), str),
    "updates": {},
    "images": [_IMAGE],
    "containers": [_CONTAINER],
    "installed?": {"*": str},
    "distro?": {"*": str},
}
_AWAITED = {"version": str, "reason": str, "held": bool, "known": bool, "updates": {}}
_OTHER = {
    "image": str,
    "id": str,
    "chain_ids": [str],
    "digests?": [str],
    "engine?": str,
    "manager?": str,
    "installed?": {"*": str},
    "unread?": str,
}
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
    #: The updates of the awaited version that are not in effect, if the image has that version itself.
    awaited_pending: Mapping[str, Mapping[str, Any]]
    #: Versions in the database of its own layers of the packages that were asked for.
    installed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Other:
    """An image with layers that belong to no known base of its node."""

    #: The node.
    node: str
    #: The image.
    item: Item
    #: The chain IDs of these layers.
    chain_ids: tuple[str, ...]
    #: The package manager; empty if no packages were asked for, or without a database.
    manager: str
    #: Why its database cannot be read; empty if it can.
    unread: str
    #: The other engine of the node that has it; empty for the one in which bases are declared.
    engine: str


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
    #: The names with an architecture by name, of packages that the base has in several architectures.
    architectures: Mapping[str, Sequence[str]]

    def names_of(self, package: str) -> Sequence[str]:
        """Return the names under which the base may have a package that another base calls ``package``."""
        bare = without_architecture(package)
        return [name for name in self.architectures.get(bare, (bare,)) if matching(name, package)]

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
    #: Images with layers that belong to none of these bases.
    others: list[Other] = field(default_factory=list)
    #: Nodes that answered.
    answered: set[str] = field(default_factory=set)
    #: Why nothing, or not everything, is known of a node.
    silent: dict[str, str] = field(default_factory=dict)
    #: One object for equal values.
    _shared: dict[Any, Any] = field(default_factory=dict)
    #: The distinct updates of bases.
    _updates: list[Updates] = field(default_factory=list)
    #: The bases by node.
    _by_node: dict[str, list[Observed]] = field(default_factory=dict)
    #: The others by chain ID.
    _by_chain: dict[str, list[Other]] = field(default_factory=dict)
    #: The number of others that this index was made of.
    _indexed: int = 0

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
        self._by_node.setdefault(node, []).extend(observed)
        self.others += [self._other(node, other) for other in answer["others"]]
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
        items = [self._item(image, False) for image in base["images"]]
        items += [self._item(container, True) for container in base["containers"]]
        updates = self._same_updates(base["updates"])
        distro = self._same(tuple(sorted(base.get("distro", {}).items())))
        installed = self._same_installed(base.get("installed"))
        return Observed(
            node,
            **texts,
            updates=updates,
            awaited=awaited,
            installed=installed,
            distro=dict(distro),
            items=tuple(items),
            architectures=_architectures({*(installed or {}), *updates, *(awaited.updates if awaited else ())}),
        )

    def _item(self, raw: Mapping[str, Any], is_container: bool) -> Item:
        name, image_id = (raw["container"], raw["image_id"]) if is_container else (raw["image"], raw["id"])
        return Item(
            is_container,
            self._same(name),
            self._same(image_id),
            self._same(tuple(raw.get("digests", ()))),
            raw.get("has_awaited", False),
            raw.get("pending") or _NOTHING,
            raw.get("awaited_pending") or _NOTHING,
            raw.get("installed") or _NO_VERSIONS,
        )

    def _other(self, node: str, raw: Mapping[str, Any]) -> Other:
        chain_ids = self._same(tuple(self._same(str(chain_id)) for chain_id in raw["chain_ids"]))
        texts = (self._same(raw.get(key, "")) for key in ("manager", "unread", "engine"))
        return Other(node, self._item(raw, False), chain_ids, *texts)

    def others_on(self, chain_id: str) -> list[Other]:
        """Return the images with a layer of this chain ID that belongs to no known base of their node."""
        for other in self.others[self._indexed :]:
            for each in other.chain_ids:
                self._by_chain.setdefault(each, []).append(other)
        self._indexed = len(self.others)
        return self._by_chain.get(chain_id, [])

    def bases_of(self, other: Other) -> list[tuple[Observed, Item]]:
        """Return the bases on its node that an image is on, with its item in their answers; none in another engine."""
        if other.engine:
            return []
        return [
            (observed, item)
            for observed in self._by_node.get(other.node, ())
            for item in observed.items
            if item.image_id == other.item.image_id and not item.is_container
        ]

    def _same_installed(self, installed: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Return one mapping for equal versions: nodes on one version of a base have the same."""
        return None if installed is None else self._shared.setdefault(tuple(sorted(installed.items())), installed)

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


def _architectures(names: Iterable[str]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = {}
    for name in sorted(name for name in names if ":" in name and not name.startswith("/")):
        by_name.setdefault(without_architecture(name), []).append(name)
    return by_name


_NOTHING: Mapping[str, Mapping[str, Any]] = {}
_NO_VERSIONS: Mapping[str, str] = {}

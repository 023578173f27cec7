"""The state of every advisory in every image of a fleet: what a VEX document states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..stack import ids
from .effect import State
from .exposure import undeclared
from .fleet import Fleet, Item, Observed
from .judge import AdvisoryJudge, Exposure, Knowledge
from .query import matching, without_architecture


@dataclass(frozen=True, slots=True)
class Product:
    """An image, by the digest that a registry knows, else by its ID."""

    #: The name without tag and digest; for an image of Docker Hub, the last part of it.
    repository: str
    #: ``sha256:…`` of the manifest, or the ID of a local image.
    digest: str


@dataclass(frozen=True, slots=True)
class FixedPackage:
    """A package with a fix, as scanners see it in the image."""

    #: The package manager.
    manager: str
    #: ``ID`` of the distribution; empty if unknown.
    distro: str
    #: The name.
    name: str
    #: The version before the fix; empty if the update added the package.
    version: str


@dataclass(slots=True)
class Statement:
    """What is known of one advisory in one image, on all nodes."""

    #: The remedies for images and containers without the fix in effect.
    remedies: set[str] = field(default_factory=set)
    #: Why it is not certain that it is in effect.
    doubts: set[str] = field(default_factory=set)
    #: Digests of the bundles that brought it.
    bundles: set[str] = field(default_factory=set)
    #: The packages with the fix.
    packages: set[FixedPackage] = field(default_factory=set)

    def add(self, exposure: Exposure) -> None:
        """Add an image or container in which the fix is not in effect, or may not be."""
        if exposure.state is State.UNKNOWN:
            self.doubts.add(exposure.reason)
        else:
            self.remedies.add(exposure.remedy)

    def update(self, other: Statement) -> None:
        """Add what another statement says."""
        self.remedies |= other.remedies
        self.doubts |= other.doubts
        self.bundles |= other.bundles
        self.packages |= other.packages


Statements = Mapping[str, Mapping[Product, Statement]]


def statements(fleet: Fleet) -> Statements:
    """
    Return what is known of each advisory in each image of a fleet.

    Most items of a node share their base, version and declaration, and hide nothing: these are judged once.
    """
    return _Assessment(fleet).run()


class _Assessment:
    """The assessment of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._knowledge = _all_knowledge(fleet)
        self._advisories: dict[str, list[str]] = {}
        for advisory, known in self._knowledge.items():
            for name in known.fixes:
                self._advisories.setdefault(without_architecture(name), []).append(advisory)
        items = [other.item for other in fleet.others]
        items += [item for observed in fleet.observed for item in observed.items[::-1]]
        # one product for each image, whatever its name: one node must not clear an image that another node reports
        self._names = {item.image_id: _product(item) for item in items}
        self._repositories: dict[str, str] = {}
        for product in self._names.values():
            name = min(self._repositories.get(product.digest, product.repository), product.repository)
            self._repositories[product.digest] = name
        self._result: dict[str, dict[Product, Statement]] = {}
        # kinds of observed bases: the outcome of each advisory in an item that hides nothing
        self._kinds: dict[tuple[object, ...], dict[str, Statement]] = {}
        # pairs of product and kind that are in the result
        self._merged: set[tuple[Product, tuple[object, ...], bool]] = set()

    def run(self) -> Statements:
        """Return the statements by advisory and product."""
        for observed in self._fleet.observed:
            kind = _kind(observed)
            for item in observed.items:
                product = self._product(item)
                if (product, kind, item.has_awaited) not in self._merged:
                    self._merged.add((product, kind, item.has_awaited))
                    for advisory, statement in self._outcomes(kind, observed, item).items():
                        self._statement(advisory, product).update(statement)
                if item.pending or item.awaited_pending:
                    self._add_pending(observed, item, product)
        for advisory, known in self._knowledge.items():
            for exposure in undeclared(self._fleet, known):
                self._statement(advisory, self._product(exposure.item)).add(exposure)
        return self._result

    def _product(self, item: Item) -> Product:
        product = self._names.get(item.image_id) or _product(item)
        return Product(self._repositories.get(product.digest, product.repository), product.digest)

    def _statement(self, advisory: str, product: Product) -> Statement:
        return self._result.setdefault(advisory, {}).setdefault(product, Statement())

    def _outcomes(self, kind: tuple[object, ...], observed: Observed, item: Item) -> dict[str, Statement]:
        """Return the statement of each advisory for an item of this kind that hides nothing."""
        key = (*kind, item.has_awaited)
        if key not in self._kinds:
            plain = replace(item, pending={}, awaited_pending={})
            outcomes = {}
            for advisory, known in self._knowledge.items():
                judge = AdvisoryJudge(observed, known)
                if judge.is_concerned:
                    outcomes[advisory] = statement = Statement()
                    if exposure := judge.exposure(plain):
                        statement.add(exposure)
                    elif observed.bundle:
                        statement.bundles.add(observed.bundle)
                    statement.packages.update(_packages(observed, known))
            self._kinds[key] = outcomes
        return self._kinds[key]

    def _add_pending(self, observed: Observed, item: Item, product: Product) -> None:
        # an advisory may be named by another node's bundle only
        names = {*map(without_architecture, (*item.pending, *item.awaited_pending))}
        for advisory in sorted({advisory for name in names for advisory in self._advisories.get(name, ())}):
            if exposure := AdvisoryJudge(observed, self._knowledge[advisory]).exposure(item):
                self._statement(advisory, product).add(exposure)


def _kind(observed: Observed) -> tuple[object, ...]:
    """Return what decides the outcome of an item that hides nothing; equal updates are one object in a fleet."""
    awaited = observed.awaited
    declared = awaited and (awaited.version, awaited.reason, awaited.held, awaited.known, id(awaited.updates))
    return (
        observed.base,
        observed.chain_id,
        observed.version,
        observed.bundle,
        observed.unknown,
        id(observed.updates),
        id(observed.installed),
        observed.manager,
        tuple(sorted(observed.distro.items())),
        declared,
    )


def _all_knowledge(fleet: Fleet) -> dict[str, Knowledge]:
    """Return what all nodes together know, by advisory."""
    known: dict[str, Knowledge] = {}
    collected: set[tuple[str, int]] = set()
    for observed in fleet.observed:
        for updates, version in observed.sources:
            if (observed.chain_id, id(updates)) not in collected:
                collected.add((observed.chain_id, id(updates)))
                for advisory in {advisory for update in updates.values() for advisory in update["advisories"]}:
                    known.setdefault(advisory, Knowledge(advisory)).add(observed, updates, version)
    return dict(sorted(known.items()))


def _packages(observed: Observed, known: Knowledge) -> Iterator[FixedPackage]:
    for updates, _version in observed.sources:
        for name, update in updates.items():
            if not name.startswith("/") and any(matching(name, fixed) for fixed in known.fixes):
                distro = observed.distro.get("id", "")
                yield FixedPackage(observed.manager, distro, without_architecture(name), update["from"])


def _product(item: Item) -> Product:
    """Return the product of an item. A container's product has the image's ID as name."""
    return product_of("" if item.is_container else item.name, item.image_id, item.digests)


def product_of(name: str, image_id: str, digests: Sequence[str]) -> Product:
    """
    Return the product of an image: its first name with a digest, else its name and ID.

    Images of Docker Hub have no registry: engines and scanners call it by different names.

    Args:
        name: The name of the image.
        image_id: Its ID.
        digests: Its names with digests.
    """
    repository, _, digest = digests[0].rpartition("@") if digests else (name, "", image_id)
    if not digests:
        repository = "" if ids.is_digest(name) else ids.repository(name)
    host, _, path = repository.partition("/")
    is_registry = bool(path) and ("." in host or ":" in host or host == "localhost")
    is_hub = not is_registry or host in ("docker.io", "index.docker.io")
    return Product(repository.rpartition("/")[2] if is_hub else repository, digest)

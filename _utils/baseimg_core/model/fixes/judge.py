"""Judge the images and containers of one base on one node: is an advisory, or a version of a package, in effect?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..packages.difference import is_older
from .effect import State, state_of
from .fleet import Item, Observed, Updates
from .query import Query, matching

_NONE: Mapping[str, Any] = {"to": "", "from": "", "advisories": {}}


@dataclass(frozen=True, slots=True)
class Exposure:
    """One image or container in which the fix is not in effect."""

    #: The node.
    node: str
    #: The reference of the base; empty without one.
    base: str
    #: The image or container.
    item: Item
    #: The state of the fix.
    state: State
    #: The package with the fix; empty if unknown.
    package: str
    #: The reason.
    reason: str
    #: The one thing to do.
    remedy: str
    #: Files that hide the fix.
    paths: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without empty fields."""
        kind = "container" if self.item.is_container else "image"
        data = {"node": self.node, kind: self.item.name, "package": self.package, "reason": self.reason}
        return {key: value for key, value in {**data, "paths": list(self.paths)}.items() if value}


@dataclass(frozen=True, slots=True)
class Fix:
    """The update of one package that fixes an advisory."""

    #: The package, or the absolute path of a file outside of packages.
    package: str
    #: Its new version; empty if the update removed it, and for a path.
    to: str
    #: The reference of the base.
    base: str
    #: Its chain ID.
    chain_id: str
    #: The version of the base.
    version: str
    #: The package manager.
    manager: str
    #: ``id`` and ``version`` of the distribution.
    distro: tuple[tuple[str, str], ...]

    def orders(self, observed: Observed) -> bool:
        """True if a base's versions of the package can be compared: one release of one distribution."""
        distro = tuple(sorted(observed.distro.items()))
        return self.manager == observed.manager and self.distro == distro and {"id", "version"} <= {*observed.distro}

    def is_in(self, version: str, observed: Observed) -> bool:
        """True if a base with this version of the package has the fix. The version of a base says nothing of a file."""
        if self.package.startswith("/"):
            return False
        if self.to == version:
            return self.manager == observed.manager and (bool(version) or observed.installed is not None)
        if not self.to or not version:
            return False
        return self.orders(observed) and not is_older(self.manager, version, self.to)


class Knowledge:
    """What the answers together say of an advisory."""

    def __init__(self, advisory: str) -> None:
        """Create empty knowledge of ``advisory``."""
        self.advisory = advisory
        #: The known fixes by package.
        self.fixes: dict[str, list[Fix]] = {}

    def add(self, observed: Observed, updates: Updates, version: str) -> None:
        """
        Add the packages that a version of a base fixes.

        Args:
            observed: The base on a node.
            updates: The updates of the version.
            version: The version.
        """
        for name in _fixing(updates, self.advisory):
            distro = tuple(sorted(observed.distro.items()))
            to = updates[name]["to"]
            fix = Fix(name, to, observed.base, observed.chain_id, version, observed.manager, distro)
            known = self.fixes.setdefault(name, [])
            if not any((fix.chain_id, fix.to) == (each.chain_id, each.to) for each in known):
                known.append(fix)

    def of_base(self, chain_id: str) -> dict[str, Fix]:
        """Return the known fixes in a base by package."""
        return {name: fix for name, fixes in self.fixes.items() for fix in fixes[::-1] if fix.chain_id == chain_id}


def _fixing(updates: Updates, advisory: str) -> list[str]:
    return [name for name, update in updates.items() if advisory in update["advisories"]]


class AdvisoryJudge:
    """Judges the items of one base on one node for an advisory: it is fixed if every package has its fix."""

    def __init__(self, observed: Observed, known: Knowledge) -> None:
        """
        Args:
            observed: The base on its node.
            known: What all nodes know of the advisory.
        """
        self._observed, self._known, self._awaited = observed, known, observed.awaited
        self._named = {*_fixing(observed.updates, known.advisory)}
        self._declared = self._awaited.updates if self._awaited else {}
        self._announced = {*_fixing(self._declared, known.advisory)}
        others = [name for known_name in known.fixes for name in observed.names_of(known_name) if self._may_lack(name)]
        self._names = sorted({*self._named, *self._announced, *others})

    @property
    def is_concerned(self) -> bool:
        """True if the base, in some version, has the fix, or may have it."""
        return bool(self._names or self._observed.unknown or self._is_unread)

    @property
    def _is_unread(self) -> bool:
        return bool(self._awaited and not self._awaited.known)

    def exposure(self, item: Item) -> Exposure | None:
        """Return the worst exposure of an item of a concerned base; ``None`` if the fix is in effect."""
        observed = self._observed
        if observed.unknown:
            return _unknown(observed, item, "", observed.unknown)
        exposures = [exposure for name in self._names if (exposure := self._of_package(name, item))]
        if not exposures and self._awaited and self._is_unread and (item.has_awaited or not self._names):
            return _unknown(observed, item, "", self._awaited.reason)
        return min(exposures, key=lambda exposure: exposure.state.rank, default=None)

    def shows(self, package: str, item: Item) -> bool:
        """True if an item shows the fix in every architecture of a package."""
        return not self._observed.unknown and all(self._shows(name, item) for name in self._observed.names_of(package))

    def _shows(self, name: str, item: Item) -> bool:
        here = self._here(name)
        has_fix = name in self._named or bool(here and self._missing(name, here) is None)
        return has_fix and self._of_package(name, item) is None

    def _known_fixes(self, name: str) -> list[Fix]:
        """Return the known fixes of a package, also those that another base has for one architecture of it."""
        return [fix for known_name, fixes in self._known.fixes.items() if matching(known_name, name) for fix in fixes]

    def _here(self, name: str) -> str:
        """Return the live version of a package; empty if the base does not have it."""
        if name in self._observed.updates:
            return str(self._observed.updates[name]["to"])
        return (self._observed.installed or {}).get(name, "")

    def _may_lack(self, name: str) -> bool:
        """True if the base may lack a fix that only other answers name, or an item may hide it."""
        updates, fixes = self._observed.updates, self._known_fixes(name)
        if name in updates:
            return not any(updates[name]["from"] and fix.is_in(updates[name]["from"], self._observed) for fix in fixes)
        is_base = any(fix.chain_id == self._observed.chain_id for fix in fixes)
        return self._missing(name, self._here(name)) is not None if self._here(name) else is_base

    def _missing(self, name: str, version: str) -> Fix | None:
        """Return the fix that a version of a package lacks, of this base if there is one; ``None`` if it has one."""
        fixes = self._known_fixes(name)
        if any(fix.is_in(version, self._observed) for fix in fixes):
            return None
        own = [fix for fix in fixes if fix.chain_id == self._observed.chain_id]
        return next(iter([*own, *filter(lambda fix: fix.orders(self._observed), fixes), *fixes]), None)

    def _of_package(self, name: str, item: Item) -> Exposure | None:
        observed, awaited, here = self._observed, self._awaited, self._here(name)
        pending, version = item.pending, observed.version
        if awaited and item.has_awaited and name in self._declared:
            before, here = here, str(self._declared[name]["to"])
            pending, version = item.awaited_pending, awaited.version
            if name in self._named and name not in self._announced and _is_downgrade(observed, before, here):
                return _unknown(
                    observed, item, name, f"{name} is fixed in {before}; {version} has {here or 'no such package'}"
                )
            if name in self._named | self._announced:
                return _pending(observed, item, name, pending, version)
        elif awaited and name in self._announced:
            return _not_here(observed, item, name, awaited.version)
        elif name in self._named:
            return _pending(observed, item, name, pending, version)
        is_removed = not here and name in observed.updates and not name.startswith("/")
        if is_removed or (missing := self._missing(name, here)) is None:
            return _pending(observed, item, name, pending, version)
        return self._without(missing, name, here, item)

    def _without(self, fix: Fix, name: str, here: str, item: Item) -> Exposure:
        """Return the exposure of an item whose base lacks a fix that another version or another base has."""
        observed, awaited = self._observed, self._awaited
        is_own = fix.chain_id == observed.chain_id
        is_older_here = bool(here) and fix.orders(observed)
        if awaited and not item.has_awaited and fix.is_in(self._declared.get(name, _NONE)["to"], observed):
            return _not_here(observed, item, name, awaited.version)
        if "unread" in observed.updates.get(name, _NONE) and not is_older_here:
            return _unknown(observed, item, name, f"the update of {name} names no advisories: build it with fixes=")
        if name.startswith("/") and name in observed.updates:
            reason = f"{observed.version} brought {name} for other advisories: build it with fixes="
            return _unknown(observed, item, name, reason)
        if is_own:
            return _not_here(observed, item, name, fix.version)
        reason = f"the base has {name} {here}, {fix.base} {fix.version} has the fix in {fix.to or 'its removal'}"
        if is_older_here:
            return Exposure(
                observed.node, observed.base, item, State.NOT_HERE, name, reason, _build(observed, name, fix.to)
            )
        return _unknown(observed, item, name, reason)


def _is_downgrade(observed: Observed, before: str, after: str) -> bool:
    return bool(before) and (not after or is_older(observed.manager, after, before))


class PackageJudge:
    """Judges the items of one base on one node for the version of a package."""

    def __init__(self, observed: Observed, query: Query) -> None:
        """
        Args:
            observed: The base on its node.
            query: The package and the first version that is not affected.
        """
        self._observed, self._query, self._awaited = observed, query, observed.awaited
        self._declared = self._awaited.updates if self._awaited else {}
        installed = [name for name, version in (observed.installed or {}).items() if version]
        known = {*installed, *observed.updates, *self._declared}
        self._names = [name for name in sorted(known) if matching(name, query.package)]

    @property
    def is_unknown(self) -> bool:
        """True if nothing can be said of the base."""
        observed = self._observed
        return bool(observed.unknown or observed.installed is None or not observed.manager)

    def concerns(self, item: Item) -> bool:
        """True if an item has the package, or may have it."""
        return bool(self.is_unknown or self._names or self._own(item))

    def exposure(self, item: Item) -> Exposure | None:
        """Return the worst exposure of an item; ``None`` if it shows no version that is affected."""
        observed = self._observed
        if self.is_unknown:
            reason = observed.unknown or "the versions of its packages are unknown"
            return _unknown(observed, item, self._query.package, reason)
        names = sorted({*self._names, *self._own(item)})
        exposures = [exposure for name in names if (exposure := self._of_package(name, item))]
        return min(exposures, key=lambda exposure: exposure.state.rank, default=None)

    def _own(self, item: Item) -> list[str]:
        """Return the package's names in the item's own database."""
        return [name for name in item.installed if matching(name, self._query.package)]

    def _is_affected(self, version: str) -> bool:
        return self._query.affects(self._observed.manager, version)

    def _of_package(self, name: str, item: Item) -> Exposure | None:
        observed, awaited, pending = self._observed, self._awaited, item.pending
        update, live = observed.updates.get(name), observed.version
        here = update["to"] if update else (observed.installed or {}).get(name, "")
        if awaited and item.has_awaited and name in self._declared:
            update, here = self._declared[name], self._declared[name]["to"]
            pending, live = item.awaited_pending, awaited.version
        if update is None and name in item.installed:  # the database of the item's own layers, about its own files
            here = item.installed[name]
            reason, remedy = f"its own layers have {name} {here}", _rebuild(observed, live)
            exposure = Exposure(observed.node, observed.base, item, State.OVERRIDDEN, name, reason, remedy)
            return exposure if self._is_affected(here) else None
        if self._is_affected(here):
            if awaited and not item.has_awaited and self._fixes(name):
                return _not_here(observed, item, name, awaited.version)
            remedy = _build(observed, name, self._query.version)
            reason = f"the base has {name} {here}"
            return Exposure(observed.node, observed.base, item, State.NOT_HERE, name, reason, remedy)
        hidden = _pending(observed, item, name, pending, live)
        if update and update["from"] and not self._is_affected(update["from"]):
            return self._of_own_files(name, item, hidden)
        return hidden

    def _of_own_files(self, name: str, item: Item, exposure: Exposure | None) -> Exposure | None:
        """Return an exposure if no version of the base is affected: then only the item's own files can be."""
        if exposure is None or exposure.state not in (State.OVERRIDDEN, State.SPLIT, State.UNKNOWN):
            return None
        if name not in item.installed:
            return _unknown(self._observed, item, name, f"it has its own files of {name}, of an unknown version")
        return exposure if self._is_affected(item.installed[name]) else None

    def _fixes(self, name: str) -> bool:
        """True if the declared version has a version of the package that is not affected, or removes it."""
        return name in self._declared and not self._is_affected(self._declared[name]["to"])


def of_other(node: str, item: Item, manager: str, unread: str, query: Query) -> Exposure | None:
    """
    Judge the version of a package in an image that is on no base of its node.

    Args:
        node: The node.
        item: The image, with the versions in its database.
        manager: Its package manager; empty without a database.
        unread: Why its database cannot be read; empty if it can.
        query: The package and the first version that is not affected.
    """
    name = next((name for name in sorted(item.installed) if matching(name, query.package)), query.package)
    if unread:
        return Exposure(node, "", item, State.UNKNOWN, name, unread, f"find out: {unread}")
    versions = [each for own, each in item.installed.items() if matching(own, query.package)]
    if affected := [version for version in versions if query.affects(manager, version)]:
        reason = f"the image has {name} {affected[0]}, and is on no base of this node"
        remedy = f"rebuild the images with {query.package} {query.version} or newer, or declare their base"
        return Exposure(node, "", item, State.NOT_HERE, name, reason, remedy)
    return None


def _pending(
    observed: Observed, item: Item, name: str, pending: Mapping[str, Mapping[str, Any]], version: str
) -> Exposure | None:
    """Return the exposure by an update that is not in effect; ``None`` if it is. ``version`` is the base's."""
    if name not in pending:
        return None
    state, reason = state_of(pending[name]["state"]), str(pending[name].get("reason", ""))
    paths = tuple(map(str, pending[name].get("paths", ())))
    remedy = _remedy(state, observed, version, reason)
    return Exposure(observed.node, observed.base, item, state, name, reason, remedy, paths)


def _remedy(state: State, observed: Observed, version: str, reason: str) -> str:
    if state is State.AFTER_RESTART:
        return "stop and start the containers, or declare containers: restart and run state.apply baseimg"
    if state in (State.OVERRIDDEN, State.SPLIT):
        return _rebuild(observed, version)
    if state is State.MASKED:
        return f"declare a version of the masking base that was built on {version}"
    return f"find out: {reason}"


def _rebuild(observed: Observed, version: str) -> str:
    return f"rebuild the images on {observed.base} {version}; create containers with own files again"


def _build(observed: Observed, name: str, version: str) -> str:
    return f"build and roll out a version of {observed.base} with {name} {version} or newer"


def _unknown(observed: Observed, item: Item, package: str, reason: str) -> Exposure:
    return Exposure(observed.node, observed.base, item, State.UNKNOWN, package, reason, f"find out: {reason}")


def _not_here(observed: Observed, item: Item, package: str, version: str) -> Exposure:
    awaited = observed.awaited
    reason = f"this node shows {observed.version}, the fix is in {version}"
    remedy = f"roll out {version}: salt-run baseimg.rollout {observed.base} \"'{version}'\""
    if awaited and awaited.version == version:
        reason, remedy = awaited.reason, "converge the nodes: state.apply baseimg"
        if awaited.held:
            remedy = f"lift the hold: salt-run baseimg.unhold {observed.base} \"'{version}'\""
    return Exposure(observed.node, observed.base, item, State.NOT_HERE, package, reason, remedy)

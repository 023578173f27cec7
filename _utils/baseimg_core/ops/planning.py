"""What has to be done for a base to show a version, and with which of the declared bundles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..disk.bundle import Bundle
from ..engine.base import Engine
from ..errors import BundleMismatch
from ..model import catalog
from ..model.manifest import Manifest
from ..model.policy import Source
from ..model.record import Generation, Record

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Context:
    """
    What every operation on a node is given.

    ``fetch`` turns a bundle's source into a local path; ``by`` is who asked; ``lock_timeout`` is in seconds;
    ``reserve`` is the percentage of the file system that must stay free.
    """

    engine: Engine
    fetch: Callable[[Source], str]
    by: str
    lock_timeout: float
    reserve: int = 0
    progress: Progress | None = None


@dataclass(slots=True)
class Plan:
    """
    What has to be done to show a version.

    ``generation`` is the one to swap in, where it is present; else ``route`` names the bundles to lay over ``start``.
    """

    version: str
    generation: Generation | None = None
    start: Generation | None = None
    route: list[str] = field(default_factory=list)


class Catalogue:
    """The declared bundles of one base by version; each is fetched and opened at most once, when it is asked for."""

    def __init__(self, context: Context, bundles: Mapping[str, Source], stack: contextlib.ExitStack) -> None:
        self._context, self.bundles, self._stack = context, bundles, stack
        self._open: dict[str, Bundle] = {}

    def bundle(self, version: str) -> Bundle:
        if version not in self._open:
            wanted = self.bundles[version]
            path = self._context.fetch(wanted)
            bundle = self._stack.enter_context(Bundle(path, wanted.digest))
            found = bundle.manifest.target.version
            if found != version:
                raise BundleMismatch(
                    f"bundles:{version}: {wanted.source} leads to version {found}, expected {version}",
                    "declare the bundle under the version that it leads to",
                )
            self._open[version] = bundle
        return self._open[version]

    def manifest(self, version: str) -> Manifest:
        return self.bundle(version).manifest


def confirmed(record: Record, version: str, catalogue: Catalogue) -> Generation | None:
    """The generation that is known to be the declared version, without a look at any bundle."""
    declared = catalogue.bundles.get(version)
    found = record.by_version(version)
    if found and (found.number == 0 or not declared or declared.digest in (None, found.bundle)):
        return found
    return None


def decide(record: Record, version: str, catalogue: Catalogue) -> Plan:
    """The shortest way from what is present to ``version``; fetches the bundles that have to be looked at."""
    if found := confirmed(record, version, catalogue):
        return Plan(version, found)
    shown = {record.generations[number].chain_id for number in record.present}
    route = catalog.route(version, catalogue.bundles.keys(), shown, catalogue.manifest)
    same = record.by_chain(catalogue.manifest(version).target.chain_id)
    if same and same.version == version:
        return Plan(version, same)
    start = record.by_chain(catalogue.manifest(route[0]).source.chain_id)
    return Plan(version, None, start, route)

"""What has to be done for a base to show a version, and with which of the declared bundles."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..context import Context
from ..disk.bundle import signature as bundle_signature
from ..disk.bundle.reader import Bundle
from ..errors import (
    BundleMismatch,
    BundleUnavailable,
    PristineDamaged,
    PristineUnproven,
    SignatureMissing,
    VersionUnknown,
)
from ..model.bundle import route as bundle_route
from ..model.bundle.manifest import Manifest
from ..model.policy import reference
from ..model.policy.pillar import Source
from ..model.store.record import Generation, Record


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

    def __init__(
        self,
        context: Context,
        bundles: Mapping[str, Source],
        stack: contextlib.ExitStack,
        opened: Mapping[str, Bundle] | None = None,
    ) -> None:
        self._context, self.bundles, self._stack = context, bundles, stack
        self._open = dict(opened or {})

    def bundle(self, version: str) -> Bundle:
        if version not in self._open:
            wanted = self.bundles[version]
            bundle = self._stack.enter_context(open_bundle(self._context, wanted))
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

    def signed_by(self, route: list[str]) -> str:
        """Who vouches for these bundles, empty where nobody does for one of them."""
        found = [self.bundle(version).signed_by for version in route]
        return ", ".join(dict.fromkeys(found)) if all(found) else ""


def open_bundle(context: Context, source: Source) -> Bundle:
    """A bundle on this node; whether it may be used, by its signature, is known before anything in it is read."""
    if not context.trust.keys:
        return Bundle.open(context.fetch(source), source.digest)
    try:
        signature = bundle_signature.read(context.fetch(source.signature))
    except (BundleUnavailable, SignatureMissing) as exc:
        if isinstance(exc, BundleUnavailable) and reference.is_registry(source.source):
            raise  # there we can tell "it has none" from "it cannot be asked"
        if context.trust.required:
            raise SignatureMissing(f"{source.source} is not signed: {exc.message}") from exc
        return Bundle.open(context.fetch(source), source.digest)
    keys, where = context.trust.keys, source.signature.source
    return Bundle.open(
        context.fetch(source), source.digest, lambda sha512: bundle_signature.check(signature, sha512, keys, where)
    )


def confirmed(record: Record, version: str, catalogue: Catalogue) -> Generation | None:
    """The generation that is known to be the declared version, without a look at any bundle."""
    declared = catalogue.bundles.get(version)
    found = record.by_version(version)
    if found is None or found.number == 0 or not declared:
        return found
    # what was adopted came with no bundle, so it is not what a bundle leads to, whatever people call it
    return found if found.bundle and declared.digest in (None, found.bundle) else None


def decide(record: Record, version: str, catalogue: Catalogue) -> Plan:
    """The shortest way from what is present to ``version``; fetches the bundles that have to be looked at."""
    if found := confirmed(record, version, catalogue):
        return Plan(version, found)
    shown = {one.chain_id for one in record.usable}
    try:
        route = bundle_route.route(version, catalogue.bundles.keys(), shown, catalogue.manifest)
    except VersionUnknown as exc:
        check_pristine(record, exc)
        raise
    same = record.by_chain(catalogue.manifest(version).target.chain_id)
    if same and same.version == version:
        return Plan(version, same)
    start = record.by_chain(catalogue.manifest(route[0]).source.chain_id)
    return Plan(version, None, start, route)


def check_pristine(record: Record, cause: Exception) -> None:
    """Where the original content is not here, that is the better reason."""
    if record.pristine_state == "damaged":
        raise PristineDamaged(
            f"the original content of {record.reference} has a file that was changed on this node"
        ) from cause
    if record.pristine_state != "kept":
        reason = record.unproven or "somebody removed it"
        raise PristineUnproven(f"the original content of {record.reference} is not on this node: {reason}") from cause

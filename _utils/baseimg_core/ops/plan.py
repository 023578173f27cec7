"""Plan the route of a base to a version: the start and the declared bundles to apply."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ..context import Context
from ..disk.bundle import signature as bundle_signature
from ..disk.bundle.manifest_cache import ManifestCache
from ..disk.bundle.reader import Bundle
from ..disk.bundle.signature import TrustedSignature
from ..errors import (
    BundleMismatch,
    BundleUnavailable,
    DeviceRefused,
    GenerationDamaged,
    GenerationUnproven,
    PristineDamaged,
    PristineUnproven,
    SignatureMissing,
    VersionUnknown,
)
from ..linux.files import hex_digest
from ..model.bundle import route as bundle_route
from ..model.bundle.manifest import Manifest
from ..model.policy import reference
from ..model.policy.pillar import Source
from ..model.stack import overlay
from ..model.stack.entry import Entry
from ..model.store.record import Generation, Record


@dataclass(slots=True)
class Plan:
    """The steps that make a base show a version."""

    #: The target version.
    version: str
    #: The generation to swap in; ``None`` if it must be made.
    generation: Generation | None = None
    #: The generation that the bundles are applied to.
    start: Generation | None = None
    #: The versions whose bundles are applied, oldest first.
    route: list[str] = field(default_factory=list)
    #: True if ``generation`` has the content of the declared bundle, but its record names another bundle.
    same_content: bool = False


def check_device(context: Context, path: bytes, entry: Entry | None) -> None:
    """
    Refuse a device node that containers do not have by default, unless ``context.devices`` allows it.

    Args:
        context: The context of the operation.
        path: The path in the bundle.
        entry: The entry there; ``None`` for a removed path.

    Raises:
        DeviceRefused: The entry is a block device, or a character device that containers do not have by default.
    """
    if entry and entry.is_unusual_device and not context.devices:
        major, minor = entry.device
        device = f"{overlay.path_text(path)}, a {entry.kind.value} device {major}:{minor}"
        raise DeviceRefused(f"the bundle contains {device}")


class Catalogue:
    """The declared bundles of one base by version; each is fetched and opened once, on first use."""

    def __init__(
        self,
        context: Context,
        bundles: Mapping[str, Source],
        stack: contextlib.ExitStack,
        opened: Mapping[str, Bundle] | None = None,
    ) -> None:
        """
        Args:
            context: The context of the operation.
            bundles: The declared bundles by version.
            stack: Closes the bundles.
            opened: Bundles that the caller opened, by version.
        """
        self._context, self.bundles, self._stack = context, bundles, stack
        self._open = dict(opened or {})
        self._digests: dict[str, str | None] = {}
        self._known: dict[str, Manifest | None] = {}
        self._manifests = ManifestCache(context.manifests) if context.manifests else None

    def bundle(self, version: str) -> Bundle:
        """
        Return the open bundle that leads to ``version``.

        Raises:
            BundleMismatch: It leads to another version.
            BaseimgError: :func:`open_bundle` failed.
        """
        if version not in self._open:
            source = self.bundles[version]
            bundle = self._stack.enter_context(open_bundle(self._context, source))
            target = bundle.manifest.target.version
            if target != version:
                raise BundleMismatch(
                    f"bundles:{version}: {source.source} leads to version {target}, expected {version}",
                    "declare the bundle under the version that it leads to",
                )
            self._open[version] = bundle
            if self._manifests and bundle.path not in source.places:  # it was fetched
                self._manifests.write(bundle.digest, bundle.manifest)
                self._manifests.write_source(source.source, bundle.digest)
        return self._open[version]

    def manifest(self, version: str) -> Manifest:
        """Return the manifest of the bundle that leads to ``version``; fetched only if it was never read."""
        return self.known_manifest(version) or self.bundle(version).manifest

    def known_manifest(self, version: str) -> Manifest | None:
        """Return the manifest of the bundle that leads to ``version`` if no request is needed, else ``None``."""
        digest = self.bundles[version].digest if version in self.bundles else None
        if version not in self._open and version not in self._known and digest and self._manifests:
            manifest = self._manifests.read(digest)
            self._known[version] = manifest if manifest and manifest.target.version == version else None
        return self._open[version].manifest if version in self._open else self._known.get(version)

    def leads_from(self, chain_id: str) -> Iterator[str]:
        """Yield the versions whose bundles start from a content, as far as no request is needed."""
        for version in self.bundles:
            manifest = self.known_manifest(version)
            if manifest and manifest.source.chain_id == chain_id:
                yield version

    def remembered_manifest(self, version: str) -> Manifest:
        """
        Return the manifest that the bundle to ``version`` had; fetched only if it was not read within a day.

        A bundle without a declared digest may have been replaced meanwhile.
        """
        source = self.bundles[version]
        remembered = self._manifests.read_source(source.source) if self._manifests and not source.digest else None
        return remembered or self.manifest(version)

    def route(
        self, version: str, chain_ids: Collection[str], fits: Callable[[list[str]], bool] = lambda _steps: True
    ) -> list[str]:
        """
        Return the bundles that lead to a version; see :func:`model.bundle.route.route`.

        Args:
            version: The version.
            chain_ids: The chain IDs of the contents that a route may start from.
            fits: Returns True if the disk has the space that a route takes.
        """
        return bundle_route.route(version, self.bundles.keys(), chain_ids, self.manifest, self.known_manifest, fits)

    def signed_by(self, start: Generation, route: list[str]) -> str:
        """Return the signers of these bundles and of their start; empty if one of them is unsigned."""
        identities = [self.bundle(version).signed_by for version in route]
        if start.number:
            identities[:0] = start.signed_by.split(", ")
        return ", ".join(dict.fromkeys(identities)) if all(identities) else ""

    def made(self, generation: Generation, declared: Source) -> bool:
        """True if a generation was made from the declared bundle, and this node still trusts that bundle."""
        # adopted content has no bundle, so no bundle leads to it, whatever the name of its version
        made = bool(generation.bundle) and self._digest(declared) in (None, generation.bundle)
        return made and self.is_trusted(generation)

    def unnoticed(self, version: str) -> list[str]:
        """Return a warning if a corrected bundle for a version that the node has would not be noticed."""
        declared = self.bundles.get(version)
        if declared is None or self._digest(declared):
            return []
        return [f"the bundle of {version} is declared without hash: a corrected bundle would not be noticed"]

    def _digest(self, declared: Source) -> str | None:
        """Return a bundle's declared digest, else the digest of its file; ``None`` if only a fetch shows it."""
        if declared.digest:
            return declared.digest
        if declared.source not in self._digests:
            self._digests[declared.source] = self._present_digest(declared)
        return self._digests[declared.source]

    def _present_digest(self, declared: Source) -> str | None:
        for place in declared.places:
            if place.startswith("salt://"):
                return self._context.master_digest(place)
            if not place.startswith("/"):
                return None
            with contextlib.suppress(OSError), open(place, "rb") as file:
                return "sha256:" + hex_digest(file)
        return None

    def is_trusted(self, generation: Generation) -> bool:
        """True if this node trusts a generation: pristine, or signed if signatures are required."""
        return not self._context.trust.required or generation.number == 0 or bool(generation.signed_by)


def open_bundle(context: Context, source: Source) -> Bundle:
    """
    Fetch and open a bundle. The signature is verified before the content is read.

    Raises:
        SignatureMissing: The bundle is unsigned, and this node requires signatures.
        SignatureInvalid: The signature fails verification.
        BundleUnavailable, BundleInvalid: The bundle cannot be fetched or read.
    """
    signature = _trusted_signature(context, source) if context.trust.keys else None
    check = signature.verify if signature else None
    return Bundle.open(context.fetch(source), source.digest, check, source.source)


def _trusted_signature(context: Context, source: Source) -> TrustedSignature | None:
    """Fetch the signature of a bundle; ``None`` if the bundle is unsigned and this node accepts that."""
    try:
        data = bundle_signature.read(context.fetch(source.signature), source.signature.source)
    except (BundleUnavailable, SignatureMissing) as exc:
        if isinstance(exc, BundleUnavailable) and reference.is_registry(source.source):
            raise  # only a registry reports reliably whether a signature exists
        if context.trust.required:
            raise SignatureMissing(f"{source.source} is not signed: {exc.message}") from exc
        return None
    return bundle_signature.check_signer(data, context.trust.keys, source.signature.source)


def confirmed(record: Record, version: str, catalogue: Catalogue) -> Generation | None:
    """
    Return the generation that the record confirms as the declared version. Reads no bundle.

    Args:
        record: The record, matched with the directories on disk.
        version: The declared version.
        catalogue: The declared bundles.

    Returns:
        The generation; ``None`` if the record confirms none.
    """
    declared = catalogue.bundles.get(version)
    generation = record.by_version(version)
    if generation is None or generation.number == 0 or not declared:
        return generation
    return generation if catalogue.made(generation, declared) else None


def known_damage(record: Record, version: str, catalogue: Catalogue) -> str:
    """
    Return the recorded damage of the live content if it is the declared version.

    Args:
        record: The record of the base.
        version: The declared version.
        catalogue: The declared bundles.

    Returns:
        A description of the damage; empty if none is recorded or another version is live.
    """
    live, declared = record.live, catalogue.bundles.get(version)
    is_declared = live.version == version or (version == "pristine" and live.number == 0)
    if not live.damaged or not is_declared or (declared and live.number and not catalogue.made(live, declared)):
        return ""
    return live.damage or "out-of-band changes"


def plan_route(
    record: Record,
    version: str,
    catalogue: Catalogue,
    fits: Callable[[Generation, list[Manifest]], bool] = lambda _start, _manifests: True,
) -> Plan:
    """
    Plan the route with the fewest bytes from a sound generation to ``version``, among those that fit on the disk.

    Fetches only the bundles whose manifests it needs.

    Args:
        record: The record, matched with the directories on disk.
        version: The target version.
        catalogue: The declared bundles.
        fits: Returns True if the disk has the space for bundles that are applied to a start, given their manifests.

    Raises:
        VersionUnknown: No chain of declared bundles leads to the version.
        PristineDamaged, PristineUnproven: The only route starts from pristine content, which is unavailable.
        GenerationDamaged, GenerationUnproven: The only route starts from a damaged or unproven generation.
    """
    if generation := confirmed(record, version, catalogue):
        return Plan(version, generation)
    if version in catalogue.bundles and (generation := _same_content(record, version, catalogue)):
        return Plan(version, generation, same_content=True)
    starts = [candidate for candidate in record.usable if candidate.can_be_source and catalogue.is_trusted(candidate)]

    def start_of(route: list[str]) -> Generation:
        chain_id = catalogue.manifest(route[0]).source.chain_id
        same = (candidate for candidate in starts if candidate.chain_id == chain_id)
        return max(same, key=lambda candidate: candidate.number)

    def has_space(route: list[str]) -> bool:
        return fits(start_of(route), [catalogue.manifest(step) for step in route])

    try:
        route = catalogue.route(version, {candidate.chain_id for candidate in starts}, has_space)
    except VersionUnknown as exc:
        check_pristine(record, exc)
        _check_excluded(record, version, catalogue, exc)
        raise
    for step in route:  # now its bundles are needed, and only these
        catalogue.bundle(step)
    return Plan(version, None, start_of(route), route)


def _same_content(record: Record, version: str, catalogue: Catalogue) -> Generation | None:
    """Return the newest proven generation with the content that the version's bundle promises."""
    target = catalogue.manifest(version).target
    view = target.view_over(record.diff_ids[:-1])
    same = [
        generation
        for generation in record.usable
        if generation.proof and generation.version == version and view and generation.view == view
    ]
    return max(same, key=lambda generation: generation.number, default=None)


def _check_excluded(record: Record, version: str, catalogue: Catalogue, cause: VersionUnknown) -> None:
    """Raise for the generation that would lead to the version if it were sound and proven."""
    present = [record.generations[number] for number in record.present if number]
    try:
        route = catalogue.route(version, {generation.chain_id for generation in present})
    except VersionUnknown:
        return
    chain_id = catalogue.manifest(route[0]).source.chain_id
    start = max(
        (generation for generation in present if generation.chain_id == chain_id),
        key=lambda generation: generation.number,
    )
    where = f"generation {start.number} of {record.reference}, version {start.version},"
    if start.damaged:
        raise GenerationDamaged(f"{where} was changed on this node: {start.damage or 'see baseimg.verify'}") from cause
    if not start.proof:
        raise GenerationUnproven(f"{where} was never compared with an image") from cause
    raise SignatureMissing(f"{where} was made from an unsigned bundle") from cause


def check_pristine(record: Record, cause: Exception) -> None:
    """
    Raise an error in place of ``cause`` if the pristine content is unavailable.

    Raises:
        PristineDamaged: The pristine content was changed.
        PristineUnproven: The pristine content is not on this node.
    """
    if record.pristine_state == "damaged":
        raise PristineDamaged(
            f"the original content of {record.reference} was changed on this node"
            + (f": {record.pristine.damage}" if record.pristine.damage else "")
        ) from cause
    if record.pristine_state != "kept":
        reason = record.unproven or "its directory was removed"
        raise PristineUnproven(f"the original content of {record.reference} is not on this node: {reason}") from cause

"""Judge the images and containers on a base before it changes, and refuse a change that breaks them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..context import Context
from ..disk.impact import layer_scan
from ..disk.impact.change import BaseChange
from ..disk.impact.judge import Judge
from ..disk.impact.judgements import Judged
from ..disk.impact.layers import UNPACKED, Layers
from ..disk.impact.view import BaseAfterBundles, BaseOnDisk, NewFile
from ..disk.packages import databases
from ..disk.stack.directories import Stack
from ..engine.base import Container, Image
from ..errors import DeltaMismatch, ImageBreaks, ImageImpaired, LayerUnsupported
from ..linux import processes
from ..model.containers.trial import Trial, selects
from ..model.impact import config as configs
from ..model.impact import overrides
from ..model.impact.evidence import Evidence, finding
from ..model.impact.image_judgement import ImageJudgement
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.impact.path_class import IGNORED, PathClass
from ..model.impact.verdict import Reason, Verdict, ranked, worst
from ..model.packages import difference as model_packages
from ..model.packages.advisories import is_advisory
from ..model.packages.difference import Packages
from ..model.policy.image_policy import Acceptance, protects
from ..model.stack import overlay
from ..model.store.record import Record
from . import bases
from .bases import Base
from .nest import Nest
from .plan import Catalogue, Plan, check_device

PATHS = 50  # maximum shadowed paths listed for an image
_NAMES = 10  # maximum packages in one warning
_EXAMPLES = 3  # maximum example paths for an image
_REFUSED = 5  # maximum images and containers named in an error


@dataclass(frozen=True, slots=True)
class Changes:
    """The combined changes of one or several bundles to a base."""

    #: The target version.
    version: str
    #: The content that the changes start from.
    start: Stack
    #: The changed paths and their expected entries.
    expected: ExpectedPaths
    #: The content after the changes.
    new: BaseAfterBundles | BaseOnDisk
    #: The changed packages; ``None`` if a bundle does not record them.
    packages: Packages | None
    #: Difference of the base's configuration; ``None`` if a bundle does not record it.
    config: Mapping[str, tuple[str, str]] | None


def read_changes(context: Context, base: Base, record: Record, catalogue: Catalogue, route: Sequence[str]) -> Changes:
    """
    Read the bundles of a route.

    Args:
        context: The context of the operation.
        base: The base.
        record: The base's record.
        catalogue: The declared bundles.
        route: The versions whose bundles are combined, in order.

    Returns:
        Their combined changes.

    Raises:
        DeltaMismatch: A delta starts from another bundle's target, so it is unreadable before that bundle is applied.
        DeviceRefused: A bundle brings a device node that is not allowed.
    """
    source = record.by_chain(catalogue.manifest(route[0]).source.chain_id)
    start = Stack([base.store.path(record, source.number) if source else base.directory, *bases.pristine_lower(base)])
    manifests = [catalogue.manifest(step) for step in route]
    files: dict[bytes, NewFile] = {}

    def report(done: int, total: int) -> None:
        if context.progress:
            context.progress("reading", done, total)

    def read(step: str) -> Iterator[ExpectedPath]:
        old, bundle = start if source and step == route[0] else None, catalogue.bundle(step)
        for expected in layer_scan.expected_paths(bundle, report, old, files):
            if expected.entry and expected.entry.is_unusual_device:
                with bundle.naming():
                    check_device(context, expected.path, expected.entry)
            yield expected

    steps = map(read, route)
    expected = ExpectedPaths(overrides.combine(steps))
    return Changes(
        version=manifests[-1].target.version,
        start=start,
        expected=expected,
        new=BaseAfterBundles(BaseOnDisk(start), expected, files),
        packages=model_packages.combine([manifest.packages for manifest in manifests]),
        config=configs.combine([manifest.config for manifest in manifests]),
    )


class ImageJudge:
    """Judges images and containers on one base. Each layer is scanned once, however many images share it."""

    def __init__(
        self,
        changes: Changes,
        pristine: Stack,
        height: int,
        base_config: Mapping[str, Any],
        images: Sequence[Image],
        declared: Sequence[Trial] = (),
        layers: Layers = UNPACKED,
    ) -> None:
        """
        Create a judge.

        Args:
            changes: The changes to judge.
            pristine: The layers of the base's original content, on which the images were built.
            height: The number of these layers.
            base_config: The raw configuration of the base's own image; empty if it is unknown.
            images: The images on the base.
            declared: The declared trials; their commands count as started.
            layers: Reads the layers.
        """
        self.images, self._trials = images, declared
        self._height, self._changes = height, changes
        self._scanner = layer_scan.LayerScanner(changes.expected, layers)
        self._change = BaseChange(pristine, changes.new, changes.expected, changes.config or {}, layers)
        self._judge = Judge(self._change, base_config)
        self._installed: dict[str, set[str] | None] = {}
        self._shadowed: dict[tuple[str, ...], ImageJudgement] = {}
        self._images: dict[str, ImageJudgement] = {}
        self._containers: dict[str, ImageJudgement] = {}

    @classmethod
    def of_base(
        cls, base: Base, record: Record, changes: Changes, images: Sequence[Image], declared: Sequence[Trial]
    ) -> ImageJudge:
        """
        Return a judge for the images of a base on this node.

        Args:
            base: The base.
            record: The base's record.
            changes: The changes to judge.
            images: The images on the base. The base's own image provides the inherited configuration.
            declared: The declared trials; their commands count as started.
        """
        pristine = base.store.path(record, 0) if 0 in record.present and record.current else base.directory
        stack, config = Stack([pristine, *bases.pristine_lower(base)]), _base_config(base, images)
        return cls(changes, stack, len(base.diff_ids), config, images, declared)

    @property
    def changes(self) -> Changes:
        """The changes that the images are judged for."""
        return self._changes

    def image(self, image: Image) -> ImageJudgement:
        """Judge an image with the command that its containers start. Each image is judged once."""
        if image.id not in self._images:
            labels = image.config.get("Labels") or {}
            commands = [trial.command for trial in self._trials if selects(trial, image.tags, labels)]
            self._images[image.id] = self._judged(self._own(image), image.config, (), {}, trials=commands)
        return self._images[image.id]

    def containers(self, containers: Iterable[Container]) -> dict[str, ImageJudgement]:
        """
        Judge the next start of containers, with their commands, mounts, own files, and what they have loaded, once.

        Args:
            containers: Containers; those of other images are skipped.

        Returns:
            The judgements by container ID.
        """
        by_id = {image.id: image for image in self.images}
        on_base = [container for container in containers if container.image_id in by_id]
        pending = [container for container in on_base if container.id not in self._containers]
        mapped = processes.mapped_files([container.pid for container in pending if container.pid])
        for container in pending:
            judgement = self._container(container, by_id[container.image_id], mapped.get(container.pid, ()))
            self._containers[container.id] = judgement
        return {container.id: self._containers[container.id] for container in on_base}

    def evidence(self, images: Mapping[str, ImageJudgement], containers: Iterable[Container]) -> Evidence:
        """Return the findings on images, by ID, and on containers."""
        packages: dict[str, str] = {}
        if changed := self._changes.packages:
            packages = {**dict.fromkeys(changed.removed, ""), **changed.added}
            packages.update({name: versions[1] for name, versions in changed.changed.items()})
        return Evidence(
            packages,
            {key: finding(own.verdict, own.reasons, packages) for key, own in images.items()},
            {key: finding(own.verdict, own.reasons, packages) for key, own in self.containers(containers).items()},
        )

    def _container(self, container: Container, image: Image, mapped: Collection[bytes]) -> ImageJudgement:
        own = (container.upper, *self._own(image)) if container.upper else self._own(image)
        return self._judged(own, container.config or image.config, container.arguments, container.volumes, mapped)

    def paths_of(self, name: str) -> set[bytes]:
        """Return the changed files of a package or of an advisory's packages, or below a path, without caches."""
        expected = self._changes.expected
        if name.startswith("/"):
            path = name.strip("/").encode("utf-8", "surrogateescape")
            paths = {path, *expected.below(path)} & expected.by_path.keys()
        elif is_advisory(name):
            packages = self._changes.packages
            fixed = packages.fixing(name) if packages else []
            return {path for package in fixed for path in self.paths_of(package)}
        else:
            # dpkg lists packaged paths: /lib/x, although a merged /usr has the file at /usr/lib/x
            listed = self._packages.get(name, frozenset())
            paths = {path for path in (*listed, *(b"usr/" + path for path in listed)) if path in expected.by_path}
        return {path for path in paths if expected.classes[path] not in IGNORED and expected.by_path[path].entry}

    def packages(self) -> dict[str, Any] | None:
        """
        Return the changed packages as plain data: security fixes first, then what the judged images start.

        Returns:
            The difference, with the names of the packages that are ``used``; ``None`` if the bundles do not record it.
        """
        packages = self._changes.packages
        if packages is None:
            return None
        used = [name for name in self._packages if self.paths_of(name) & self._judge.started]
        ranks = {**dict.fromkeys(used, 1), **dict.fromkeys(packages.fixes, 0)}
        changed = sorted(packages.changed.items(), key=lambda item: (ranks.get(item[0], 2), item[0]))
        plain = {key: value for key, value in packages.as_dict().items() if key != "owners"}
        return {**plain, "changed": {name: list(versions) for name, versions in changed}, "used": used}

    def hidden(self, image: Image, paths: Collection[bytes]) -> list[str]:
        """Return the paths that an image's own layers hide."""
        own = self._own(image)
        shadowed = overrides.shadowed_paths(self._changes.expected, self._scanner.stack(own))
        return [overlay.path_text(shadow.path) for shadow in shadowed if shadow.path in paths]

    @cached_property
    def _packages(self) -> dict[str, frozenset[bytes]]:
        """The files of the changed packages, by package."""
        packages = self._changes.packages
        if packages is None:
            return {}
        if packages.owners is not None:
            return {name: frozenset(packages.owned(name) or ()) for name in packages.changed}
        return databases.files(self._change.pristine, packages.manager, packages.changed)

    def _own(self, image: Image) -> tuple[str, ...]:
        return image.layers_above(self._height)

    def _judged(
        self,
        own: tuple[str, ...],
        config: Mapping[str, Any],
        arguments: Sequence[str],
        volumes: Mapping[str, str],
        mapped: Collection[bytes] = (),
        trials: Sequence[Sequence[str]] = (),
    ) -> ImageJudgement:
        try:
            shadowed = self._shadows(own)
            reasons = self._judge.reasons(own, config, arguments, volumes, mapped, trials)
            reasons += self._split_packages(own)
            reasons += self._packages_below({**dict.fromkeys(configs.parse(config).volumes, ""), **volumes})
        except LayerUnsupported as exc:
            reason = Reason(Verdict.NOT_CHECKED, "unreadable", "layers", exc.message)
            return ImageJudgement(Verdict.NOT_CHECKED, [reason], {}, [], [exc.message])
        verdict = worst([shadowed.verdict, *(reason.verdict for reason in reasons)])
        return replace(shadowed, verdict=verdict, reasons=ranked(reasons))

    def _split_packages(self, own: tuple[str, ...]) -> Iterator[Reason]:
        """Yield packages whose new files an image hides, some or all of them."""
        hidden = {shadow.path for shadow in self._shadows(own).shadowed}
        for package in self._packages if hidden else ():
            paths = self.paths_of(package)
            own_files, new_files = sorted(paths & hidden), sorted(paths - hidden)
            if own_files and new_files:
                text = f"is split: own {_paths(own_files)} stays as it is, {_paths(new_files)} becomes new"
                yield Reason(Verdict.PARTLY, "split-package", package, text)
            elif own_files:
                yield Reason(Verdict.PARTLY, "shadowed", package, f"does not arrive: own {_paths(own_files)}")

    def _packages_below(self, volumes: Mapping[str, str]) -> Iterator[Reason]:
        """Yield packages whose new files volumes hide, some or all of them."""
        hidden = {path for destination in volumes for path in self.paths_of(destination)}
        for package in self._packages if hidden else ():
            below = sorted(self.paths_of(package) & hidden)
            if below:
                text = f"does not arrive at {_paths(below)}: a volume is mounted there"
                yield Reason(Verdict.PARTLY, "volume", package, text)

    def _shadows(self, own: tuple[str, ...]) -> ImageJudgement:
        if own not in self._shadowed:
            expected = self._changes.expected
            shadowed = overrides.shadowed_paths(expected, self._scanner.stack(own))
            counts = dict.fromkeys(PathClass, 0)
            for shadow in shadowed:
                counts[shadow.path_class] += 1
            self._shadowed[own] = ImageJudgement(
                verdict=overrides.verdict(expected, shadowed),
                reasons=(),
                covered={name.plural: [count, expected.totals[name]] for name, count in counts.items() if count},
                shadowed=shadowed,
                warnings=self._warnings(own),
            )
        return self._shadowed[own]

    def _warnings(self, own: tuple[str, ...]) -> list[str]:
        """Return warnings about removed packages that the image's own database lists as installed."""
        packages = self._changes.packages
        if not packages or not packages.removed:
            return []
        for directory in own:
            if directory not in self._installed:
                self._installed[directory] = databases.list_installed(directory, packages.manager, packages.removed)
            installed = self._installed[directory]
            if installed is not None:  # an image shows its topmost database
                names = _first_names(sorted(installed))
                return [f"its own package database still lists as installed: {names}"] if installed else []
        return []


def _base_config(base: Base, images: Iterable[Image]) -> Mapping[str, Any]:
    """Return the configuration of the base's own image; empty if the image is not on this node."""
    own = [image for image in images if image.chain_id == base.chain_id]
    named = [image for image in own if base.reference in image.tags]
    return (named or own)[0].config if own else {}


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _paths(paths: Sequence[bytes]) -> str:
    more = f" and {len(paths) - _EXAMPLES} more" if len(paths) > _EXAMPLES else ""
    return ", ".join(overlay.path_text(path) for path in paths[:_EXAMPLES]) + more


def counts(judgements: Iterable[ImageJudgement]) -> dict[str, int]:
    """Return the number of judgements by verdict, worst first."""
    totals = {verdict.value: 0 for verdict in Verdict}
    for judgement in judgements:
        totals[judgement.verdict.value] += 1
    return totals


def build_image_judge(context: Context, nest: Nest, plan: Plan, catalogue: Catalogue) -> ImageJudge | None:
    """
    Return a judge for the images that a plan changes. Reads every bundle of the plan once.

    Args:
        context: The context of the operation.
        nest: The nest of the base.
        plan: The plan.
        catalogue: The declared bundles.

    Returns:
        The judge; ``None`` for a plan without bundles, or if a delta starts from another bundle's target: it is
        unreadable before that bundle is applied. :mod:`ops.arrivals` judges the images over the staged content.
    """
    if not plan.route:
        return None
    base = nest.changing.base
    try:
        changes = read_changes(context, base, nest.changing.record, catalogue, plan.route)
    except DeltaMismatch:
        return None
    unchanged = {name for kept in nest.kept(catalogue.manifest(plan.route[-1]).target.chain_id) for name in kept.images}
    images = [image for image in bases.images_on(context.engine, base.chain_id) if image.name not in unchanged]
    declared = context.protection.acceptance(base.reference, base.chain_id).trials
    return ImageJudge.of_base(base, nest.changing.record, changes, images, declared)


def check_verdicts(context: Context, base: Base, judge: ImageJudge) -> Judged:
    """
    Refuse a change that breaks or impairs an image or container on the base, unless it is accepted.

    Args:
        context: The context of the operation; ``protection`` has the accepted verdicts.
        base: The base.
        judge: The judge of its images.

    Returns:
        The judgements.

    Raises:
        ImageBreaks: The start command of an image or a container would fail.
        ImageImpaired: Another part of an image or a container would fail.
    """
    acceptance = context.protection.acceptance(base.reference, base.chain_id)
    containers = context.engine.containers(True)
    used = {container.image_id for container in containers}
    refused = Refusals("", acceptance)
    judged: dict[str, Sequence[Reason]] = {}
    started = [image for image in judge.images if is_started(image, base, used)]
    for image in started:
        if not protects(acceptance.patterns, image.id, image.tags):
            judged[image.id] = judge.image(image).reasons
            refused.add(image.name, judged[image.id], image.id in used)
    by_id = {image.id: image for image in judge.images}
    own_judgements = judge.containers(containers)
    for container in containers:
        on_base = by_id.get(container.image_id)
        if on_base is None or protects(acceptance.patterns, on_base.id, (*on_base.tags, container.name)):
            continue
        known = set(judge.image(on_base).reasons)
        own = [reason for reason in own_judgements[container.id].reasons if reason not in known]
        refused.add(f"container {container.name}", own, True)
    refused.raise_if_any(base, judge.changes.version)
    return Judged(judged, judge.evidence({image.id: judge.image(image) for image in started}, containers))


def is_started(image: Image, base: Base, used: Collection[str]) -> bool:
    """
    False for images that are never started: unnamed build steps, and the base itself.

    Args:
        image: The image.
        base: The base.
        used: IDs of the images that have containers.
    """
    return image.id in used or (bool(image.tags) and base.reference not in image.tags)


class Refusals:
    """Images and containers with a verdict that is not accepted."""

    def __init__(self, live: str, acceptance: Acceptance) -> None:
        """``live`` says what the base shows, if the content is live already; empty before a change."""
        self._live, self._acceptance = live, acceptance
        self._names: dict[Verdict, list[str]] = {Verdict.BREAKS: [], Verdict.IMPAIRED: []}

    def add(self, name: str, reasons: Sequence[Reason], is_used: bool) -> None:
        """
        Add a name under its worst verdict that is not accepted. Every reason counts.

        Args:
            name: The name of an image or a container.
            reasons: Its reasons.
            is_used: True if a container of the image exists.
        """
        accepted = self._acceptance
        ghost = next((reason for reason in reasons if reason.code == "ghost"), None)
        if ghost and accepted.refuses_ghosts:
            self._names[Verdict.IMPAIRED].append(f"{name} ({ghost.subject} {ghost.text})")
        for verdict, names in self._names.items():
            first = next((reason for reason in reasons if reason.verdict is verdict), None)
            is_accepted = accepted.unused and not is_used if verdict is Verdict.BREAKS else accepted.impaired
            if first and not is_accepted:
                names.append(f"{name} ({first.subject} {first.text})")
                return

    def raise_if_any(self, base: Base, version: str) -> None:
        """
        Raise an error if a name was added.

        Args:
            base: The base.
            version: The version that it is to show, or that it shows.

        Raises:
            ImageBreaks, ImageImpaired: The error of the worst verdict.
        """
        for verdict, error in ((Verdict.BREAKS, ImageBreaks), (Verdict.IMPAIRED, ImageImpaired)):
            if names := self._names[verdict]:
                more = f" and {len(names) - _REFUSED} more" if len(names) > _REFUSED else ""
                what = f"{self._live}, and images that arrived later fail on it" if self._live else ""
                what = what or f"{base.reference} is not changed to {version}"
                raise error(f"{what}: {'; '.join(names[:_REFUSED])}{more}")

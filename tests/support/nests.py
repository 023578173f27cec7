"""A node with bases built on one another, in plain directories, and bundles for versions of each."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from baseimg_core.context import Context
from baseimg_core.disk.bundle import writer
from baseimg_core.disk.packages import fixes
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.policy.image_policy import DeclaredBundles, Protection
from baseimg_core.model.policy.pillar import Source
from baseimg_core.model.stack.ids import chain_id
from baseimg_core.ops import bases, preview
from baseimg_core.ops import converge as ops_converge
from baseimg_core.ops import rollback as ops_rollback
from baseimg_core.ops.preview import Goal
from tests.support.images import digest
from tests.support.kernel import VisibleEntry, show
from tests.support.plain import PlainEngine

PLATFORM = {"os": "linux", "architecture": "amd64"}
#: Makes a layer directory; its argument is the directory, which does not exist.
Fill = Callable[[Path], None]


EPOCH = 1_000_000_000


def files(contents: Mapping[str, str]) -> Fill:
    """A layer with these files, all with one time."""

    def fill(root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        for written in (root, *root.rglob("*")):
            os.utime(written, (EPOCH, EPOCH), follow_symlinks=False)

    return fill


@dataclass
class NestNode:
    """Bases by reference. ``NAME:VERSION`` is an image; its first layers are those of the base below it."""

    root: Path
    below: dict[str, str] = field(default_factory=dict)
    #: What pillar declares, as in :attr:`Context.versions`.
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: The layer directories of each image and each version, top first.
    stacks: dict[str, list[Path]] = field(default_factory=dict)
    bundles: dict[str, dict[str, Source]] = field(default_factory=dict)
    #: The protected images, the accepted verdicts and the required fixes.
    protection: Protection = field(default_factory=Protection)
    #: The advisories that the operator names for the next bundles.
    fixes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    views: dict[tuple[str, str], dict[bytes, VisibleEntry]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = PlainEngine(self.root / "layers")

    @property
    def context(self) -> Context:
        context = Context(self.engine, lambda source: source.source, "test", 0.0, names=str(self.root / "names"))
        return replace(context, below=self.below, versions=self.versions, protection=self.protection)

    def image(self, reference: str, below: str, *layers: Fill) -> None:
        """An image on the node, built on the image ``below`` (empty for none)."""
        names = [*self.engine.tags.get(below, ())]
        for number, fill in enumerate(layers):
            names.append(f"{reference.replace('/', '-')}.{number}")
            fill(self.root / "layers" / names[-1] / "diff")
        self.engine.add(reference, *names)
        self.stacks[reference] = [self.root / "layers" / name / "diff" for name in reversed(names)]
        self.views[reference, tag(reference)] = show(self.stacks[reference])

    def version(self, base: str, version: str, below: Sequence[Path], *layers: Fill) -> list[Path]:
        """A version of a base, elsewhere, on the stack ``below`` (top first); the bundle leads there directly."""
        stack = list(below)
        for fill in layers:
            stack.insert(0, self.root / "targets" / f"{base.replace('/', '-')}-{version}.{len(stack)}")
            fill(stack[0])
        self.bundle(base, version, stack, (digest(f"{base} {version}".encode()),))
        return stack

    def bundle(self, base: str, version: str, target: Sequence[Path], diff_ids: Sequence[str]) -> None:
        self.bundle_from(base, version, self.engine.image(base).diff_ids, self.stacks[base], target, diff_ids)

    def bundle_from(
        self,
        base: str,
        version: str,
        old: Sequence[str],
        source_stack: Sequence[Path],
        target: Sequence[Path],
        diff_ids: Sequence[str],
    ) -> None:
        """Declare a bundle that leads from any content to a version of a base."""
        path = self.root / f"{base.replace('/', '-')}-{version}.tar"
        start, end = stack_of(source_stack), stack_of(target)
        changes = compare(start, end)
        packages = fixes.difference(start, end, {change.path for change in changes}, self.fixes)
        source = ImageRef(base, tag(base), chain_id(old), tuple(old))
        name = f"{base.partition(':')[0]}:{version}"
        led_to = ImageRef(name, version, chain_id(diff_ids), tuple(diff_ids))
        written = writer.write(str(path), changes, source, led_to, PLATFORM, packages=packages)
        self.bundles.setdefault(base, {})[version] = Source(str(path), written.digest)
        self.views[base, version] = show(target)

    def converge(self, base: str, version: str, chain_id: str | None = None) -> dict[str, Any]:
        return ops_converge.converge(self.context, base, version, self.bundles.get(base, {}), chain_id)

    def mark_damaged(self, base: str) -> None:
        """Record that the live content of a base was changed out of band."""
        store = bases.locate(self.engine, base).store
        record = store.read()
        assert record
        record.live.damaged = True
        store.save(record)

    def declared(self, base: str, version: str) -> DeclaredBundles:
        return DeclaredBundles(self.bundles[base], version)

    def plan(self, base: str, version: str, earlier: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """The plan of a base after the converges of ``earlier``, as a run of states with test=True makes it."""
        return preview.plan(self.context, self.goal(base, version), [self.goal(*each) for each in earlier])

    def goal(self, base: str, version: str) -> Goal:
        return Goal(base, version, self.bundles.get(base, {}))

    def rollback(self, base: str, to: str | None = None) -> dict[str, Any]:
        return ops_rollback.roll_back(self.context, base, to)

    def view(self, reference: str) -> dict[bytes, VisibleEntry]:
        """What the kernel shows for an image now."""
        return show(self.stacks[reference])

    def original(self, base: str) -> Path:
        """The directory with the pristine content of a base's top layer."""
        store = bases.locate(self.engine, base).store
        record = store.read()
        return Path(store.path(record, 0)) if record else self.stacks[base][0]

    def live(self, base: str) -> str:
        """The version that status says a base shows."""
        return str(bases.status(self.engine, bases.locate(self.engine, base))["version"])


def tag(reference: str) -> str:
    return reference.rpartition(":")[2]


def stack_of(paths: Sequence[Path]) -> Stack:
    return Stack([str(path) for path in paths])


def orders(goals: Mapping[str, str]) -> list[list[tuple[str, str]]]:
    """Every order of converging bases to versions."""
    return [list(order) for order in itertools.permutations(goals.items())]

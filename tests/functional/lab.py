"""Helpers of the functional tests: load images, build and apply bundles, read the kernel's view."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import images, kernel, node
from tests.support.engine import Engine
from tests.support.images import ImageSpec, Member, directory, file
from tests.support.kernel import VisibleEntry
from tests.support.minion import FULL, Minion

BASE, NEW, NEWER, APP = "corp/base:12.0", "corp/base:12.1", "corp/base:12.2", "corp/app:1"
SLEEP = ("sleep", "1000000")


def layer(*members: Member) -> bytes:
    """Return a layer's tar with all parent directories; an engine gives missing ones the current time."""
    explicit = {member.path for member in members if member.type == directory("").type}
    given: list[Member] = []
    for member in members:
        for above in _ancestors(member.path):
            if above not in explicit:
                explicit.add(above)
                given.append(directory(above))
        given.append(member)
    return images.layer_tar(given)


def bare_layer(*members: Member) -> bytes:
    """Return a layer's tar with these members alone, as many builders write it."""
    return images.layer_tar(members)


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


BUSYBOX = layer(*images.busybox_members())
VERSION_0 = layer(
    file("etc/version", b"12.0\n"),
    file("etc/gone", b"from 12.0\n"),
    file("etc/kept", b"kept\n"),
    file("usr/lib/tool", b"tool 12.0\n", 0o755),
)
VERSION_1 = layer(
    file("etc/version", b"12.1\n"),
    images.whiteout("etc/gone"),
    file("etc/added", b"from 12.1\n"),
    file("usr/lib/tool", b"tool 12.1\n", 0o755),
)
VERSION_2 = layer(file("etc/version", b"12.2\n"), images.whiteout("etc/added"), file("etc/fresh", b"from 12.2\n"))
APP_LAYER = layer(file("app/run", b"app\n", 0o755), file("etc/app.conf", b"app\n"))


@dataclass
class Lab:
    """One engine, one minion, and one directory for the test's files."""

    engine: Engine
    minion: Minion
    work: Path

    # Images

    def load(self, stacks: Mapping[str, Sequence[bytes]], config: Mapping[str, Any] | None = None) -> None:
        """Load images: ``stacks`` maps each reference to its layers, bottom first."""
        self.engine.load(images.archive([ImageSpec(ref, layers, config or {}) for ref, layers in stacks.items()]))

    def usual(self, *more: str) -> None:
        """Load a base in two versions and an application on the first; ``more`` may add `NEWER`."""
        old = [BUSYBOX, VERSION_0]
        stacks = {BASE: old, NEW: [*old, VERSION_1], NEWER: [*old, VERSION_1, VERSION_2], APP: [*old, APP_LAYER]}
        self.load({ref: layers for ref, layers in stacks.items() if ref != NEWER or NEWER in more})

    def dirs(self, image: str) -> list[str]:
        return node.layer_dirs(self.engine, image)

    def show(self, image: str) -> dict[bytes, VisibleEntry]:
        """Return what the kernel shows for an image."""
        return kernel.show(self.dirs(image))

    def top(self, image: str) -> str:
        """Return the directory of the image's top layer, which holds the engine's and baseimg's files."""
        return os.path.dirname(self.dirs(image)[0])

    def untag(self, *references: str) -> None:
        for reference in references:
            node.untag(self.engine, reference)

    # The modules

    @cached_property
    def in_test_mode(self) -> Minion:
        """A minion with `test=True`, loaded once because loading takes most of a test's time."""
        return Minion(self.work / "minion-in-test-mode", self.engine.url, test=True)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function of the module: `lab.apply(…)` calls `baseimg.apply(…)`, with the full result."""
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(self.minion.modules[f"baseimg.{name}"], **FULL.get(name, {}))

    def bundle(self, source: str = BASE, target: str = NEW, **arguments: Any) -> str:
        """Build a bundle from one image to the other; return its path."""
        name = "_".join(part.rpartition(":")[2] for part in (source, target)) + arguments.get("compression", "")
        path = str(self.work / f"{name}.tar")
        self.minion.modules["baseimg.build"](source, target, path, **arguments)
        return path

    def version(self, image: str = APP) -> str:
        """Return the version that a new container of the image sees."""
        return self.engine.run(image, "cat", "/etc/version").strip()

    # Nodes that must not change

    def layers(self) -> node.Inodes:
        return node.layers(self.engine)

    def refused(
        self, code: str | tuple[str, ...], function: str, *arguments: Any, **named: Any
    ) -> CommandExecutionError:
        """Call a function that must fail with this error, and check that no layer of the node changed."""
        before = self.layers()
        with pytest.raises(CommandExecutionError) as caught:
            self.minion.modules[f"baseimg.{function}"](*arguments, **named)
        assert node.touched(before, self.layers()) == []
        error = caught.value
        assert isinstance(error.info, dict)
        assert error.info["code"] in ((code,) if isinstance(code, str) else code)
        assert error.info["message"]
        assert error.info["hint"]
        assert str(error) == f"[{error.info['code']}] {error.info['message']} -- {error.info['hint']}"
        return error


def digest(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return "sha256:" + hashlib.sha256(stream.read()).hexdigest()

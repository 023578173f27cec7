"""A chain of deltas on a small disk: it takes one content and a step, and the plan knows it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from baseimg_core.disk.bundle.encoding import Encoding
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.disk.store import space
from baseimg_core.errors import SpaceExhausted
from baseimg_core.linux import files
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.stack.ids import chain_id
from tests.fault.test_space import fill, full_from
from tests.support.fs import loop_fs
from tests.support.kernel import differences, show
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault


class Chain(Node):
    """A node with deltas, each from the version before; each changes a file of 1 MiB and renames another."""

    LENGTH, LARGE = 6, 1 << 20

    def __init__(self, root: Path) -> None:
        super().__init__(root, "copy")
        random = Random(16)
        (self.layer / "diff/large").write_bytes(random.randbytes(self.LARGE))
        self.engine.remember("top")
        before, self.bundles = self.stack, {}
        for number in range(1, self.LENGTH + 1):
            old = (before[0] / "large").read_bytes()
            target = self._version(f"chain/12.{number}", {"etc/version": f"12.{number}", f"steps/{number}": "data"})
            (target[0] / "large").write_bytes(old[: self.LARGE // 2] + random.randbytes(99) + old[self.LARGE // 2 :])
            self.bundles[f"12.{number}"] = self._bundle(f"12.{number}", before, target, f"12.{number - 1}")
            self.views[f"12.{number}"], before = show(target), target

    def _encoding(self, source: list[Path]) -> Encoding:
        return Encoding("zstd", Stack([str(directory) for directory in source]), "only")

    def _image(self, version: str, stack: list[Path]) -> ImageRef:
        over = chain_id(self.engine.image(BASE).diff_ids[:-1])
        return replace(super()._image(version, stack), sizes={over: (self.LARGE + 10_000, 20)})


LAST = f"12.{Chain.LENGTH}"


def test_a_chain_of_deltas_fits_where_three_contents_do() -> None:
    """It takes the new content, or the merged changes and one step; the plan knows it."""
    with loop_fs("ext4", 32 << 20) as root:
        node = Chain(root / "node")
        with full_from("stage.begun", root), pytest.raises(SpaceExhausted):
            node.converge(LAST)
        assert os.listdir(node.layer) == ["diff"]
        filler = fill(root)
        os.truncate(filler, filler.stat().st_size - 2 * Chain.LARGE)
        with pytest.raises(SpaceExhausted, match="takes up to 2"):
            node.plan(LAST)
        os.truncate(filler, filler.stat().st_size - Chain.LARGE)
        assert node.plan(LAST)["changed"]
        for name in ("staging/etc", "steps/0/etc", "steps/1"):  # as a kill leaves it
            (node.layer / "baseimg" / name).mkdir(parents=True)
        node.converge(LAST)
        assert differences(node.view(), node.views[LAST]) == []
        assert os.listdir(node.layer / "baseimg/generations") == ["0"]
        assert not (node.layer / "baseimg/steps").exists()


class Deep(Chain):
    """A node whose deltas change files below many directories."""

    LENGTH, LARGE = 3, 1 << 12

    def _version(self, version: str, files: dict[str, str]) -> list[Path]:
        return super()._version(version, {**files, "a/b/c/d/e/f/g/h/file": version})

    def _image(self, version: str, stack: list[Path]) -> ImageRef:
        image = super()._image(version, stack)
        return replace(image, sizes=dict.fromkeys(image.sizes, space.measure(str(stack[0]))))


def test_the_plan_knows_the_inodes_of_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged changes and those of the next step exist at once, with the directories that lead to them."""
    node, home = Deep(tmp_path / "node"), tmp_path / "node/layers/top/baseimg"
    planned, counted, remove = [0], [0], files.remove_any

    def check_space(_directory: str, _size: int, paths: int, *_more: object) -> None:
        planned.append(paths)

    def remove_any(path: str) -> None:
        present = [home / name for name in ("steps", "staging") if (home / name).exists()]
        counted.append(sum(space.measure(str(directory))[1] for directory in present))
        remove(path)

    monkeypatch.setattr(space, "check_space", check_space)
    monkeypatch.setattr(files, "remove_any", remove_any)
    node.converge(f"12.{Deep.LENGTH}")
    assert 20 < max(counted) <= max(planned)


class Rewritten(Node):
    """A node whose bundles each replace the same large file, and do not record the sizes of their images."""

    LENGTH, LARGE = 6, 1 << 20

    def __init__(self, root: Path) -> None:
        super().__init__(root, "copy")
        before, random = self.stack, Random(16)
        for number in range(1, self.LENGTH + 1):
            target = self._version(f"chain/13.{number}", {"etc/version": f"13.{number}"})
            (target[0] / "large").write_bytes(random.randbytes(self.LARGE))
            source = "12.0" if number == 1 else f"13.{number - 1}"
            self.bundles[f"13.{number}"] = self._bundle(f"13.{number}", before, target, source)
            before = target
        self.views[f"13.{self.LENGTH}"] = show(before)


def test_bundles_without_sizes_are_read_before_they_are_refused() -> None:
    with loop_fs("ext4", 32 << 20) as root:
        node = Rewritten(root / "node")
        filler = fill(root)
        os.truncate(filler, filler.stat().st_size - 3 * Rewritten.LARGE)
        node.converge("13.6")
        assert differences(node.view(), node.views["13.6"]) == []

"""An engine without an engine: bases in plain directories, for tests of what happens on disk only."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baseimg_core.context import Context
from baseimg_core.disk.bundle import writer
from baseimg_core.disk.bundle.encoding import FULL, Encoding
from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.stack import view_digest
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.engine import tarsplit
from baseimg_core.engine.base import Container, Image
from baseimg_core.errors import ContainerUnknown, ImageUnknown
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.policy.pillar import Source
from baseimg_core.model.stack.ids import chain_id
from baseimg_core.model.stack.owners import Owners
from baseimg_core.model.stack.packed import PackedLayer
from baseimg_core.ops import converge as ops_converge
from baseimg_core.ops import preview
from baseimg_core.ops.preview import Goal
from tests.support.images import digest, layer_from_directory
from tests.support.kernel import VisibleEntry, show
from tests.support.legacy import tar_split

BASE = "corp/base:12.0"


@dataclass
class PlainEngine:
    """
    Images are lists of layer names, bottom first; layer NAME is the directory ``root/NAME/diff``.

    A layer that it has been told to remember has a record like Docker's, ``records/NAME`` beside ``root``.
    """

    root: Path
    tags: dict[str, Sequence[str]] = field(default_factory=dict)
    restarts: bool = True
    storage: str = "plain"
    owners: Owners = field(default_factory=Owners)
    diff_ids: dict[str, str] = field(default_factory=dict)
    mount_options: frozenset[str] = frozenset()
    running: list[Container] = field(default_factory=list)

    def check_restart_package(self) -> None:
        """Check nothing: no package is needed."""

    def own_directory(self, container: Container) -> str:
        directory = self.root.parent / "upper" / container.id
        directory.mkdir(parents=True, exist_ok=True)
        return container.upper or str(directory)

    def unread_stores(self) -> list[str]:
        return []

    @property
    def layers_root(self) -> str:
        return str(self.root)

    def remember(self, layer: str) -> None:
        """As if the layer had come as a tar of what its directory holds now."""
        tar = layer_from_directory(self.root / layer / "diff")
        self.diff_ids[layer] = digest(tar)
        self._record(layer).parent.mkdir(exist_ok=True)
        self._record(layer).write_bytes(tar_split(tar))

    def forget(self, layer: str) -> None:
        """As if the engine kept no checksum of the layer."""
        self._record(layer).unlink()

    def _record(self, layer: str) -> Path:
        return self.root.parent / "records" / layer

    def add(self, reference: str, *layers: str) -> Image:
        self.tags[reference] = layers
        for layer in layers:
            (self.root / layer / "diff").mkdir(parents=True, exist_ok=True)
        return self.image(reference)

    def image(self, reference: str) -> Image:
        if reference not in self.tags:
            raise ImageUnknown(f"no image {reference}")
        layers = self.tags[reference]
        return Image(
            id=reference,
            tags=(reference,),
            diff_ids=tuple(self.diff_ids.get(layer, digest(layer.encode())) for layer in layers),
            directories=tuple(str(self.root / layer / "diff") for layer in layers),
            os="linux",
            architecture="amd64",
        )

    def images(self) -> list[Image]:
        return [self.image(reference) for reference in self.tags]

    def containers(self, _stopped: bool = False) -> list[Container]:
        return self.running

    def used_images(self) -> set[str]:
        return {container.image_id for container in self.running}

    def container(self, container_id: str) -> Container:
        raise ContainerUnknown(f"no container {container_id}")

    def stop(self, container_id: str, _longest: float) -> None:
        self.container(container_id)

    def start(self, container_id: str) -> bool:
        self.container(container_id)
        return True

    def execute(self, container_id: str, _command: Sequence[str], _timeout: float) -> int:
        raise ContainerUnknown(f"no container {container_id}")

    def logs(self, container_id: str, _lines: int) -> list[str]:
        raise ContainerUnknown(f"no container {container_id}")

    def matches_layer_digest(self, chain_id: str, diff_id: str, directory: str) -> bool | None:
        record = self._record(self._layer(chain_id))
        return tarsplit.matches(str(record), directory, diff_id) if record.exists() else None

    def original_tar_headers(self, chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        return tarsplit.headers(str(self._record(self._layer(chain_id))))

    def packed_layer(self, chain_id: str, _diff_id: str) -> PackedLayer | None:
        return tarsplit.layer(str(self._record(self._layer(chain_id))))

    def _layer(self, chain_id: str) -> str:
        for reference, layers in self.tags.items():
            chain = self.image(reference).chain_ids
            if chain_id in chain:
                return layers[chain.index(chain_id)]
        raise ImageUnknown(f"no layer {chain_id}")

    def chain(self, chain_id: str) -> Sequence[str] | None:
        for reference in self.tags:
            image = self.image(reference)
            if height := image.height(chain_id):
                return image.directories[:height]
        return None

    def layer_homes(self) -> Iterator[str]:
        for path in sorted(self.root.iterdir()):
            yield str(path)


class Node:
    """A node with one base of two layers, and bundles that lead from it to 12.1 and on to 12.2."""

    #: False for the bundles of a release that knew no view digests.
    views_in_bundles = True

    def __init__(self, root: Path, link: str = "auto") -> None:
        self.root, self.link = root, link
        self.engine = PlainEngine(root / "layers")
        self.layer = root / "layers" / "top"
        self.stack = [self.layer / "diff", root / "layers" / "low" / "diff"]
        self.engine.add(BASE, "low", "top")
        self._write("low", {"etc/keep": "low", "etc/drop": "low", "usr/bin/tool": "low"})
        self._write("top", {"etc/version": "12.0", "etc/old": "old", "srv/data/file": "data"})
        os.link(self.layer / "diff/etc/old", self.layer / "diff/etc/old-too")
        self.engine.remember("top")
        first = self._version("12.1", {"etc/version": "12.1", "usr/bin/tool": "new", "srv": "a file now"})
        second = self._version("12.2", {"etc/version": "12.2", "etc/more": "more", "srv/again/x": "x"})
        self.bundles = {
            "12.1": self._bundle("12.1", self.stack, first, "12.0"),
            "12.2": self._bundle("12.2", first, second, "12.1"),
        }
        self.views = {"12.0": show(self.stack), "12.1": show(first), "12.2": show(second)}

    @property
    def context(self) -> Context:
        return Context(self.engine, lambda source: source.source, "test", 0.0, link=self.link, grace=0)

    def converge(self, version: str, repair: bool = False) -> dict[str, object]:
        return ops_converge.converge(self.context, BASE, version, self.bundles, repair=repair)

    def plan(self, version: str, repair: bool = False) -> dict[str, object]:
        return preview.plan(self.context, Goal(BASE, version, self.bundles, repair=repair))

    def view(self) -> dict[bytes, VisibleEntry]:
        """What the kernel shows for the base now."""
        return show(self.stack)

    def _write(self, layer: str, files: dict[str, str]) -> Path:
        root = self.root / "layers" / layer / "diff"
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        return root

    def _version(self, version: str, files: dict[str, str]) -> list[Path]:
        """Another base, with nothing in common with this one."""
        root = self.root / "targets" / version
        for path, content in {"etc/keep": "low", **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        return [root]

    def _bundle(self, version: str, source: list[Path], target: list[Path], before: str) -> Source:
        path = self.root / f"{version}.tar"
        changes = compare(
            Stack([str(directory) for directory in source]), Stack([str(directory) for directory in target])
        )
        sides = self._image(before, source), self._image(version, target)
        platform = {"os": "linux", "architecture": "amd64"}
        written = writer.write(str(path), changes, *sides, platform, self._encoding(source))
        with Bundle.open(str(path)) as bundle:
            bundle.verify()
        return Source(str(path), written.digest)

    def _encoding(self, _source: list[Path]) -> Encoding:
        return FULL

    def _image(self, version: str, stack: list[Path]) -> ImageRef:
        base = self.engine.image(BASE).diff_ids
        diff_ids = base if version == "12.0" else (digest(version.encode()),)
        views = {chain_id(base[:-1]): self._digest(stack)} if self.views_in_bundles else {}
        return ImageRef(f"corp/base:{version}", version, chain_id(diff_ids), tuple(diff_ids), views)

    def _digest(self, stack: list[Path]) -> str:
        """The view digest of a stack over the base's lower layer."""

        def digest_of(_path: bytes, real: bytes) -> str:
            return digest(Path(os.fsdecode(real)).read_bytes()).removeprefix("sha256:")

        lower = Stack([str(directory) for directory in self.stack[1:]])
        over = chain_id(self.engine.image(BASE).diff_ids[:-1])
        return view_digest.digest(lower, over, Stack([str(directory) for directory in stack]), digest_of)

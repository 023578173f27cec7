"""The scan of application layers: which paths it reads, how often, and layers it cannot judge."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from baseimg_core.context import Context
from baseimg_core.disk.bundle import writer
from baseimg_core.disk.bundle.encoding import Encoding
from baseimg_core.disk.impact.layer_scan import LayerScanner, scan_layer
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.engine.base import Image
from baseimg_core.errors import LayerUnsupported
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.impact.overrides import ExpectedPath, ExpectedPaths, LayerEntry
from baseimg_core.model.policy.image_policy import DeclaredBundles
from baseimg_core.model.policy.pillar import Source
from baseimg_core.model.stack.entry import Entry, Kind
from baseimg_core.model.stack.ids import chain_id
from baseimg_core.model.stack.overlay import Mark
from baseimg_core.ops import impact
from tests.support.images import digest
from tests.support.plain import BASE, PlainEngine

FILE = Entry(Kind.FILE, 0o644)
MANY = [b"usr/lib/file-%d" % number for number in range(100)]


def expected_paths(*paths: bytes) -> ExpectedPaths:
    return ExpectedPaths({path: ExpectedPath(path, FILE) for path in paths})


def put(layer: Path, *paths: str) -> Path:
    for path in paths:
        (layer / path).parent.mkdir(parents=True, exist_ok=True)
        (layer / path).write_text("x")
    return layer


def test_only_entries_at_changed_paths_are_returned(tmp_path: Path) -> None:
    layer = put(tmp_path, "usr/lib/file-7", "usr/lib/other", "usr/bin/tool", "opt/x", "etc/y")
    assert scan_layer(str(layer), expected_paths(*MANY, b"etc")) == {
        b"usr": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
        b"usr/lib/file-7": LayerEntry(Mark.LEAF, Kind.FILE),
        b"etc": LayerEntry(Mark.DIRECTORY, Kind.DIRECTORY),
    }


def test_few_names_and_many_are_looked_up_alike(tmp_path: Path) -> None:
    layer = put(tmp_path, *(path.decode() for path in MANY[:5]))
    assert set(scan_layer(str(layer), expected_paths(*MANY))) == set(scan_layer(str(layer), expected_paths(*MANY[:5])))


def test_no_symlink_is_followed(tmp_path: Path) -> None:
    """The scan does not follow symlinks within the layer either: a container's mount resolves them."""
    put(tmp_path / "outside", "lib/file-1")
    layer = put(tmp_path / "layer", "lib/file-1")
    (layer / "usr").symlink_to(tmp_path / "outside")
    assert scan_layer(str(layer), expected_paths(b"usr/lib/file-1")) == {b"usr": LayerEntry(Mark.LEAF, Kind.SYMLINK)}


def test_a_layer_is_read_once(tmp_path: Path) -> None:
    shared, own = put(tmp_path / "shared", "usr/lib/file-1"), put(tmp_path / "own", "usr/lib/file-2")
    layers = LayerScanner(expected_paths(*MANY))
    first = layers.stack([str(own), str(shared)])
    shutil.rmtree(shared)
    assert layers.stack([str(shared)]) == first[1:]


def test_a_layer_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(LayerUnsupported, match="disappeared"):
        LayerScanner(expected_paths(b"a")).stack([str(tmp_path / "gone")])


class TestImages:
    """An image that cannot be judged is reported as an error; the other images get their verdicts."""

    @pytest.fixture
    def engine(self, tmp_path: Path) -> PlainEngine:
        engine = PlainEngine(tmp_path / "layers")
        engine.add(BASE, "base")
        for name in ("plain", "strange", "gone"):
            engine.add(f"corp/{name}:1", "base", name)
        put(tmp_path / "layers/base/diff", "usr/lib/file").joinpath("usr/lib/file").write_text("old")
        put(tmp_path / "layers/strange/diff", "usr/lib/file")
        os.setxattr(tmp_path / "layers/strange/diff/usr/lib/file", "trusted.overlay.metacopy", b"")
        shutil.rmtree(tmp_path / "layers/gone")
        return engine

    @pytest.fixture
    def bundle(self, tmp_path: Path, engine: PlainEngine) -> str:
        new = put(tmp_path / "new", "usr/lib/file", "usr/lib/more")
        changes = compare(Stack([str(tmp_path / "layers/base/diff")]), Stack([str(new)]))
        path = str(tmp_path / "bundle.tar")
        writer.write(path, changes, _side(engine.image(BASE)), _side(None), {"os": "linux"}, Encoding("gzip"))
        return path

    def test_unknown(self, engine: PlainEngine, bundle: str) -> None:
        context = Context(engine, lambda source: source.source, "test", 0.0)
        impacts = impact.impact(context, BASE, DeclaredBundles({"": Source(bundle)}))
        verdicts = {image["image"]: image["verdict"] for image in impacts["images"]}
        assert verdicts == {
            "corp/strange:1": "not-checked",
            "corp/gone:1": "not-checked",
            BASE: "effective",
            "corp/plain:1": "effective",
        }
        assert {verdict: count for verdict, count in impacts["verdicts"].items() if count} == {
            "effective": 2,
            "not-checked": 2,
        }
        warnings = {image["image"]: image["warnings"] for image in impacts["images"] if image["warnings"]}
        assert "metacopy" in warnings["corp/strange:1"][0]
        assert "disappeared" in warnings["corp/gone:1"][0]


def _side(image: Image | None) -> ImageRef:
    diff_ids = image.diff_ids if image else (digest(b"new"),)
    return ImageRef("corp/base", "12.0" if image else "12.1", chain_id(diff_ids), diff_ids)

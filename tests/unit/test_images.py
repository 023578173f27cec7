"""Images in archives and layouts: the same content from every form, and hostile forms refused in words."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.engine.images import layer as image_layer
from baseimg_core.engine.images.store import ImageSources, own_platform
from baseimg_core.errors import ArgumentInvalid, BaseimgError, DigestMismatch, ImageUnknown, LayerUnsupported
from baseimg_core.model.images import source
from baseimg_core.model.stack import ids
from baseimg_core.ops import build
from tests.support import images
from tests.support.images import ImageSpec, Member, chardev, directory, file, hardlink, symlink, whiteout
from tests.support.layout import Layout, blob_file

BASE, NEW = "corp/base:12.0", "corp/base:12.1"
OLD_LAYERS = [
    images.layer_tar(
        [directory("etc"), file("etc/version", b"12.0\n"), file("srv/gone", b"1"), symlink("lib", "usr/lib")]
    )
]
NEW_MEMBERS = [
    directory("etc", 0o711, 7, 8),
    file(
        "etc/version", b"12.1\n", 0o4755, 1000, 1001, xattrs={"security.capability": b"\1\0\0\2\0\4\0\0" + b"\0" * 12}
    ),
    file("etc/large", b"x" * 3_000_000),
    hardlink("etc/linked", "etc/large"),
    chardev("dev/null", 1, 3),
    whiteout("srv/gone"),
    file("usr/lib/a", b"a"),
]
STACKS = {BASE: OLD_LAYERS, NEW: [*OLD_LAYERS, images.layer_tar(NEW_MEMBERS)]}


def no_engine() -> Any:
    raise AssertionError("the engine was asked")


def no_registry(*_arguments: object) -> Any:
    raise AssertionError("a registry was asked")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[ImageSources]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with ImageSources(no_engine, no_registry, scratch=str(scratch)) as sources:
        yield sources
    assert not any(scratch.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "both.tar"
    path.write_bytes(images.archive([ImageSpec(ref, layers, {"Env": ["A=1"]}) for ref, layers in STACKS.items()]))
    return path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def built(sources: ImageSources, old: str, new: str, path: Path) -> str:
    done = build.build(sources, old, new, str(path), version="12.1", reference=BASE)
    assert (done["source"]["reference"], done["target"]["reference"]) == (BASE, NEW)
    assert done["platform"] == str(own_platform())
    return str(done["hash"])


def packed_layouts(tmp_path: Path, saved: Path) -> Iterator[tuple[str, str]]:
    """Yield the names of both images in each form that skopeo makes of an archive."""
    yield f"docker-archive:{saved}:{BASE}", f"docker-archive:{saved}:{NEW}"
    for name, options in (("oci", []), ("oci-archive", ["--dest-compress-format=zstd"]), ("docker-archive", [])):
        places = [f"{name}:{tmp_path / f'{name}-{ids.tag(ref)}'}:{ref}" for ref in STACKS]
        for ref, place in zip(STACKS, places, strict=True):
            command = ["skopeo", "--insecure-policy", "copy", "-q", *options, f"docker-archive:{saved}:{ref}", place]
            subprocess.run(command, check=True)
        yield places[0], places[1]


def test_one_bundle_from_every_form(tmp_path: Path, saved: Path, opened: ImageSources) -> None:
    digests = {
        old.partition(":")[0]: built(opened, old, new, tmp_path / "b.tar")
        for old, new in packed_layouts(tmp_path, saved)
    }
    assert len(digests) == 3
    assert len(set(digests.values())) == 1
    with Bundle.open(str(tmp_path / "b.tar")) as bundle:
        bundle.verify()
        members = {member.path: member for member, _stream in bundle.members()}
    entry = members[b"etc/version"].entry
    assert entry is not None
    assert (entry.mode, entry.uid, entry.gid, list(entry.xattrs)) == (0o4755, 1000, 1001, ["security.capability"])
    assert members[b"srv/gone"].removes
    assert members[b"etc/linked"].link == b"etc/large"


def test_own_names(saved: Path, opened: ImageSources, layout: Layout, tmp_path: Path) -> None:
    done = build.build(opened, f"docker-archive:{saved}:{BASE}", f"docker-archive:{saved}:{NEW}", "/x", test=True)
    assert (done["source"]["reference"], done["target"]["version"]) == (BASE, "12.1")
    layout.image("new", STACKS[NEW])
    done = build.build(opened, f"docker-archive:{saved}:{BASE}", f"oci:{layout.root}", "/x", test=True)
    assert done["target"]["reference"] == images.chain_id([images.diff_id(layer) for layer in STACKS[NEW]])
    assert build.layer(opened, f"oci:{layout.root}")["path"] == ""


def test_nothing_privileged_is_in_the_spool(saved: Path, tmp_path: Path, opened: ImageSources) -> None:
    """Owners, modes, attributes, symlinks and devices stay data."""
    build.diff(opened, f"docker-archive:{saved}:{BASE}", f"docker-archive:{saved}:{NEW}")
    paths = [Path(parent) / name for parent, _, names in os.walk(tmp_path / "scratch") for name in names]
    assert {path.name for path in paths} == {"version", "gone", "large", "linked", "a"}
    assert {oct(path.lstat().st_mode) for path in paths} == {"0o100600"}
    assert not any(os.listxattr(path) for path in paths)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressed_layers(opened: ImageSources, layout: Layout, pack: Callable[[bytes], bytes]) -> None:
    layout.image("a", OLD_LAYERS, pack, "application/vnd.oci.image.layer.v1.tar+gzip")
    layout.image("b", STACKS[NEW])
    assert build.diff(opened, f"oci:{layout.root}:a", f"oci:{layout.root}:b")["counts"]["removed"] == 1


class TestIndexes:
    def test_one_platform_of_several(self, layout: Layout, tmp_path: Path) -> None:
        for architecture in ("amd64", "arm64"):
            entry = layout.manifest([images.layer_tar([file(architecture)])], architecture=architecture)
            layout.index["manifests"].append({**entry, "platform": {"os": "linux", "architecture": architecture}})
        index = layout.add("application/vnd.oci.image.index.v1+json", json.dumps(layout.index).encode())
        layout.index["manifests"] = [index]
        layout.save()
        for name in ("amd64", "arm64"):
            with ImageSources(no_engine, no_registry, source.parse_platform(f"linux/{name}"), str(tmp_path)) as sources:
                assert sources.image(f"oci:{layout.root}").architecture == name
        with (
            ImageSources(no_engine, no_registry, source.parse_platform("linux/s390x"), str(tmp_path)) as sources,
            pytest.raises(ImageUnknown, match=r"only for linux/amd64, linux/arm64"),
        ):
            sources.image(f"oci:{layout.root}")

    def test_a_name_is_needed_or_unknown(self, opened: ImageSources, layout: Layout, saved: Path) -> None:
        layout.image("a", OLD_LAYERS)
        layout.image("b", STACKS[NEW])
        for name in (f"oci:{layout.root}", f"docker-archive:{saved}"):
            with pytest.raises(ArgumentInvalid, match="several images"):
                opened.image(name)
            with pytest.raises(ImageUnknown, match="has no image nothing"):
                opened.image(f"{name}:nothing")

    @pytest.mark.parametrize("name", ["oci:", "docker://base", "docker://u:hunter2@h.x/b:1", "docker-archive:"])
    def test_a_name_that_is_none(self, opened: ImageSources, name: str) -> None:
        with pytest.raises(ArgumentInvalid) as caught:
            opened.image(name)
        assert "hunter2" not in str(caught.value)

    def test_a_platform_that_is_none(self) -> None:
        with pytest.raises(ArgumentInvalid, match="OS/ARCHITECTURE"):
            source.parse_platform("amd64")


class TestRefused:
    """In typed errors that name the image, before anything is written."""

    def refused(self, sources: ImageSources, name: str, error: type[BaseimgError], match: str) -> None:
        with pytest.raises(error, match=match):
            build.pristine_stacks(sources, sources.image(name))

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign layer"),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", "foreign layer"),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted layer"),
            ("application/x-flat", "unknown type"),
        ],
    )
    def test_kinds_of_layers(self, opened: ImageSources, layout: Layout, kind: str, words: str) -> None:
        layout.image("a", OLD_LAYERS, kind=kind)
        self.refused(opened, f"oci:{layout.root}", LayerUnsupported, words)

    def test_schema_1_and_artifacts(self, opened: ImageSources, layout: Layout) -> None:
        for data, words in (
            ({"schemaVersion": 1}, "schema 1"),
            ({"schemaVersion": 2}, "not a manifest|not an image manifest"),
            ([], "not a manifest"),
        ):
            entry = layout.add("application/vnd.oci.image.manifest.v1+json", json.dumps(data).encode())
            layout.index["manifests"] = [entry]
            layout.save()
            self.refused(opened, f"oci:{layout.root}", LayerUnsupported, words)

    def test_another_diff_id_digest_and_length(self, opened: ImageSources, layout: Layout) -> None:
        layout.image("a", OLD_LAYERS, rootfs={"diff_ids": ["sha256:" + "1" * 64]})
        self.refused(opened, f"oci:{layout.root}", DigestMismatch, "diff ID")
        layout.index["manifests"] = []
        layout.image("b", STACKS[NEW])
        path = blob_file(layout.root, images.diff_id(STACKS[NEW][1]))
        path.write_bytes(path.read_bytes().replace(b"12.1", b"12.2"))
        self.refused(opened, f"oci:{layout.root}:b", DigestMismatch, "the layer sha256:")

    @pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
    def test_a_truncated_layer(self, opened: ImageSources, layout: Layout, pack: Callable[[bytes], bytes]) -> None:
        layout.image("a", [images.layer_tar([file("f", os.urandom(50_000))])], lambda layer: pack(layer)[:-30_000])
        self.refused(opened, f"oci:{layout.root}", BaseimgError, "damaged layer|diff ID")

    def test_a_changed_document(self, opened: ImageSources, layout: Layout) -> None:
        layout.image("a", OLD_LAYERS)
        path = blob_file(layout.root, layout.index["manifests"][0]["digest"])
        path.write_bytes(path.read_bytes() + b" ")
        self.refused(opened, f"oci:{layout.root}", DigestMismatch, "document")

    def test_a_bomb(self, opened: ImageSources, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_layer, "_RATIO_FROM", 1 << 20)
        layout.image("a", [images.layer_tar([file("zero", bytes(8 << 20))])], gzip.compress)
        self.refused(opened, f"oci:{layout.root}", LayerUnsupported, "200 times its size")

    def test_too_many_paths(self, opened: ImageSources, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_layer, "_MAX_ENTRIES", 3)
        layout.image("a", [images.layer_tar([file(name) for name in "abcd"])])
        self.refused(opened, f"oci:{layout.root}", LayerUnsupported, "more than 3 paths")

    def test_long_names(self, opened: ImageSources, layout: Layout) -> None:
        for number, name in enumerate(("x" * 256, "d/" * 2047 + "f", "d/" * 2100 + "f")):
            layout.image(str(number), [images.layer_tar([file(name)])])
            self.refused(opened, f"oci:{layout.root}:{number}", LayerUnsupported, "long path|4096 bytes")

    def test_a_sparse_file(self, opened: ImageSources, layout: Layout, tmp_path: Path) -> None:
        with (tmp_path / "holes").open("wb") as out:
            out.seek(1 << 20)
            out.write(b"x")
        tar = subprocess.run(["tar", "-cS", "-C", str(tmp_path), "holes"], check=True, stdout=subprocess.PIPE).stdout
        layout.image("a", [tar])
        self.refused(opened, f"oci:{layout.root}", LayerUnsupported, "sparse file holes")

    def test_files_that_are_no_archives(self, opened: ImageSources, tmp_path: Path, saved: Path) -> None:
        path = tmp_path / "x"
        for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"no number.."):  # negative, huge, malformed
            path.write_bytes(b"x" * 124 + size.ljust(12) + b"0" * 4000)
            self.refused(opened, f"oci-archive:{path}", LayerUnsupported, "is not an image archive")
        path.write_bytes(gzip.compress(saved.read_bytes()))
        self.refused(opened, f"docker-archive:{path}", ArgumentInvalid, "gunzip")
        path.write_bytes(saved.read_bytes()[:-300_000])
        self.refused(opened, f"docker-archive:{path}:{NEW}", BaseimgError, "truncated|manifest.json")
        self.refused(opened, f"docker-archive:{tmp_path}/none", BaseimgError, "No such file")
        self.refused(opened, f"oci:{tmp_path}/none", ImageUnknown, "is not a directory")


class TestSpool:
    def content(self, sources: ImageSources, layout: Layout, *members: Member) -> dict[str, bytes]:
        layout.image("a", [images.layer_tar(members)])
        (stack,) = build.pristine_stacks(sources, sources.image(f"oci:{layout.root}"))
        (root,) = stack.layers
        return {
            os.fsdecode(path): Path(os.fsdecode(root + b"/" + path)).read_bytes()
            for path in stack.files_below([b""])
            if (node := stack.find(path)) and stack.read(node.top)[0].kind.value == "file"
        }

    def test_paths_that_the_tar_has_again(self, opened: ImageSources, layout: Layout) -> None:
        assert self.content(
            opened,
            layout,
            *(file("f", b"old"), hardlink("g", "f"), file("f", b"new"), directory("d"), file("d/x", b"x")),
            *(file("d", b"now a file"), symlink("l", "e"), directory("e"), file("l/y", b"through"), file("s", b"s")),
            *(symlink("s", "/etc"), file("p", b"p"), file("p/q", b"below")),
        ) == {"f": b"new", "g": b"old", "d": b"now a file", "e/y": b"through", "p/q": b"below"}

    def test_names_that_lead_out(self, opened: ImageSources, layout: Layout, tmp_path: Path) -> None:
        hostile = [
            symlink("up", str(tmp_path)),
            file("up/evil", b"1"),
            file("../../../evil", b"2"),
            file("/evil", b"3"),
        ]
        content = self.content(opened, layout, *hostile)
        assert content["evil"] == b"3"
        assert [path for path in tmp_path.rglob("evil") if "scratch" not in path.parts] == []

    def test_members_of_an_archive_through_symlinks(self, tmp_path: Path, opened: ImageSources) -> None:
        """The old layout of docker save has equal layers as symlinks: ../ID/layer.tar."""
        path, name = tmp_path / "old.tar", "1" * 64 + "/layer.tar"
        with tarfile.open(fileobj=io.BytesIO(images.image_archive(BASE, OLD_LAYERS))) as whole:
            contents = {member.name: whole.extractfile(member).read() for member in whole}  # type: ignore[union-attr]
        (manifest,) = json.loads(contents.pop("manifest.json"))
        link = symlink(name, "../" + manifest["Layers"][0])
        listed = json.dumps([{**manifest, "Layers": [name]}]).encode()
        path.write_bytes(
            images.layer_tar([link, file("manifest.json", listed), *map(file, contents, contents.values())])
        )
        (stack,) = build.pristine_stacks(opened, opened.image(f"docker-archive:{path}"))
        assert stack.find(b"etc/version")

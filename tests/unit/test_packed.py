"""The content of a layer's tar, independent of the engine's directory for that layer."""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import zstandard

from baseimg_core.disk.stack import view_digest
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.disk.stack.packed import Extras, PackedStack, extras
from baseimg_core.engine import snapshots, tarsplit
from baseimg_core.engine.base import Image
from baseimg_core.engine.packed import Sequential, TarDamaged, read_layer
from baseimg_core.errors import LayerUnsupported, PristineDamaged
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.stack import ids
from baseimg_core.model.stack.entry import Kind
from baseimg_core.model.stack.overlay import Mark
from baseimg_core.model.stack.packed import PackedLayer
from baseimg_core.ops.view_digest import with_view_digests
from tests.support import images
from tests.support.images import EPOCH, Member, directory, file, hardlink, opaque, symlink, whiteout
from tests.support.legacy import tar_split


def packed(*members: Member) -> PackedLayer:
    return read_layer(Sequential(io.BytesIO(images.layer_tar(members))))  # type: ignore[arg-type]


def marks(layer: PackedLayer, path: bytes = b"") -> dict[bytes, Mark]:
    return dict(layer.listing(path))


class TestPaths:
    def test_a_parent_that_the_tar_does_not_name_is_unspecified(self) -> None:
        layer = packed(file("a/b/c"), directory("a", 0o700))
        assert marks(layer) == {b"a": Mark.DIRECTORY}
        assert list(layer.unspecified()) == [b"a/b"]
        assert (layer.entry(b"a") or layer).mode == 0o700  # type: ignore[union-attr]

    @pytest.mark.parametrize("name", ["./d/f", "/d/f", "d//f", "x/../d/f", "../d/./f"])
    def test_spellings_of_one_path(self, name: str) -> None:
        layer = packed(file(name, b"12"))
        assert layer.mark(b"d/f") is Mark.LEAF

    def test_marks(self) -> None:
        layer = packed(whiteout("gone"), opaque("d"), file("d/.wh..wh.plnk"), file("d/new"), whiteout("again"))
        assert marks(layer) == {b"gone": Mark.WHITEOUT, b"d": Mark.DIRECTORY, b"again": Mark.WHITEOUT}
        assert layer.is_opaque(b"d")
        assert marks(layer, b"d") == {b"new": Mark.LEAF}

    def test_the_last_entry_of_a_path_decides(self) -> None:
        layer = packed(
            directory("d"), file("d/f"), file("d", b"now a file"), whiteout("w"), file("w"), file("x"), whiteout("x")
        )
        assert marks(layer) == {b"d": Mark.LEAF, b"w": Mark.LEAF, b"x": Mark.LEAF}
        assert marks(layer, b"d") == {}

    def test_a_name_below_a_symlink_of_its_layer(self) -> None:
        """Engines write the file through the symlink, below the layer's root."""
        layer = packed(
            directory("usr/lib"), symlink("lib", "usr/lib"), file("lib/f"), symlink("abs", "/../usr"), file("abs/g")
        )
        assert marks(layer, b"usr/lib") == {b"f": Mark.LEAF}
        assert marks(layer, b"usr") == {b"lib": Mark.DIRECTORY, b"g": Mark.LEAF}
        assert marks(layer)[b"lib"] is Mark.LEAF

    def test_symlinks_that_go_round(self) -> None:
        assert packed(symlink("a", "b"), symlink("b", "a"), file("a/f")).mark(b"a") is not Mark.ABSENT


class TestMetadata:
    def test_entries(self) -> None:
        layer = packed(
            file("f", b"123", 0o4755, 7, 8, 1.25, xattrs={"user.a": b"\0\xff\n=", "user.none": b""}),
            symlink("s", "target"),
            images.chardev("c", 1, 3),
        )
        entry = layer.entry(b"f")
        assert entry is not None
        assert (entry.kind, entry.mode, entry.uid, entry.gid, entry.size) == (Kind.FILE, 0o4755, 7, 8, 3)
        assert entry.mtime_ns == 1_250_000_000
        assert entry.xattrs == {"user.a": b"\0\xff\n="}  # pax(1): an empty value deletes its record
        link, device = layer.entry(b"s"), layer.entry(b"c")
        assert link
        assert device
        assert (link.target, device.device) == (b"target", (1, 3))

    def test_hard_links(self) -> None:
        layer = packed(file("a", b"1"), hardlink("b", "a"), hardlink("c", "b"), file("d"))
        assert layer.hard_links(b"b") == layer.hard_links(b"a") == [b"a", b"b", b"c"]
        assert layer.hard_links(b"d") == []
        assert (layer.entry(b"c"), layer.mark(b"c")) == (layer.entry(b"a"), Mark.LEAF)

    def test_a_path_that_the_tar_has_again_leaves_its_hard_links(self) -> None:
        layer = packed(file("a", b"1"), hardlink("b", "a"), hardlink("c", "a"), file("a", b"2"))
        assert layer.hard_links(b"a") == []
        assert layer.hard_links(b"b") == layer.hard_links(b"c") == [b"b", b"c"]

    def test_a_hard_link_to_another_layer_is_refused(self) -> None:
        with pytest.raises(LayerUnsupported, match="hard link b refers to a"):
            packed(hardlink("b", "a"))


class TestForms:
    """Tar forms that engines accept, as ``tarfile`` writes them."""

    MEMBERS = (
        directory("d" * 90 + "/" + "e" * 90, 0o711),
        file("d" * 90 + "/" + "e" * 90 + "/" + "n" * 200, b"1" * 700, uid=3_000_000),
        file("d" * 90 + "/f", b"2", mtime=5_000_000_000),
        symlink("s", "t" * 200),
        file("old", b"3", mtime=-5),
        images.fifo("p"),
    )

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_long_names_and_large_numbers(self, form: int) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form, pax_headers={"comment": "global"}) as tar:
            for member in self.MEMBERS:
                info = tarfile.TarInfo(member.path)
                info.type, info.linkname, info.size = member.type, member.target, len(member.content)
                info.mode, info.uid, info.mtime = member.mode, member.uid, member.mtime
                tar.addfile(info, io.BytesIO(member.content))
        layer = read_layer(Sequential(io.BytesIO(out.getvalue())))  # type: ignore[arg-type]
        for member in self.MEMBERS:
            entry = layer.entry(os.fsencode(member.path))
            assert entry is not None, member.path
            assert (entry.mode, entry.uid, entry.mtime) == (member.mode, member.uid, member.mtime)
            assert (entry.size, entry.target) == (len(member.content), os.fsencode(member.target))

    @pytest.mark.parametrize("form", ["gnu", "pax"])
    def test_sparse_files(self, tmp_path: Path, form: str) -> None:
        with open(tmp_path / "sparse", "wb") as out:
            for hole in range(40):
                out.seek(hole * 100_000)
                out.write(b"x")
        (tmp_path / "zz").write_bytes(b"1")
        command = ["tar", "-C", str(tmp_path), f"--format={form}", "--sparse", "-cf", "-", "sparse", "zz"]
        tar = subprocess.run(command, check=True, capture_output=True).stdout
        layer = read_layer(Sequential(io.BytesIO(tar)))  # type: ignore[arg-type]
        sizes = {name: entry and entry.size for name, entry in layer.children(b"").items()}
        assert sizes == {b"sparse": 3_900_001, b"zz": 1}

    @pytest.mark.parametrize("cut", [1, 511, 600, 1100])
    def test_a_truncated_tar_is_damaged(self, cut: int) -> None:
        tar = images.layer_tar([file("n" * 150, b"1"), file("m" * 150, b"1")])
        with pytest.raises(TarDamaged, match=r"tar|record|invalid"):
            read_layer(Sequential(io.BytesIO(tar[:cut])))  # type: ignore[arg-type]


class Broken(io.BytesIO):
    """A stream with the tar of a layer, whose second read fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(images.layer_tar([file("f", b"1" * 100_000)]))
        self._error = error

    def peek(self, size: int = 0, /) -> bytes:
        return self.getvalue()[:size]

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise self._error
        return super().read(size)


class TestBlob:
    """A blob of containerd's content store, plain or compressed."""

    @staticmethod
    def blob(data: bytes) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]

    def test_it_is_read_only_if_its_digest_is_right(self, tmp_path: Path) -> None:
        tar = images.layer_tar([file("f", b"1")])
        for data in (tar, gzip.compress(tar), zstandard.compress(tar)):
            layer = snapshots._read_packed(self.blob(data), images.diff_id(tar))
            assert layer is not None
            assert layer.mark(b"f") is Mark.LEAF
            assert snapshots._read_packed(self.blob(data), "sha256:0") is None
            (tmp_path / "f").write_bytes(b"1")
            assert snapshots._compare(self.blob(data), images.diff_id(tar), os.fsencode(tmp_path))

    @pytest.mark.parametrize("cut", [0, 3, 40, -9, -1])
    @pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
    def test_a_damaged_one_proves_nothing(self, tmp_path: Path, compress: Callable[[bytes], bytes], cut: int) -> None:
        tar = images.layer_tar([file("f", os.urandom(3000))])
        whole = compress(tar)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 255
        for data in (whole[:cut], bytes(flipped)):
            assert snapshots._read_packed(self.blob(data), images.diff_id(tar)) is None
            assert snapshots._compare(self.blob(data), images.diff_id(tar), os.fsencode(tmp_path)) is None

    @pytest.mark.parametrize(
        "error", [io.UnsupportedOperation("not readable"), OSError(errno.EIO, "failed"), TypeError()]
    )
    def test_other_errors_are_not_hidden(self, tmp_path: Path, error: Exception) -> None:
        """They are a failing disk, or a mistake in the program: a layer without its packed form looks the same."""
        for read in (
            lambda blob: snapshots._read_packed(blob, "sha256:0"),
            lambda blob: snapshots._compare(blob, "sha256:0", os.fsencode(tmp_path)),
        ):
            with pytest.raises(type(error)):
                read(Broken(error))

    def test_an_unreadable_file_is_not_a_changed_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tar = images.layer_tar([file("f", b"1")])

        def fails(*_arguments: object) -> int:
            raise OSError(errno.EIO, "failed")

        monkeypatch.setattr(snapshots.os, "open", fails)
        with pytest.raises(OSError, match="failed"):
            snapshots._compare(self.blob(tar), images.diff_id(tar), os.fsencode(tmp_path))


class TestTarSplit:
    def test_the_record_gives_what_the_tar_gives(self, tmp_path: Path) -> None:
        members = [file(f"d/{number}", b"x" * number * 1000, 0o600 + number) for number in range(100)]
        tar = images.layer_tar(members)
        (tmp_path / "record").write_bytes(tar_split(tar))
        layer, direct = tarsplit.layer(str(tmp_path / "record")), read_layer(Sequential(io.BytesIO(tar)))  # type: ignore[arg-type]
        assert layer is not None
        assert len(layer.children(b"d")) == 100
        assert layer.children(b"d") == direct.children(b"d")

    @pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08\0", b"no gzip"])
    def test_a_damaged_record_is_none(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "record").write_bytes(data)
        assert tarsplit.layer(str(tmp_path / "record")) is None
        assert tarsplit.layer(str(tmp_path / "absent")) is None


def unpack(root: Path, files: Iterable[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12")
    return root


class TestStack:
    def test_a_directory_that_has_more_than_its_tar(self, tmp_path: Path) -> None:
        """A builder's extra sockets, files and attributes, and times of unnamed parents, are not differences."""
        root = unpack(tmp_path / "new", ["d/f", "d/extra", "more/below/this"])
        os.mknod(root / "s", stat.S_IFSOCK | 0o600)
        os.setxattr(root / "d/f", "user.builder", b"1")
        layer = packed(file("d/f", b"12"))
        stack = PackedStack({str(root): layer})
        changes = compare(PackedStack({str(tmp_path): packed()}), stack)
        assert [change.path for change in changes] == [b"d", b"d/f"]
        assert [change.entry for change in changes] == [layer.entry(b"d"), layer.entry(b"d/f")]
        assert extras(str(root), layer) == Extras(paths=3, attributes=1)

    def test_unspecified_metadata_is_no_change(self, tmp_path: Path) -> None:
        root = str(unpack(tmp_path, ["d/f"]))
        named = packed(directory("d", 0o700, 7, 8), file("d/f", b"12"))
        unnamed = packed(file("d/f", b"12"))
        source, target = PackedStack({root + "/.": named}), PackedStack({root: unnamed})
        assert compare(source, target) == []
        assert list(target.unspecified([os.fsencode(root)])) == [b"d"]
        # the reverse direction: the attributes on the node are unknown
        assert [change.path for change in compare(target, source)] == [b"d"]

    def test_hard_links_come_from_the_tar(self, tmp_path: Path) -> None:
        root = unpack(tmp_path, ["a", "b", "c"])
        (root / "c").unlink()
        os.link(root / "a", root / "c")  # deduplicated files of containers/storage are hard links
        linked = packed(file("a", b"12"), hardlink("b", "a"), file("c", b"12"))
        changes = {change.path: change for change in compare(PackedStack({}), PackedStack({str(root): linked}))}
        assert (changes[b"b"].link, changes[b"c"].link) == (b"a", None)

    def test_the_view_leaves_out_an_unnamed_directory_of_a_lower_layer(self, tmp_path: Path) -> None:
        """The bundle recreates it in the node's top layer, with other metadata than the directory below."""
        low, new, staged = (unpack(tmp_path / name, ["b", "d/e/in"]) for name in ("low", "new", "staged"))
        top = unpack(tmp_path / "top", ["b"])
        shutil.rmtree(new / "d")
        for path in tmp_path.rglob("*"):
            path.chmod(0o644 if path.is_file() else 0o755)
            os.utime(path, (EPOCH, EPOCH))
        os.utime(staged / "d/e", (0, 0))
        below = packed(file("b", b"12"), file("d/e/in", b"12"))
        source = PackedStack({str(top): packed(file("b", b"12"), whiteout("d")), str(low): below})
        target = PackedStack({str(new): packed(file("b", b"12")), str(low): below})
        diff_ids = (images.digest(b"low"), images.digest(b"top"))
        image = Image("", (), diff_ids, (), "linux", "amd64")
        side = ImageRef("corp/base:1", "1", image.chain_id, diff_ids)
        _source, promised = with_view_digests((side, image, source), (side, image, target))
        staged_view = view_digest.digest(
            Stack([str(low)]),
            ids.chain_id(diff_ids[:1]),
            Stack([str(staged), str(low)]),
            lambda _path, real: images.digest(Path(os.fsdecode(real)).read_bytes()).removeprefix("sha256:"),
            promised.unspecified,
        )
        assert staged_view == promised.view_over(diff_ids[:1])

    def test_a_full_comparison_lists_every_path_whose_hard_links_differ(self, tmp_path: Path) -> None:
        old = packed(file("a", b"12"), hardlink("b", "a"), hardlink("c", "a"))
        new = packed(file("a", b"12"), hardlink("b", "a"))
        roots = [str(unpack(tmp_path / name, ["a", "b", "c"])) for name in ("old", "new")]
        source, target = PackedStack({roots[0]: old}), PackedStack({roots[1]: new})
        assert [change.path for change in compare(source, target)] == [b"c"]
        listed = {change.path: change.what for change in compare(source, target, links=True)}
        assert listed == {b"a": ("links",), b"b": ("links",), b"c": ()}

    @pytest.mark.parametrize("damage", ["missing", "longer", "type"])
    def test_a_directory_that_lost_what_its_tar_has(self, tmp_path: Path, damage: str) -> None:
        root = unpack(tmp_path, ["d/f"])
        if damage == "longer":
            (root / "d/f").write_bytes(b"123")
        else:
            (root / "d/f").unlink()
        if damage == "type":
            (root / "d/f").mkdir()
        with pytest.raises(PristineDamaged, match="d/f"):
            extras(str(root), packed(file("d/f", b"12")))

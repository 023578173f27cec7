"""Files of the old shell scripts, as text and tars, and an engine's record of a layer."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.bundle import tar_entry
from baseimg_core.disk.legacy import archive as legacy_archive
from baseimg_core.disk.legacy import reconstruct
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.engine import tarsplit
from baseimg_core.errors import LayerUnsupported, LegacyInvalid
from baseimg_core.model.legacy import crc64, properties
from tests.support import images
from tests.support.images import Member, directory, file, hardlink, opaque, symlink, whiteout
from tests.support.kernel import differences, snapshot
from tests.support.legacy import crc64 as textbook
from tests.support.legacy import tar_split

SOUND = "base.dir=/var/lib/docker/overlay2/abc/diff\nbase.ver=12.1\n"


class TestProperties:
    @pytest.mark.parametrize(
        "text",
        [
            SOUND,
            SOUND.replace("\n", "\r\n"),
            "# made by a script\n! too\n\n" + SOUND,
            " base.ver = 12.1 \nother=x\nbase.dir\t=\t/var//lib/docker/overlay2/abc/diff/\n",
            SOUND + SOUND,
        ],
    )
    def test_sound(self, text: str) -> None:
        parsed = properties.parse(text, "file")
        assert (parsed.directory, parsed.version) == ("/var/lib/docker/overlay2/abc/diff", "12.1")

    @pytest.mark.parametrize("text", ["", "base.dir", SOUND.replace("/var", "var"), SOUND.replace("12.1", "a/b")])
    def test_malformed(self, text: str) -> None:
        with pytest.raises(LegacyInvalid) as error:
            properties.parse(text, "the file")
        assert error.value.message.startswith("the file: ")
        assert error.value.hint

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Any text gives two valid values or one typed error."""
        try:
            parsed = properties.parse(text, "file")
        except LegacyInvalid:
            return
        assert parsed.directory.startswith("/")
        assert parsed.version

    @pytest.mark.parametrize(
        ("name", "version"),
        [
            ("BASE-12.1-diff.tar.gz", "12.1"),
            ("BASE-12.1-diff-diff.tar.gz", "12.1-diff"),
            ("BASE--diff.tar.gz", None),
            ("base-12.1-diff.tar.gz", None),
            ("BASE-12.1-diff.tar", None),
        ],
    )
    def test_name_of_an_archive(self, name: str, version: str | None) -> None:
        assert properties.version_of_archive(name) == version

    def test_an_adopted_content_is_never_called_like_the_original(self) -> None:
        assert properties.adopted_version("12.1", {"12.0"}) == "12.1"
        assert properties.adopted_version("12.0", {"12.0"}) == "12.0-adopted"


class TestChecksum:
    def test_of_go(self) -> None:
        """Catalogues of checksums list this check value for CRC-64/GO-ISO."""
        assert crc64.update(0, b"123456789") == 0xB90956C775A41001
        assert textbook(b"123456789") == 0xB90956C775A41001

    @given(st.binary(max_size=3000))
    def test_as_in_textbooks(self, data: bytes) -> None:
        assert crc64.update(0, data) == textbook(data)

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 63, 64, 65, 1023, 1024, 1025, 65535, 65536, 65537])
    def test_of_all_sizes(self, size: int) -> None:
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        assert crc64.update(0, data) == textbook(data)

    @given(st.binary(max_size=300), st.binary(max_size=300))
    def test_in_parts(self, first: bytes, second: bytes) -> None:
        assert crc64.update(crc64.update(0, first), second) == crc64.update(0, first + second)


MEMBERS = [
    directory("etc", 0o751, 3, 4, mtime=1_500_000_000.5),
    file("etc/file", b"content", 0o4755, 1, 2, mtime=1_500_000_000.25, xattrs={"user.a": b"\xff\n="}),
    file(b"etc/\xff", b"x" * 1000),
    hardlink("etc/link", "etc/file"),
    file("etc/empty"),
    symlink("etc/sym", "file"),
    images.fifo("etc/fifo"),
    images.chardev("etc/null", 1, 3),
    whiteout("etc/gone"),
    opaque("hidden"),
    file("implied/by/file", b"y"),
    file("n" * 100 + "/" + "m" * 100 + "/" + "o" * 100, b"long"),
]


def record(path: Path, tar: bytes) -> str:
    path.write_bytes(tar_split(tar))
    return str(path)


class TestRecord:
    def test_headers(self, tmp_path: Path) -> None:
        headers = tarsplit.headers(record(tmp_path / "r", images.layer_tar(MEMBERS)))
        assert headers is not None
        assert [info.name.encode("utf-8", "surrogateescape") for info, _ in headers] == [
            os.fsencode(member.path) for member in MEMBERS
        ]
        for (info, checksum), member in zip(headers, MEMBERS, strict=True):
            assert checksum == (textbook(member.content).to_bytes(8, "big") if member.content else b"")
            assert tar_entry.entry_of(info, None if not info.islnk() else tar_entry.Kind.FILE).mode == (
                0o4755 if info.islnk() else member.mode
            )

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_every_form_of_tar(self, tmp_path: Path, form: int) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name in ("short", "long" * 60):
                info = tarfile.TarInfo(name)
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        headers = tarsplit.headers(record(tmp_path / "r", out.getvalue()))
        assert headers is not None
        assert [info.name for info, _ in headers] == ["short", "long" * 60]
        assert {checksum for _, checksum in headers} == {textbook(b"abc").to_bytes(8, "big")}

    @pytest.mark.parametrize(
        "content",
        [b"", b"garbage", *(gzip.compress(text) for text in (b"[]\n", b'{"type": 2}\n', b"{\n"))],
        ids=["empty", "garbage", "list", "no tar", "no JSON"],
    )
    def test_a_damaged_one(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "r").write_bytes(content)
        assert not tarsplit.headers(str(tmp_path / "r"))

    def test_none(self, tmp_path: Path) -> None:
        assert tarsplit.headers(str(tmp_path / "r")) is None


class TestRebuild:
    """A layer rebuilt from a directory with the members' content matches the original tar."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        root = tmp_path / "source"
        for member in MEMBERS:
            if member.content:
                path = Path(os.fsdecode(os.path.join(os.fsencode(root), os.fsencode(member.path))))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(member.content)
        return root

    @staticmethod
    def rebuild(tmp_path: Path, tar: bytes, *sources: Path) -> reconstruct.Rebuilt:
        headers = tarsplit.headers(record(tmp_path / "r", tar))
        assert headers is not None
        (tmp_path / "new").mkdir()
        named = [(str(number), str(path)) for number, path in enumerate(sources)]
        return reconstruct.rebuild(str(tmp_path / "new"), headers, named)

    def test_everything(self, tmp_path: Path, source: Path) -> None:
        tar = images.layer_tar(MEMBERS)
        made = self.rebuild(tmp_path, tar, source)
        assert (made.missing, made.files) == ([], {"0": 4})
        assert tarsplit.matches(str(tmp_path / "r"), str(tmp_path / "new"), images.digest(tar))
        new = tmp_path / "new"
        st = (new / "etc/file").stat()
        assert (st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_nlink) == (0o4755, 1, 2, 2)
        assert st.st_mtime_ns == 1_500_000_000_250_000_000
        assert os.getxattr(new / "etc/file", "user.a") == b"\xff\n="
        assert (new / "etc").stat().st_mtime_ns == 1_500_000_000_500_000_000
        assert (new / "etc/gone").stat().st_rdev == 0
        assert os.getxattr(new / "hidden", "trusted.overlay.opaque") == b"y"
        assert os.stat(new / "implied/by").st_mtime_ns == os.stat(source / "implied/by").st_mtime_ns

    @pytest.mark.parametrize(
        "change",
        [
            lambda new: (new / "etc/file").write_bytes(b"contents"),
            lambda new: (new / "etc/file").write_bytes(b"conten"),
            lambda new: (new / "etc/empty").write_bytes(b"x"),
            lambda new: (new / "etc/empty").unlink(),
            lambda new: (new / "etc/added").touch(),
            lambda new: (new / "etc/more").mkdir(),
            lambda new: (new / "implied/by/.wh.file").touch(),
        ],
    )
    def test_what_is_no_longer_as_it_was_is_seen(
        self, tmp_path: Path, source: Path, change: Callable[[Path], object]
    ) -> None:
        tar = images.layer_tar(MEMBERS)
        self.rebuild(tmp_path, tar, source)
        change(tmp_path / "new")
        assert not tarsplit.matches(str(tmp_path / "r"), str(tmp_path / "new"), images.digest(tar))

    def test_each_file_comes_from_where_it_is_right(self, tmp_path: Path, source: Path) -> None:
        other = tmp_path / "other"
        (other / "etc").mkdir(parents=True)
        (other / "etc/file").write_bytes(b"CONTENT")
        (other / "implied").symlink_to(source / "implied")
        made = self.rebuild(tmp_path, images.layer_tar(MEMBERS), other, source)
        assert (made.missing, made.files) == ([], {"1": 4})

    def test_what_is_nowhere_is_told_with_its_links(self, tmp_path: Path, source: Path) -> None:
        (source / "etc/file").write_bytes(b"CONTENT")
        assert self.rebuild(tmp_path, images.layer_tar(MEMBERS), source).missing == [b"etc/file", b"etc/link"]

    @pytest.mark.parametrize(
        "member",
        [
            file("../out", b"x"),
            file("etc/../../out", b"x"),
            Member("etc/file/below", tarfile.REGTYPE),
            Member("odd", b"Z"),
            symlink("etc", "/tmp"),
        ],
    )
    def test_a_layer_that_is_not_handled(self, tmp_path: Path, source: Path, member: Member) -> None:
        with pytest.raises(LayerUnsupported):
            self.rebuild(tmp_path, images.layer_tar([*MEMBERS, member]), source)


def _tar(*members: Member) -> bytes:
    return gzip.compress(images.layer_tar(members), 1)


def _bomb() -> bytes:
    """Return a header that declares more bytes than any disk has."""
    info = tarfile.TarInfo("huge")
    info.size = 1 << 60
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no gzip": lambda: b"no gzip",
    "nothing": lambda: b"",
    "no tar": lambda: gzip.compress(b"x" * 2000),
    "truncated": lambda: _tar(file("a", os.urandom(100_000)))[:50_000],
    "truncated header": lambda: gzip.compress(images.layer_tar([file("a", b"x" * 5000)])[:1500]),
    "absolute name": lambda: _tar(file("/etc/passwd", b"x")),
    "parent": lambda: _tar(file("../out", b"x")),
    "parent in the middle": lambda: _tar(file("a/../../out", b"x")),
    "below a symlink": lambda: _tar(symlink("a", "/tmp"), file("a/out", b"x")),
    "below a symlink to the parent": lambda: _tar(symlink("a", ".."), file("a/out", b"x")),
    "below a file": lambda: _tar(file("a"), file("a/out", b"x")),
    "over a symlink": lambda: _tar(symlink("a", "/tmp/out"), file("a", b"x")),
    "twice": lambda: _tar(file("a", b"1"), file("a", b"2")),
    "a directory over a file": lambda: _tar(file("a"), directory("a")),
    "hard link to outside": lambda: _tar(hardlink("a", "/etc/passwd")),
    "hard link to a parent": lambda: _tar(hardlink("a", "../../etc/passwd")),
    "hard link to nothing": lambda: _tar(hardlink("a", "b")),
    "hard link to a symlink's target": lambda: _tar(symlink("a", "/etc"), hardlink("b", "a/passwd")),
    "block device": lambda: _tar(images.blockdev("a", 8, 0)),
    "character device": lambda: _tar(images.chardev("a", 1, 1)),
    "first below diff, then not": lambda: _tar(directory("./diff"), file("./diff/etc/a"), file("./etc/b")),
    "a root that no image has": lambda: _tar(directory("."), directory("./rootfs"), file("./rootfs/etc")),
    "a link out of diff": lambda: _tar(file("diff/a"), hardlink("diff/b", "etc/passwd")),
    "unknown type": lambda: _tar(Member("a", b"Z")),
}


class TestHostileArchives:
    @pytest.mark.parametrize("case", HOSTILE)
    def test_one_typed_error_and_nothing_outside(self, tmp_path: Path, case: str) -> None:
        archive, root, source = tmp_path / "a.tar.gz", tmp_path / "in/root", tmp_path / "source"
        root.mkdir(parents=True)
        source.mkdir()
        archive.write_bytes(HOSTILE[case]())
        with pytest.raises(LegacyInvalid) as error:
            legacy_archive.unpack(str(archive), str(root), Stack([str(source)]))
        assert error.value.hint
        assert os.listdir(tmp_path / "in") == ["root"]
        assert not list(source.iterdir())

    def test_a_size_that_no_disk_has(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "a").write_bytes(_bomb())
        with pytest.raises(Exception, match="space-exhausted"):
            legacy_archive.unpack(str(tmp_path / "a"), str(tmp_path / "root"), Stack([]))

    def test_a_sound_one(self, tmp_path: Path) -> None:
        members = [
            *(directory("."), directory("./etc", 0o700), file("./etc/file", b"x", 0o4711, 1, 2)),
            *(hardlink("./etc/link", "./etc/file"), symlink("./etc/sym", "/etc/shadow"), images.fifo("./pipe")),
            images.chardev("./etc/gone", 0, 0),
        ]
        (tmp_path / "a").write_bytes(_tar(*members))
        for name in ("root", "truth", "source/etc"):
            (tmp_path / name).mkdir(parents=True)
        unpacked = legacy_archive.unpack(str(tmp_path / "a"), str(tmp_path / "root"), Stack([str(tmp_path / "source")]))
        os.system(f"tar -xpzf {tmp_path / 'a'} -C {tmp_path / 'truth'}")
        assert unpacked.removed == [b"etc/gone"]
        view, truth = snapshot(tmp_path / "root"), snapshot(tmp_path / "truth")
        assert view.pop(b"etc/gone").rdev == truth.pop(b"etc/gone").rdev == (0, 0)
        assert differences(view, truth) == []

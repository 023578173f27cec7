"""Files at paths that an operator gave: regular files are replaced, and nothing else is removed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from baseimg_core import cli
from baseimg_core.disk.bundle import judgement
from baseimg_core.disk.impact import results
from baseimg_core.errors import BaseimgError, DestinationUnwritable
from baseimg_core.linux import output
from baseimg_core.model.impact.judgement import Attachment
from baseimg_core.ops import public_file
from baseimg_core.registry import images as registry_images
from tests.support import images, ssh

OLD, NEW = "corp/base:12.0", "corp/base:12.1"
LAYERS = [images.layer_tar([images.file("a", content)]) for content in (b"old", b"new")]


def occupy_with_directory(path: Path) -> None:
    path.mkdir()
    (path / "thesis").write_text("three years")


def occupy_with_link(path: Path) -> None:
    path.with_name("thesis").write_text("three years")
    path.symlink_to("thesis")


@pytest.fixture(params=[occupy_with_directory, occupy_with_link, os.mkfifo], ids=["directory", "symlink", "fifo"])
def occupy(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def archive(tmp_path: Path) -> str:
    path = tmp_path / "images.tar"
    specs = [images.ImageSpec(OLD, LAYERS[:1]), images.ImageSpec(NEW, LAYERS), images.ImageSpec("app:1", LAYERS[:1])]
    path.write_bytes(images.archive(specs))
    return f"docker-archive:{path}"


@pytest.fixture
def bundle(tmp_path: Path, archive: str) -> Path:
    assert cli.main(["build", f"{archive}:{OLD}", f"{archive}:{NEW}", str(tmp_path / "b.tar")]) == 0
    return tmp_path / "b.tar"


def tree(directory: Path) -> dict[str, object]:
    """Return each file below a directory with its inode and content."""
    return {
        str(path): (path.lstat().st_ino, path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None)
        for path in directory.rglob("*")
    }


def refused(tmp_path: Path, *arguments: str) -> None:
    """Assert that a command fails and leaves every file as it was."""
    before = tree(tmp_path)
    assert cli.main([*arguments]) == cli.ERROR
    assert tree(tmp_path) == before


class TestCommands:
    def test_build(self, tmp_path: Path, archive: str, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "b.tar")
        refused(tmp_path, "build", f"{archive}:{OLD}", f"{archive}:{NEW}", str(tmp_path / "b.tar"))

    def test_sign(self, tmp_path: Path, bundle: Path, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "b.tar.sig")
        key = ssh.make_key(tmp_path / "release")
        refused(tmp_path, "sign", str(bundle), "--key", str(key.path))

    def test_attach(self, tmp_path: Path, bundle: Path, archive: str, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "b.tar.judged")
        refused(tmp_path, "judge", str(bundle), f"{archive}:app:1", "--attach")

    def test_attach_signed(self, tmp_path: Path, bundle: Path, archive: str, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "b.tar.judged.sig")
        key = ssh.make_key(tmp_path / "release")
        refused(tmp_path, "judge", str(bundle), f"{archive}:app:1", "--attach", "--key", str(key.path))

    def test_junit(self, tmp_path: Path, bundle: Path, archive: str, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "judge.xml")
        refused(tmp_path, "judge", str(bundle), f"{archive}:app:1", "--junit", str(tmp_path / "judge.xml"))


class TestPublicFiles:
    """The report, VEX documents, SBOMs and metrics."""

    def test_nothing_but_files_is_replaced(self, tmp_path: Path, occupy: Callable[[Path], None]) -> None:
        occupy(tmp_path / "report.html")
        before = tree(tmp_path)
        with pytest.raises(DestinationUnwritable, match="not a regular file"):
            public_file.write(str(tmp_path / "report.html"), "text")
        assert tree(tmp_path) == before

    def test_no_other_file_is_touched(self, tmp_path: Path) -> None:
        (tmp_path / "report.html.new").write_text("a draft")
        assert public_file.write(str(tmp_path / "report.html"), "text")["bytes"] == 4
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "report.html": "text",
            "report.html.new": "a draft",
        }

    def test_the_mode_does_not_depend_on_the_umask(self, tmp_path: Path) -> None:
        old = os.umask(0o077)
        try:
            public_file.write(str(tmp_path / "report.html"), "text")
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o644


def test_a_failed_block_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")

    def interrupt() -> None:
        with output.replacing(str(tmp_path / "f")) as out:
            out.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("f", "old")]


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(DestinationUnwritable, match="none is not a directory"):
        public_file.write(str(tmp_path / "none/report.html"), "text")


def test_a_judgement_that_is_refused_keeps_the_former_one(tmp_path: Path) -> None:
    path = str(tmp_path / "b.tar")
    judgement.write(path, Attachment(b"old", b"signature"))
    (tmp_path / "b.tar.judged").unlink()
    (tmp_path / "b.tar.judged").mkdir()
    before = tree(tmp_path)
    with pytest.raises(BaseimgError):
        judgement.write(path, Attachment(b"new", b""))
    assert tree(tmp_path) == before


class TestCache:
    """``--cache DIR``: only files that baseimg names are deleted there."""

    def test_layers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry_images, "_MAX_BYTES", 1)
        own = [f"{digit * 64}.blob{suffix}" for digit in "ab" for suffix in ("", ".part")]
        for name in (*own, "thesis.blob", "photos.blob.part"):
            (tmp_path / name).write_bytes(b"content")
            os.utime(tmp_path / name, (0 if "b" * 64 not in name else 1,) * 2)
        registry_images._prune(str(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {own[-1], "thesis.blob", "photos.blob.part"}

    def test_results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(results, "_MAX_FILES", 1)
        kept = results.Results.open(str(tmp_path))
        names = [f"{digit * 64}.json" for digit in "ab"]
        for time, name in enumerate(("thesis.json", "notes", *names)):
            (tmp_path / "judged" / name).write_text("{}")
            os.utime(tmp_path / "judged" / name, (time, time))
        (tmp_path / "judged/letters").mkdir()
        kept.prune()
        assert {path.name for path in (tmp_path / "judged").iterdir()} == {"thesis.json", "notes", "letters", names[-1]}

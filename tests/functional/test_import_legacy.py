"""Import of the old shell scripts' archives as bundles that hold only real differences."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, Lab, digest
from tests.support import images, legacy, node
from tests.support.images import directory, file, symlink, whiteout
from tests.support.kernel import differences

pytestmark = pytest.mark.functional

TOP = images.layer_tar(
    [
        directory("etc"),
        file("etc/version", b"12.0\n"),
        file("etc/same", b"same\n", xattrs={"user.kept": b"\x01\xff"}),
        file("etc/tool", b"12.0\n", 0o755, xattrs={"user.kept": b"too"}),
        file("etc/gone", b"gone\n"),
        directory("srv"),
        file("srv/as-it-was", b"1"),
    ]
)
CHANGES = images.layer_tar(
    [
        directory("etc"),
        file("etc/version", b"12.1\n"),
        file("etc/same", b"same\n"),
        file("etc/tool", b"12.1\n", 0o755),
        file("etc/added", b"added\n"),
        symlink("etc/link", "added"),
        whiteout("etc/gone"),
        whiteout("etc/never-there"),
    ]
)


@pytest.fixture
def legacy_lab(lab: Lab) -> Lab:
    old = [BUSYBOX, TOP]
    lab.load({BASE: old, NEW: [*old, CHANGES], APP: [*old, APP_LAYER]})
    return lab


def pack(lab: Lab, name: str = "BASE-12.1-diff.tar.gz") -> str:
    return str(legacy.pack(lab.dirs(BASE)[0], lab.dirs(NEW), lab.work / name))


def test_a_bundle_of_what_differs(legacy_lab: Lab) -> None:
    archive, bundle = pack(legacy_lab), str(legacy_lab.work / "b.tar")
    done = legacy_lab.import_legacy(archive, BASE, bundle)
    assert done["changes"] == {"added": 2, "modified": 2, "removed": 1}
    assert (done["source"]["version"], done["target"]["version"]) == ("12.0", "12.1")
    assert done["hash"] == digest(bundle)
    assert set(node.bundle_entries(bundle)) == {
        *(b"etc/version", b"etc/tool", b"etc/added", b"etc/link", b"etc/.wh.gone"),
    }
    assert legacy_lab.inspect(bundle, verify=True)["target"]["reference"] == "BASE-12.1-diff.tar.gz"


def test_it_leads_where_the_archive_led(legacy_lab: Lab) -> None:
    bundle = str(legacy_lab.work / "b.tar")
    expected_view = legacy_lab.show(NEW)
    legacy_lab.import_legacy(pack(legacy_lab), BASE, bundle)
    assert legacy_lab.apply(bundle)["to"] == "12.1"
    view = legacy_lab.show(BASE)
    # the archive has no extended attributes, so the source's are kept: losing a capability is worse
    assert differences(view, expected_view) == [
        "etc/same: xattrs (('user.kept', b'\\x01\\xff'),) != ()",
        "etc/tool: xattrs (('user.kept', b'too'),) != ()",
    ]
    legacy_lab.rollback(BASE, "pristine")
    assert legacy_lab.verify(BASE, deep=True)[0]["pristine"] == "proven"


def test_what_the_archive_says_nothing_of(legacy_lab: Lab) -> None:
    not_expressed = legacy_lab.import_legacy(pack(legacy_lab), BASE, str(legacy_lab.work / "b.tar"))["not_expressed"]
    paths = {gap["what"].partition(":")[0]: gap.get("paths", []) for gap in not_expressed}
    assert paths["removed paths"] == ["etc/gone", "etc/never-there"]
    assert paths["extended attributes, file capabilities among them"] == ["etc/same", "etc/tool"]
    assert "names in the root of the image that begin with a dot" in paths


def test_the_same_again_is_the_same(legacy_lab: Lab) -> None:
    archive = pack(legacy_lab)
    first = legacy_lab.import_legacy(archive, BASE, str(legacy_lab.work / "1.tar"))
    two = legacy_lab.import_legacy(archive, BASE, str(legacy_lab.work / "2.tar"))
    assert first["hash"] == two["hash"]
    chain = images.chain_id([legacy_lab.layer(BASE)["chain_id"], digest(archive)])
    assert first["target"]["chain_id"] == chain


def test_nothing_is_left_beside_the_bundle(legacy_lab: Lab) -> None:
    archive = pack(legacy_lab)
    out = legacy_lab.work / "out"
    out.mkdir()
    legacy_lab.import_legacy(archive, BASE, str(out / "b.tar"))
    assert os.listdir(out) == ["b.tar"]


def test_versions(legacy_lab: Lab) -> None:
    named, nameless = pack(legacy_lab), pack(legacy_lab, "diff.tar.gz")
    bundle = str(legacy_lab.work / "b.tar")
    assert legacy_lab.import_legacy(named, BASE, bundle, version="12.1-old")["target"]["version"] == "12.1-old"
    assert (
        legacy_lab.import_legacy(nameless, BASE, bundle, version="12.1", compression="gzip")["target"]["version"]
        == "12.1"
    )
    legacy_lab.refused("argument-invalid", "import_legacy", nameless, BASE, bundle)
    legacy_lab.refused("argument-invalid", "import_legacy", named, BASE, bundle, version="not a tag")


def test_refusals(legacy_lab: Lab) -> None:
    archive, bundle = pack(legacy_lab), str(legacy_lab.work / "b.tar")
    nothing = legacy.pack(
        legacy_lab.dirs(BASE)[0], legacy_lab.dirs(BASE)[:1], legacy_lab.work / "BASE-12.0-diff.tar.gz"
    )
    legacy_lab.refused("images-equal", "import_legacy", str(nothing), BASE, bundle)
    legacy_lab.refused("image-unknown", "import_legacy", archive, "no/such:1", bundle)
    legacy_lab.refused("legacy-invalid", "import_legacy", "/nowhere/BASE-1-diff.tar.gz", BASE, bundle)
    legacy_lab.refused("argument-invalid", "import_legacy", "relative.tar.gz", BASE, bundle)
    legacy_lab.refused("destination-unwritable", "import_legacy", archive, BASE, "/nowhere/b.tar")
    assert not Path(bundle).exists()


def test_an_archive_from_a_file_server_is_named_as_given(legacy_lab: Lab) -> None:
    before = legacy_lab.minion.opts["file_roots"]
    root = legacy_lab.work / "files"
    root.mkdir()
    (root / "BASE-12.1-diff.tar.gz").write_bytes(b"no archive")
    legacy_lab.minion.configure(file_roots={"base": [*before["base"], str(root)]})
    given = "salt://BASE-12.1-diff.tar.gz"
    error = legacy_lab.refused("legacy-invalid", "import_legacy", given, BASE, str(legacy_lab.work / "b.tar"))
    assert error.info["message"].startswith(given)


def test_a_node_whose_base_the_scripts_changed_is_not_built_upon(legacy_lab: Lab) -> None:
    """Builds refuse a base that the scripts changed; their build machine may have one."""
    archive = pack(legacy_lab)
    overlay = legacy_lab.engine.data_root / "overlay2"
    legacy.update(overlay, Path(archive), "12.1", legacy_lab.dirs(BASE)[0], "12.0")
    legacy_lab.refused("content-unknown", "import_legacy", archive, BASE, str(legacy_lab.work / "b.tar"))
    legacy_lab.refused("content-unknown", "build", BASE, NEW, str(legacy_lab.work / "b.tar"))
    legacy_lab.adopt()
    assert legacy_lab.import_legacy(archive, BASE, str(legacy_lab.work / "b.tar"))["changes"]["added"] == 2
    shutil.rmtree(overlay / "tmp")


def repacked(archive: str, path: Path, *command: str) -> str:
    """Repack an archive with another tar command, which runs in the directory that holds ``diff``."""
    root = path.parent / "unpacked"
    root.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", root], check=True)
    subprocess.run(["tar", "-czf", path, *command], check=True, cwd=root)
    return str(path)


def test_everything_in_an_archive_lies_below_diff(legacy_lab: Lab) -> None:
    with tarfile.open(pack(legacy_lab)) as archive:
        assert {os.path.normpath(name).split("/")[0] for name in archive.getnames()} == {"diff"}


def test_an_archive_of_the_root_itself(legacy_lab: Lab) -> None:
    archive = repacked(pack(legacy_lab), legacy_lab.work / "BASE-12.1-diff.tar.gz2", "-C", "diff", ".")
    done = legacy_lab.import_legacy(archive, BASE, str(legacy_lab.work / "b.tar"), version="12.1")
    assert done["changes"] == {"added": 2, "modified": 2, "removed": 1}


@pytest.mark.parametrize(
    "command",
    [(".",), ("diff", "log.log"), ("--transform=s,^diff,BASE-12.1/diff,", "diff"), ("--transform=s,^diff,x,", "diff")],
)
def test_an_archive_of_another_shape(legacy_lab: Lab, command: tuple[str, ...]) -> None:
    archive = pack(legacy_lab)
    root = legacy_lab.work / "shape"
    root.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", root], check=True)
    (root / "log.log").write_text("copied\n")
    path = legacy_lab.work / "BASE-12.2-diff.tar.gz"
    subprocess.run(["tar", "-czf", path, *command], check=True, cwd=root)
    error = legacy_lab.refused("legacy-invalid", "import_legacy", str(path), BASE, str(legacy_lab.work / "b.tar"))
    assert "diff" in error.info["message"]
    assert not (legacy_lab.work / "b.tar").exists()

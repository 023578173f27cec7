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
def site(lab: Lab) -> Lab:
    old = [BUSYBOX, TOP]
    lab.load({BASE: old, NEW: [*old, CHANGES], APP: [*old, APP_LAYER]})
    return lab


def pack(lab: Lab, name: str = "BASE-12.1-diff.tar.gz") -> str:
    return str(legacy.pack(lab.dirs(BASE)[0], lab.dirs(NEW), lab.work / name))


def test_a_bundle_of_what_differs(site: Lab) -> None:
    archive, bundle = pack(site), str(site.work / "b.tar")
    done = site.import_legacy(archive, BASE, bundle)
    assert done["changes"] == {"added": 2, "modified": 2, "removed": 1}
    assert (done["source"]["version"], done["target"]["version"]) == ("12.0", "12.1")
    assert done["hash"] == digest(bundle)
    assert set(node.bundle_entries(bundle)) == {
        *(b"etc/version", b"etc/tool", b"etc/added", b"etc/link", b"etc/.wh.gone"),
    }
    assert site.inspect(bundle, verify=True)["target"]["reference"] == "BASE-12.1-diff.tar.gz"


def test_it_leads_where_the_archive_led(site: Lab) -> None:
    bundle = str(site.work / "b.tar")
    wanted = site.show(NEW)
    site.import_legacy(pack(site), BASE, bundle)
    assert site.apply(bundle)["to"] == "12.1"
    shown = site.show(BASE)
    # the archive has no extended attributes, so the source's are kept: losing a capability is worse
    assert differences(shown, wanted) == [
        "etc/same: xattrs (('user.kept', b'\\x01\\xff'),) != ()",
        "etc/tool: xattrs (('user.kept', b'too'),) != ()",
    ]
    site.rollback(BASE, "pristine")
    assert site.verify(BASE, deep=True)[0]["pristine"] == "proven"


def test_what_the_archive_says_nothing_of(site: Lab) -> None:
    told = site.import_legacy(pack(site), BASE, str(site.work / "b.tar"))["not_expressed"]
    paths = {one["what"].partition(":")[0]: one["paths"] for one in told}
    assert paths["removed paths"] == ["etc/gone", "etc/never-there"]
    assert paths["extended attributes, file capabilities among them"] == ["etc/same", "etc/tool"]
    assert "names in the root of the image that begin with a dot" in paths


def test_the_same_again_is_the_same(site: Lab) -> None:
    archive = pack(site)
    one = site.import_legacy(archive, BASE, str(site.work / "1.tar"))
    two = site.import_legacy(archive, BASE, str(site.work / "2.tar"))
    assert one["hash"] == two["hash"]
    chain = images.chain_id([site.layer(BASE)["chain_id"], digest(archive)])
    assert one["target"]["chain_id"] == chain


def test_nothing_is_left_beside_the_bundle(site: Lab) -> None:
    archive = pack(site)
    out = site.work / "out"
    out.mkdir()
    site.import_legacy(archive, BASE, str(out / "b.tar"))
    assert os.listdir(out) == ["b.tar"]


def test_versions(site: Lab) -> None:
    named, nameless = pack(site), pack(site, "diff.tar.gz")
    bundle = str(site.work / "b.tar")
    assert site.import_legacy(named, BASE, bundle, version="12.1-old")["target"]["version"] == "12.1-old"
    assert site.import_legacy(nameless, BASE, bundle, version="12.1", compression="gzip")["target"]["version"] == "12.1"
    site.refused("argument-invalid", "import_legacy", nameless, BASE, bundle)
    site.refused("argument-invalid", "import_legacy", named, BASE, bundle, version="not a tag")


def test_refusals(site: Lab) -> None:
    archive, bundle = pack(site), str(site.work / "b.tar")
    nothing = legacy.pack(site.dirs(BASE)[0], site.dirs(BASE)[:1], site.work / "BASE-12.0-diff.tar.gz")
    site.refused("images-equal", "import_legacy", str(nothing), BASE, bundle)
    site.refused("image-unknown", "import_legacy", archive, "no/such:1", bundle)
    site.refused("legacy-invalid", "import_legacy", "/nowhere/BASE-1-diff.tar.gz", BASE, bundle)
    site.refused("argument-invalid", "import_legacy", "relative.tar.gz", BASE, bundle)
    site.refused("destination-unwritable", "import_legacy", archive, BASE, "/nowhere/b.tar")
    assert not Path(bundle).exists()


def test_a_node_whose_base_the_scripts_changed_is_not_built_upon(site: Lab) -> None:
    """Builds refuse a base that the scripts changed; their build machine may have one."""
    archive = pack(site)
    overlay = site.engine.data_root / "overlay2"
    legacy.update(overlay, Path(archive), "12.1", site.dirs(BASE)[0], "12.0")
    site.refused("content-unknown", "import_legacy", archive, BASE, str(site.work / "b.tar"))
    site.refused("content-unknown", "build", BASE, NEW, str(site.work / "b.tar"))
    site.adopt()
    assert site.import_legacy(archive, BASE, str(site.work / "b.tar"))["changes"]["added"] == 2
    shutil.rmtree(overlay / "tmp")


def repacked(archive: str, path: Path, *command: str) -> str:
    """Repack an archive with another tar command, which runs in the directory that holds ``diff``."""
    root = path.parent / "unpacked"
    root.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", root], check=True)
    subprocess.run(["tar", "-czf", path, *command], check=True, cwd=root)
    return str(path)


def test_everything_in_an_archive_lies_below_diff(site: Lab) -> None:
    with tarfile.open(pack(site)) as archive:
        assert {os.path.normpath(name).split("/")[0] for name in archive.getnames()} == {"diff"}


def test_an_archive_of_the_root_itself(site: Lab) -> None:
    archive = repacked(pack(site), site.work / "BASE-12.1-diff.tar.gz2", "-C", "diff", ".")
    done = site.import_legacy(archive, BASE, str(site.work / "b.tar"), version="12.1")
    assert done["changes"] == {"added": 2, "modified": 2, "removed": 1}


@pytest.mark.parametrize(
    "command",
    [(".",), ("diff", "log.log"), ("--transform=s,^diff,BASE-12.1/diff,", "diff"), ("--transform=s,^diff,x,", "diff")],
)
def test_an_archive_of_another_shape(site: Lab, command: tuple[str, ...]) -> None:
    archive = pack(site)
    root = site.work / "shape"
    root.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", root], check=True)
    (root / "log.log").write_text("copied\n")
    path = site.work / "BASE-12.2-diff.tar.gz"
    subprocess.run(["tar", "-czf", path, *command], check=True, cwd=root)
    error = site.refused("legacy-invalid", "import_legacy", str(path), BASE, str(site.work / "b.tar"))
    assert "diff" in error.info["message"]
    assert not (site.work / "b.tar").exists()

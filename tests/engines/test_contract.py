"""
The contract of engine adapters: the same tests for each adapter, on real engines.

By default the tests run on this machine's release. `make engines` adds other releases and file systems.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine import detect
from baseimg_core.report import sbom as report_sbom
from tests.engines.cells import KINDS
from tests.engines.node import APP, BASE, NEW, Node
from tests.functional.lab import BUSYBOX, layer
from tests.support import cyclonedx
from tests.support.asked import asked
from tests.support.deadlines import wait_until
from tests.support.engine import EngineError
from tests.support.images import file, layer_tar, whiteout
from tests.support.kernel import differences
from tests.support.mounts import MS_RDONLY, mount, unmount
from tests.support.registry import Registry

pytestmark = pytest.mark.functional

CONTENT = hashlib.shake_256(b"library").digest(200_000)
OLD_FILES = layer(file("lib/new.so", CONTENT, uid=7, gid=8), file("lib/lib.so.1.2", CONTENT[::-1], uid=7, gid=8))
NEW_FILES = layer(
    file("lib/new.so", b"more" + CONTENT, 0o755, uid=33, gid=34),
    whiteout("lib/lib.so.1.2"),
    file("lib/lib.so.1.3", CONTENT[::-1] + b"more", uid=7, gid=8),
)
CHANGED = "integrity checksum failed"  # message of engines that repack a layer's directory


# an image whose layers name no parents, which every engine dates when it unpacks them; equal in all cells
PACKED = [BUSYBOX, layer_tar([file("etc/version", b"12.0\n"), file("srv/a/b/file", b"1"), file("srv/gone", b"1")])]
UPDATED = layer_tar([file("etc/version", b"12.1\n"), whiteout("srv/gone"), file("srv/a/b/file", b"2"), file("srv/c/d")])
#: The digests of the bundle by the cells that built it.
DIGESTS: dict[str, list[str]] = {}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path / "registry") as registry:
        yield registry


def only(**containers: list[str]) -> dict[str, list[str]]:
    return {"current": [], "outdated": [], "unknown": [], **containers}


class TestFinding:
    def test_the_engine_is_recognised(self, node: Node) -> None:
        chosen = node.call("engines")[0]
        assert chosen["chosen"] is chosen["supported"] is True
        assert (chosen["storage"], "reason" in chosen) == (KINDS[node.cell.kind].storage, False)
        assert chosen["kind"] == node.cell.declared(node.engine)["kind"]
        assert chosen["version"][0].isdigit()

    def test_an_image_leads_to_its_chain_and_directories(self, node: Node) -> None:
        node.load()
        for reference in (BASE, NEW, APP):
            layer = node.call("layer", reference)
            assert layer["chain_id"] == node.chain_id(reference)
            assert layer["diff_id"] == node.diff_ids(reference)[-1]
            assert len(node.directories(reference)) == len(node.diff_ids(reference))
        node.start("one")
        # the mount holds the image's layers, below at most one that the engine adds
        directories = [os.path.realpath(directory) for directory in node.directories(APP)]
        assert node.mounted("one")[-len(directories) :] == directories

    def test_one_layer_only(self, node: Node) -> None:
        node.load_stacks({BASE: [layer(file("only", node.token.encode()))]})
        (directory,) = node.directories(BASE)
        assert (Path(directory) / "only").read_text() == node.token

    def test_an_unknown_image_is_refused(self, node: Node) -> None:
        with pytest.raises(CommandExecutionError) as caught:
            node.call("layer", "registry.corp/other:1")
        assert caught.value.info["code"] == "image-unknown"

    def test_a_base_is_found_without_its_name(self, node: Node) -> None:
        node.load()
        bundle = node.bundle()
        path = node.directories(BASE)[0]
        for reference in (BASE, NEW):
            node.untag(reference)
        done = node.call("apply", bundle)
        assert (done["changed"], done["to"], done["images"]) == (True, "12.1", [APP])
        assert node.status()["path"] == path
        assert node.version() == "12.1"
        assert node.call("rollback", node.chain_id(BASE))["to"] == "12.0"

    def test_asking_is_cheap_with_many_images(self, node: Node) -> None:
        """A no-op, the most common operation, needs no connection and no command for each image."""
        node.load()
        node.call("apply", node.bundle())
        call_counts = []
        for count in (6, 9):  # from four images on, parallel requests use all connections
            for number in range(count - 3, count):
                more = layer(file("more", f"{node.token} {number}".encode()))
                node.load_stacks({f"registry.corp/more:{number}": [*node.stacks[BASE], more]})
            with asked() as counted:
                done = node.call("converge", BASE, "12.1")
            assert (done["changed"], len(done["images"])) == (False, count)
            call_counts.append((counted["connections"], counted["commands"]))
        assert call_counts[0] == call_counts[1]

    def test_looking_leaves_nothing(self, node: Node) -> None:
        node.load()
        node.call("layer", APP)
        if node.cell.kind == "containerd":
            snapshots = node.engine.ctr("snapshots", "ls")  # type: ignore[attr-defined]
            assert " View" not in snapshots


class TestWhatRuns:
    def test_images_and_containers_by_generation(self, node: Node) -> None:
        node.load()
        node.start("on-0")
        done = node.call("apply", node.bundle())
        assert done["images"] == [APP, BASE, NEW]
        assert done["containers"] == only(outdated=["on-0"])
        node.start("on-1")
        assert node.containers() == only(current=["on-1"], outdated=["on-0"])
        assert (node.version_in("on-0"), node.version_in("on-1")) == ("12.0", "12.1")
        assert node.call("rollback", BASE)["containers"] == only(current=["on-0"], outdated=["on-1"])
        assert (node.version_in("on-0"), node.version_in("on-1")) == ("12.0", "12.1")

    def test_used_images(self, node: Node) -> None:
        node.load()
        node.start("app")
        engine = detect.connect(detect.declared(node.cell.declared(node.engine)))
        used = {container.image_id for container in engine.containers(stopped=True)}
        assert len(used) == 1
        assert engine.used_images() == used
        assert used <= {image.id for image in engine.images()}

    def test_stop_and_start(self, node: Node) -> None:
        node.load()
        node.start("app")
        node.call("apply", node.bundle())
        assert node.version_in("app") == "12.0"
        node.engine.stop_container("app")
        assert node.containers() == only()
        node.start_again("app")
        assert node.version_in("app") == "12.1"
        assert node.containers() == only(current=["app"])

    @pytest.mark.cells(lambda cell: cell.kind != "containerd")
    def test_what_the_engine_makes_of_a_container_on_old_content(self, node: Node) -> None:
        """A commit puts the container's layer on the new base; an export holds the container's old view."""
        node.load()
        bundle = node.bundle()
        node.start("shop")
        node.engine.exec("shop", "sh", "-c", "echo own > /etc/own")
        node.call("apply", bundle)
        archive = b"".join(node.engine.client.export("shop"))
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            content = tar.extractfile("etc/version")
            assert content is not None
            assert content.read() == b"12.0\n"
        changed = {change["Path"] for change in node.engine.client.diff("shop") or ()}
        assert "/etc/own" in changed
        node.engine.client.commit("shop", "registry.corp/kept", "1")
        assert node.engine.run("registry.corp/kept:1", "cat", "/etc/version", "/etc/own") == "12.1\nown\n"

    def test_a_restart_of_the_engine(self, node: Node) -> None:
        node.patched()
        before = node.status()
        node.engine.restart()
        after = node.status()
        assert (after["version"], after["path"]) == (before["version"], before["path"])
        assert node.version() == "12.1"
        assert node.call("rollback", BASE)["to"] == "12.0"
        assert node.version() == "12.0"


class TestRecords:
    """Records of bases, which are independent of each other."""

    def test_a_lost_record_does_not_hide_that_a_base_is_absent(self, node: Node) -> None:
        node.patched()
        (Path(node.directories(BASE)[0]).parent / "baseimg/state.json").unlink()
        with pytest.raises(CommandExecutionError) as caught:
            node.call("converge", "registry.corp/other:1", "12.1")
        assert caught.value.info["code"] == "base-absent"

    def test_a_lost_record_is_written_again_without_the_tag(self, node: Node) -> None:
        node.load()
        bundle = node.bundle()
        node.call("apply", bundle)
        (Path(node.directories(BASE)[0]).parent / "baseimg/state.json").unlink()
        for reference in (BASE, NEW):
            node.untag(reference)
        bundles = {"12.1": {"source": bundle}}
        with pytest.raises(CommandExecutionError) as caught:
            node.call("converge", BASE, "12.1", bundles)
        assert caught.value.info["code"] == "record-invalid"
        assert node.call("converge", BASE, "12.1", bundles, repair=True)["to"] == "12.1"
        assert node.version() == "12.1"


@contextlib.contextmanager
def mounted_by_path(directories: list[str], point: Path) -> Iterator[Path]:
    """Mount layers by the paths of their directories: as a tool of an operator does, and Docker."""
    point.mkdir(exist_ok=True)
    mount(b"overlay", os.fsencode(point), b"overlay", MS_RDONLY, os.fsencode("lowerdir=" + ":".join(directories)))
    try:
        yield point
    finally:
        unmount(os.fsencode(point))


class TestWhatUsesABase:
    """Usage of a base: a container, or any other mount, uses it if and only if it includes the layer."""

    def test_a_container_whose_image_lost_its_name(self, node: Node) -> None:
        node.load()
        bundle = node.bundle()
        node.start("shop")
        node.load_stacks({APP: [BUSYBOX, layer(file("other", node.token.encode()))]})  # the tag moves
        assert node.call("apply", bundle)["containers"] == only(outdated=["shop"])
        assert node.containers() == only(outdated=["shop"])
        assert node.version_in("shop") == "12.0"

    def test_a_container_of_another_image_is_not_on_it(self, node: Node) -> None:
        node.load(BASE, NEW, **{"registry.corp/other:1": [BUSYBOX, layer(file("other", node.token.encode()))]})
        node.start("other", "registry.corp/other:1")
        assert node.call("apply", node.bundle())["containers"] == only()

    def test_one_that_shows_no_file_of_the_base(self, node: Node) -> None:
        """A container that covers all of the old content is outdated, because it lacks the added files."""
        old = [BUSYBOX, node.own, layer(file("only", b"1"))]
        new = [*old, layer(file("only", b"2"), file("added", b"2"))]
        node.load_stacks({BASE: old, NEW: new, APP: [*old, layer(file("only", b"app"))]})
        node.start("covered")
        done = node.call("apply", node.bundle())
        assert done["containers"] == only(outdated=["covered"])
        node.engine.stop_container("covered")
        node.start_again("covered")
        assert node.containers() == only(current=["covered"])

    def test_prune_keeps_what_is_mounted(self, node: Node) -> None:
        node.load()
        node.call("apply", node.bundle())
        node.start("shop")
        with mounted_by_path(node.directories(APP), node.work / "view") as view:
            node.call("rollback", BASE)
            assert "removed" not in node.call("prune", BASE, keep=0)[0]
            node.engine.remove_container("shop")
            assert "removed" not in node.call("prune", BASE, keep=0)[0]
            assert (view / "etc/version").read_text() == "12.1\n"
        # a container that another test starts has a copy of the mount for a moment
        wait_until(
            lambda: node.call("prune", BASE, keep=0)[0].get("removed") == ["12.1"], "prune deletes the generation"
        )


class TestThereAndBack:
    def test_what_the_kernel_shows(self, node: Node) -> None:
        node.load()
        old, new = node.show(BASE), node.show(NEW)
        assert differences(old, new)
        node.call("apply", node.bundle())
        assert differences(node.show(BASE), new) == []
        assert (node.version(), node.version(BASE)) == ("12.1", "12.1")
        assert node.call("verify", BASE, deep=True)[0]["ok"] is True
        assert node.call("rollback", BASE)["to"] == "12.0"
        assert differences(node.show(BASE), old) == []
        assert (node.version(), node.version(BASE)) == ("12.0", "12.0")

    def test_a_delta(self, node: Node) -> None:
        """A delta applies to the node's old files, even if the engine shifts their owners."""
        lower = [BUSYBOX, node.own, OLD_FILES]
        node.load_stacks({BASE: lower, NEW: [*lower, NEW_FILES]})
        old, new = node.show(BASE), node.show(NEW)
        bundle = node.bundle(delta="only")
        assert list(node.call("inspect", bundle)["encodings"]) == ["delta"]
        assert os.path.getsize(bundle) < len(CONTENT) // 2
        node.call("apply", bundle)
        assert differences(node.show(BASE), new) == []
        assert node.engine.run(BASE, "stat", "-c", "%u:%g %a", "/lib/new.so", "/lib/lib.so.1.3") == (
            "33:34 755\n7:8 644\n"
        )
        assert node.call("verify", BASE, deep=True)[0]["ok"] is True
        node.call("rollback", BASE)
        assert differences(node.show(BASE), old) == []

    def test_the_engine_s_own_check(self, node: Node) -> None:
        node.patched()
        while_patched = node.saved(BASE)
        if node.cell.keeps_blobs:  # containerd saves the stored archives, not the directories
            assert while_patched == node.diff_ids(BASE)
        else:
            assert while_patched is None
        (verified,) = node.call("verify", BASE, deep=True)
        assert (verified["ok"], verified["pristine"]) == (True, "proven")
        node.call("rollback", BASE)
        assert node.saved(BASE) == node.diff_ids(BASE)
        assert node.saved(APP) == node.diff_ids(APP)

    def test_a_push(self, node: Node, registry: Registry) -> None:
        node.patched()
        names = {image: f"{registry.host}/{name}:1" for image, name in ((BASE, "base"), (APP, "app"))}
        for image, name in names.items():
            node.engine.tag(image, name)
        if node.cell.keeps_blobs:
            node.engine.push(names[BASE])
            assert registry.diff_ids("base", "1") == node.diff_ids(BASE)
        else:
            with pytest.raises(EngineError, match=CHANGED):
                node.engine.push(names[BASE])
        node.call("rollback", BASE)
        for image, name in names.items():
            node.engine.push(name)
            assert registry.diff_ids("base" if image == BASE else "app", "1") == node.diff_ids(image)

    def test_a_damaged_original_is_seen(self, node: Node) -> None:
        node.load()
        (Path(node.directories(BASE)[0]) / "etc/version").write_text("12.X\n")
        (verified,) = node.call("verify", BASE, deep=True)
        assert (verified["ok"], verified["pristine"]) == (False, "damaged")

    def test_images_that_come_later_share_it(self, node: Node) -> None:
        node.load(BASE, NEW)
        bundle = node.bundle()
        node.call("apply", bundle)
        node.load()
        assert node.version() == "12.1"
        assert node.status()["images"] == [APP, BASE, NEW]
        assert node.call("apply", bundle)["changed"] is False

    def test_our_generations_go_with_the_layer(self, node: Node) -> None:
        node.patched()
        home = Path(node.status()["path"]).parent
        assert (home / "baseimg").is_dir()
        node.engine.remove_all()
        wait_until(lambda: not home.exists(), f"the engine removes {home}")
        assert node.call("status")["bases"] == []
        node.load()
        assert (node.version(), node.call("status", BASE)["bases"][0]["version"]) == ("12.0", "12.0")

    def test_and_stay_while_others_come_and_go(self, node: Node) -> None:
        """Generations survive parallel unpacking and the garbage collection after each removal."""
        node.patched()

        def come(number: int) -> str:
            name = f"registry.corp/other:{number}"
            other = layer(file("other", f"{node.token} {number}".encode()))
            node.load_stacks({name: [*(node.stacks[BASE] if number % 2 else [BUSYBOX]), other]})
            return name

        with ThreadPoolExecutor(4) as pool:
            names = list(pool.map(come, range(8)))
        assert node.version(names[1]) == "12.1"
        for name in names:
            node.untag(name)
        assert node.call("verify", BASE, deep=True)[0]["ok"] is True
        assert node.version() == "12.1"
        assert node.call("rollback", BASE)["to"] == "12.0"
        assert os.listdir(Path(node.status()["path"]).parent / "baseimg" / "generations") == ["1"]


def packaged(version: str) -> bytes:
    """A layer with a package of two files and its database."""
    status = f"Package: corp\nStatus: install ok installed\nVersion: {version}\n"
    return layer(
        file("var/lib/dpkg/status", status.encode()),
        file("var/lib/dpkg/info/corp.list", b"/usr/lib/libcorp.so\n/usr/bin/corp\n"),
        *(file(path, version.encode(), 0o755) for path in ("usr/lib/libcorp.so", "usr/bin/corp")),
    )


class TestFixes:
    """Which fix is in effect where, and what the documents say of it."""

    def test_in_images_and_containers(self, node: Node) -> None:
        own, split = "registry.corp/own:1", "registry.corp/split:1"
        old = [BUSYBOX, node.own, packaged("1")]
        both = [file(path, b"own", 0o755) for path in ("usr/lib/libcorp.so", "usr/bin/corp")]
        images = {BASE: old, NEW: [*old, packaged("2")], APP: [*old, layer(file("opt/lib/libcorp.so", b"own"))]}
        node.load_stacks({**images, own: [*old, layer(*both)], split: [*old, layer(both[0])]})
        node.start("old")
        node.call("apply", node.bundle(fixes={"corp": ["CVE-2024-5535"]}))
        node.start("new")
        (base,) = node.call("fixes", full=True)["bases"]
        assert base["updates"]["corp"]["advisories"] == {"CVE-2024-5535": "operator"}
        items = {
            item.get("image") if kind == "images" else item["container"]: item
            for kind in ("images", "containers")
            for item in base[kind]
        }
        states = {name: item["pending"].get("corp", {}).get("state", "in effect") for name, item in items.items()}
        assert states == {
            APP: "in effect",
            NEW: "in effect",
            own: "overridden",
            split: "split",
            "new": "in effect",
            "old": "after restart",
        }
        assert not any(items["new"]["pending"])
        versions = {}
        for name in (APP, own, split, "old", "new"):
            facts = node.call("sbom", name, facts=True)
            document = report_sbom.document(facts, "node", "0.2.0")
            cyclonedx.validate(document)
            (package,) = document["components"]
            versions[name] = (package["version"], "pedigree" in package)
        assert versions == {
            APP: ("2", True),
            own: ("1", False),
            split: ("1", False),
            "old": ("1", False),
            "new": ("2", True),
        }

    def test_own_files_and_mounts_of_a_container(self, node: Node) -> None:
        """Engines do not report all mounts, and containerd neither mounts nor the writable layer."""
        old = [BUSYBOX, node.own, packaged("1")]
        node.load_stacks({BASE: old, NEW: [*old, packaged("2")], APP: [*old, layer(file("app", b"own"))]})
        node.call("apply", node.bundle(fixes={"corp": ["CVE-2024-5535"]}))
        node.start("wrote")
        node.engine.exec("wrote", "sh", "-c", "echo own > /usr/bin/corp")
        node.start("covered")
        pid = node.main_pid("covered")
        subprocess.run(
            ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "mount", "-t", "tmpfs", "none", "/usr/lib"], check=True
        )
        node.start("plain")

        def states() -> dict[str, str]:
            (base,) = node.call("fixes", full=True)["bases"]
            items = {item["container"]: item["pending"].get("corp", {}) for item in base["containers"]}
            return {name: pending.get("state", "in effect") for name, pending in items.items()}

        assert states() == {"wrote": "split", "covered": "split", "plain": "in effect"}
        (package,) = node.call("sbom", "wrote", facts=True)["components"]
        assert (package["version"], package["state"]) == ("1", "split")
        node.engine.stop_container("wrote")
        assert states()["wrote"] == "split"

    def test_the_digest_of_an_image_that_was_loaded(self, node: Node) -> None:
        """Docker knows none before a pull or push; the others know the digest of the manifest that they keep."""
        node.load()
        node.call("apply", node.bundle())
        (base,) = node.call("fixes", full=True)["bases"]
        (digests,) = [image["digests"] for image in base["images"] if image["image"] == APP]
        assert bool(digests) is (node.cell.kind in ("podman", "containerd", "docker-containerd"))


class TestBuild:
    def test_one_image_gives_one_digest_on_every_engine(self, node: Node) -> None:
        """Loaded at different seconds, since each cell starts an engine of its own."""
        node.load_stacks({BASE: PACKED, NEW: [*PACKED, UPDATED]})
        built = node.call("build", BASE, NEW, str(node.work / "one.tar"))
        assert built["dropped"] == {"paths": 0, "attributes": 0}
        DIGESTS.setdefault(built["hash"], []).append(str(node.cell))
        saved = node.work / "saved.tar"
        if node.cell.kind == "containerd":
            node.engine.ctr("images", "export", str(saved), BASE, NEW)  # type: ignore[attr-defined]
        else:
            saved.write_bytes(node.engine.save(BASE, NEW))
        names = [f"docker-archive:{saved}:{name}" for name in (BASE, NEW)]
        again = node.call("build", *names, str(node.work / "two.tar"), reference=BASE)
        DIGESTS.setdefault(again["hash"], []).append(f"saved by {node.cell}")
        assert len(DIGESTS) == 1, DIGESTS

    @pytest.mark.cells(lambda cell: cell.kind == "containerd")
    def test_without_the_packed_layers_it_is_refused(self, node: Node) -> None:
        """As containerd leaves the images with ``discard_unpacked_layers``."""
        node.load()
        bundle = node.bundle()
        for diff_id in node.diff_ids(NEW):
            node.engine.ctr("content", "rm", diff_id)  # type: ignore[attr-defined]
        with pytest.raises(CommandExecutionError) as caught:
            node.bundle()
        assert caught.value.info["code"] == "packed-layer-absent"
        assert node.call("apply", bundle)["changed"] is True  # a node needs no packed layer
        assert node.call("verify", BASE, deep=True)[0]["pristine"] == "unproven"

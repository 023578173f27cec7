"""After an apply the kernel shows the target; after a rollback it shows the original base."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from baseimg_core.engine.images.store import own_platform
from baseimg_core.model.stack import overlay
from tests.functional.cases import CASES, Case
from tests.functional.lab import (
    APP,
    APP_LAYER,
    BASE,
    BUSYBOX,
    NEW,
    VERSION_0,
    VERSION_1,
    Lab,
    digest,
    layer,
)
from tests.support import kernel, node
from tests.support.engine import Engine
from tests.support.images import busybox_members, chain_id, diff_id, directory, file, symlink, whiteout
from tests.support.kernel import STRAY, VisibleEntry, differences, show
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

SIGNS = {"added": "+", "modified": "~", "removed": "-"}


@pytest.fixture(scope="module")
def minion(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Minion:
    """Load one minion for all cases: loading one for each takes a quarter of the time."""
    return Minion(tmp_path_factory.mktemp("minion"), engine.url, baseimg={"allow_devices": True})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_apply_shows_the_target_and_rollback_the_base(
    engine: Engine, minion: Minion, tmp_path: Path, case: Case
) -> None:
    lab = Lab(engine, minion, tmp_path)
    lab.load({BASE: case.base, NEW: case.target, APP: [*case.base, *case.app]})
    base, target = lab.dirs(BASE), lab.dirs(NEW)
    own = lab.dirs(APP)[: len(case.app)]
    old, old_app = show(base), show([*own, *base])
    new, new_app = show(target), show([*own, *target])
    pristine = node.inodes(*base)

    bundle = lab.bundle()
    made = lab.inspect(bundle)
    either = {f"~{path}" for side in ("source", "target") for path in made[side].get("unspecified", [])}
    assert needed_paths(lab.diff(BASE, NEW), bundle) - either == case.changes - either
    assert_only_what_differs(bundle, old, new)
    lab.apply(bundle, accept=["*"])  # the verdicts on the applications do not matter here

    unspecified = [os.fsencode(path) for path in made["target"].get("unspecified", [])]
    applied = lab.show(APP)
    assert differences(specified(show(base), unspecified), specified(new, unspecified)) == []
    assert differences(specified(applied, unspecified), specified(new_app, unspecified)) == []
    assert_rebuilt(tmp_path, own, target, applied, unspecified)
    assert STRAY not in {entry.type for entry in show(base).values()}
    lab.rollback(BASE)
    assert differences(show(base), old) == []
    assert differences(lab.show(APP), old_app) == []
    assert node.inodes(*base) == pristine
    assert node.saved_diff_ids(lab.engine, BASE, APP) == {
        BASE: [diff_id(layer) for layer in case.base],
        APP: [diff_id(layer) for layer in [*case.base, *case.app]],
    }


def specified(view: dict[bytes, VisibleEntry], unspecified: list[bytes]) -> dict[bytes, VisibleEntry]:
    """Return a view without the metadata of directories that no layer's tar names."""
    bare = {path: VisibleEntry(view[path].type) for path in unspecified if path in view and view[path].type != STRAY}
    return {**view, **{path: entry for path, entry in bare.items() if entry.type == "directory"}}


def assert_rebuilt(
    work: Path, own: list[str], target: list[str], applied: dict[bytes, VisibleEntry], unspecified: list[bytes]
) -> None:
    """
    Compare an application on the applied base with the application rebuilt on the new one.

    A rebuild writes no whiteout of a path that the new base lacks. Such a whiteout shows as a ghost name if its
    directory is not merged (``tests/functional/test_verdicts.py`` has the verdict ``ghost``).
    """
    rebuilt: list[str] = []
    for number, path_of_layer in enumerate(reversed(own)):
        below = show([*rebuilt, *target])
        rebuilt.insert(0, str(work / f"rebuilt.{number}"))
        subprocess.run(["cp", "-a", path_of_layer, rebuilt[0]], check=True)
        for parent, _directories, names in os.walk(os.fsencode(rebuilt[0])):
            for path in (os.path.join(parent, name) for name in names):
                st = os.lstat(path)
                if (
                    overlay.is_whiteout(st.st_mode, st.st_rdev)
                    and os.path.relpath(path, os.fsencode(rebuilt[0])) not in below
                ):
                    remove(path)
    expected = show([*rebuilt, *target])
    ghosts = {path for path, entry in applied.items() if entry.type == STRAY}
    rest = {path: entry for path, entry in applied.items() if path not in ghosts}
    assert differences(specified(rest, unspecified), specified(expected, unspecified)) == []


def remove(path: bytes) -> None:
    """Remove a whiteout; the time of its directory stays."""
    before = os.stat(os.path.dirname(path))
    os.unlink(path)
    os.utime(os.path.dirname(path), ns=(before.st_atime_ns, before.st_mtime_ns))


def needed_paths(differing: dict[str, Any], bundle: str) -> set[str]:
    """Return the differences without paths that only lost hard links: a bundle may omit them."""
    entries = node.bundle_entries(bundle)
    return {
        sign + change["path"]
        for word, sign in SIGNS.items()
        for change in differing[word]
        if change.get("differs") != ["links"] or os.fsencode(change["path"]) in entries
    }


def assert_only_what_differs(bundle: str, old: dict[bytes, VisibleEntry], new: dict[bytes, VisibleEntry]) -> None:
    entries = node.bundle_entries(bundle)
    assert entries
    for name in entries:
        parent, _, last = name.rpartition(b"/")
        path = (parent + b"/" if parent else b"") + last.removeprefix(b".wh.")
        assert old.get(path) != new.get(path), path
        assert (path not in new) is last.startswith(b".wh."), path


class TestContainers:
    """The view inside containers; the comparison of the kernel's views above covers the outside."""

    def test_new_containers_of_base_and_application_see_the_new_version(self, lab: Lab) -> None:
        lab.usual()
        lab.apply(lab.bundle())
        for image in (BASE, APP):
            assert lab.version(image) == "12.1"
            names = set(lab.engine.run(image, "ls", "/etc").split())
            assert {"version", "kept", "added"} <= names
            assert "gone" not in names
        assert lab.engine.run(APP, "cat", "/app/run") == "app\n"
        lab.rollback(BASE)
        assert lab.version() == "12.0"
        assert lab.engine.run(APP, "cat", "/etc/gone") == "from 12.0\n"

    def test_metadata(self, lab: Lab) -> None:
        old = [BUSYBOX, layer(file("su", b"x"), directory("tmp"))]
        new = [*old, layer(file("su", b"x", 0o4755, 12, 34, 1_000_000_000), directory("tmp", 0o1777))]
        lab.load({BASE: old, NEW: new, APP: [*old, APP_LAYER]})
        lab.apply(lab.bundle())
        assert lab.engine.run(APP, "stat", "-c", "%a %u %g %Y", "/su", "/tmp").splitlines() == [
            "4755 12 34 1000000000",
            "1777 0 0 1600000000",
        ]

    def test_a_base_with_another_libc_directory(self, lab: Lab) -> None:
        """The shell still runs after its directory becomes a symlink."""
        old = [BUSYBOX, layer(file("etc/version", b"12.0\n"))]
        moved = layer(*(_below_usr(member) for member in busybox_members()), symlink("bin", "usr/bin"))
        new = [layer(file("etc/version", b"12.1\n")), moved]
        lab.load({BASE: old, NEW: new, APP: [*old, APP_LAYER]})
        lab.apply(lab.bundle())
        assert lab.engine.run(APP, "/bin/sh", "-c", "readlink /bin; cat /etc/version") == "usr/bin\n12.1\n"


def _below_usr(member: Any) -> Any:
    return type(member)(**{**vars(member), "path": f"usr/{member.path}"})


class TestOtherImages:
    def test_images_that_share_only_lower_layers_do_not_change(self, lab: Lab) -> None:
        old = [BUSYBOX, VERSION_0, layer(file("top", b"1"))]
        other_images = {
            "corp/lower:1": old[:2],
            "corp/beside:1": [*old[:2], layer(file("top", b"beside"))],
            "corp/same-layer-elsewhere:1": [BUSYBOX, old[2]],
        }
        lab.load({BASE: old, NEW: [*old, VERSION_1, layer(file("top", b"2"))], **other_images})
        before = {image: (lab.show(image), node.inodes(*lab.dirs(image))) for image in other_images}

        done = lab.apply(lab.bundle())

        assert done["images"] == sorted([BASE, NEW])
        assert {image: (lab.show(image), node.inodes(*lab.dirs(image))) for image in other_images} == before
        assert lab.version("corp/beside:1") == "12.0"
        saved = node.saved_diff_ids(lab.engine, *other_images)
        assert saved == {
            image: [diff_id(image_layer) for image_layer in layers] for image, layers in other_images.items()
        }

    def test_an_image_with_the_same_layers_by_another_name_changes_too(self, lab: Lab) -> None:
        lab.usual()
        lab.load({"corp/child:1": [BUSYBOX, VERSION_0]}, {"Env": ["A=b"]})
        done = lab.apply(lab.bundle())
        assert done["images"] == sorted([BASE, NEW, APP, "corp/child:1"])
        assert lab.version("corp/child:1") == "12.1"

    def test_the_target_image_itself_stays_as_it_is(self, lab: Lab) -> None:
        lab.usual()
        expected_view = lab.show(NEW)
        bundle = lab.bundle()
        lab.apply(bundle)
        assert differences(lab.show(NEW), expected_view) == []

    def test_a_base_is_built_from_its_own_content_also_where_it_shows_a_newer_version(self, lab: Lab) -> None:
        lab.usual()
        first = lab.bundle()
        before = digest(first)
        lab.apply(first)
        assert digest(lab.bundle()) == before


class TestWithoutItsTag:
    def test_a_base_is_found_in_an_application_image(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        expected_view = lab.show(NEW)
        top = lab.top(BASE)
        lab.untag(BASE, NEW)
        own, base = lab.dirs(APP)[:1], lab.dirs(APP)[1:]

        done = lab.apply(bundle)

        assert (done["base"], done["images"]) == (BASE, [APP])
        assert differences(show(base), expected_view) == []
        assert Path(top, "baseimg/state.json").exists()
        assert lab.version() == "12.1"
        assert lab.status(BASE)["bases"][0]["version"] == "12.1"
        lab.rollback(BASE)
        assert lab.version() == "12.0"
        assert node.saved_diff_ids(lab.engine, APP) == {APP: [diff_id(x) for x in (BUSYBOX, VERSION_0, APP_LAYER)]}
        assert own == lab.dirs(APP)[:1]

    @pytest.mark.parametrize("tagged", [True, False])
    def test_a_base_is_named_by_its_chain_id(self, lab: Lab, tagged: bool) -> None:
        lab.usual()
        bundle = lab.bundle()
        chain = chain_id([diff_id(BUSYBOX), diff_id(VERSION_0)])
        assert lab.layer(BASE)["chain_id"] == chain
        if not tagged:
            lab.untag(BASE, NEW)
        assert lab.status(chain)["bases"][0]["chain_id"] == chain
        assert lab.apply(bundle, base=chain)["changed"] is True
        assert lab.version() == "12.1"
        assert lab.rollback(chain, to="pristine")["changed"] is True
        assert lab.version() == "12.0"

    def test_the_tag_of_every_name_means_pristine(self, lab: Lab) -> None:
        lab.usual()
        bundle, other = lab.bundle(), "corp/base:12.0-r2"
        lab.engine.tag(BASE, other)
        lab.apply(bundle)
        assert lab.converge(other, "12.0-r2")["changed"] is True
        assert lab.version() == "12.0"
        lab.apply(bundle)
        assert lab.plan(other, "12.0-r2")["changed"] is True
        assert lab.rollback(BASE, to="12.0-r2")["to"] == "12.0"
        assert lab.version() == "12.0"

    def test_a_base_that_was_first_named_by_its_chain_id_has_its_name_all_the_same(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        lab.untag(BASE, NEW)
        lab.apply(bundle, base=chain_id([diff_id(BUSYBOX), diff_id(VERSION_0)]))
        lab.converge(BASE, "12.0", {"12.1": {"source": bundle}})
        assert lab.version() == "12.0"


class TestBundles:
    @pytest.mark.parametrize("compression", ["zstd", "gzip"])
    def test_the_same_images_give_a_byte_identical_file(
        self, lab: Lab, make_engine: Callable[..., Engine], compression: str
    ) -> None:
        lab.usual()
        path = lab.work / "bundle.tar"
        made = lab.build(BASE, NEW, str(path), compression=compression)
        first = path.read_bytes()
        assert (made["hash"], made["size"]) == (digest(path), len(first))
        assert lab.build(BASE, NEW, str(path), compression=compression) == made
        assert path.read_bytes() == first

        other = Lab(make_engine(), lab.minion, lab.work)
        other.usual()
        lab.minion.configure(**{"docker.url": other.engine.url})
        assert other.build(BASE, NEW, str(path), compression=compression) == made
        assert path.read_bytes() == first

    def test_what_is_said_of_a_bundle(self, lab: Lab) -> None:
        lab.usual()
        made = lab.build(BASE, NEW, str(lab.work / "b.tar"))
        sides = {
            "source": {"reference": BASE, "version": "12.0", "chain_id": lab.layer(BASE)["chain_id"]},
            "target": {"reference": NEW, "version": "12.1", "chain_id": lab.layer(NEW)["chain_id"]},
        }
        counts = {"added": 1, "modified": 2, "removed": 1}
        assert made == {
            "bundle": str(lab.work / "b.tar"),
            "hash": digest(lab.work / "b.tar"),
            "size": (lab.work / "b.tar").stat().st_size,
            **sides,
            "platform": str(own_platform()),
            "changes": counts,
            "dropped": {"paths": 0, "attributes": 0},
        }
        assert lab.diff(BASE, NEW)["counts"] == counts
        description = lab.inspect(made["bundle"], verify=True)
        assert description["verified"] is True
        assert (description["hash"], description["size"]) == (made["hash"], made["size"])
        assert {side: {key: description[side][key] for key in sides[side]} for side in sides} == sides
        assert description["target"]["diff_ids"] == [diff_id(layer) for layer in (BUSYBOX, VERSION_0, VERSION_1)]
        assert {word: description["totals"][word] for word in counts} == counts

    def test_a_version_of_its_own(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle(version="12.1-fixed")
        assert lab.apply(bundle)["to"] == "12.1-fixed"
        assert lab.status(BASE)["bases"][0]["version"] == "12.1-fixed"

    def test_nothing_is_left_beside_a_bundle(self, lab: Lab) -> None:
        lab.usual()
        (lab.work / "out").mkdir()
        lab.build(BASE, NEW, str(lab.work / "out/b.tar"))
        assert [path.name for path in (lab.work / "out").iterdir()] == ["b.tar"]
        assert (lab.work / "out/b.tar").stat().st_mode & 0o777 == 0o600

    def test_an_engine_takes_a_bundle_for_an_image_layout(self, lab: Lab) -> None:
        """The layer of a bundle holds plain OCI changes: files and whiteouts."""
        lab.usual()
        bundle = lab.bundle()
        entries = node.bundle_entries(bundle)
        assert set(entries) == {b"etc/added", b"etc/version", b"etc/.wh.gone", b"usr/lib/tool"}
        assert entries[b"usr/lib/tool"].mode == 0o755


class TestLayer:
    def test_where_a_layer_lives(self, lab: Lab) -> None:
        lab.usual()
        path, *lower = lab.dirs(APP)
        assert lab.layer(APP) == {
            "image": APP,
            "chain_id": chain_id([diff_id(layer) for layer in (BUSYBOX, VERSION_0, APP_LAYER)]),
            "diff_id": diff_id(APP_LAYER),
            "path": path,
            "lower": lower,
            "storage": "docker/overlay2",
        }
        by_id = lab.layer(lab.engine.client.inspect_image(APP)["Id"])
        assert by_id["path"] == path

    def test_what_differs(self, lab: Lab) -> None:
        lab.usual()
        assert lab.diff(BASE, NEW) == {
            "source": BASE,
            "target": NEW,
            "platform": "linux/amd64",
            "counts": {"added": 1, "modified": 2, "removed": 1},
            "added": [{"path": "etc/added", "type": "file", "size": 10}],
            "modified": [
                {"path": "etc/version", "type": "file", "size": 5, "differs": ["content"]},
                {"path": "usr/lib/tool", "type": "file", "size": 10, "differs": ["content"]},
            ],
            "removed": [{"path": "etc/gone"}],
            "config": {},
        }


class TestSeveralSteps:
    """Several generations, one after the other, in one directory."""

    def test_there_and_back_many_times(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        old, new = lab.show(APP), kernel.show([*lab.dirs(APP)[:1], *lab.dirs(NEW)])
        for _ in range(3):
            assert lab.apply(bundle)["changed"] is True
            assert differences(lab.show(APP), new) == []
            assert lab.apply(bundle)["changed"] is False
            assert lab.rollback(BASE)["changed"] is True
            assert differences(lab.show(APP), old) == []
        assert [line["to"] for line in lab.history(BASE)] == ["12.1", "12.0"] * 3
        assert [generation["number"] for generation in lab.status(BASE)["bases"][0]["generations"]] == [0, 1]

    def test_a_base_that_is_removed_and_pulled_again_is_pristine(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        lab.apply(bundle)
        top = lab.top(BASE)
        lab.untag(APP, NEW, BASE)
        assert not Path(top).exists()
        lab.usual()
        assert lab.version() == "12.0"
        assert lab.status()["bases"] == []
        assert lab.apply(bundle)["generation"] == 1
        assert lab.version() == "12.1"

    def test_a_base_that_is_pulled_again_while_it_shows_a_newer_version_goes_on_to_show_it(self, lab: Lab) -> None:
        lab.usual()
        lab.apply(lab.bundle())
        lab.untag(BASE, NEW)
        lab.usual()
        assert lab.version() == lab.version(BASE) == "12.1"
        lab.rollback(BASE)
        assert node.saved_diff_ids(lab.engine, BASE)[BASE] == [diff_id(BUSYBOX), diff_id(VERSION_0)]

    def test_an_engine_saves_the_original_or_nothing(self, lab: Lab) -> None:
        """`docker save` fails while the base shows a newer version; the README states this limit."""
        lab.usual()
        lab.apply(lab.bundle())
        with pytest.raises(docker.errors.APIError, match="file integrity checksum failed"):
            lab.engine.save(APP)
        lab.rollback(BASE)
        assert len(node.saved_diff_ids(lab.engine, APP)[APP]) == 3

    def test_an_image_that_arrives_later_shows_the_newer_version_and_is_told(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        lab.apply(bundle)
        late = "corp/late:1"
        lab.load({late: [BUSYBOX, VERSION_0, layer(file("late", b"x"))]})
        assert lab.version(late) == "12.1"
        assert late in lab.status(BASE)["bases"][0]["images"]
        again = lab.converge(BASE, "12.1", {"12.1": {"source": bundle}})
        assert again["changed"] is False
        assert late in again["images"]

    def test_a_layer_on_top_of_a_removed_path_is_not_stray(self, lab: Lab) -> None:
        """The next generation does not inherit a whiteout that it does not need."""
        old = [BUSYBOX, layer(file("d/a", b"1"), file("d/b")), layer(file("x"))]
        middle = [*old, layer(whiteout("d/a"), whiteout("d/b"))]
        last = [*middle, layer(file("d/a", b"2"))]
        lab.load({BASE: old, NEW: middle, "corp/base:12.2": last, APP: [*old, APP_LAYER]})
        expected_view = lab.show("corp/base:12.2")
        lab.apply(lab.bundle())
        assert lab.apply(lab.bundle(NEW, "corp/base:12.2"), base=BASE)["to"] == "12.2"
        assert differences(lab.show(BASE), expected_view) == []
        assert lab.engine.run(APP, "ls", "/d") == "a\n"

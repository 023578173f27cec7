"""All states in both modes, and the SLS files that call them with pillar."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
from salt.exceptions import CommandExecutionError

from tests.functional.lab import (
    APP,
    APP_LAYER,
    BASE,
    BUSYBOX,
    NEW,
    NEWER,
    SLEEP,
    VERSION_0,
    VERSION_1,
    VERSION_2,
    Lab,
    digest,
    layer,
)
from tests.support import node
from tests.support.images import chain_id, diff_id, file
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

CHAIN = chain_id([diff_id(BUSYBOX), diff_id(VERSION_0)])
NEW_LAYERS = [BUSYBOX, VERSION_0, VERSION_1]
NOWHERE = "/nonexistent/bundle.tar"


def both(lab: Lab, state: str, **arguments: Any) -> dict[str, Any]:
    """
    Run a state in test mode and for real, twice; check the prediction and the no-op of the second run.

    Returns the result of the first real run.
    """
    # load both minions first, because loading writes files
    assert all(f"baseimg.{state}" in minion.states for minion in (lab.minion, lab.in_test_mode))
    disk = (lab.layers(), node.inodes(lab.work))
    foretold = run(lab, True, state, arguments)
    assert (lab.layers(), node.inodes(lab.work)) == disk
    done = run(lab, False, state, arguments)

    if done["result"] is False or not done["changes"]:
        assert foretold == done
        assert lab.layers() == disk[0] or done["result"]
        return done
    assert foretold["result"] is None
    assert foretold["changes"].keys() == done["changes"].keys(), (foretold, done)
    assert done["result"] is True
    disk = (lab.layers(), node.inodes(lab.work))
    for test in (True, False):
        again = run(lab, test, state, arguments)
        assert (again["result"], again["changes"]) == (True, {})
        assert again["comment"]
    assert (lab.layers(), node.inodes(lab.work)) == disk
    done["foretold"] = foretold
    return done


def run(lab: Lab, test: bool, state: str, arguments: dict[str, Any]) -> dict[str, Any]:
    minion = lab.in_test_mode if test else lab.minion
    result: dict[str, Any] = minion.states[f"baseimg.{state}"](**copy.deepcopy(arguments))
    assert result["name"] == arguments["name"]
    assert isinstance(result["comment"], str)
    return result


def converged(lab: Lab, version: str, bundles: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return both(lab, "converged", **{"name": BASE, "version": version, "bundles": bundles, **more})


def swapped(old: str, new: str) -> dict[str, Any]:
    return {"version": {"old": old, "new": new}}


def declare(bundle: str, **more: Any) -> dict[str, Any]:
    return {"source": bundle, "hash": digest(bundle), **more}


class TestConverged:
    def test_to_a_newer_version_and_back(self, lab: Lab) -> None:
        lab.usual()
        bundles = {"12.1": declare(lab.bundle())}
        done = converged(lab, "12.1", bundles)
        assert done["changes"] == done["foretold"]["changes"] == swapped("12.0", "12.1")
        assert lab.version() == "12.1"
        for text in (done["comment"], done["foretold"]["comment"]):
            assert BASE in text
            assert "3 images" in text
        assert "paths: 1 added, 2 modified, 1 removed" in done["foretold"]["comment"]

        done = converged(lab, "12.0", bundles)
        assert done["changes"] == done["foretold"]["changes"] == swapped("12.1", "12.0")
        assert lab.version() == "12.0"
        assert node.saved_diff_ids(lab.engine, APP)[APP] == [diff_id(x) for x in (BUSYBOX, VERSION_0, APP_LAYER)]
        assert [line["to"] for line in lab.history(BASE)] == ["12.1", "12.0"]

    def test_the_bases_own_tag_is_what_an_untouched_node_shows(self, lab: Lab) -> None:
        lab.usual()
        done = converged(lab, "12.0", {"12.1": {"source": NOWHERE}})
        assert (done["result"], done["changes"]) == (True, {})
        assert not Path(lab.top(BASE), "baseimg").exists()

    def test_containers_that_stay_behind_are_named(self, lab: Lab) -> None:
        lab.usual()
        lab.engine.start_container(APP, *SLEEP, name="running")
        done = converged(lab, "12.1", {"12.1": declare(lab.bundle())})
        assert "running" in done["comment"]
        assert "running" in done["foretold"]["comment"]
        again = converged(lab, "12.1", {"12.1": declare(lab.bundle())})
        assert "running" in again["comment"]

    def test_a_version_that_is_there_needs_no_bundle(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        declared = declare(bundle)
        converged(lab, "12.1", {"12.1": declared})
        Path(bundle).unlink()
        for version in ("12.0", "12.1"):
            assert converged(lab, version, {"12.1": declared})["changes"]["version"]["new"] == version
        assert converged(lab, "12.0", {})["changes"] == swapped("12.1", "12.0")
        assert converged(lab, "12.1", {"12.1": {"source": NOWHERE}})["changes"] == swapped("12.0", "12.1")
        assert lab.version() == "12.1"
        assert lab.status(BASE)["bases"][0]["generation"] == 1

    def test_bundles_are_chained_in_one_swap(self, lab: Lab) -> None:
        lab.usual(NEWER)
        expected_view = lab.show(NEWER)
        bundles = {"12.1": declare(lab.bundle()), "12.2": declare(lab.bundle(NEW, NEWER))}
        lab.untag(NEW, NEWER)

        done = converged(lab, "12.2", bundles)

        assert done["changes"] == done["foretold"]["changes"] == swapped("12.0", "12.2")
        assert "Bundles: 12.1, 12.2 " in done["foretold"]["comment"]
        assert lab.show(BASE) == expected_view
        assert lab.version() == "12.2"
        assert [(line["from"], line["to"]) for line in lab.history(BASE)] == [("12.0", "12.2")]
        assert [generation["version"] for generation in lab.status(BASE)["bases"][0]["generations"]] == ["12.0", "12.2"]
        assert {path.name for path in Path(lab.top(BASE), "baseimg/generations").iterdir()} == {"0"}

    def test_the_second_bundle_alone_fits_a_base_that_shows_the_first_version(self, lab: Lab) -> None:
        lab.usual(NEWER)
        expected_view = lab.show(NEWER)
        second = declare(lab.bundle(NEW, NEWER))
        converged(lab, "12.1", {"12.1": declare(lab.bundle())})
        lab.untag(NEW, NEWER)
        done = converged(lab, "12.2", {"12.2": second})
        assert done["changes"] == swapped("12.1", "12.2")
        assert lab.show(BASE) == expected_view
        assert lab.status(BASE)["bases"][0]["content"] == chain_id(
            [diff_id(layer) for layer in [*NEW_LAYERS, VERSION_2]]
        )

    def test_and_where_the_base_shows_something_else_by_now(self, lab: Lab) -> None:
        """The bundle starts from 12.1, which is a kept generation while the base shows 12.0."""
        lab.usual(NEWER)
        expected_view = lab.show(NEWER)
        second = declare(lab.bundle(NEW, NEWER))
        converged(lab, "12.1", {"12.1": declare(lab.bundle())})
        converged(lab, "12.0")
        assert converged(lab, "12.2", {"12.2": second})["changes"] == swapped("12.0", "12.2")
        assert lab.show(BASE) == expected_view

    def test_the_second_bundle_alone_does_not_fit_a_pristine_base(self, lab: Lab) -> None:
        lab.usual(NEWER)
        done = converged(lab, "12.2", {"12.2": declare(lab.bundle(NEW, NEWER))})
        assert done["result"] is False
        assert "version-unknown" in done["comment"]
        assert NEW in done["comment"]
        assert lab.version() == "12.0"

    def test_a_downgrade_by_a_bundle(self, lab: Lab) -> None:
        """A bundle may lead from a newer base image to an older target."""
        lab.usual()
        lab.load({"corp/app:2": [*NEW_LAYERS, APP_LAYER]})
        expected_view = lab.show(BASE)
        bundle = lab.bundle(NEW, BASE)
        done = both(lab, "converged", name=NEW, version="12.0", bundles={"12.0": declare(bundle)})
        assert done["changes"] == swapped("12.1", "12.0")
        assert lab.show(NEW) == expected_view
        assert lab.version("corp/app:2") == "12.0"

    def test_another_file_with_the_same_content(self, lab: Lab) -> None:
        lab.usual()
        with_zstd, with_gzip = (declare(lab.bundle(compression=kind)) for kind in ("zstd", "gzip"))
        assert with_zstd["hash"] != with_gzip["hash"]
        converged(lab, "12.1", {"12.1": with_zstd})
        done = converged(lab, "12.1", {"12.1": with_gzip})
        assert (done["result"], done["changes"]) == (True, {})
        (base_status,) = lab.status(BASE)["bases"]
        assert (base_status["generation"], len(base_status["generations"])) == (1, 2)
        assert len(lab.history(BASE)) == 1
        Path(with_gzip["source"]).unlink()
        done = converged(lab, "12.1", {"12.1": with_gzip})
        assert (done["result"], done["changes"]) == (True, {})

    def test_another_content_of_the_same_version_is_a_new_generation(self, lab: Lab) -> None:
        lab.usual(NEWER)
        converged(lab, "12.1", {"12.1": declare(lab.bundle())})
        rebuilt = declare(lab.bundle(BASE, NEWER, version="12.1"))
        done = converged(lab, "12.1", {"12.1": rebuilt})
        assert done["changes"]
        assert lab.version() == "12.2"
        assert lab.status(BASE)["bases"][0]["generation"] == 2


class TestFindingTheBase:
    def test_a_node_without_the_base_is_converged(self, lab: Lab) -> None:
        lab.engine.remove_all()
        done = converged(lab, "12.1", {"12.1": {"source": NOWHERE}})
        assert (done["result"], done["changes"]) == (True, {})
        assert BASE in done["comment"]

    def test_a_node_with_other_images_only(self, lab: Lab) -> None:
        lab.usual()
        bundle = declare(lab.bundle())
        lab.untag(APP, BASE, NEW)
        lab.load({"corp/other:1": [BUSYBOX]})
        done = converged(lab, "12.1", {"12.1": bundle})
        assert (done["result"], done["changes"]) == (True, {})
        assert BASE in done["comment"]
        assert converged(lab, "12.1", {"12.1": bundle}, missing="fail")["result"] is False

    @pytest.mark.parametrize("chain", [None, CHAIN])
    def test_unless_it_must_be_there(self, lab: Lab, chain: str | None) -> None:
        lab.engine.remove_all()
        done = converged(lab, "12.1", {"12.1": {"source": NOWHERE}}, missing="fail", chain_id=chain)
        assert done["result"] is False
        assert "base-absent" in done["comment"]
        assert BASE in done["comment"]

    def test_by_what_the_bundle_starts_from(self, lab: Lab) -> None:
        lab.usual()
        bundles = {"12.1": declare(lab.bundle())}
        lab.untag(BASE, NEW)
        assert converged(lab, "12.1", bundles)["changes"] == swapped("12.0", "12.1")
        assert lab.version() == "12.1"

    def test_by_its_chain_id(self, lab: Lab) -> None:
        lab.usual()
        bundles = {"12.1": declare(lab.bundle())}
        lab.untag(BASE, NEW)
        done = both(lab, "converged", name="any/name:12.0", version="12.1", bundles=bundles, chain_id=CHAIN)
        assert done["changes"] == swapped("12.0", "12.1")
        assert lab.version() == "12.1"
        done = both(lab, "converged", name="any/name:12.0", version="12.0", chain_id=CHAIN)
        assert done["changes"] == swapped("12.1", "12.0")

    def test_by_the_record_once_its_tag_is_gone(self, lab: Lab) -> None:
        lab.usual()
        bundles = {"12.1": declare(lab.bundle())}
        converged(lab, "12.1", bundles)
        lab.untag(BASE, NEW)
        assert converged(lab, "12.1")["result"] is True
        assert converged(lab, "12.0")["changes"] == swapped("12.1", "12.0")
        assert lab.version() == "12.0"
        assert converged(lab, "12.1", {})["changes"] == swapped("12.0", "12.1")
        assert lab.version() == "12.1"
        assert lab.status(BASE)["bases"][0]["images"] == [APP]


class TestBuilt:
    def test_a_bundle(self, lab: Lab) -> None:
        lab.usual()
        path = str(lab.work / "bundle.tar")
        done = both(lab, "built", name=path, source=BASE, target=NEW)
        assert done["changes"] == {"bundle": {"old": None, "new": digest(path)}}
        assert done["foretold"]["changes"]["bundle"]["old"] is None
        assert "1 added, 2 modified, 1 removed" in done["comment"]
        assert lab.inspect(path, verify=True)["target"]["version"] == "12.1"

    @pytest.mark.parametrize(
        "more", [{"version": "12.1-1"}, {"compression": "gzip"}, {"target": NEWER}, {"source": NEW, "target": NEWER}]
    )
    def test_it_is_built_again_where_it_is_another_one(self, lab: Lab, more: dict[str, str]) -> None:
        lab.usual(NEWER)
        arguments = {"name": str(lab.work / "bundle.tar"), "source": BASE, "target": NEW}
        old = both(lab, "built", **arguments)["changes"]["bundle"]["new"]
        done = both(lab, "built", **{**arguments, **more})
        assert done["changes"]["bundle"] == {"old": old, "new": digest(arguments["name"])}
        assert done["foretold"]["changes"]["bundle"]["old"] == old
        assert done["changes"]["bundle"]["new"] != old

    def test_it_is_built_again_where_an_image_has_moved_on(self, lab: Lab) -> None:
        lab.usual()
        arguments = {"name": str(lab.work / "bundle.tar"), "source": BASE, "target": NEW}
        old = both(lab, "built", **arguments)["changes"]["bundle"]["new"]
        lab.load({NEW: [*NEW_LAYERS, layer(file("etc/version", b"12.1.1\n"))]})
        assert both(lab, "built", **arguments)["changes"]["bundle"]["old"] == old

    @pytest.mark.parametrize("damage", ["truncated", "no bundle", "empty"])
    def test_it_is_built_again_where_the_file_is_damaged(self, lab: Lab, damage: str) -> None:
        lab.usual()
        path = lab.work / "bundle.tar"
        arguments = {"name": str(path), "source": BASE, "target": NEW}
        both(lab, "built", **arguments)
        sound = path.read_bytes()
        path.write_bytes({"truncated": sound[:-700], "no bundle": b"text\n", "empty": b""}[damage])
        assert both(lab, "built", **arguments)["changes"]
        assert path.read_bytes() == sound

    def test_it_is_built_again_where_the_content_of_its_layer_is_damaged(self, lab: Lab) -> None:
        lab.usual()
        path = lab.work / "bundle.tar"
        arguments = {"name": str(path), "source": BASE, "target": NEW}
        both(lab, "built", **arguments)
        sound = path.read_bytes()
        path.write_bytes(sound[:600] + bytes([sound[600] ^ 1]) + sound[601:])
        assert both(lab, "built", **arguments)["changes"]
        assert path.read_bytes() == sound

    @pytest.mark.parametrize(
        ("more", "code"),
        [
            ({"source": "corp/none:1"}, "image-unknown"),
            ({"target": "corp/none:1"}, "image-unknown"),
            ({"target": BASE}, "images-equal"),
            ({"compression": "lzma"}, "argument-invalid"),
            ({"version": "not a tag"}, "argument-invalid"),
        ],
    )
    def test_what_cannot_be_built_fails_in_both_modes(self, lab: Lab, more: dict[str, str], code: str) -> None:
        lab.usual()
        done = both(lab, "built", **{"name": str(lab.work / "b.tar"), "source": BASE, "target": NEW, **more})
        assert done["result"] is False
        assert code in done["comment"]
        assert not (lab.work / "b.tar").exists()

    def test_a_directory_that_another_state_may_make_fails_for_real_only(self, lab: Lab) -> None:
        lab.usual()
        arguments = {"name": str(lab.work / "later/b.tar"), "source": BASE, "target": NEW}
        assert run(lab, True, "built", arguments)["result"] is None
        done = run(lab, False, "built", arguments)
        assert done["result"] is False
        assert "destination-unwritable" in done["comment"]


def base_pillar(**base: Any) -> dict[str, Any]:
    return {"baseimg": {"bases": {BASE: base}}}


def apply_sls(minion: Minion, sls: str, pillar: dict[str, Any], test: bool = False) -> Any:
    minion.configure(pillar=pillar, test=test)
    return minion.modules["state.apply"](sls)


class TestSls:
    def test_bases_from_pillar(self, lab: Lab) -> None:
        lab.usual()
        other = [BUSYBOX, layer(file("o", b"1"))]
        lab.load({"corp/other:1": other, "corp/other:2": [*other, layer(file("o", b"2"))]})
        pillar = base_pillar(version="12.1", bundles={"12.1": declare(lab.bundle())})
        pillar["baseimg"]["bases"]["corp/other:1"] = {
            "version": "2",
            "bundles": {"2": declare(lab.bundle("corp/other:1", "corp/other:2"))},
            "missing": "fail",
        }
        pillar["baseimg"]["bases"]["corp/elsewhere:1"] = {"version": "1"}
        before = lab.layers()
        for test, result in ((True, None), (False, True)):
            states = {state["name"]: state for state in apply_sls(lab.minion, "baseimg", pillar, test).values()}
            assert {name: (state["result"], state["changes"]) for name, state in states.items()} == {
                BASE: (result, swapped("12.0", "12.1")),
                "corp/other:1": (result, swapped("1", "2")),
                "corp/elsewhere:1": (True, {}),
            }
            assert (lab.layers() == before) is test
        assert lab.version() == "12.1"
        assert lab.engine.run("corp/other:1", "cat", "/o") == "2"
        again = apply_sls(lab.minion, "baseimg", pillar).values()
        assert {(state["result"], str(state["changes"])) for state in again} == {(True, "{}")}

        pillar["baseimg"]["bases"][BASE]["version"] = "12.0"
        apply_sls(lab.minion, "baseimg", pillar)
        assert lab.version() == "12.0"
        assert lab.engine.run("corp/other:1", "cat", "/o") == "2"

    def test_bundles_to_build_from_pillar(self, lab: Lab) -> None:
        lab.usual()
        path, other = str(lab.work / "a.tar"), str(lab.work / "b.tar")
        builds = {
            path: {"source": BASE, "target": NEW},
            other: {"source": BASE, "target": NEW, "version": "12.1-1", "compression": "gzip"},
        }
        pillar = {"baseimg": {"builds": builds}}
        for test, result in ((True, None), (False, True)):
            states = apply_sls(lab.minion, "baseimg.build", pillar, test).values()
            assert {state["name"]: state["result"] for state in states} == {path: result, other: result}
            assert Path(path).exists() is not test
        assert (lab.inspect(path)["target"]["version"], lab.inspect(path)["compression"]) == ("12.1", "zstd")
        assert (lab.inspect(other)["target"]["version"], lab.inspect(other)["compression"]) == ("12.1-1", "gzip")

    def test_a_bundle_from_the_file_server(self, lab: Lab) -> None:
        lab.usual()
        served = lab.work / "srv"
        (served / "bundles").mkdir(parents=True)
        bundle = served / "bundles/new.tar"
        lab.build(BASE, NEW, str(bundle))
        roots = [*lab.minion.opts["file_roots"]["base"], str(served)]
        lab.minion.configure(file_roots={"base": roots})
        source = {"source": "salt://bundles/new.tar", "hash": digest(bundle)}
        (state,) = apply_sls(lab.minion, "baseimg", base_pillar(version="12.1", bundles={"12.1": source})).values()
        assert (state["result"], state["changes"]) == (True, swapped("12.0", "12.1"))
        assert lab.version() == "12.1"

    def test_nothing_is_declared(self, lab: Lab) -> None:
        for sls in ("baseimg", "baseimg.build"):
            for pillar in ({}, {"baseimg": {}}, {"baseimg": {"bases": None, "builds": {}}}):
                assert apply_sls(lab.minion, sls, pillar) == {}


BUNDLE = {"source": "/b.tar"}
HERE = f"baseimg:bases:{BASE}"
# pillar, and parts of the message: the key, the actual value, the expected value
MISTAKES: dict[str, tuple[Any, list[str]]] = {
    "version is a number": (base_pillar(version=12.1), [f"{HERE}:version", "12.1", "quotes"]),
    "version is missing": (base_pillar(), [f"{HERE}:version", "nothing"]),
    "version is empty": (base_pillar(version=""), [f"{HERE}:version", "text"]),
    "version is a list": (base_pillar(version=["12.1"]), [f"{HERE}:version", "12.1", "list", "text"]),
    "base is a text": ({"baseimg": {"bases": {BASE: "12.1"}}}, [HERE, "12.1", "mapping"]),
    "bases is a list": ({"baseimg": {"bases": [BASE]}}, ["baseimg:bases", BASE, "list"]),
    "baseimg is a text": ({"baseimg": "yes"}, ["baseimg", "yes", "mapping"]),
    "unknown key": (base_pillar(version="12.1", verion="12.1"), [f"{HERE}:verion", "12.1", "version"]),
    "unknown key of a bundle": (
        base_pillar(version="12.1", bundles={"12.1": {**BUNDLE, "sha256": "abc"}}),
        [f"{HERE}:bundles:12.1:sha256", "abc", "hash"],
    ),
    "bundles is a list": (base_pillar(version="12.1", bundles=[{"12.1": BUNDLE}]), [f"{HERE}:bundles", "list"]),
    "bundle is a text": (base_pillar(version="12.1", bundles={"12.1": "/b"}), [f"{HERE}:bundles:12.1", "'/b'"]),
    "a bundle's version is a number": (
        base_pillar(version="12.1", bundles={12.1: BUNDLE}),
        [f"{HERE}:bundles", "12.1", "quotes"],
    ),
    "source is missing": (
        base_pillar(version="12.1", bundles={"12.1": {"hash": None}}),
        [f"{HERE}:bundles:12.1:source", "nothing"],
    ),
    "source is relative": (
        base_pillar(version="12.1", bundles={"12.1": {"source": "b.tar"}}),
        [f"{HERE}:bundles:12.1:source", "b.tar", "absolute"],
    ),
    "hash is not one": (
        base_pillar(version="12.1", bundles={"12.1": {**BUNDLE, "hash": "sha256:12"}}),
        [f"{HERE}:bundles:12.1:hash", "sha256:12", "64 hex digits"],
    ),
    "hash is too short": (
        base_pillar(version="12.1", bundles={"12.1": {**BUNDLE, "hash": "a" * 63}}),
        [f"{HERE}:bundles:12.1:hash", "aaaa", "64 hex digits"],
    ),
    "chain ID is not one": (base_pillar(version="12.1", chain_id="abc"), [f"{HERE}:chain_id", "abc", "sha256:"]),
    "missing is neither": (base_pillar(version="12.1", missing="yes"), [f"{HERE}:missing", "yes", "ok", "fail"]),
    "missing is a boolean": (base_pillar(version="12.1", missing=False), [f"{HERE}:missing", "False", "fail"]),
    "name is a number": ({"baseimg": {"bases": {12: {"version": "1"}}}}, ["baseimg:bases", "12", "text"]),
    "unknown section": ({"baseimg": {"base": {BASE: {"version": "12.1"}}}}, ["baseimg:base", BASE, "bases"]),
    "build without a target": (
        {"baseimg": {"builds": {"/b.tar": {"source": BASE}}}},
        ["baseimg:builds:/b.tar:target", "nothing"],
    ),
    "build of a relative path": (
        {"baseimg": {"builds": {"b.tar": {"source": BASE, "target": NEW}}}},
        ["baseimg:builds", "b.tar", "absolute"],
    ),
    "build with an unknown key": (
        {"baseimg": {"builds": {"/b.tar": {"source": BASE, "target": NEW, "level": 3}}}},
        ["baseimg:builds:/b.tar:level", "3", "compression"],
    ),
    "build with an unknown compression": (
        {"baseimg": {"builds": {"/b.tar": {"source": BASE, "target": NEW, "compression": "xz"}}}},
        ["baseimg:builds:/b.tar:compression", "xz", "zstd"],
    ),
}


class TestPillarMistakes:
    def test_each_is_told_before_anything_happens(self, lab: Lab, subtests: pytest.Subtests) -> None:
        """A mistake in one declaration stops the state before it changes another, valid base."""
        lab.usual()
        sound = {"version": "12.1", "bundles": {"12.1": declare(lab.bundle())}, "chain_id": CHAIN}
        before = lab.layers()
        for mistake, (wrong, expected) in MISTAKES.items():
            with subtests.test(mistake):
                pillar = copy.deepcopy(wrong)
                bases = pillar["baseimg"].get("bases") if isinstance(pillar["baseimg"], dict) else None
                if isinstance(bases, dict):
                    pillar["baseimg"]["bases"] = {"a/first:12.0": sound, **bases}
                (state,) = apply_sls(lab.minion, "baseimg", pillar).values()
                assert (state["result"], state["changes"]) == (False, {})
                assert [text for text in expected if text not in state["comment"]] == []
                assert state["comment"].startswith("[argument-invalid] ")
                with pytest.raises(CommandExecutionError) as caught:
                    lab.declared()
                assert caught.value.info["code"] == "argument-invalid"
                assert [text for text in expected if text not in caught.value.info["message"]] == []
                assert node.touched(before, lab.layers()) == []

    WRONG: ClassVar = [
        ({"version": 12.1}, ["version", "12.1", "quotes"]),
        ({"version": "12.1", "bundles": [BUNDLE]}, ["bundles", "list"]),
        ({"version": "12.1", "bundles": {"12.1": {"source": "b.tar"}}}, ["bundles:12.1:source", "absolute"]),
        ({"version": "12.1", "chain_id": "abc"}, ["chain_id", "abc", "sha256:"]),
        ({"version": "12.1", "missing": "maybe"}, ["missing", "maybe", "fail"]),
    ]

    def test_the_state_itself_checks_too(self, lab: Lab, subtests: pytest.Subtests) -> None:
        lab.usual()
        for arguments, expected in self.WRONG:
            with subtests.test(str(arguments)):
                done = both(lab, "converged", name=BASE, **arguments)
                assert done["result"] is False
                assert [text for text in expected if text not in done["comment"]] == []

"""The state of fixes in images and containers, over bases in plain directories."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from baseimg_core.engine.base import Container
from baseimg_core.errors import ArgumentInvalid, BaseAbsent
from baseimg_core.model.fixes import summary
from baseimg_core.model.fixes.effect import State
from baseimg_core.model.policy import pillar
from baseimg_core.model.store.record import Record
from baseimg_core.ops import bases, hold, sbom, status
from baseimg_core.ops import fixes as ops_fixes
from baseimg_core.ops.containers import usage
from baseimg_core.ops.containers.usage import Usage, Use
from baseimg_core.ops.effects import LiveEffects
from baseimg_core.report import sbom as report_sbom
from tests.support import cyclonedx
from tests.support.images import digest
from tests.support.nests import NestNode, files

OS, JAVA = "corp/os:1", "corp/java:1"
PACKAGES = {"openssl": ["/usr/bin/openssl", "/lib/libssl.so.3"], "zlib": ["/usr/lib/libz.so"], "gcc-base": []}


def base(version: str, **own: str) -> dict[str, str]:
    """Return the files of one version of the base, of three packages."""
    stanzas = (f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n" for name in PACKAGES)
    lists = {
        f"var/lib/dpkg/info/{name}.list": "".join(f"{line}\n" for line in ("/.", *paths, f"/usr/share/doc/{name}/NEWS"))
        for name, paths in PACKAGES.items()
    }
    docs = {f"usr/share/doc/{name}/NEWS": version for name in PACKAGES}
    content = {path.strip("/"): f"{path} {version}" for paths in PACKAGES.values() for path in paths}
    # /usr is merged
    content["usr/lib/libssl.so.3"] = content.pop("lib/libssl.so.3")
    return {"var/lib/dpkg/status": "\n".join(stanzas), "etc/v": version, **docs, **lists, **content, **own}


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return a node with applications on a base of two packages with fixes, not converged."""
    made = NestNode(tmp_path)
    made.image(OS, "", files(base("1")))
    made.image("corp/plain:1", OS, files({"app": "1", "usr/share/doc/openssl/NEWS": "own"}))
    made.image("corp/split:1", OS, files({"usr/bin/openssl": "own"}))
    made.image("corp/own:1", OS, files({"usr/bin/openssl": "own", "usr/lib/libssl.so.3": "own"}))
    made.image("corp/same:1", OS, files({"usr/lib/libz.so": "/usr/lib/libz.so 2"}))
    made.fixes = {"openssl": ("CVE-2024-5535",), "/etc/v": ("CORP-1",)}
    made.version(OS, "2", [], files(base("2")))
    return made


def answer(node: NestNode, declared: str = "", name: str | None = None) -> dict[str, Any]:
    bundles = {
        version: {"source": source.source, "hash": source.digest} for version, source in node.bundles[OS].items()
    }
    declaration = {"version": declared, "bundles": bundles}
    declared_bases = pillar.declared({"bases": {OS: declaration} if declared else {}})["bases"]
    result = ops_fixes.fixes(node.context, declared_bases, name)
    assert json.loads(json.dumps(result)) == result
    assert not result["errors"]
    (judged,) = [each for each in result["bases"] if each["base"] == OS]
    return dict(judged)


def states(judged: dict[str, Any], kind: str = "images") -> dict[str, dict[str, str]]:
    """Return the updates that are not in effect, with their states, by image or container."""
    return {
        item[kind[:-1]]: {name: effect["state"] for name, effect in item["pending"].items()}
        for item in judged[kind]
        if item["pending"]
    }


def test_own_copies_and_the_files_that_decide(node: NestNode) -> None:
    node.converge(OS, "2")
    judged = answer(node)
    assert judged["updates"]["openssl"] == {
        "from": "1",
        "to": "2",
        "advisories": {"CVE-2024-5535": "operator"},
        "unread": "the image has no changelog of it",
    }
    assert judged["updates"]["/etc/v"]["advisories"] == {"CORP-1": "operator"}
    # documentation carries no fix, and a copy that equals the new file is the fix
    assert states(judged) == {"corp/own:1": {"openssl": "overridden"}, "corp/split:1": {"openssl": "split"}}
    (split,) = [image for image in judged["images"] if image["image"] == "corp/split:1"]
    assert split["pending"]["openssl"] == {
        "state": "split",
        "reason": "1 of 2 files are the image's own",
        "paths": ["usr/bin/openssl"],
        "hidden": 1,
    }
    assert {image["image"] for image in judged["images"]} == {
        "corp/plain:1",
        "corp/split:1",
        "corp/own:1",
        "corp/same:1",
    }


def test_without_what_the_bundles_judged_the_contents_are_read(node: NestNode) -> None:
    node.converge(OS, "2")
    with_file = answer(node)
    os.unlink(bases.locate(node.engine, OS).store.layout.delivered)
    without = answer(node)
    assert states(without) == states(with_file)
    assert without["updates"]["openssl"]["advisories"] == {}  # only the operator had named them


def test_a_second_step_keeps_the_fixes_of_the_first(node: NestNode) -> None:
    node.converge(OS, "2")
    node.fixes = {"zlib": ("CVE-2024-9999",)}
    kept = {"etc/v": "2"}  # the file that the first bundle named as a fix
    second = [node.root / "targets/corp-os:1-2.0"]
    third = node.root / "targets/third"
    files(base("3", **kept))(third)
    node.bundle_from(OS, "3", (digest(f"{OS} 2".encode()),), second, [third], (digest(b"3"),))
    awaited = answer(node, "3")["awaited"]["updates"]
    assert (awaited["zlib"]["from"], awaited["openssl"]["advisories"]) == ("2", {})
    node.converge(OS, "3")
    updates = answer(node)["updates"]
    assert {name: (each["from"], each["to"], *each["advisories"]) for name, each in updates.items()} == {
        "/etc/v": ("", "", "CORP-1"),
        "gcc-base": ("1", "3"),
        "openssl": ("1", "3", "CVE-2024-5535"),
        "zlib": ("1", "3", "CVE-2024-9999"),
    }


def test_a_node_behind_and_a_held_version(node: NestNode) -> None:
    behind = answer(node, "2")
    assert (behind["version"], behind["awaited"]["version"]) == ("1", "2")
    assert behind["awaited"]["reason"] == "this node shows 1, 2 is declared"
    assert behind["awaited"]["updates"]["openssl"]["advisories"] == {"CVE-2024-5535": "operator"}
    node.converge(OS, "2")
    assert answer(node, "2")["awaited"] is None
    node.rollback(OS)
    hold.hold(node.context, OS, "2", "shop does not start")
    held = answer(node, "2")["awaited"]
    assert (held["held"], held["reason"]) == (True, "2 is held on this node: shop does not start")
    assert summary.pending({"bases": [answer(node, "2")], "errors": []})[OS] == {"CORP-1": 4, "CVE-2024-5535": 4}


def test_containers_on_older_content_and_with_own_files(node: NestNode, tmp_path: Path) -> None:
    node.converge(OS, "2")
    own = tmp_path / "own"
    files({"usr/lib/libz.so": "changed at run time"})(own)
    stopped = {"image_id": "corp/plain:1", "pid": 0, "state": "exited"}
    node.engine.running = [
        Container(id="1", name="copied-up", upper=str(own), **stopped),
        Container(id="2", name="volume", volumes={"/usr/lib": "vol"}, **stopped),
        Container(id="3", name="plain", **stopped),
        Container(
            id="4", name="orphan", image_id="gone", pid=0, layers=frozenset({bases.locate(node.engine, OS).directory})
        ),
    ]
    judged = answer(node)
    assert states(judged, "containers") == {
        "copied-up": {"zlib": "overridden"},
        "volume": {"openssl": "split", "zlib": "overridden"},
        "orphan": dict.fromkeys(judged["updates"], "unknown"),
    }


def test_a_container_on_older_content_of_a_base_above(
    node: NestNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may show the older files of that base in place of the fixed ones, so nothing is in effect yet."""
    node.image(JAVA, OS, files({"opt/java": "1"}))
    node.image("corp/app:1", JAVA, files({"app": "1"}))
    node.fixes = {}
    node.version(JAVA, "2", node.stacks[OS], files({"opt/java": "2"}))
    node.converge(OS, "2")
    node.converge(JAVA, "2")
    container = Container(id="1", name="app", image_id="corp/app:1", pid=os.getpid(), state="running")
    older = {OS: False, JAVA: False}

    def survey(_engine: object, base: bases.Base, record: Record, stopped: bool = False) -> Usage:
        number = 0 if older[base.reference] else record.current
        return Usage([container], {"1"}, [Use("app", container, frozenset({number}))])

    monkeypatch.setattr(usage, "survey", survey)
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(ops_fixes, "own_files", lambda *_: SimpleNamespace(directory=str(tmp_path / "own"), mounts=()))
    before = states(answer(node), "containers")["app"]
    assert before == dict.fromkeys(("openssl", "zlib", "/etc/v"), "masked")
    older[JAVA] = True
    assert states(answer(node), "containers")["app"] == {**before, "gcc-base": "after restart"}


@pytest.mark.parametrize(
    ("mounted", "live", "expected"),
    [
        (0, {"/usr/bin/openssl": 1, "/usr/lib/libssl.so.3": 1}, {"openssl": "in effect live", "zlib": "after restart"}),
        (0, {"/usr/bin/openssl": 1}, {"openssl": "after restart", "zlib": "after restart"}),
        (0, {"/usr/bin/openssl": 1, "/usr/lib/libssl.so.3": None}, {"openssl": "after restart"}),
        (0, {"/usr/lib/libz.so": 1, "/etc/v": 1}, {"zlib": "in effect live", "/etc/v": "in effect live"}),
        (1, {"/usr/lib/libz.so": 0}, {"zlib": "after restart", "openssl": None}),
        (1, {}, {"zlib": None, "openssl": None}),
    ],
)
def test_files_that_are_mounted_into_a_container(
    node: NestNode,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mounted: int,
    live: dict[str, int | None],
    expected: dict[str, str | None],
) -> None:
    """A fix is in effect live if every file that it needs is mounted. A file of other content hides a fix."""
    node.converge(OS, "2")
    container = Container(id="1", name="app", image_id="corp/plain:1", pid=os.getpid(), state="running")
    files_by_path = {path.strip("/").encode(): number for path, number in live.items()}

    def survey(_engine: object, _base: bases.Base, _record: Record, stopped: bool = False) -> Usage:
        return Usage([container], {"1"}, [Use("app", container, frozenset({mounted}))], {"1": files_by_path})

    monkeypatch.setattr(usage, "survey", survey)
    (upper := tmp_path / "upper").mkdir()
    monkeypatch.setattr(ops_fixes, "own_files", lambda *_: SimpleNamespace(directory=str(upper), mounts=()))
    judged = answer(node)
    (item,) = judged["containers"]
    effects = {**item["pending"], **item.get("live", {})}
    assert {name: effects.get(name, {}).get("state") for name in expected} == expected
    assert not item["pending"].keys() & item.get("live", {}).keys()
    (texts,) = summary.short({"bases": [judged], "others": [], "errors": []})["bases"].values()
    lines = " ".join(texts)
    assert ("in effect live  container app" in lines) is ("in effect live" in expected.values())


def test_a_base_of_a_nest_masks_the_fix(tmp_path: Path) -> None:
    node = NestNode(tmp_path)
    node.image(OS, "", files(base("1")))
    node.image(JAVA, OS, files({"opt/java": "1"}))
    node.image("corp/app:1", JAVA, files({"app": "1"}))
    node.version(OS, "2", [], files(base("2")))
    node.version(JAVA, "2", node.stacks[OS], files({"opt/java": "2"}))
    node.converge(OS, "2")
    assert states(answer(node)) == {}
    node.converge(JAVA, "2")
    masked = states(answer(node))["corp/app:1"]
    assert masked["openssl"] == State.MASKED.value
    (image,) = [image for image in answer(node)["images"] if image["image"] == "corp/app:1"]
    assert JAVA in image["pending"]["openssl"]["reason"]


def test_what_cannot_be_judged_is_unknown(node: NestNode) -> None:
    node.converge(OS, "2")
    node.mark_damaged(OS)
    judged = answer(node)
    assert "out of band" in judged["unknown"]
    assert states(judged)["corp/plain:1"] == dict.fromkeys(judged["updates"], "unknown")


def test_images_on_no_known_base_are_listed(node: NestNode) -> None:
    assert ops_fixes.fixes(node.context, {})["bases"] == []
    others = ops_fixes.fixes(node.context, {})["others"]
    assert {other["image"] for other in others} >= {OS, "corp/own:1"}
    assert all(bases.locate(node.engine, OS).chain_id in other["chain_ids"] for other in others)
    with pytest.raises(BaseAbsent):
        ops_fixes.fixes(node.context, {}, "corp/none:1")


def test_a_container_without_its_image_on_no_known_base(node: NestNode) -> None:
    """It runs what no image on this node shows."""
    container = Container(id="1", name="orphan", image_id="gone", pid=1, state="running")
    node.engine.running = [container, replace(container, id="2", name="bare", image_id="")]
    (error,) = ops_fixes.fixes(node.context, {})["errors"]
    assert error == {"base": "", "error": "the image of container orphan was removed: create it again"}


def test_the_short_form_and_the_numbers(node: NestNode, tmp_path: Path) -> None:
    node.converge(OS, "2")
    result = ops_fixes.fixes(node.context, {})
    (lines,) = summary.short(result)["bases"].values()
    assert lines[0] == "2 advisories fixed in 2 packages"
    assert lines[2] == (
        "overridden  corp/own:1: openssl [CVE-2024-5535], the image has its own files of the package "
        "(usr/bin/openssl, usr/lib/libssl.so.3)"
    )
    (tmp_path / "cache").mkdir()
    ops_fixes.save(str(tmp_path / "cache"), result)
    assert ops_fixes.saved(str(tmp_path / "cache"))["pending"] == {OS: {"CVE-2024-5535": 2}}
    assert ops_fixes.saved(str(tmp_path)) == {}
    text = status.metrics(node.engine, "1", {}, str(tmp_path / "cache"))
    assert 'baseimg_fixes_pending{base="corp/os:1",advisory="CVE-2024-5535"} 2' in text.splitlines()


def test_the_number_of_metrics_is_bounded() -> None:
    advisories = {f"CVE-2024-{number:04}": "changelog" for number in range(200)}
    item = {"image": "a", "has_awaited": False, "pending": {"x": {"state": "split"}}}
    base = {
        "base": OS,
        "updates": {"x": {"advisories": advisories}},
        "images": [item],
        "containers": [],
        "awaited": None,
        "unknown": "",
    }
    counts = summary.pending({"bases": [base], "errors": []})[OS]
    assert (len(counts), counts["other"]) == (summary.MAX_ADVISORIES + 1, 1)


def test_an_sbom_shows_what_an_image_really_shows(node: NestNode) -> None:
    node.converge(OS, "2")
    documents = {}
    for name in ("corp/plain:1", "corp/split:1"):
        facts = sbom.facts(node.context, name)
        documents[name] = report_sbom.document(json.loads(json.dumps(facts)), "web1", "0.2.0")
        cyclonedx.validate(documents[name])
        assert documents[name] == report_sbom.document(facts, "web1", "0.2.0")
    plain, split = ({each["name"]: each for each in made["components"]} for made in documents.values())
    assert (plain["openssl"]["version"], plain["openssl"]["purl"]) == ("2", "pkg:deb/openssl@2")
    (ancestor,), (patch,) = plain["openssl"]["pedigree"]["ancestors"], plain["openssl"]["pedigree"]["patches"]
    assert (ancestor["version"], patch["resolves"][0]["id"]) == ("1", "CVE-2024-5535")
    assert "replaced in place by baseimg, bundle sha256:" in plain["openssl"]["pedigree"]["notes"]
    properties = {each["name"]: each["value"] for each in split["openssl"]["properties"]}
    assert (properties["baseimg:state"], properties["baseimg:paths"]) == ("split", "usr/bin/openssl")
    assert "pedigree" not in split["openssl"]
    assert (split["openssl"]["version"], split["zlib"]["version"]) == ("1", "2")  # the database says 2 of both
    with pytest.raises(ArgumentInvalid):
        sbom.facts(node.context, "corp/none:1")


def test_an_image_that_nobody_judged_is_unknown(node: NestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image without a name, which no container runs, is in no answer of baseimg.fixes."""
    node.converge(OS, "2")
    monkeypatch.setattr(LiveEffects, "started", property(lambda _self: []))
    facts = sbom.facts(node.context, "corp/own:1")
    made = {each["name"]: each for each in report_sbom.document(facts, "web1", "0.2.0")["components"]}
    properties = {each["name"]: each["value"] for each in made["openssl"]["properties"]}
    assert (properties["baseimg:state"], made["openssl"]["version"]) == ("unknown", "1")


def test_an_sbom_names_what_scanners_look_for(tmp_path: Path) -> None:
    """The distribution, and the sources of packages: by the image's own database, or by that of a newer base."""

    def status(version: str, *more: str) -> str:
        libssl = (
            f"Package: libssl3\nStatus: install ok installed\nSource: openssl ({version}-1)\nVersion: {version}-1+b1\n"
        )
        return "\n".join((libssl, *more))

    def content(version: str, *more: str) -> dict[str, str]:
        lists = {
            "var/lib/dpkg/info/libssl3.list": "/usr/lib/libssl.so.3\n",
            "var/lib/dpkg/info/new.list": "/usr/lib/new\n",
        }
        release = {"etc/os-release": "ID=debian\nVERSION_ID=12\n"}
        return {"var/lib/dpkg/status": status(version, *more), "usr/lib/libssl.so.3": version, **lists, **release}

    node = NestNode(tmp_path)
    node.image(OS, "", files(content("3.0")))
    own = "Package: own\nStatus: install ok installed\nVersion: 1\n"
    node.image("corp/app:1", OS, files({"var/lib/dpkg/status": status("3.0", own)}))
    added = "Package: new\nStatus: install ok installed\nVersion: 1\n"
    node.version(OS, "2", [], files({**content("3.1", added), "usr/lib/new": "new"}))
    node.converge(OS, "2")
    document = report_sbom.document(json.loads(json.dumps(sbom.facts(node.context, "corp/app:1"))), "web1", "0.2.0")
    cyclonedx.validate(document)
    distribution, *packages = sorted(document["components"], key=lambda each: (each["type"] == "library", each["name"]))
    assert (distribution["type"], distribution["name"], distribution["version"]) == ("operating-system", "debian", "12")
    assert [each["purl"] for each in packages] == [
        "pkg:deb/debian/libssl3@3.1-1%2Bb1?distro=debian-12&upstream=openssl%403.1-1",
        "pkg:deb/debian/new@1?distro=debian-12",
        "pkg:deb/debian/own@1?distro=debian-12",
    ]
    properties = {each["name"]: each["value"] for each in packages[0]["properties"]}
    assert properties == {"aquasecurity:trivy:SrcName": "openssl", "aquasecurity:trivy:SrcVersion": "3.1-1"}


def build(node: NestNode, version: str, content: dict[str, str], from_version: str) -> None:
    """Declare a bundle between two versions of the base."""
    target = node.root / f"targets/corp-os-{version}"
    files(content)(target)
    source = [node.root / f"targets/corp-os:1-{from_version}.0"]
    start = (digest(f"{OS} {from_version}".encode()),)
    node.bundle_from(OS, version, start, source, [target], (digest(version.encode()),))


def test_a_fix_by_path_ends_with_the_file(node: NestNode) -> None:
    """A later bundle that brings another file, and names no advisory, may undo the fix."""
    node.converge(OS, "2")
    assert "/etc/v" not in states(answer(node)).get("corp/plain:1", {})
    node.fixes = {}
    build(node, "3", base("3", **{"etc/v": "1"}), "2")
    node.converge(OS, "3")
    assert states(answer(node))["corp/plain:1"] == {"/etc/v": "unknown"}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_fix_that_removes_files_and_packages(node: NestNode, recorded: bool) -> None:
    """An image with a copy of a removed file does not have the fix, nor has a container."""
    content = base("2")
    for name in ("usr/lib/libz.so", "usr/bin/openssl", "var/lib/dpkg/info/zlib.list"):
        del content[name]
    kept = content["var/lib/dpkg/status"].split("\n\n")
    content["var/lib/dpkg/status"] = "\n\n".join(stanza for stanza in kept if "Package: zlib" not in stanza)
    node.fixes = {"zlib": ("CVE-2024-1",), "openssl": ("CVE-2024-2",), "/usr/bin/openssl": ("CORP-2",)}
    node.version(OS, "4", [], files(content))
    node.converge(OS, "4")
    if not recorded:
        os.unlink(bases.locate(node.engine, OS).store.layout.delivered)
    judged = answer(node)
    assert (judged["updates"]["zlib"]["from"], judged["updates"]["zlib"]["to"]) == ("1", "")
    assert (judged["updates"]["zlib"]["advisories"] == {"CVE-2024-1": "operator"}) is recorded
    path = {"/usr/bin/openssl": "overridden"} if recorded else {}
    assert states(judged) == {
        "corp/same:1": {"zlib": "overridden"},
        "corp/split:1": {"openssl": "split", **path},
        "corp/own:1": {"openssl": "overridden", **path},
    }


def test_permissions_of_a_directory(node: NestNode) -> None:
    """An image with the directory in a layer of its own keeps the old permissions."""
    node.image("corp/dir:1", OS, files({"usr/lib/app": "own"}))

    def fill(root: Path) -> None:
        files(base("2"))(root)
        (root / "usr/lib").chmod(0o700)
        os.utime(root / "usr/lib", (1, 1))

    node.fixes = {"/usr/lib": ("CORP-3",)}
    node.version(OS, "5", [], fill)
    node.converge(OS, "5")
    judged = states(answer(node))
    assert judged["corp/dir:1"] == {"/usr/lib": "split"}  # the files below it are new
    assert "corp/plain:1" not in judged


def test_volumes_below_a_merged_usr(node: NestNode) -> None:
    for base_image in node.stacks[OS]:
        (base_image / "lib").symlink_to("usr/lib")
        (base_image / "loop").symlink_to("loop")
    node.version(OS, "2", [], files(base("2")), lambda root: (root.mkdir(), (root / "lib").symlink_to("usr/lib")))
    node.converge(OS, "2")
    stopped = {"image_id": "corp/plain:1", "pid": 0, "state": "exited"}
    node.engine.running = [
        Container(id=name, name=name, volumes={volume: "vol"}, upper=str(node.root / "none"), **stopped)
        for name, volume in (("lib", "/lib"), ("dots", "/usr/../lib/"), ("loop", "/loop"), ("file", "/lib/libz.so"))
    ]
    (node.root / "none").mkdir()
    hidden = {"openssl": "split", "zlib": "overridden"}
    assert states(answer(node), "containers") == {"lib": hidden, "dots": hidden, "file": {"zlib": "overridden"}}


def test_an_image_that_is_the_declared_version(node: NestNode, tmp_path: Path) -> None:
    """Its own layers have the fix, unless layers above them, its container or a volume hide it."""
    node.image("corp/os:2", OS, files(base("2")))
    node.image("corp/clean:1", "corp/os:2", files({"app": "1"}))
    node.image("corp/hides:1", "corp/os:2", files({"usr/bin/openssl": "own"}))
    target = node.engine.image("corp/os:2")
    node.bundle_from(
        OS, "2", node.engine.image(OS).diff_ids, node.stacks[OS], node.stacks["corp/os:2"], target.diff_ids
    )
    own = tmp_path / "own"
    files({"usr/lib/libz.so": "own"})(own)
    stopped = {"pid": 0, "state": "exited", "image_id": "corp/clean:1"}
    node.engine.running = [
        Container(id="1", name="own", upper=str(own), **stopped),
        Container(id="2", name="volume", volumes={"/usr/lib": "vol"}, upper=str(tmp_path / "none"), **stopped),
    ]
    (tmp_path / "none").mkdir()
    judged = answer(node, "2")
    items = [*judged["images"], *judged["containers"]]
    has = {item.get("image") if "digests" in item else item["container"]: item for item in items}
    assert {name for name, item in has.items() if item["has_awaited"]} >= {"corp/clean:1", "corp/hides:1", "own"}
    hidden = {name: {key: each["state"] for key, each in item.get("awaited_pending", {}).items()}
              for name, item in has.items() if item["has_awaited"]}  # fmt: skip
    assert hidden["corp/clean:1"] == {}
    assert hidden["corp/hides:1"] == {"openssl": "split"}
    assert hidden["own"] == {"zlib": "overridden"}
    assert hidden["volume"] == {"openssl": "split", "zlib": "overridden"}
    counts = summary.pending({"bases": [judged], "errors": []})[OS]
    assert counts["CVE-2024-5535"] == len(items) - 3  # hides, volume, and those without the version


def test_an_image_on_another_base_above_is_listed(node: NestNode) -> None:
    """Another node may know a fix of that base."""
    node.image(JAVA, OS, files({"opt/java": "1"}))
    node.image("corp/app:1", JAVA, files({"app": "1"}))
    node.converge(OS, "2")
    covered = bases.locate(node.engine, OS).chain_id
    others = {other["image"]: other["chain_ids"] for other in ops_fixes.fixes(node.context, {})["others"]}
    java = list(node.engine.image("corp/app:1").chain_ids)
    assert others["corp/app:1"] == [chain for chain in java if chain != covered]
    assert OS not in others


def test_packages_of_images(node: NestNode) -> None:
    """The base's database is always listed, an image's own only for packages that were asked for."""
    status = base("1")["var/lib/dpkg/status"] + "\nPackage: curl\nStatus: install ok installed\nVersion: 7\n"
    node.image("corp/apt:1", OS, files({"var/lib/dpkg/status": status}))
    node.image("redis:7", "", files({"var/lib/dpkg/status": status, "redis": "1"}))
    node.converge(OS, "2")
    result = ops_fixes.fixes(node.context, {}, installed=["curl", "openssl:amd64"])
    (judged,) = result["bases"]
    assert judged["installed"] == dict.fromkeys(PACKAGES, "2")
    own = {image["image"]: image["installed"] for image in judged["images"] if "installed" in image}
    assert own == {"corp/apt:1": {"curl": "7", "openssl": "1"}}
    (redis,) = [other for other in result["others"] if other["image"] == "redis:7"]
    assert (redis["manager"], redis["installed"]) == ("dpkg", {"curl": "7", "openssl": "1"})
    assert all("installed" not in image for image in ops_fixes.fixes(node.context, {})["bases"][0]["images"])


def test_what_is_unknown_is_in_the_metric(node: NestNode) -> None:
    item = {"image": "a", "has_awaited": False, "pending": {}}
    plain = {"base": OS, "updates": {}, "images": [item], "containers": [item], "awaited": None, "unknown": ""}
    assert summary.pending({"bases": [plain], "errors": []}) == {OS: {}}
    assert summary.pending({"bases": [{**plain, "unknown": "damaged"}], "errors": []}) == {OS: {"unknown": 2}}
    awaited = {"known": False, "updates": {}}
    assert summary.pending({"bases": [{**plain, "awaited": awaited}], "errors": []}) == {OS: {"unknown": 2}}
    unjudged = [{"base": JAVA, "error": "unreadable"}, {"base": "", "error": "a store"}]
    assert summary.pending({"bases": [], "errors": unjudged}) == {JAVA: {"unknown": 1}, "": {"unknown": 1}}


def test_a_directory_that_is_named_as_a_fix(node: NestNode) -> None:
    """Every file below it counts, also for a later bundle."""
    node.image("corp/jar:1", OS, files({"opt/app/lib/x.jar": "own"}))
    node.fixes = {"/opt/app": ("CORP-4",)}
    node.version(OS, "6", [], files({**base("2"), "opt/app/lib/x.jar": "new"}))
    node.converge(OS, "6")
    assert states(answer(node))["corp/jar:1"] == {"/opt/app": "overridden"}
    node.fixes = {}
    build(node, "7", {**base("2"), "opt/app/lib/x.jar": "other"}, "6")
    node.converge(OS, "7")
    assert states(answer(node))["corp/plain:1"] == {"/opt/app": "unknown"}


def test_a_removed_package_is_no_component(node: NestNode) -> None:
    """The database of an image may still list a package that the base no longer has."""
    node.image("corp/stale:1", OS, files({"var/lib/dpkg/status": base("1")["var/lib/dpkg/status"]}))
    content = base("2")
    del content["usr/lib/libz.so"], content["var/lib/dpkg/info/zlib.list"]
    stanzas = content["var/lib/dpkg/status"].split("\n\n")
    content["var/lib/dpkg/status"] = "\n\n".join(each for each in stanzas if "Package: zlib" not in each)
    node.fixes = {}
    node.version(OS, "8", [], files(content))
    node.converge(OS, "8")
    made = report_sbom.document(sbom.facts(node.context, "corp/stale:1"), "web1", "0.2.0")
    cyclonedx.validate(made)
    assert {each["name"]: each["version"] for each in made["components"]} == {"openssl": "2", "gcc-base": "2"}

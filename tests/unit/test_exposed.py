"""Who is exposed on a fleet: reasons, remedies, exit codes, and cached answers."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from baseimg_core.display import counted
from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.fixes import exposure
from baseimg_core.model.fixes import query as fixes_query
from baseimg_core.model.fixes.fleet import Fleet
from baseimg_core.rollout.fixes import CachedAnswers

CVE, BASE, CHAIN, OTHER_CHAIN = "CVE-2024-5535", "corp/base:12.0", "sha256:" + "1" * 64, "sha256:" + "2" * 64
AT = "2026-11-29T03:00:00Z"
UPDATES = {
    "openssl": {"from": "3.0.11-1", "to": "3.0.15-1", "advisories": {CVE: "changelog"}},
    "zlib": {"from": "1", "to": "2", "advisories": {}, "unread": "no changelog"},
}
UNDECLARED = {"image": "a", "id": "i", "chain_ids": ["x", CHAIN]}


def image(name: str = "corp/app:1", **pending: dict[str, Any]) -> dict[str, Any]:
    return {"image": name, "id": f"sha256:{name}", "digests": [], "has_awaited": False, "pending": pending}


def container(name: str = "shop", **pending: dict[str, Any]) -> dict[str, Any]:
    return {"container": name, "image": "corp/app:1", "image_id": "i", "has_awaited": False, "pending": pending}


def answer(*images: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a node's answer with one base at 12.1, which has the fix."""
    base = {"base": BASE, "chain_id": CHAIN, "version": "12.1", "bundle": "sha256:b", "manager": "dpkg", "unknown": ""}
    base |= {"activated": AT, "signed_by": "", "updates": UPDATES, "awaited": None, "containers": []}
    base |= {"images": list(images or [image()]), **more}
    return {"format": 1, "at": AT, "bases": [base], "errors": [], "others": []}


def behind(**more: Any) -> dict[str, Any]:
    awaited = {"version": "12.1", "reason": "this node shows 12.0", "held": False, "known": True, "updates": UPDATES}
    return answer(version="12.0", bundle="", updates={}, awaited={**awaited, **more})


def ask(answers: dict[str, Any], advisory: str | None = CVE, package: str | None = None) -> dict[str, Any]:
    fleet = Fleet()
    for node, each in answers.items():
        if each is not None:
            fleet.add(node, copy.deepcopy(each))
    query = fixes_query.parse(advisory, package)
    result = exposure.as_dict(query, exposure.answer(fleet, query), fleet, answers, {})
    assert json.loads(json.dumps(result)) == result
    printed = exposure.table(result)
    assert printed[str(query)].startswith(f"{counted(len(answers), 'node')}: ")
    assert {*printed} == {str(query), *(group["state"] for group in result["groups"])} | (
        {"not known"} if result["silent"] else set()
    )
    return result


def grouped(result: dict[str, Any]) -> list[tuple[str, list[str], str]]:
    return [(group["state"], group["nodes"], group["do"]) for group in result["groups"]]


def test_nobody_is_exposed() -> None:
    result = ask({"a": answer(image(zlib={"state": "split"}), containers=[container()])})
    assert (result["groups"], result["retcode"], result["fixed"]) == ([], 0, {"images": 1, "containers": 1})
    assert "nobody is exposed" in exposure.table(result)[CVE]


@pytest.mark.parametrize(
    ("reply", "state", "do"),
    [
        (answer(image(openssl={"state": "overridden", "paths": ["usr/bin/openssl"]})), "overridden", "rebuild"),
        (answer(image(openssl={"state": "split"})), "split", "rebuild"),
        (answer(image(openssl={"state": "masked"})), "masked", "that was built on 12.1"),
        (answer(containers=[container(openssl={"state": "after restart"})]), "after restart", "stop and start"),
        (answer(image(openssl={"state": "unknown", "reason": "unreadable"})), "unknown", "find out: unreadable"),
        (answer(image(openssl={"state": "of a newer release"})), "unknown", "find out"),
        (behind(), "not here", "state.apply baseimg"),
        (behind(held=True), "not here", "baseimg.unhold"),
        (answer(version="12.0", updates={}), "not here", "baseimg.rollout"),
        (answer(version="12.0", updates={}, unknown="damaged"), "unknown", "find out: damaged"),
        ({**answer(), "bases": [], "others": [UNDECLARED]}, "not here", "declare"),
    ],
)  # fmt: skip
def test_each_reason_has_one_remedy(reply: dict[str, Any], state: str, do: str) -> None:
    result = ask({"sound": answer(), "web1": reply, "web2": reply})
    ((named, nodes, remedy),) = grouped(result)
    assert (named, nodes) == (state, ["web1", "web2"])
    assert do in remedy
    assert result["retcode"] == (exposure.UNCERTAIN if state == "unknown" else exposure.EXPOSED)
    assert len(result["groups"][0]["items"]) == 2


def test_an_image_that_is_the_awaited_version_itself() -> None:
    has = behind()
    has["bases"][0]["images"] = [{**image(), "has_awaited": True}]
    assert ask({"a": has})["retcode"] == 0


def test_bases_whose_bundles_name_nothing_are_unknown_only_if_they_update_the_package() -> None:
    unread = {
        "openssl": {"from": "1", "to": "3.0.16-1", "advisories": {}, "unread": "the image has no changelog of it"}
    }
    others = {"chain_id": OTHER_CHAIN, "base": "corp/other:1"}
    ((state, _nodes, remedy),) = grouped(ask({"a": answer(), "b": answer(updates=unread, **others)}))
    assert (state, "fixes=" in remedy) == ("unknown", True)
    unread["openssl"]["to"] = "3.0.15-1"  # the very version that another bundle fixed it with
    assert ask({"a": answer(), "b": answer(updates=unread, **others)})["retcode"] == 0
    assert ask({"a": answer(), "b": answer(updates={}, **others)})["retcode"] == 0


def test_everybody_must_have_answered() -> None:
    partly = {**answer(), "errors": [{"base": "corp/x:1", "error": "unreadable"}]}
    result = ask(
        {"a": answer(), "b": None, "c": "Minion did not return", "d": partly, "e": {"format": 9}, "f": {"format": 1}}
    )
    assert (result["retcode"], list(result["silent"])) == (exposure.UNCERTAIN, ["b", "c", "d", "e", "f"])
    assert result["silent"]["b"] == "did not answer"
    assert "answer-invalid" in result["silent"]["f"]


def test_an_advisory_that_nobody_knows_is_no_good_news() -> None:
    result = ask({"a": answer()}, "CVE-1999-0001")
    assert (result["known"], result["retcode"]) == (False, exposure.UNCERTAIN)
    assert "no bundle on any node names it" in exposure.table(result)["CVE-1999-0001"]


def test_packages_and_versions() -> None:
    fixed, old = ({"installed": {"openssl": version}} for version in ("3.0.15-1", "3.0.11-1"))
    assert ask({"a": answer(**fixed)}, None, "openssl<3.0.15-1")["retcode"] == 0
    overridden = answer(image(openssl={"state": "overridden"}), **fixed)
    assert ask({"a": overridden}, None, "openssl<3.0.15-1")["groups"][0]["state"] == "overridden"
    older = answer(containers=[container(openssl={"state": "after restart"})], **fixed)
    assert ask({"a": older}, None, "openssl<3.0.11-1")["retcode"] == 0  # the old version is not affected
    assert ask({"a": {**behind(), "bases": [{**behind()["bases"][0], **old}]}}, None, "openssl<3.0.15-1")["groups"][0][
        "do"
    ] == ("converge the nodes: state.apply baseimg")
    without = answer(updates={}, **old)
    assert "build and roll out" in ask({"a": without}, None, "openssl<3.0.16-1")["groups"][0]["do"]
    assert ask({"a": answer()}, None, "openssl<3.0.16-1")["groups"][0]["state"] == "unknown"
    unknown = ask({"a": answer(installed={"vim": ""})}, None, "vim<9")
    assert unknown["retcode"] == exposure.UNCERTAIN
    assert "no image has the package" in exposure.table(unknown)["vim<9"]


@pytest.mark.parametrize(
    ("advisory", "package"),
    [(None, None), (CVE, "a<1"), ("openssl", None), (5, None)]
    + [(None, wrong) for wrong in ("openssl", "openssl>3", "openssl<=3", "openssl<<3", "openssl<3,4", "openssl<")],
)
def test_questions_are_checked(advisory: Any, package: Any) -> None:
    with pytest.raises(ArgumentInvalid):
        fixes_query.parse(advisory, package)


class SaltCache:
    """Salt's cache in memory, in the layout of Salt 3008 or of older releases."""

    def __init__(self, newer: bool, mine: object, grains: object = None) -> None:
        keys = (("mine", "web1"), ("grains", "web1")) if newer else (("minions/web1", "mine"), ("minions/web1", "data"))
        self.data = dict(zip(keys, (mine, grains if newer else {"grains": grains}), strict=True))

    def fetch(self, bank: str, key: str) -> Any:
        return self.data.get((bank, key)) or {}


@pytest.mark.parametrize("newer", [True, False])
def test_cached_answers_are_used_while_they_are_fresh(newer: bool) -> None:
    def read(mine: object, now: float, version: str = "12.1", *others: str) -> tuple[object, float] | None:
        bases = {BASE: {"version": version}, **{other: {"version": "12.1"} for other in others}}
        grains = {"baseimg": {"bases": bases}}
        return CachedAnswers(SaltCache(newer, mine, grains), now).read("web1", 3600)

    at = 1795921200.0  # AT
    mine = {"baseimg.fixes": answer()}
    assert read(mine, at + 60) == (answer(), 60)
    assert read({"baseimg.fixes": {"__data__": answer()}}, at - 60) == (answer(), 0)
    assert read(mine, at + 3601) is None
    assert read(mine, at - 301) is None  # from the future
    assert read(mine, at + 60, "12.2") is None  # changed since
    assert read(mine, at + 60, "12.1", "corp/other:1") is None  # another base changed for the first time since
    assert read(mine, at + 60, "12.1", f"{BASE}@sha256:1") is not None  # two bases of one reference
    assert read({}, at) is None
    assert read({"baseimg.fixes": "an error"}, at) is None


SECOND_CHAIN = {"chain_id": OTHER_CHAIN, "base": "corp/other:1", "bundle": "", "version": "1", "updates": {}}
DEBIAN = {"id": "debian", "version": "12"}
SECOND_STEP = {"libfoo": {"from": "1", "to": "2", "advisories": {CVE: "changelog"}}}


def awaiting(updates: dict[str, Any], known: bool = True) -> dict[str, Any]:
    return {"version": "12.2", "reason": "12.2 is declared", "held": False, "known": known, "updates": updates}


def test_an_advisory_is_fixed_only_if_every_package_is() -> None:
    """12.1 fixes it in openssl, 12.2 in libfoo: neither the declaration nor another node may make 12.1 green."""
    ((state, nodes, do),) = grouped(ask({"a": answer(awaited=awaiting(SECOND_STEP))}))
    assert (state, nodes, "state.apply" in do) == ("not here", ["a"], True)
    newer = answer(version="12.2", updates={**UPDATES, **SECOND_STEP})
    ((state, nodes, do),) = grouped(ask({"a": answer(), "b": newer}))
    assert (state, nodes, "12.2" in do) == ("not here", ["a"], True)
    again = {"openssl": {"from": "3.0.15-1", "to": "3.0.16-1", "advisories": {CVE: "changelog"}}}  # a fix of the fix
    assert ask({"a": answer(awaited=awaiting(again))})["retcode"] == exposure.EXPOSED


def test_one_package_is_named_and_another_one_only_elsewhere() -> None:
    unread = {**UPDATES, "libfoo": {"from": "1", "to": "3", "advisories": {}, "unread": "no changelog"}}
    other = answer(**{**SECOND_CHAIN, "updates": SECOND_STEP})
    groups = grouped(ask({"a": answer(updates=unread), "b": other}))
    assert [(state, nodes) for state, nodes, _do in groups] == [("unknown", ["a"])]


def test_an_image_that_is_the_awaited_version_and_hides_its_fix() -> None:
    """The awaited version is in its layers, and its own file, or that of its container, is over it."""
    hidden = {"openssl": {"state": "overridden", "reason": "own", "paths": ["usr/bin/openssl"]}}
    for hiding in ({"images": [{**image(), "has_awaited": True, "awaited_pending": hidden}]},
                   {"containers": [{**container(), "has_awaited": True, "awaited_pending": hidden}],
                    "images": [{**image(), "has_awaited": True}]}):  # fmt: skip
        has = behind()
        has["bases"][0] |= hiding
        result = ask({"a": has})
        ((state, _nodes, do),) = grouped(result)
        assert (state, "rebuild" in do, len(result["groups"][0]["items"])) == ("overridden", True, 1)
        has["bases"][0]["installed"] = {"openssl": "3.0.11-1"}
        assert grouped(ask({"a": has}, None, "openssl<3.0.15-1"))[0][0] == "overridden"


def test_what_the_awaited_version_keeps_of_the_live_one() -> None:
    """An image of 12.2 hides the fix of 12.1 with files that are newer: 12.2 has the fix, too."""
    newer = {"openssl": {"from": "3.0.15-1", "to": "3.0.16-1", "advisories": {}}}
    hides = {"openssl": {"state": "overridden"}}
    has = answer({**image(openssl=hides["openssl"]), "has_awaited": True}, awaited=awaiting(newer))
    assert ask({"a": has})["retcode"] == 0
    has["bases"][0]["images"][0]["awaited_pending"] = hides
    assert ask({"a": has})["retcode"] == exposure.EXPOSED
    older = {"openssl": {"from": "3.0.15-1", "to": "3.0.1-1", "advisories": {}}}
    has = answer({**image(openssl=hides["openssl"]), "has_awaited": True}, awaited=awaiting(older))
    assert ask({"a": has})["retcode"] == exposure.UNCERTAIN


def test_a_version_in_another_base() -> None:
    """The order of versions decides within one release of a distribution; between two releases it is unknown."""
    fixed = answer(distro=DEBIAN)

    def other(version: str, **more: Any) -> dict[str, Any]:
        return answer(**{**SECOND_CHAIN, "distro": DEBIAN, "installed": {"openssl": version}, **more})

    ((state, nodes, do),) = grouped(ask({"a": fixed, "b": other("3.0.11-1")}))
    assert (state, nodes) == ("not here", ["b"])
    assert do == "build and roll out a version of corp/other:1 with openssl 3.0.15-1 or newer"
    assert ask({"a": fixed, "b": other("3.0.15-1")})["retcode"] == 0
    assert ask({"a": fixed, "b": other("3.0.16-1")})["retcode"] == 0
    assert ask({"a": fixed, "b": other("", installed={})})["retcode"] == 0
    for different in ({"distro": {"id": "debian", "version": "11"}}, {"manager": "rpm"}, {"distro": {}}):
        result = ask({"a": fixed, "b": other("3.0.16-1", **different)})
        assert (result["groups"][0]["state"], result["retcode"]) == ("unknown", exposure.UNCERTAIN)
    changed = {"openssl": {"from": "3.0.9-1", "to": "3.0.11-1", "advisories": {}}}  # its changelogs were read
    assert grouped(ask({"a": fixed, "b": other("3.0.11-1", updates=changed)}))[0][:2] == ("not here", ["b"])
    changed["openssl"]["to"] = "3.0.16-1"
    own = answer(image(openssl={"state": "split"}), **{**SECOND_CHAIN, "distro": DEBIAN, "updates": changed})
    assert grouped(ask({"a": fixed, "b": own}))[0][:2] == ("split", ["b"])


def test_a_package_that_an_update_removed() -> None:
    """Containers on the older content still have it."""
    removed = {"netcat": {"from": "1", "to": "", "advisories": {CVE: "operator"}}}
    old = container(netcat={"state": "after restart", "reason": "the container runs on 12.0"})
    result = ask({"a": answer(updates=removed, installed={}, containers=[old])})
    assert grouped(result)[0][0] == "after restart"
    asked = ask({"a": answer(updates=removed, installed={}, containers=[old])}, None, "netcat<2")
    assert grouped(asked)[0][0] == "after restart"
    assert ask({"a": answer(updates=removed, installed={})}, None, "netcat<2")["retcode"] == 0


def test_images_on_a_base_that_only_other_nodes_declare() -> None:
    """A covered base below does not hide them, unless it has the fix in effect there."""
    java = {"image": "corp/app:1", "id": "sha256:corp/app:1", "chain_ids": [OTHER_CHAIN], "digests": []}
    fixing = answer(**{**SECOND_CHAIN, "updates": SECOND_STEP, "version": "2"})
    ((state, nodes, do),) = grouped(ask({"a": fixing, "b": {**answer(updates={}), "others": [java]}}))
    assert (state, nodes, "declare" in do) == ("not here", ["b"], True)
    same = answer(**{**SECOND_CHAIN, "updates": UPDATES, "version": "2"})
    assert ask({"a": same, "b": {**answer(), "others": [java]}})["retcode"] == 0
    hides = answer(image(openssl={"state": "split"}))
    assert {group[0] for group in grouped(ask({"a": same, "b": {**hides, "others": [java]}}))} == {"not here", "split"}


@pytest.mark.parametrize(
    ("installed", "asked", "code"),
    [
        ("libc6:amd64", "libc6", exposure.EXPOSED),
        ("libc6:amd64", "libc6:amd64", exposure.EXPOSED),
        ("libc6", "libc6:amd64", exposure.EXPOSED),
        ("libc6:i386", "libc6:amd64", exposure.UNCERTAIN),
        ("libc6.1", "libc6", exposure.UNCERTAIN),
    ],
)
def test_packages_of_several_architectures(installed: str, asked: str, code: int) -> None:
    updates = {installed: {"from": "1", "to": "2", "advisories": {}}}
    hides = {installed: {"state": "overridden"}}
    old = answer(installed={installed: "1"}, updates={})
    fixed = answer(image(**hides), installed={installed: "2"}, updates=updates)
    for reply in (old, fixed):
        assert ask({"a": reply}, None, f"{asked}<2")["retcode"] == code


def test_the_packages_of_images_outside_of_bases() -> None:
    other = {"image": "redis:7", "id": "i", "chain_ids": [], "digests": [], "manager": "dpkg"}
    for installed, code in ({"openssl": "3.0.11-1"}, 20), ({"openssl": "3.0.15-1"}, 0), ({}, 0):
        answers = {"a": answer(installed={"openssl": "3.0.15-1"}), "b": {**answer(), "bases": []}}
        answers["b"]["others"] = [{**other, "installed": installed}]
        assert ask(answers, None, "openssl<3.0.15-1")["retcode"] == code
    answers["b"]["others"] = [{**other, "unread": "the rpm database is damaged"}]
    ((state, nodes, do),) = grouped(ask(answers, None, "openssl<3.0.15-1"))
    assert (state, nodes, "damaged" in do) == ("unknown", ["b"], True)


def test_the_packages_of_an_images_own_layers() -> None:
    """Its database counts for packages that the base never changed, the files for those that it did."""
    own = {**image(), "installed": {"curl": "7"}}
    result = ask({"a": answer(own, installed={"openssl": "3.0.15-1"})}, None, "curl<8")
    ((state, _nodes, do),) = grouped(result)
    assert (state, "rebuild" in do) == ("overridden", True)
    assert ask({"a": answer(own, installed={"curl": "8"})}, None, "curl<8")["retcode"] == exposure.EXPOSED
    newer = {**image(), "installed": {"curl": "9"}}
    assert ask({"a": answer(newer, installed={"curl": "7"})}, None, "curl<8")["retcode"] == 0
    stale = {**image(), "installed": {"openssl": "3.0.11-1"}}  # its files are the base's
    assert ask({"a": answer(stale, installed={"openssl": "3.0.15-1"})}, None, "openssl<3.0.15-1")["retcode"] == 0


@pytest.mark.parametrize(("own", "code"), [("2.9-1", 20), ("3.0.12-1", 0), ("", 21)])
def test_own_files_although_no_version_of_the_base_is_affected(own: str, code: int) -> None:
    """An image may have pinned a version that is older than the base's first one."""
    pinned = {**image(openssl={"state": "overridden"}), "installed": {"openssl": own} if own else {}}
    result = ask({"a": answer(pinned, installed={"openssl": "3.0.15-1"})}, None, "openssl<3.0.11-1")
    assert result["retcode"] == code


@pytest.mark.parametrize(
    ("updates", "here"),
    [
        ({"/opt/tool": {"from": "", "to": "", "advisories": {CVE: "operator"}}}, {}),
        ({"netcat": {"from": "1", "to": "", "advisories": {CVE: "operator"}}}, {"netcat": "1"}),
    ],
)
def test_a_node_on_an_older_version_than_a_fix_without_a_version(updates: dict[str, Any], here: dict[str, str]) -> None:
    """A fix by path, and one that removes a package, have no version that could be compared."""
    old = answer(version="12.0", bundle="", updates={}, installed=here)
    ((state, nodes, do),) = grouped(ask({"a": answer(updates=updates), "b": old}))
    assert (state, nodes, "roll out 12.1" in do) == ("not here", ["b"], True)
    without = answer(**{**SECOND_CHAIN, "installed": {}})
    assert ask({"a": answer(updates=updates), "b": without})["retcode"] == 0


def test_a_path_that_a_later_bundle_names_for_another_advisory() -> None:
    named = {"/opt/tool": {"from": "", "to": "", "advisories": {CVE: "operator"}}}
    again = {"/opt/tool": {"from": "", "to": "", "advisories": {"CVE-2025-1000": "operator"}}}
    result = ask({"a": answer(updates=named), "b": answer(version="12.2", updates=again)})
    assert [(state, nodes) for state, nodes, _do in grouped(result)] == [("unknown", ["b"])]


@pytest.mark.parametrize("fixed", [["libc6"], ["libc6:amd64", "libc6:i386"]])
@pytest.mark.parametrize("here", [["libc6"], ["libc6:amd64"], ["libc6:amd64", "libc6:i386"]])
@pytest.mark.parametrize("is_own", [True, False])
def test_packages_of_several_architectures_in_another_base(fixed: list[str], here: list[str], is_own: bool) -> None:
    """dpkg's database adds the architecture only if a base has a package for several."""
    updates = {name: {"from": "2.36-9", "to": "2.36-10", "advisories": {CVE: "changelog"}} for name in fixed}
    chain = {"updates": {}, "version": "12.0"} if is_own else SECOND_CHAIN
    for version, code in ("2.36-9", 20), ("2.36-10", 0):
        installed = {**dict.fromkeys(here, "2.36-10"), here[-1]: version}
        other = answer(**{**chain, "distro": DEBIAN, "installed": installed})
        assert ask({"a": answer(updates=updates, distro=DEBIAN), "b": other})["retcode"] == code


def test_the_same_image_in_another_engine_of_the_node() -> None:
    """Docker and Podman give an image one ID; only one engine's copy of the base has the fix."""
    copy_of_it = {**UNDECLARED, "image": "corp/app:1 (podman)", "id": image()["id"]}
    result = ask({"a": {**answer(), "others": [{**copy_of_it, "engine": "podman"}]}})
    ((state, nodes, do),) = grouped(result)
    assert (state, nodes, "declare this engine" in do) == ("not here", ["a"], True)


@pytest.mark.parametrize(
    ("manager", "installed", "fixed", "code"),
    [
        ("dpkg", "2:9.0.1378-2", "2:9.0.1378-3", 20),
        ("dpkg", "2:9.0.1378-2", "9.0.1378-3", 20),  # people leave out the epoch
        ("dpkg", "2:9.0.1378-3", "9.0.1378-3", 0),
        ("dpkg", "9.0.1378-3", "2:9.0.1378-3", 20),
        ("dpkg", "3.0.15-1~deb12u1", "3.0.15-1", 20),
        ("dpkg", "3.0.15-1", "3.0.15-1~deb12u1", 0),
        ("rpm", "1:3.0.7-27.el9", "3.0.7-28.el9", 20),
        ("rpm", "1:3.0.7-27.el9", "1:3.0.7-28.el9", 20),
        ("rpm", "1:3.0.7-28.el9, 1:3.0.7-27.el9", "3.0.7-28.el9", 20),
        ("rpm", "1:3.0.7-28.el9", "3.0.7-28.el9", 0),
        ("rpm", "1.0~rc1-1", "1.0-1", 20),
        ("rpm", "1.0^git1-1", "1.0-1", 0),
        ("apk", "3.1.4-r0", "3.1.4-r5", 20),
        ("apk", "3.1.4_git20230717-r4", "3.1.4-r5", 0),
        ("apk", "3.1.10-r0", "3.1.9-r0", 0),
    ],
)
def test_the_order_of_versions(manager: str, installed: str, fixed: str, code: int) -> None:
    reply = answer(manager=manager, updates={}, installed={"x": installed})
    assert ask({"a": reply}, None, f"x<{fixed}")["retcode"] == code


def test_two_versions_of_one_rpm_package() -> None:
    reply = answer(manager="rpm", updates={}, installed={"kernel": "5.14-1, 5.14-3"})
    assert ask({"a": reply}, None, "kernel<5.14-2")["retcode"] == exposure.EXPOSED
    assert ask({"a": reply}, None, "kernel<5.14-1")["retcode"] == 0

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
    assert exposure.text(result).startswith(f"{query} on {counted(len(answers), 'node')}: ")
    return result


def grouped(result: dict[str, Any]) -> list[tuple[str, list[str], str]]:
    return [(group["state"], group["nodes"], group["do"]) for group in result["groups"]]


def test_nobody_is_exposed() -> None:
    result = ask({"a": answer(image(zlib={"state": "split"}), containers=[container()])})
    assert (result["groups"], result["retcode"], result["fixed"]) == ([], 0, {"images": 1, "containers": 1})
    assert "nobody is exposed" in exposure.text(result)


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
    assert "check the spelling" in exposure.text(result)


def test_packages_and_versions() -> None:
    fixed, old = ({"installed": {"openssl": version}} for version in ("3.0.15-1", "3.0.11-1"))
    assert ask({"a": answer(**fixed)}, None, "openssl<3.0.15-1")["retcode"] == 0
    overridden = answer(image(openssl={"state": "overridden"}), **fixed)
    assert ask({"a": overridden}, None, "openssl<3.0.15-1")["groups"][0]["state"] == "overridden"
    assert ask({"a": overridden}, None, "openssl<3.0.11-1")["retcode"] == 0  # the old version is not affected
    assert ask({"a": {**behind(), "bases": [{**behind()["bases"][0], **old}]}}, None, "openssl<3.0.15-1")["groups"][0][
        "do"
    ] == ("converge the nodes: state.apply baseimg")
    without = answer(updates={}, **old)
    assert "build and roll out" in ask({"a": without}, None, "openssl<3.0.16-1")["groups"][0]["do"]
    assert ask({"a": answer()}, None, "openssl<3.0.16-1")["groups"][0]["state"] == "unknown"
    assert ask({"a": answer(installed={"vim": ""})}, None, "vim<9")["retcode"] == exposure.UNCERTAIN


@pytest.mark.parametrize(
    ("advisory", "package"),
    [(None, None), (CVE, "a<1"), ("openssl", None), (None, "openssl"), (None, "openssl>3"), (5, None)],
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
    def read(mine: object, now: float, version: str = "12.1") -> tuple[object, float] | None:
        grains = {"baseimg": {"bases": {BASE: {"version": version}, "corp/other:1": {"version": "1"}}}}
        return CachedAnswers(SaltCache(newer, mine, grains), now).read("web1", 3600)

    at = 1795921200.0  # AT
    mine = {"baseimg.fixes": answer()}
    assert read(mine, at + 60) == (answer(), 60)
    assert read({"baseimg.fixes": {"__data__": answer()}}, at - 60) == (answer(), 0)
    assert read(mine, at + 3601) is None
    assert read(mine, at - 301) is None  # from the future
    assert read(mine, at + 60, "12.2") is None  # changed since
    assert read({}, at) is None
    assert read({"baseimg.fixes": "an error"}, at) is None

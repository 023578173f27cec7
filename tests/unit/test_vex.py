"""OpenVEX documents about a fleet: statuses, versions, IDs, and what a fresh reader sees in them."""

from __future__ import annotations

import copy
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.fixes import exposure, products
from baseimg_core.model.fixes import query as fixes_query
from baseimg_core.model.fixes.effect import State
from baseimg_core.model.fixes.fleet import Fleet
from baseimg_core.report import vex
from baseimg_core.report.fixes import section
from baseimg_core.rollout.fixes import VexStates
from tests.support import openvex
from tests.unit.test_exposed import BASE, CVE, UNDECLARED, answer, behind, container, image

HEAD = {"id": "https://corp.example/vex/fleet", "author": "Corp security", "tooling": "baseimg 0.2.0"}
NOW, LATER = "2026-11-29T03:00:00Z", "2026-11-30T03:00:00Z"
SECOND = "CVE-2024-0001"


def digest_of(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def pulled(name: str, **pending: dict[str, Any]) -> dict[str, Any]:
    return {**image(f"{name}:1", **pending), "id": f"sha256:{name}", "digests": [f"{name}@{digest_of(name)}"]}


def fleet_of(answers: dict[str, Any]) -> Fleet:
    fleet = Fleet()
    for node, each in answers.items():
        fleet.add(node, copy.deepcopy(each))
    return fleet


def make(answers: dict[str, Any], now: str = NOW, before: dict[str, Any] | None = None) -> dict[str, Any]:
    fleet = fleet_of(answers)
    made = vex.document(products.statements(fleet), fleet.silent, HEAD, now, vex.state(before) if before else None)
    openvex.validate(made)
    return made


def statuses(document: dict[str, Any], advisory: str = CVE) -> dict[str, str]:
    """Read a document as a scanner does: the status of each image, by repository, from purls alone."""
    read: dict[str, str] = {}
    for statement in document["statements"]:
        if statement["vulnerability"]["name"] == advisory:
            for product in statement["products"]:
                purl = PackageURL.from_string(product["@id"])
                assert purl.type == "oci"
                read[str(purl.qualifiers.get("repository_url", purl.name))] = statement["status"]
    return read


def test_an_image_is_never_fixed() -> None:
    document = make({"a": answer(pulled("reg.corp/app")), "b": answer(pulled("reg.corp/app"))})
    (statement,) = document["statements"]
    assert (statement["status"], document["version"], document["author"]) == ("not_affected", 1, "Corp security")
    assert statement["impact_statement"] == (
        "The fix is in effect on the nodes of this fleet only, by bundle sha256:b. The image itself has the old files."
    )
    (product,) = statement["products"]
    url = PackageURL.from_string(product["@id"])
    assert (url.type, url.name, url.version, url.qualifiers) == (
        "oci",
        "app",
        digest_of("reg.corp/app"),
        {"repository_url": "reg.corp/app"},
    )
    assert [part["@id"] for part in product["subcomponents"]] == ["pkg:deb/openssl@3.0.11-1"]


@pytest.mark.parametrize(
    ("other", "status", "text"),
    [
        (answer(pulled("reg.corp/app", openssl={"state": "overridden"})), "affected", "rebuild the images"),
        (answer(pulled("reg.corp/app", openssl={"state": "unknown", "reason": "x"})), "under_investigation", "x"),
        ({**answer(), "bases": [], "others": [{**UNDECLARED, "id": "sha256:reg.corp/app"}]}, "affected", "declare"),
        ("Minion did not return", "under_investigation", "Minion did not return"),
        ({**behind(), "bases": [{**behind()["bases"][0], "images": [pulled("reg.corp/app")]}]}, "affected", "converge"),
    ],
)
def test_one_node_decides_for_the_fleet(other: Any, status: str, text: str) -> None:
    document = make({"a": answer(pulled("reg.corp/app")), "b": other})
    assert statuses(document) == {"reg.corp/app": status}
    (statement,) = document["statements"]
    assert text in str(statement)


def test_a_container_counts_for_its_image() -> None:
    shop = {**container("shop", openssl={"state": "after restart"}), "image_id": "sha256:reg.corp/app"}
    assert statuses(make({"a": answer(pulled("reg.corp/app"), containers=[shop])})) == {"reg.corp/app": "affected"}


def listed(document: dict[str, Any]) -> dict[str, str]:
    """Return the status of each product by its URL."""
    return {part["@id"]: each["status"] for each in document["statements"] for part in each["products"]}


def test_one_image_under_several_names_has_one_product() -> None:
    """No node may clear what another one has, whatever its engine, its mirror or its pillar says."""
    image_id, digest = "sha256:of-containerd", digest_of("reg.corp/app")
    mirrored = {**pulled("mirror.corp/app"), "id": image_id, "digests": [f"mirror.corp/app@{digest}"]}
    hidden = {**mirrored, "pending": {"openssl": {"state": "split"}}}
    undeclared = {**answer(), "bases": [], "others": [{**UNDECLARED, "id": image_id, "digests": mirrored["digests"]}]}
    for other in (answer(hidden), undeclared):
        document = make({"a": answer(pulled("reg.corp/app")), "b": other})
        urls = listed(document)
        assert set(urls.values()) == {"affected"}
        assert {PackageURL.from_string(url).version for url in urls} == {digest}
        assert len(urls) == 1


@pytest.mark.parametrize("name", ["redis", "docker.io/library/redis", "corp/redis", "docker.io/corp/redis"])
def test_images_of_docker_hub_have_no_registry(name: str) -> None:
    assert list(listed(make({"a": answer(pulled(name))}))) == [f"pkg:oci/redis@{digest_of(name)}"]


def test_an_image_without_a_digest_has_its_id() -> None:
    """Of a registry's image it says nothing, and no scanner takes it for one."""
    built = {**image("reg.corp/built:1"), "id": digest_of("config")}
    dangling = {**image(digest_of("other")), "id": digest_of("other")}
    urls = listed(make({"a": answer(built, dangling)}))
    assert list(urls) == [
        f"pkg:oci/built@{digest_of('config')}?repository_url=reg.corp/built",
        f"pkg:oci/image@{digest_of('other')}",
    ]


def test_a_package_with_an_epoch_has_both_urls() -> None:
    updates = {"openssl": {"from": "1:3.0-1", "to": "1:3.0-2", "advisories": {CVE: "changelog"}}}
    (statement,) = make({"a": answer(pulled("reg.corp/app"), updates=updates)})["statements"]
    urls = [part["@id"] for part in statement["products"][0]["subcomponents"]]
    assert urls == ["pkg:deb/openssl@1:3.0-1", "pkg:deb/openssl@3.0-1?epoch=1"]


def test_a_version_is_new_if_something_changed() -> None:
    first = make({"a": answer(pulled("reg.corp/app"), pulled("reg.corp/b"))})
    assert make({"a": answer(pulled("reg.corp/b"), pulled("reg.corp/app"))}, LATER, first) == first
    second = make({"a": answer(pulled("reg.corp/app"))}, LATER, first)
    assert (second["version"], second["timestamp"], second["last_updated"]) == (2, NOW, LATER)
    (before,), (after,) = first["statements"], second["statements"]
    assert (after["@id"], after["timestamp"], after["last_updated"]) == (before["@id"], NOW, LATER)


def test_the_state_of_the_last_document_is_kept(tmp_path: Path) -> None:
    states = VexStates(str(tmp_path), HEAD["id"])
    assert states.read() is None
    state = vex.state(make({"a": answer(pulled("reg.corp/app"))}))
    states.write(state)
    assert states.read() == state
    (path,) = (tmp_path / "baseimg/vex").iterdir()
    path.write_text("{")
    with pytest.raises(ArgumentInvalid, match="is damaged"):
        states.read()


def test_there_must_be_something_to_state() -> None:
    with pytest.raises(ArgumentInvalid, match="no bundle on any node names an advisory"):
        make({"a": answer(updates={})})
    before = make({"a": answer(pulled("reg.corp/app"))})
    with pytest.raises(ArgumentInvalid) as refused:
        make({"a": answer(updates={})}, before=before)
    assert "no longer holds" in refused.value.hint


def test_a_fresh_reader_agrees_with_exposed() -> None:
    updates = {
        "openssl": {"from": "1", "to": "2", "advisories": {CVE: "changelog", SECOND: "changelog"}},
        "zlib": {"from": "1", "to": "2", "advisories": {SECOND: "operator"}},
    }
    apps = [pulled(f"reg.corp/app{number}") for number in range(4)]
    split = [pulled("reg.corp/app1", zlib={"state": "split"}), pulled("reg.corp/app2", openssl={"state": "masked"})]
    answers = {
        "a": answer(*apps[:3], updates=updates),
        "b": answer(*split, updates=updates),
        "c": answer(apps[3], version="12.0", updates={}, bundle=""),
    }
    document, fleet = make(answers), fleet_of(answers)
    for advisory, affected in (
        (CVE, {"reg.corp/app2", "reg.corp/app3"}),
        (SECOND, {f"reg.corp/app{n}" for n in (1, 2, 3)}),
    ):
        read = {name for name, status in statuses(document, advisory).items() if status == "affected"}
        exposures = exposure.answer(fleet, fixes_query.parse(advisory, None)).exposures
        assert read == affected == {each.item.name.removesuffix(":1") for each in exposures if each.item}
    assert BASE in {observed.base for observed in fleet.observed}


def test_an_unread_package_that_an_image_hides() -> None:
    """The advisory is named by another node's bundle with the very same version."""
    unread = {"openssl": {"from": "3.0.11-1", "to": "3.0.15-1", "advisories": {}, "unread": "no changelog"}}
    hides = answer(pulled("reg.corp/app", openssl={"state": "overridden"}), updates=unread)
    assert statuses(make({"a": answer(pulled("reg.corp/b")), "b": hides}))["reg.corp/app"] == "affected"


def random_answer(choice: random.Random) -> dict[str, Any]:
    """Return an answer with up to two bases, whose versions name one or two advisories, or none."""

    def updates() -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in choice.sample(["openssl", "zlib", "/opt/x"], choice.randint(0, 3)):
            named = choice.choice([{}, {CVE: "changelog"}, {CVE: "operator", SECOND: "operator"}])
            to = "" if name[0] == "/" else choice.choice(["2", "3", ""])
            made[name] = {"from": "" if name[0] == "/" else "1", "to": to, "advisories": named}
            if choice.random() < 0.3:
                made[name]["unread"] = "no changelog"
        return made

    def pending() -> dict[str, Any]:
        names = choice.sample(["openssl", "zlib", "/opt/x"], choice.randint(0, 1))
        return {name: {"state": choice.choice(["overridden", "after restart", "unknown"])} for name in names}

    bases = []
    for chain in choice.sample("12", choice.randint(0, 2)):
        items = []
        for name in choice.sample(["a", "b", "c"], choice.randint(1, 3)):
            has = {"has_awaited": choice.random() < 0.3, "awaited_pending": pending()}
            items.append({**pulled(f"reg.corp/{name}"), **has, "pending": pending()})
        containers = [{**container(), "image_id": items[0]["id"], "pending": pending()}]
        awaited = {"version": "9", "reason": "9 is declared", "held": False, "known": choice.random() < 0.8}
        base = {"chain_id": f"sha256:{chain * 64}", "base": f"corp/{chain}", "version": choice.choice("78")}
        base |= {"updates": updates(), "awaited": {**awaited, "updates": updates()} if choice.random() < 0.5 else None}
        base |= {"distro": {"id": "debian", "version": choice.choice(["11", "12"])}, "containers": containers}
        base |= {"installed": {"openssl": choice.choice("123")}, "unknown": "damaged" if choice.random() < 0.1 else ""}
        bases += answer(*items, **base)["bases"]
    covered = {base["chain_id"] for base in bases}
    others = [
        {**pulled(f"reg.corp/{name}"), "chain_ids": [chain]}
        for name in "abc"
        for chain in ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
        if chain not in covered and choice.random() < 0.3
    ]
    others = [{key: other[key] for key in ("image", "id", "digests", "chain_ids")} for other in others]
    return {**answer(), "bases": bases, "others": others}


@pytest.mark.parametrize("seed", range(60))
def test_documents_and_answers_agree(seed: int) -> None:
    """For all answers of nodes: an image is not affected if and only if ``exposed`` does not list it."""
    choice = random.Random(seed)
    answers = {node: random_answer(choice) for node in ("n1", "n2", "n3")}
    fleet = fleet_of(answers)
    stated = products.statements(fleet)
    for advisory in (CVE, SECOND):
        exposures = exposure.answer(fleet, fixes_query.parse(advisory, None)).exposures
        exposed: set[str] = set()
        uncertain: set[str] = set()
        for each in exposures:
            (uncertain if each.state is State.UNKNOWN else exposed).add(each.item.image_id)
        ids = {digest_of(f"reg.corp/{name}"): f"sha256:reg.corp/{name}" for name in "abc"}
        said = stated.get(advisory, {}).items()
        affected = {ids[product.digest] for product, statement in said if statement.remedies}
        doubtful = {ids[product.digest] for product, statement in said if statement.doubts}
        expected = (exposed, uncertain - exposed) if said else (set(), set())
        assert (affected, doubtful - affected) == expected


def test_the_section_of_the_report() -> None:
    hostile = "<script>alert(1)</script>"
    zlib = {"zlib": {"from": "1", "to": "2", "advisories": {SECOND: "operator"}}}
    fleet = fleet_of(
        {
            "a": answer(pulled(f"reg.corp/{hostile}", zlib={"state": "split"}), updates=zlib),
            "b": answer(pulled("reg.corp/b")),
            "c": hostile,
        }
    )
    html = " ".join(str(section(products.statements(fleet), fleet.silent)).split())
    assert "<script>" not in html
    assert html.count("1 of 2 images") == 2  # b has the very version of zlib that another bundle fixed it with
    assert "Not everything is known of 1 node: c." in html
    assert "rebuild the images" in html
    assert "No bundle" in str(section({}, {}))

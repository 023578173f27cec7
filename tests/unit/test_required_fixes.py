"""Required fixes: what a change must bring to every image, and what the live content must have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import FixMissing
from baseimg_core.model.policy.image_policy import Acceptance, Protection
from baseimg_core.ops import bases, prepare
from baseimg_core.ops.preview import Goal
from tests.support.images import digest
from tests.support.nests import NestNode, files
from tests.unit.test_fixes import JAVA, OS, base

CVE, OTHER, LATER = "CVE-2024-5535", "CVE-2024-0001", "CVE-2024-9999"
Run = Callable[[str, str], Any]


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return a node with one application, and bundles to version 2 with a fix and from there to version 3."""
    made = NestNode(tmp_path)
    made.image(OS, "", files(base("1")))
    made.image("corp/app:1", OS, files({"app": "1"}))
    made.fixes = {"openssl": (CVE,)}
    made.version(OS, "2", [], files(base("2")))
    third = made.root / "targets/third"
    files({**base("2"), "usr/lib/libz.so": "zlib 3"})(third)
    status = third / "var/lib/dpkg/status"
    status.write_text(
        status.read_text().replace(
            "zlib\nStatus: install ok installed\nVersion: 2", "zlib\nStatus: install ok installed\nVersion: 3"
        )
    )
    made.fixes = {"zlib": (LATER,)}
    second = [made.root / "targets/corp-os:1-2.0"]
    made.bundle_from(OS, "3", (digest(f"{OS} 2".encode()),), second, [third], (digest(b"3"),))
    return made


def requiring(node: NestNode, *names: str) -> None:
    node.protection = Protection(acceptance_by_base={OS: Acceptance(require=names)})


def refused(node: NestNode, version: str, match: str, base: str = OS) -> None:
    live = node.live(base)
    for run in (node.plan, node.converge):
        with pytest.raises(FixMissing, match=match):
            run(base, version)
    assert node.live(base) == live


def overriding(node: NestNode, name: str = "corp/own:1") -> None:
    node.image(name, OS, files({"usr/bin/openssl": "own"}))


@pytest.mark.parametrize("name", [CVE, "openssl", "/usr/bin/openssl"])
def test_a_fix_that_a_bundle_brings(node: NestNode, name: str) -> None:
    requiring(node, name)
    assert node.plan(OS, "2")["changed"] is True
    assert node.converge(OS, "2")["changed"] is True
    assert node.converge(OS, "2")["changed"] is False


def test_a_fix_that_no_bundle_brings(node: NestNode) -> None:
    requiring(node, OTHER)
    refused(node, "2", f"{OTHER} is not changed by the bundle")


def test_a_fix_that_an_image_hides(node: NestNode) -> None:
    overriding(node)
    requiring(node, CVE)
    refused(node, "2", f"{CVE} does not reach corp/own:1: usr/bin/openssl")


def test_a_prepared_content_has_the_advisories_of_its_bundle(node: NestNode) -> None:
    requiring(node, CVE)
    prepare.prepare(node.context, Goal(OS, "2", node.bundles[OS]), 1e9)
    assert node.converge(OS, "2")["changed"] is True
    node.rollback(OS)
    overriding(node)
    refused(node, "2", f"{CVE} does not reach corp/own:1: usr/bin/openssl")
    requiring(node, OTHER)
    refused(node, "2", f"{OTHER} is not changed")


@pytest.mark.parametrize("names", [(CVE,), ("openssl",), (CVE, LATER)])
def test_a_fix_that_the_live_content_has(node: NestNode, names: tuple[str, ...]) -> None:
    node.converge(OS, "2")
    requiring(node, *names)
    assert node.plan(OS, "3")["changed"] is True
    assert node.converge(OS, "3")["changed"] is True


def test_a_fix_of_the_live_content_that_an_image_hides(node: NestNode) -> None:
    node.converge(OS, "2")
    overriding(node)
    requiring(node, CVE)
    refused(node, "3", f"{CVE} does not reach corp/own:1: .*usr/bin/openssl")


def test_the_live_content_is_checked_for_images_that_came_later(node: NestNode) -> None:
    node.converge(OS, "2")
    requiring(node, CVE, "/etc/v")
    assert node.converge(OS, "2")["changed"] is False
    overriding(node)
    refused(node, "2", f"{OS} shows 2: {CVE} does not reach corp/own:1")
    requiring(node, OTHER)
    refused(node, "2", f"{OS} shows 2: {OTHER} is not fixed in it")


def test_what_cannot_be_judged_is_missing(node: NestNode) -> None:
    node.converge(OS, "2")
    node.mark_damaged(OS)
    requiring(node, CVE)
    with pytest.raises(FixMissing, match="out of band"):
        node.converge(OS, "2")


def test_without_the_facts_of_the_bundle_a_named_advisory_is_unknown(node: NestNode) -> None:
    node.converge(OS, "2")
    os.unlink(bases.locate(node.engine, OS).store.layout.delivered)
    requiring(node, CVE)
    refused(node, "2", f"{CVE} is not fixed in it")


def test_an_advisory_that_a_nest_masks(tmp_path: Path) -> None:
    node = NestNode(tmp_path)
    node.image(OS, "", files(base("1")))
    node.image(JAVA, OS, files({"opt/java": "1"}))
    node.image("corp/app:1", JAVA, files({"app": "1"}))
    node.fixes = {"openssl": (CVE,)}
    node.version(OS, "2", [], files(base("2")))
    node.fixes = {}
    node.version(JAVA, "2", node.stacks[OS], files({"opt/java": "2"}))
    node.converge(JAVA, "2")
    requiring(node, CVE)
    refused(node, "2", f"{CVE} does not reach corp/app:1, kept at {JAVA} 2")
    requiring(node)
    node.rollback(JAVA)
    node.converge(OS, "2")
    requiring(node, CVE)
    refused(node, "2", f"{CVE} does not reach corp/app:1, 2 was not built on it", JAVA)

"""SBOMs and a VEX document of one fleet: a fresh reader agrees with `exposed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.engine.base import Container
from baseimg_core.model.fixes import exposure, products
from baseimg_core.model.fixes.fleet import Fleet
from baseimg_core.model.fixes.query import Query
from baseimg_core.ops import fixes, hold, sbom
from baseimg_core.report import sbom as report_sbom
from baseimg_core.report import vex
from tests.support import cyclonedx, fresh_reader, openvex
from tests.support.nests import NestNode, files
from tests.unit.test_fixes import JAVA, OS, base

CVE = "CVE-2024-5535"
HEAD = {"id": "https://corp.example/vex/fleet", "author": "Corp security", "tooling": "baseimg 0.2.0"}
NOW = "2026-11-29T03:00:00Z"


def made(root: Path) -> NestNode:
    node = NestNode(root)
    node.image(OS, "", files(base("1")))
    node.image("corp/plain:1", OS, files({"app": "1"}))
    node.fixes = {"openssl": (CVE,)}
    node.version(OS, "2", [], files(base("2")))
    return node


def converged(root: Path) -> NestNode:
    """Return a node with the fix, with own files in an image, in a container, and in another place."""
    node = made(root)
    node.image("corp/own:1", OS, files({"usr/bin/openssl": "own", "usr/lib/libssl.so.3": "own"}))
    node.image("corp/split:1", OS, files({"usr/bin/openssl": "own"}))
    node.image("corp/elsewhere:1", OS, files({"opt/app/lib/libssl.so.3": "own"}))
    node.converge(OS, "2")
    own = root / "own"
    files({"usr/bin/openssl": "changed at run time"})(own)
    stopped: dict[str, Any] = {"image_id": "corp/plain:1", "pid": 0, "state": "exited"}
    node.engine.running = [
        Container(id="1", name="copied-up", upper=str(own), **stopped),
        Container(id="2", name="clean", **stopped),
    ]
    return node


def behind(root: Path) -> NestNode:
    return made(root)


def held(root: Path) -> NestNode:
    node = made(root)
    node.converge(OS, "2")
    node.rollback(OS)
    hold.hold(node.context, OS, "2", "shop does not start")
    return node


def masked(root: Path) -> NestNode:
    node = made(root)
    node.image(JAVA, OS, files({"opt/java": "1"}))
    node.image("corp/app:1", JAVA, files({"app": "1"}))
    node.fixes = {}
    node.version(JAVA, "2", node.stacks[OS], files({"opt/java": "2"}))
    node.converge(OS, "2")
    node.converge(JAVA, "2")
    return node


NODES = {"converged": converged, "behind": behind, "held": held, "masked": masked}


def items(answer: dict[str, Any]) -> list[str]:
    """Return the images and containers on the base; the image that masks it is none of its applications."""
    (judged,) = [each for each in answer["bases"] if each["base"] == OS]
    named = [each.get("container") or each["image"] for kind in ("images", "containers") for each in judged[kind]]
    return [name for name in named if name != JAVA]


@pytest.mark.parametrize("unreachable", [False, True])
def test_a_fresh_reader_agrees_with_exposed(tmp_path: Path, unreachable: bool) -> None:
    fleet, paths = Fleet(), []
    for name, make in NODES.items():
        node = make(tmp_path / name)
        declaration = {"version": "2", "bundles": node.bundles[OS], "chain_id": None}
        answer = json.loads(json.dumps(fixes.fixes(node.context, {OS: declaration})))
        assert not answer["errors"]
        fleet.add(name, answer)
        for item in items(answer):
            document = report_sbom.document(sbom.facts(node.context, item), name, "0.2.0")
            cyclonedx.validate(document)
            paths.append(tmp_path / f"{name}-{item.replace('/', '-')}.json")
            paths[-1].write_text(json.dumps(document))
    if unreachable:
        fleet.add("dead", "did not answer")
    stated = vex.document(products.statements(fleet), fleet.silent, HEAD, NOW, None)
    openvex.validate(stated)
    vex_path = tmp_path / "fleet.openvex.json"
    vex_path.write_text(json.dumps(stated))
    exposed = exposure.answer(fleet, Query(CVE)).exposures
    expected = sorted({f"{each.node} {each.item.name}" for each in exposed if each.item.name != JAVA})
    assert fresh_reader.main(CVE, str(vex_path), *map(str, paths)) == expected
    assert {"converged corp/split:1", "converged corp/own:1", "converged copied-up", "masked corp/app:1"} < {*expected}
    assert {"behind corp/plain:1", "held corp/plain:1"} < {*expected}
    assert not {"converged corp/elsewhere:1", "converged clean", "converged corp/plain:1"} & {*expected}

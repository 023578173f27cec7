"""Which bundles a node requests: none without the base, else those of the route."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from baseimg_core.context import Context
from baseimg_core.errors import BaseAbsent, BundleUnavailable
from baseimg_core.model.policy.pillar import Source
from tests.support.images import digest
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault


class Counting(Node):
    """A node that counts its requests, with 49 older declared bundles whose files are gone."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests: list[str] = []
        (root / "fetched").mkdir()
        older = {f"11.{number}": Source(str(root / f"11.{number}.tar"), digest(b"%d" % number)) for number in range(49)}
        self.bundles = {**older, **self.bundles}

    @property
    def context(self) -> Context:
        return replace(super().context, fetch=self._fetch, manifests=str(self.root / "manifests"))

    def _fetch(self, source: Source) -> str:
        self.requests.append(os.path.basename(source.source))
        if not os.path.exists(source.source):
            raise BundleUnavailable(f"{source.source} does not exist")
        return shutil.copy(source.source, self.root / "fetched")

    def lose_base(self) -> None:
        """Leave one image on the node that has nothing to do with the base."""
        self.engine.tags.clear()
        self.engine.add("other:1", "low")

    def taken(self) -> list[str]:
        """Return the requests since the last call."""
        requests, self.requests = self.requests, []
        return requests


@pytest.fixture
def node(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "node")


def test_a_node_without_the_base_reads_the_route_once(node: Counting) -> None:
    node.lose_base()
    for requests in (["12.2.tar", "12.1.tar"], [], []):
        with pytest.raises(BaseAbsent) as caught:
            node.converge("12.2")
        assert (node.taken(), caught.value.coverage["unexamined"]) == (requests, [])


def test_without_hashes_it_reads_the_route_once_a_day(node: Counting) -> None:
    node.bundles = {version: Source(bundle.source) for version, bundle in node.bundles.items()}
    node.lose_base()
    for requests in (["12.2.tar", "12.1.tar"], [], []):
        with pytest.raises(BaseAbsent):
            node.converge("12.2")
        assert node.taken() == requests
    for path in (node.root / "manifests").glob("*.source"):
        os.utime(path, (path.stat().st_mtime - 24 * 60 * 60, path.stat().st_mtime - 24 * 60 * 60))
    with pytest.raises(BaseAbsent):
        node.converge("12.2")
    assert node.taken() == ["12.2.tar", "12.1.tar"]


def test_without_hashes_what_was_read_before_finds_the_base_and_is_read_again(node: Counting) -> None:
    node.bundles = {version: Source(bundle.source) for version, bundle in node.bundles.items()}
    node.lose_base()
    with pytest.raises(BaseAbsent):
        node.converge("12.2")
    node.engine.add("corp/app:1", "low", "top", "app")
    node.taken()
    assert node.converge("12.2")["changed"] is True
    assert set(node.taken()) == {"12.1.tar", "12.2.tar"}


def test_a_bundle_that_is_gone_does_not_fail_a_node_without_the_base(node: Counting) -> None:
    node.lose_base()
    os.unlink(node.root / "12.1.tar")
    with pytest.raises(BaseAbsent) as caught:
        node.converge("12.2")
    assert caught.value.coverage["unexamined"] == [f"{node.root / '12.1.tar'} does not exist"]


def test_only_the_route_is_requested_and_a_repetition_requests_nothing(node: Counting) -> None:
    node.plan("12.1")
    assert node.taken() == ["12.1.tar"]
    node.converge("12.2")
    assert set(node.taken()) == {"12.1.tar", "12.2.tar"}
    assert differences(node.view(), node.views["12.2"]) == []
    assert node.converge("12.2")["changed"] is node.plan("12.2")["changed"] is False
    assert node.taken() == []


def test_a_base_without_its_name_is_found_by_what_was_read_before(node: Counting) -> None:
    node.lose_base()
    with pytest.raises(BaseAbsent):
        node.converge("12.2")
    node.engine.add("corp/app:1", "low", "top", "app")
    os.unlink(node.root / "12.2.tar")
    node.taken()
    assert node.converge("12.1")["changed"] is True
    assert node.taken() == ["12.1.tar"]


def test_a_damaged_or_lost_cache_is_no_error(node: Counting) -> None:
    node.plan("12.2")
    for path in (node.root / "manifests").iterdir():
        path.write_bytes(b"\xff{")
    node.taken()
    assert node.converge("12.2")["changed"] is True
    assert set(node.taken()) == {"12.1.tar", "12.2.tar"}
    assert BASE in node.engine.tags

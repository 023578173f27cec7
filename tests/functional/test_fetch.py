"""Bundles are brought to a node and checked ahead, and not a second time."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.functional.lab import BASE, NEW, NEWER, Lab, digest
from tests.support import node, ssh

pytestmark = pytest.mark.functional


@dataclass
class Server:
    """Serves a directory over HTTP and remembers what was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(served))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            found.asked.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        found = Server(f"http://127.0.0.1:{running.server_address[1]}")
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield found
        running.shutdown()
        thread.join()


def offered(lab: Lab, server: Server, tmp_path: Path) -> dict[str, dict[str, str]]:
    """The bundles to both newer versions, chained, declared by URL with their digests."""
    found = {}
    for source, target in ((BASE, NEW), (NEW, NEWER)):
        version = target.rpartition(":")[2]
        path = tmp_path / f"served/{version}.tar"
        lab.build(source, target, str(path))
        found[version] = {"source": f"{server.url}/{version}.tar", "hash": digest(path)}
    return found


class TestFetch:
    def test_moves_all_that_is_needed_and_nothing_again(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        bundles = offered(lab, server, tmp_path)
        lab.untag(NEW, NEWER)
        before = lab.layers()
        fetched = lab.fetch(BASE, "12.2", bundles=bundles)
        assert node.touched(before, lab.layers()) == []
        assert (fetched["needed"], fetched["from"], fetched["to"]) == (True, "12.0", "12.2")
        assert [one["version"] for one in fetched["bundles"]] == ["12.1", "12.2"]
        assert fetched["bytes"] == sum((tmp_path / f"served/{name}.tar").stat().st_size for name in ("12.1", "12.2"))
        for one in fetched["bundles"]:
            assert digest(one["path"]) == one["digest"] == bundles[one["version"]]["hash"]
        assert sorted(server.asked) == ["/12.1.tar", "/12.2.tar"]

        assert lab.converge(BASE, "12.2", bundles=bundles)["changed"]
        assert lab.version() == "12.2"
        assert len(server.asked) == 2

        # what is on the node needs no bundle
        again = lab.fetch(BASE, "12.2", bundles=bundles)
        assert (again["needed"], again["bundles"], again["bytes"]) == (False, [], 0)
        back = lab.fetch(BASE, "12.0", bundles=bundles)
        assert (back["needed"], back["from"], back["bytes"]) == (True, "12.2", 0)
        assert len(server.asked) == 2

    def test_what_may_not_be_used_is_found_ahead(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        bundles = offered(lab, server, tmp_path)
        wrong = {"12.1": {**bundles["12.1"], "hash": bundles["12.2"]["hash"]}}
        lab.refused("digest-mismatch", "fetch", BASE, "12.1", bundles=wrong)
        lab.refused("version-unknown", "fetch", BASE, "12.3", bundles=bundles)
        lab.refused("bundle-unavailable", "fetch", BASE, "12.1", bundles={"12.1": {"source": f"{server.url}/no.tar"}})
        key = ssh.make_key(tmp_path / "release")
        lab.minion.pillar = {"baseimg": {"trusted_keys": {"release": key.public}}}
        lab.refused("signature-missing", "fetch", BASE, "12.1", bundles=bundles)

"""Bundles are fetched and verified before a change, each only once."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.functional.lab import BASE, BUSYBOX, NEW, NEWER, VERSION_0, VERSION_1, Lab, digest, layer
from tests.support import node, ssh
from tests.support.images import file

pytestmark = pytest.mark.functional


@dataclass
class Server:
    """An HTTP server of a directory, and the paths that clients requested."""

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
            web_server.asked.append(self.path)
            super().do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        web_server = Server(f"http://127.0.0.1:{running.server_address[1]}")
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield web_server
        running.shutdown()
        thread.join()


def offered(lab: Lab, server: Server, tmp_path: Path) -> dict[str, dict[str, str]]:
    """Build chained bundles to both newer versions; declare them by URL and digest."""
    sources = {}
    for source, target in ((BASE, NEW), (NEW, NEWER)):
        version = target.rpartition(":")[2]
        path = tmp_path / f"served/{version}.tar"
        lab.build(source, target, str(path))
        sources[version] = {"source": f"{server.url}/{version}.tar", "hash": digest(path)}
    return sources


@pytest.fixture
def environments(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """Configure the environments base and prod; yield the directory of prod, which holds the bundle."""
    lab.usual()
    prod = tmp_path / "prod"
    prod.mkdir()
    before = dict(lab.minion.opts["file_roots"])
    lab.bundle()
    (prod / "b.tar").write_bytes((lab.work / "12.0_12.1.tar").read_bytes())
    lab.minion.configure(file_roots={**before, "prod": [str(prod)]}, saltenv=None)
    yield prod
    lab.minion.configure(file_roots=before, saltenv=None)


class TestEnvironments:
    """`salt://` sources, which resolve in the environment of the SLS as in Salt's own states."""

    def converged(self, bundle: dict[str, object]) -> str:
        return json.dumps({BASE: {"baseimg.converged": [{"version": "12.1"}, {"bundles": {"12.1": bundle}}]}})

    def test_a_highstate_of_another_environment(self, lab: Lab, environments: Path) -> None:
        (environments / "top.sls").write_text(json.dumps({"prod": {"*": ["site"]}}))
        (environments / "site.sls").write_text(self.converged({"source": "salt://b.tar"}))
        for test in (True, False):
            (ret,) = lab.minion.modules["state.highstate"](test=test).values()
            assert ret["result"] is (None if test else True), ret["comment"]
        assert lab.version() == "12.1"

    def test_the_url_wins(self, lab: Lab, environments: Path) -> None:
        bundles = {"12.1": {"source": "salt://b.tar?saltenv=prod"}}
        assert lab.fetch(BASE, "12.1", bundles=bundles, saltenv="base")["needed"]

    def test_the_error_names_the_environment(self, lab: Lab, environments: Path) -> None:
        bundles = {"12.1": {"source": "salt://b.tar"}}
        error = lab.refused("bundle-unavailable", "fetch", BASE, "12.1", bundles=bundles)
        assert error.info["message"] == "cannot fetch salt://b.tar: not found in the environment base"
        assert "?saltenv=NAME" in error.info["hint"]
        bundles = {"12.1": {"source": "salt://no.tar?saltenv=prod"}}
        error = lab.refused("bundle-unavailable", "fetch", BASE, "12.1", bundles=bundles)
        assert "in the environment prod" in error.info["message"]

    def test_a_corrected_file_without_a_hash_is_noticed(self, lab: Lab, environments: Path) -> None:
        """The master computes the digest of a file without a hash, so a no-op run fetches nothing."""
        bundles = {"12.1": {"source": "salt://b.tar?saltenv=prod"}}
        assert lab.converge(BASE, "12.1", bundles)["changed"] is True
        assert lab.converge(BASE, "12.1", bundles)["changed"] is False
        lab.load({"corp/base:fixed": [BUSYBOX, VERSION_0, VERSION_1, layer(file("etc/version", b"fixed\n"))]})
        lab.build(BASE, "corp/base:fixed", str(environments / "b.tar"), version="12.1")
        assert lab.converge(BASE, "12.1", bundles)["changed"] is True
        assert lab.version() == "fixed"
        assert lab.converge(BASE, "12.1", bundles)["changed"] is False

    def test_an_environment_that_the_minion_is_pinned_to(self, lab: Lab, environments: Path) -> None:
        lab.minion.configure(saltenv="prod")
        assert lab.converge(BASE, "12.1", {"12.1": {"source": "salt://b.tar"}})["changed"]

    def test_functions_that_fetch_take_the_environment(self, lab: Lab, environments: Path) -> None:
        for function, arguments in (("inspect", ["salt://b.tar"]), ("impact", [BASE, "salt://b.tar"])):
            lab.refused("bundle-unavailable", function, *arguments)
            assert getattr(lab, function)(*arguments, saltenv="prod")
        lab.refused("bundle-unavailable", "import_legacy", "salt://no.gz", BASE, "/b.tar", "1", saltenv="prod")


class TestSalt:
    """Forms of source and hash that Salt's own states accept."""

    def test_the_first_source_that_works(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        bundles = offered(lab, server, tmp_path)
        places = ["/no/such/file", "salt://no.tar", f"{server.url}/no.tar", bundles["12.1"]["source"], "salt://never"]
        assert lab.fetch(BASE, "12.1", bundles={"12.1": {"source": places}})["needed"]
        error = lab.refused("bundle-unavailable", "fetch", BASE, "12.1", bundles={"12.1": {"source": places[:3]}})
        assert all(place in error.info["message"] for place in places[:3])

    def test_every_form_of_source_hash(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        bundle = offered(lab, server, tmp_path)["12.1"]
        hexed = bundle["hash"].removeprefix("sha256:")
        (tmp_path / "served/SHA256SUMS").write_text(f"{'0' * 64}  other.tar\n{hexed}  12.1.tar\n")
        (tmp_path / "sum").write_text(f"{hexed}\n")
        sums = [hexed, f"sha256={hexed}", f"sha256:{hexed}", f"{server.url}/SHA256SUMS", str(tmp_path / "sum")]
        for source_hash in sums:
            declared = {"12.1": {"source": bundle["source"], "source_hash": source_hash}}
            assert lab.fetch(BASE, "12.1", bundles=declared)["bundles"][0]["hash"] == bundle["hash"]
        (tmp_path / "sum").write_text("1" * 64)
        lab.refused("digest-mismatch", "fetch", BASE, "12.1", bundles=declared)
        (tmp_path / "sum").write_text("1" * 32)
        lab.refused("argument-invalid", "fetch", BASE, "12.1", bundles=declared)
        for wrong in ("md5=" + "1" * 32, "nonsense", 5):
            declared = {"12.1": {"source": bundle["source"], "source_hash": wrong}}
            lab.refused("argument-invalid", "fetch", BASE, "12.1", bundles=declared)
        lab.refused("argument-invalid", "fetch", BASE, "12.1", bundles={"12.1": {**bundle, "source_hash": hexed}})
        declared = {"12.1": {"source": bundle["source"], "source_hash": f"{server.url}/nothing"}}
        lab.refused("bundle-unavailable", "fetch", BASE, "12.1", bundles=declared)


class TestFetch:
    def test_moves_all_that_is_needed_and_nothing_again(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        bundles = offered(lab, server, tmp_path)
        lab.untag(NEW, NEWER)
        before = lab.layers()
        fetched = lab.fetch(BASE, "12.2", bundles=bundles)
        assert node.touched(before, lab.layers()) == []
        assert (fetched["needed"], fetched["from"], fetched["to"]) == (True, "12.0", "12.2")
        assert [fetched_bundle["version"] for fetched_bundle in fetched["bundles"]] == ["12.1", "12.2"]
        assert fetched["bytes"] == sum((tmp_path / f"served/{name}.tar").stat().st_size for name in ("12.1", "12.2"))
        for bundle_entry in fetched["bundles"]:
            assert digest(bundle_entry["path"]) == bundle_entry["hash"] == bundles[bundle_entry["version"]]["hash"]
        assert sorted(server.asked) == ["/12.1.tar", "/12.2.tar"]

        assert lab.converge(BASE, "12.2", bundles=bundles)["changed"]
        assert lab.version() == "12.2"
        assert len(server.asked) == 2

        # content on the node needs no bundle
        again = lab.fetch(BASE, "12.2", bundles=bundles)
        assert (again["needed"], "bundles" in again, again["bytes"]) == (False, False, 0)
        back = lab.fetch(BASE, "12.0", bundles=bundles)
        assert (back["needed"], back["from"], back["bytes"]) == (True, "12.2", 0)
        assert len(server.asked) == 2

    def test_bundles_in_pillar_need_not_be_typed(self, lab: Lab, server: Server, tmp_path: Path) -> None:
        lab.usual(NEWER)
        declared = {"version": "12.2", "bundles": offered(lab, server, tmp_path)}
        lab.minion.pillar = {"baseimg": {"bases": {BASE: declared}}}
        assert lab.plan(BASE, "12.1")["bundles"] == ["12.1"]
        assert lab.prepare(BASE, "12.2")["changed"]
        assert lab.fetch(BASE, "12.1")["needed"]
        lab.refused("version-unknown", "converge", BASE, "12.1", {})
        assert lab.converge(BASE, "12.1")["to"] == "12.1"

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

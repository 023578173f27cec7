"""Signed bundles, from the build machine through the file server to a node with trusted keys."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.lab import APP, BASE, NEW, NEWER, Lab, digest
from tests.functional.test_states import apply_sls, both, swapped
from tests.support import ssh
from tests.support.ssh import Key

pytestmark = pytest.mark.functional


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return ssh.make_key(tmp_path / "release")


@pytest.fixture
def other(tmp_path: Path) -> Key:
    return ssh.make_key(tmp_path / "other")


def accepted(path: str | Path, key: Key) -> bool:
    return ssh.verify(Path(path), Path(f"{path}.sig"), {"release": key.public}, "release")


class TestBuild:
    def test_signs_what_it_built(self, lab: Lab, key: Key) -> None:
        lab.usual()
        path = str(lab.work / "b.tar")
        done = lab.build(BASE, NEW, path, key=str(key.path))
        assert (done["signature"], done["key"]) == (f"{path}.sig", key.fingerprint)
        assert done["hash"] == digest(path)
        assert accepted(path, key)

    def test_a_key_that_cannot_be_used_is_told_before_anything_is_built(self, lab: Lab, tmp_path: Path) -> None:
        lab.usual()
        secret = ssh.make_key(tmp_path / "k", passphrase="hunter2")
        for path, test in ((secret.path, False), (secret.path, True), ("/nowhere/key", False), ("/nowhere/key", True)):
            lab.refused("argument-invalid", "build", BASE, NEW, str(lab.work / "b.tar"), key=str(path), test=test)
        assert not list(lab.work.glob("*b.tar*"))


class TestBuilt:
    def test_built_and_signed_once(self, lab: Lab, key: Key) -> None:
        lab.usual()
        path = str(lab.work / "b.tar")
        done = both(lab, "built", name=path, source=BASE, target=NEW, key=str(key.path))
        assert done["comment"].endswith(f"signed with {key.fingerprint}")
        assert accepted(path, key)

    @pytest.mark.parametrize("what", ["missing", "by another key", "damaged", "of another file"])
    def test_signed_again_where_the_signature_is_not_by_this_key(
        self, lab: Lab, key: Key, other: Key, what: str
    ) -> None:
        lab.usual()
        arguments = {"name": str(lab.work / "b.tar"), "source": BASE, "target": NEW}
        both(lab, "built", **arguments)
        signature = Path(arguments["name"] + ".sig")
        if what == "by another key":
            lab.sign(arguments["name"], str(other.path))
        elif what == "damaged":
            signature.write_text("x")
        elif what == "of another file":
            signature.write_bytes(ssh.sign(key.path, key).read_bytes())
        before = Path(arguments["name"]).stat().st_ino
        done = both(lab, "built", **arguments, key=str(key.path))
        assert done["changes"] == {"signature": {"old": None, "new": key.fingerprint}}
        assert done["foretold"]["changes"] == done["changes"]
        assert Path(arguments["name"]).stat().st_ino == before
        assert accepted(arguments["name"], key)

    def test_another_bundle_gets_another_signature(self, lab: Lab, key: Key) -> None:
        lab.usual(NEWER)
        arguments = {"name": str(lab.work / "b.tar"), "source": BASE, "key": str(key.path)}
        both(lab, "built", **arguments, target=NEW)
        both(lab, "built", **arguments, target=NEWER)
        assert accepted(arguments["name"], key)

    def test_a_key_that_is_not_there(self, lab: Lab) -> None:
        lab.usual()
        arguments = {"name": str(lab.work / "b.tar"), "source": BASE, "target": NEW}
        for _ in range(2):
            done = both(lab, "built", **arguments, key="/nowhere/key")
            assert done["result"] is False
            assert done["comment"].startswith("[argument-invalid] the key /nowhere/key cannot be read")
            lab.build(BASE, NEW, arguments["name"])


def declared(lab: Lab, keys: dict[str, str], **more: Any) -> dict[str, Any]:
    bundles = {"12.1": {"source": "salt://bundles/new.tar"}}
    return {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}, "trusted_keys": keys, **more}}


@pytest.fixture
def served(lab: Lab) -> Path:
    """Build a bundle on the file server; return its path."""
    lab.usual()
    path = lab.work / "srv/bundles/new.tar"
    path.parent.mkdir(parents=True)
    lab.build(BASE, NEW, str(path))
    roots = [*lab.minion.opts["file_roots"]["base"], str(lab.work / "srv")]
    lab.minion.configure(file_roots={"base": roots})
    return path


class TestFromTheFileServer:
    def test_signed_refused_mended(self, lab: Lab, served: Path, key: Key, other: Key) -> None:
        pillar = declared(lab, {"release@corp": key.public})
        for signer, code in ((None, "signature-missing"), (other, "signature-invalid")):
            if signer:
                ssh.sign(served, signer)
            before = lab.layers()
            for test in (True, False):
                (state,) = apply_sls(lab.minion, "baseimg", pillar, test).values()
                assert (state["result"], state["changes"]) == (False, {})
                assert state["comment"].startswith(f"[{code}] ")
            assert lab.layers() == before
        lab.sign(str(served), str(key.path))
        for test, result in ((True, None), (False, True)):
            (state,) = apply_sls(lab.minion, "baseimg", pillar, test).values()
            assert (state["result"], state["changes"]) == (result, swapped("12.0", "12.1")), state["comment"]
        assert lab.version(APP) == "12.1"
        assert [line["signed_by"] for line in lab.history(BASE)] == ["release@corp"]
        assert lab.status(BASE)["bases"][0]["generations"][1]["signed_by"] == "release@corp"

    def test_keys_in_the_minions_configuration_win(self, lab: Lab, served: Path, key: Key, other: Key) -> None:
        ssh.sign(served, other)
        lab.minion.configure(baseimg={"trusted_keys": {"local": key.public}})
        pillar = declared(lab, {"release@corp": other.public}, require_signature=False)
        (state,) = apply_sls(lab.minion, "baseimg", pillar).values()
        assert state["comment"].startswith("[signature-invalid] ")
        assert "trusted: local (" in state["comment"]

    def test_unsigned_where_that_is_allowed(self, lab: Lab, served: Path, key: Key) -> None:
        pillar = declared(lab, {"release@corp": key.public}, require_signature=False)
        (state,) = apply_sls(lab.minion, "baseimg", pillar).values()
        assert (state["result"], state["changes"]) == (True, swapped("12.0", "12.1"))
        assert not any("signed_by" in line for line in lab.history(BASE))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing on stderr."""


@pytest.fixture
def web(lab: Lab) -> Iterator[str]:
    """Serve the test's files over HTTP; yield the URL."""
    handler = functools.partial(Quiet, directory=str(lab.work))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_over_http_with_a_query(lab: Lab, web: str, key: Key, other: Key) -> None:
    lab.usual()
    path = lab.bundle()
    lab.minion.configure(pillar={"baseimg": {"trusted_keys": {"release": key.public}}})
    source = f"{web}/{Path(path).name}?build=7"
    lab.refused("signature-missing", "apply", source)
    lab.sign(path, str(other.path))
    lab.refused("signature-invalid", "apply", source)
    cached = Path(lab.minion.opts["cachedir"]) / "extrn_files"
    assert [file for file in cached.rglob("*") if file.is_file()] == []
    lab.sign(path, str(key.path))
    assert lab.apply(source)["changed"]
    assert [file for file in cached.rglob("*") if file.is_file()] == []  # their content is a generation now
    assert lab.history(BASE)[0]["signed_by"] == "release"

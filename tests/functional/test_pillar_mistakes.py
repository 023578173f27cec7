"""Pillar files with mistakes of newcomers: each file has one outcome and one message."""

from __future__ import annotations

import hashlib
import http.server
import re
import shutil
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError, SaltRenderError

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.policy import pillar as rules
from baseimg_core.registry import repository
from tests.functional.lab import BASE, BUSYBOX, NEW, NEWER, VERSION_0, Lab, layer
from tests.functional.test_states import apply_sls
from tests.support import node
from tests.support.images import file

try:
    from salt.utils.secret import hide
except ImportError:  # Salt before 3008 masks no pillar
    hide = dict

pytestmark = pytest.mark.functional

FILES = sorted((Path(__file__).parent / "pillar_mistakes").glob("*.sls"))
#: Placeholder digests in the files: of the bundle 12.0 -> 12.1, and of another bundle for the same version.
BUNDLE_DIGEST = "5d200d28275d9c186e74e5c3a9b0ecd951e82cbb83801da4a643ef08c9bc4edf"
RESPIN_DIGEST = "f631d3fc8c74cd69014335d26ba127bdfdf2150eadc0a37b67115676f67f038a"
#: Placeholder port of the HTTP server in the files; nothing listens on their other ports.
SERVER_PORT = "18080"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    timeout = 1  # seconds; limits the wait of a TLS client, whose handshake is not an HTTP request

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass
class MistakenNode:
    """A node with the base and a file root with the bundles that the files name."""

    lab: Lab
    replacements: dict[str, str]

    def outcome(self, path: Path) -> tuple[str, str]:
        """Apply a file; return ``yaml``, ``pillar``, ``failed``, ``went`` or ``stays``, and the message."""
        text = path.read_bytes().decode()
        for old, new in self.replacements.items():
            text = text.replace(old, new)
        copy = self.lab.work / path.name
        copy.write_bytes(text.encode())
        try:
            pillar = self.lab.minion.modules["slsutil.renderer"](str(copy))
        except (SaltRenderError, CommandExecutionError) as exc:
            return "yaml", str(exc)
        try:  # the checks of baseimg.problem; loading Salt's modules for each file would take most of the time
            rules.declared(rules.value_of(hide(pillar)))
            rules.check_top_level(hide(pillar))
        except ArgumentInvalid as exc:
            return "pillar", str(exc)
        (state,) = apply_sls(self.lab.minion, "baseimg", pillar).values()
        kind = "failed" if state["result"] is False else "went" if state["changes"] else "stays"
        return kind, "\n".join([state["comment"], *state.get("warnings", [])])


@pytest.fixture
def mistaken_node(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MistakenNode]:
    monkeypatch.setattr(repository, "_PAUSES", (0.01,))
    lab.usual(NEWER)
    served = tmp_path / "srv"
    bundles = served / "baseimg/bundles"
    bundles.mkdir(parents=True)
    good = bundles / "corp-base_12.0_12.1.tar"
    lab.build(BASE, NEW, str(good))
    (bundles / "corp-base_trunc.tar").write_bytes(good.read_bytes()[:5000])
    (bundles / "corp-base_junk.tar").write_bytes(b"not a bundle\n" * 1000)
    lab.load({"corp/respin:1": [BUSYBOX, VERSION_0, layer(file("etc/version", b"12.1 respin\n"))]})
    lab.build(BASE, "corp/respin:1", str(bundles / "respin.tar"), version="12.1")
    lab.build(NEW, BASE, str(bundles / "back.tar"), version="12.0b")
    shutil.copy(bundles / "back.tar", bundles / "self.tar")
    lab.minion.configure(file_roots={"base": [*lab.minion.opts["file_roots"]["base"], str(served)]})
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digests = {
        BUNDLE_DIGEST: hashlib.sha256(good.read_bytes()).hexdigest(),
        RESPIN_DIGEST: hashlib.sha256((bundles / "respin.tar").read_bytes()).hexdigest(),
    }
    try:
        yield MistakenNode(lab, {**digests, SERVER_PORT: str(server.server_address[1])})
    finally:
        server.shutdown()
        server.server_close()


HERE = f"baseimg:bases:{BASE}"
#: By file: the kind of outcome, and parts of the message, which names the key, its value and the correction.
EXPECTED: dict[str, tuple[str, list[str]]] = {
    "01-unquoted-number": ("pillar", [f"{HERE}:version is '12.1' (float)", "write it in quotes, '12.1'"]),
    "02-version-list": ("pillar", [f"{HERE}:version is", "12.1", "(list)", "expected a text"]),
    "03-unquoted-bundle-key": ("pillar", [f"a version in {HERE}:bundles is '12.1' (float)", "quotes"]),
    "04-typo-key": ("pillar", [f"{HERE}:bundels is a mapping with 12.1", "did you mean bundles?"]),
    "05-typo-version": ("pillar", [f"{HERE}:verison is '12.1'", "did you mean version?"]),
    "06-typo-source": ("pillar", [f"{HERE}:bundles:12.1:src is", "did you mean source?"]),
    "07-wrong-hash": ("failed", ["[digest-mismatch]", "sha256:000000", "correct the declared digest"]),
    "08-hash-no-prefix": ("went", ["12.0 -> 12.1"]),
    "09-hash-md5": ("pillar", [f"{HERE}:bundles:12.1:hash is 'md5:abcd'", "64 hex digits, as 'sha256sum'"]),
    "10-bundle-missing": ("failed", ["[bundle-unavailable]", "salt://baseimg/bundles/corp-base_12.0_12.9.tar"]),
    # the bundle's chain ID finds the base although its name is wrong
    "11-base-unknown": ("went", ["corp/bsae:12.0: 12.0 -> 12.1"]),
    "12-base-unknown-fail": ("went", ["corp/bsae:12.0: 12.0 -> 12.1"]),
    "13-version-no-bundle": ("failed", ["[version-unknown] version 12.3", "bundles lead to: '12.1'"]),
    "14-relative-path": ("pillar", [f"{HERE}:bundles:12.1:source is 'srv/salt", "an absolute path or a URL"]),
    "15-restrat": ("pillar", [f"{HERE}:containers:mode is 'restrat'", "keep, restart"]),
    "16-containers-key": ("pillar", [f"{HERE}:containers:time_out is '5'", "did you mean timeout?"]),
    "17-crlf": ("went", ["12.0 -> 12.1"]),
    "18-spaces-in-name": ("stays", ["corp/base: 12.0: absent", f"did you mean {BASE}?"]),
    "19-trailing-space-version": ("pillar", [f"{HERE}:version is '12.1 '", "without spaces at its ends: '12.1'"]),
    "20-pillar-list": ("pillar", ["baseimg is", "(list)", "a mapping with bases and builds"]),
    "21-bases-list": ("pillar", ["baseimg:bases is", "(list)", "base references, each with a version"]),
    "22-duplicate-base": ("yaml", ["conflicting ID 'corp/base:12.0'"]),
    "23-registry-unreachable": ("failed", ["[bundle-unavailable]", "127.0.0.1:5999/baseimg/base"]),
    "24-registry-nohost": ("pillar", [f"{HERE}:bundles:12.1:source is 'docker://corp/base:12.1'", "HOST/NAME"]),
    "25-http-down": ("failed", ["[bundle-unavailable]", "http://127.0.0.1:18081/corp-base_12.0_12.1.tar"]),
    "26-http-404": ("failed", ["[bundle-unavailable]", "/nope/corp-base_12.0_12.1.tar"]),
    "27-https-on-http": ("failed", ["[bundle-unavailable]", "https://127.0.0.1:"]),
    "28-truncated": ("failed", ["[bundle-invalid]"]),
    "29-not-a-bundle": ("failed", ["[bundle-invalid]"]),
    "30-wrongkey": ("failed", ["[signature-missing]", "corp-base_12.0_12.1.tar is not signed"]),
    "31-keyfile-path": ("pillar", ["baseimg:trusted_keys:other is '/etc/salt/key.pub'", "a line as in a .pub file"]),
    "32-top-typo": ("pillar", ["base_img is a mapping with bases", "expected the key baseimg"]),
    "33-bases-typo": ("pillar", ["baseimg:base is a mapping with corp/base:12.0", "did you mean bases?"]),
    "34-empty-version": ("pillar", [f"{HERE}:version is nothing", "expected a text"]),
    "35-tab": ("yaml", ["found character"]),
    "36-bundle-string": ("pillar", [f"{HERE}:bundles:12.1 is 'salt://", "a mapping with source and hash"]),
    "37-wrong-version-name": ("failed", ["[bundle-mismatch] bundles:12.2", "leads to version 12.1, expected 12.2"]),
    "38-cycle": ("failed", ["[bundle-mismatch] bundles:12.9", "leads to version 12.0b, expected 12.9"]),
    "39-source-is-target-tag": ("stays", [f"{NEW}: at 12.1"]),
    "40-no-tag": ("stays", ["corp/base: absent", f"did you mean {BASE} or {NEW} or {NEWER}?"]),
    "41-cycle": ("failed", ["[version-unknown] version 12.9", "bundles lead to: '12.0b' or '12.1'"]),
    "42-respin-same-version": ("went", ["12.0 -> 12.1"]),
}


def test_every_file_has_an_outcome() -> None:
    assert {path.stem for path in FILES} == EXPECTED.keys()


def test_a_mistake_fails_one_state(mistaken_node: MistakenNode) -> None:
    pillar = {"base_img": {"bases": {BASE: {"version": "12.1"}}}}
    (state,) = apply_sls(mistaken_node.lab.minion, "baseimg", pillar).values()
    assert (state["__id__"], state["result"], state["changes"]) == ("baseimg cannot run", False, {})
    assert "expected the key baseimg" in state["comment"]


def test_each_ends_in_one_message_and_changes_nothing(mistaken_node: MistakenNode, subtests: pytest.Subtests) -> None:
    for path in FILES:
        kind, texts = EXPECTED[path.stem]
        before = mistaken_node.lab.layers()
        with subtests.test(path.stem):
            outcome, message = mistaken_node.outcome(path)
            assert (outcome, [text for text in texts if text not in message]) == (kind, []), message
            assert "Traceback" not in message
            assert not re.search(r"\bOrderedDict\b", message)
            if kind != "went":
                assert node.touched(before, mistaken_node.lab.layers()) == []
        if mistaken_node.lab.layers() != before:
            mistaken_node.lab.engine.remove_all()
            mistaken_node.lab.usual(NEWER)

"""Bundles pass through a real registry unchanged, despite every fault of the transfer."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import gc
import hashlib
import http.server
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from baseimg_core import cli
from baseimg_core.disk.bundle import writer
from baseimg_core.disk.bundle.reader import Bundle, descriptors_of
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.errors import (
    BaseimgError,
    BundleInvalid,
    BundleUnavailable,
    DigestMismatch,
    RegistryDenied,
    SignatureMissing,
    SpaceExhausted,
)
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.policy import reference
from baseimg_core.model.policy.pillar import Registry as Declared
from baseimg_core.model.stack import ids
from baseimg_core.registry import endpoint, pull, push, repository, tls
from tests.support import images
from tests.support.deadlines import scaled, wait_until
from tests.support.fs import loop_fs
from tests.support.images import ImageSpec, Member, file
from tests.support.layout import Layout
from tests.support.registry import Authority, Flaky, Registry, served

pytestmark = pytest.mark.fault

NAME = "baseimg/base:12.1"
CONTENT = 1 << 20  # bytes, and random, so a layer blob has the same size
IDENTITY = "1dentity-t0ken"
USER, PASSWORD = "nodes", "s3cret-Passw0rd"
HTPASSWD = USER + r":$2b$04$LCyobfUw4H7cFboa53K80e2s8Op.E6W75sxP7jVKf051V8XdKPkYa" + "\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shorten the pauses between attempts and ignore the machine's own configuration."""
    monkeypatch.setattr(repository, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(tls, "CERTS", (str(tmp_path / "certs.d"),))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a bundle of about a megabyte."""
    root = tmp_path_factory.mktemp("bundle")
    for name in ("old", "new"):
        (root / name).mkdir()
    (root / "new/file").write_bytes(random.Random(1).randbytes(CONTENT))
    sides = [
        ImageRef(f"corp/base:{version}", version, ids.chain_id([digest]), (digest,))
        for version, digest in VERSIONS.items()
    ]
    changes = compare(Stack([str(root / "old")]), Stack([str(root / "new")]))
    path = str(root / "b.tar")
    writer.write(path, changes, *sides, {"os": "linux", "architecture": "amd64"})
    return path


def other_bundle(root: Path) -> str:
    """Return a small bundle with other bytes."""
    for name in ("old", "new"):
        (root / "other" / name).mkdir(parents=True)
    (root / "other/new/file").write_bytes(b"other")
    sides = [
        ImageRef(f"corp/base:{version}", version, ids.chain_id([digest]), (digest,))
        for version, digest in VERSIONS.items()
    ]
    changes = compare(Stack([str(root / "other/old")]), Stack([str(root / "other/new")]))
    path = str(root / "other/b.tar")
    writer.write(path, changes, *sides, {"os": "linux", "architecture": "amd64"})
    return path


VERSIONS = {"12.0": "sha256:" + "1" * 64, "12.1": "sha256:" + "2" * 64}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def source(registry: Registry, bundle: str) -> str:
    """Return the bundle's source in the registry, by digest."""
    return str(put(registry.host, bundle)["source"])


def put(host: str, bundle: str, **declared: Declared) -> dict[str, Any]:
    return push.push(bundle, reference.parse(f"{host}/{NAME}"), dict(declared))


def at(host: str, source: str = "") -> str:
    """Return the source at another host; by tag if no source is given."""
    return f"docker://{host}/" + (source.split("/", 3)[3] if source else NAME)


class Node:
    """A minion's cache and the progress events that it received."""

    def __init__(self, home: Path, **declared: Declared) -> None:
        self.home, self.declared = home, dict(declared)
        self.progress_calls: list[tuple[str, int, int]] = []

    def fetch(self, source: str) -> str:
        return pull.BundleCache(str(self.home), self.declared, self.progress).fetch(source)

    def progress(self, step: str, done: int, total: int) -> None:
        self.progress_calls.append((step, done, total))

    @property
    def files(self) -> list[str]:
        return sorted(os.listdir(self.home)) if self.home.exists() else []


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "cache")


def same(path: str, other: str) -> bool:
    return Path(path).read_bytes() == Path(other).read_bytes()


def layer_of(bundle: str) -> str:
    with Bundle.open(bundle) as opened:
        return opened.layer.digest


class TestTheSameFile:
    def test_by_digest_and_by_tag(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        path = node.fetch(source)
        assert same(path, bundle)
        assert node.progress_calls[-1] == ("fetching", node.progress_calls[-1][2], node.progress_calls[-1][2])
        assert node.progress_calls[-1][2] > CONTENT  # bytes
        assert node.fetch(at(registry.host)) == path

    def test_what_is_there_is_not_fetched_again(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        with Flaky(registry.host) as proxy:
            node.fetch(at(proxy.host, source))
            before = list(proxy.sent)
            node.fetch(at(proxy.host, source))
            assert proxy.sent == before
            node.fetch(at(proxy.host))  # a tag may have moved, so the cache asks for its manifest
            assert 0 < sum(proxy.sent) - sum(before) < 4000
        assert node.files == [f"{source.rpartition(':')[2]}.tar"]

    def test_what_is_there_is_not_pushed_again(self, registry: Registry, source: str, bundle: str) -> None:
        before = len(registry.requests())
        assert put(registry.host, bundle)["changed"] is False
        assert [line.split()[0] for line in registry.requests()[before:]] == ["GET"]

    def test_a_copy_that_another_tool_made_is_refused(self, registry: Registry, bundle: str, tmp_path: Path) -> None:
        copy = tmp_path / "copy.tar"
        command = ["skopeo", "copy", "--quiet", f"oci-archive:{bundle}", f"oci-archive:{copy}:12.1"]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(BundleInvalid, match="was written by another tool"):
            put(registry.host, str(copy))

    @pytest.mark.parametrize("name", ["baseimg/base:none", "nothing/here:1"])
    def test_what_is_not_there(self, registry: Registry, source: str, node: Node, name: str) -> None:
        with pytest.raises(BundleUnavailable, match=f"does not have .*{name}"):
            node.fetch(f"docker://{registry.host}/{name}")
        assert node.files == []

    @pytest.mark.parametrize("part", ["config", "layers"])
    def test_sizes_below_zero(self, bundle: str, part: str) -> None:
        with Bundle.open(bundle) as opened:
            image = json.loads(opened.image)
        (image[part] if part == "config" else image[part][0])["size"] = -1
        with pytest.raises(BundleInvalid, match="below zero"):
            descriptors_of(json.dumps(image).encode())

    def test_an_image_that_is_no_bundle(self, registry: Registry, node: Node, tmp_path: Path) -> None:
        layout = tmp_path / "layout"
        for command in (["init", "--layout", str(layout)], ["new", "--image", f"{layout}:1"]):
            subprocess.run(["umoci", *command], check=True, capture_output=True)
        target = f"docker://{registry.host}/plain:1"
        command = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:1", target]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(BundleInvalid):
            node.fetch(target)
        assert node.files == []


class TestSignature:
    def test_goes_with_the_bundle_and_is_replaced(
        self, registry: Registry, source: str, bundle: str, node: Node, tmp_path: Path
    ) -> None:
        with pytest.raises(SignatureMissing):
            node.fetch(source + reference.SIGNATURE)
        copy = tmp_path / "b.tar"
        shutil.copy(bundle, copy)
        for data in (b"one\n", b"another\n"):
            (tmp_path / "b.tar.sig").write_bytes(data)
            assert [put(registry.host, str(copy))["changed"] for _ in range(2)] == [True, False]
            for place in (source, at(registry.host)):
                assert Path(node.fetch(place + reference.SIGNATURE)).read_bytes() == data

    def test_a_registry_that_cannot_be_asked_is_not_a_missing_signature(self, source: str, node: Node) -> None:
        with pytest.raises(BundleUnavailable, match="Connection refused"):
            node.fetch(at("127.0.0.1:1", source) + reference.SIGNATURE)


class TestBroken:
    def test_goes_on_where_it_broke_off(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        with Flaky(registry.host, limit=200_000, cuts=4) as proxy:
            assert same(node.fetch(at(proxy.host, source)), bundle)
            assert proxy.cuts == 0
            assert CONTENT < sum(proxy.sent) < CONTENT + 100_000
        done = [done for _step, done, _total in node.progress_calls]
        assert done == sorted(done)

    def test_a_registry_that_is_only_starting(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        """Each attempt probes HTTP and TLS again."""
        with Flaky(registry.host, limit=0, cuts=2) as proxy:
            assert same(node.fetch(at(proxy.host, source)), bundle)

    def test_two_jobs_fetch_it_once(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        before = len(registry.requests())
        with ThreadPoolExecutor(4) as jobs:
            paths = set(jobs.map(node.fetch, [source] * 4))
        assert same(paths.pop(), bundle)
        assert paths == set()
        assert len([line for line in registry.requests()[before:] if layer_of(bundle) in line]) == 1

    def test_a_full_disk(self, source: str, bundle: str) -> None:
        with loop_fs("ext4", 1 << 20) as root:
            node = Node(root / "cache")
            with pytest.raises(SpaceExhausted):
                node.fetch(source)
            assert node.files == []

    def test_what_does_not_fit_is_not_begun(self, registry: Registry, bundle: str, node: Node) -> None:
        """A hostile manifest declares a pebibyte."""
        with Bundle.open(bundle) as opened:
            image, config = json.loads(opened.image), opened.config
        image["layers"][0]["size"] = 1 << 50
        asked: list[str] = []

        class Huge(Proxy):
            def answer(self) -> bytes:
                asked.append(self.path)
                return config if image["config"]["digest"] in self.path else json.dumps(image).encode()

        with served(Huge) as host, pytest.raises(SpaceExhausted):
            node.fetch(at(host))
        assert node.files == []
        assert [path for path in asked if image["layers"][0]["digest"] in path] == []

    def test_a_slow_registry_is_given_up_and_blocks_no_other(
        self, registry: Registry, source: str, bundle: str, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoint, "_RATE_SECONDS", 0.3)
        begun, fetched = threading.Event(), threading.Event()
        layer = registry.blob(layer_of(bundle)).read_bytes()

        class Slow(Proxy):
            def answer(self) -> bytes:
                return registry.blob("sha256:" + self.path.rpartition("sha256:")[2]).read_bytes()

            def send(self, data: bytes) -> None:
                if data != layer:
                    super().send(data)
                    return
                begun.set()
                assert fetched.wait(scaled(60))
                with contextlib.suppress(OSError):
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)  # a slow transfer is the test's subject

        other = other_bundle(tmp_path)
        good = push.push(other, reference.parse(f"{registry.host}/other/base:1"), {})["source"]
        with served(Slow) as host, ThreadPoolExecutor(1) as job:
            slow = job.submit(node.fetch, at(host, source))
            assert begun.wait(scaled(60))
            assert same(node.fetch(good), other)
            fetched.set()
            with pytest.raises(BundleUnavailable, match=r"less than 4096 bytes per second"):
                slow.result(scaled(60))
        assert [name for name in node.files if name.endswith(".lock")] == []
        assert same(node.fetch(source), bundle)

    def test_a_job_that_fetches_it_for_ever(self, source: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pull, "_LOCK_SECONDS", 0.2)
        node.home.mkdir()
        lock = node.home / f"{source.rpartition(':')[2]}.tar.lock"
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BundleUnavailable, match="another process has been fetching"):
                node.fetch(source)
        node.fetch(source)
        assert not lock.exists()

    def test_the_cache_is_bounded(self, source: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        node.home.mkdir()
        ages = {"a.tar": 8 * 86400, "b.tar.part": 2 * 86400, "c.tar": 7200, "d.tar": 60}
        for name, age in ages.items():
            (node.home / name).write_bytes(b"x" * 100_000)
            os.utime(node.home / name, (time.time() - age,) * 2)
        name = os.path.basename(node.fetch(source))
        assert node.files == sorted(["b.tar.part", "c.tar", "d.tar", name])
        monkeypatch.setattr(pull, "_MAX_BYTES", CONTENT + 250_000)
        node.fetch(source)
        assert node.files == sorted(["c.tar", "d.tar", name])
        monkeypatch.setattr(pull, "_MAX_BYTES", 0)
        node.fetch(source)
        assert node.files == sorted(["d.tar", name])

    def test_no_connection_is_left_open(self, source: str, bundle: str, node: Node) -> None:
        gc.collect()  # releases the sockets of earlier tests
        before = sockets()
        cache = pull.BundleCache(str(node.home), {})
        cache.fetch(source)
        cache.close()
        assert sockets() == before

    def test_a_bound_on_the_rate(self, source: str, bundle: str, node: Node) -> None:
        before = time.monotonic()
        cache = pull.BundleCache(str(node.home), {}, rate=2 * CONTENT)
        assert same(cache.fetch(source), bundle)
        cache.close()
        assert time.monotonic() - before > 0.2  # half a second, less what may be sent at once

    def test_another_job_goes_on_with_it(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        class Killed(BaseException):
            """Stands for a signal in the middle of a transfer."""

        def progress(step: str, done: int, total: int) -> None:
            if done > total // 2:
                raise Killed

        with pytest.raises(Killed):
            pull.BundleCache(str(node.home), {}, progress).fetch(source)
        (part,) = node.files
        with Flaky(registry.host) as proxy:
            assert same(node.fetch(at(proxy.host, source)), bundle)
            assert sum(proxy.sent) < CONTENT // 2 + 100_000
        assert node.files == [part.removesuffix(".part")]

    def test_a_part_that_is_wrong_is_fetched_anew(self, source: str, bundle: str, node: Node) -> None:
        node.home.mkdir()
        part = node.home / f"{source.rpartition(':')[2]}.tar.part"
        for left in (b"x" * 5000, b"", b"x" * (2 * CONTENT)):
            part.write_bytes(left)
            path = node.fetch(source)
            assert same(path, bundle)
            os.unlink(path)
        assert node.files == []

    def test_a_registry_that_is_down(self, source: str, node: Node) -> None:
        with pytest.raises(BundleUnavailable, match=r"cannot get .* 127.0.0.1:1: Connection refused"):
            node.fetch(at("127.0.0.1:1", source))
        assert node.files == []


class TestTampered:
    @pytest.mark.parametrize("what", ["flipped", "longer"])
    def test_a_blob_with_another_digest(
        self, registry: Registry, source: str, bundle: str, node: Node, what: str
    ) -> None:
        blob = registry.blob(layer_of(bundle))
        good = blob.read_bytes()
        try:
            blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if what == "flipped" else good + b"more")
            with pytest.raises(DigestMismatch):
                node.fetch(source)
        finally:
            blob.write_bytes(good)
        assert node.files == []
        assert same(node.fetch(source), bundle)

    def test_a_config_with_another_digest(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        with Bundle.open(bundle) as opened:
            blob = registry.blob(reference_digest(opened.config))
        good = blob.read_bytes()
        try:
            blob.write_bytes(good.replace(b"12.1", b"12.9"))
            with pytest.raises(DigestMismatch):
                node.fetch(source)
        finally:
            blob.write_bytes(good)
        assert node.files == []


def reference_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def sockets() -> int:
    """Count the sockets of this process."""
    descriptors = Path("/proc/self/fd")
    return sum(
        os.readlink(descriptors / name).startswith("socket:")
        for name in os.listdir(descriptors)
        if os.path.lexists(descriptors / name)
    )


class Proxy(http.server.BaseHTTPRequestHandler):
    """Answers every GET with the result of `answer`."""

    def do_GET(self) -> None:
        data = b"{}" if self.path == "/v2/" else self.answer()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.send(data)

    def answer(self) -> bytes:
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Discard the log."""


class TestMirrors:
    @pytest.fixture
    def mirror(self, tmp_path: Path) -> Iterator[Registry]:
        with Registry(tmp_path / "mirror") as running:
            yield running

    def node(self, home: Path, own: str, *mirrors: str) -> Node:
        return Node(home, **{own: Declared(tuple(f"http://{host}" for host in mirrors))})

    def test_comes_first(self, registry: Registry, source: str, bundle: str, tmp_path: Path, mirror: Registry) -> None:
        put(mirror.host, bundle)
        before = len(registry.requests())
        node = self.node(tmp_path / "cache", registry.host, mirror.host)
        assert same(node.fetch(source), bundle)
        assert registry.requests()[before:] == []
        # the mirror alone is enough for a source with a digest
        gone = self.node(tmp_path / "other", "127.0.0.1:1", mirror.host)
        assert same(gone.fetch(at("127.0.0.1:1", source)), bundle)

    def test_one_that_is_empty_dead_or_wrong_is_passed_over(
        self, registry: Registry, source: str, bundle: str, tmp_path: Path, mirror: Registry
    ) -> None:
        for count, others in enumerate((["127.0.0.1:1"], [mirror.host])):
            assert same(self.node(tmp_path / str(count), registry.host, *others).fetch(source), bundle)
        put(mirror.host, bundle)
        blob = mirror.blob(layer_of(bundle))
        blob.write_bytes(b"x" * blob.stat().st_size)
        node = self.node(tmp_path / "wrong", registry.host, mirror.host)
        assert same(node.fetch(source), bundle)
        assert [name for name in node.files if not name.endswith(".tar")] == []


def log_in(tmp_path: Path, host: str, password: str = PASSWORD, **more: Any) -> None:
    """Write config.json as `docker login` does."""
    word = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = {"auths": {host: {"auth": word}}, **more}
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker/config.json").write_text(json.dumps(config))


def leaked_text(caught: pytest.ExceptionInfo[BaseimgError], caplog: pytest.LogCaptureFixture) -> str:
    """Return every text that an error exposes: message, repr, data, traceback and log."""
    error = caught.value
    return "\n".join([str(error), repr(error), *error.as_dict().values(), *traceback.format_exception(error)]) + (
        caplog.text
    )


SECRETS = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), "wrong-pass")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Registry]:
    """Return a registry that requires a user and a password."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    with Registry(tmp_path / "closed", auth=auth) as running:
        yield running


class TestPasswords:
    def test_of_config_json(
        self, closed: Registry, bundle: str, node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with pytest.raises(RegistryDenied, match="without credentials") as caught:
            put(closed.host, bundle)
        log_in(tmp_path, closed.host, "wrong-pass")
        with pytest.raises(RegistryDenied, match=f"401 UNAUTHORIZED, as '{USER}'") as again:
            put(closed.host, bundle)
        log_in(tmp_path, closed.host)
        done = put(closed.host, bundle)
        assert same(node.fetch(done["source"]), bundle)
        leaked = leaked_text(caught, caplog) + leaked_text(again, caplog) + str(done)
        assert [secret for secret in SECRETS if secret in leaked] == []

    def test_of_a_credential_helper(
        self, closed: Registry, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        helper = tmp_path / "docker-credential-test"
        answer = json.dumps({"ServerURL": closed.host, "Username": USER, "Secret": PASSWORD})
        helper.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        log_in(tmp_path, "elsewhere", credHelpers={closed.host: "test"})
        assert put(closed.host, bundle)["changed"]
        helper.write_text(f"#!/bin/sh\necho '{answer}'\nexit 1\n")
        with pytest.raises(RegistryDenied, match="credential helper") as caught:
            put(closed.host, bundle)
        assert PASSWORD not in "\n".join(traceback.format_exception(caught.value))

    def test_a_damaged_config_json(
        self, closed: Registry, bundle: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        log_in(tmp_path, closed.host)
        path = tmp_path / "docker/config.json"
        secret = base64.b64encode(f"{USER}{PASSWORD}".encode()).decode()  # no colon
        path.write_text(json.dumps({"auths": {closed.host: {"auth": secret}}}))
        with pytest.raises(RegistryDenied, match="malformed") as caught:
            put(closed.host, bundle)
        assert [word for word in (PASSWORD, secret) if word in leaked_text(caught, caplog)] == []


class TestTokens:
    """A registry that refers to a token server, as Docker Hub, Harbor and GitLab do."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[tuple[Registry, list[str]]]:
        authority = Authority(tmp_path / "tokens")
        certificate, key = authority.issue("issuer")
        given: list[str] = []

        class Tokens(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(urlsplit(self.path).query, self.headers["Authorization"] == "Basic " + SECRETS[1])

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.answer(form, parse_qs(form)["refresh_token"] == [IDENTITY])

            def answer(self, form: str, known: bool) -> None:
                kind, name, actions = parse_qs(form)["scope"][0].split(":")
                allowed = actions.split(",") if known else []
                given.append(jwt(certificate, key, [{"type": kind, "name": name, "actions": allowed}]))
                body = json.dumps({"token": given[-1]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Discard the log."""

        with served(Tokens) as host:
            auth = {
                "realm": f"http://{host}/token",
                "service": "test",
                "issuer": "test",
                "rootcertbundle": str(certificate),
            }
            with Registry(tmp_path / "registry", auth={"token": auth}) as running:
                yield running, given

    def test_bought_with_the_password(
        self,
        server: tuple[Registry, list[str]],
        bundle: str,
        node: Node,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        registry, given = server
        with pytest.raises(RegistryDenied, match="without credentials") as caught:
            put(registry.host, bundle)
        log_in(tmp_path, registry.host)
        assert same(node.fetch(put(registry.host, bundle)["source"]), bundle)
        log_in(tmp_path, registry.host, "wrong-pass")
        with pytest.raises(RegistryDenied, match=f"as '{USER}'"):
            node.fetch(at(registry.host))
        # `docker login` writes this if the token server returns an identity token
        (tmp_path / "docker/config.json").write_text(
            json.dumps({"auths": {registry.host: {"identitytoken": IDENTITY}}})
        )
        assert same(node.fetch(at(registry.host)), bundle)
        leaked = leaked_text(caught, caplog)
        assert [secret for secret in (*SECRETS, *given, IDENTITY) if secret in leaked] == []

    def test_no_password_goes_over_http_to_another_host(self, bundle: str, tmp_path: Path) -> None:
        """`insecure` allows plain HTTP to the declared registry, not to a token server on another host."""
        requests_seen: list[str] = []

        class Front(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests_seen.append(str(self.headers["Authorization"]))
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Bearer realm="http://tokens.example:80/token",service="x"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Discard the log."""

        with served(Front) as host:
            for login in ({"auth": SECRETS[1]}, {"identitytoken": IDENTITY}):
                log_in(tmp_path, host)
                (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {host: login}}))
                with pytest.raises(RegistryDenied, match="without TLS on another host") as caught:
                    put(host, bundle, **{host: Declared(insecure=True)})
                assert [secret for secret in (*SECRETS, IDENTITY) if secret in str(caught.value)] == []
        assert set(requests_seen) == {"None"}


def jwt(certificate: Path, key: Path, access: list[dict[str, Any]]) -> str:
    """Return a token as Docker's registry accepts it, signed by openssl."""
    pem = certificate.read_text().split("-----")[2].replace("\n", "")
    now = int(time.time())
    claims = {"iss": "test", "sub": USER, "aud": "test", "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1"}
    parts = [{"typ": "JWT", "alg": "RS256", "x5c": [pem]}, {**claims, "access": access}]
    text = ".".join(_url64(json.dumps(part).encode()) for part in parts)
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    return text + "." + _url64(subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout)


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TestStores:
    """A registry that redirects to its blob store: the URL is secret, and the store needs no credentials."""

    def test_redirected(
        self, registry: Registry, source: str, bundle: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        requests_seen: list[Any] = []
        busy: list[str] = []
        blob, layer = registry.blob(layer_of(bundle)), layer_of(bundle)

        class Store(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests_seen.append(self.headers["Authorization"])
                start = int((self.headers["Range"] or "bytes=0-")[6:-1])
                data = blob.read_bytes()
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                # the first answer breaks off, so the client must request the rest
                self.wfile.write(data[start:] if start else data[:500_000])
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                """Discard the log."""

        with served(Store) as store:

            class Front(Store):
                def do_GET(self) -> None:
                    if self.headers["Authorization"] is None:
                        self.send_response(401)
                        self.send_header("WWW-Authenticate", 'Basic realm="front"')
                        self.send_header("Content-Length", "0")
                    elif not busy:
                        busy.append(self.path)
                        self.send_response(503)
                        self.send_header("Retry-After", "0")
                        self.send_header("Content-Length", "0")
                    elif self.path.endswith(layer):
                        self.send_response(307)
                        self.send_header("Location", f"http://{store}/blob?X-Amz-Signature=5ignature")
                        self.send_header("Content-Length", "0")
                    else:
                        body = registry.blob("sha256:" + self.path.rpartition("sha256:")[2]).read_bytes()
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(body)))
                        self.end_headers()
                        self.wfile.write(body)
                        return
                    self.end_headers()

            with served(Front) as front:
                log_in(tmp_path, front)
                assert same(Node(tmp_path / "cache").fetch(at(front, source)), bundle)
        assert (len(busy), requests_seen) == (1, [None, None])
        assert [word for word in ("5ignature", *SECRETS) if word in caplog.text] == []


class TestCertificates:
    def test_a_ca_of_ones_own(self, bundle: str, tmp_path: Path, node: Node) -> None:
        authority = Authority(tmp_path / "ca")
        certificate, key = authority.issue("server")
        http_config = {"tls": {"certificate": str(certificate), "key": str(key), "clientcas": [str(authority.ca)]}}
        with Registry(tmp_path / "registry", http=http_config) as registry:
            with pytest.raises(BundleUnavailable, match="TLS certificate verification failed for") as caught:
                put(registry.host, bundle)
            assert f"{registry.host}/ca.crt" in caught.value.hint
            directory = tmp_path / "certs.d" / registry.host
            directory.mkdir(parents=True)
            shutil.copy(authority.ca, directory / "ca.crt")
            with pytest.raises(BundleUnavailable, match=r"alert (bad certificate|certificate required)"):
                put(registry.host, bundle)
            for file, name in zip(authority.issue("node"), ("client.cert", "client.key"), strict=True):
                shutil.copy(file, directory / name)
            assert same(node.fetch(put(registry.host, bundle)["source"]), bundle)
            (directory / "ca.crt").unlink()
            assert put(registry.host, bundle, **{registry.host: Declared(insecure=True)})["changed"] is False

    def test_a_certificate_of_another_host(self, bundle: str, tmp_path: Path) -> None:
        authority = Authority(tmp_path / "ca")
        certificate, key = authority.issue("server", "127.0.0.2")
        with Registry(tmp_path / "registry", {"tls": {"certificate": str(certificate), "key": str(key)}}) as registry:
            directory = tmp_path / "certs.d" / registry.host
            directory.mkdir(parents=True)
            shutil.copy(authority.ca, directory / "ca.crt")
            with pytest.raises(BundleUnavailable, match=r"TLS certificate verification failed|CertificateError"):
                put(registry.host, bundle)

    def test_http_only_where_that_is_declared(self, registry: Registry, source: str, bundle: str, node: Node) -> None:
        """0.0.0.0 also reaches this machine but is not a loopback address."""
        host = registry.host.replace("127.0.0.1", "0.0.0.0")
        before = len(registry.requests())
        with pytest.raises(BundleUnavailable, match="does not speak TLS") as caught:
            node.fetch(at(host, source))
        assert f"baseimg:registries:{host}:insecure" in caught.value.hint
        assert registry.requests()[before:] == []
        node.declared = {host: Declared(insecure=True)}
        assert same(node.fetch(at(host, source)), bundle)

    def test_a_damaged_one(self, bundle: str, tmp_path: Path) -> None:
        directory = tmp_path / "certs.d/127.0.0.1:1"
        directory.mkdir(parents=True)
        (directory / "ca.crt").write_text("none")
        with pytest.raises(BaseimgError, match=r"cannot load the certificate .*; use PEM"):
            put("127.0.0.1:1", bundle)


class TestImages:
    """Images of a registry that requires a password, for `build`, `diff` and `judge`."""

    @pytest.fixture
    def closed_images(self, closed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
        log_in(tmp_path, closed.host)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        return closed

    @staticmethod
    def copy(tmp_path: Path, source: str, place: str, *options: str) -> None:
        login = ["--dest-tls-verify=false", "--authfile", str(tmp_path / "docker/config.json")]
        subprocess.run(["skopeo", "copy", "-q", *login, *options, source, place], check=True)

    @pytest.mark.parametrize("compression", ["gzip", "zstd", "zstd:chunked"])
    def test_of_every_compression(self, closed_images: Registry, tmp_path: Path, compression: str) -> None:
        archive, bundles = tmp_path / "images.tar", set[str]()
        stacks = {f"base:{version}": [go_tar(file("etc/version", version.encode()))] for version in ("12.0", "12.1")}
        archive.write_bytes(images.archive([ImageSpec(name, layers) for name, layers in stacks.items()]))
        places = []
        for name in stacks:
            places.append(f"docker://{closed_images.host}/corp/{name}")
            self.copy(tmp_path, f"docker-archive:{archive}:{name}", places[-1], "--dest-compress-format", compression)
        for number, sides in enumerate((places, [f"docker-archive:{archive}:{name}" for name in stacks])):
            path = tmp_path / f"{number}.tar"
            assert cli.main(["build", *sides, str(path), "--reference", "corp/base:12.0"]) == 0
            bundles.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert len(bundles) == 1
        assert cli.main(["judge", str(tmp_path / "0.tar"), *places]) == 2  # the new base is not built on the old one

    def test_killed_in_the_middle_and_run_again(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The next run resumes the layer, and deletes the spool of the killed one."""
        archive, cache = tmp_path / "images.tar", tmp_path / "cache"
        base = images.layer_tar([file("bin/sh", b"sh", 0o755), file("etc/version", b"12.0")])
        app = images.layer_tar([file("app", random.Random(2).randbytes(CONTENT))])
        stacks = {"base:12.0": [base], "base:12.1": [images.layer_tar([file("etc/version", b"12.1")])]}
        specs = [ImageSpec(name, layers) for name, layers in {**stacks, "app:1": [base, app]}.items()]
        archive.write_bytes(images.archive(specs))
        bundle, saved = str(tmp_path / "b.tar"), f"docker-archive:{archive}"
        monkeypatch.setenv("TMPDIR", str(tmp_path / "spool"))
        monkeypatch.setattr(tempfile, "tempdir", None)
        (tmp_path / "spool").mkdir()
        assert cli.main(["build", f"{saved}:base:12.0", f"{saved}:base:12.1", bundle]) == 0
        self.copy(tmp_path, f"{saved}:app:1", f"docker://{registry.host}/killed/app:1")
        with Flaky(registry.host, limit=CONTENT // 4, cuts=1000) as proxy:
            judge = ["judge", "--cache", str(cache), bundle, f"docker://{proxy.host}/killed/app:1"]
            program = "import sys; from baseimg_core import cli; sys.exit(cli.main(sys.argv[1:]))"
            environment = {**os.environ, "PYTHONPATH": "_utils"}
            with subprocess.Popen([sys.executable, "-c", program, *judge], env=environment) as process:
                wait_until(lambda: any(path.stat().st_size for path in cache.glob("*.part")), "a part of the layer")
                process.kill()
            assert len(list((tmp_path / "spool").iterdir())) == 1
            proxy.cuts = 0
            sent = len(proxy.sent)
            capsys.readouterr()
            assert cli.main([*judge, "--json"]) == cli.main([*judge[:-1], f"{saved}:app:1"]) == 0
            assert sum(proxy.sent[sent:]) < CONTENT
        assert list((tmp_path / "spool").iterdir()) == []
        assert not list(cache.glob("*.part"))

    def test_without_the_password(
        self, closed_images: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log_in(tmp_path, closed_images.host, "wrong-pass")
        place = f"docker://{closed_images.host}/corp/base:1"
        assert cli.main(["diff", place, place]) == cli.ERROR
        message = capsys.readouterr().err
        assert message.startswith("baseimg: [registry-denied]")
        assert "wrong-pass" not in message

    def test_an_index_of_two_platforms(
        self, closed_images: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        layout = Layout(tmp_path / "layout")
        for architecture in ("amd64", "arm64"):
            entry = layout.manifest([go_tar(file(architecture))], architecture=architecture)
            layout.index["manifests"].append({**entry, "platform": {"os": "linux", "architecture": architecture}})
        index = layout.add("application/vnd.oci.image.index.v1+json", json.dumps(layout.index).encode())
        layout.index["manifests"] = [index]
        layout.save()
        place = f"docker://{closed_images.host}/corp/multi:1"
        self.copy(tmp_path, f"oci:{layout.root}", place, "--all")
        for architecture in ("amd64", "arm64"):
            assert cli.main(["diff", place, place, "--json", "--platform", f"linux/{architecture}"]) == 0
            assert json.loads(capsys.readouterr().out)["platform"] == f"linux/{architecture}"
        assert cli.main(["diff", place, place, "--platform", "linux/s390x"]) == cli.ERROR
        assert "only for linux/amd64, linux/arm64" in capsys.readouterr().err


def go_tar(*members: Member) -> bytes:
    """Return a layer that ends as Go's tars do. skopeo 1.9 loses longer padding when it writes zstd:chunked."""
    layer = images.layer_tar(members)
    size = len(layer.rstrip(b"\0"))
    return layer[: size + -size % 512] + bytes(1024)

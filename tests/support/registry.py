"""A private registry, Debian's ``docker-registry``, with a directory of its own; and a way in that breaks on demand."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.deadlines import POLL_SECONDS, Deadline, scaled
from tests.support.ports import free_port

START_SECONDS = 30
GZIP = b"\x1f\x8b"


class Registry:
    """A registry on loopback; ``host`` is how references name it. ``http`` and ``auth`` are of its configuration."""

    def __init__(
        self, root: Path, http: dict[str, Any] | None = None, auth: dict[str, Any] | None = None, proxy: str = ""
    ) -> None:
        self.root = root
        self.storage = root / "storage"
        self.host = f"127.0.0.1:{free_port()}"
        self.log = root / "registry.log"
        root.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "of the test", **(http or {})},
        }
        if auth:
            config["auth"] = auth
        if proxy:
            config["proxy"] = {"remoteurl": proxy}
        self._config = root / "config.yml"
        self._config.write_text(json.dumps(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"
        binary = shutil.which("docker-registry", path=path)
        assert binary, "docker-registry is not installed (Debian: docker-registry)"
        command = [binary, "serve", str(self._config)]
        if threading.current_thread() is threading.main_thread() and shutil.which("setpriv", path=path):
            command = ["setpriv", "--pdeathsig=TERM", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = Deadline(START_SECONDS)
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert not deadline.passed(), self.log.read_text()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(scaled(START_SECONDS))

    def blob(self, digest: str) -> Path:
        """The file in which it keeps a blob."""
        hexed = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / hexed[:2] / hexed / "data"

    def diff_ids(self, name: str, tag: str) -> list[str]:
        """The digests of the layers that it gives for an image, unpacked, bottom first."""
        link = self.storage / "docker/registry/v2/repositories" / name / "_manifests/tags" / tag / "current/link"
        manifest = json.loads(self.blob(link.read_text()).read_bytes())
        blobs = [self.blob(layer["digest"]).read_bytes() for layer in manifest["layers"]]
        tars = [gzip.decompress(blob) if blob.startswith(GZIP) else blob for blob in blobs]
        return ["sha256:" + hashlib.sha256(blob).hexdigest() for blob in tars]

    def requests(self) -> list[str]:
        """What it was asked for so far, as METHOD and path, oldest first."""
        lines = self.log.read_text(errors="replace").splitlines()
        requests = (line.partition('] "')[2].split(" HTTP/")[0] for line in lines if '] "' in line)
        return [line for line in requests if line]

    def _answers(self) -> bool:
        host, _, port = self.host.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return True
        return False


class Flaky:
    """
    A way to a server that breaks: each connection is cut after ``limit`` bytes towards the client, ``cuts`` times.

    ``sent`` has the bytes of each connection.
    """

    def __init__(self, target: str, limit: int = 0, cuts: int = 0) -> None:
        self.target, self.limit, self.cuts = target, limit, cuts
        self.sent: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._workers: list[threading.Thread] = []
        self._clients: list[socket.socket] = []

    def __enter__(self) -> Flaky:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for client in self._clients:  # kept alive by those who asked
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for worker in self._workers:
            worker.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.sent.append(0)
            self._clients.append(client)
            worker = threading.Thread(target=self._connection, args=(client, len(self.sent) - 1))
            worker.start()
            self._workers.append(worker)

    def _connection(self, client: socket.socket, number: int) -> None:
        host, _, port = self.target.rpartition(":")
        with client, socket.create_connection((host, int(port))) as server:
            up = threading.Thread(target=_pump, args=(client, server))
            up.start()
            with contextlib.suppress(OSError):
                while data := server.recv(1 << 14):
                    if self.cuts > 0 and self.sent[number] + len(data) > self.limit:
                        self.cuts -= 1
                        client.sendall(data[: self.limit - self.sent[number]])
                        self.sent[number] = self.limit
                        break
                    client.sendall(data)
                    self.sent[number] += len(data)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            up.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 14):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Authority:
    """A private CA, and what it signs; made with openssl."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = root / "ca.crt"
        root.mkdir(parents=True, exist_ok=True)
        subject = ["-x509", "-days", "2", "-subj", "/CN=the test's CA"]
        _openssl(root, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", *subject)

    def issue(self, name: str, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """A certificate and its key for a server at ``address``, or for a client."""
        certificate, key = self.root / f"{name}.crt", self.root / f"{name}.key"
        request, extensions = f"{name}.csr", self.root / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{address}\n")
        subject = ["-subj", f"/CN={name}"]
        _openssl(self.root, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key.name, "-out", request, *subject)
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", extensions.name]
        _openssl(self.root, "x509", "-req", "-in", request, "-out", certificate.name, *signed)
        return certificate, key


def _openssl(root: Path, *arguments: str) -> None:
    process = subprocess.run(["openssl", *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@contextlib.contextmanager
def served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server on loopback with this handler; gives its host."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

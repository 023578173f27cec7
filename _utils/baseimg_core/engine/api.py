"""
What is read of an engine through Docker's API, over one connection.

Docker's own SDK opens a connection for every address, and works longer on each answer than the engine does. An
operation asks about every image, so the SDK is only used for what changes something, and for engines elsewhere than at
a Unix socket.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from .. import sdk
from ..errors import EngineUnreachable

TIMEOUT = 60  # seconds for one answer of the engine
_UNIX = "unix://"


class Refused(EngineUnreachable):
    """The engine does not answer that; the message is its own."""


class Missing(Refused):
    """The engine has no such thing (any more)."""


class Api:
    """
    The engine at ``url``; raises :class:`EngineUnreachable` where it does not answer. Several threads may ask.

    ``podman`` says whether it is Podman, and ``version`` is the newest version of the API that it knows.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._source: _Socket | _Sdk
        with reachable(url):
            self._source = _Socket(url) if url.startswith(_UNIX) else _Sdk(url)
            # not its version: asked for that, Podman runs several programs, and dockerd some
            status, headers, _body = self._source.ask("/_ping")
        if status != http.client.OK or "Api-Version" not in headers:
            raise EngineUnreachable(f"what listens at {url} is no engine: status {status} for a ping")
        self.podman = "Libpod-Api-Version" in headers
        self.version = str(headers["Api-Version"])

    @cached_property
    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself; it takes longer than anything else here."""
        found: Mapping[str, Any] = self.get("info")
        return found

    def get(self, *path: str, all: bool = False) -> Any:
        """
        What is at a path (given as its parts); ``all`` asks for what a list leaves out otherwise.

        Raises :class:`Missing`, :class:`Refused`, which are :class:`EngineUnreachable` where nobody expects them.
        """
        parts = [quote(part, safe="/:") for part in path]
        query = "?all=1" if all else ""
        with reachable(self.url):
            status, _headers, body = self._source.ask(f"/v{self.version}/{'/'.join(parts)}{query}")
            if status == http.client.OK:
                return json.loads(body)
        reason = _message(body) or f"status {status} for {'/'.join(path)}"
        raise (Missing if status == http.client.NOT_FOUND else Refused)(reason)


class _Socket:
    """An engine at a Unix socket."""

    def __init__(self, url: str) -> None:
        self._connection = _Connection("/" + url.removeprefix(_UNIX).lstrip("/"))
        self._lock = threading.Lock()
        weakref.finalize(self, self._connection.close)

    def ask(self, path: str) -> tuple[int, Any, bytes]:
        """The status, the headers and the body of an answer."""
        with self._lock:
            try:
                return self._answer(path)
            except ConnectionError:  # the engine has been restarted since the last answer
                return self._answer(path)

    def _answer(self, path: str) -> tuple[int, Any, bytes]:
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except BaseException:
            self._connection.close()  # the next request opens it anew
            raise


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class _Sdk:
    """An engine anywhere else, with whatever the SDK knows of certificates and tunnels."""

    def __init__(self, url: str) -> None:
        docker = sdk.docker()
        version = docker.constants.MINIMUM_DOCKER_API_VERSION
        self._client = docker.APIClient(base_url=url, version=version, timeout=TIMEOUT)
        weakref.finalize(self, self._client.close)

    def ask(self, path: str) -> tuple[int, Any, bytes]:
        answer = self._client.get(f"{self._client.base_url}{path}")
        return answer.status_code, answer.headers, answer.content


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn every failure to get an answer into :class:`EngineUnreachable`."""
    try:
        yield
    # those of requests, which the SDK uses, are OSErrors
    except (OSError, http.client.HTTPException, json.JSONDecodeError, sdk.docker().errors.DockerException) as exc:
        raise EngineUnreachable(f"no answer from the engine at {url}: {exc}") from exc


def _message(body: bytes) -> str:
    """The reason in an answer that says no."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["message"])
    return body.decode(errors="replace").strip()

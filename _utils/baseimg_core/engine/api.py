"""
Read-only Docker Engine API client with a small pool of keep-alive connections.

Docker's SDK opens one connection for each URL path, and parses a response more slowly than the engine produces it.
An operation inspects every image, so this client pipelines requests over a few connections. The SDK handles requests
that change state, and engines without a Unix socket.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import quote

from .. import docker_sdk
from ..errors import EngineUnreachable

TIMEOUT = 60  # seconds for one response of the engine
_UNIX = "unix://"
_CONCURRENCY = 4  # requests in flight, one connection each
_Response = tuple[int, http.client.HTTPMessage, bytes]


class RequestRefused(EngineUnreachable):
    """The engine rejected the request. The message is the engine's own."""


class ObjectNotFound(RequestRefused):
    """The engine has no such object."""


class Api:
    """
    A read-only client of the engine at ``url``. Safe for concurrent threads.

    Raises:
        EngineUnreachable: No engine answers at ``url``.
    """

    #: True if the engine is Podman.
    podman: bool
    #: The newest API version that the engine supports.
    version: str

    def __init__(self, url: str) -> None:
        self.url = url
        self._transport: _SocketTransport | _SdkTransport
        with reachable(url):
            self._transport = _SocketTransport(url) if url.startswith(_UNIX) else _SdkTransport(url)
            # /_ping and not /version: Podman and dockerd run programs to answer /version
            ((status, headers, _body),) = self._transport.fetch(["/_ping"])
        if status != http.client.OK or "Api-Version" not in headers:
            raise EngineUnreachable(f"no container engine listens at {url}: GET /_ping returned status {status}")
        self.version, self._libpod = str(headers["Api-Version"]), str(headers.get("Libpod-Api-Version") or "")
        self.podman = bool(self._libpod)

    @property
    def info(self) -> Mapping[str, Any]:
        """
        Return the engine's response to ``GET /info``; for Podman to ``GET /libpod/info``.

        Podman's response to ``/info`` lacks fields that decide whether Podman is supported: version 4.3 does not report
        there that it is rootless.
        """
        return self._overview[0]

    @property
    def image_ids(self) -> list[str]:
        """The IDs of all images, including intermediate images. Read once."""
        return self._overview[1]

    @cached_property
    def _overview(self) -> tuple[Mapping[str, Any], list[str]]:
        """Fetch the information and the image list concurrently, because both are slow."""
        with reachable(self.url):
            own = f"/v{self._libpod}/libpod/info" if self.podman else self._address("info")
            paths = [own, self._address("images", "json", all=True)]
            info, images = map(_parse_response, paths, self._transport.fetch(paths))
        return info, list(dict.fromkeys(image["Id"] for image in images))

    def get(self, *path: str, all: bool = False) -> Any:
        """
        Return the parsed response of ``GET /path[0]/path[1]…``.

        Args:
            path: The parts of the path.
            all: True to include the objects that a list omits by default.

        Raises:
            NotFound: The engine has no such object.
            RequestRefused: The engine rejected the request.
        """
        address = self._address(*path, all=all)
        with reachable(self.url):
            (response,) = self._transport.fetch([address])
            return _parse_response(address, response)

    def inspect(self, kind: str, names: Iterable[str]) -> Iterator[Any]:
        """Inspect these ``images`` or ``containers``. Skip objects that were removed meanwhile."""
        paths = [self._address(kind, name, "json") for name in names]
        with reachable(self.url):
            for path, response in zip(paths, self._transport.fetch(paths), strict=True):
                with contextlib.suppress(ObjectNotFound):
                    yield _parse_response(path, response)

    def _address(self, *path: str, all: bool = False) -> str:
        return "/".join([f"/v{self.version}", *(quote(part, safe="/:") for part in path)]) + ("?all=1" if all else "")


class _SocketTransport:
    """A transport over a Unix socket. Connections are reused; each serves one caller at a time."""

    def __init__(self, url: str) -> None:
        self._path = "/" + url.removeprefix(_UNIX).lstrip("/")
        self._free: list[_Connection] = []
        weakref.finalize(self, _close, self._free)

    def fetch(self, paths: Iterable[str]) -> Iterator[_Response]:
        """Yield the responses to ``GET`` of these paths, in order, with several requests in flight."""
        in_flight: deque[_Connection] = deque()
        try:
            for path in paths:
                if len(in_flight) == _CONCURRENCY:
                    yield self._next_response(in_flight)
                in_flight.append(self._connection())
                in_flight[-1].send_get(path)
            while in_flight:
                yield self._next_response(in_flight)
        finally:
            _close(in_flight)

    def _connection(self) -> _Connection:
        try:
            return self._free.pop()
        except IndexError:  # other threads pop connections too, so a check before would race
            return _Connection(self._path)

    def _next_response(self, in_flight: deque[_Connection]) -> _Response:
        response = in_flight[0].receive()
        self._free.append(in_flight.popleft())
        return response


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._path, self._pending = path, ""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)

    def send_get(self, path: str) -> None:
        """Send ``GET path`` without waiting for the response."""
        self._pending = path
        try:
            self.request("GET", path)
        except ConnectionError:  # the engine restarted since the last response
            self._resend()

    def receive(self) -> _Response:
        """Return status, headers and body of the response to the pending request."""
        try:
            response = self.getresponse()
        except ConnectionError:  # the request may have been lost
            self._resend()
            response = self.getresponse()
        return response.status, response.headers, response.read()

    def _resend(self) -> None:
        self.close()  # request() reconnects
        self.request("GET", self._pending)


def _close(connections: Iterable[_Connection]) -> None:
    for connection in connections:
        connection.close()


class _SdkTransport:
    """A transport for any other URL. The SDK handles TLS certificates and tunnels."""

    def __init__(self, url: str) -> None:
        docker = docker_sdk.package()
        version = docker.constants.MINIMUM_DOCKER_API_VERSION
        self._client = docker.APIClient(base_url=url, version=version, timeout=TIMEOUT, tls=tls(url))
        weakref.finalize(self, self._client.close)

    def fetch(self, paths: Iterable[str]) -> Iterator[_Response]:
        """Yield the responses to ``GET`` of these paths, one request after the other."""
        for path in paths:
            response = self._client.get(f"{self._client.base_url}{path}")
            yield response.status_code, response.headers, response.content


def tls(url: str) -> Any:
    """Return the TLS configuration in the variables of the ``docker`` command; False for a socket."""
    return docker_sdk.package().utils.kwargs_from_env().get("tls", False) if url.startswith("tcp://") else False


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """
    Convert the failures of requests to the engine at a URL.

    Raises:
        EngineUnreachable: A request failed.
    """
    try:
        yield
    # exceptions of requests, which the SDK uses, are OSErrors
    except Exception as exc:
        failures = (OSError, http.client.HTTPException, json.JSONDecodeError, *docker_sdk.failures())
        if not isinstance(exc, failures):
            raise
        raise EngineUnreachable(f"no answer from the engine at {url}: {exc}") from exc


def _parse_response(path: str, response: _Response) -> Any:
    """Return the parsed body of a successful response; raise :class:`ObjectNotFound` or :class:`RequestRefused`."""
    status, _headers, body = response
    if status == http.client.OK:
        return json.loads(body)
    reason = _message(body) or f"status {status} for {path}"
    raise (ObjectNotFound if status == http.client.NOT_FOUND else RequestRefused)(reason)


def _message(body: bytes) -> str:
    """Return the reason in an error response."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["message"])
    return body.decode(errors="replace").strip()

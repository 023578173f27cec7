"""
What is read of an engine through Docker's API, over a few connections.

Docker's own SDK opens a connection for every address, and works longer on each answer than the engine does. An
operation asks about every image, so the engine is given several questions at a time here. The SDK is only used for what
changes something, and for engines elsewhere than at a Unix socket.
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

from .. import sdk
from ..errors import EngineUnreachable

TIMEOUT = 60  # seconds for one answer of the engine
_UNIX = "unix://"
_AT_ONCE = 4  # questions, each over a connection of its own
_Answer = tuple[int, http.client.HTTPMessage, bytes]


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
            ((status, headers, _body),) = self._source.ask(["/_ping"])
        if status != http.client.OK or "Api-Version" not in headers:
            raise EngineUnreachable(f"what listens at {url} is no engine: status {status} for a ping")
        self.podman = "Libpod-Api-Version" in headers
        self.version = str(headers["Api-Version"])

    @property
    def info(self) -> Mapping[str, Any]:
        """What the engine says of itself."""
        return self._overview[0]

    @property
    def image_ids(self) -> list[str]:
        """The IDs of all images, those included that only others are made of, as they are when first asked for."""
        return self._overview[1]

    @cached_property
    def _overview(self) -> tuple[Mapping[str, Any], list[str]]:
        """The two answers that take an engine longest (it runs programs for one), so it works on them at once."""
        with reachable(self.url):
            paths = [self._address("info"), self._address("images", "json", all=True)]
            info, images = map(_understood, paths, self._source.ask(paths))
        return info, list(dict.fromkeys(image["Id"] for image in images))

    def get(self, *path: str, all: bool = False) -> Any:
        """
        What is at a path (given as its parts); ``all`` asks for what a list leaves out otherwise.

        Raises :class:`Missing`, :class:`Refused`, which are :class:`EngineUnreachable` where nobody expects them.
        """
        address = self._address(*path, all=all)
        with reachable(self.url):
            (answer,) = self._source.ask([address])
            return _understood(address, answer)

    def inspect(self, kind: str, names: Iterable[str]) -> Iterator[Any]:
        """What the engine says of each of these ``images`` or ``containers``, but for those that are gone meanwhile."""
        paths = [self._address(kind, name, "json") for name in names]
        with reachable(self.url):
            for path, answer in zip(paths, self._source.ask(paths), strict=True):
                with contextlib.suppress(Missing):
                    yield _understood(path, answer)

    def _address(self, *path: str, all: bool = False) -> str:
        return "/".join([f"/v{self.version}", *(quote(part, safe="/:") for part in path)]) + ("?all=1" if all else "")


class _Socket:
    """An engine at a Unix socket. Connections are used again; who asks has those in use to himself."""

    def __init__(self, url: str) -> None:
        self._path = "/" + url.removeprefix(_UNIX).lstrip("/")
        self._free: list[_Connection] = []
        weakref.finalize(self, _close, self._free)

    def ask(self, paths: Iterable[str]) -> Iterator[_Answer]:
        """The answers to these questions, in their order: the engine works on the next ones meanwhile."""
        waiting: deque[_Connection] = deque()
        try:
            for path in paths:
                if len(waiting) == _AT_ONCE:
                    yield self._answered(waiting)
                waiting.append(self._connection())
                waiting[-1].ask(path)
            while waiting:
                yield self._answered(waiting)
        finally:
            _close(waiting)

    def _connection(self) -> _Connection:
        try:
            return self._free.pop()
        except IndexError:  # and not a look before, since other threads take them, too
            return _Connection(self._path)

    def _answered(self, waiting: deque[_Connection]) -> _Answer:
        answer = waiting[0].answer()
        self._free.append(waiting.popleft())
        return answer


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=TIMEOUT)
        self._path, self._asked = path, ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)

    def ask(self, path: str) -> None:
        """Ask for what is at a path, without waiting for it."""
        self._asked = path
        try:
            self.request("GET", path)
        except ConnectionError:  # the engine has been restarted since the last answer
            self._ask_again()

    def answer(self) -> _Answer:
        """The status, the headers and the body of the answer to what was asked."""
        try:
            answer = self.getresponse()
        except ConnectionError:  # as above: what was sent may have gone nowhere
            self._ask_again()
            answer = self.getresponse()
        return answer.status, answer.headers, answer.read()

    def _ask_again(self) -> None:
        self.close()  # so it is opened anew
        self.request("GET", self._asked)


def _close(connections: Iterable[_Connection]) -> None:
    for connection in connections:
        connection.close()


class _Sdk:
    """An engine anywhere else, with whatever the SDK knows of certificates and tunnels."""

    def __init__(self, url: str) -> None:
        docker = sdk.docker()
        version = docker.constants.MINIMUM_DOCKER_API_VERSION
        self._client = docker.APIClient(base_url=url, version=version, timeout=TIMEOUT)
        weakref.finalize(self, self._client.close)

    def ask(self, paths: Iterable[str]) -> Iterator[_Answer]:
        """As that of a socket, one after the other."""
        for path in paths:
            answer = self._client.get(f"{self._client.base_url}{path}")
            yield answer.status_code, answer.headers, answer.content


@contextlib.contextmanager
def reachable(url: str) -> Iterator[None]:
    """Turn every failure to get an answer into :class:`EngineUnreachable`."""
    try:
        yield
    # those of requests, which the SDK uses, are OSErrors
    except (OSError, http.client.HTTPException, json.JSONDecodeError, sdk.docker().errors.DockerException) as exc:
        raise EngineUnreachable(f"no answer from the engine at {url}: {exc}") from exc


def _understood(path: str, answer: _Answer) -> Any:
    """What the engine says at a path; raises :class:`Missing`, :class:`Refused`."""
    status, _headers, body = answer
    if status == http.client.OK:
        return json.loads(body)
    reason = _message(body) or f"status {status} for {path}"
    raise (Missing if status == http.client.NOT_FOUND else Refused)(reason)


def _message(body: bytes) -> str:
    """The reason in an answer that says no."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["message"])
    return body.decode(errors="replace").strip()

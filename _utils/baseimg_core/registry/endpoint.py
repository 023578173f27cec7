"""
One registry, or one mirror of it: a connection that knows who we are, and says in our words what went wrong.

Own code over ``urllib3``, which the Docker SDK brings: no client library resumes downloads
(docs/design/adr/0010-registry-client.md).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.response import BaseHTTPResponse

from ..errors import BundleUnavailable, RegistryDenied
from ..model.policy import reference
from . import auth, tls

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_MAX_WAIT = 60  # seconds; nobody may let us wait longer than that
_MAX_ANSWER = 1 << 20
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
# what OpenSSL calls an answer that is not TLS, in its several versions
_NO_TLS = {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
# connections are made anew by us, later; only redirects are followed at once
_RETRY = urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5, raise_on_status=False)


class Absent(Exception):
    """The registry does not have it."""


class Transient(Exception):
    """Something that may be over in a moment; ``wait`` is how many seconds the registry asks for."""

    def __init__(self, message: str, wait: float = 0) -> None:
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """
    A registry at ``host``.

    It is spoken to over TLS. An ``insecure`` one is not checked; that one, and one on this machine, may also be
    without TLS. ``url`` is how a mirror is declared, with its scheme.
    """

    def __init__(self, host: str, insecure: bool = False, url: str = "") -> None:
        self.host = host
        self._plain = insecure or reference.is_loopback(host) or url.startswith("http://")
        self._url = url.rstrip("/")
        self._who: auth.Credentials | None = None
        self._authorization: dict[str, str] = {}
        self._pool = urllib3.PoolManager(
            retries=_RETRY,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            ssl_context=tls.context(host, insecure),
        )

    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Any = None,
        ok: tuple[int, ...] = (200,),
    ) -> BaseHTTPResponse:
        """
        Ask for a path, or for a URL that the registry gave us. The body of what comes back is still to be read.

        Raises :class:`Absent`, :class:`Transient`, :class:`RegistryDenied`, :class:`BundleUnavailable`.
        """
        url = path if "://" in path else self._base() + path
        response = self._send(method, url, headers or {}, body)
        if response.status == 401 and hasattr(body, "read"):  # a stream cannot be sent twice
            response.close()
            self._authorization = {}
            raise Transient(f"{self.host} does not know us any more")
        if response.status == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            self._authorization = {}
            if self._who is None:
                self._who = auth.credentials(self.host)
            found = auth.answer(challenge, self._who, self._plain, self.host, self._ask)
            self._authorization = {"Authorization": found}
            response = self._send(method, url, headers or {}, body)
        if response.status not in ok:
            with contextlib.closing(response):
                raise self._refused(response)
        return response

    def url(self, path: str) -> str:
        """The URL of a path here."""
        return self._base() + path

    def read(self, response: BaseHTTPResponse, limit: int) -> bytes:
        """A body of ``limit`` bytes at most, else :class:`BundleUnavailable`."""
        with contextlib.closing(response), self._errors():
            data = response.read(limit + 1, decode_content=False)
        if len(data) > limit:
            raise BundleUnavailable(f"{self.host} answers with more than {limit} bytes")
        return bytes(data)

    def stream(self, response: BaseHTTPResponse, chunk: int) -> Iterator[bytes]:
        """A body piece by piece, as it was sent."""
        with contextlib.closing(response), self._errors():
            yield from response.stream(chunk, decode_content=False)

    def _base(self) -> str:
        """The registry's URL; which scheme is tried out where both are allowed."""
        if not self._url:
            name = _HOSTS.get(self.host, self.host)
            plain = self._plain and not self._speaks_tls(f"https://{name}/v2/")
            self._url = f"http{'' if plain else 's'}://{name}"
        return self._url

    def _speaks_tls(self, url: str) -> bool:
        with self._errors(), _quiet():
            try:
                self._pool.request("GET", url, preload_content=False).close()
            except MaxRetryError as exc:
                # a certificate that is not believed, or is asked of us, is no reason to do without TLS
                if _no_tls(_root(exc, OSError)):
                    return False
                raise
        return True

    def _send(self, method: str, url: str, headers: dict[str, str], body: Any) -> BaseHTTPResponse:
        given = {"Accept-Encoding": "identity", "User-Agent": "baseimg", **headers}
        if url.startswith(self._base() + "/"):  # who else is named by the registry need not know
            given.update(self._authorization)
        with self._errors(), _quiet():
            return self._pool.request(
                method, url, headers=given, body=body, preload_content=False, redirect=not hasattr(body, "read")
            )

    def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        """The token server's answer."""
        with self._errors(), _quiet():
            response = self._pool.request(
                method, url, headers=headers, body=body, preload_content=False, redirect=False
            )
        if response.status != 200:
            with contextlib.closing(response):
                raise self._refused(response, f"the token server {host_of(url)} for ")
        return self.read(response, _MAX_ANSWER)

    def _refused(self, response: BaseHTTPResponse, who: str = "") -> Exception:
        status = f"{who}{self.host} answers {response.status}{self._reason(response)}"
        if response.status in (401, 403):
            return RegistryDenied(f"{status}, {(self._who or auth.credentials(self.host)).shown}")
        if response.status == 404:
            return Absent(status)
        if response.status in _AGAIN:
            asked = response.headers.get("Retry-After", "")
            return Transient(status, min(int(asked), _MAX_WAIT) if asked.isdigit() else 0)
        return BundleUnavailable(status)

    @staticmethod
    def _reason(response: BaseHTTPResponse) -> str:
        """The codes of the distribution spec's error document, and nothing else of what was sent."""
        try:
            codes = [one["code"] for one in json.loads(response.read(_MAX_ANSWER))["errors"]]
        except (ValueError, LookupError, TypeError, HTTPError, OSError):
            return ""
        return "".join(f" {code}" for code in codes if re.fullmatch("[A-Z_]{1,40}", str(code)))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the network does, without URLs: those that a registry redirects to are secrets for a while."""
        try:
            yield
        except HTTPError as exc:
            cause = _root(exc, OSError)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise BundleUnavailable(
                    f"the certificate of {self.host} is not believed: {cause.verify_message}",
                    f"put the CA into {tls.CERTS[0]}/{self.host}/ca.crt (docs/operating/registry.md)",
                ) from None
            if _no_tls(cause):
                raise BundleUnavailable(
                    f"{self.host} does not speak TLS",
                    f"if it shall be used all the same, declare it: baseimg:registries:{self.host}:insecure",
                ) from None
            text = getattr(cause, "strerror", None) or type(_last(exc)).__name__
            raise Transient(f"{self.host}: {text}") from None


def host_of(url: str) -> str:
    """The host of a mirror's URL, with its port."""
    return urlsplit(url).netloc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        inner = getattr(exc, "reason", None) or next((one for one in exc.args if isinstance(one, Exception)), None)
        exc = inner if isinstance(inner, BaseException) else exc.__cause__ or exc.__context__


def _root(exc: BaseException, kind: type[BaseException]) -> BaseException | None:
    return next((one for one in _chain(exc) if isinstance(one, kind)), None)


def _no_tls(cause: BaseException | None) -> bool:
    return isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS


def _last(exc: BaseException) -> BaseException:
    return list(_chain(exc))[-1]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """urllib3 logs every URL with its query at level DEBUG, and redirects to a store are signed in the query."""
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "poolmanager", "util.retry")]
    for logger in loggers:
        logger.addFilter(_no_urls)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_no_urls)


def _no_urls(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG and "?" not in record.getMessage()

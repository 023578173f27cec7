"""
HTTP client for one registry or mirror: authentication, and network errors as typed errors.

It uses ``urllib3``, which the Docker SDK requires, because no registry client library resumes downloads
(docs/design/adr/0010-registry-client.md).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util.ssl_ import is_ipaddress

from ..errors import BundleUnavailable, RegistryDenied
from ..model.policy import reference
from . import auth, tls

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse  # urllib3 1.26 has HTTPResponse only

_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_MAX_WAIT = 60  # seconds; longer Retry-After values are cut
_MAX_ANSWER = 1 << 20
_MIN_RATE = 4096  # bytes per second; slower transfers are aborted
_RATE_SECONDS = 30  # interval over which the rate is measured
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
# error names of several OpenSSL versions for a server that does not speak TLS
_NO_TLS = {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
# only redirects: Repository retries failed requests
_RETRY = urllib3.Retry(total=5, connect=0, read=0, status=0, other=0, redirect=5, raise_on_status=False)


class ContentNotFound(Exception):
    """The registry does not have the manifest or the blob."""


class Transient(Exception):
    """A temporary failure; ``wait`` is the registry's ``Retry-After`` in seconds."""

    def __init__(self, message: str, wait: float = 0) -> None:
        super().__init__(message)
        self.wait = wait


class Endpoint:
    """
    Connections to a registry or mirror.

    Connections use TLS. Plain HTTP is allowed for insecure registries, for loopback, and for ``http://`` mirrors.
    """

    def __init__(self, host: str, insecure: bool = False, url: str = "") -> None:
        """
        Args:
            host: The host, with its port.
            insecure: True to skip certificate verification and allow plain HTTP.
            url: The declared URL of a mirror, with its scheme; empty for the registry itself.
        """
        self.host = host
        self._plain = insecure or reference.is_loopback(host) or url.startswith("http://")
        self._url = url.rstrip("/")
        self._credentials: auth.Credentials | None = None
        self._authorization: dict[str, str] = {}
        self._pool = urllib3.PoolManager(
            retries=_RETRY,
            timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS),
            ssl_context=_tls_context(host, insecure),
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
        Send a request; authenticate if required. The caller reads and closes the response.

        Args:
            method: The HTTP method.
            path: A path, or a URL that the registry returned.
            headers: Additional headers.
            body: Bytes or a stream.
            ok: The status codes that mean success.

        Returns:
            The response, its body unread.

        Raises:
            NotFound: The registry does not have the object.
            Transient: A retry may succeed.
            RegistryDenied: The registry rejected the credentials or the request.
            BundleUnavailable: Any other failure.
        """
        url = path if "://" in path else self._base() + path
        response = self._send(method, url, headers or {}, body)
        if response.status == 401 and hasattr(body, "read"):  # a stream can be sent only once
            response.close()
            self._authorization = {}
            raise Transient(f"{self.host} no longer accepts the token")
        if response.status == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            self._authorization = {}
            if self._credentials is None:
                self._credentials = auth.credentials(self.host)
            header = auth.authorization(challenge, self._credentials, self._plain, self.host, self._request_token)
            self._authorization = {"Authorization": header}
            response = self._send(method, url, headers or {}, body)
        if response.status not in ok:
            with contextlib.closing(response):
                raise self._error_of(response)
        return response

    def url(self, path: str) -> str:
        """Return the absolute URL of a path."""
        return self._base() + path

    def read(self, response: BaseHTTPResponse, limit: int) -> bytes:
        """
        Read a body of at most ``limit`` bytes.

        Raises:
            BundleUnavailable: The body is longer.
        """
        data = bytearray()
        for piece in self.stream(response, limit + 1):
            data += piece
            if len(data) > limit:
                raise BundleUnavailable(f"{self.host} answers with more than {limit} bytes")
        return bytes(data)

    def stream(self, response: BaseHTTPResponse, chunk: int) -> Iterator[bytes]:
        """
        Yield a body in chunks of at most ``chunk`` bytes.

        Raises:
            BundleUnavailable: The server is too slow, or the transfer broke.
        """
        start, received = time.monotonic(), 0
        with contextlib.closing(response):
            while piece := self._receive(response, chunk):
                yield piece
                received += len(piece)
                seconds = time.monotonic() - start
                if seconds < _RATE_SECONDS:
                    continue
                if received < _MIN_RATE * seconds:
                    raise BundleUnavailable(
                        f"{self.host} sent {received} bytes in {seconds:.0f} s, less than {_MIN_RATE} bytes per second",
                        "check the connection to the registry; the next run resumes the download",
                    )
                start, received = time.monotonic(), 0

    def _receive(self, response: BaseHTTPResponse, count: int) -> bytes:
        """Return available bytes, at most ``count``. Waiting for all of them would hide a slow server."""
        with self._translated_errors():
            if hasattr(response, "read1"):
                return response.read1(count, decode_content=False)
            return bytes(response._fp.read1(count))  # type: ignore[attr-defined]  # urllib3 1.26

    def close(self) -> None:
        """Close all connections."""
        for key in self._pool.pools.keys():  # noqa: SIM118, not a dict
            if pool := self._pool.pools.get(key):
                pool.close()
        self._pool.clear()

    def _base(self) -> str:
        """Return the registry's base URL. If plain HTTP is allowed, TLS is tried first."""
        if not self._url:
            name = _HOSTS.get(self.host, self.host)
            plain = self._plain and not self._speaks_tls(f"https://{name}/v2/")
            self._url = f"http{'' if plain else 's'}://{name}"
        return self._url

    def _speaks_tls(self, url: str) -> bool:
        with self._translated_errors(), _without_urls_in_logs():
            try:
                self._pool.request("GET", url, preload_content=False).close()
            except MaxRetryError as exc:
                # certificate errors must not cause a fallback to plain HTTP
                if _no_tls(_root(exc, OSError)):
                    return False
                raise
        return True

    def _send(self, method: str, url: str, headers: dict[str, str], body: Any) -> BaseHTTPResponse:
        given = {"Accept-Encoding": "identity", "User-Agent": "baseimg", **headers}
        if url.startswith(self._base() + "/"):  # never send credentials to redirect targets
            given.update(self._authorization)
        with self._translated_errors(), _without_urls_in_logs():
            return self._pool.request(
                method, url, headers=given, body=body, preload_content=False, redirect=not hasattr(body, "read")
            )

    def _request_token(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> bytes:
        """Send a request to the token server and return the response body."""
        with self._translated_errors(), _without_urls_in_logs():
            response = self._pool.request(
                method, url, headers=headers, body=body, preload_content=False, redirect=False
            )
        if response.status != 200:
            with contextlib.closing(response):
                raise self._error_of(response, f"the token server {host_of(url)} for ")
        return self.read(response, _MAX_ANSWER)

    def _error_of(self, response: BaseHTTPResponse, who: str = "") -> Exception:
        status = f"{who}{self.host} answers {response.status}{self._reason(response)}"
        if response.status in (401, 403):
            return RegistryDenied(f"{status}, {(self._credentials or auth.credentials(self.host)).account}")
        if response.status == 404:
            return ContentNotFound(status)
        if response.status in _AGAIN:
            retry_after = response.headers.get("Retry-After", "")
            return Transient(status, min(int(retry_after), _MAX_WAIT) if retry_after.isdigit() else 0)
        return BundleUnavailable(status)

    @staticmethod
    def _reason(response: BaseHTTPResponse) -> str:
        """Return the error codes of a response (OCI distribution spec); other text is untrusted."""
        try:
            codes = [error["code"] for error in json.loads(response.read(_MAX_ANSWER))["errors"]]
        except (ValueError, LookupError, TypeError, HTTPError, OSError):
            return ""
        return "".join(f" {code}" for code in codes if re.fullmatch("[A-Z_]{1,40}", str(code)))

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raise network errors as typed errors without URLs, because signed redirect URLs are secrets."""
        try:
            yield
        except (HTTPError, http.client.HTTPException, OSError) as exc:
            cause = _root(exc, OSError)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise BundleUnavailable(
                    f"TLS certificate verification failed for {self.host}: {cause.verify_message}",
                    f"put the CA into {tls.CERTS[0]}/{self.host}/ca.crt (docs/operating/registry.md)",
                ) from None
            if _no_tls(cause):
                raise BundleUnavailable(
                    f"{self.host} does not speak TLS",
                    f"to allow plain HTTP, set baseimg:registries:{self.host}:insecure: true",
                ) from None
            text = getattr(cause, "strerror", None) or type(_last(exc)).__name__
            raise Transient(f"{self.host}: {text}") from None


def _tls_context(host: str, insecure: bool) -> ssl.SSLContext:
    context = tls.tls_context(host, insecure)
    version = urllib3.__version__  # type: ignore[attr-defined]
    if version.startswith("1.") and is_ipaddress(urlsplit(f"//{host}").hostname or ""):
        # urllib3 1.26 does not pass an IP address to ssl; it verifies the address itself if ssl does not
        context.check_hostname = False
    return context


def host_of(url: str) -> str:
    """Return the host of a URL, with its port."""
    return urlsplit(url).netloc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        inner = getattr(exc, "reason", None) or next((arg for arg in exc.args if isinstance(arg, Exception)), None)
        exc = inner if isinstance(inner, BaseException) else exc.__cause__ or exc.__context__


def _root(exc: BaseException, kind: type[BaseException]) -> BaseException | None:
    return next((error for error in _chain(exc) if isinstance(error, kind)), None)


def _no_tls(cause: BaseException | None) -> bool:
    return isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS


def _last(exc: BaseException) -> BaseException:
    return list(_chain(exc))[-1]


@contextlib.contextmanager
def _without_urls_in_logs() -> Iterator[None]:
    """Keep URLs with a query out of urllib3's logs, because the query of a redirect is a secret."""
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

"""
One HTTP request of a health check.

The gates run on nodes and on the master, so they use only Python's own ``http.client``: without it, a node or a master
would need a package for a single request (docs/design/adr/0030-two-http-stacks.md).
"""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

_REDIRECTS = 10  # the most that are followed
_MOVED = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16


class Unanswered(Exception):
    """The request has no complete response. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a request."""

    #: The status code.
    status: int
    #: The first bytes of the body.
    body: bytes


def get(url: str, seconds: float, limit: int = 0) -> Response:
    """
    Request a URL without a proxy; follow redirects.

    Args:
        url: The URL, with http or https.
        seconds: The most time for the request, its redirects included.
        limit: The most bytes to read of the body.

    Returns:
        The last response.

    Raises:
        Unanswered: No server answers, the response is not HTTP, or the time is over.
    """
    deadline = time.monotonic() + seconds
    try:
        for _ in range(_REDIRECTS + 1):
            response, target = _get_once(url, deadline, limit)
            if not target:
                return response
            url = urljoin(url, target)
    # HTTPException has no message for some errors; ValueError: the URL is invalid
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise Unanswered(_reason(exc)) from exc
    raise Unanswered(f"more than {_REDIRECTS} redirects")


def _get_once(url: str, deadline: float, limit: int) -> tuple[Response, str]:
    """Return the response, and the target if it is a redirect."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not a URL with http or https: {url}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_left(deadline))
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "baseimg", "Connection": "close"})
        connection.sock.settimeout(_left(deadline))
        answer = connection.getresponse()
        if target := answer.status in _MOVED and answer.getheader("Location"):
            return Response(answer.status, b""), target
        body = b""
        while len(body) < limit and (data := answer.read1(min(_CHUNK, limit - len(body)))):
            body += data
            _left(deadline)
        return Response(answer.status, body), ""
    finally:
        connection.close()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"TLS certificate verification failed: {exc.verify_message}"
    return str(exc) or type(exc).__name__

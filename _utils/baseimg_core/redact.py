"""
Removes secrets from messages and logs: passwords and signed queries of URLs.

:class:`errors.BaseimgError` uses this module, so no error of the core contains a secret.
"""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

#: The replacement of a secret.
HIDDEN = "***"
# user, or user:password; the digest in registry:5000/name@sha256:… does not end a password
_USERINFO = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/@:'\"]*:[^\s@'\"]*|[^\s/@:'\"]+)@(?!sha256:)")
# the query of a salt:// URL is an environment, not a secret
_QUERY = re.compile(r"\b((?!salt://)[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"]*")
_PARAMETER = re.compile(
    r"\b((?:x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|signature|sig|password|passwd|secret|api_?key|(?:\w+_)?token)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_SHORTEST = 4  # characters; a shorter secret also occurs inside other words, so it is not replaced on its own


def redact(text: str) -> str:
    """Return ``text`` with the passwords and the queries of its URLs hidden."""
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1?{HIDDEN}", text)
    return _PARAMETER.sub(rf"\1{HIDDEN}", text)


def redact_url(text: str, url: str) -> str:
    """Return a message of another program about ``url``, with all secrets of that URL hidden."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return redact(text)


class _LogFilter(logging.Filter):
    """Hides the secrets of one URL in every record of a handler."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message and traceback by redacted texts; keep the record."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # its arguments do not fit its format
            text = str(record.msg)
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.msg, record.args = redact_url(text, self._url), ()
        record.exc_info = record.exc_text = None
        if hasattr(record, "exc_info_on_loglevel_instance"):  # Salt's own attribute with a traceback
            record.exc_info_on_loglevel_instance = None
        return True


@contextlib.contextmanager
def redacted_logs(url: str) -> Iterator[None]:
    """Hide the secrets of ``url`` in what other programs log while the block runs, Salt's file client for example."""
    handlers, log_filter = list(logging.root.handlers), _LogFilter(url)
    for handler in handlers:
        handler.addFilter(log_filter)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(log_filter)


def _secrets(url: str) -> set[str]:
    if url.startswith("salt://"):
        return set()
    _scheme, separator, rest = url.partition("://")
    userinfo, at, _host = rest.rpartition("@")
    secrets = set()
    if separator and at and ":" in userinfo and not rest.rpartition("@")[2].startswith("sha256:"):
        secrets |= {userinfo, userinfo.partition(":")[2]}
    try:
        query = urlsplit(url).query
    except ValueError:
        query = rest.partition("?")[2]
    secrets |= {query, *(value for _name, value in parse_qsl(query))}
    secrets |= {unquote(secret) for secret in secrets}
    return {secret for secret in secrets if len(secret) >= _SHORTEST}

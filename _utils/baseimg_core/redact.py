"""
Removes secrets from text that people, logs or programs may see: passwords and signed queries of URLs.

:class:`errors.BaseimgError` uses it, so no error of the core contains a secret.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "***"
# user, or user:password; a digest after a registry's port and name is no password
_USERINFO = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/@:'\"]*:[^\s@'\"]*|[^\s/@:'\"]+)@(?!sha256:)")
# the query of a salt:// URL is an environment, not a secret
_QUERY = re.compile(r"\b((?!salt://)[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?'\"]*)\?[^\s'\"]*")
_PARAMETER = re.compile(
    r"\b((?:x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|signature|sig|password|passwd|secret|api_?key|(?:\w+_)?token)=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)
_SHORTEST = 4  # characters; shorter words are not removed by themselves, because they are parts of other words


def redact(text: str) -> str:
    """Return ``text`` with the passwords and the queries of its URLs hidden."""
    text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
    text = _QUERY.sub(rf"\1?{HIDDEN}", text)
    return _PARAMETER.sub(rf"\1{HIDDEN}", text)


def redact_url(text: str, url: str) -> str:
    """Return ``text``, which somebody else wrote of ``url``, without anything secret of that URL."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return redact(text)


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

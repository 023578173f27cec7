"""
References of bundles in registries: ``docker://HOST/NAME:TAG`` or ``docker://HOST/NAME@sha256:…``.

The grammar of names and tags is from the OCI distribution spec, "Pulling manifests". The digest is the digest of the
OCI manifest. The host is mandatory: Docker reads ``corp/base`` as a name on Docker Hub, which is surprising here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..stack import ids

SCHEME = "docker://"
#: Appended to a source: its signature, the judgement that is attached to it, and the signature of that judgement.
SIGNATURE, JUDGEMENT = "#signature", "#judgement"
SIGNED_JUDGEMENT = JUDGEMENT + SIGNATURE
_SUFFIXES = {SIGNATURE: ".baseimg-sig", JUDGEMENT: ".baseimg-judged"}
_HOST = r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|localhost|[A-Za-z0-9-]+(?=:)|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST})/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?")


class ReferenceMalformed(ValueError):
    """
    The text is not a reference.

    The message gives the reason without the text, which may hold a password.
    """


@dataclass(frozen=True, slots=True)
class Reference:
    """A bundle in a registry, by tag or digest. If both are given, the digest counts."""

    #: Host of the registry, with a port unless it is the default port.
    host: str
    #: Repository name.
    name: str
    #: Tag; empty without one.
    tag: str = ""
    #: Digest of the OCI manifest; empty without one.
    digest: str = ""

    def at(self, digest: str) -> str:
        """Return the source of the manifest with this digest."""
        return f"{SCHEME}{self.host}/{self.name}@{digest}"

    def __str__(self) -> str:
        return f"{self.host}/{self.name}" + (f"@{self.digest}" if self.digest else f":{self.tag}")


def is_registry(source: str) -> bool:
    """True if a source is in a registry."""
    return source.startswith(SCHEME)


def is_host(text: object) -> bool:
    """True for a registry's host as in references, with a port unless it is the default port."""
    return isinstance(text, str) and re.fullmatch(_HOST, text) is not None


def is_mirror(text: object) -> bool:
    """True for the URL of a registry, without a path."""
    return isinstance(text, str) and re.fullmatch(rf"https?://{_HOST}/?", text) is not None


def is_loopback(host: str) -> bool:
    """True if a registry's address is on this machine."""
    return _LOOPBACK.fullmatch(host) is not None


def parse(source: str) -> Reference:
    """
    Parse a reference, with or without ``docker://``.

    Raises:
        ReferenceMalformed: The text is not a reference.
    """
    text = source.removeprefix(SCHEME)
    if "@" in text.partition("/")[0]:
        raise ReferenceMalformed("no user or password belongs there, they are in config.json")
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ReferenceMalformed("the host has a dot or a port, the name is in small letters, a digest has 64 digits")
    if not (match["tag"] or match["digest"]):
        raise ReferenceMalformed("a tag or a digest is missing")
    return Reference(match["host"], match["name"], match["tag"] or "", match["digest"] or "")


def without_password(value: object) -> str:
    """Return a value without the password of a URL, for errors."""
    return re.sub(r".*@(?!sha256:)", "…@", str(value))


def parse_source(source: str) -> tuple[Reference, str]:
    """Return the reference, and the part that the source means: empty for the bundle."""
    place, mark, part = source.partition("#")
    return parse(place), mark + part


def companion_tag(digest: str, part: str) -> str:
    """
    Return the tag of what belongs to the manifest with this digest, in the same repository.

    Args:
        digest: The digest of the manifest.
        part: ``SIGNATURE`` or ``JUDGEMENT``.

    Raises:
        ReferenceMalformed: The value is not a digest.
    """
    if not ids.is_digest(digest):
        raise ReferenceMalformed("no digest")
    return digest.replace(":", "-") + _SUFFIXES[part]

"""
Derived files: files that a program generates from other files.

If an application has its own copy of a derived file, a new base changes the sources but not the copy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .path_class import PathClass, classify


@dataclass(frozen=True, slots=True)
class Derivation:
    """A rule for one kind of derived file."""

    #: Paths of the derived file.
    file: re.Pattern[bytes]
    #: Paths of the sources.
    sources: re.Pattern[bytes]
    #: The command that generates the file.
    command: str


def _derivation(file: bytes, sources: bytes, command: str) -> Derivation:
    return Derivation(re.compile(file), re.compile(sources), command)


DERIVATIONS = (
    _derivation(
        rb"etc/ssl/certs/ca-certificates\.crt",
        rb"usr/(local/)?share/ca-certificates/.*|etc/ca-certificates\.conf",
        "update-ca-certificates",
    ),
    _derivation(
        rb"etc/ssl/certs/java/cacerts|etc/default/cacerts",
        rb"usr/(local/)?share/ca-certificates/.*|etc/ssl/certs/ca-certificates\.crt",
        "update-ca-certificates",
    ),
    _derivation(
        rb"etc/pki/ca-trust/extracted/.*",
        rb"usr/share/pki/ca-trust-source/.*|etc/pki/ca-trust/source/.*",
        "update-ca-trust",
    ),
    _derivation(
        rb"usr/lib/(.*/)?gconv/gconv-modules\.cache",
        rb"usr/lib/(.*/)?gconv/.*\.(so|conf)|.*/gconv-modules",
        "iconvconfig",
    ),
    _derivation(rb"usr/share/mime/mime\.cache", rb"usr/share/mime/packages/.*", "update-mime-database /usr/share/mime"),
    _derivation(
        rb"usr/share/glib-2\.0/schemas/gschemas\.compiled",
        rb"usr/share/glib-2\.0/schemas/.*\.xml",
        "glib-compile-schemas /usr/share/glib-2.0/schemas",
    ),
    _derivation(rb"var/cache/fontconfig/.*", rb"usr/share/fonts/.*|etc/fonts/.*", "fc-cache -f"),
    _derivation(rb"(.*/)?lib/(server|client)/classes(_nocoops)?\.jsa", rb"(.*/)?lib/modules", "java -Xshare:dump"),
    _derivation(rb"usr/lib/locale/locale-archive", rb"usr/share/i18n/.*|usr/lib/locale/C\.utf8/.*", "locale-gen"),
)


def derivations(own: Iterable[bytes], changed: Iterable[bytes]) -> Iterator[tuple[bytes, bytes, str]]:
    """
    Find the application's derived files whose sources a new base changes.

    Args:
        own: Paths of the application's own files.
        changed: Paths that the new base changes.

    Yields:
        The derived file, one changed source, and the command that regenerates the file.
    """
    changed = sorted(changed)
    for path in own:
        for derivation in DERIVATIONS:
            if derivation.file.fullmatch(path):
                source = next((name for name in changed if name != path and derivation.sources.fullmatch(name)), None)
                if source is not None:
                    yield path, source, derivation.command


def certificates(sources: Collection[bytes], paths: Iterable[bytes]) -> set[bytes]:
    """Return those of some paths that are stores of certificates and generated from one of the sources."""
    stores = {path for path in paths if classify(path, None) is PathClass.CERTIFICATE}
    return {path for path, _source, _command in derivations(stores, sources)} - {*sources} if sources else set()


_COMPILED = re.compile(rb"(?:(.*)/)?__pycache__/([^/]+)\.(cpython|pypy)-?\d+(?:\.opt-\d)?\.pyc")


def source_of(path: bytes) -> bytes | None:
    """Return the Python module of a file in ``__pycache__`` (PEP 3147); ``None`` for other files."""
    match = _COMPILED.fullmatch(path)
    if match is None:
        return None
    directory, module = match[1], match[2]
    return (directory + b"/" if directory else b"") + module + b".py"


PATTERN = re.compile(b"|".join(b"(?:%s)" % derivation.file.pattern for derivation in DERIVATIONS))
_SOURCES = re.compile(b"|".join(b"(?:%s)" % derivation.sources.pattern for derivation in DERIVATIONS))


def is_source(path: bytes) -> bool:
    """True if a derived file may be generated from this path."""
    return _SOURCES.fullmatch(path) is not None

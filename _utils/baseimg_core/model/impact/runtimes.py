"""
Language runtimes: modules that belong to one version of an interpreter.

Directories and file names identify these modules. Pure modules in a directory without a version
(``python3/dist-packages``, ``/usr/share/perl5``) belong to every version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """A language runtime at one version, such as Python 3.11."""

    #: ``python``, ``perl``, ``ruby`` or ``php``.
    language: str
    #: The version in the paths of its modules.
    version: str


#: Paths whose presence shows that a base provides a runtime.
_MARKERS = [
    ("python", re.compile(rb"usr/(?:local/)?bin/python(\d+\.\d+)")),
    ("perl", re.compile(rb"usr/(?:share|lib(?:/[^/]+)?)/perl/(\d+\.\d+)(?:\.\d+)?")),
    # Debian's perl-base has no directory with a version
    ("perl", re.compile(rb"usr/(?:local/)?bin/perl(\d+\.\d+)\.\d+")),
    ("ruby", re.compile(rb"usr/(?:local/)?lib/ruby/(\d+\.\d+\.\d+)")),
    ("php", re.compile(rb"usr/lib/php/(20\d{6})")),
]
#: Paths of modules that belong to one version.
_MODULES = [
    ("python", re.compile(rb"(?:.*/)?lib/python(\d+\.\d+)/(?:site|dist)-packages")),
    ("python", re.compile(rb".*\.cpython-(\d)(\d+)-[^/]*\.so")),
    ("perl", re.compile(rb"usr/(?:local/)?(?:lib(?:/[^/]+)?/perl5?|share/perl)/(\d+\.\d+)(?:\.\d+)?")),
    (
        "ruby",
        re.compile(
            rb"(?:var/lib/gems|usr/(?:local/)?lib(?:/[^/]+)?/ruby/(?:gems|vendor_ruby|site_ruby))/(\d+\.\d+\.\d+)"
        ),
    ),
    ("php", re.compile(rb"usr/lib/php/(20\d{6})")),
]
_INTERPRETERS = re.compile(r"(python|perl|ruby|php)[\d.]*(?:-[\w.]+)?")


def runtimes(paths: Iterable[bytes]) -> set[Runtime]:
    """Return the runtimes that a base with these paths provides."""
    languages = set()
    for path in paths:
        for language, pattern in _MARKERS:
            if match := pattern.fullmatch(path):
                languages.add(Runtime(language, match[1].decode()))
    return languages


def module_of(path: bytes) -> Runtime | None:
    """Return the runtime that a module directory or file belongs to; ``None`` for other paths."""
    for language, pattern in _MODULES:
        if match := pattern.fullmatch(path):
            return Runtime(language, ".".join(part.decode() for part in match.groups()))
    return None


def language_of(program: str) -> str:
    """Return the language of an interpreter; empty for other programs."""
    match = _INTERPRETERS.fullmatch(program.rpartition("/")[2])
    return match[1] if match else ""

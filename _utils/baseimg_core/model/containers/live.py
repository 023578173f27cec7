"""
The paths that reach running containers without a restart: data files that programs open again.

A pattern is an absolute path of the base. ``*`` and ``?`` match within a name, ``**`` matches any number of names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..policy.validation import wrong

_EXPECTED = "absolute paths of files in the base, such as /etc/ssl/certs/ca-certificates.crt or /usr/share/zoneinfo/**"
_MAGIC = re.compile(r"[*?]")
_GLOB = re.compile(r"\*\*|[*?]|[^*?]+")
_REGEX = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
#: Why a path is left alone in a container.
OWN, COVERED, ELSEWHERE = "the container's own file", "another mount covers it", "the container has a symlink there"
OWNER = "the container shows another owner than its layers have"
ABSENT, UNREADABLE = "the container has no such file", "the layers of the container cannot be read"
EXECUTABLE = "it is executable, and the mount is noexec"
NOWHERE = "no version has such a file"
DIRECTORY = "it is a directory: name its files, for example with /**"
ADDED, REMOVED, OTHER_TYPE = "the new version adds it", "the new version removes it", "it is no regular file"


@dataclass(frozen=True)
class LivePaths:
    """The paths that an operator names."""

    #: The patterns.
    patterns: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.patterns)

    @property
    def literals(self) -> list[bytes]:
        """The patterns without wildcards, relative to the root."""
        return [_relative(pattern) for pattern in self.patterns if not _MAGIC.search(pattern)]

    @property
    def prefixes(self) -> list[bytes]:
        """Paths at or below which every match is, relative to the root."""
        return [_relative(_directory(pattern)) for pattern in self._globs] + self.literals

    def through_links(self, resolve: Callable[[bytes], bytes]) -> LivePaths:
        """
        Return the paths without symlinks before their first wildcard.

        Args:
            resolve: Returns the path that a path leads to, both relative to the root.
        """
        return LivePaths(tuple(_through_links(pattern, resolve) for pattern in self.patterns))

    @property
    def _globs(self) -> list[str]:
        return [pattern for pattern in self.patterns if _MAGIC.search(pattern)]

    def unmatched(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the patterns that match none of these paths, relative to the root."""
        present = list(paths)
        single = [LivePaths((pattern,)) for pattern in self.patterns]
        return [_relative(each.patterns[0]) for each in single if not any(map(each.matches, present))]

    def matches(self, path: bytes) -> bool:
        """True if a pattern matches a path relative to the root."""
        return self._expression.fullmatch("/" + path.decode("utf-8", "surrogateescape")) is not None

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_translate, self.patterns)) or "(?!)", re.DOTALL)


def parse(raw: object, key: str = "live") -> LivePaths:
    """
    Parse and validate patterns.

    Args:
        raw: A pattern, a list of patterns, or ``None``.
        key: The pillar key, for errors.

    Raises:
        ArgumentInvalid: A pattern is wrong.
    """
    listed = [] if raw is None else raw if isinstance(raw, list | tuple) else [raw]
    return LivePaths(tuple(_pattern(pattern, key) for pattern in listed))


def with_paths(containers: object, live: object) -> object:
    """
    Return the policy for containers with the paths that pillar declares beside it.

    Args:
        containers: The raw value of ``containers``.
        live: The raw value of ``live``; ``None`` if there is none.
    """
    if live is None:
        return containers
    mapping = containers if isinstance(containers, Mapping) else {"mode": containers}
    return {**mapping, "live": live}


def _pattern(raw: object, key: str) -> str:
    if not isinstance(raw, str) or not raw.startswith("/") or not raw.isprintable() or raw.endswith("/"):
        raise wrong(key, raw, _EXPECTED)
    names = raw[1:].split("/")
    if {"", ".", ".."}.intersection(names) or _MAGIC.search(names[0]):
        raise wrong(key, raw, _EXPECTED)
    return raw


def _directory(pattern: str) -> str:
    """Return the directory above the first wildcard of a pattern."""
    return _MAGIC.split(pattern)[0].rpartition("/")[0]


def _through_links(pattern: str, resolve: Callable[[bytes], bytes]) -> str:
    directory = _directory(pattern) if _MAGIC.search(pattern) else pattern
    resolved = resolve(_relative(directory)).decode("utf-8", "surrogateescape")
    return f"/{resolved}{pattern[len(directory) :]}"


def _translate(pattern: str) -> str:
    return "".join(_REGEX.get(part) or re.escape(part) for part in _GLOB.findall(pattern))


def _relative(path: str) -> bytes:
    return path.lstrip("/").encode("utf-8", "surrogateescape")

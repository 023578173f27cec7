"""
Modules that an application imports by name from directories of its base: Python, Perl, Ruby and Node.

A module belongs to a base if it lies in a directory that the language searches by default. Names that a program
computes are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..stack import overlay
from . import runtimes


@dataclass(frozen=True, slots=True)
class Module:
    """A module by the name that programs import."""

    #: ``python``, ``perl``, ``ruby`` or ``node``.
    language: str
    #: The name as in the source: ``a.b``, ``A::B`` or ``a/b``.
    name: str

    @property
    def endings(self) -> tuple[bytes, ...]:
        """The ends of the paths at which a copy of the module may lie, whatever its directory."""
        path = b"/" + self.name.replace("::", "/").replace("." if self.language == "python" else "/", "/").encode()
        return tuple(path + ending for ending in _ENDINGS[self.language])


_ENDINGS = {
    "python": (b".py", b"/__init__.py", b".so", b".abi3.so"),
    "perl": (b".pm",),
    "ruby": (b".rb", b".so"),
    "node": (b"/package.json", b".js"),
}
_FILES = (
    (
        "python",
        re.compile(
            rb"(?:.*/)?lib(?:64)?/python[\d.]*/(?:(?:site|dist)-packages/|lib-dynload/)?"
            rb"(\w+(?:/\w+)*?)(?:/__init__)?(?:\.(?:cpython|abi)[^/]*)?\.(?:py|so)"
        ),
    ),
    (
        "perl",
        re.compile(
            rb"(?:etc/perl|usr/(?:local/)?(?:share|lib(?:64)?(?:/[^/]+)?)/(?:perl5?|perl-base)(?:/(?:vendor|site)_perl)?"
            rb"(?:/\d[\d.]*)?(?:/[^/]*-linux[^/]*)?)/([A-Za-z]\w*(?:/\w+)*)\.pm"
        ),
    ),
    (
        "ruby",
        re.compile(
            rb"(?:var/lib/gems/[\d.]+/gems/[^/]+/lib|usr/(?:local/)?(?:share|lib(?:64)?(?:/[^/]+)?)/(?:ruby/)?(?:"
            rb"(?:vendor_ruby|site_ruby)(?:/[\d.]+)?|gems/[\d.]+/gems/[^/]+/lib|gems/[\d.]+/extensions/[^/]+/[\d.]+/[^/]+|rubygems-integration/[^/]+/gems/[^/]+/lib"
            rb"|[\d.]+))/(?:[^/]+-linux[^/]*/)?([\w./-]+)\.(?:rb|so)"
        ),
    ),
    (
        "node",
        re.compile(
            rb"usr/(?:local/)?(?:share/nodejs|lib/nodejs|lib/node_modules)/((?:@[^/]+/)?[\w.-]+)(?:/package\.json|\.js)"
        ),
    ),
)
# Python may have these without a file: its own private modules, and an alias since 3.13
_BUILT_IN = re.compile(r"_|collections\.abc$")
_SUFFIXES = {
    b".py": "python",
    b".pl": "perl",
    b".pm": "perl",
    b".rb": "ruby",
    b".js": "node",
    b".cjs": "node",
    b".mjs": "node",
}
_PYTHON = re.compile(
    r"^([ \t]*)(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+\(?([^#\n]+)|import[ \t]+([^#\n]+))", re.MULTILINE
)
_IMPORTS = {
    "perl": re.compile(r"^()[ \t]*(?:use|require)[ \t]+([A-Z]\w*(?:::\w+)*)", re.MULTILINE),
    "ruby": re.compile(r"^([ \t]*)require[ \t(]+[\"']([\w./-]+)[\"']", re.MULTILINE),
    "node": re.compile(
        r"^([ \t]+)?(?:.*\brequire\([ \t]*|import\b.*\bfrom[ \t]+|import[ \t]+)[\"']([@\w][\w./@-]*)[\"']", re.MULTILINE
    ),
}


def module_at(path: bytes) -> Module | None:
    """Return the module in a file of a base; ``None`` for other files."""
    for language, pattern in _FILES:
        if match := pattern.fullmatch(path):
            name = overlay.path_text(match[1])
            separator = {"python": ".", "perl": "::"}.get(language, "/")
            module = Module(language, name.replace("/", separator))
            is_standard = language == "python" and b"-packages/" not in path
            return None if is_standard and _BUILT_IN.match(module.name) else module
    return None


def modules(paths: Iterable[bytes]) -> set[Module]:
    """Return the modules in files of a base."""
    return {module for path in paths if (module := module_at(path))}


def language_of(path: bytes, interpreters: Iterable[bytes]) -> str:
    """
    Return the language of a source file by its name or its interpreter; empty if neither tells.

    Args:
        path: The path of the file.
        interpreters: The programs in its first line.
    """
    name = path.rpartition(b"/")[2]
    by_name = _SUFFIXES.get(name[name.rfind(b".") :] if b"." in name else b"", "")
    by_line = (runtimes.language_of(overlay.path_text(interpreter)) for interpreter in interpreters)
    return by_name or next(filter(None, by_line), "")


def imports(language: str, text: str) -> dict[Module, bool]:
    """
    Return the modules that a source file imports.

    Args:
        language: The language of the file.
        text: Its content.

    Returns:
        By module, true if the file cannot run without it; false for an indented import, which may never run. Imports
        in a ``try`` block are left out.
    """
    imported: dict[Module, bool] = {}
    for indentation, name in _python(text) if language == "python" else _other(language, text):
        module = Module(language, name)
        imported[module] = imported.get(module, False) or not indentation
    return imported


def _other(language: str, text: str) -> Iterator[tuple[str, str]]:
    pattern = _IMPORTS.get(language)
    for match in pattern.finditer(text) if pattern else ():
        yield match[1] or "", match[2]


def _python(text: str) -> Iterator[tuple[str, str]]:
    for match in _PYTHON.finditer(text):
        indentation, package, names, plain = match.groups()
        if indentation and _is_tried(text[: match.start()], len(indentation)):
            continue
        words = [name.split()[0] for name in (names or plain).strip(" \t()\\").split(",") if name.split()]
        if package is None:
            for word in words:
                steps = word.split(".")
                yield from ((indentation, ".".join(steps[: count + 1])) for count in range(len(steps)))
        elif not package.startswith("."):
            yield indentation, package
            yield from ((indentation, f"{package}.{word}") for word in words)


def _is_tried(above: str, indentation: int) -> bool:
    """True if the innermost block that contains a line is a ``try:``, so the line may fail."""
    for line in reversed(above.splitlines()):
        words = line.lstrip()
        if words and len(line) - len(words) < indentation:
            return words.startswith("try:")
    return False

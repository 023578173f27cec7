"""
Dependencies of programs: dynamic loader, libraries and symbol versions, or interpreter.

The search order follows the dynamic loader: ld.so(8), "DESCRIPTION", for glibc, and ``dynlink.c`` for musl. The tests
compare the results with ``ldd`` and with running programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..stack import overlay
from . import view as views
from .elf import Elf
from .view import FileUnreadable, View

_TRIPLES = {
    (64, 62): b"x86_64-linux-gnu",
    (64, 183): b"aarch64-linux-gnu",
    (32, 3): b"i386-linux-gnu",
    (32, 40): b"arm-linux-gnueabihf",
    (64, 21): b"powerpc64le-linux-gnu",
    (64, 22): b"s390x-linux-gnu",
    (64, 243): b"riscv64-linux-gnu",
}
_MUSL_DIRECTORIES = (b"/lib", b"/usr/local/lib", b"/usr/lib")
_MUSL = b"ld-musl-"
_SHEBANG = 255  # bytes of the first line that the kernel reads: execve(2)
_MAX_INTERPRETERS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One missing dependency of a file."""

    #: A key of ``verdict.REMEDIES``.
    code: str
    #: The relative path of the file.
    path: bytes
    #: The name of the missing dependency; for ``unreadable``, the reason.
    missing: bytes
    #: For ``missing-version``, the library that lacks the version.
    of: bytes = b""

    @property
    def loss(self) -> tuple[str, bytes, bytes]:
        """What is missing, whichever file needs it."""
        return self.code, self.missing, self.of

    @property
    def text(self) -> str:
        """The problem as a clause, for people."""
        missing = overlay.path_text(self.missing)
        if self.code == "missing-version":
            return f"needs version {missing} of {overlay.path_text(self.of)}, which the library it gets does not define"
        if self.code == "unreadable":
            return f"cannot be judged: {missing}"
        if self.code == "missing-interpreter":
            return f"needs the interpreter {missing}, which is missing"
        return f"needs {missing}, which is missing"


class Loader:
    """A model of the dynamic loader over one view. Search results are cached."""

    def __init__(self, view: View, environment: bytes = b"", search: bytes = b"") -> None:
        """
        Args:
            view: The file system.
            environment: The value of ``LD_LIBRARY_PATH``.
            search: The value of ``PATH``.
        """
        self._view, self._search = view, search or DEFAULT_PATH
        self._environment = tuple(filter(None, environment.split(b":")))
        self._resolved: dict[tuple[object, ...], bytes | None] = {}

    def problems(self, path: bytes) -> list[Problem]:
        """
        Check the dependencies of a file, direct and transitive.

        Args:
            path: The resolved relative path of a program, a library or a script.

        Returns:
            Every missing dependency, in load order.
        """
        return list(self._check(path, 0, transitive=True))

    def direct_problems(self, path: bytes) -> list[Problem]:
        """Check the direct dependencies of a file only. See :meth:`problems`."""
        return list(self._check(path, 0, transitive=False))

    def files(self, path: bytes) -> set[bytes]:
        """Return the file, its interpreters and its libraries, as :meth:`problems` visits them."""
        paths_seen: set[bytes] = set()
        try:
            while (script := interpreter_of(self._view, path, self._search)) and path not in paths_seen:
                paths_seen.add(path)
                resolved = views.file_at(self._view, script[0])
                if resolved is None:
                    return paths_seen
                path = resolved
            elf = self._view.elf(path)
        except FileUnreadable:
            return paths_seen | {path}
        return paths_seen | {path} | (set(self._load(path, elf, [], True).values()) if elf else set())

    def find_library(self, name: bytes, elf: Elf) -> bytes | None:
        """Return the resolved path of a library as ``dlopen(name)`` in a program like ``elf`` finds it."""
        is_musl = _MUSL in elf.interpreter or any(b".musl-" in needed for needed in elf.needed)
        return self._find(name, b"", Elf(elf.bits, elf.machine, elf.type), (), is_musl)

    def _check(self, path: bytes, depth: int, transitive: bool) -> Iterator[Problem]:
        try:
            script = interpreter_of(self._view, path, self._search)
            if script is None:
                elf = self._view.elf(path)
                if elf is None:
                    return
                if elf.interpreter and views.file_at(self._view, elf.interpreter) is None:
                    yield Problem("missing-interpreter", path, elf.interpreter)
                    return
                problems: list[Problem] = []
                self._load(path, elf, problems, transitive)
                yield from problems
                return
        except FileUnreadable as exc:
            yield Problem("unreadable", path, str(exc).encode())
            return
        for interpreter in script:
            resolved = views.file_at(self._view, interpreter)
            if resolved is None:
                yield Problem("missing-interpreter", path, interpreter)
            elif depth < _MAX_INTERPRETERS and transitive:
                yield from self._check(resolved, depth + 1, transitive)

    def _load(self, path: bytes, elf: Elf, problems: list[Problem], transitive: bool) -> dict[bytes, bytes]:
        """Simulate loading a file; appends to ``problems`` and returns the libraries' paths by name."""
        is_musl = _MUSL in elf.interpreter or any(b".musl-" in name for name in elf.needed)
        loaded: dict[bytes, bytes] = {}
        read: dict[bytes, Elf] = {path: elf}
        queue = [(path, elf, elf.rpath if not elf.runpath else ())]
        for current, current_elf, rpath in queue:  # the loop body appends to the queue
            for name in current_elf.needed:
                if name in loaded or (is_musl and (b".musl-" in name or name == b"libc.so")):
                    continue
                resolved = self._find(name, current, current_elf, rpath, is_musl)
                if resolved is None:
                    problems.append(Problem("missing-library", current, name))
                    continue
                library = self._view.elf(resolved)
                if library is None:
                    continue
                loaded[name] = resolved
                loaded.setdefault(library.soname or name, resolved)
                if transitive and resolved not in read:
                    queue.append((resolved, library, (*library.rpath, *rpath) if not library.runpath else ()))
                read[resolved] = library
        for current, current_elf, _ in queue:
            problems += _missing_versions(current, current_elf, loaded, read)
        return loaded

    def _find(self, name: bytes, path: bytes, elf: Elf, rpath: Iterable[bytes], is_musl: bool) -> bytes | None:
        if b"/" in name:
            return self._usable(name, elf)
        origin = b"/" + overlay.split(path)[0]
        key = (name, elf.bits, elf.machine, tuple(rpath), elf.runpath, origin if elf.runpath or rpath else b"", is_musl)
        if key not in self._resolved:
            directories = self._directories(elf, rpath, origin, is_musl)
            places = (directory + b"/" + name for directory in directories[0])
            cached = () if is_musl else self._view.libraries().get(name, ())
            defaults = (directory + b"/" + name for directory in directories[1])
            candidates = (self._usable(place, elf) for place in (*places, *cached, *defaults))
            self._resolved[key] = next(filter(None, candidates), None)
        return self._resolved[key]

    def _directories(
        self, elf: Elf, rpath: Iterable[bytes], origin: bytes, is_musl: bool
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the directories to search before ``ld.so.cache``, and those to search after it."""
        triple = _TRIPLES.get((elf.bits, elf.machine), b"")
        before = [_expand(step, origin, elf) for step in (*rpath, *self._environment, *elf.runpath)]
        if is_musl:
            return before, list(_MUSL_DIRECTORIES)
        multiarch = [b"/lib/" + triple, b"/usr/lib/" + triple] if triple else []
        wide = [b"/lib64", b"/usr/lib64"] if elf.bits == 64 else []
        return before, [*multiarch, *wide, b"/lib", b"/usr/lib"]

    def _usable(self, place: bytes, elf: Elf) -> bytes | None:
        """Return the resolved path of a library if it fits the class and machine of ``elf``."""
        resolved = views.file_at(self._view, place)
        library = self._view.elf(resolved) if resolved else None
        if library is None or (library.bits, library.machine) != (elf.bits, elf.machine):
            return None
        return resolved


def _expand(directory: bytes, origin: bytes, elf: Elf) -> bytes:
    """Expand the tokens in a directory name: ld.so(8), "Dynamic string tokens"."""
    for token in (b"$ORIGIN", b"${ORIGIN}"):
        directory = directory.replace(token, origin)
    for token in (b"$LIB", b"${LIB}"):
        directory = directory.replace(token, b"lib64" if elf.bits == 64 else b"lib")
    return directory


def _missing_versions(path: bytes, elf: Elf, loaded: dict[bytes, bytes], read: dict[bytes, Elf]) -> Iterator[Problem]:
    for name, versions in sorted(elf.version_needs.items()):
        library = read.get(loaded.get(name, b""))
        if library is None or not library.version_definitions:  # the loader only warns if there are none
            continue
        for version in sorted(versions - library.version_definitions):
            yield Problem("missing-version", path, version, name)


def interpreter_of(view: View, path: bytes, search: bytes) -> list[bytes] | None:
    """
    Return the programs in a script's first line: the interpreter, and the program that ``env`` starts.

    Args:
        view: The file system.
        path: The resolved path of a file.
        search: The value of ``PATH``.

    Returns:
        The paths of the programs; ``None`` if the file is not a script.

    Raises:
        Unreadable: The file cannot be read.
    """
    if view.elf(path) is not None:
        return None
    line = view.text(path)[:_SHEBANG].split(b"\n")[0]
    if not line.startswith(b"#!"):
        return None
    words = line[2:].split()
    if not words:
        return None
    programs = [words[0]]
    if words[0].rpartition(b"/")[2] == b"env":
        name = next((word for word in words[1:] if not word.startswith(b"-") and b"=" not in word), b"")
        place = find_program(view, name, search) if name else None
        if name:
            programs.append(place or name)
    return programs


DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(view: View, name: bytes, search: bytes, directory: bytes = b"/") -> bytes | None:
    """
    Find a program as execvp(3) does.

    Args:
        view: The file system.
        name: A name or a path.
        search: The value of ``PATH``.
        directory: The working directory.

    Returns:
        The path of the program; ``None`` if it does not exist.
    """
    if b"/" in name:
        place = name if name.startswith(b"/") else directory.rstrip(b"/") + b"/" + name
        return place if views.file_at(view, place) else None
    for step in search.split(b":"):
        place = step.rstrip(b"/") + b"/" + name
        resolved = views.file_at(view, place)
        node = view.lookup(resolved) if resolved else None
        if node and node.mode & 0o111:
            return place
    return None

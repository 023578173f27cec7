"""Judge the programs and scripts that an image starts, with their dependencies, on a new base."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence

from ...model.impact import dependencies, runtimes, started, view
from ...model.impact.config import ProcessConfig
from ...model.impact.dependencies import Loader, Problem
from ...model.impact.runtimes import Runtime
from ...model.impact.verdict import Reason, Verdict
from ...model.impact.view import FileUnreadable
from ...model.stack import overlay
from .access import Access
from .change import BaseChange
from .symbols import SymbolSearch
from .texts import Texts
from .view import LayeredView, parse_cache

_MAX_DEPTH = 3  # levels of scripts that start scripts
_MAX_SYMBOLS = 3  # missing symbols that are named for each file
_LD_CACHE = b"etc/ld.so.cache"


class StartedPrograms:
    """
    The programs that one image starts.

    Only regressions are reasons. A dependency that the old base also lacks is not a reason.
    """

    def __init__(
        self,
        change: BaseChange,
        old: LayeredView,
        new: LayeredView,
        config: ProcessConfig,
        sources: Sequence[bytes],
        mounts: Mapping[str, str],
    ) -> None:
        """
        Args:
            change: The change of the base.
            old: The image over the old base.
            new: The image over the new base.
            config: The image's configuration.
            sources: The application's own source files and extension modules.
            mounts: The mounts of a container: sources by destination.
        """
        self._mounts = mounts
        self._access = Access(change, old, new, config)
        self._change, self._old, self._new = change, old, new
        environment = config.environment
        self._directory = config.directory
        self._path = config.search_path
        libraries = environment.get("LD_LIBRARY_PATH", "").encode("utf-8", "surrogateescape")
        self._old_loader, self._new_loader = (Loader(side, libraries, self._path) for side in (old, new))
        #: The reader of the image's texts.
        self.texts = Texts(change, old, new, self._path, self._new_loader, self._access, sources)
        #: Resolved paths of the started files and their dependencies, in the new view.
        self.files: set[bytes] = set()
        #: Languages of the started interpreters.
        self.languages: set[str] = set()
        #: Runtimes of started interpreters that have another version over the new base.
        self.replaced: set[Runtime] = set()
        #: Paths, in the old view, of programs that the new view lacks.
        self.missing: set[bytes] = set()
        self._checked: set[bytes] = set()
        self._symbols = SymbolSearch(change.losses.symbols, (old, self._old_loader), (new, self._new_loader))

    def command(self, command: Sequence[str]) -> Iterator[Reason]:
        """Yield the reasons for one command."""
        programs = started.programs(command)
        for program in programs:
            yield from self._program(program.encode("utf-8", "surrogateescape"), 0)
        shells = [program.encode() for program in programs if started.is_shell(program)]
        for argument in started.arguments(command):
            path = posixpath.join(self._directory, argument).encode("utf-8", "surrogateescape")
            if self.texts.is_lost_path(path):
                yield Reason(Verdict.BREAKS, "missing-path", argument, "is an argument of the command and is missing")
            elif self._access.is_denied(path):
                text = "is an argument of the command, and the image's user may no longer read it"
                yield Reason(Verdict.BREAKS, "permission", argument, text)
            else:
                yield from self._mounted(path)
                if resolved := view.file_at(self._new, path):
                    yield from self._script(resolved, 0, shells)
        for named in sorted(filter(self.texts.is_lost_path, started.paths_in_arguments(command))):
            text = "is named in the command and is missing"
            yield Reason(Verdict.BREAKS, "missing-path", overlay.path_text(named), text)

    def file(self, path: bytes, verdict: Verdict = Verdict.BREAKS) -> Iterator[Reason]:
        """Yield the reasons for one program or library and its transitive dependencies."""
        yield from self._lost(self._old_loader.problems(path), self._new_loader.problems(path), verdict)
        yield from self._missing_symbols(path, verdict)

    def every(self, path: bytes) -> Iterator[Reason]:
        """Yield the reasons for a program of an image without a command, which counts as started."""
        yield from self.file(path)
        yield from self._literals(path)

    def own_programs(self) -> Iterator[Reason]:
        """Yield the reasons for symbols and names in the application's started programs and their libraries."""
        for path in sorted(self.files):
            node = self._new.lookup(path)
            if node and node.own:
                yield from self._missing_symbols(path, Verdict.BREAKS)
                yield from self._literals(path)

    def _missing_symbols(self, path: bytes, verdict: Verdict) -> Iterator[Reason]:
        for name in self._symbols.missing(path)[:_MAX_SYMBOLS]:
            text = f"needs the symbol {overlay.path_text(name)}, which no library of the new base defines"
            yield Reason(verdict, "missing-symbol", overlay.path_text(path), text)

    def _literals(self, path: bytes) -> Iterator[Reason]:
        losses = self._change.losses
        try:
            if (losses.paths or self._change.restricted) and self._new.elf(path):
                for loss in self.texts.literals(path):
                    yield Reason(Verdict.IMPAIRED, loss.code, overlay.path_text(path), loss.text)
        except FileUnreadable:
            return

    def own_needs(self, path: bytes) -> Iterator[Reason]:
        """Yield the reasons for the direct dependencies of an own program or library that is not started."""
        if problems := self._new_loader.direct_problems(path):
            yield from self._lost(self._old_loader.direct_problems(path), problems, Verdict.IMPAIRED)
        yield from self._missing_symbols(path, Verdict.IMPAIRED)

    def _lost(self, before: Sequence[Problem], after: Sequence[Problem], verdict: Verdict) -> Iterator[Reason]:
        """Yield the new problems, and lost libraries in places that no search finds: a script may add them."""
        known = {problem.loss for problem in before}
        for problem in after:
            if problem.loss not in known or (
                problem.code == "missing-library" and self.texts.is_lost_library(problem.missing)
            ):
                yield self.reason(problem, verdict)

    def reason(self, problem: Problem, verdict: Verdict) -> Reason:
        """Convert a problem to a reason."""
        code, text = problem.code, problem.text
        if code == "unreadable":
            verdict = Verdict.NOT_CHECKED
        elif code == "missing-library" and self._is_in_base_cache(problem.missing):
            code, text = "stale-cache", f"{text}: the image's own etc/ld.so.cache does not list its new place"
        return Reason(verdict, code, overlay.path_text(problem.path), text)

    def _is_in_base_cache(self, name: bytes) -> bool:
        node = self._new.lookup(_LD_CACHE)
        if node is None or not node.own:
            return False
        places = parse_cache(self._change.new_view.content(_LD_CACHE)).get(name, ())
        return any(view.file_at(self._new, place) for place in places)

    def _program(self, name: bytes, depth: int) -> Iterator[Reason]:
        directory = self._directory.encode("utf-8", "surrogateescape")
        before = dependencies.find_program(self._old, name, self._path, directory)
        if name in self._checked:
            return
        self._checked.add(name)
        if b"/" in name and depth == 0:
            yield from self._mounted(posixpath.join(directory, name))
        if before is None:
            return
        place = dependencies.find_program(self._new, name, self._path, directory)
        resolved = view.file_at(self._new, place) if place else None
        if place is None or resolved is None:
            self.missing.add(before)
            yield Reason(Verdict.BREAKS, "missing-program", overlay.path_text(name), "is started and is missing")
            return
        old = view.file_at(self._old, before) or resolved
        self._note_languages(place, resolved)
        self._note_replaced(old, resolved)
        if resolved in self.files:
            return
        self.files |= self._new_loader.files(resolved)
        yield from self._permissions(place, resolved)
        problems = self._old_loader.problems(old), self._new_loader.problems(resolved)
        yield from self._lost(*problems, Verdict.BREAKS)
        yield from self._script(resolved, depth, (b"sh",))

    def _mounted(self, path: bytes) -> Iterator[Reason]:
        """Yield the reason for a started file that a container's mount brings: no layer has it."""
        losses = self._change.losses
        if not losses.paths and not losses.code and not losses.symbols:
            return
        text = posixpath.normpath(path.decode("utf-8", "replace"))
        for destination, source in sorted(self._mounts.items()):
            # the engine fills a volume from the image, but a directory of the host has its own files
            is_other = source.startswith("/") or view.resolve(self._old, path) is None
            if text.startswith(destination.rstrip("/") + "/") and is_other and destination != "/":
                reason = f"is started from {source or 'a volume'} mounted at {destination}, which is not judged"
                yield Reason(Verdict.NOT_CHECKED, "unreadable", text, reason)
                return

    def _permissions(self, place: bytes, resolved: bytes) -> Iterator[Reason]:
        """Yield the reasons for a program that the image's user cannot execute, or that runs with fewer privileges."""
        name = overlay.path_text(place)
        if self._access.is_execution_denied(place):
            yield Reason(
                Verdict.BREAKS, "permission", name, "is started, and the image's user may no longer execute it"
            )
        elif privilege := self._access.lost_privilege(resolved):
            yield Reason(Verdict.IMPAIRED, "permission", name, f"is started, and no longer has {privilege}")
        for library in sorted(self._new_loader.files(resolved) - {resolved}):
            if self._access.is_denied(library):
                text = f"needs {overlay.path_text(library)}, which the image's user may no longer read"
                yield Reason(Verdict.BREAKS, "permission", name, text)

    def _note_replaced(self, before: bytes, after: bytes) -> None:
        self.replaced |= runtimes.runtimes([before]) - runtimes.runtimes([after])

    def _script(self, path: bytes, depth: int, default: Sequence[bytes]) -> Iterator[Reason]:
        """Yield the reasons for what an application's own script names; ``default`` runs it without a ``#!`` line."""
        node = self._new.lookup(path)
        if node is None or not node.own or depth >= _MAX_DEPTH or b"//" + path in self._checked:
            return
        self._checked.add(b"//" + path)
        self.files.add(path)
        try:
            interpreters = dependencies.interpreter_of(self._new, path, self._path)
            text = self._new.text(path)
            named = list(self.texts.losses(path, interpreters or default))
        except FileUnreadable:
            return
        if b"\0" in text:
            return
        for interpreter in interpreters or ():
            resolved = view.file_at(self._new, interpreter)
            self._note_languages(interpreter, resolved or interpreter)
            self._note_replaced(view.file_at(self._old, interpreter) or b"", resolved or b"")
        for loss in named:
            if loss.code != "missing-program" or not loss.is_needed:  # the programs follow
                verdict = Verdict.BREAKS if loss.is_needed else Verdict.IMPAIRED
                yield Reason(verdict, loss.code, overlay.path_text(path), loss.text)
        yield from self._named_programs(text, depth)
        if any(started.is_shell(overlay.path_text(program)) for program in interpreters or default):
            yield from self._shell(text, depth)

    def _named_programs(self, text: bytes, depth: int) -> Iterator[Reason]:
        """Yield the reasons for the programs that a script names by their paths."""
        for named in sorted(started.paths_in(text)):
            place = view.file_at(self._new, named)
            target = self._new.lookup(place) if place else None
            if target and target.mode & 0o111:
                yield from self._program(named, depth + 1)

    def _shell(self, text: bytes, depth: int) -> Iterator[Reason]:
        """Yield the reasons for the programs that shell text starts, and for the files that it reads as shell text."""
        for program in started.shell_programs(text.decode("utf-8", "replace")):
            yield from self._program(program.encode("utf-8", "replace"), depth + 1)
        for name in started.sourced(text):
            place = name if name.startswith(b"/") else posixpath.join(self._directory.encode(), name)
            if resolved := view.file_at(self._new, place):
                yield from self._script(resolved, depth + 1, (b"sh",))

    def _note_languages(self, *places: bytes) -> None:
        self.languages |= {runtimes.language_of(overlay.path_text(place)) for place in places} - {""}

"""Judge the programs and scripts that an image starts, with their dependencies, on a new base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...model.impact import dependencies, runtimes, started, view
from ...model.impact.config import ProcessConfig
from ...model.impact.dependencies import Loader, Problem
from ...model.impact.verdict import Reason, Verdict
from ...model.impact.view import FileUnreadable
from ...model.stack import overlay
from .change import BaseChange
from .view import LayeredView, parse_cache

_MAX_DEPTH = 3  # levels of scripts that start scripts
_LD_CACHE = b"etc/ld.so.cache"


class StartedPrograms:
    """
    The programs that one image starts.

    Only regressions are reasons. A dependency that the old base also lacks is not a reason.
    """

    def __init__(self, change: BaseChange, old: LayeredView, new: LayeredView, config: ProcessConfig) -> None:
        """
        Args:
            change: The change of the base.
            old: The image over the old content of the base.
            new: The image over the new content of the base.
            config: The configuration of the image.
        """
        self._change, self._old, self._new = change, old, new
        environment = config.environment
        self._path = environment.get("PATH", "").encode("utf-8", "surrogateescape") or dependencies.DEFAULT_PATH
        libraries = environment.get("LD_LIBRARY_PATH", "").encode("utf-8", "surrogateescape")
        self._old_loader, self._new_loader = Loader(old, libraries), Loader(new, libraries)
        #: Resolved paths of the started files and their dependencies, in the new view.
        self.files: set[bytes] = set()
        #: Languages of the started interpreters.
        self.languages: set[str] = set()
        #: Paths, in the old view, of programs that the new view lacks.
        self.missing: set[bytes] = set()
        self._checked_paths: set[bytes] = set()

    def command(self, command: Sequence[str]) -> Iterator[Reason]:
        """Yield the reasons for one command."""
        for program in started.programs(command):
            yield from self._program(program.encode("utf-8", "surrogateescape"), 0)
        for argument in started.arguments(command):
            path = argument.encode("utf-8", "surrogateescape")
            if is_lost(self._old, self._new, path):
                yield Reason(Verdict.BREAKS, "missing-path", argument, "is an argument of the command and is missing")
            elif resolved := view.file_at(self._new, path):
                yield from self._script(resolved, 0)

    def file(self, path: bytes, verdict: Verdict = Verdict.BREAKS) -> Iterator[Reason]:
        """Yield the reasons for one program or library and its transitive dependencies."""
        before = {(problem.code, problem.missing, problem.of) for problem in self._old_loader.problems(path)}
        for problem in self._new_loader.problems(path):
            if (problem.code, problem.missing, problem.of) not in before:
                yield self.reason(problem, verdict)

    def own_needs(self, path: bytes) -> Iterator[Reason]:
        """Yield the reasons for the direct dependencies of an own program or library that is not started."""
        problems = self._new_loader.direct_problems(path)
        if not problems:
            return
        before = {(problem.code, problem.missing, problem.of) for problem in self._old_loader.direct_problems(path)}
        for problem in problems:
            if (problem.code, problem.missing, problem.of) not in before:
                yield self.reason(problem, Verdict.IMPAIRED)

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
        before = dependencies.find_program(self._old, name, self._path)
        if before is None or name in self._checked_paths:
            return
        self._checked_paths.add(name)
        place = dependencies.find_program(self._new, name, self._path)
        resolved = view.file_at(self._new, place) if place else None
        if place is None or resolved is None:
            self.missing.add(before)
            yield Reason(Verdict.BREAKS, "missing-program", overlay.path_text(name), "is started and is missing")
            return
        self._note_languages(place, resolved)
        if resolved in self.files:
            return
        self.files |= self._new_loader.files(resolved)
        yield from self._started(view.file_at(self._old, before) or resolved, resolved)
        yield from self._script(resolved, depth)

    def _started(self, before: bytes, after: bytes) -> Iterator[Reason]:
        known = {(problem.code, problem.missing, problem.of) for problem in self._old_loader.problems(before)}
        for problem in self._new_loader.problems(after):
            if (problem.code, problem.missing, problem.of) not in known:
                yield self.reason(problem, Verdict.BREAKS)

    def _script(self, path: bytes, depth: int) -> Iterator[Reason]:
        """Yield the reasons for the programs and paths that an application's own script names."""
        node = self._new.lookup(path)
        if node is None or not node.own or depth >= _MAX_DEPTH:
            return
        self.files.add(path)
        try:
            interpreters = dependencies.interpreter_of(self._new, path)
            text = self._new.text(path)
        except FileUnreadable:
            return
        if interpreters is None:
            return
        for interpreter in interpreters:
            resolved = view.file_at(self._new, interpreter)
            self._note_languages(interpreter, resolved or interpreter)
        for named in sorted(started.paths_in(text)):
            place = view.file_at(self._new, named)
            target = self._new.lookup(place) if place else None
            if target and target.mode & 0o111:
                yield from self._program(named, depth + 1)
            elif is_lost(self._old, self._new, named):
                yield Reason(
                    Verdict.BREAKS,
                    "missing-path",
                    overlay.path_text(path),
                    f"names {overlay.path_text(named)}, which is missing",
                )
        if interpreters[-1].rpartition(b"/")[2] in (b"sh", b"bash", b"dash", b"ash"):
            for program in started.shell_programs(text.decode("utf-8", "replace")):
                yield from self._program(program.encode(), depth + 1)

    def _note_languages(self, *places: bytes) -> None:
        self.languages |= {runtimes.language_of(overlay.path_text(place)) for place in places} - {""}


def is_lost(old: LayeredView, new: LayeredView, path: bytes) -> bool:
    """
    True if a path exists over the old base but not over the new base.

    Args:
        old: The image over the old base.
        new: The image over the new base.
        path: The path.
    """
    return view.resolve(new, path) is None and view.resolve(old, path) not in (None, b"")

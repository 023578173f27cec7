"""What the scripts and configuration files of an application name, and a new base lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...model.impact import dependencies, modules, started, view
from ...model.impact.dependencies import Loader
from ...model.impact.modules import Module
from ...model.impact.view import FileUnreadable
from ...model.stack import overlay
from .access import Access
from .change import BaseChange
from .view import LayeredView

# documentation, and state that programs make: what a text names there may be missing
_DISPENSABLE = (b"usr/share/doc/", b"usr/share/man/", b"usr/share/info/", b"run/", b"var/log/", b"tmp/", b"var/tmp/")
_MAX_LITERALS = 64 << 20  # bytes of a compiled program that are searched


@dataclass(frozen=True, slots=True)
class NamedLoss:
    """One thing that a text names and the new base lacks."""

    #: A key of ``verdict.REMEDIES``.
    code: str
    #: The loss as a clause, for people.
    text: str
    #: False if the text may do without it.
    is_needed: bool


class Texts:
    """Reads the texts of one image, over the old and over the new base."""

    def __init__(
        self,
        change: BaseChange,
        old: LayeredView,
        new: LayeredView,
        search: bytes,
        loader: Loader,
        access: Access,
        sources: Sequence[bytes],
    ) -> None:
        """
        Args:
            change: The change of the base.
            old: The image over the old base.
            new: The image over the new base.
            search: The value of ``PATH``.
            loader: The dynamic loader over the new base.
            access: The access of the image's user.
            sources: The application's own source files and extension modules.
        """
        self._change, self._old, self._new = change, old, new
        self._search, self._loader, self._access, self._sources = search, loader, access, sources

    def losses(self, path: bytes, interpreters: Iterable[bytes] | None = None) -> Iterator[NamedLoss]:
        """
        Yield what a text names and the new base lacks.

        Args:
            path: The path of the file.
            interpreters: The programs that run it; by default, those in its first line.

        Raises:
            FileUnreadable: The file cannot be read.
        """
        content = self._new.text(path)
        if b"\0" in content:
            return
        if interpreters is None:
            interpreters = dependencies.interpreter_of(self._new, path, self._search) or ()
        yield from self._paths(started.paths_in(content))
        if any(started.is_shell(overlay.path_text(program)) for program in interpreters):
            for program in started.shell_programs(content.decode("utf-8", "replace")):
                if self.is_lost_program(program.encode("utf-8", "replace")):
                    yield NamedLoss("missing-program", f"starts {program}, which is missing", True)
        else:
            for name in sorted(started.names_in(content)):
                if self.is_lost_program(name):
                    text = f"names the program {overlay.path_text(name)}, which is missing"
                    yield NamedLoss("missing-program", text, False)
        for name in sorted(started.libraries_in(content)):
            if self.is_lost_library(name):
                yield NamedLoss("missing-library", f"names {overlay.path_text(name)}, which is missing", False)
        yield from self._imports(modules.language_of(path, interpreters), content)

    def literals(self, path: bytes) -> Iterator[NamedLoss]:
        """Yield the lost paths and libraries that a compiled program names; raises :class:`FileUnreadable`."""
        content = self._new.content(path, _MAX_LITERALS)
        yield from self._paths(started.literal_paths(content), is_needed=False)
        for name in sorted(started.literal_libraries(content)):
            if self.is_lost_library(name):
                yield NamedLoss("missing-library", f"names {overlay.path_text(name)}, which is missing", False)

    def _paths(self, named: Iterable[bytes], is_needed: bool = True) -> Iterator[NamedLoss]:
        for name in sorted(named):
            if self.is_lost_path(name):
                yield NamedLoss("missing-path", f"names {overlay.path_text(name)}, which is missing", is_needed)
            elif self._access.is_denied(name):
                text = f"names {overlay.path_text(name)}, which the image's user may no longer read"
                yield NamedLoss("permission", text, is_needed)

    def _imports(self, language: str, content: bytes) -> Iterator[NamedLoss]:
        lost = self._change.losses.modules
        if not language or not lost:
            return
        for module, is_needed in modules.imports(language, content.decode("utf-8", "replace")).items():
            if module in lost and not self._is_own(module):
                yield NamedLoss("missing-module", f"imports {module.name}, which is missing", is_needed)

    def _is_own(self, module: Module) -> bool:
        return any(path.endswith(module.endings) for path in self._sources)

    def is_lost_path(self, path: bytes) -> bool:
        """True if the image shows this path over the old base alone, and it is not documentation or state."""
        names = self._change.losses.by_name
        if not any(step in names for step in path.split(b"/")) or not is_lost(self._old, self._new, path):
            return False
        return not (view.resolve(self._old, path) or b"").startswith(_DISPENSABLE)

    def is_lost_program(self, name: bytes) -> bool:
        """True if ``PATH`` finds a program over the old base alone."""
        if b"/" in name or name not in self._change.losses.by_name:
            return False
        before, after = (dependencies.find_program(side, name, self._search) for side in (self._old, self._new))
        return before is not None and after is None

    def is_lost_library(self, name: bytes) -> bool:
        """True if the old base has a library of this name, and the loader does not find it over the new base."""
        place = self._change.losses.by_name.get(name)
        try:
            elf = self._old.elf(view.resolve(self._old, place) or b"") if place else None
        except FileUnreadable:
            return False
        return elf is not None and self._loader.find_library(name, elf) is None


def is_lost(old: LayeredView, new: LayeredView, path: bytes) -> bool:
    """
    True if a path exists over the old base but not over the new base.

    Args:
        old: The image over the old base.
        new: The image over the new base.
        path: The path.
    """
    return view.resolve(new, path) is None and view.resolve(old, path) not in (None, b"")

"""The change of a base as seen by applications; computed once for all images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...linux.files import hex_digest
from ...model.impact import accounts, java, modules, runtimes, view
from ...model.impact.accounts import RenumberedAccount
from ...model.impact.elf import Elf
from ...model.impact.modules import Module
from ...model.impact.overrides import ExpectedPaths
from ...model.impact.permissions import GROUP, PASSWD
from ...model.impact.runtimes import Runtime
from ...model.impact.view import FileUnreadable
from ...model.packages.dpkg import InstalledPackage
from ...model.stack import overlay
from ...model.stack.entry import Kind
from ..packages import databases
from ..stack.directories import Stack
from .layers import UNPACKED, Layers
from .view import TEXT, BaseAfterBundles, BaseOnDisk, LayeredView

_WORDS = re.compile(rb"[\w.+@-]+")
_CAPABILITY = "security.capability"


@dataclass(slots=True)
class Losses:
    """Content of the old base that the new base lacks."""

    #: All lost paths, including those in removed directories.
    paths: set[bytes] = field(default_factory=set)
    #: True if a program, a library or a symbol version is lost.
    code: bool = False
    #: Lost language runtimes.
    runtimes: set[Runtime] = field(default_factory=set)
    #: One lost path for each name.
    by_name: dict[bytes, bytes] = field(default_factory=dict)
    #: Lost modules that programs import by name.
    modules: set[Module] = field(default_factory=set)
    #: Symbols that a library of the base defined and does not define any more.
    symbols: set[bytes] = field(default_factory=set)
    #: Python modules whose content changed but not their size and time.
    hidden_sources: set[bytes] = field(default_factory=set)


class BaseChange:
    """The old and the new content of a base, and the differences that applications depend on."""

    def __init__(
        self,
        pristine: Stack,
        new: BaseAfterBundles | BaseOnDisk,
        expected: ExpectedPaths,
        config: Mapping[str, tuple[str, str]],
        layers: Layers = UNPACKED,
    ) -> None:
        """
        Args:
            pristine: The layers of the original content, on which images were built.
            new: The new content, in bundles or on this node.
            expected: The paths that change.
            config: The difference of the base's configuration.
            layers: Reads the layers of the base and of applications.
        """
        self.layers = layers
        self.expected, self.config, self.pristine = expected, config, pristine
        self.old = BaseOnDisk(pristine, layers)
        self.new = new
        self.memory: dict[bytes, Elf | str | None] = {}
        self._concerned: dict[bytes, bool] = {}
        self._packages: dict[str, tuple[Mapping[str, InstalledPackage], Mapping[str, InstalledPackage]]] = {}
        self.old_view, self.new_view = self.views(())

    def views(self, own: Iterable[str]) -> tuple[LayeredView, LayeredView]:
        """Return views of application layers, top first, over the old and over the new base."""
        directories = tuple(own)
        old = LayeredView(directories, self.old, self.memory, self.layers)
        return old, LayeredView(directories, self.new, self.memory, self.layers)

    @cached_property
    def losses(self) -> Losses:
        """The content that the new base lacks."""
        losses = Losses()
        for path in self.expected.paths:
            before, after = self.old_view.find(path), self.new_view.find(path)
            if before is None:
                continue
            if after is None or (before.kind is Kind.DIRECTORY) != (after.kind is Kind.DIRECTORY):
                losses.paths.update(self._below(path))
            elif before.kind in (Kind.FILE, Kind.SYMLINK) and self._loses_code(path):
                losses.code = True
            elif before.kind is Kind.FILE and (symbols := self._lost_symbols(path)):
                losses.symbols |= symbols
            elif path.endswith(b".py") and self._is_hidden_source(path):
                losses.hidden_sources.add(path)
        losses.code = losses.code or any(self._is_code(path) for path in losses.paths)
        losses.by_name = {path.rpartition(b"/")[2]: path for path in sorted(losses.paths)}
        losses.modules = modules.modules(losses.paths)
        if losses.modules:
            losses.modules -= modules.modules(path for path in self.expected.paths if self.new_view.find(path))
        losses.runtimes = runtimes.runtimes(losses.paths) | set(self._lost_node())
        return losses

    def _lost_node(self) -> Iterable[Runtime]:
        """Yield the ABI of a Node that the new base replaced: official images have one path for every version."""
        for path in runtimes.NODE_HEADERS:
            before, after = (runtimes.node_abi(view.content(path)) for view in (self.old_view, self.new_view))
            if before and before != after:
                yield Runtime("node", before)

    def _below(self, path: bytes) -> Iterable[bytes]:
        pending, paths = [path], []
        while pending:
            current = pending.pop()
            paths.append(current)
            pending += [overlay.join(current, name) for name in self.old_view.names(current)]
        return paths

    def _is_code(self, path: bytes) -> bool:
        node = self.old_view.find(path)
        name = path.rpartition(b"/")[2]
        return node is not None and node.kind is not Kind.DIRECTORY and (bool(node.mode & 0o111) or b".so" in name)

    def _loses_code(self, path: bytes) -> bool:
        """True if the library at this path loses its soname or a symbol version."""
        old, new = (view.resolve(side, path) or b"" for side in (self.old_view, self.new_view))
        if runtimes.runtimes([old]) - runtimes.runtimes([new]):
            return True
        try:
            before, after = self.old_view.elf(old), self.new_view.elf(new)
        except FileUnreadable:
            return True
        if before is None:
            return False
        return (
            after is None
            or (before.bits, before.machine) != (after.bits, after.machine)
            or before.soname != after.soname
            or bool(before.version_definitions - after.version_definitions)
        )

    def _lost_symbols(self, path: bytes) -> frozenset[bytes]:
        """Return the symbols that a library loses; empty if those of the new one are unknown."""
        before = self.old_view.elf(path)
        if before is None or not before.soname:
            return frozenset()
        after = self.new_view.symbols(path).defined
        return self.old_view.symbols(path).defined - after if after else frozenset()

    def _is_hidden_source(self, path: bytes) -> bool:
        """True if a module changed but not its size and time, which ``.pyc`` files record (PEP 552)."""
        changed, real = self.expected.by_path[path], self.old_view.realpath(path)
        entry = changed.entry
        if entry is None or changed.digest is None or not real:
            return False
        st = self.layers.status(real)
        if (st.st_size, int(st.st_mtime)) != (entry.size, entry.mtime):
            return False
        with open(real, "rb") as file:
            return hex_digest(file) != changed.digest

    @cached_property
    def renumbered(self) -> list[RenumberedAccount]:
        """Accounts and groups whose number changed."""
        changed = []
        for kind, path in (("account", PASSWD), ("group", GROUP)):
            if path in self.expected.by_path:
                changed += accounts.renumbered(kind, self.old_view.content(path), self.new_view.content(path))
        return changed

    @cached_property
    def restricted(self) -> set[bytes]:
        """Paths that another owner has, or whose permission bits or capabilities are fewer."""
        paths = set()
        for path in self.expected.paths:
            before, after = self.old_view.find(path), self.new_view.find(path)
            if before is None or after is None or Kind.SYMLINK in (before.kind, after.kind):
                continue
            is_owned = (before.uid, before.gid) == (after.uid, after.gid)
            if not is_owned or before.mode & ~after.mode or self.loses_capability(path):
                paths.add(path)
        return paths

    def loses_capability(self, path: bytes) -> bool:
        """True if the file at a changed path loses its capabilities: capabilities(7), "File capabilities"."""
        after = self.expected.by_path[path].entry
        if after is None or after.kind is not Kind.FILE or _CAPABILITY in after.xattrs:
            return False
        node = self.pristine.find(path)
        return node is not None and _CAPABILITY in self.pristine.read(node.top)[0].xattrs

    @cached_property
    def version_needs(self) -> dict[bytes, list[bytes]]:
        """By library: the changed files of the base that need versions of it that they did not need before."""
        needs: dict[bytes, list[bytes]] = {}
        for path in self.expected.paths:
            try:
                before, after = self.old_view.elf(path), self.new_view.elf(path)
            except FileUnreadable:
                continue
            for name, versions in after.version_needs.items() if after else ():
                if versions - (before.version_needs.get(name, frozenset()) if before else frozenset()):
                    needs.setdefault(name, []).append(path)
        return needs

    @cached_property
    def replaces_java(self) -> bool:
        """True if the bundles change the version file of a Java home."""
        return any(path.endswith(b"/" + java.RELEASE) for path in {*self.expected.paths, *self.losses.paths})

    @cached_property
    def _lost_words(self) -> set[bytes]:
        """The names of lost files, and the last words of the names of lost modules."""
        ends = (re.findall(r"\w+", module.name)[-1:] for module in self.losses.modules)
        return {*self.losses.by_name, *(word.encode() for words in ends for word in words)}

    def concerns(self, real: bytes) -> bool:
        """True if the beginning of a file in a layer has a word that a lost file or module has; cached."""
        if real not in self._concerned:
            self._concerned[real] = self._has_lost_word(real)
        return self._concerned[real]

    def _has_lost_word(self, real: bytes) -> bool:
        try:
            with open(real, "rb") as file:
                text = file.read(TEXT)
        except OSError:
            return True  # the caller reads the file through the view, and has the error
        if b"\0" in text:
            return False
        if self.restricted and b"/" in text:
            return True
        words = _WORDS.findall(text)
        return not self._lost_words.isdisjoint(
            [*words, *(word.rstrip(b".") for word in words), *re.findall(rb"\w+", text)]
        )

    def changes_packages(self, manager: str) -> bool:
        """True if the bundles change the database of a package manager, a key of ``databases.DATABASES``."""
        paths = databases.DATABASES[manager]
        return any(path in self.expected.by_path or path in self.losses.paths for path in paths)

    def packages(self, manager: str) -> tuple[Mapping[str, InstalledPackage], Mapping[str, InstalledPackage]]:
        """Return the packages of the old and of the new base, by name; raises :class:`FileUnreadable`."""
        if manager not in self._packages:
            self._packages[manager] = installed(self.old_view, manager), installed(self.new_view, manager)
        return self._packages[manager]


def installed(view: LayeredView, manager: str) -> Mapping[str, InstalledPackage]:
    """
    Return the packages of an image or a base, by name.

    Raises:
        FileUnreadable: A database cannot be read.
    """
    try:
        return databases.installed(manager, lambda path: view.content(path) if view.find(path) else None)
    except databases.DatabaseUnreadable as exc:
        raise FileUnreadable(str(exc)) from exc

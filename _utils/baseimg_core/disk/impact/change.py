"""The change of a base as seen by applications; computed once for all images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...linux.files import hex_digest
from ...model.impact import accounts, runtimes
from ...model.impact.accounts import RenumberedAccount
from ...model.impact.elf import Elf
from ...model.impact.overrides import ExpectedPaths
from ...model.impact.runtimes import Runtime
from ...model.impact.view import FileUnreadable
from ...model.packages.dpkg import InstalledPackage
from ...model.stack import overlay
from ...model.stack.entry import Kind
from ..packages import databases
from ..stack.directories import Stack
from .layers import UNPACKED, Layers
from .view import BaseAfterBundles, BaseOnDisk, LayeredView

PASSWD, GROUP = b"etc/passwd", b"etc/group"


@dataclass(slots=True)
class Losses:
    """Content of the old base that the new base lacks."""

    #: All lost paths, including those in removed directories.
    paths: set[bytes] = field(default_factory=set)
    #: True if a program, a library or a symbol version is lost.
    code: bool = False
    #: Lost language runtimes.
    runtimes: set[Runtime] = field(default_factory=set)
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
            elif before.kind is Kind.FILE and self._loses_code(path):
                losses.code = True
            elif path.endswith(b".py") and self._is_hidden_source(path):
                losses.hidden_sources.add(path)
        losses.code = losses.code or any(self._is_code(path) for path in losses.paths)
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
        try:
            before, after = self.old_view.elf(path), self.new_view.elf(path)
        except FileUnreadable:
            return True
        if before is None:
            return False
        return (
            after is None
            or before.soname != after.soname
            or bool(before.version_definitions - after.version_definitions)
        )

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
        Unreadable: A database cannot be read.
    """
    try:
        return databases.installed(manager, lambda path: view.content(path) if view.find(path) else None)
    except databases.DatabaseUnreadable as exc:
        raise FileUnreadable(str(exc)) from exc

"""The files by which the updates in one content are judged, and which of them an image or a container hides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from ..disk.fixes import other_places
from ..disk.impact.layer_scan import LayerScanner
from ..disk.impact.view import BaseOnDisk, LayeredView
from ..disk.packages import databases, fixes
from ..disk.stack.directories import Stack, StackNode
from ..model.fixes import effect
from ..model.impact import overrides
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.impact.path_class import IGNORED, PathClass, classify
from ..model.impact.view import resolve
from ..model.packages.difference import Packages
from ..model.stack import overlay
from ..model.stack.entry import Entry


class UpdatedFiles:
    """The changed files of each update in one content that can carry a fix."""

    def __init__(self, packages: Packages, old: Stack | None, new: Stack, digests: Mapping[bytes, str]) -> None:
        """
        Args:
            packages: What the content changes.
            old: The content before; ``None`` if it is not on this node.
            new: The content.
            digests: Hex sha256 of its files. A file without a digest counts as different from every copy.
        """
        self._packages, self._old, self._new, self._digests = packages, old, new, digests
        self._scanner: LayerScanner | None = None
        self._hidden: dict[tuple[str, ...], frozenset[bytes]] = {}

    @property
    def owned(self) -> dict[str, set[bytes] | None]:
        """The paths by package, or absolute path of a file outside of packages; ``None`` if they are unknown."""
        return self._collected[0]

    @property
    def paths(self) -> Collection[bytes]:
        """All these paths."""
        return self._entries.keys()

    @property
    def _entries(self) -> dict[bytes, ExpectedPath]:
        """What is expected at each of these paths."""
        return self._collected[1]

    @cached_property
    def _collected(self) -> tuple[dict[str, set[bytes] | None], dict[bytes, ExpectedPath]]:
        packages, updates = self._packages, effect.updates(self._packages)
        listed = {} if packages.owners is not None else self._owners_on_disk(updates)
        owned: dict[str, set[bytes] | None] = {}
        entries: dict[bytes, ExpectedPath] = {}
        for name in updates:
            if name.startswith("/"):
                owned[name] = self._add_deciding(entries, self._at(packages.owned(name) or ()), True, is_named=True)
                continue
            is_recorded = packages.owners is not None
            paths = packages.owned(name) if is_recorded else listed.get(name, listed.get(name.partition(":")[0]))
            owned[name] = None if paths is None else self._add_deciding(entries, effect.decisive(paths), is_recorded)
        return owned, entries

    @cached_property
    def replaced(self) -> set[str]:
        """The absolute paths that have another content than the one that was named as a fix."""
        named = self._packages.contents.items()
        return {path for path, content in named if fixes.content_of(self._new, path) != content}

    def _owners_on_disk(self, updates: Iterable[str]) -> Mapping[str, Collection[bytes]]:
        """Return the files of packages from the databases of both contents, changed or not."""
        if self._old is None:  # the files that the update removed are unknown
            return {}
        names = {*updates, *(name.partition(":")[0] for name in updates)}
        listed: dict[str, set[bytes]] = {}
        for stack in (self._old, self._new):
            for name, paths in databases.files(stack, self._packages.manager, names).items():
                listed.setdefault(name, set()).update(paths, (b"usr/" + path for path in paths))
        return listed

    def _at(self, paths: Collection[bytes]) -> set[bytes]:
        """Return paths that an operator named, with every file below them."""
        stacks = [stack for stack in (self._old, self._new) if stack]
        return {*paths, *(file for stack in stacks for file in stack.files_below(paths))}

    def _add_deciding(
        self, entries: dict[bytes, ExpectedPath], paths: Collection[bytes], is_changed: bool, is_named: bool = False
    ) -> set[bytes]:
        """Return the paths that can carry a fix, and add what is expected there."""
        deciding = set()
        for path in paths:
            entry, before = _entry(self._new, path), _entry(self._old, path) if self._old else None
            if entry is None and before is None and not is_changed:
                continue  # another name of the same file, below a merged /usr
            if entry is None and before and before.is_dir and not is_named:
                continue  # its files are listed, too
            if _decides(path, entry, before):
                entries[path] = ExpectedPath(path, entry, self._digests.get(path))
                deciding.add(path)
        return deciding

    def hidden_in(self, layers: tuple[str, ...]) -> frozenset[bytes]:
        """
        Return the paths that layers over the content hide. Each stack of layers is scanned once.

        Args:
            layers: Their directories, top first.

        Raises:
            LayerUnsupported: A layer cannot be read.
        """
        if not self._entries:
            return frozenset()
        if layers not in self._hidden:
            expected = ExpectedPaths(self._entries)
            self._scanner = self._scanner or LayerScanner(expected)
            shadowed = overrides.shadowed_paths(expected, self._scanner.stack(layers))
            self._hidden[layers] = frozenset(shadow.path for shadow in shadowed)
        return self._hidden[layers]

    def absent(self, paths: Iterable[bytes], image: Stack) -> set[bytes]:
        """
        Return those of some paths at which an image removed the file: it shows no old one, so the fix is not missing.

        A file that the old content does not have may be the fix itself. Without a configuration, a default is in force.

        Args:
            paths: Paths that the image hides.
            image: What the image shows.
        """
        old = self._old
        removable = [path for path in paths if old and not path.startswith(b"etc/") and old.find(path)]
        return {path for path in removable if _is_absent(image, path)}

    def below(self, volumes: Iterable[str], image: Stack) -> set[bytes]:
        """
        Return the paths at and below mount points.

        Args:
            volumes: The mount points, as absolute paths.
            image: What the image shows: ``/lib`` may be a symlink.
        """
        view = LayeredView((), BaseOnDisk(image), {})
        points = {resolve(view, volume.encode("utf-8", "surrogateescape"), partial=True) for volume in volumes}
        return {path for path in self._entries if not points.isdisjoint((path, *overlay.ancestors(path)))}

    def read_elsewhere(self, layers: Sequence[str], image: Stack) -> set[bytes]:
        """
        Return the files of which programs read an older copy in another place, in layers over the content.

        Args:
            layers: Their directories, top first.
            image: What the image shows.
        """
        places = other_places.below_own_directories(self._entries, self._new, image)
        return places | other_places.compiled(self._entries, layers, image)

    def not_from(self, layers: Collection[str], image: Stack) -> set[bytes]:
        """Return the existing paths that a stack does not show from one of these layers."""
        roots = tuple(layer.rstrip("/").encode("utf-8", "surrogateescape") + b"/" for layer in layers)
        existing = [path for path, expected in self._entries.items() if expected.entry]
        return {path for path in existing if not (node := image.find(path)) or not node.top.startswith(roots)}


def _is_absent(stack: Stack, path: bytes) -> bool:
    """True if a stack has nothing at a path, and no symlink leads there."""
    if stack.find(path):
        return False
    nearest = next((node for parent in overlay.ancestors(path) if (node := stack.find(parent))), None)
    return nearest is None or nearest.is_dir


def _entry(stack: Stack, path: bytes) -> Entry | None:
    node: StackNode | None = stack.find(path)
    return stack.read(node.top)[0] if node else None


def _decides(path: bytes, entry: Entry | None, before: Entry | None) -> bool:
    """True if a change of a path can carry a fix. Of a directory, only its permissions and attributes can."""
    if entry and entry.is_dir:
        is_same = before is not None and replace(entry, mtime_ns=0, size=0) == replace(before, mtime_ns=0, size=0)
        return before is not None and not is_same and classify(path, None) not in IGNORED - {PathClass.DIRECTORY}
    return classify(path, entry) not in IGNORED

"""
What application layers have at the paths that a new base changes. Reads only those paths, and follows no symlink.

A layer is not walked: in each of its directories that lies on the way to a changed path the names that matter are
looked up. So a layer that has nothing of the base's costs one look into its root, however large it is.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator

from ...errors import BundleInvalid, LayerUnsupported
from ...linux.files import hex_digest
from ...model.impact.overrides import Layer, Own, Want, Wanted
from ...model.stack import overlay
from ...model.stack.entry import Kind, differences, kind_of
from ...model.stack.overlay import Mark
from ...progress import StepProgress
from ..bundle.layer import Member
from ..bundle.reader import Bundle
from ..stack.directories import Stack, entry_of
from ..stack.tree import Tree

_FEW = 16  # names that are looked up one by one instead of listing the directory
_shared = functools.cache(Own)  # there are few different ones, and may be millions of paths


class Layers:
    """Application layers, each read once, however many images share it."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._read: dict[str, Layer] = {}

    def stack(self, directories: Iterable[str]) -> list[Layer]:
        """What these layers have, in the same order; raises :class:`LayerUnsupported` for one that cannot be judged."""
        return [self._layer(directory) for directory in directories]

    def _layer(self, directory: str) -> Layer:
        if directory not in self._read:
            try:
                self._read[directory] = look(directory, self._wanted)
            except FileNotFoundError as exc:
                raise LayerUnsupported(
                    f"{directory} disappeared while it was read", "run again: an image was removed meanwhile"
                ) from exc
        return self._read[directory]


def look(directory: str, wanted: Wanted) -> Layer:
    """What one layer has at changed paths and above them, sparse."""
    found: dict[bytes, Own] = {}
    tree = Tree(directory)
    try:
        pending = [b""]
        while pending:
            path = pending.pop()
            descriptor = tree.directory(path)
            for name, st in _present(descriptor, wanted.names.get(path, set())):
                child = overlay.join(path, name)
                if own := _own(descriptor, name, st, wanted.by_path.get(child)):
                    found[child] = own
                    if own.kind is Kind.DIRECTORY and child in wanted.names:
                        pending.append(child)
    finally:
        tree.close()
    return found


def wants(bundle: Bundle, progress: StepProgress | None = None, old: Stack | None = None) -> Iterator[Want]:
    """
    What the new base shows at each path that a bundle changes. ``old``, and what is raised: :meth:`Bundle.members`.
    """
    leaders: dict[bytes, Member] = {}
    closed: set[bytes] = set()
    for member, _stream in bundle.members(progress, old):
        if any(above in closed for above in overlay.ancestors(member.path)):
            raise BundleInvalid(f"{overlay.shown(member.path)} lies below a path that is no directory")
        if member.leads:
            leaders[member.path] = member
        shown = leaders.get(member.link) if member.link is not None else member
        if shown is None:
            raise BundleInvalid(f"{overlay.shown(member.path)} is linked to a path that the bundle does not carry")
        want = Want(member.path, shown.entry, shown.digest)
        if want.mark is not Mark.DIRECTORY:
            closed.add(want.path)
        yield want


def _present(descriptor: int, names: set[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """Those of the names that a directory has."""
    if len(names) > _FEW:
        names = names.intersection(map(os.fsencode, os.listdir(descriptor)))
    for name in sorted(names):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)


def _own(descriptor: int, name: bytes, st: os.stat_result, want: Want | None) -> Own | None:
    kind = kind_of(st.st_mode)
    if overlay.is_whiteout(st.st_mode, st.st_rdev):
        return _shared(Mark.WHITEOUT)
    if kind is None:  # a socket: no view depends on it
        return None
    same = _same(descriptor, name, st, kind, want)
    if kind is not Kind.DIRECTORY:
        return _shared(Mark.LEAF, kind, same)
    return _shared(Mark.OPAQUE if _is_opaque(descriptor, name) else Mark.DIRECTORY, kind, same)


def _same(descriptor: int, name: bytes, st: os.stat_result, kind: Kind, want: Want | None) -> bool:
    """Whether the layer has at this path what the new base has, apart from times."""
    if want is None or want.entry is None or want.entry.kind is not kind:
        return False
    entry = entry_of(b"/proc/self/fd/%d/%s" % (descriptor, name), st, kind)
    if set(differences(entry, want.entry)) - {"mtime"}:
        return False
    return kind is not Kind.FILE or _digest(descriptor, name) == want.digest


def _digest(descriptor: int, name: bytes) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=descriptor), "rb") as file:
        return hex_digest(file)


def _is_opaque(descriptor: int, name: bytes) -> bool:
    path = b"/proc/self/fd/%d/%s" % (descriptor, name)
    try:
        return os.getxattr(path, overlay.OPAQUE_XATTR, follow_symlinks=False) == overlay.OPAQUE_VALUE
    except OSError:  # ENODATA: the attribute is absent, the usual case
        return False

"""Computes the mask of a stack of layer directories (:mod:`model.stack.mask`). Reads only."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Mapping, Sequence

from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.mask import MaskEntry
from ...model.stack.mask import mask as decide
from .compare import same_files
from .directories import Stack, StackNode, entry_of

_CACHED = 8  # directories; the views of one mask read the same directory in turn


def mask(target: Stack, below: Sequence[Stack]) -> list[MaskEntry]:
    """
    Return a layer that shows the same view as ``target`` over each stack of ``below``.

    Args:
        target: The stack to show.
        below: The possible stacks below the mask, one for each content of the lower layers.

    Returns:
        The mask's paths, ordered by path.

    Raises:
        LayerUnsupported: A path has an overlay mark that cannot be copied.
    """
    children = functools.lru_cache(_CACHED)(target.children)  # a node has the same children in every stack
    return decide(_View(target, children), [_View(stack, children) for stack in below], _same_content)


class _View:
    """The view of a stack (:class:`model.stack.mask.StackView`). Equal nodes of two stacks are the same files."""

    def __init__(self, stack: Stack, children: Callable[[StackNode], dict[bytes, StackNode]]) -> None:
        self.root = stack.root
        self._children = children

    def children(self, node: StackNode) -> Mapping[bytes, StackNode]:
        return self._children(node)

    def is_dir(self, node: StackNode) -> bool:
        return node.is_dir

    def entry(self, node: StackNode) -> Entry:
        st = os.lstat(node.top)
        kind = kind_of(st.st_mode)
        assert kind is not None  # a stack skips sockets
        return entry_of(node.top, st, kind)

    def inode(self, node: StackNode) -> Hashable:
        st = os.lstat(node.top)
        return (st.st_dev, st.st_ino) if st.st_nlink > 1 else None

    def has_strays(self, node: StackNode) -> bool:
        if len(node.paths) > 1:
            return False
        with os.scandir(node.top) as entries:
            return any(_is_whiteout(entry) for entry in entries)


def _is_whiteout(entry: os.DirEntry[bytes]) -> bool:
    if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False) or entry.is_symlink():
        return False
    st = entry.stat(follow_symlinks=False)
    return overlay.is_whiteout(st.st_mode, st.st_rdev)


def _same_content(target: StackNode, below: StackNode) -> bool:
    st, other = os.lstat(target.top), os.lstat(below.top)
    if kind_of(st.st_mode) is not Kind.FILE or (st.st_dev, st.st_ino) == (other.st_dev, other.st_ino):
        return True
    return same_files(target.top, below.top)

"""Random stacks of layer directories: hypothesis strategies for them, and their form on disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from baseimg_core.disk.stack.directories import Stack
from baseimg_core.model.stack.overlay import ancestors

NAMES = [b"a", b"b", b"c", b".dot", b"new\nline", b"\xff\xfe", b"n" * 255]
KINDS = ["file", "file", "directory", "directory", "symlink", "fifo", "chardev", "whiteout", "opaque", "link"]


@dataclass(frozen=True)
class Step:
    """One thing that a layer does: put something of a kind at a path, or take the path away."""

    path: bytes
    kind: str
    mode: int
    owner: int
    mtime: int
    content: bytes
    xattr: bytes | None


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
steps = st.builds(
    Step,
    path=paths,
    kind=st.sampled_from(KINDS),
    mode=st.sampled_from([0o644, 0o755, 0o4755, 0o1777]),
    owner=st.sampled_from([0, 1000]),
    mtime=st.sampled_from([1_000_000_000, 1_000_000_001]),
    content=st.sampled_from([b"", b"x", b"y", b"longer"]),
    xattr=st.sampled_from([None, None, None, b"v"]),
)
layers = st.lists(steps, max_size=10)


def make_stack(where: Path, programs: Sequence[Sequence[Step]], below: Sequence[Path] = ()) -> list[Path]:
    """
    Make a layer directory of each program (bottom first) above ``below`` (top first); returns the stack, top first.
    """
    stack = list(below)
    for program in programs:
        layer = where / f"layer{len(stack)}"
        layer.mkdir(parents=True)
        _fill(layer, program, stack)
        stack.insert(0, layer)
    return stack


def _fill(layer: Path, program: Sequence[Step], lower: list[Path]) -> None:
    root = os.fsencode(layer)
    made: list[tuple[bytes, Step]] = []
    for step in program:
        if _put(root, step, [path for path, entry in made if entry.kind == "file"], lower):
            made.append((os.path.join(root, step.path), step))
    for path, step in reversed(made):
        _dress(path, step)
    for directory, _names, _files in os.walk(root, topdown=False):
        times = [step.mtime for path, step in made if path == directory]
        os.utime(directory, (0, times[0] if times else 1_000_000_000))


def _put(root: bytes, step: Step, files: list[bytes], lower: list[Path]) -> bool:
    path = os.path.join(root, step.path)
    if any(os.path.islink(os.path.join(root, above)) for above in ancestors(step.path)):
        return False
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    if os.path.lexists(path):
        return False
    if step.kind == "whiteout":
        # an engine makes one only for what is there
        possible = bool(lower) and _shows([Path(os.fsdecode(root)), *lower], step.path)
    else:
        possible = step.kind != "link" or bool(files)
    if possible:
        _make(path, step, files)
    return possible


def _make(path: bytes, step: Step, files: list[bytes]) -> None:
    if step.kind == "whiteout":
        os.mknod(path, stat.S_IFCHR, 0)
    elif step.kind == "link":
        os.link(files[0], path)
    elif step.kind == "file":
        Path(os.fsdecode(path)).write_bytes(step.content)
    elif step.kind == "symlink":
        os.symlink(step.content or b"a", path)
    elif step.kind == "fifo":
        os.mkfifo(path)
    elif step.kind == "chardev":
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        os.mkdir(path)
        if step.kind == "opaque":
            os.setxattr(path, "trusted.overlay.opaque", b"y")


def _shows(stack: list[Path], path: bytes) -> bool:
    return Stack([str(layer) for layer in stack]).find(path) is not None  # a mount takes too long to make hundreds


def _dress(path: bytes, step: Step) -> None:
    if step.kind in ("whiteout", "link"):
        return
    os.chown(path, step.owner, step.owner, follow_symlinks=False)
    if step.kind != "symlink":
        os.chmod(path, step.mode)
        if step.xattr is not None:
            name = "user.test" if step.kind in ("file", "directory", "opaque") else "trusted.test"
            os.setxattr(path, name, step.xattr)
    os.utime(path, (0, step.mtime), follow_symlinks=False)

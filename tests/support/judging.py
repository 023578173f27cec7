"""The change between two trees, as a bundle records it: judges need neither an engine nor a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from baseimg_core.disk.impact.change import BaseChange
from baseimg_core.disk.impact.view import BaseAfterBundles, BaseOnDisk, NewFile, read_new_file
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.linux.files import hex_digest
from baseimg_core.model.impact.overrides import ExpectedPath, ExpectedPaths
from baseimg_core.model.stack.entry import Kind


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a directory; those in a ``bin`` directory are programs."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if "bin" in path.parts else 0o644)
    return root


def base_change(old: Sequence[Path], new: Sequence[Path]) -> BaseChange:
    """Return the change as a bundle between the two stacks of layers, top first, records it."""
    expected: dict[bytes, ExpectedPath] = {}
    files: dict[bytes, NewFile] = {}
    stack, target = (Stack([str(layer) for layer in layers]) for layers in (old, new))
    for change in compare(stack, target):
        digest = None
        if change.entry and change.entry.kind is Kind.FILE:
            node = target.find(change.path)
            assert node
            with open(node.top, "rb") as file:
                digest = hex_digest(file)
                file.seek(0)
                files[change.path] = read_new_file(change.path, change.entry.size, file.read)
        expected[change.path] = ExpectedPath(change.path, change.entry, digest, change.is_time)
    paths = ExpectedPaths(expected)
    return BaseChange(stack, BaseAfterBundles(BaseOnDisk(stack), paths, files), paths, {})

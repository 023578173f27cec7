"""
Fixed files that an image shows in the new form, although a program reads an older copy of them in another place.

There are two such places. One is an image's own directory ``/lib``, if the base has the symlink of a merged ``/usr``
there. The other is the compiled form of a Python module (PEP 3147, PEP 552).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from ...linux.files import hex_digest
from ...model.impact import derived
from ...model.impact.overrides import ExpectedPath
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, differences
from ..stack.directories import Stack, StackNode

_USR = b"usr/"
_CACHE = b"__pycache__"
_HEADER = 16  # bytes: magic number, flags, time and size of the source, or its hash
_BY_HASH, _CHECKED = 1, 3  # flags


def below_own_directories(expected: Mapping[bytes, ExpectedPath], content: Stack, image: Stack) -> set[bytes]:
    """
    Return the files of ``/usr/lib`` that an image has again below a directory ``/lib`` of its own, and that differ.

    The base has a symlink to ``usr/lib`` there. The same holds for ``/bin``, ``/sbin`` and ``/lib64``.

    Args:
        expected: What the content shows at each fixed path.
        content: The content of the base.
        image: What the image shows.
    """
    parts = {path.split(b"/")[1] for path in expected if path.startswith(_USR)}
    own = [b"%s%s/" % (_USR, name) for name in parts if _is_merged(content, name) and _is_directory(image, name)]
    return {
        path
        for path, each in expected.items()
        if path.startswith(tuple(own))
        and (node := image.find(path.removeprefix(_USR)))
        and not _is_same(image, node, each)
    }


def _is_merged(stack: Stack, name: bytes) -> bool:
    node = stack.find(name)
    entry = stack.read(node.top)[0] if node and not node.is_dir else None
    return entry is not None and entry.kind is Kind.SYMLINK and entry.target.strip(b"/") == _USR + name


def _is_directory(stack: Stack, name: bytes) -> bool:
    node = stack.find(name)
    return node is not None and node.is_dir


def _is_same(stack: Stack, node: StackNode, expected: ExpectedPath) -> bool:
    entry = stack.read(node.top)[0]
    if expected.entry is None or set(differences(entry, expected.entry)) - {"mtime"}:
        return False
    if entry.kind is not Kind.FILE:
        return True
    with open(node.top, "rb") as file:
        return hex_digest(file) == expected.digest


def compiled(expected: Mapping[bytes, ExpectedPath], layers: Sequence[str], image: Stack) -> set[bytes]:
    """
    Return the Python modules whose compiled form in some layers Python takes for that of the new module.

    Args:
        expected: What the content shows at each fixed path.
        layers: The directories of the layers over the content. They were made with an older content.
        image: What the image shows.
    """
    modules = {path: each.entry for path, each in expected.items() if each.entry and path.endswith(b".py")}
    directories = {overlay.split(path)[0] for path in modules}
    hidden = set()
    for layer in map(os.fsencode, layers):
        for path in _compiled_in(layer, directories):
            source = derived.source_of(path) or b""
            is_own = source in modules and _shows(image, path, layer) and not _shows(image, source, layer)
            if is_own and _is_used(os.path.join(layer, path), modules[source]):
                hidden.add(source)
    return hidden


def _compiled_in(layer: bytes, directories: set[bytes]) -> Iterator[bytes]:
    for directory in directories:
        place = overlay.join(directory, _CACHE)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(os.path.join(layer, place)):
                yield overlay.join(place, name)


def _shows(image: Stack, path: bytes, layer: bytes) -> bool:
    node = image.find(path)
    return node is not None and node.top == os.path.join(layer, path)


def _is_used(compiled_file: bytes, source: Entry) -> bool:
    """True if Python does not compile a module again, as far as the header of its compiled form decides."""
    with open(compiled_file, "rb") as file:
        header = file.read(_HEADER)
    if len(header) < _HEADER:
        return False
    flags, time, size = (int.from_bytes(header[start : start + 4], "little") for start in (4, 8, 12))
    if flags & _BY_HASH:
        return flags != _CHECKED
    return (time, size) == (source.mtime & 0xFFFFFFFF, source.size & 0xFFFFFFFF)

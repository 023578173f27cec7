"""The overlay rules for one name in a stack of layers, as pure functions."""

from __future__ import annotations

import os
import stat

import pytest

from baseimg_core.model.stack import overlay
from baseimg_core.model.stack.overlay import Mark

ABSENT, WHITEOUT, LEAF, DIRECTORY, OPAQUE = Mark.ABSENT, Mark.WHITEOUT, Mark.LEAF, Mark.DIRECTORY, Mark.OPAQUE


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        # no layer has the name
        ([], []),
        ([ABSENT, ABSENT], []),
        # leaves: only the topmost is visible
        ([LEAF], [0]),
        ([ABSENT, LEAF], [1]),
        ([LEAF, LEAF], [0]),
        ([LEAF, DIRECTORY], [0]),
        ([LEAF, WHITEOUT], [0]),
        # directories merge; a leaf below them ends the merge
        ([DIRECTORY], [0]),
        ([DIRECTORY, DIRECTORY, DIRECTORY], [0, 1, 2]),
        ([DIRECTORY, ABSENT, DIRECTORY], [0, 2]),
        ([ABSENT, DIRECTORY, ABSENT, DIRECTORY], [1, 3]),
        ([DIRECTORY, LEAF], [0]),
        ([DIRECTORY, LEAF, DIRECTORY], [0]),
        ([DIRECTORY, DIRECTORY, LEAF, DIRECTORY], [0, 1]),
        # a whiteout hides the layers below it
        ([WHITEOUT], []),
        ([WHITEOUT, LEAF], []),
        ([WHITEOUT, DIRECTORY], []),
        ([ABSENT, WHITEOUT, LEAF], []),
        ([DIRECTORY, WHITEOUT, DIRECTORY], [0]),
        ([DIRECTORY, ABSENT, WHITEOUT, DIRECTORY], [0]),
        ([LEAF, WHITEOUT, LEAF], [0]),
        # an opaque directory is the lowest visible one
        ([OPAQUE], [0]),
        ([OPAQUE, DIRECTORY], [0]),
        ([OPAQUE, LEAF], [0]),
        ([DIRECTORY, OPAQUE, DIRECTORY], [0, 1]),
        ([OPAQUE, OPAQUE], [0]),
        ([WHITEOUT, OPAQUE], []),
        ([LEAF, OPAQUE], [0]),
    ],
)
def test_which_layers_a_name_is_seen_from(marks: list[Mark], expected: list[int]) -> None:
    assert overlay.contributing(marks) == expected


@pytest.mark.parametrize(
    ("mode", "device", "expected"),
    [
        (stat.S_IFCHR, os.makedev(0, 0), True),
        (stat.S_IFCHR | 0o644, os.makedev(0, 0), True),
        (stat.S_IFCHR, os.makedev(1, 3), False),
        (stat.S_IFCHR, os.makedev(0, 1), False),
        (stat.S_IFBLK, os.makedev(0, 0), False),
        (stat.S_IFREG, 0, False),
        (stat.S_IFIFO, 0, False),
    ],
)
def test_whiteouts(mode: int, device: int, expected: bool) -> None:
    assert overlay.is_whiteout(mode, device) is expected


@pytest.mark.parametrize("name", ["user.a", "security.capability", "trusted.test", "system.posix_acl_access"])
def test_xattrs_that_a_layer_carries(name: str) -> None:
    assert overlay.is_carried(name)


@pytest.mark.parametrize(
    "name",
    [
        *(f"trusted.overlay.{word}" for word in ("opaque", "origin", "impure", "uuid", "upper", "nlink", "redirect")),
        "security.selinux",
    ],
)
def test_xattrs_that_stay_behind(name: str) -> None:
    assert not overlay.is_carried(name)


def test_marks_that_are_refused() -> None:
    assert {"trusted.overlay.redirect", "trusted.overlay.metacopy"} <= overlay.UNSUPPORTED_MARKS
    assert overlay.OPAQUE_XATTR not in overlay.UNSUPPORTED_MARKS


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"", []), (b"a", []), (b"a/b", [b"a"]), (b"a/b/c", [b"a/b", b"a"]), (b"a\n/\xff/c", [b"a\n/\xff", b"a\n"])],
)
def test_ancestors(path: bytes, expected: list[bytes]) -> None:
    assert list(overlay.ancestors(path)) == expected


@pytest.mark.parametrize(
    ("directory", "name", "path"), [(b"", b"a", b"a"), (b"a", b"b", b"a/b"), (b"a/b", b"c", b"a/b/c")]
)
def test_join_and_split_are_inverse(directory: bytes, name: bytes, path: bytes) -> None:
    assert overlay.join(directory, name) == path
    assert overlay.split(path) == (directory, name)


def test_any_path_can_be_shown() -> None:
    assert overlay.path_text("etc/ä\n".encode()) == r"etc/ä\n"
    text = overlay.path_text(b"etc/\xff")
    assert text == r"etc/\xff"
    text.encode("utf-8")

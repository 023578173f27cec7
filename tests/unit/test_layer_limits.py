"""The layer writer enforces every limit of the reader, so every bundle that builds also applies."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from baseimg_core.disk.bundle import layer, tar
from baseimg_core.errors import BundleInvalid, LayerUnsupported
from baseimg_core.model.stack.changes import Action, Change
from baseimg_core.model.stack.entry import NANO, Entry, Kind

FILE = Entry(Kind.FILE, 0o644)
LINK = Entry(Kind.SYMLINK, 0o777, target=b"x")
DEVICE = Entry(Kind.CHAR, 0o600, device=(1, 3))

# limit -> the highest value that reader and writer accept, and the next value, which both refuse; each as (path, entry)
LIMITS: dict[str, tuple[tuple[bytes, Entry], tuple[bytes, Entry]]] = {
    "time": ((b"a", replace(FILE, mtime_ns=((1 << 33) - 1) * NANO)), (b"a", replace(FILE, mtime_ns=(1 << 33) * NANO))),
    "early time": (
        (b"a", replace(FILE, mtime_ns=-((1 << 33) - 1) * NANO)),
        (b"a", replace(FILE, mtime_ns=-(1 << 33) * NANO)),
    ),
    "user": ((b"a", replace(FILE, uid=(1 << 32) - 2)), (b"a", replace(FILE, uid=(1 << 32) - 1))),
    "group": ((b"a", replace(FILE, gid=(1 << 32) - 2)), (b"a", replace(FILE, gid=(1 << 32) - 1))),
    "major": ((b"a", replace(DEVICE, device=(4095, 1))), (b"a", replace(DEVICE, device=(4096, 1)))),
    "minor": ((b"a", replace(DEVICE, device=(1, (1 << 20) - 1))), (b"a", replace(DEVICE, device=(1, 1 << 20)))),
    "whiteout": ((b"a", DEVICE), (b"a", replace(DEVICE, device=(0, 0)))),
    "symlink": ((b"a", replace(LINK, target=b"t" * 4095)), (b"a", replace(LINK, target=b"t" * 4096))),
    "empty symlink": ((b"a", LINK), (b"a", replace(LINK, target=b""))),
    "name": ((b"n" * 255, FILE), (b"n" * 256, FILE)),
    "path": ((b"/".join([b"d" * 15] * 255) + b"/" + b"d" * 15, FILE), (b"/".join([b"d" * 15] * 256) + b"/d", FILE)),
    "whiteout's name": ((b".wha", FILE), (b".wh.a/b", FILE)),
    "attribute's name": ((b"a", replace(FILE, xattrs={"user.a": b""})), (b"a", replace(FILE, xattrs={"plain": b""}))),
    "attributes": (
        (b"a", replace(FILE, xattrs={f"user.{number}": bytes(65_000) for number in range(16)})),
        (b"a", replace(FILE, xattrs={f"user.{number}": bytes(65_000) for number in range(17)})),
    ),
    "trusted.overlay": (
        (b"a", replace(FILE, xattrs={"trusted.other": b""})),
        (b"a", replace(FILE, xattrs={"trusted.overlay.opaque": b"y"})),
    ),
}


def read(data: bytes) -> list[layer.Member]:
    stream = io.BytesIO(data + tar.END)
    return list(layer.members(stream, lambda count: stream.seek(count, io.SEEK_CUR) and None))


@pytest.mark.parametrize("what", LIMITS)
def test_limit(what: str) -> None:
    (path, entry), (refused_path, refused_entry) = LIMITS[what]
    (member,) = read(layer.header(Change(path, Action.ADDED, entry=entry)))
    assert (member.path, member.entry) == (path, entry)
    with pytest.raises(LayerUnsupported) as caught:
        layer.header(Change(refused_path, Action.ADDED, entry=refused_entry))
    assert caught.value.hint


@pytest.mark.parametrize("what", [("mtime",), ("mode", "uid"), ("xattrs",)])
def test_unchanged_content_is_left_out(what: tuple[str, ...]) -> None:
    entry = replace(FILE, size=7)
    head = layer.header(Change(b"a", Action.MODIFIED, what, entry), "0" * 64)
    assert read(head) == [layer.Member(b"a", entry, digest="0" * 64, is_time=what == ("mtime",), kept=True)]


@pytest.mark.parametrize(
    "change",
    [
        Change(b"a", Action.ADDED, entry=replace(FILE, size=7)),
        Change(b"a", Action.MODIFIED, ("mtime", "content"), replace(FILE, size=7)),
        Change(b"a", Action.MODIFIED, ("mtime", "size"), replace(FILE, size=7)),
        Change(b"a", Action.MODIFIED, ("links",), replace(FILE, size=7)),
        Change(b"a", Action.MODIFIED, ("mtime",), replace(FILE, size=7), leads=True),
        Change(b"b", Action.MODIFIED, ("mtime",), replace(FILE, size=7), link=b"a"),
        Change(b"a", Action.MODIFIED, ("mtime",), FILE),
        Change(b"a", Action.MODIFIED, ("mtime",), LINK),
        Change(b"a", Action.MODIFIED, ("type", "mtime"), replace(FILE, size=7)),
    ],
)
def test_all_other_content_is_carried(change: Change) -> None:
    assert not change.keeps_content


@pytest.mark.parametrize("what", LIMITS)
def test_the_reader_has_the_same_limit(what: str) -> None:
    """The reader refuses the value too; the header is made without the writer's check."""
    path, entry = LIMITS[what][1]
    with pytest.raises(BundleInvalid):
        read(layer._header(Change(path, Action.ADDED, entry=entry), None))


@pytest.mark.parametrize("path", [b"a" * 256, b"/".join([b"d"] * 2100), b".wh.a"])
def test_a_removed_path(path: bytes) -> None:
    with pytest.raises(LayerUnsupported):
        layer.header(Change(path, Action.REMOVED))

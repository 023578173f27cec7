"""Deltas of any two trees reproduce the identical tar; hostile deltas end in a typed error."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.bundle import compression, delta, encoding
from baseimg_core.disk.bundle.source_files import SourceFiles
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.errors import BaseimgError, BundleInvalid, DeltaMismatch, LayerUnsupported
from baseimg_core.model.stack.renames import counterparts


def noise(seed: str, size: int) -> bytes:
    """Return incompressible bytes, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def encode(old: Path, files: dict[str, bytes], renamed: dict[bytes, bytes] | None = None) -> tuple[bytes, bytes]:
    """Return the plain stream and its delta; bytes between the files stand for a tar's headers."""
    out, plain = io.BytesIO(), b""
    writer = delta.DeltaWriter(out, SourceFiles(Stack([str(old)])), renamed or {})
    for name, content in files.items():
        head = name.encode().ljust(512, b"\0")
        writer.write(head)
        writer.begin_file(name.encode(), len(content))
        for start in range(0, len(content), 1 << 20):
            writer.write(content[start : start + (1 << 20)])
        plain += head + content
    writer.close()
    return plain, out.getvalue()


def decode(old: Path, data: bytes) -> bytes:
    reader, decoded = delta.DeltaReader(io.BytesIO(data), SourceFiles(Stack([str(old)]))), b""
    while part := reader.read(100_000):
        decoded += part
    return decoded


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/big").write_bytes(noise("big", 9 << 20))
    (tmp_path / "lib/libz.so.1.2.13").write_bytes(noise("z", 200_000))
    (tmp_path / "small").write_bytes(noise("small", 3000))
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("/etc/passwd")
    return tmp_path


def test_a_build_that_fails_leaves_no_descriptor(old: Path) -> None:
    """A build that fails in the middle of a segment, or in the last ones, closes its descriptors."""

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    before = os.listdir("/proc/self/fd")
    for use in (lambda writer: writer.close(), lambda writer: writer.release()):
        writer = delta.DeltaWriter(Full(), SourceFiles(Stack([str(old)])), {})
        writer.begin_file(b"lib/big", 3 << 20)
        with contextlib.suppress(OSError):
            writer.write((old / "lib/big").read_bytes()[: 3 << 20])
        with contextlib.suppress(OSError):
            use(writer)
        assert os.listdir("/proc/self/fd") == before


def test_a_layer_that_fails_leaves_no_descriptor(old: Path, tmp_path: Path) -> None:
    """A build closes its descriptors even if a file of the target shrinks while it is read."""
    new = tmp_path / "target"
    (new / "lib").mkdir(parents=True)
    (new / "lib/big").write_bytes(noise("big", 8 << 20) + b"changed")
    (new / "lib/late").write_bytes(noise("late", 3 << 20))
    source = Stack([str(old)])
    changes = compare(source, Stack([str(new), str(old)]))
    os.truncate(new / "lib/late", 5)
    before = os.listdir("/proc/self/fd")
    blob = encoding.delta_against(io.BytesIO(), changes, source)
    with pytest.raises(LayerUnsupported):
        encoding.LayerWriter([blob], None).write(changes)
    assert os.listdir("/proc/self/fd") == before


class TestSizes:
    """Content of an old file costs almost nothing in a delta, wherever it has moved to."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda big: big,
            lambda big: b"more" * 1000 + big,
            lambda big: big[5000:],
            lambda big: big[: 4 << 20] + noise("inserted", 3 << 20) + big[4 << 20 :],
            lambda big: big[: 1 << 20] + big[6 << 20 :],
        ],
        ids=["same", "more at the beginning", "less at the beginning", "inserted", "removed"],
    )
    def test_contents_that_moved(self, old: Path, change) -> None:
        new = change((old / "lib/big").read_bytes())
        plain, data = encode(old, {"lib/big": new})
        assert decode(old, data) == plain
        fresh = 3 << 20 if len(new) > 10 << 20 else 0
        assert len(data) < fresh + 50_000

    def test_another_version_under_another_name(self, old: Path) -> None:
        new = {"lib/libz.so.1.3.1": (old / "lib/libz.so.1.2.13").read_bytes()}
        renamed = counterparts([b"lib/libz.so.1.3.1"], [b"lib/libz.so.1.2.13"])
        plain, data = encode(old, new, renamed)
        assert decode(old, data) == plain
        assert len(data) < 1000

    def test_many_small_files_share_a_segment(self, old: Path) -> None:
        plain, data = encode(old, {f"f{number}": b"x" * 100 for number in range(1000)})
        assert decode(old, data) == plain
        assert data.count(delta._SKIPPABLE.to_bytes(4, "little")) == 1

    def test_new_files_that_resemble_each_other(self, old: Path) -> None:
        """Equal new files are stored once, even in different segments of the tar."""
        new = noise("new", 1 << 20)
        plain, data = encode(old, {"new/a": new, "new/b": new, "new/c": new})
        assert decode(old, data) == plain
        assert len(data) < (1 << 20) + 10_000


contents = st.one_of(st.binary(max_size=300), st.builds(noise, st.text("ab"), st.integers(0, 70_000)))
trees = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), contents, max_size=4)


@given(before=trees, after=trees)
def test_any_two_trees(before: dict[str, bytes], after: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("old")
    for name, content in before.items():
        (root / name).write_bytes(content)
    plain, data = encode(root, after)
    assert decode(root, data) == plain
    assert encode(root, after)[1] == data


@given(new=st.integers(0, 1 << 30), old=st.integers(0, 1 << 30), values=st.data())
def test_parts_lie_in_the_old_file_and_are_bounded(new: int, old: int, values: st.DataObject) -> None:
    start = values.draw(st.integers(0, new))
    end = values.draw(st.integers(start, min(new, start + delta.SEGMENT)))
    parts = delta._Span(b"x", new, old, start, end).parts()
    assert all(0 <= low < low + size <= old for _, low, size in parts)
    assert sum(size for *_, size in parts) <= 2 * delta.SEGMENT + 3 * delta.MARGIN


class TestCounterparts:
    @pytest.mark.parametrize(
        ("added", "removed", "expected_pairs"),
        [
            (["libz.so.1.3"], ["libz.so.1.2.11"], {"libz.so.1.3": "libz.so.1.2.11"}),
            (["lib/6.1.0-21/a.ko"], ["lib/6.1.0-18/a.ko"], {"lib/6.1.0-21/a.ko": "lib/6.1.0-18/a.ko"}),
            (["a2", "a3"], ["a0", "a1"], {"a2": "a0", "a3": "a1"}),
            (["a2", "a3"], ["a1"], {"a2": "a1"}),
            (["other"], ["a1"], {}),
        ],
    )
    def test_pairs(self, added: list[str], removed: list[str], expected_pairs: dict[str, str]) -> None:
        pairs = counterparts(map(str.encode, added), map(str.encode, removed))
        assert {new_path.decode(): old_path.decode() for new_path, old_path in pairs.items()} == expected_pairs


class TestMismatch:
    @pytest.mark.parametrize("change", ["changed", "shorter", "absent", "a directory", "a symlink"])
    def test_another_old_file(self, old: Path, change: str) -> None:
        path = old / "small"
        _, data = encode(old, {"small": path.read_bytes() + b"x"})
        content = path.read_bytes()
        path.unlink()
        if change == "changed":
            path.write_bytes(b"X" + content[1:])
        elif change == "shorter":
            path.write_bytes(content[:-1])
        elif change == "a directory":
            path.mkdir()
        elif change == "a symlink":
            (old / "other").write_bytes(content)
            path.symlink_to("other")
        with pytest.raises(DeltaMismatch, match="small on this node"):
            decode(old, data)


def head(fields: object) -> bytes:
    packed = zstandard.ZstdCompressor().compress(json.dumps(fields).encode())
    return delta._MAGIC.pack(delta._SKIPPABLE, len(packed)) + packed


def segment(plain: bytes = b"x" * 100, **fields: object) -> bytes:
    frame = zstandard.ZstdCompressor().compress(plain)
    return head({"size": len(plain), "length": len(frame), "before": 0, "old": [], **fields}) + frame


EMPTY = hashlib.sha256(b"").hexdigest()
UNKNOWN_SIZE = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100)
BOMB = zstandard.ZstdCompressor().compress(b" " * (200 << 20))
HOSTILE = {
    "garbage": b"garbage",
    "cut in the head": segment()[:20],
    "cut in the frame": segment()[:-5],
    "a head that is none": head([]),
    "a head that is not compressed": delta._MAGIC.pack(delta._SKIPPABLE, 2) + b"[]",
    "a head that is a bomb": delta._MAGIC.pack(delta._SKIPPABLE, len(BOMB)) + BOMB,
    "a huge head": delta._MAGIC.pack(delta._SKIPPABLE, 1 << 31),
    "a bomb": segment(b"\0" * (200 << 20), size=100),
    "a bomb that says so": segment(b"\0" * (200 << 20)),
    "a segment that is shorter": segment(size=101),
    "a frame that does not say its size": head({"size": 100, "length": len(UNKNOWN_SIZE), "before": 0, "old": []})
    + UNKNOWN_SIZE,
    "a negative size": segment(size=-1),
    "a size that is no number": segment(size="100"),
    "more before it than there is": segment() + segment(before=2),
    "less than nothing before it": segment() + segment(before=-1),
    "a frame of 1 TiB": segment(length=1 << 40),
    "too large a reference": segment(old=[["big", 0, 1 << 30, EMPTY]]),
    "a negative offset": segment(old=[["small", -1, 10, EMPTY]]),
    "an absolute path": segment(old=[["/etc/passwd", 0, 10, EMPTY]]),
    "a path that leads outside": segment(old=[["../../etc/passwd", 0, 10, EMPTY]]),
    "a path that is none": segment(old=[[7, 0, 10, EMPTY]]),
    "too few": segment(old=[["small"]]),
    "another dictionary": segment()[:-10] + b"\0" * 10,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile(old: Path, kind: str) -> None:
    with pytest.raises((BundleInvalid, *compression.errors())):
        decode(old, HOSTILE[kind])


def test_a_symlink_is_never_followed(old: Path) -> None:
    """Not even with a correct digest: it would disclose the content of a host's file."""
    content = Path("/etc/passwd").read_bytes()
    data = segment(old=[["link", 0, len(content), hashlib.sha256(content).hexdigest()]])
    with pytest.raises(DeltaMismatch):
        decode(old, data)


@given(values=st.data())
def test_any_byte_may_be_wrong(values: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("old")
    (root / "a").write_bytes(noise("a", 5000))
    _plain, encoded = encode(root, {"a": noise("a", 4000) + b"new"})
    at = values.draw(st.integers(0, len(encoded) - 1))
    broken = encoded[:at] + bytes([encoded[at] ^ values.draw(st.integers(1, 255))]) + encoded[at + 1 :]
    try:
        assert isinstance(decode(root, broken), bytes)  # the diff ID detects a wrong tar
    except (BaseimgError, *compression.errors()):
        pass
    assert os.listdir(root) == ["a"]

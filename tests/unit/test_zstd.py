"""Both zstd libraries, where this Python has both: each reads what the other writes, and damage is an error."""

from __future__ import annotations

import functools
import importlib
import io
import itertools
import random
import sys

import pytest
import zstandard

from baseimg_core import zstd
from baseimg_core.disk.bundle import compression
from baseimg_core.errors import CompressionUnsupported

KINDS = {"zstandard": zstd._Package, "compression.zstd": zstd._Own}
DATA = bytes(random.Random(30).randbytes(50_000)) * 3
REFERENCE = DATA[:100_000]


@functools.cache
def installed() -> dict[str, zstd.Library]:
    libraries = {}
    for name, kind in KINDS.items():
        try:
            libraries[name] = kind(importlib.import_module(name))
        except ImportError:
            continue
    return libraries


#: A library that writes and one that reads.
PAIRS = list(itertools.product(installed(), repeat=2))


def packed(library: zstd.Library, data: bytes = DATA) -> bytes:
    out = io.BytesIO()
    with library.writer(out, 3, 2) as stream:
        stream.write(data)
    return out.getvalue()


def unpacked(library: zstd.Library, data: bytes) -> bytes:
    with library.reader(io.BytesIO(data)) as stream:
        return b"".join(iter(functools.partial(stream.read, 4096), b""))


def test_python_brings_zstd_since_3_14() -> None:
    assert ("compression.zstd" in installed()) is (sys.version_info >= (3, 14))
    assert type(zstd.library()) is KINDS[sorted(installed())[0]]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_streams(writer: str, reader: str) -> None:
    first, second = packed(installed()[writer]), packed(installed()[writer], b"more")
    assert first == packed(installed()[writer])
    assert unpacked(installed()[reader], first + second) == DATA + b"more"


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
@pytest.mark.parametrize("reference", [b"", b"short", REFERENCE])
def test_frames(writer: str, reader: str, reference: bytes) -> None:
    frame = installed()[writer].compress(DATA, reference, 12, 18, 17)
    assert len(frame) < (2000 if reference == REFERENCE else 60_000)
    assert installed()[reader].decompress(frame, reference, len(DATA)) == DATA


@pytest.mark.parametrize("reader", installed())
class TestRefused:
    def test_a_declared_size(self, reader: str) -> None:
        library = installed()[reader]
        frame = library.compress(DATA, b"", 3, 18, 17)
        with pytest.raises(ValueError, match="above the limit"):
            library.decompress(frame, b"", len(DATA) - 1)
        with pytest.raises(ValueError, match="no size"):
            library.decompress(packed(library), b"", len(DATA))

    @pytest.mark.parametrize("size", [0, 3, 10, -1])
    def test_a_frame_that_is_cut(self, reader: str, size: int) -> None:
        library = installed()[reader]
        with pytest.raises((library.error, ValueError)):
            library.decompress(library.compress(DATA, b"", 3, 18, 17)[:size], b"", len(DATA))

    def test_a_stream_that_is_none(self, reader: str) -> None:
        with pytest.raises(installed()[reader].error):
            unpacked(installed()[reader], b"no frame of zstd")

    def test_a_window_of_256_mib(self, reader: str) -> None:
        compressor = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28))
        with pytest.raises(installed()[reader].error, match="memory"):
            unpacked(installed()[reader], b"".join(compressor.read_to_iter(io.BytesIO(DATA))))


def test_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KINDS:
        monkeypatch.setitem(sys.modules, name, None)
    assert zstd.library.__wrapped__() is None
    monkeypatch.setattr(zstd, "library", lambda: None)
    with pytest.raises(CompressionUnsupported):
        compression.writer("zstd", io.BytesIO())
    assert compression.errors()

"""The two compressions of a layer blob, as streams. zstd needs the package ``zstandard``, which nodes may lack."""

from __future__ import annotations

import functools
import gzip
import importlib
import os
import zlib
from typing import Any, BinaryIO, cast

from ...errors import ArgumentInvalid, BundleInvalid, CompressionUnsupported
from ...model.bundle.manifest import MEDIA_TYPES

BY_MEDIA_TYPE = {media_type: name for name, media_type in MEDIA_TYPES.items()}
_ZSTD_LEVEL = 3
_ZSTD_THREADS = 4  # each holds megabytes
_GZIP_LEVEL = 6
_WINDOW = 1 << 27  # bytes that a zstd frame may make a node hold


@functools.cache
def zstandard() -> Any:
    """
    The package ``zstandard``, ``None`` where it is not installed: optional on nodes, as gzip bundles need nothing.

    Imported when it is needed, since that takes as long as asking an engine, and most operations find nothing to do.
    """
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        return None


def errors() -> tuple[type[Exception], ...]:
    """What the readers raise on damaged input."""
    own = (EOFError, gzip.BadGzipFile, zlib.error)
    return (*own, zstandard().ZstdError) if zstandard() else own


def check(compression: str) -> None:
    """Raise where ``compression`` is not one of ours, or cannot be done here."""
    if compression not in MEDIA_TYPES:
        raise ArgumentInvalid(f"compression is {compression!r}, expected one of: {', '.join(MEDIA_TYPES)}")
    if compression == "zstd" and not zstandard():
        raise CompressionUnsupported("zstd needs the Python package 'zstandard', which is not installed here")


def writer(compression: str, out: BinaryIO) -> BinaryIO:
    """
    A stream that compresses into ``out``, byte for byte the same for the same input; closing it leaves ``out`` open.
    """
    check(compression)
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile("", "wb", _GZIP_LEVEL, out, mtime=0))
    # any number of threads gives the same bytes, as long as it is not the single-threaded mode
    threads = min(os.cpu_count() or 1, _ZSTD_THREADS)
    compressor = zstandard().ZstdCompressor(level=_ZSTD_LEVEL, threads=threads, write_checksum=False)
    return cast(BinaryIO, compressor.stream_writer(out, closefd=False))


def reader(media_type: str, stream: BinaryIO) -> BinaryIO:
    """A stream of what ``stream`` holds compressed; damage shows as one of :func:`errors`."""
    compression = BY_MEDIA_TYPE.get(media_type)
    if compression is None:
        raise BundleInvalid(f"the layer's media type is {media_type[:100]!r}, which is none of ours")
    check(compression)
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    decompressor = zstandard().ZstdDecompressor(max_window_size=_WINDOW)
    return cast(BinaryIO, decompressor.stream_reader(stream, read_across_frames=True, closefd=False))

"""Compression of layer blobs as streams: gzip, and zstd (:mod:`zstd`)."""

from __future__ import annotations

import gzip
import os
from typing import BinaryIO, cast

from ... import zstd
from ...errors import BundleInvalid, CompressionUnsupported
from ...model.bundle.manifest import MEDIA_TYPES
from ...model.policy.validation import wrong

BY_MEDIA_TYPE = {media_type: name for name, media_type in MEDIA_TYPES.items()}
_ZSTD_LEVEL = 3
_ZSTD_THREADS = 4  # each thread uses several MB of memory
_GZIP_LEVEL = 6


def errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that the readers raise for damaged input."""
    library = zstd.library()
    return (*zstd.GZIP_ERRORS, library.error) if library else zstd.GZIP_ERRORS


def check_compression(compression: str) -> None:
    """
    Check that a compression is usable.

    Raises:
        ArgumentInvalid: The compression is unknown.
        CompressionUnsupported: Its package is missing.
    """
    if compression not in MEDIA_TYPES:
        raise wrong("compression", compression, f"one of: {', '.join(MEDIA_TYPES)}")
    if compression == "zstd":
        zstd_library()


def zstd_library() -> zstd.Library:
    """
    Return the zstd library.

    Raises:
        CompressionUnsupported: This Python has none.
    """
    library = zstd.library()
    if library is None:
        raise CompressionUnsupported("zstd needs the Python package 'zstandard', which is not installed here")
    return library


def writer(compression: str, out: BinaryIO) -> BinaryIO:
    """
    Return a stream that compresses into ``out``. Closing the stream leaves ``out`` open.

    Equal input gives equal output. Raises the errors of :func:`check_compression`.
    """
    check_compression(compression)
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile("", "wb", _GZIP_LEVEL, out, mtime=0))
    # always multithreaded: the output depends on the mode, but not on the number of threads
    threads = min(os.cpu_count() or 1, _ZSTD_THREADS)
    return zstd_library().writer(out, _ZSTD_LEVEL, threads)


def reader(media_type: str, stream: BinaryIO) -> BinaryIO:
    """
    Return a stream that decompresses ``stream``. Reading damaged data raises one of :func:`errors`.

    Raises:
        BundleInvalid: The media type is unknown.
        CompressionUnsupported: The package for the compression is missing.
    """
    compression = BY_MEDIA_TYPE.get(media_type)
    if compression is None:
        raise BundleInvalid(f"the layer has the unknown media type {media_type[:100]!r}")
    check_compression(compression)
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    return zstd_library().reader(stream)

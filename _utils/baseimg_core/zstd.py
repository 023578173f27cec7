"""
Zstandard compression: Python's own module (Python 3.14 and newer), else the package ``zstandard``.

Also the errors of gzip, which Python always has.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import zlib
from typing import Any, BinaryIO, Protocol, cast

#: The exceptions that a gzip reader raises for damaged input.
GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)

_WINDOW_LOG = 27  # log2 of the memory in bytes that a frame may need
_LEAST_DICTIONARY = 8  # bytes; both libraries refuse shorter ones


class Library(Protocol):
    """What baseimg needs of a zstd library. Equal input gives equal output of one release of one library."""

    #: The exception for damaged input.
    error: type[Exception]

    def writer(self, out: BinaryIO, level: int, threads: int) -> BinaryIO:
        """
        Return a stream that compresses. Closing it leaves ``out`` open.

        Args:
            out: The stream for the compressed data.
            level: The compression level.
            threads: The number of threads.
        """

    def reader(self, stream: BinaryIO) -> BinaryIO:
        """Return a stream that decompresses all frames of ``stream``, each with a window of at most 128 MiB."""

    def compress(self, data: bytes, reference: bytes, level: int, window_log: int, hash_log: int) -> bytes:
        """
        Return a frame that declares its size.

        Args:
            data: The data to compress.
            reference: Data that the frame refers to; empty for none.
            level: The compression level.
            window_log: log2 of the window size in bytes.
            hash_log: log2 of the match table size.
        """

    def decompress(self, frame: bytes, reference: bytes, limit: int) -> bytes:
        """
        Decompress one frame.

        Args:
            frame: The frame.
            reference: Data that the frame refers to; empty for none.
            limit: The most bytes that the frame may declare.

        Raises:
            ValueError: The frame declares no size, or a size above the limit.
        """


@functools.cache
def library() -> Library | None:
    """
    Return the zstd library; ``None`` if this Python has none.

    Nodes need it only for zstd bundles. It is imported on first use, because the import takes as long as a request to
    an engine.
    """
    for name, kind in (("compression.zstd", _Own), ("zstandard", _Package)):
        try:
            return kind(importlib.import_module(name))
        except ImportError:  # `compression.zstd` is an optional part of Python
            continue
    return None


class _Own:
    """The standard library's ``compression.zstd``."""

    def __init__(self, module: Any) -> None:
        self._zstd, self.error = module, module.ZstdError
        self._limits = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def writer(self, out: BinaryIO, level: int, threads: int) -> BinaryIO:
        parameter = self._zstd.CompressionParameter
        options = {parameter.compression_level: level, parameter.nb_workers: threads, parameter.checksum_flag: 0}
        return cast(BinaryIO, self._zstd.ZstdFile(out, "wb", options=options))

    def reader(self, stream: BinaryIO) -> BinaryIO:
        return cast(BinaryIO, self._zstd.ZstdFile(stream, "rb", options=self._limits))

    def compress(self, data: bytes, reference: bytes, level: int, window_log: int, hash_log: int) -> bytes:
        parameter = self._zstd.CompressionParameter
        options = {
            parameter.compression_level: level,
            parameter.window_log: window_log,
            parameter.hash_log: hash_log,
            parameter.checksum_flag: 0,
        }
        return bytes(self._zstd.compress(data, options=options, zstd_dict=self._dictionary(reference)))

    def decompress(self, frame: bytes, reference: bytes, limit: int) -> bytes:
        _check_size(self._zstd.get_frame_info(frame).decompressed_size, limit)
        decompressor = self._zstd.ZstdDecompressor(self._dictionary(reference), self._limits)
        data = bytes(decompressor.decompress(frame))
        if not decompressor.eof:
            raise self.error("the frame ends too early")
        return data

    def _dictionary(self, reference: bytes) -> Any:
        if len(reference) < _LEAST_DICTIONARY:
            return None
        # undigested: the given parameters, not those of a digested dictionary, decide
        return self._zstd.ZstdDict(reference, is_raw=True).as_undigested_dict


class _Package:
    """The package ``zstandard``."""

    def __init__(self, module: Any) -> None:
        self._zstd, self.error = module, module.ZstdError

    def writer(self, out: BinaryIO, level: int, threads: int) -> BinaryIO:
        compressor = self._zstd.ZstdCompressor(level=level, threads=threads, write_checksum=False)
        return cast(BinaryIO, compressor.stream_writer(out, closefd=False))

    def reader(self, stream: BinaryIO) -> BinaryIO:
        decompressor = self._zstd.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        return cast(BinaryIO, decompressor.stream_reader(stream, read_across_frames=True, closefd=False))

    def compress(self, data: bytes, reference: bytes, level: int, window_log: int, hash_log: int) -> bytes:
        parameters = self._zstd.ZstdCompressionParameters.from_level(
            level, source_size=len(data), dict_size=len(reference), window_log=window_log, hash_log=hash_log
        )
        compressor = self._zstd.ZstdCompressor(dict_data=self._dictionary(reference), compression_params=parameters)
        return bytes(compressor.compress(data))

    def decompress(self, frame: bytes, reference: bytes, limit: int) -> bytes:
        size = self._zstd.frame_content_size(frame)
        _check_size(None if size < 0 else size, limit)
        decompressor = self._zstd.ZstdDecompressor(self._dictionary(reference), max_window_size=1 << _WINDOW_LOG)
        return bytes(decompressor.decompress(frame))

    def _dictionary(self, reference: bytes) -> Any:
        if len(reference) < _LEAST_DICTIONARY:
            return None
        return self._zstd.ZstdCompressionDict(reference, self._zstd.DICT_TYPE_RAWCONTENT)


def _check_size(size: int | None, limit: int) -> None:
    """Check a declared size before a library allocates it."""
    if size is None or size > limit:
        raise ValueError("a frame declares no size, or a size above the limit")

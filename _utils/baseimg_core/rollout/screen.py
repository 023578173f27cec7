"""Progress on stderr: lines, and on a terminal one live line below them."""

from __future__ import annotations

import os
from typing import TextIO

from ..display import printable

_CLEAR = "\r\033[K"
_WIDTH = 80  # columns of a terminal that does not report its width


class Screen:
    """
    Lines of progress, and a live line if the stream is a terminal.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live_line = stream, ""
        #: True if the stream is a terminal.
        self.is_live = stream.isatty()

    def say(self, text: str) -> None:
        """Write a line that stays. The live line moves below it."""
        self._write(f"{_CLEAR if self._live_line else ''}{printable(text, 1000)}\n{self._live_line}")

    def show(self, text: str) -> None:
        """Replace the live line; without a terminal, do nothing."""
        if self.is_live:
            self._live_line = printable(text, self._width())
            self._write(_CLEAR + self._live_line)

    def close(self) -> None:
        """Clear the live line."""
        if self._live_line:
            self._live_line = ""
            self._write(_CLEAR)

    def _width(self) -> int:
        """Return the columns of the terminal, less one: a full line would wrap. ``script`` and others report zero."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max((columns or _WIDTH) - 1, 20)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

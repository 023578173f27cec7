"""Chromium without a window: what it makes of a page, as a tree and as a picture."""

from __future__ import annotations

import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.support.deadlines import SECONDS, scaled


@dataclass(frozen=True)
class Browser:
    """A browser with a profile of its own, and without a net."""

    profile: Path

    def tree(self, page: Path) -> str:
        """The document after the page's scripts ran, as HTML."""
        return self._run("--dump-dom", page.as_uri())

    def picture(self, page: Path, png: Path, width: int = 1280, height: int = 1600, dark: bool = False) -> Path:
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        size = f"--window-size={width},{height}"
        self._run(f"--screenshot={png}", size, "--hide-scrollbars", *scheme, page.as_uri())
        return png

    def _run(self, *arguments: str) -> str:
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-gpu"]
        apart = [f"--user-data-dir={self.profile}", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"]
        process = subprocess.run(
            ["chromium", "--headless=new", *quiet, *apart, *arguments],
            capture_output=True,
            text=True,
            timeout=scaled(SECONDS),
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout


def corner(png: Path) -> tuple[int, ...]:
    """The colour of the picture's first pixel: in its row no filter changes it (PNG specification, 9.2)."""
    data, at, packed = png.read_bytes(), 8, b""
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return tuple(zlib.decompress(packed)[1:4])

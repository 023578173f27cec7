"""Every file in the repository is tidy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.sources import REPO, tracked

# Debugging leftovers of people and tools. This file lists them, so the search skips it.
FORBIDDEN = (
    "FIXME",
    "TODO",
    "XXX:",
    "breakpoint()",
    "set_trace(",
    "<<<<<<< ",
    ">>>>>>> ",
    "pytest.mark.only",
)
MIRROR = r"\b(deb|ftp(\.\w+)?|security|snapshot|archive)\.(debian\.org|ubuntu\.com)"
# Third-party texts, kept verbatim.
VERBATIM = {REPO / "tests/support/old-procedure.txt"}
TEXTS = [path for path in tracked() if path.is_file() and not path.is_symlink() and b"\0" not in path.read_bytes()]


def _lines(path: Path, pattern: str) -> list[int]:
    text = path.read_text(encoding="utf-8")
    return [number for number, line in enumerate(text.split("\n"), 1) if re.search(pattern, line)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPO)))
class TestFiles:
    def test_no_trailing_whitespace(self, path: Path) -> None:
        assert path in VERBATIM or _lines(path, r"[ \t\r]$") == []

    def test_ends_with_one_newline(self, path: Path) -> None:
        data = path.read_bytes()
        assert not data or (data.endswith(b"\n") and not data.endswith(b"\n\n"))

    def test_no_tabs_where_indentation_counts(self, path: Path) -> None:
        indented = path.suffix in (".py", ".sls", ".toml", ".cfg", ".md") and path.parent.name != "pillar_mistakes"
        assert not indented or _lines(path, "\t") == []

    def test_no_mirror_is_written_down(self, path: Path) -> None:
        """Mirrors come from apt's configuration (`tests/support/apt.py`): many machines reach no others."""
        assert _lines(path, MIRROR) == []

    def test_no_forbidden_words(self, path: Path) -> None:
        words = "|".join(map(re.escape, FORBIDDEN))
        assert path == Path(__file__).resolve() or _lines(path, words) == []


def test_the_patterns_themselves(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("fine\nspace \n\ttab\nret\r\n")
    assert _lines(bad, r"[ \t\r]$") == [2]
    bad.write_bytes(b"fine\nspace \n\ttab\nret\r\n")
    assert _lines(bad, "\t") == [3]
    bad.write_text("http://deb." + "debian.org/debian\nhttps://www." + "debian.org\n")
    assert _lines(bad, MIRROR) == [1]


def test_links_stay_inside_and_lead_somewhere() -> None:
    links = [path for path in tracked() if path.is_symlink()]
    assert links
    for link in links:
        assert link.resolve().is_relative_to(REPO), link
        assert link.exists(), link


def test_scripts_can_be_run() -> None:
    for path in TEXTS:
        script = path.read_bytes().startswith(b"#!")
        assert script == bool(path.stat().st_mode & 0o111), path

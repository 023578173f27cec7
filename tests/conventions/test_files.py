"""Every file in the repository is tidy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

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


def _offences(pattern: str, paths: Iterable[Path] = TEXTS) -> dict[str, list[int]]:
    """Return the lines that match, by file."""
    lines_by_file = {str(path.relative_to(REPO)): _lines(path, pattern) for path in paths}
    return {name: lines for name, lines in lines_by_file.items() if lines}


def test_no_trailing_whitespace() -> None:
    assert _offences(r"[ \t\r]$", set(TEXTS) - VERBATIM) == {}


def test_each_ends_with_one_newline() -> None:
    data = {path: path.read_bytes() for path in TEXTS}
    assert [path for path, text in data.items() if text and (text[-1:] != b"\n" or text.endswith(b"\n\n"))] == []


def test_no_tabs_where_indentation_counts() -> None:
    suffixes = (".py", ".sls", ".toml", ".cfg", ".md")
    indented = [path for path in TEXTS if path.suffix in suffixes and path.parent.name != "pillar_mistakes"]
    assert _offences("\t", indented) == {}


def test_no_mirror_is_written_down() -> None:
    """Mirrors come from apt's configuration (`tests/support/apt.py`): many machines reach no others."""
    assert _offences(MIRROR) == {}


def test_no_forbidden_words() -> None:
    assert _offences("|".join(map(re.escape, FORBIDDEN)), set(TEXTS) - {Path(__file__).resolve()}) == {}


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

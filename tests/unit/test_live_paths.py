"""The files that differ between two contents at the paths that an operator names, over plain directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from baseimg_core.disk.containers import live
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.model.containers import live as live_rules


def content(root: Path, text: str) -> Stack:
    """Return a content with merged /usr: /lib leads to /usr/lib."""
    for path in ("usr/lib/data/a", "usr/lib/data/b/c", "etc/services", "usr/lib/tool"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "usr/lib/tool").write_bytes(b"\x7fELF" + text.encode())
    (root / "lib").symlink_to("usr/lib")
    (root / "etc/link").symlink_to("/lib/data/a")
    return Stack([root])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/etc/services", {b"etc/services"}),
        ("/etc/link", {b"usr/lib/data/a"}),
        ("/lib/data/a", {b"usr/lib/data/a"}),
        ("/lib/data/*", {b"usr/lib/data/a"}),
        ("/lib/data/**", {b"usr/lib/data/a", b"usr/lib/data/b/c"}),
        ("/usr/lib/d*/?", {b"usr/lib/data/a"}),
        ("/etc/*", {b"etc/services"}),
    ],
)
def test_symlinks_before_a_wildcard_are_followed(tmp_path: Path, pattern: str, expected: set[bytes]) -> None:
    old, new = content(tmp_path / "old", "old"), content(tmp_path / "new", "new")
    changed = live.changed(old, new, live_rules.parse(pattern), ())
    assert set(changed.named) == expected
    assert not changed.left


def test_programs_and_libraries_are_left_alone(tmp_path: Path) -> None:
    old, new = content(tmp_path / "old", "old"), content(tmp_path / "new", "new")
    changed = live.changed(old, new, live_rules.parse("/lib/tool"), ())
    assert (changed.named, changed.left) == ([], {b"usr/lib/tool": live_rules.EXECUTABLE})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/lib/none/*", {b"lib/none/*": live_rules.NOWHERE}),
        ("/none", {b"none": live_rules.NOWHERE}),
        ("/lib/data", {b"usr/lib/data": live_rules.DIRECTORY}),
        ("/lib/dat?", {b"usr/lib/dat?": live_rules.NOWHERE}),
    ],
)
def test_what_names_no_file_is_listed(tmp_path: Path, pattern: str, expected: dict[bytes, str]) -> None:
    old, new = content(tmp_path / "old", "old"), content(tmp_path / "new", "new")
    changed = live.changed(old, new, live_rules.parse([pattern, "/etc/services"]), ())
    assert (changed.named, changed.left) == ([b"etc/services"], expected)

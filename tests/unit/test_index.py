"""An index compared with a directory, one line at a time, finds what comparing all of both at once finds."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.store import index
from baseimg_core.errors import RecordInvalid

# names around "/" in the order of bytes, so that whole paths sort otherwise than their components
NAMES = st.sampled_from(["a", "a-", "a.b", "a0", "b", "ä"])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.sampled_from("xyz"), max_size=12)


def make(root: Path, tree: dict[tuple[str, ...], str]) -> dict[str, str]:
    """Files where nothing is in the way; returns every path with its content, empty for directories."""
    root.mkdir()
    for parts, content in tree.items():
        place = root.joinpath(*parts)
        if any(above.is_file() for above in place.parents) or place.is_dir():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content * (ord(content) - ord("w")))
    found = {}
    for parent, directories, names in os.walk(root):
        for name in (*directories, *names):
            place = Path(parent, name)
            os.utime(place, (1, 1))
            found[str(place.relative_to(root))] = "" if place.is_dir() else place.read_text()
    return found


@given(one=TREES, other=TREES)
def test_findings(one: dict[tuple[str, ...], str], other: dict[tuple[str, ...], str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        before, after = make(home / "one", one), make(home / "other", other)
        index.write(str(home / "index"), str(home / "one"), {})
        found = {
            (finding.path.decode(), finding.kind)
            for finding in index.compare(str(home / "index"), str(home / "other"), None, False)
            if finding.path and finding.what != ("mtime",)
        }
    expected = {(path, "missing") for path in before.keys() - after.keys()}
    expected |= {(path, "added") for path in after.keys() - before.keys()}
    expected |= {(path, "content") for path in before.keys() & after.keys() if before[path] != after[path]}
    assert found == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[::-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:-1], lines[-1][:-5]],
        lambda lines: [*lines[:-1], json.dumps({"path": "z"})],
        lambda lines: [*lines[:-1], "[]"],
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, damage) -> None:
    make(tmp_path / "tree", {("a",): "x", ("b",): "y"})
    path = tmp_path / "index"
    index.write(str(path), str(tmp_path / "tree"), {})
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(RecordInvalid):
        list(index.compare(str(path), str(tmp_path / "tree"), None, False))

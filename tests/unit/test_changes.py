"""Counts of changes, and paths that are rewritten only because of hard links."""

from __future__ import annotations

import pytest

from baseimg_core.model.stack.changes import Action, Change, counts, relinked


def groups(*members: str) -> dict[bytes, frozenset[bytes]]:
    """Return hard-link groups of single-letter paths: `groups("ab", "cd")` links a with b, c with d."""
    return {letter.encode(): frozenset(other.encode() for other in group) for group in members for letter in group}


@pytest.mark.parametrize(
    ("before", "after", "changed", "gone", "expected"),
    [
        pytest.param([], [], "", "", "", id="nothing is linked"),
        pytest.param(["ab"], ["ab"], "", "", "", id="a group that stays"),
        pytest.param(["abc", "de"], ["abc", "de"], "", "", "", id="two groups that stay"),
        pytest.param(["a"], [], "", "", "", id="a group of one is none"),
        pytest.param([], ["ab"], "", "", "ab", id="two files become one"),
        pytest.param(["ab"], [], "", "", "a", id="one file becomes two: the other half may stay"),
        pytest.param(["abc"], ["ab"], "", "", "ab", id="one leaves the group"),
        pytest.param(["abc"], ["ab"], "c", "", "", id="one leaves the group and is written anyway"),
        pytest.param(["ab"], ["abc"], "", "", "abc", id="an unchanged path joins the group"),
        pytest.param(["ab"], ["abc"], "c", "", "ab", id="a new path joins the group"),
        pytest.param(["ab"], ["ab"], "a", "", "b", id="a group of which a part is written is written whole"),
        pytest.param(["ab"], ["ab"], "ab", "", "", id="a group that is written whole already"),
        pytest.param(["abc"], ["ab"], "", "c", "", id="one of the group goes away"),
        pytest.param(["ab"], [], "", "b", "", id="the other one goes away"),
        pytest.param(["ab"], [], "", "ab", "", id="both go away"),
        pytest.param(["ab", "cd"], ["ac", "bd"], "", "", "abcd", id="two groups swap members"),
        pytest.param(["ab", "cd"], ["abcd"], "", "", "abcd", id="two groups become one"),
        pytest.param(["abcd"], ["ab", "cd"], "", "", "ab", id="one group becomes two: one half may stay"),
        pytest.param(["ab"], ["ab", "cd"], "cd", "", "", id="another group is new"),
    ],
)
def test_relinked(before: list[str], after: list[str], changed: str, gone: str, expected: str) -> None:
    written = {letter.encode() for letter in changed}

    relinked_paths = relinked(groups(*before), groups(*after), written, lambda path: path.decode() not in gone)

    assert sorted(relinked_paths) == [letter.encode() for letter in expected]
    assert len(relinked_paths) == len(set(relinked_paths))
    assert written == {letter.encode() for letter in changed + expected}


def test_counts_name_every_action() -> None:
    assert counts([]) == {"added": 0, "modified": 0, "removed": 0}
    changes = [Change(b"a", Action.ADDED), Change(b"b", Action.REMOVED), Change(b"c", Action.REMOVED)]
    assert counts(changes) == {"added": 1, "modified": 0, "removed": 2}


def test_changes_of_metadata_and_paths_in_removed_directories_are_counted_apart() -> None:
    changes = [
        Change(b"a", Action.MODIFIED, ("mtime",)),
        Change(b"b", Action.MODIFIED, ("mode", "owner", "xattrs", "links")),
        *(Change(b"c", Action.MODIFIED, ("mtime", what)) for what in ("content", "size", "type", "target", "device")),
        Change(b"d", Action.REMOVED, inside=3),
    ]
    assert counts(changes) == {"added": 0, "modified": 7, "removed": 1, "metadata": 2, "inside": 3}
    assert [change.is_time for change in changes[:3]] == [True, False, False]

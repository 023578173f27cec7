"""A constructor does no I/O, unless its object is an open file, a connection or a snapshot (ADR 18)."""

from __future__ import annotations

import ast

from tests.support.sources import REPO, parsed

#: Last names of calls that read, write or ask.
READING = "open open_directory open_regular read read_mounts read_regular read_table load readlink recover"
EXAMINING = "stat lstat fstat exists lexists isdir isfile listdir scandir realpath locate audit_live"
CHANGING = "save mkdir make_directories unlink rename run scratch_directory"
ASKING = "request containers image images rebuild_record initial_record version_or_pristine"
IO = frozenset(" ".join((READING, EXAMINING, CHANGING, ASKING)).split())

#: The classes whose constructors do I/O. Without its file, the object would have a state that every method checks.
ALLOWED = {
    "Archive": "an open file",
    "GenerationDetector": "open directories, closed as a context manager",
    "ImageSources": "open files, closed as a context manager",
    "LayoutDirectory": "a directory that exists",
    "LiveMounts": "a snapshot of the mounts",
    "MountedLayer": "a snapshot of the mounts of a layer",
    "Tree": "an open directory",
    "_Process": "open files of a process",
    "_Sources": "a snapshot of the layers of an image",
    "_Survey": "a snapshot of the users of generations",
}


def test_constructors_do_no_io() -> None:
    calls_of: dict[str, set[str]] = {}
    for path in sorted((REPO / "_utils/baseimg_core").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            for function in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                    calls = {name(call) for call in ast.walk(function) if isinstance(call, ast.Call)}
                    if calls & IO and isinstance(node, ast.ClassDef):
                        calls_of[node.name] = calls & IO
    assert {owner: calls for owner, calls in calls_of.items() if owner not in ALLOWED} == {}
    assert set(ALLOWED) <= set(calls_of)


def name(call: ast.Call) -> str:
    """Return the last part of the name of a called function."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

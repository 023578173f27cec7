"""Names of modules, classes, functions, arguments and variables say their subject."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.sources import REPO, Function, parsed, tracked

#: Words that say nothing about what they name, or say it poetically.
REFUSED = frozenset(
    [
        "begin",
        "beside",
        "bouncing",
        "covering",
        "filling",
        "foretell",
        "found",
        "it",
        "keeping",
        "look",
        "lying",
        "one",
        "reach",
        "seeing",
        "seen",
        "settle",
        "shown",
        "site",
        "some",
        "thing",
        "told",
        "wanted",
        "way",
    ]
)
#: Names that a format of ours or the pillar has.
EXCEPTIONS = {"_utils/baseimg_core/model/containers/policy.py": {"settle"}}


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module defines, with its line: definitions, arguments, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case ast.alias(asname=str()):
                yield str(node.asname), node.lineno
            case ast.ExceptHandler(name=str()):
                yield str(node.name), node.lineno


def refused_names(tree: ast.AST, exceptions: frozenset[str] | set[str] = frozenset()) -> list[str]:
    """Return the refused names of a module with their lines."""
    refused = REFUSED - exceptions
    names = {(line, name) for name, line in defined_names(tree) if name.strip("_").lower() in refused}
    return [f"line {line}: {name}" for line, name in sorted(names)]


def _modules() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and not path.is_symlink()]


def test_no_module_has_a_refused_name() -> None:
    assert [str(path.relative_to(REPO)) for path in _modules() if path.stem.removeprefix("test_") in REFUSED] == []


def test_no_definition_has_a_refused_name() -> None:
    names = {}
    for path in _modules():
        key = str(path.relative_to(REPO))
        names[key] = refused_names(parsed(path), EXCEPTIONS.get(key, set()))
    assert {path: refused for path, refused in names.items() if refused} == {}


def test_every_exception_is_used() -> None:
    for path, exceptions in EXCEPTIONS.items():
        names = {name for name, _line in defined_names(parsed(REPO / path))}
        assert exceptions <= names, path


def test_no_function_of_the_core_is_called_check() -> None:
    """A function says what it checks; a reader who meets ``swap.check`` has to open the file."""
    named = [
        f"{path.relative_to(REPO)}: {node.lineno}"
        for path in _modules()
        if "_utils" in path.parts
        for node in parsed(path).body
        if isinstance(node, Function) and node.name == "check"
    ]
    assert named == []


def test_the_rule_itself() -> None:
    code = "class Site:\n    def _look(self, told):\n        self.seen = [one for one in told]\n        found = 1\n"
    assert refused_names(ast.parse(code)) == [
        "line 1: Site",
        "line 2: _look",
        "line 2: told",
        "line 3: one",
        "line 3: seen",
        "line 4: found",
    ]
    assert refused_names(ast.parse("settle = 1"), {"settle"}) == []
    assert refused_names(ast.parse("finding, side, foundation = 1, 2, 3")) == []


def test_no_class_of_the_core_is_defined_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in _modules():
        if "baseimg_core" in path.parts:
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.ClassDef):
                    places.setdefault(node.name, []).append(str(path.relative_to(REPO)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}

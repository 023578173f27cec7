"""Modules and functions stay small. Docstrings do not count and may be as long as readers need."""

from __future__ import annotations

import ast

from tests.support.sources import LOADER_FILES, REPO, core_files, docstring_lines, functions, parsed

MODULE_LINES = 400
LOADER_LINES = 500  # Salt takes all functions of a name from one file
FUNCTION_LINES = 40


def module_lines(tree: ast.Module, text: str) -> int:
    """Count the lines of a file without docstrings; comments and blank lines count."""
    return len(text.splitlines()) - sum(docstring_lines(node) for node in ast.walk(tree))


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function from ``def`` on, without its docstring."""
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring_lines(function)


def test_modules() -> None:
    files = [(path, MODULE_LINES) for path in core_files()] + [(path, LOADER_LINES) for path in LOADER_FILES]
    sizes = {path: module_lines(parsed(path), path.read_text()) for path, _limit in files}
    assert {str(path.relative_to(REPO)): sizes[path] for path, limit in files if sizes[path] > limit} == {}


def test_functions() -> None:
    sizes = {
        f"{path.relative_to(REPO)}, {definition.name}, line {definition.lineno}": function_lines(definition)
        for path in (*core_files(), *LOADER_FILES)
        for definition in functions(parsed(path))
    }
    assert {name: lines for name, lines in sizes.items() if lines > FUNCTION_LINES} == {}


def test_the_measure_itself() -> None:
    text = '"""Doc.\n\nMore.\n"""\n\n@decorated\ndef f():\n    """One\n    two."""\n    x = 1\n\n    return x\n'
    tree = ast.parse(text)
    assert module_lines(tree, text) == 6
    assert [function_lines(definition) for definition in functions(tree)] == [4]

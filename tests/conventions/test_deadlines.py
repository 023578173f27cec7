"""Tests wait with the deadlines of `tests/support/deadlines.py`, which grow with the machine's load."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import deadlines
from tests.support.sources import REPO, parsed

FILES = sorted(set((REPO / "tests").rglob("*.py")) - {Path(deadlines.__file__)})
# Functions that take a time limit. Some take it as their first argument.
TAKE_TIMEOUT = {"run", "check_call", "check_output", "communicate", "wait", "join", "Barrier", "APIClient"}
TAKE_IT_FIRST = {"wait", "join"}


def fixed_limits(tree: ast.AST) -> list[int]:
    """Return the lines with a hand-computed deadline or with a number or a constant as time limit."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    limits = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and _adds_to_clock(node)]
    return sorted(limits + [call.lineno for call in calls if any(map(_is_fixed, _limits(call)))])


def _adds_to_clock(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Add) and ast.unparse(node.left) in ("time.monotonic()", "time.time()")


def _limits(call: ast.Call) -> list[ast.expr]:
    of, _, function = ast.unparse(call.func).rpartition(".")
    named = [keyword.value for keyword in call.keywords if keyword.arg == "timeout" and function in TAKE_TIMEOUT]
    is_text = of.endswith(("'", '"'))  # str.join takes no time limit
    return named + (call.args[:1] if function in TAKE_IT_FIRST and not is_text else [])


def _is_fixed(limit: ast.expr) -> bool:
    if isinstance(limit, ast.Constant):
        return isinstance(limit.value, int | float)
    return isinstance(limit, ast.Name) and limit.id.isupper()


def test_no_time_limit_is_fixed() -> None:
    fixed = {str(path.relative_to(REPO)): fixed_limits(parsed(path)) for path in FILES}
    assert {path: lines for path, lines in fixed.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "deadline = time.monotonic() + SECONDS",
        "subprocess.run(['x'], timeout=60)",
        "process.communicate(timeout=SECONDS)",
        "process.wait(30)",
        "thread.join(1.5)",
        "docker.APIClient(timeout=300)",
    ],
)
def test_fixed_limits_are_found(line: str) -> None:
    assert fixed_limits(ast.parse(line)) == [1]


@pytest.mark.parametrize("line", ["p.wait(scaled(30))", "p.wait()", "', '.join(NAMES)", "begin = time.monotonic() - 1"])
def test_others_are_not(line: str) -> None:
    assert fixed_limits(ast.parse(line)) == []

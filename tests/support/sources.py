"""The repository's own files, as text and as syntax trees."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CORE = REPO / "_utils/baseimg_core"
LOADER_FILES = sorted(path for path in REPO.glob("_*/*.py") if path.parent.name != "_utils")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked() -> tuple[Path, ...]:
    """What git has, and what is about to be added: everything but ignored files. In an unpacked sdist, everything."""
    if not (REPO / ".git").exists():
        made = {"__pycache__", ".venv", "build", "dist"}
        return tuple(sorted(path for path in REPO.rglob("*") if path.is_file() and not made.intersection(path.parts)))
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, check=True, capture_output=True).stdout.split(b"\0")
    paths = (REPO / name.decode() for name in names if name)
    return tuple(sorted(path for path in paths if path.is_symlink() or path.is_file()))


def copy_to(where: Path) -> Path:
    """A fresh clone, so to speak: what git has, as it is now, and nothing that running made (``__pycache__``, say)."""
    for path in tracked():
        copy = where / path.relative_to(REPO)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)
    return where


def core_files() -> list[Path]:
    return sorted(path for path in CORE.rglob("*.py") if "__pycache__" not in path.parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def public_functions(path: Path) -> list[Function]:
    """What Salt's loader offers of a loader file."""
    functions = [node for node in parsed(path).body if isinstance(node, Function)]
    return [function for function in functions if not function.name.startswith("_")]


def arguments(function: Function) -> list[str]:
    """Names of the arguments that a caller gives, without ``*`` and ``**``."""
    spec = function.args
    return [argument.arg for argument in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def docstring_lines(node: ast.AST) -> int:
    """How many lines a node's own docstring takes."""
    if not isinstance(node, ast.Module | ast.ClassDef | Function) or ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[int, str]]:
    """
    Every import as (line, dotted name), ``from x import y`` as ``x.y``; also those inside functions.

    ``package`` is where the file lies (``baseimg_core.model``), so that relative imports can be told.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)

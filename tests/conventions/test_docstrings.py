"""Docstrings of the core's public names follow CONTRIBUTING.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.sources import REPO

CORE = REPO / "_utils/baseimg_core"
FEW = 2  # arguments that need no section
STRUCTURES = ("dict[", "list[dict[", "tuple[")


@dataclass(frozen=True)
class Public:
    """A public class, function or method of the core."""

    #: Path and qualified name.
    name: str
    #: Its definition.
    node: ast.ClassDef | ast.FunctionDef
    #: The class that contains it.
    owner: ast.ClassDef | None

    @property
    def text(self) -> str:
        return ast.get_docstring(self.node) or ""


def public(path: Path) -> Iterator[Public]:
    """Yield the public names of a module."""

    def members(node: ast.Module | ast.ClassDef, name: str) -> Iterator[Public]:
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
                owner = node if isinstance(node, ast.ClassDef) else None
                yield Public(f"{name}.{child.name}", child, owner)
                if isinstance(child, ast.ClassDef):
                    yield from members(child, f"{name}.{child.name}")

    yield from members(ast.parse(path.read_text()), str(path.relative_to(CORE)))


NAMES = [each for path in sorted(CORE.rglob("*.py")) for each in public(path)]
CLASSES = {each.node.name: each.node for each in NAMES if isinstance(each.node, ast.ClassDef)}


PROTOCOLS = ("Engine", "ImageStore")
ENGINE = {each.name for name in PROTOCOLS for each in CLASSES[name].body if isinstance(each, ast.FunctionDef)}


def overrides(method: Public) -> bool:
    """True if the method is one of the protocol ``Engine``, or if a base class in the core documents it."""
    if method.owner and method.name.startswith("engine/") and method.node.name in ENGINE:
        return method.owner.name not in PROTOCOLS
    pending = list(method.owner.bases) if method.owner else []
    while pending:
        base = CLASSES.get(ast.unparse(pending.pop()))
        if base is not None:
            pending += base.bases
            for child in base.body:
                if isinstance(child, ast.FunctionDef) and child.name == method.node.name and ast.get_docstring(child):
                    return True
    return False


FUNCTIONS = [
    (each.name, each.node, each.text)
    for each in NAMES
    if isinstance(each.node, ast.FunctionDef) and not overrides(each)
]


def arguments(node: ast.FunctionDef) -> list[str]:
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def raises(node: ast.FunctionDef) -> bool:
    """True if the function itself raises a new exception."""
    pending: list[ast.AST] = list(node.body)
    while pending:
        child = pending.pop()
        if isinstance(child, ast.Raise) and child.exc is not None:
            return True
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            pending += ast.iter_child_nodes(child)
    return False


def returns_structure(node: ast.FunctionDef) -> bool:
    """True for a function that returns a mapping or a tuple, without properties and generators."""
    result = ast.unparse(node.returns) if node.returns else ""
    is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
    return result.startswith(STRUCTURES) and not is_property


def test_every_public_name_has_a_docstring() -> None:
    assert [each.name for each in NAMES if not each.text and not overrides(each)] == []


def dataclasses(path: Path) -> Iterator[ast.ClassDef]:
    """Yield the dataclasses of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            yield node


def undocumented_fields(path: Path) -> Iterator[str]:
    """Yield the fields of dataclasses without a ``#:`` comment above or behind them."""
    lines = path.read_text().splitlines()
    for node in dataclasses(path):
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                own, above = lines[(field.end_lineno or field.lineno) - 1], lines[field.lineno - 2].lstrip()
                if "  #: " not in own and not above.startswith("#:"):
                    yield f"{path.name}: {node.name}.{ast.unparse(field.target)}"


def test_every_field_of_a_dataclass_has_a_comment() -> None:
    assert [field for path in sorted(CORE.rglob("*.py")) for field in undocumented_fields(path)] == []


def test_more_than_two_arguments_are_listed() -> None:
    missing = []
    for name, node, text in FUNCTIONS:
        section = "\n" + text.partition("Args:\n")[2]
        names = arguments(node)
        if len(names) > FEW:
            missing += [f"{name}: {argument}" for argument in names if f"\n    {argument}: " not in section]
    assert missing == []


def test_more_than_two_arguments_of_a_constructor_are_listed() -> None:
    missing = []
    for each in NAMES:
        for node in each.node.body if isinstance(each.node, ast.ClassDef) else ():
            if isinstance(node, ast.FunctionDef) and node.name == "__init__" and len(arguments(node)) > FEW:
                sections = f"{each.text}\n{ast.get_docstring(node)}"
                missing += [
                    f"{each.name}: {argument}" for argument in arguments(node) if f"\n    {argument}: " not in sections
                ]
    assert missing == []


def test_exceptions_are_named() -> None:
    assert [name for name, node, text in FUNCTIONS if raises(node) and "Raises:\n" not in text] == []


def test_structures_are_described() -> None:
    assert [name for name, node, text in FUNCTIONS if returns_structure(node) and "eturn" not in text] == []

"""Write docs/reference/functions.md from the docstrings of the loader files (`make docs`)."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = REPO / "docs/reference/functions.md"
HEAD = """# Functions

Written by `make docs` from the docstrings; do not edit. The same texts on a node: `salt-call sys.doc baseimg`,
`salt-call sys.state_doc baseimg`, and on the master `salt-run -d baseimg`.
"""
KINDS = (
    ("_modules", "Execution functions", "salt-call baseimg."),
    ("_states", "States", "baseimg."),
    ("_runners", "Runner functions", "salt-run baseimg."),
)


def page() -> str:
    """Return the whole document."""
    parts = [HEAD]
    for directory, title, prefix in KINDS:
        tree = ast.parse((REPO / directory / "baseimg.py").read_text(encoding="utf-8"))
        functions = [function for function in public(tree) if ast.get_docstring(function)]
        overview = _markdown(ast.get_docstring(tree) or "")
        rows = "".join(_row(function, f"{prefix}{function.name}") for function in functions)
        parts.append(f"## {title}\n\n{overview}\n\n| Function | Purpose |\n| --- | --- |\n{rows}")
        parts += [_section(function, f"{prefix}{function.name}") for function in functions]
    return "\n".join(parts)


def public(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions that Salt's loader offers, in order."""
    return (node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))


def _row(function: ast.FunctionDef, title: str) -> str:
    purpose = _inline(" ".join((ast.get_docstring(function) or "").partition("\n\n")[0].split()))
    return f"| [`{title}`](#{_anchor(title)}) | {purpose} |\n"


def _anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(function: ast.FunctionDef, title: str) -> str:
    signature = f"{function.name}({ast.unparse(function.args)})"
    return f"### {title}\n\n```\n{signature}\n```\n\n{_markdown(ast.get_docstring(function) or '')}\n"


def _markdown(docstring: str) -> str:
    """Turn a docstring in Salt's form into Markdown."""
    text = "\n".join(_parts(docstring.strip().split("\n")))
    text = re.sub(r"^(?! *- |  |$)(.+)\n- ", r"\1\n\n- ", text, flags=re.MULTILINE)  # a blank line before a list
    text = re.sub(r"^((?:- |  ).+)\n(?!- |  |\n)", r"\1\n\n", text, flags=re.MULTILINE)  # and one behind it
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _parts(lines: list[str]) -> Iterator[str]:
    """Yield Markdown for lines of a docstring: code blocks, fields, arguments with indented text, paragraphs."""
    position = 0
    while position < len(lines):
        line = lines[position]
        end = position + 1
        while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
            end += 1
        body = textwrap.dedent("\n".join(lines[position + 1 : end])).strip()
        if block := re.match(r"\.\. code-block:: (\w+)$", line):
            yield f"```{block[1]}\n{body}\n```\n"
        elif field := re.match(r":(\w+): (.*)", line):
            yield f"**{field[1].capitalize()}**: {_inline(field[2])}\n{_markdown(body)}\n"
        elif body and (names := re.match(r"(?:``)?(\w+(?:, \w+)*)(?:``)?$", line)):
            yield f"- `{names[1]}`: " + _markdown(body).replace("\n", "\n  ").replace("\n  \n", "\n\n")
        else:
            yield _inline(line)
            end = position + 1
        position = end


def _inline(text: str) -> str:
    text = re.sub(r":py:func:`([\w.]+)(?: <[^>]*>)?`", r"`\1`", text)
    return re.sub(r"(?<!`)``(?!`)", "`", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

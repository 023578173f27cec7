"""The commands in docs/design/reliability.md, and how many tests each selects."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs/design/reliability.md"
# counts the tests of each selection, as pytest itself applies -k
_COUNT = """
import json, sys
import pytest
from _pytest.mark import KeywordMatcher
from _pytest.mark.expression import Expression

selections = json.loads(sys.argv[1])
counts = [0] * len(selections)

class Counter:
    def pytest_collection_modifyitems(self, items):
        for number, (files, expression) in enumerate(selections):
            compiled = Expression.compile(expression) if expression else None
            for item in items:
                of_file = any(item.nodeid.startswith((file + "::", file + "/")) for file in files)
                if of_file and (compiled is None or compiled.evaluate(KeywordMatcher.from_item(item))):
                    counts[number] += 1

    def pytest_collection_finish(self, session):
        session.items.clear()

files = sorted({file for files, _ in selections for file in files})
code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *files], plugins=[Counter()])
print("\\n" + json.dumps(counts if code in (0, 5) else None))
"""


@dataclass(frozen=True)
class Selection:
    """One command of the table of faults."""

    #: The number of tests that the row states.
    tests: int
    #: The files or directories, relative to the repository.
    files: tuple[str, ...]
    #: The value of ``-k``; empty without one.
    expression: str


def selections() -> list[Selection]:
    """Every pytest command of the table. ``…`` stands for the file of the row above."""
    rows: list[Selection] = []
    files: tuple[str, ...] = ()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        command = re.fullmatch(r"`((?:tests/|…)[^`]*)`", cells[-1])
        if command and len(cells) == 3:
            words = shlex.split(command[1])
            files = tuple(word for word in words if word.startswith("tests/")) or files
            expression = words[words.index("-k") + 1] if "-k" in words else ""
            rows.append(Selection(int(cells[1].replace(",", "")), files, expression))
    return rows


def count(rows: Sequence[Selection]) -> list[int]:
    """How many tests each command selects."""
    rows_json = json.dumps([(row.files, row.expression) for row in rows])
    command = [sys.executable, "-c", _COUNT, rows_json]
    done = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True)
    counts: list[int] = json.loads(done.stdout.splitlines()[-1])
    return counts

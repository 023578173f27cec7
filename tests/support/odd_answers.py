"""Minions whose execution module returns something else than it should, as long as a file says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None,
    True,
    "done",
    [],
    {},
    {"suite": "0.1.0"},
    {"bases": 5, "changed": "yes", "needed": 1, "restart": [], "containers": [1]},
    {"bases": [None], "changed": None, "needed": None, "from": 12.1, "containers": {"outdated": [{}]}},
)
_FUNCTIONS = ("declared", "status", "fetch", "prepare", "converge", "plan", "rollback", "containers")
_FLAG = "odd-answers.json"
_SUFFIX = f"""

def _odd(function):
    @__import__("functools").wraps(function)
    def odd(*args, **kwargs):
        result = function(*args, **kwargs)
        try:
            with open(os.path.join(__opts__["cachedir"], "{_FLAG}")) as file:
                answers = __import__("json").load(file)
        except FileNotFoundError:
            return result
        return answers.get(function.__name__, result)

    return odd


for _name in {_FUNCTIONS!r}:
    globals()[_name] = _odd(globals()[_name])
"""


def install(minion: Any) -> None:
    """Change the module of a minion that is not started yet, or starts again."""
    path = Path(minion.config["extension_modules"]) / "modules/baseimg.py"
    path.write_text(path.read_text() + _SUFFIX)


class OddAnswers:
    """The odd answers of one minion during a block: each function does its work, and some return something else."""

    def __init__(self, minion: Any, answers: dict[str, Any]) -> None:
        self._path, self._answers = Path(minion.config["cachedir"]) / _FLAG, answers

    def __enter__(self) -> None:
        self._path.write_text(json.dumps(self._answers))

    def __exit__(self, *_exc: object) -> None:
        self._path.unlink()


def functions() -> tuple[str, ...]:
    """Return the names of the functions that can have odd answers."""
    return _FUNCTIONS

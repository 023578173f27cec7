"""What this process asks of engines, as the interpreter itself tells it."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PATH = re.compile(r"/(?:v1\.\d+/)?(\w+)")  # a path of Docker's API, and what it is about
_counted: list[Counter[str]] = []


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: nobody can take it away again, so it is there once, and counts when it is wanted."""
    if not _counted:
        return
    if event == "socket.connect":
        _counted[-1]["connections"] += 1
    elif event == "subprocess.Popen":
        _counted[-1]["commands"] += 1
    elif event == "http.client.send" and (match := _PATH.match(arguments[1].partition(b" ")[2].decode("latin-1"))):
        _counted[-1][match[1]] += 1


sys.addaudithook(_heard)


@contextmanager
def asked() -> Iterator[Counter[str]]:
    """How many ``connections`` are made, ``commands`` started, and things asked for through Docker's API."""
    _counted.append(Counter())
    try:
        yield _counted[-1]
    finally:
        _counted.pop()

"""
One step of ours in a process of its own, through Salt's loader, as a minion does it.

`python -m bench.step URL CALLS`: CALLS is JSON, a list of {"function", "arguments", "repeat"}. Prints one JSON object
for each: the seconds of every repetition, those of the exchange in all of them, and what the last one returned.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from baseimg_core.disk import files
from tests.support.minion import Minion


class Exchange:
    """Times the exchange, in which a start of a container has to wait. It stands in for the function it calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._exchange = files.exchange
        files.exchange = self

    def __call__(self, one: str, other: str) -> None:
        start = time.perf_counter()
        self._exchange(one, other)
        self.seconds += time.perf_counter() - start


def main(url: str, calls: list[dict[str, Any]]) -> None:
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        minion = Minion(Path(root), url)
        exchange = Exchange()
        for call in calls:
            print(json.dumps(_timed(minion, exchange, call), default=str), flush=True)


def _timed(minion: Minion, exchange: Exchange, call: dict[str, Any]) -> dict[str, Any]:
    function = minion.modules[call["function"]]
    seconds, returned = [], None
    exchange.seconds = 0.0
    for _ in range(call["repeat"]):
        start = time.perf_counter()
        returned = function(**call["arguments"])
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "exchange_seconds": exchange.seconds,
        "returned": returned,
    }


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

"""
One step of baseimg in a separate process, through Salt's loader, as a minion runs it.

`python -m bench.step URL CALLS [OPTIONS]`: CALLS is JSON, a list of {"function", "arguments", "repeat"}, and "probe"
for the measurement inside the process (see inside.py). OPTIONS is JSON, too: "minion" has Salt's options, and
"terminal" makes stderr a terminal. Prints one JSON object for each call: the seconds of every repetition, the
exchange's seconds in all of them, the last result, the measurement inside, and the number of progress reports.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

from baseimg_core import minion as ours
from baseimg_core.linux import syscalls
from bench import inside
from tests.support.minion import Minion


class Timed:
    """Calls a function and times it: the exchange, during which a starting container waits."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.reset()

    def reset(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def __call__(self, *arguments: Any) -> None:  # neither function returns a value
        start = time.perf_counter()
        self._function(*arguments)
        self.seconds += time.perf_counter() - start
        self.calls += 1


def main(url: str, calls: list[dict[str, Any]], options: dict[str, Any]) -> None:
    logging.disable()
    terminal = _terminal() if options.get("terminal") else contextlib.nullcontext()
    with terminal, tempfile.TemporaryDirectory(prefix="bench-") as root:
        minion = Minion(Path(root), url, **options.get("minion", {}))
        exchange = Timed(syscalls.exchange)
        syscalls.exchange = exchange  # type: ignore[assignment]
        progress = Timed(ours.Minion.progress)
        if options.get("count"):
            ours.Minion.progress = partialmethod(progress)  # type: ignore[method-assign, assignment]
        for call in calls:
            for timed in (exchange, progress):
                timed.reset()
            result = _timed(minion, call)
            result |= {"exchange_seconds": exchange.seconds, "progress": [progress.calls, progress.seconds]}
            print(json.dumps(result, default=str), flush=True)


def _timed(minion: Minion, call: dict[str, Any]) -> dict[str, Any]:
    function = minion.modules[call["function"]]
    minion.modules["config.get"]("baseimg:link")  # Salt imports a hundred modules for it, once in a minion's life
    seconds, returned, probe_result = [], None, None
    probes: Any = inside.PROBES.get(call.get("probe", ""), contextlib.nullcontext)
    for _ in range(call["repeat"]):
        with probes() as probe:
            start = time.perf_counter()
            returned = function(**call["arguments"])
            seconds.append(time.perf_counter() - start)
        probe_result = probe.result() if probe else None
    return {"seconds": seconds, "returned": returned, "probed": probe_result}


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Make stderr a terminal that another process reads, as a terminal emulator does."""
    ours, theirs = os.openpty()
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
        kept = os.dup(2)
        os.dup2(theirs, 2)
        os.close(theirs)
        os.close(ours)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)  # closes the terminal, which ends its reader
            os.close(kept)
            reader.wait()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]) if sys.argv[3:] else {})

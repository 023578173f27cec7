"""Containers that start while a base is swapped and pruned; each must see one complete content."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable

from tests.functional.lab import APP, BASE, NEW, NEWER, Lab

WHOLE = {
    "12.0": "12.0 gone kept tool 12.0",
    "12.1": "12.1 added kept tool 12.1",
    "12.2": "12.2 fresh kept tool 12.1",
}
# prints the names of the base's files, and the contents of two of them
READ_VERSIONS = (
    "cd /etc; echo $(cat version) $(for name in added fresh gone kept; do [ -e $name ] && echo $name; done) \
$(cat /usr/lib/tool)"
)
THREADS = 3


def storm(lab: Lab, starts: int, grace: float) -> Counter[str]:
    """
    Start containers in threads during swaps and prunes.

    Args:
        lab: A node without images.
        starts: How many containers to start.
        grace: Seconds that prune keeps a generation after it was swapped out.

    Returns:
        The number of containers by the content that they saw.
    """
    lab.usual(NEWER)
    bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}
    lab.converge(BASE, "12.1", bundles)
    lab.minion.configure(baseimg={"grace": grace})
    outputs: Counter[str] = Counter()
    left = iter(range(starts))
    lock = threading.Lock()

    def start() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            printed = lab.engine.run(APP, "sh", "-c", READ_VERSIONS).strip()
            with lock:
                outputs[printed] += 1

    threads = [threading.Thread(target=_kept(start, outputs, lock)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for version in itertools.cycle(("12.2", "12.0", "12.1")):
        if not any(thread.is_alive() for thread in threads):
            break
        lab.converge(BASE, version, bundles)
        lab.prune(BASE, keep=0)
    for thread in threads:
        thread.join()
    return outputs


def _kept(work: Callable[[], None], outputs: Counter[str], lock: threading.Lock) -> Callable[[], None]:
    """Wrap a thread's work so that an error counts as one more result."""

    def run() -> None:
        try:
            work()
        except Exception as exc:
            with lock:
                outputs[repr(exc)] += 1

    return run

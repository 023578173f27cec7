"""Containers that start, builds and exports while a base is swapped and pruned; each must see one complete content."""

from __future__ import annotations

import io
import itertools
import tarfile
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
#: The names and files that READ_VERSIONS prints, in an export.
NAMES, READ = ("added", "fresh", "gone", "kept"), ("etc/version", "usr/lib/tool")


def storm(lab: Lab, starts: int, grace: float) -> Counter[str]:
    """
    Start containers in threads during swaps and prunes; every third start is a step of a build, or an export.

    Args:
        lab: A node without images.
        starts: How many to start.
        grace: Seconds that prune keeps a generation after it was swapped out.

    Returns:
        Their number by the content that they saw.
    """
    lab.usual(NEWER)
    bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}
    lab.converge(BASE, "12.1", bundles)
    lab.minion.configure(baseimg={"grace": grace})
    outputs: Counter[str] = Counter()
    left = iter(range(starts))
    see = itertools.cycle((_run, _run, _build, _run, _run, _export))
    lock = threading.Lock()

    def start() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
                seen_by = next(see)
            printed = seen_by(lab)
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


def _run(lab: Lab) -> str:
    return lab.engine.run(APP, "sh", "-c", READ_VERSIONS).strip()


def _build(lab: Lab) -> str:
    """Run a step of the classic builder, which prints what the step prints."""
    dockerfile = io.BytesIO(f"FROM {APP}\nRUN {READ_VERSIONS}\n".encode())
    options = {"rm": True, "forcerm": True, "nocache": True, "network_mode": "none", "decode": True}
    lines = [
        line.get("stream", line.get("error", "")) for line in lab.engine.client.build(fileobj=dockerfile, **options)
    ]
    return next((line.strip() for line in lines if line.startswith("12.")), "".join(lines))


def _export(lab: Lab) -> str:
    """Export a container that never ran: the engine mounts it for the export alone."""
    container = lab.engine.client.create_container(APP, ["true"], host_config={"NetworkMode": "none"})
    data = b"".join(lab.engine.client.export(container))
    lab.engine.client.remove_container(container)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        version, tool = (tar.extractfile(name) for name in READ)
        names = [name for name in NAMES if f"etc/{name}" in tar.getnames()]
        assert version
        assert tool
        return f"{version.read().decode().strip()} {' '.join(names)} {tool.read().decode().strip()}"


def _kept(work: Callable[[], None], outputs: Counter[str], lock: threading.Lock) -> Callable[[], None]:
    """Wrap a thread's work so that an error counts as one more result."""

    def run() -> None:
        try:
            work()
        except Exception as exc:
            with lock:
                outputs[repr(exc)] += 1

    return run

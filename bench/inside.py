"""The time of a step from inside its process: between trace points, and by kind of work."""

from __future__ import annotations

import contextlib
import cProfile
import pstats
import re
import resource
import threading
import time
from typing import Any

from baseimg_core.disk.store.generations import Store

# Kinds of work, by a function's file and name; the first match counts. Built-in functions have no file.
_GROUPS = (
    ("digests", r"sha256|hashlib|_hash|HASH|file_digest"),
    ("compression", r"zstd|zlib|Zstd|Compress|backend_c"),
    ("sync", r"fsync|fdatasync|sync_filesystem|posix\.sync"),
    ("waiting for threads", r"'acquire' of|_queue|select\.poll|lock_|join"),
    ("engine", r"/docker/|/urllib3/|/requests/|/http/|'recv|'connect'|'send|socket"),
    ("reading files", r"'read' of|'readinto' of|posix\.p?read(v)?>|posix\.lseek"),
    ("writing files", r"'write' of|posix\.write|copy_file_range|sendfile|fcntl\.ioctl|truncate|fallocate|'flush' of"),
    ("metadata", r"built-in method posix\.|built-in method (_io|io)\.open|DirEntry|ScandirIterator|'close' of '_io"),
    ("JSON", r"/json/|_json"),
    ("archives (tar)", r"tarfile|struct"),
    ("Salt", r"/salt/"),
    ("our Python", r"baseimg"),
)
OTHER = "other Python"


class Points(contextlib.AbstractContextManager["Points"]):
    """Seconds from the start of a step to each trace point and to its end."""

    def __enter__(self) -> Points:
        self._times: list[tuple[str, float]] = []
        self._trace, Store.trace = Store.trace, staticmethod(self._passed)
        self._usage, self._start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._passed("end")
        Store.trace = staticmethod(self._trace)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._user, self._system = usage.ru_utime - self._usage.ru_utime, usage.ru_stime - self._usage.ru_stime

    def _passed(self, point: str) -> None:
        self._times.append((point, time.perf_counter() - self._start))

    def result(self) -> dict[str, Any]:
        return {"points": self._times, "user_seconds": self._user, "system_seconds": self._system}


class Functions(contextlib.AbstractContextManager["Functions"]):
    """A profile of all threads of a step. It includes the profiler's time, mostly in Python functions."""

    def __enter__(self) -> Functions:
        self._main, self._threads = cProfile.Profile(), list[cProfile.Profile]()
        self._run = threading.Thread.run
        run, threads = self._run, self._threads

        def profiled(thread: threading.Thread) -> None:
            profile = cProfile.Profile()
            threads.append(profile)
            profile.runcall(run, thread)

        threading.Thread.run = profiled  # type: ignore[method-assign, assignment]
        self._main.enable()
        return self

    def __exit__(self, *_: object) -> None:
        self._main.disable()
        threading.Thread.run = self._run  # type: ignore[method-assign]

    def result(self) -> dict[str, Any]:
        """Return the seconds of each group and of the ten slowest functions, for main and other threads."""
        return {"main": _grouped([self._main]), "threads": _grouped(self._threads)}


def _grouped(profiles: list[cProfile.Profile]) -> dict[str, Any]:
    groups: dict[str, float] = {}
    functions: list[tuple[float, int, str]] = []
    for profile in profiles:
        for (file, _line, name), (_primitive, calls, own, *_rest) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
            where = f"{file} {name}"
            group = next((title for title, pattern in _GROUPS if re.search(pattern, where)), OTHER)
            groups[group] = groups.get(group, 0.0) + own
            functions.append((own, calls, name if file == "~" else f"{file.rpartition('/')[2]} {name}"))
    return {"groups": groups, "functions": sorted(functions, reverse=True)[:10]}


PROBES = {"points": Points, "functions": Functions}

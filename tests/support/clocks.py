"""Processes with a wrong clock: a preloaded library adds seconds, which a file names, to the time of day."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

_VARIABLE = "BASEIMG_TEST_CLOCK"
_SOURCE = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile const int64_t *offset;

__attribute__((constructor)) static void map_offset(void)
{{
    const char *path = getenv("{_VARIABLE}");
    int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = descriptor < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, descriptor, 0);
    offset = page == MAP_FAILED ? NULL : page;
}}

int clock_gettime(clockid_t clock, struct timespec *moment)
{{
    static int (*original)(clockid_t, struct timespec *);
    if (!original)
        original = dlsym(RTLD_NEXT, "clock_gettime");
    int result = original(clock, moment);
    if (!result && clock == CLOCK_REALTIME && offset)
        moment->tv_sec += *offset;
    return result;
}}

int gettimeofday(struct timeval *moment, void *zone)
{{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    moment->tv_sec = precise.tv_sec;
    moment->tv_usec = precise.tv_nsec / 1000;
    return 0;
}}

time_t time(time_t *result)
{{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (result)
        *result = precise.tv_sec;
    return precise.tv_sec;
}}
"""


def library(directory: Path) -> Path:
    """Compile the library into a directory; return its path."""
    path = directory / "clock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), "-ldl"]
    subprocess.run(command, input=_SOURCE, text=True, check=True)
    return path


class Clock:
    """
    The clock of the processes that start with ``environ``. It is right at first.

    Args:
        path: the file with the offset, which is created.
        preload: the library.
    """

    def __init__(self, path: Path, preload: Path) -> None:
        self._path = path
        path.write_bytes(struct.pack("=q", 0))
        self.environ = {"LD_PRELOAD": str(preload), _VARIABLE: str(path)}

    def set(self, offset: int) -> None:
        """Change the clock by so many seconds, counted from the right time."""
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, struct.pack("=q", offset), 0)  # the processes have this file mapped
        finally:
            os.close(descriptor)

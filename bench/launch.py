"""
Run a command and report the resources that the kernel accounts to it.

The process is separate and small: a child starts with its parent's peak memory, so the harness cannot be the parent.

`python -I -S launch.py REPORT COMMAND…`
"""

import json
import os
import resource
import sys
import time

report, *command = sys.argv[1:]
start = time.perf_counter()
pid = os.fork()
if pid == 0:
    os.execvp(command[0], command)
_pid, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
with open(report, "w") as file:
    json.dump(
        {
            "code": os.waitstatus_to_exitcode(status),
            "process_seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            # of the largest process among the command and its children
            "peak_bytes": usage.ru_maxrss << 10,
            "own_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        },
        file,
    )

"""For tests only: a job that waits at a named step of an operation, so a test can inject a fault."""

import os
import sys


def stop_at(point, place, name, function, *arguments, **named):
    """
    Call ``function`` in this job and wait at ``point`` (one of ``generations.POINTS``).

    ``place`` is a directory with two FIFOs. The job writes ``name``, its PID and the point to ``reached``, and resumes
    when a process opens the FIFO ``name`` for writing.

    CLI Example:

    .. code-block:: bash

        salt '*' steps.stop_at swap.exchanged /tmp/steps mine baseimg.rollback corp/base:12.0
    """
    call = __salt__[function]  # loads the core, so the trace can be installed
    generations = sys.modules["baseimg_core.disk.store.generations"]

    def trace(reached):
        if reached == point:
            _tell(os.path.join(place, "reached"), f"{name} {os.getpid()} {point}\n")
            with open(os.path.join(place, name), "rb") as go_on:
                go_on.read()

    generations.Store.trace = staticmethod(trace)
    return call(*arguments, **named)


def _tell(path, line):
    with open(path, "w", encoding="utf-8") as report:
        report.write(line)

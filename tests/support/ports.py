"""TCP ports for daemons of tests."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

_LANE = 1000  # ports of one worker of pytest-xdist
# Below the kernel's range for outgoing connections (ip_local_port_range, 32768 and up): such a connection could take a
# port between its choice and the start of the daemon.
_FIRST, _LAST = 20_000, 32_000


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker * _LANE % (_LAST - _FIRST)
    start = os.getpid() % _LANE  # two runs on one machine seldom meet
    return (first + (start + step) % _LANE for step in itertools.count())


_CANDIDATES = _ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, a different one with each call."""
    for port in itertools.islice(_CANDIDATES, _LANE):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port among {_LANE}")

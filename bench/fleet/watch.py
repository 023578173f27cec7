"""What goes over the wire and over the master's event bus while a job runs."""

from __future__ import annotations

import ctypes
import http.server
import subprocess
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any

import salt.payload
import salt.utils.event

CLONE_NEWNET = 0x40000000
QUIET_SECONDS = 0.5


def private_network() -> None:
    """A loopback device of our own, for this process and all that it starts: our ports, and nobody else's bytes."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise SystemExit("bench: cannot make a network namespace")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def loopback_bytes() -> int:
    """All that was sent in our network so far: Salt's and HTTP's, headers and acknowledgements included."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (fields,) = (line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:"))
    return int(fields[8])


class Files:
    """A plain HTTP server for the files of one directory, which counts what it sends and the processor time of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sent, self.cpu_seconds = 0, 0.0
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Files:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        files = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with (files.root / Path(self.path).name).open("rb") as file:
                    self.send_response(HTTPStatus.OK)
                    self.send_header("Content-Length", str(Path(file.name).stat().st_size))
                    self.end_headers()
                    files._count(self.connection.sendfile(file))  # as any serious server does

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler

    def _count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent
            self.cpu_seconds += time.thread_time()  # a thread for each connection, and this is its only request


class Bus:
    """
    Listens on the master's event bus.

    ``requests`` has what the workers were asked for: command → how often, and seconds in a worker. ``events`` and
    ``bytes`` are of all other events. The master tells of its requests by events, too (`master_stats`).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self.events, self.bytes = 0, 0
        self.requests: dict[str, list[float]] = {}
        self._ready, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Bus:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _listen(self) -> None:
        with salt.utils.event.get_event("master", opts=self._options, listen=True) as bus:
            self._ready.set()
            while True:
                # what was said before we were told to end is still heard
                event = bus.get_event(wait=QUIET_SECONDS, full=True)
                if event is not None:
                    self._heard(event)
                elif self._done.is_set():
                    return

    def _heard(self, event: dict[str, Any]) -> None:
        stats = event["data"].get("stats") if "stats" in event["tag"] else None
        if stats is None:
            self.events += 1
            self.bytes += len(salt.payload.dumps(event["data"]))
            return
        for command, stat in stats.items():
            request = self.requests.setdefault(command, [0, 0.0])
            request[0] += stat["runs"]
            request[1] += stat["runs"] * stat["mean"]

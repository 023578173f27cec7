"""The request of a health check, to servers that answer well, wrongly, slowly or not."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from baseimg_core import http_get
from baseimg_core.http_get import Unanswered, get
from tests.support.deadlines import scaled

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwell!"


@contextmanager
def server(answer: Callable[[socket.socket, bytes], object], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads a request's first bytes and gives `answer` the connection; yields host and port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with suppress(OSError), closing(context.wrap_socket(plain, True) if context else plain) as connection:
                    answer(connection, connection.recv(4096))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def says(data: bytes) -> Callable[[socket.socket, bytes], object]:
    return lambda connection, _request: connection.sendall(data)


def redirects(*locations: str) -> Callable[[socket.socket, bytes], object]:
    """Answers the first requests with these locations, and later ones with success."""
    left = list(locations)

    def answer(connection: socket.socket, _request: bytes) -> None:
        text = f"HTTP/1.1 302 Found\r\nLocation: {left.pop(0)}\r\n\r\n".encode() if left else OK
        connection.sendall(text)

    return answer


def test_status_and_the_first_bytes_of_the_body() -> None:
    with server(says(OK)) as host:
        assert get(f"http://{host}", 5, 3) == http_get.Response(200, b"wel")
    with server(says(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")) as host:
        assert get(f"http://{host}/x?y#z", 5, 100) == http_get.Response(503, b"")


def test_the_request_has_path_and_query_and_no_fragment() -> None:
    requests = []
    with server(lambda connection, request: (requests.append(request), connection.sendall(OK))) as host:
        get(f"http://{host}/a?query=sum(rate(x[5m]))<bool+1#part", 5)
    assert requests[0].startswith(b"GET /a?query=sum(rate(x[5m]))<bool+1 HTTP/1.1\r\n")


def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    with server(says(OK)) as host:
        assert get(f"http://{host}/", 5).status == 200


def test_redirects_are_followed() -> None:
    with server(says(OK)) as other, server(redirects("/b", f"http://{other}/c")) as host:
        assert get(f"http://{host}/a", 5, 9) == http_get.Response(200, b"well!")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (redirects(*["/"] * 11), "more than 10 redirects"),
        (redirects("file:///etc/shadow"), "not a URL with http or https: file:///etc/shadow"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "SSH-2.0-OpenSSH_9.2"),  # this was a traceback
        (says(b""), "Remote end closed connection without response"),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense"), "IncompleteRead"),
    ],
)
def test_no_response(answer: Callable[[socket.socket, bytes], object], reason: str) -> None:
    with server(answer) as host, pytest.raises(Unanswered, match=reason):
        get(f"http://{host}/", 5, 100)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http:///x", "http://h:port/", "http://127.0.0.1/ä", "http://[/"]
)
def test_a_url_that_cannot_be_requested(url: str) -> None:
    with pytest.raises(Unanswered):
        get(url, 5)


def test_a_body_without_an_end_takes_no_more_than_the_time() -> None:
    """Each byte in time, and no end: this kept a rollout waiting."""

    def send_for_ever(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b".")

    began = time.monotonic()
    with server(send_for_ever) as host:
        with pytest.raises(Unanswered, match="timed out"):
            get(f"http://{host}/", 0.3, 1 << 30)
        assert time.monotonic() - began < scaled(5)


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout key -out cert"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with server(says(OK), context) as host, pytest.raises(Unanswered, match="certificate verification failed: self"):
        get(f"https://{host}/", 5)

"""Background threads return the bytes they read, digest them correctly, and end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.linux import concurrency
from baseimg_core.linux.concurrency import AsyncHash, ReadAhead, in_background, map_ahead
from baseimg_core.linux.files import CHUNK
from tests.support.deadlines import SECONDS, scaled


@given(pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=30), counts=st.lists(st.integers(1, 200)))
def test_ahead_gives_the_same_bytes(pieces: list[bytes], counts: list[int]) -> None:
    """The bytes are the same whatever the sizes of the stream's blocks and of the reads."""
    left = iter(pieces)
    with contextlib.closing(ReadAhead(lambda count: next(left, b""))) as stream:
        read = [stream.read(count) for count in counts]
        assert all(len(data) <= count for data, count in zip(read, counts, strict=True))
        while data := stream.read(CHUNK):
            read.append(data)
        assert b"".join(read) == b"".join(pieces)
        assert stream.read(1) == b""


def test_ahead_is_a_few_chunks_ahead_only() -> None:
    endless = io.BytesIO(bytes(20 * CHUNK))
    with contextlib.closing(ReadAhead(endless.read)) as stream:
        stream.read(1)
    assert 0 < endless.tell() <= (concurrency._PENDING_CHUNKS + 1) * CHUNK


def test_ahead_raises_where_reading_did() -> None:
    answers = iter([b"first", OSError(5, "no more")])

    def read(_count: int) -> bytes:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with contextlib.closing(ReadAhead(read)) as stream:
        assert stream.read(5) == b"first"
        with pytest.raises(OSError, match="no more"):
            stream.read(1)


def test_meanwhile_the_block_goes_on() -> None:
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert done.wait(scaled(SECONDS))

    with in_background(work):
        assert begun.wait(scaled(SECONDS))
        done.set()


def test_meanwhile_raises_what_either_raises() -> None:
    def fails() -> None:
        raise OSError(5, "in the thread")

    with pytest.raises(OSError, match="in the thread"), in_background(fails):
        pass
    ended = threading.Event()
    with pytest.raises(OSError, match="in the block"), in_background(ended.set):
        raise OSError(5, "in the block")
    assert ended.is_set()


def test_no_thread_stays() -> None:
    before = set(threading.enumerate())
    with contextlib.closing(ReadAhead(io.BytesIO(bytes(9 * CHUNK)).read)) as stream:
        stream.read(1)
    digest = AsyncHash()
    digest.update(b"x")
    digest.hexdigest()
    for thread in set(threading.enumerate()) - before:
        thread.join(scaled(SECONDS))
        assert not thread.is_alive()


def test_a_forgotten_reader_is_collected_without_waiting_for_its_thread() -> None:
    """The collector can run inside the threading machinery, so it must not wait for the reader's thread."""
    going_on, begun = threading.Event(), threading.Event()

    def read(_count: int) -> bytes:
        begun.set()
        assert going_on.wait(scaled(SECONDS))
        return b""

    def forget() -> Iterator[None]:
        with contextlib.closing(ReadAhead(read)):
            yield

    forgotten = forget()
    next(forgotten)
    assert begun.wait(scaled(SECONDS))
    forgotten.close()  # returns although the reader's thread still reads
    going_on.set()


@given(pieces=st.lists(st.binary(max_size=100), max_size=20), often=st.sampled_from([1, 40_000]))
def test_digest(pieces: list[bytes], often: int) -> None:
    digest, expected = AsyncHash(), hashlib.sha256()
    for piece in pieces:
        digest.update(piece * often)
        expected.update(piece * often)
    assert digest.hexdigest() == expected.hexdigest()


def test_what_is_made_ahead_comes_in_order_and_is_bounded() -> None:
    begun: list[int] = []

    def make(number: int) -> int:
        begun.append(number)
        return number * 2

    with ThreadPoolExecutor(2) as pool:
        for number, made in map_ahead(pool, make, range(50), 4):
            assert made == number * 2
            assert len(begun) <= number + 5
    assert sorted(begun) == list(range(50))


def test_what_fails_ahead_fails_in_its_turn() -> None:
    with ThreadPoolExecutor(2) as pool:
        turns = map_ahead(pool, lambda number: 6 // number, [3, 2, 0, 1], 2)
        assert [next(turns), next(turns)] == [(3, 2), (2, 3)]
        with pytest.raises(ZeroDivisionError):
            next(turns)


def test_nothing_more_is_made_once_nobody_asks() -> None:
    wait = threading.Event()
    begun: list[int] = []

    def make(number: int) -> None:
        begun.append(number)
        assert number == 0 or wait.wait(scaled(SECONDS))

    with ThreadPoolExecutor(1) as pool:
        turns = map_ahead(pool, make, range(50), 20)
        next(turns)
        turns.close()
        wait.set()
    assert len(begun) <= 2

"""Pumps between pipes: bulk makes the pipes larger, small amounts don't, and every byte arrives."""

import fcntl
import os
from collections.abc import Callable, Iterator

import pytest

from longshore.shim.loop import Loop
from longshore.shim.pump import Pump

SMALL, LARGE = 1 << 16, 1 << 20


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def pumped(loop: Loop, send: Callable[[int], bool]) -> tuple[bytes, int]:
    """What comes out when `send`, given the writing end, says False once it has no more; and the sink's size then."""
    (source, given), (taken, sink) = (os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for _ in range(2))
    ended: list[bool] = []
    Pump(loop, source, os.dup(sink), lambda: ended.append(True), splice=True)
    received = bytearray()
    more = True
    while not ended:
        if more and not (more := send(given)):
            os.close(given)
        loop.turn()
        try:
            received += os.read(taken, LARGE)
        except BlockingIOError:
            continue
    size = fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ)
    os.close(sink)
    while data := os.read(taken, LARGE):
        received += data
    os.close(taken)
    return bytes(received), size


def sender(data: bytes, at_once: int) -> Callable[[int], bool]:
    left = memoryview(data)

    def send(fd: int) -> bool:
        nonlocal left
        try:
            left = left[os.write(fd, left[:at_once]) :]
        except BlockingIOError:
            pass
        return bool(left)

    return send


def test_bulk_makes_the_pipes_larger(loop: Loop) -> None:
    data = os.urandom(2 << 20)
    assert pumped(loop, sender(data, LARGE)) == (data, LARGE)


def test_lines_do_not(loop: Loop) -> None:
    data = os.urandom(64 << 10)
    assert pumped(loop, sender(data, 512)) == (data, SMALL)

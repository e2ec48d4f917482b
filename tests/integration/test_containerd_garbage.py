"""What isn't gRPC on the gRPC socket, nor ttrpc on its twin; and more connections than there are descriptors for."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.daemon import LONGSHORE, Longshore
from support.process import eventually

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    """One of HTTP/2."""
    return struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data


SETTINGS = PREFACE + frame(4, 0, 0)
NOISE = random.Random(1).randbytes(4096)
WORDS = {
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": NOISE,
    "zeros": bytes(100_000),
    "half a preface": PREFACE[:10],
    "a preface": PREFACE,
    "half a frame": SETTINGS + b"\x00\x40\x00\x01\x04",
    "an unknown frame": SETTINGS + frame(0xEE, 0xFF, 1, b"x" * 100),
    "data of no stream": SETTINGS + frame(0, 1, 1, b"x" * 100),
    "a server's stream": SETTINGS + frame(1, 5, 2, b"\x82"),
    "headers that can't be unpacked": SETTINGS + frame(1, 5, 1, NOISE[:500]),
    "too large a window": SETTINGS + 2 * frame(8, 0, 0, b"\x7f\xff\xff\xff"),
    "streams begun and dropped": SETTINGS
    + b"".join(frame(1, 4, 2 * n + 1, b"\x82") + frame(3, 0, 2 * n + 1, b"\0\0\0\x08") for n in range(2000)),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:200],
    "a huge ttrpc message": struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0) + b"x" * 100,
    "a ttrpc message cut short": struct.pack(">IIBB", 100, 1, 1, 0) + b"x" * 10,
    "ttrpc noise": 50 * (struct.pack(">IIBB", 20, 1, 1, 0) + NOISE[:20]),
}


@contextmanager
def connected(path: Path, count: int, words: bytes = b"") -> Iterator[list[socket.socket]]:
    """Clients that said something and are silent since; connections wait in the kernel where they aren't taken."""
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for client in clients:
            client.settimeout(60)
            client.connect(str(path))
            try:
                client.sendall(words)
            except (BrokenPipeError, ConnectionResetError):
                pass  # thrown out in the middle of it
        yield clients


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("twin", ["", ".ttrpc"])
def test_nonsense_and_silence(twin: str) -> None:
    with Longshore() as daemon:
        assert daemon.go_ctr("version").returncode == 0
        before = descriptors(daemon.pid)
        path = daemon.address.with_name(daemon.address.name + twin)
        with ExitStack() as stack:
            for words in WORDS.values():
                stack.enter_context(connected(path, 2, words))
            stack.enter_context(connected(path, 400))
            assert daemon.go_ctr("version").returncode == 0
        eventually(lambda: descriptors(daemon.pid) <= before + 3)
        assert daemon.go_ctr("version").returncode == 0
        assert "Traceback" not in daemon.log.read_text()


def test_more_connections_than_descriptors() -> None:
    """They wait; the daemon does not spin, and goes on when there is room again."""
    with Longshore(program=("prlimit", "--nofile=100:100", LONGSHORE)) as daemon:
        with connected(daemon.address, 200):
            eventually(lambda: descriptors(daemon.pid) >= 99)
        assert daemon.go_ctr("version").returncode == 0
        assert "Traceback" not in daemon.log.read_text()

"""A container's streams at a terminal: output taken apart, input passed on, sizes and signals forwarded."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any

from longshore.docker.api import Client, Failure, Hijacked

DETACH = "ctrl-p,ctrl-q"
_HEADER = struct.Struct(">BxxxI")


def keys(text: str) -> bytes:
    """ "ctrl-p,q" as bytes. Raises Failure."""
    found = b""
    for word in (text or DETACH).split(","):
        if len(word) == 1:
            found += word.encode()
        elif word.startswith("ctrl-") and len(word) == 6 and word[5] in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            found += bytes([ord(word[5].upper()) & 0x1F])
        else:
            raise Failure(f"invalid detach keys ({text}): Unknown character: '{word}'")
    return found


class Demultiplexer:
    """Frames in, (stream, data) out."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """1 is stdout, 2 stderr, 3 an error of the daemon's."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if len(self._pending) < _HEADER.size + length:
                return
            yield kind, self._pending[_HEADER.size : _HEADER.size + length]
            self._pending = self._pending[_HEADER.size + length :]


def copy_output(read: Callable[[], bytes], *, terminal: bool) -> None:
    """Until the end, to our stdout and stderr."""
    frames = Demultiplexer()
    while data := read():
        if terminal:
            put(1, data)
            continue
        for kind, part in frames.feed(data):
            put(2 if kind != 1 else 1, part)


def put(fd: int, data: bytes) -> None:
    """All of it; a reader that is gone ends us as it would end cat."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Session:
    """Our terminal or pipes joined to a hijacked connection. `with` restores the terminal."""

    def __init__(self, connection: Hijacked, *, terminal: bool, stdin: bool, keys: bytes = b"") -> None:
        self._connection = connection
        self._terminal = terminal
        self._stdin = stdin
        self._keys = keys
        self._typed = b""
        self.detached = False
        self._saved: list[Any] | None = None
        self._raw = terminal and stdin and sys.stdin.isatty()

    def __enter__(self) -> Session:
        if self._raw:
            self._saved = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)  # what was typed already is for the container
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self._saved = None
        self._connection.close()

    def run(self) -> None:
        """Until the container's output has ended."""
        if self._stdin:
            threading.Thread(target=self._send, daemon=True).start()
        copy_output(self._connection.read, terminal=self._terminal)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                select.select([0], [], [])
                data = os.read(0, 65536)
                if not data:
                    break
                if self._raw and self._leaves(data):
                    # Ends what waits for output, in the other thread.
                    self.detached = True
                    self._connection.end()
                    return
                self._connection.write(data)
            self._connection.close_write()

    def _leaves(self, data: bytes) -> bool:
        """Whether the user has typed the keys that detach."""
        self._typed = (self._typed + data)[-len(self._keys) :] if self._keys else b""
        return bool(self._keys) and self._typed == self._keys


def resize(client: Client, path: str) -> None:
    """Tell the daemon the terminal's size, now."""
    columns, rows = shutil.get_terminal_size((0, 0))
    if columns and rows:
        with contextlib.suppress(Failure, OSError):
            client.post(f"{path}/resize", {"h": rows, "w": columns})


def follow_size(client: Client, path: str) -> None:
    """And whenever it changes."""
    resize(client, path)
    signal.signal(signal.SIGWINCH, lambda *_: resize(client, path))


def forward_signals(client: Client, id: str) -> None:
    """What would end us is the container's to decide about."""

    def passed(number: int, _: object) -> None:
        with contextlib.suppress(Failure, OSError):
            client.post(f"/containers/{id}/kill", {"signal": signal.Signals(number).name})

    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, passed)

"""A client on a terminal, as a user has it: typing, waiting for output, and changing the window's size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Terminal:
    """A command on a terminal of its own, as a user has one."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._set_size(24, 80)
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self._resized = False
        self.seen = ""

    def _set_size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, lines: int, columns: int) -> None:
        self._set_size(lines, columns)
        self._resized = True
        self._tell_of_the_size()

    def _tell_of_the_size(self) -> None:
        self._process.send_signal(signal.SIGWINCH)

    def wait_for_size(self, lines: int, columns: int) -> None:
        """Until the shell's terminal has this size.

        The first one the client sends by itself. Of a new one it is told again and again: the shell has the
        first from the start, or from the client's first request, both before the client listens to signals.
        """
        size = f"{lines} {columns}"
        self.type(
            f"until [ \"$(stty size 2>&1)\" = '{size}' ]; do sleep 0.05; done; echo size '' {columns}\n"
        )
        self.until(rf"size +{columns}\r\n", meanwhile=self._tell_of_the_size if self._resized else None)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, pattern: str, within: float = 60, *, meanwhile: Callable[[], None] | None = None) -> str:
        """Read until `pattern` has been printed; it is then forgotten together with all before it.

        `meanwhile` is called whenever nothing has been printed for half a second.
        """
        deadline = time.monotonic() + within
        while not (found := re.search(pattern, self.seen)):
            left = max(0, deadline - time.monotonic())
            ready, _, _ = select.select([self._master], [], [], min(left, 0.5) if meanwhile else left)
            if not ready and meanwhile is not None and left:
                meanwhile()
                continue
            if not ready:
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            try:
                self.seen += os.read(self._master, 65536).decode()
            except OSError:
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}") from None
        self.seen = self.seen[found.end() :]
        return found.group()

    def end(self) -> int:
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()
            os.close(self._master)

"""The caller's terminal joined to the container's, for a ``run`` or ``exec`` in the foreground."""

from __future__ import annotations

import os
import select
import termios
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socketpair

from longshore.linux import libc

_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
_CHUNK = 65536


class Relay:
    """``with Relay() as relay:`` gives `connection` to the container's process, then `carry`; restores the terminal."""

    def __init__(self) -> None:
        self._ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self.connection = theirs.detach()
        self._master = -1
        self._saved: list[object] | None = None

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        if self._master >= 0:
            os.close(self._master)
        self._ours.close()

    def carry(self, pidfd: int) -> None:
        """Copy both ways until the process has ended and its last output is shown."""
        _, ancillary, _, _ = self._ours.recvmsg(256, 64)
        self._master = int.from_bytes(ancillary[0][2][:4], "little")
        os.set_inheritable(self._master, False)
        if os.isatty(0):
            self._raw()
            self.resize()
        poll = select.poll()
        for fd in (0, self._master, pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._master in ready and not self._show():
                return
            if 0 in ready and not self._type():
                poll.unregister(0)
            if ready == {pidfd}:
                return

    def _show(self) -> bool:
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:
            return False  # EIO: every slave is closed
        _write_all(1, data)
        return bool(data)

    def _type(self) -> bool:
        data = os.read(0, _CHUNK)
        # End of a file that isn't a terminal is what ^D is on one.
        _write_all(self._master, data or b"\x04")
        return bool(data)

    def _raw(self) -> None:
        self._saved = termios.tcgetattr(0)
        mode = termios.tcgetattr(0)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        termios.tcsetattr(0, termios.TCSADRAIN, mode)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self._master < 0 or not os.isatty(0):
            return
        window = bytearray(8)
        libc.call("ioctl", 0, _TIOCGWINSZ, libc.buffer(window))
        libc.call("ioctl", self._master, _TIOCSWINSZ, libc.buffer(window))


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

"""Moving a process' bytes between its pipes or terminal and the client's FIFOs, without ever blocking.

Bulk goes from pipe to pipe by splice(2): the bytes never enter our memory. Small
amounts are copied, because each splice takes one of a pipe's 16 slots, however
little it moves: sixteen spliced lines would fill a FIFO that holds 64 KiB of
copied ones, and stop a container whose reader is away for a moment. A terminal
or a regular file on one of the sides is always copied.

Where bulk keeps coming, the pipes are made larger: with 64 KiB, writer, shim and
reader take turns at every 64 KiB, and each waits for a processor.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections.abc import Callable

from longshore.linux import files
from longshore.shim.loop import READ, WRITE, Loop

_CHUNK = 65536
_BULK = 32768
_SPLICE = 1 << 20
_LARGE = 1 << 20
_ENLARGE_AFTER = 4
_SPLICE_F_MOVE = 1
_SPLICE_F_NONBLOCK = 2


class Pump:
    """Copies `source` to `sink` until end of file or an error, then closes both and calls `ended`.

    It owns both descriptors, which must be non-blocking. It waits either for
    the source or, when the sink is full, for the sink alone: a hung-up source
    would wake us without end.
    """

    def __init__(
        self, loop: Loop, source: int, sink: int, ended: Callable[[], None], *, splice: bool
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._ended = ended
        self._splices = splice
        self._pending = memoryview(b"")
        self._spliced = 0
        self.running = True
        loop.watch(source, READ, self._readable)

    def stop(self) -> None:
        """End now, whatever is still on its way."""
        if not self.running:
            return
        self.running = False
        for fd in (self._source, self._sink):
            self._loop.forget(fd)
            os.close(fd)
        self._ended()

    def _readable(self, _: int) -> None:
        self._step()

    def _writable(self, _: int) -> None:
        self._loop.forget(self._sink)
        self._loop.watch(self._source, READ, self._readable)
        if self._pending:
            self._step()

    def _step(self) -> None:
        try:
            if not (self._splice() if self._bulk() else self._copy()):
                self.stop()
        except BlockingIOError:
            self._loop.forget(self._source)
            self._loop.watch(self._sink, WRITE, self._writable)
        except OSError:
            # EIO: the terminal's last user is gone. EPIPE: nobody reads any more. Either way it is over.
            self.stop()

    def _bulk(self) -> bool:
        if not self._splices or self._pending:
            return False
        waiting = fcntl.ioctl(self._source, termios.FIONREAD, b"\0\0\0\0")
        return int.from_bytes(waiting, sys.byteorder) >= _BULK

    def _splice(self) -> bool:
        self._spliced += 1
        if self._spliced == _ENLARGE_AFTER:
            self._enlarge()
        return files.splice(self._source, self._sink, _SPLICE, _SPLICE_F_MOVE | _SPLICE_F_NONBLOCK) > 0

    def _enlarge(self) -> None:
        for fd in (self._source, self._sink):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE)
            except OSError:
                pass  # beyond what we may have: it works with small ones, too

    def _copy(self) -> bool:
        """Move one chunk; False at end of file. BlockingIOError means the sink's, never the source's."""
        if not self._pending:
            try:
                data = os.read(self._source, _CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._pending = memoryview(data)
        while self._pending:
            self._pending = self._pending[os.write(self._sink, self._pending) :]
        return True

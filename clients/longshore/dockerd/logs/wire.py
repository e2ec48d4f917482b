"""What passes between dockerd and a container's logger, on the logger's Unix socket.

A frame is the one of Docker's multiplexed streams, so that output can be passed on as it comes: the kind, three
zero bytes, the length of what follows (u32, big endian).

    dockerd -> logger   ATTACH        from now on, send output; answered by READY, then frames STDOUT, STDERR
                        WATCH         tell when the log has grown: READY, then WRITTEN and ROTATED
                        FINISH        the task has ended: read what is left and end; answered by DONE
                        STDIN         bytes for the container
                        CLOSE_STDIN   after all that was sent so far

A ROTATED frame carries the descriptor of the new file. DONE comes to every connection when the log is complete;
after the last of its output, the logger hangs up.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct(">BxxxI")

STDOUT = 1
STDERR = 2
READY = 16
WRITTEN = 17
ROTATED = 18
DONE = 19

ATTACH = 32
WATCH = 33
FINISH = 34
STDIN = 35
CLOSE_STDIN = 36

SOCKET = "attach.sock"
NAMES = {STDOUT: "stdout", STDERR: "stderr"}
FIFOS = {STDOUT: "init-stdout", STDERR: "init-stderr"}
STDIN_FIFO = "init-stdin"


def frame(kind: int, data: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(kind, len(data)) + data


class Frames:
    """Bytes in, (kind, data) out."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that are whole by now."""
        data = self._pending + data if self._pending else data
        frames = []
        start, end = 0, len(data)
        while end - start >= HEADER.size:
            kind, length = HEADER.unpack_from(data, start)
            stop = start + HEADER.size + length
            if stop > end:
                break
            frames.append((kind, data[start + HEADER.size : stop]))
            start = stop
        self._pending = data[start:]
        return frames

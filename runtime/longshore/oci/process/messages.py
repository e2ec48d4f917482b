"""What a runtime and the process it forked say to each other: named messages over a socketpair.

    runtime                                   process
      -- go ------------------------------------>   cgroups, id maps are in place
      <------------------------------- hooks --     mounts are done (only when there are such hooks)
      -- hooked -------------------------------->
      <------------------------------- ready --     all is set up; init waits for start, exec for "proceed"
      -- proceed ------------------------------->   (exec only)
      <------------------------------ failed --     at any time, with the reason

A process that can't say anything any more is seen as end of file. Any other
message than the expected one is a ProtocolError.
"""

from __future__ import annotations

import os

from longshore.linux import libc
from longshore.oci.errors import ProcessDied, ProtocolError, StartFailed

GO = "go"
HOOKS = "hooks"
HOOKED = "hooked"
READY = "ready"
PROCEED = "proceed"
FAILED = "failed"

_SOCKETPAIR = {"x86_64": 53, "aarch64": 199}[libc.MACHINE]
_AF_UNIX, _SOCK_SEQPACKET, _SOCK_CLOEXEC = 1, 5, 0o2000000
_LIMIT = 65536


class Channel:
    """One end. Messages keep their bounds; EOF is the other end's death."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, name: str, text: str = "") -> None:
        """Send one message; BrokenPipeError when the other end is gone."""
        os.write(self.fd, f"{name}\0{text}".encode(errors="surrogateescape")[:_LIMIT])

    def receive(self, *expected: str) -> tuple[str, str]:
        """The next message, one of ``expected``. A "failed" is raised as StartFailed, EOF as ProcessDied."""
        try:
            data = os.read(self.fd, _LIMIT)
        except ConnectionResetError:
            # It ended without reading what we sent. The kernel says so once; its last words come after.
            data = os.read(self.fd, _LIMIT)
        if not data:
            raise ProcessDied("the container's process died without saying why")
        name, _, text = data.decode(errors="surrogateescape").partition("\0")
        if name == FAILED:
            raise StartFailed(text)
        if name not in expected:
            raise ProtocolError(" or ".join(expected), name)
        return name, text

    def close(self) -> None:
        """Close this end (once)."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def pair() -> tuple[Channel, Channel]:
    """Two connected ends, close-on-exec."""
    fds = bytearray(8)
    if libc.raw(_SOCKETPAIR, _AF_UNIX, _SOCK_SEQPACKET | _SOCK_CLOEXEC, 0, libc.buffer(fds)) == -1:
        raise libc.oserror("socketpair")
    return Channel(int.from_bytes(fds[:4], "little")), Channel(int.from_bytes(fds[4:], "little"))

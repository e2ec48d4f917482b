"""Staying with a process: pass signals on, carry the terminal, return its status."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` imports enum: 5 ms
import os

from longshore.linux import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.terminal import Relay

# Not passed on: what can't be caught, what is about ourselves (CHLD, URG, PIPE), what our own faults raise.
_KEPT = frozenset((4, 7, 8, 9, 11, 13, 17, 19, 20, 21, 22, 23, 28, 31, 32, 33))
_WINCH = 28


class Companion:
    """Made before the process exists, so that no signal finds us without a handler; it gets what came too early."""

    def __init__(self) -> None:
        self._pidfd = -1
        self._early: list[int] = []
        for number in range(1, 65):
            if number not in _KEPT:
                _signal.signal(number, self._forward)

    def _forward(self, number: int, _: object) -> None:
        if self._pidfd < 0:
            self._early.append(number)
            return
        try:
            processes.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def wait(self, pid: int, relay: Relay | None = None) -> int:
        """Wait for our child; its exit status, 128 + n for a signal n."""
        self._pidfd = processes.pidfd_open(pid)
        for number in self._early:
            self._forward(number, None)
        if relay is not None:
            _signal.signal(_WINCH, lambda number, frame: relay.resize())
            relay.carry(self._pidfd)
        status = os.waitpid(pid, 0)[1]
        os.close(self._pidfd)
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

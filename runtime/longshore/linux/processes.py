"""Processes: prctl, pidfds, descriptors, and an identity that survives pid reuse."""

from __future__ import annotations

import os

from longshore.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

CLOSE_RANGE_CLOEXEC = 4
_LAST = 0xFFFFFFFF


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2); raises OSError."""
    return libc.call("prctl", option, a, b, c, d)


def set_child_subreaper(on: bool = True) -> None:
    """Make orphans below this process its children."""
    prctl(PR_SET_CHILD_SUBREAPER, int(on))


def set_pdeathsig(signal: int) -> None:
    """Have the kernel send ``signal`` when the parent (thread) ends; 0 clears it."""
    prctl(PR_SET_PDEATHSIG, signal)


def set_dumpable(on: bool) -> None:
    """Non-dumpable processes' /proc files belong to root and can't be traced without CAP_SYS_PTRACE."""
    prctl(PR_SET_DUMPABLE, int(on))


def set_name(name: str) -> None:
    """The name shown by ps and in /proc/PID/comm (15 bytes)."""
    libc.call("prctl", PR_SET_NAME, os.fsencode(name)[:15] + b"\0")


def pidfd_open(pid: int, flags: int = 0) -> int:
    """A pidfd (close-on-exec); ProcessLookupError if there is no such process."""
    return libc.call("pidfd_open", pid, flags, path=str(pid))


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process the pidfd was opened for; ProcessLookupError when it is gone."""
    libc.call("pidfd_send_signal", pidfd, signal, 0, 0)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of another process' descriptor."""
    return libc.call("pidfd_getfd", pidfd, fd, 0)


def close_range(first: int, last: int = _LAST, flags: int = 0) -> None:
    """Close (or, with CLOSE_RANGE_CLOEXEC, mark) every descriptor in first..last."""
    if first <= last:
        libc.call("close_range", first, last, flags)


def close_fds_except(keep: Iterable[int]) -> None:
    """Really close, not only mark, every descriptor that isn't in ``keep``."""
    start = 0
    for fd in sorted(set(keep)):
        close_range(start, fd - 1)
        start = fd + 1
    close_range(start)


def start_time(pid: int) -> int:
    """Start time in clock ticks since boot (field 22 of /proc/PID/stat); ProcessLookupError if gone."""
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str, int]:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(3, "No such process", str(pid)) from None
    try:
        data = os.read(fd, 4096)
    finally:
        os.close(fd)
    # The name, in parentheses, may hold anything, spaces and ) included.
    fields = data[data.rindex(b")") + 2 :].split()
    return chr(fields[0][0]), int(fields[19])


def is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits to be reaped."""
    return _stat(pid)[0] in "ZX"


_boot_id = ""


def boot_id() -> str:
    """The kernel's random id of this boot."""
    global _boot_id
    if not _boot_id:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            _boot_id = file.read(64).decode().strip()
    return _boot_id


class ProcessId:
    """(boot id, pid, start time): names one process for ever, also in files that outlive a boot."""

    __slots__ = ("boot", "pid", "start")

    def __init__(self, boot: str, pid: int, start: int) -> None:
        self.boot = boot
        self.pid = pid
        self.start = start

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The identity of a process that runs now; ProcessLookupError if none does."""
        return cls(boot_id(), pid, start_time(pid))

    def open(self) -> int:
        """A pidfd of exactly this process; ProcessLookupError if it is gone or its pid was reused."""
        pidfd = pidfd_open(self.pid) if self.pid > 0 and self.boot == boot_id() else -1
        try:
            # Opened first, compared after: the pid can't change hands while we hold the pidfd.
            if pidfd >= 0 and start_time(self.pid) == self.start:
                kept, pidfd = pidfd, -1
                return kept
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        raise ProcessLookupError(3, "No such process", str(self.pid))

    def alive(self) -> bool:
        """Whether it runs (a zombie doesn't)."""
        try:
            state, start = _stat(self.pid)
        except ProcessLookupError:
            return False
        return start == self.start and state not in "ZX" and self.boot == boot_id()

    def send(self, signal: int) -> None:
        """Signal it, never a successor with the same pid; ProcessLookupError if gone."""
        pidfd = self.open()
        try:
            pidfd_send_signal(pidfd, signal)
        finally:
            os.close(pidfd)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessId) and (self.boot, self.pid, self.start) == (
            other.boot,
            other.pid,
            other.start,
        )

    def __hash__(self) -> int:
        return hash((self.boot, self.pid, self.start))

    def __repr__(self) -> str:
        return f"ProcessId(boot={self.boot!r}, pid={self.pid}, start={self.start})"

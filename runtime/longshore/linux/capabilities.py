"""Capabilities: names, and the five sets of a process."""

from __future__ import annotations

from longshore.linux import libc, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = NUMBERS["CAP_SYS_ADMIN"]

_VERSION_3 = 0x20080522
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4


def mask(names: Iterable[str]) -> tuple[int, list[str]]:
    """The bit mask of ``names``, and the names that are unknown."""
    bits, unknown = 0, []
    for name in names:
        number = NUMBERS.get(name)
        if number is None:
            unknown.append(name)
        else:
            bits |= 1 << number
    return bits, unknown


def get() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread."""
    header = bytearray(_VERSION_3.to_bytes(4, "little") + bytes(4))
    data = bytearray(24)
    libc.call("capget", libc.buffer(header), libc.buffer(data))
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 24, 4)]
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def pack(effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """The arguments of capset(2), made before a seccomp filter forbids much else."""
    header = _VERSION_3.to_bytes(4, "little") + bytes(4)
    low = b"".join((word & 0xFFFFFFFF).to_bytes(4, "little") for word in (effective, permitted, inheritable))
    high = b"".join((word >> 32).to_bytes(4, "little") for word in (effective, permitted, inheritable))
    return header, low + high


def set(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for this thread; EPERM if more is asked than it has."""
    libc.call("capset", *pack(effective, permitted, inheritable))


def drop_bounding(keep: int) -> None:
    """Drop from the bounding set all that isn't in ``keep``."""
    for number in range(64):
        if keep >> number & 1:
            continue
        if libc.raw(libc.NR["prctl"], processes.PR_CAPBSET_DROP, number, 0, 0, 0) == -1:
            if libc.errno() == 22:  # beyond the kernel's last capability
                return
            raise libc.oserror("prctl(PR_CAPBSET_DROP)")


def bounding() -> int:
    """The bounding set of this thread."""
    bits = 0
    for number in range(64):
        result = libc.raw(libc.NR["prctl"], processes.PR_CAPBSET_READ, number, 0, 0, 0)
        if result == -1:
            break
        bits |= result << number
    return bits


def set_ambient(bits: int) -> None:
    """Replace the ambient set; a capability must be permitted and inheritable."""
    processes.prctl(processes.PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(64):
        if bits >> number & 1:
            processes.prctl(processes.PR_CAP_AMBIENT, _AMBIENT_RAISE, number)

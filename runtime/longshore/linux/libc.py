"""The kernel's door: one raw ``syscall`` and one way for it to fail.

Everything in this package goes through `call`. What needs ``_ctypes`` is in
`foreign`, loaded by the first call: verbs that only read files make none. Import
nothing here that isn't built in or already loaded by the interpreter: this module
runs before and inside containers. (`namespaces` loads `foreign` for whoever enters one.)
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_RECURSIVE = 0x8000

MACHINE = os.uname().machine

# name: (x86_64, aarch64); numbers from 424 on are common to all architectures.
_NUMBERS = {
    "lookup_dcookie": (212, 18),
    "splice": (275, 76),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "prctl": (157, 167),
    "capget": (125, 90),
    "capset": (126, 91),
    "seccomp": (317, 277),
    "sendmsg": (46, 211),
    "keyctl": (250, 219),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "execveat": (322, 281),
    "memfd_create": (319, 279),
    "prlimit64": (302, 261),
    "mknodat": (259, 33),
    "personality": (135, 92),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "fstatfs": (138, 44),
    "syncfs": (306, 267),
    "name_to_handle_at": (303, 264),
    "quotactl": (179, 60),
    "ioctl": (16, 29),
    "setgroups": (116, 159),
    "set_mempolicy": (238, 237),
    "pidfd_send_signal": (424, 424),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
}

_MACHINES = {"x86_64": 0, "aarch64": 1}
if MACHINE not in _MACHINES:
    raise ImportError(f"longshore runs on x86_64 and aarch64, not on {MACHINE}")
NR = {name: numbers[_MACHINES[MACHINE]] for name, numbers in _NUMBERS.items()}


def _first(*arguments: object) -> int:
    """What `_syscall` is until the first call."""
    global _syscall
    from longshore.linux import foreign

    _syscall = foreign.syscall
    return _syscall(*arguments)


_syscall: Callable[..., int] = _first


def oserror(call: str, path: str | bytes = "") -> OSError:
    """The OSError of the last failed system call; ``path`` names what it was about."""
    number = errno()
    name = os.fsdecode(path) or None
    return OSError(number, f"{call}: {os.strerror(number)}", name)


def raw(
    number: int,
    a: object = 0,
    b: object = 0,
    c: object = 0,
    d: object = 0,
    e: object = 0,
    f: object = 0,
) -> int:
    """System call ``number``; -1 on failure, errno by `errno`. Arguments: int, None, bytes or a ctypes buffer."""
    result: int = _syscall(number, a, b, c, d, e, f)
    return result


def errno() -> int:
    """Errno of the last system call made through this module."""
    from longshore.linux import foreign

    return int(foreign.get_errno())


def call(
    name: str,
    a: object = 0,
    b: object = 0,
    c: object = 0,
    d: object = 0,
    e: object = 0,
    f: object = 0,
    *,
    path: str | bytes = "",
) -> int:
    """System call by name; raises OSError that names the call and ``path``."""
    result: int = _syscall(NR[name], a, b, c, d, e, f)
    if result == -1:
        raise oserror(name, path)
    return result


def buffer(data: bytearray) -> Any:
    """A view of ``data`` that can be passed to `call` and which the kernel may write to."""
    from longshore.linux import foreign

    return (foreign.Byte * len(data)).from_buffer(data)


def address(data: bytearray) -> int:
    """The address of ``data``'s bytes, for structures holding pointers; keep ``data`` alive and unresized."""
    from longshore.linux import foreign

    return int(foreign.addressof((foreign.Byte * len(data)).from_buffer(data)))


def strings(words: list[bytes]) -> Any:
    """A NULL-terminated ``char *[]`` for execve; keep it alive until then."""
    from longshore.linux import foreign

    array: Any = foreign.CharPointer * (len(words) + 1)
    return array(*words, None)


def text(value: str | bytes | None) -> bytes | None:
    """A path or word as the kernel takes it; refuses an embedded NUL, which would cut it short."""
    if value is None:
        return None
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded

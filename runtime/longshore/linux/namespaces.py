"""Namespaces: unshare, setns and clone3 with the kernel's names."""

from __future__ import annotations

import os

from longshore.linux import foreign, libc

# Who is cloned into a container can load nothing any more: what `libc` loads by need must be there.
LOADED = (foreign,)

CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# The OCI type, the file name in /proc/PID/ns and the flag.
TYPES = {
    "user": ("user", CLONE_NEWUSER),
    "pid": ("pid", CLONE_NEWPID),
    "network": ("net", CLONE_NEWNET),
    "ipc": ("ipc", CLONE_NEWIPC),
    "uts": ("uts", CLONE_NEWUTS),
    "mount": ("mnt", CLONE_NEWNS),
    "cgroup": ("cgroup", CLONE_NEWCGROUP),
    "time": ("time", CLONE_NEWTIME),
}


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones (pid and time: for the children only)."""
    libc.call("unshare", flags)


def setns(fd: int, flags: int = 0, path: str = "") -> None:
    """Join by a namespace's fd (``flags`` 0: any type), or by a pidfd and the flags of all that are wanted."""
    libc.call("setns", fd, flags, path=path)


def clone(flags: int, *, exit_signal: int = 17, cgroup: int = -1) -> tuple[int, int]:
    """clone3 as a fork into new namespaces: (0, -1) in the child, (pid, pidfd) in the parent.

    The child gets a copy of this process, no shared memory; Python's own
    after-fork handlers don't run. The caller must be single-threaded. It must
    leave by os._exit or exec. ``cgroup`` is an fd of a cgroup v2 directory to be
    born in. CLONE_NEWTIME can't be used here (the offsets would be frozen).
    """
    pidfd = bytearray(4)
    flags |= CLONE_PIDFD
    if cgroup >= 0:
        flags |= 0x200000000
    words = (flags, libc.address(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    arguments = b"".join(word.to_bytes(8, "little") for word in words)
    pid = libc.call("clone3", arguments, len(arguments))
    if pid == 0:
        return 0, -1
    return pid, int.from_bytes(pidfd, "little")


def same(path_a: str, path_b: str) -> bool:
    """Whether two namespace files are the same namespace."""
    a, b = os.stat(path_a), os.stat(path_b)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)

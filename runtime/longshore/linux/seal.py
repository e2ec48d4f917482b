"""Run from an executable that nobody can write to.

A process that enters a container shows the container its executable as
/proc/PID/exe. Whoever may trace it can open that file and, once it is no longer
running, overwrite the interpreter of the host (CVE-2019-5736). So whoever
enters containers first executes itself again from a detached read-only bind
mount of the same file (writing gives EROFS, whoever asks), or, where that can't
be made, from a sealed copy in memory (EPERM).

What stays reachable: the interpreter's shared libraries, by /proc/PID/map_files,
which the kernel opens only for CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE in the
*initial* user namespace: a container with that can mount the disk anyway.
"""

from __future__ import annotations

import os
import sys

from longshore.linux import libc

_MARK = "LONGSHORE_SEALED"
_ST_RDONLY = 1
_OPEN_TREE_CLONE = 1
_MOUNT_ATTR_RDONLY = 1
_CHUNK = 1 << 30


def sealed() -> bool:
    """Whether the executable of this process is read-only, asked of the kernel."""
    fd = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(os.fstatvfs(fd).f_flag & _ST_RDONLY) or _seals(fd)
    finally:
        os.close(fd)


def _seals(fd: int) -> bool:
    if not os.readlink("/proc/self/exe").startswith("/memfd:"):
        return False  # and the two modules below are spared
    import fcntl

    from longshore.linux import files

    try:
        return fcntl.fcntl(fd, files.F_GET_SEALS) & files.SEALS_ALL == files.SEALS_ALL
    except OSError:
        return False


def ensure() -> None:
    """Return if sealed, else execute the same command again, sealed. Nothing worth keeping may be in memory yet."""
    again = os.environ.pop(_MARK, "")
    if sealed():
        return
    if again:
        raise OSError(30, "the executable is still writable after it was sealed", sys.executable)
    fd = _clone()
    arguments = [os.fsencode(word) for word in (sys.executable, *sys.orig_argv[1:])]
    environment = [os.fsencode(f"{key}={value}") for key, value in os.environ.items()]
    environment.append(_MARK.encode() + b"=1")
    # By the descriptor, so that the file executed is the one that was sealed.
    flags = libc.AT_EMPTY_PATH
    libc.call(
        "execveat", fd, b"", libc.strings(arguments), libc.strings(environment), flags, path=sys.executable
    )


def _clone() -> int:
    # By hand: this runs before every create, run and exec, and `mounts` is a big module.
    try:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
        fd = libc.call("open_tree", libc.AT_FDCWD, b"/proc/self/exe", flags, path="/proc/self/exe")
        read_only = b"".join(word.to_bytes(8, "little") for word in (_MOUNT_ATTR_RDONLY, 0, 0, 0))
        libc.call("mount_setattr", fd, b"", libc.AT_EMPTY_PATH, read_only, len(read_only))
        return fd
    except OSError:
        return _copy()


def _copy() -> int:
    import fcntl

    from longshore.linux import files

    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        flags = files.MFD_CLOEXEC | files.MFD_ALLOW_SEALING
        try:
            fd = files.memfd("longshore", flags | files.MFD_EXEC)
        except OSError:
            fd = files.memfd("longshore", flags)  # before Linux 6.3 every memfd is executable
        while os.sendfile(fd, source, None, _CHUNK):
            pass
        fcntl.fcntl(fd, files.F_ADD_SEALS, files.SEALS_ALL)
        return fd
    finally:
        os.close(source)

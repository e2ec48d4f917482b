"""The terminal of a container: a pair from *its* devpts, the slave as /dev/console, the master to the caller."""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

from longshore.linux import files, libc, mounts
from longshore.oci.errors import RuntimeFailure, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEVPTS_MAGIC = 0x1CD1
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_SCM_RIGHTS = 1


def connect(path: str) -> int:
    """Runtime side: a connection to the console socket, to be inherited by the container's process."""
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise RuntimeFailure(f"dial unix {path}: connect: {(error.strerror or '').lower()}") from None
    return connection.detach()


def set_up(
    root: int, connection: int, size: dict[str, Any] | None, *, mount: bool, uid: int, gid: int
) -> None:
    """Container side: open the pair, send the master, make the slave the standard streams and controlling terminal.

    ``mount``: also bind the slave over /dev/console (init only). The caller is a session leader.
    """
    master = _open_master(root)
    slave = libc.call("ioctl", master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, path="/dev/pts")
    if size:
        height, width = int(size.get("height") or 0), int(size.get("width") or 0)
        window = height.to_bytes(2, "little") + width.to_bytes(2, "little") + bytes(4)
        libc.call("ioctl", master, _TIOCSWINSZ, window)
    if mount:
        _mount_console(root, slave)
    try:
        os.fchown(slave, uid, -1)
    except OSError:
        pass
    _send(connection, master)
    os.close(master)
    for fd in range(3):
        os.dup2(slave, fd)
    os.close(slave)
    libc.call("ioctl", 0, _TIOCSCTTY, 0)


def _open_master(root: int) -> int:
    """The container's ptmx, checked by descriptor to be one: a path in the image's /dev may be anything."""
    fd = files.open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    info = os.fstat(fd)
    genuine = stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(5, 2)
    if not genuine or files.filesystem_type(fd) != _DEVPTS_MAGIC:
        os.close(fd)
        raise StartFailed("the container's /dev/pts/ptmx is no pseudoterminal multiplexer")
    os.set_blocking(fd, True)
    libc.call("ioctl", fd, _TIOCSPTLCK, bytes(4))
    return fd


def _mount_console(root: int, slave: int) -> None:
    directory = files.open_in_root(root, "/dev", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open("console", flags, 0o600, dir_fd=directory))
        except FileExistsError:
            pass
        target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            mode = os.fstat(target).st_mode
            on_same_mount = files.mount_id(target) == files.mount_id(directory)
            if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)) or not on_same_mount:
                raise StartFailed("the container's /dev/console is neither a file nor a device of its /dev")
            fd = mounts.open_tree("", dirfd=slave)
            try:
                mounts.move_mount(fd, target_fd=target)
            finally:
                os.close(fd)
        finally:
            os.close(target)
    finally:
        os.close(directory)


def _send(connection: int, master: int) -> None:
    number = bytearray(4)
    libc.call("ioctl", master, _TIOCGPTN, libc.buffer(number))
    # The name is data for the reader's messages; runc sends the master's name, too.
    peer = socket(fileno=connection)
    rights = [(SOL_SOCKET, _SCM_RIGHTS, master.to_bytes(4, "little"))]
    peer.sendmsg([b"/dev/ptmx"], rights)
    peer.close()

"""Files as block devices."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_CONTROL: Final = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _CLEAR = 0x4C82, 0x4C0A, 0x4C01  # <linux/loop.h>
_READ_ONLY: Final = 1
_ATTEMPTS: Final = 32


def attach(path: str, *, read_only: bool) -> str:
    """A free loop device for the file; its path. Raises OSError."""
    backing = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):  # another program may take the free one before we do
            device = f"/dev/loop{_free()}"
            if _configured(device, backing, path, read_only):
                return device
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), _CONTROL)


def detach(device: str) -> None:
    """Give it back; harmless when that was done. The kernel waits with it for those who have it open."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.ioctl(fd, _CLEAR)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    finally:
        os.close(fd)


def _free() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)


def _configured(device: str, backing: int, path: str, read_only: bool) -> bool:
    """False when somebody else has the device."""
    if not os.path.exists(device):  # a /dev without devtmpfs
        os.mknod(device, 0o600 | 0o060000, os.makedev(7, int(device.removeprefix("/dev/loop"))))
    # struct loop_config: fd, block size, loop_info64 (232 bytes), 8 reserved words.
    flags = _READ_ONLY if read_only else 0
    info = struct.pack(
        "=QQQQQIIII64s64s32sQQ", 0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(path)[:63], b"", b"", 0, 0
    )
    fd = os.open(device, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _CONFIGURE, struct.pack("=II", backing, 0) + info + bytes(64))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    finally:
        os.close(fd)
    return True

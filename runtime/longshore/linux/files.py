"""Files: openat2, and what os lacks or hides. Paths inside a foreign root are resolved here only."""

from __future__ import annotations

import os

from longshore.linux import libc

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

O_PATH = os.O_PATH
MFD_CLOEXEC = 1
MFD_ALLOW_SEALING = 2
MFD_EXEC = 0x10
F_ADD_SEALS = 1033
F_GET_SEALS = 1034
SEALS_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write

_EAGAIN = 11


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2), always close-on-exec. RESOLVE_IN_ROOT makes ``dirfd`` the root of ``path`` and its links."""
    how = b"".join(word.to_bytes(8, "little") for word in (flags | os.O_CLOEXEC, mode, resolve))
    name = libc.text(path)
    for _ in range(128):
        fd = libc.raw(libc.NR["openat2"], dirfd, name, how, len(how))
        # The kernel can't rule out an escape while something is renamed below us: try again.
        if fd != -1 or libc.errno() != _EAGAIN:
            break
    if fd == -1:
        raise libc.oserror("openat2", path)
    return fd


def open_in_root(root: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process chrooted into the directory ``root`` would, without /proc's magic links."""
    return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def mkdir_in_root(root: int, path: str, mode: int = 0o755) -> int:
    """An O_PATH fd of directory ``path`` inside ``root``; missing parts are made. Caller closes it."""
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent, _, name = path.rstrip("/").rpartition("/")
    if not name or name in (".", ".."):
        raise FileNotFoundError(2, "cannot be made", path)
    directory = mkdir_in_root(root, parent or "/", mode)
    try:
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            # A dangling link: follow it (inside the root) and make what it points at.
            target = link_target(directory, name)
            if target is not None:
                absolute = target if target.startswith("/") else f"{parent}/{target}"
                return mkdir_in_root(root, absolute, mode)
        return openat2(directory, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    finally:
        os.close(directory)


def link_target(directory: int, name: str) -> str | None:
    """What a link in ``directory`` points at; None if there is no such link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def read_bounded(path: str, limit: int = 1 << 20, dir_fd: int | None = None) -> bytes:
    """At most ``limit`` bytes of a file of the kernel's or of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return read_fd(fd, limit)
    finally:
        os.close(fd)


def read_fd(fd: int, limit: int = 1 << 20) -> bytes:
    """Read until EOF, at most ``limit`` bytes."""
    parts = []
    while limit > 0 and (part := os.read(fd, min(limit, 65536))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


def write_file(path: str, data: str | bytes, dir_fd: int | None = None) -> None:
    """One write(2) to an existing file, as the kernel's control files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.write(fd, data.encode() if isinstance(data, str) else data)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def replace_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write ``data`` beside ``path`` and rename it into place: readers see the old or the new, never a part."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def memfd(name: str, flags: int = MFD_CLOEXEC) -> int:
    """An anonymous file in memory."""
    return libc.call("memfd_create", libc.text(name), flags, path=name)


def splice(source: int, target: int, count: int, flags: int = 0) -> int:
    """Move up to ``count`` bytes, one side a pipe, without copying; 0 at EOF, BlockingIOError if it would block."""
    return libc.call("splice", source, 0, target, 0, count, flags)


def eventfd(initial: int = 0, flags: int = os.EFD_CLOEXEC) -> int:
    """An eventfd."""
    return os.eventfd(initial, flags)


def mount_id(fd: int) -> int:
    """The id, in this mount namespace, of the mount that ``fd`` lies on."""
    handle = bytearray(8 + 128)
    handle[0:4] = (128).to_bytes(4, "little")
    identity = bytearray(4)
    flags = libc.AT_EMPTY_PATH
    result = libc.raw(
        libc.NR["name_to_handle_at"], fd, b"", libc.buffer(handle), libc.buffer(identity), flags
    )
    # Not every filesystem gives handles, but the mount id comes with EOVERFLOW, too.
    if result == -1 and libc.errno() not in (75, 95):
        raise libc.oserror("name_to_handle_at")
    return int.from_bytes(identity, "little")


def filesystem_type(fd: int) -> int:
    """The magic number of the filesystem that ``fd`` lies on (fstatfs)."""
    data = bytearray(120)
    libc.call("fstatfs", fd, libc.buffer(data))
    return int.from_bytes(data[:8], "little")


def read_bounded_at(fd: int, limit: int) -> bytes:
    """The first ``limit`` bytes of an open file, wherever its offset stands."""
    return os.pread(fd, limit, 0)

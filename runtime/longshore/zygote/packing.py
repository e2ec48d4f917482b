"""Leave no holes in memory that is about to be shared.

What a forked child allocates goes first into the free blocks of pages that
exist, one here and one there, and each such page is a copy of its own from then
on. So before the first fork all free blocks are taken, for good: what children
allocate then lies together on fresh pages.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

from longshore.linux import files

# "    3     64    98    6160    14": class, size of a block, pools, blocks in use, free blocks
_CLASS = re.compile(rb"^ *\d+ +(\d+) +\d+ +\d+ +(\d+)$", re.MULTILINE)
_BYTES = sys.getsizeof(b"")
_LARGEST = 1 << 16  # malloc gives larger ones pages of their own
_kept: list[object] = []


def fill_holes() -> None:
    """Take every free block of the interpreter's allocator and of malloc. For a process with one thread."""
    for size, free in free_blocks():
        _kept.append([_block(size) for _ in range(free)])
    _fill_malloc()


def free_blocks() -> list[tuple[int, int]]:
    """(size in bytes, number) of the interpreter's free blocks; [] if it tells nothing."""
    table, saved = files.memfd("blocks"), os.dup(2)
    try:
        os.dup2(table, 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(saved, 2)
        os.lseek(table, 0, os.SEEK_SET)
        return [(int(size), int(free)) for size, free in _CLASS.findall(files.read_fd(table, 1 << 20))]
    finally:
        os.close(saved)
        os.close(table)


def _block(size: int) -> object:
    if size <= 16:
        return object()
    return len(_kept) + 0.5 if size <= 32 else bytes(size - _BYTES)


class _Info(ctypes.Structure):
    """struct mallinfo2 of glibc, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _fill_malloc() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return  # another C library, or an old one
    libc.mallinfo2.restype = _Info
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    size = _LARGEST
    while size >= 16:
        before = libc.mallinfo2()
        if before.fordblks - before.keepcost >= size:
            libc.malloc(size - 8)
            after = libc.mallinfo2()
            if (after.arena, after.keepcost) == (before.arena, before.keepcost):
                continue
        # What is left is in smaller pieces: this one came from the untouched end.
        size //= 2

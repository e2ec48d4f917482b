"""Which subscriptions were open when the daemon ended, and how far each had got.

A client that only listens (dockerd learns of exits by events alone, and never
reconciles) subscribes anew after a restart of the daemon, and must then be sent
what happened in between. So every open subscription has a slot in a small
mapped file: a digest of its filters, and the sequence of the last event that
was handed to its connection. A store into the mapping survives SIGKILL and
costs nothing; after a crash of the machine there are no tasks left to miss, and
the file, which carries the boot id, is ignored.

    header  16 bytes magic, 16 bytes boot id, 32 bytes unused
    slot    u64 in use (0 or 1), u64 last sequence, 32 bytes SHA-256 of the filters, 16 bytes unused
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SLOTS: Final = 1023
_SLOT: Final = struct.Struct("=QQ32s16x")
_SEQUENCE: Final = struct.Struct("=Q")
_HEADER: Final = struct.Struct("=16s16s32x")
_MAGIC: Final = b"longshore-subs-1"
_SIZE: Final = _HEADER.size + SLOTS * _SLOT.size


def digest(filters: Sequence[str]) -> bytes:
    """Equal for subscriptions with the same filters; their order doesn't matter, for they are alternatives."""
    whole = hashlib.sha256()
    for text in sorted(filters):
        encoded = text.encode()
        whole.update(b"%d:" % len(encoded) + encoded)
    return whole.digest()


class Slot:
    """One open subscription's place in the file."""

    def __init__(self, file: SubscriptionFile, offset: int) -> None:
        self._file = file
        self._offset = offset

    def delivered(self, sequence: int) -> None:
        """Everything up to `sequence` is on its way to the client, or doesn't concern it."""
        _SEQUENCE.pack_into(self._file.memory, self._offset + 8, sequence)

    def release(self) -> None:
        """The client has gone of its own accord: nobody will come for the rest."""
        _SEQUENCE.pack_into(self._file.memory, self._offset, 0)
        self._file.free.append(self._offset)


class SubscriptionFile:
    """The mapped file. `left_open` is what the last daemon of this boot left: digest -> last sequences, ascending."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A hole in the file would turn a full disk into SIGBUS.
            os.posix_fallocate(descriptor, 0, _SIZE)
            self.memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self.left_open = self._read()
        self.memory[:] = bytes(_SIZE)
        _HEADER.pack_into(self.memory, 0, _MAGIC, _boot_id())
        self.free = [_HEADER.size + number * _SLOT.size for number in reversed(range(SLOTS))]

    def take(self, filters: bytes, sequence: int) -> Slot | None:
        """A slot for a new subscription; None when all are taken."""
        if not self.free:
            return None
        offset = self.free.pop()
        # The flag goes last: a slot is either whole or not there.
        _SLOT.pack_into(self.memory, offset, 0, sequence, filters)
        _SEQUENCE.pack_into(self.memory, offset, 1)
        return Slot(self, offset)

    def close(self) -> None:
        """Unmap; the slots in use stay for the next daemon."""
        with contextlib.suppress(BufferError):
            self.memory.close()

    def _read(self) -> dict[bytes, list[int]]:
        magic, boot = _HEADER.unpack_from(self.memory, 0)
        found: dict[bytes, list[int]] = {}
        if magic != _MAGIC or boot != _boot_id():
            return found
        for number in range(SLOTS):
            used, sequence, filters = _SLOT.unpack_from(self.memory, _HEADER.size + number * _SLOT.size)
            if used:
                found.setdefault(filters, []).append(sequence)
        return {filters: sorted(sequences) for filters, sequences in found.items()}


def _boot_id() -> bytes:
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes

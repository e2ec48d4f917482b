"""A session keyring of the container's own, so that it doesn't hold the caller's keys."""

from __future__ import annotations

from longshore.linux import libc

_JOIN_SESSION_KEYRING = 1
_SETPERM = 5
_DESCRIBE = 6
_ENOSYS = 38
_UID_SEARCH = 0x00080000


def join(name: str, *, create: bool) -> None:
    """Join the session keyring ``name``; init also lets its user search it. A kernel without keys is fine."""
    key = libc.raw(libc.NR["keyctl"], _JOIN_SESSION_KEYRING, libc.text(name))
    if key == -1:
        if libc.errno() == _ENOSYS:
            return
        raise libc.oserror("keyctl join", name)
    if create:
        data = bytearray(256)
        libc.call("keyctl", _DESCRIBE, key, libc.buffer(data), len(data), path=name)
        permissions = int(bytes(data).split(b";")[3], 16)
        libc.call("keyctl", _SETPERM, key, permissions | _UID_SEARCH, path=name)

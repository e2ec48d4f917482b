"""A tar writer for layers: headers and data out, through one function that takes bytes.

The bytes are those of Go's archive/tar in its PAX format: with the same tree
and no deletions, the layer has the digest that containerd gives it. So times
are cut to seconds, names of users and groups are left out, and a PAX header
stands only where the plain one has no room (long or non-ASCII names, big
numbers) or no field (extended attributes).
"""

from __future__ import annotations

from collections.abc import Callable

from longshore.layers.tar import BLOCK, BLOCK_DEVICE, CHARACTER, DIRECTORY, XATTR_PREFIX

_NAME = 100
_MAX_7 = 0o7777777
_MAX_11 = 0o77777777777
_PAX = ord("x")


class Writer:
    """`entry` and then, for a regular file with a size, `data` until it is full; `close` in the end."""

    def __init__(self, write: Callable[[bytes | memoryview], object]) -> None:
        self._write = write
        self._left = 0
        self._padding = 0

    def entry(
        self,
        name: bytes,
        kind: int,
        *,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        linkname: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[str, bytes] | None = None,
    ) -> None:
        """A member's header. `mtime` in seconds; `size` for REGULAR only."""
        self._finish()
        if kind == DIRECTORY and not name.endswith(b"/"):
            name += b"/"
        records: dict[bytes, bytes] = {}
        for key, value in (("path", name), ("linkpath", linkname)):
            if len(value) > _NAME or not value.isascii():
                records[key.encode()] = value
        for key, number, limit in (
            ("uid", uid, _MAX_7),
            ("gid", gid, _MAX_7),
            ("size", size, _MAX_11),
            ("mtime", mtime, _MAX_11),
        ):
            if not 0 <= number <= limit:
                records[key.encode()] = b"%d" % number
        for attribute, value in (xattrs or {}).items():
            records[(XATTR_PREFIX + attribute).encode("utf-8", "surrogateescape")] = value
        if records:
            self._pax(name, records)
        if kind not in (CHARACTER, BLOCK_DEVICE):
            device = (0, 0)
        self._write(_header(name, kind, mode, uid, gid, size, mtime, linkname, device))
        self._left, self._padding = size, -size % BLOCK

    def data(self, piece: bytes | memoryview) -> None:
        """The next bytes of the current member; more than its size is a ValueError."""
        if len(piece) > self._left:
            raise ValueError("more data than the header announced")
        self._left -= len(piece)
        self._write(piece)

    def close(self) -> None:
        """The end of the archive."""
        self._finish()
        self._write(bytes(2 * BLOCK))

    def _finish(self) -> None:
        if self._left:
            raise ValueError(f"{self._left} bytes of data are missing")
        if self._padding:
            self._write(bytes(self._padding))
            self._padding = 0

    def _pax(self, name: bytes, records: dict[bytes, bytes]) -> None:
        body = b"".join(_record(key, records[key]) for key in sorted(records))
        directory, _, base = name.rstrip(b"/").rpartition(b"/")
        shown = b"/".join(part for part in (directory, b"PaxHeaders.0", base) if part)
        shown = _ascii(shown)[:_NAME].rstrip(b"/")
        self._write(_header(shown, _PAX, 0, 0, 0, len(body), 0, b"", None))
        self._write(body + bytes(-len(body) % BLOCK))


def _record(key: bytes, value: bytes) -> bytes:
    """ "length key=value\\n", where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(
    name: bytes,
    kind: int,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    linkname: bytes,
    device: tuple[int, int] | None,
) -> bytes:
    """One ustar block; what doesn't fit is cut or 0 here and right in the PAX header before it."""
    block = bytearray(BLOCK)
    _put(block, 0, _ascii(name)[:_NAME])
    _put(block, 100, b"%07o" % mode)
    _put(block, 108, b"%07o" % _fitting(uid, _MAX_7))
    _put(block, 116, b"%07o" % _fitting(gid, _MAX_7))
    _put(block, 124, b"%011o" % _fitting(size, _MAX_11))
    _put(block, 136, b"%011o" % _fitting(mtime, _MAX_11))
    block[148:156] = b"        "
    block[156] = kind
    _put(block, 157, _ascii(linkname)[:_NAME])
    _put(block, 257, b"ustar\x0000")
    if device is not None:
        _put(block, 329, b"%07o" % device[0])
        _put(block, 337, b"%07o" % device[1])
    block[148:156] = b"%06o\x00 " % sum(block)
    return bytes(block)


def _put(block: bytearray, offset: int, data: bytes) -> None:
    block[offset : offset + len(data)] = data


def _fitting(number: int, limit: int) -> int:
    return number if 0 <= number <= limit else 0


def _ascii(name: bytes) -> bytes:
    return name if name.isascii() else bytes(byte for byte in name if byte < 128)

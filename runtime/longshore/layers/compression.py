"""Streams: a file descriptor in, uncompressed chunks out (and back), with bounded memory and honest ends.

A stream that ends in the middle of a gzip or zstd frame is an error here;
a careless reader takes it for the end. Each step of decompression returns at
most about `CHUNK` bytes (gzip) or the output of 4 KiB (zstd, at most 128 MiB
for a hostile one), so that a bomb costs disk quota and never memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from longshore.layers.errors import InvalidLayer

CHUNK = 1 << 20
_GZIP_CHUNK = 1 << 18
_ZSTD_STEP = 1 << 12

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 1-3 of a frame that carries no data; byte 0 is 0x50-0x5f

# The stubs declare an instance.
_GzipError = cast("type[Exception]", igzip_lib.error)

NONE, GZIP, ZSTD, AUTO = "none", "gzip", "zstd", "auto"


def sniff(head: bytes) -> str:
    """What the first bytes of a stream say it is; anything unknown is taken for a plain tar."""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F):
        return ZSTD
    return NONE


def decompressed(fd: int, compression: str = AUTO, head: bytes = b"") -> Iterator[bytes]:
    """The uncompressed content of `fd` in chunks, never empty ones. Raises InvalidLayer on damage.

    `head` is what the caller has read of it already.
    """
    head += _read_exactly(fd, 4 - len(head))
    kind = sniff(head) if compression == AUTO else compression
    if kind == NONE:
        return _plain(fd, head)
    if kind == GZIP:
        return _gzip(fd, head)
    if kind == ZSTD:
        return _zstd(fd, head)
    raise ValueError(f"unknown compression {compression!r}")


class Digester:
    """Counts and hashes (sha256) what passes through `chunk`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0

    def chunk(self) -> bytes:
        """The next chunk, b"" at the end."""
        data = next(self._chunks, b"")
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def _read_exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := os.read(fd, count - len(data))):
        data += more
    return data


def _plain(fd: int, head: bytes) -> Iterator[bytes]:
    data = head + os.read(fd, CHUNK)
    while data:
        yield data
        data = os.read(fd, CHUNK)


def _gzip(fd: int, head: bytes) -> Iterator[bytes]:
    """All members of a gzip file, one after the other: parallel compressors write many."""
    data = head + os.read(fd, _GZIP_CHUNK)
    while data:
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            if member.needs_input and not data:
                data = os.read(fd, _GZIP_CHUNK)
                if not data:
                    raise InvalidLayer("gzip: unexpected EOF")
            try:
                out = member.decompress(data, CHUNK)
            except _GzipError as error:
                raise InvalidLayer(f"gzip: invalid data: {error}") from None
            data = b""
            if out:
                yield out
        data = member.unused_data or os.read(fd, _GZIP_CHUNK)
        # Zero padding to a block size is common behind the last member, and harmless.
        while data and not data.strip(b"\0"):
            data = os.read(fd, _GZIP_CHUNK)


def _zstd(fd: int, head: bytes) -> Iterator[bytes]:
    data = memoryview(head + os.read(fd, CHUNK))
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    while data:
        frame = decompressor.decompressobj()
        while not frame.eof:
            if not data:
                data = memoryview(os.read(fd, CHUNK))
                if not data:
                    raise InvalidLayer("zstd: unexpected EOF")
            step, data = data[:_ZSTD_STEP], data[_ZSTD_STEP:]
            try:
                out = frame.decompress(step)
            except zstandard.ZstdError as error:
                raise InvalidLayer(f"zstd: invalid data: {error}") from None
            if out:
                yield out
        rest = frame.unused_data
        data = memoryview(rest + data.tobytes() if rest else data or os.read(fd, CHUNK))


# -- the other way ------------------------------------------------------------------------------------------


# A layer without entries, as Go's gzip packs it: BuildKit and others know it by this blob's digest.
_EMPTY_TAR = bytes(1024)
_EMPTY_GZIP = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Nothing:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        # wbits 31 = gzip with an empty header: no name and no time, so that equal trees give equal blobs.
        self._compressor: _Compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
        self._begun = False
        self._held = b""

    def compress(self, data: bytes, /) -> bytes:
        """An empty tar must come in one piece to be known, as `Sink` sees to."""
        if not self._begun and data == _EMPTY_TAR:
            self._held = data
        else:
            data, self._held = self._held + data if self._held else data, b""
        self._begun = True
        return b"" if self._held else self._compressor.compress(data)

    def flush(self) -> bytes:
        return _EMPTY_GZIP if self._held else self._compressor.flush()


def _compressor(kind: str) -> _Compressor:
    if kind == NONE:
        return _Nothing()
    if kind == GZIP:
        return _Gzip()
    if kind == ZSTD:
        return zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
    raise ValueError(f"unknown compression {kind!r}")


class Sink:
    """Takes an uncompressed stream by `write`; hashes it, compresses it, hashes that, hands it to `output`."""

    def __init__(self, output: Callable[[bytes], object], compression: str) -> None:
        self._output = output
        self._compressor = _compressor(compression)
        self._plain, self._packed = hashlib.sha256(), hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.size = 0
        self.packed_size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._pending.append(bytes(data))
        self._pending_size += len(data)
        if self._pending_size >= CHUNK:
            self._flush()

    def close(self) -> None:
        """Write what is left; the digests are final after it."""
        self._flush()
        self._emit(self._compressor.flush())

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        self._plain.update(data)
        self.size += len(data)
        self._emit(self._compressor.compress(data))

    def _emit(self, data: bytes) -> None:
        if data:
            self._packed.update(data)
            self.packed_size += len(data)
            self._output(data)

    @property
    def digest(self) -> str:
        """Digest of the uncompressed stream."""
        return "sha256:" + self._plain.hexdigest()

    @property
    def packed_digest(self) -> str:
        """Digest of what went to the output."""
        return "sha256:" + self._packed.hexdigest()

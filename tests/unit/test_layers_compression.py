"""Streams: several frames, damage, ends that come too early, and digests on the way."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from longshore.layers import compression
from longshore.layers.compression import AUTO, GZIP, NONE, ZSTD, Digester, Sink, sniff
from longshore.layers.errors import InvalidLayer
from support.layers import blob_stream, opened

# Half of it compresses, half doesn't.
DATA = random.Random(1).randbytes(300_000) + bytes(range(256)) * 4000


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 6)


def zstandarded(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {GZIP: gzipped, ZSTD: zstandarded, NONE: bytes}


def unpack(tmp_path: Path, data: bytes, kind: str = AUTO) -> bytes:
    (tmp_path / "blob").write_bytes(data)
    return blob_stream(tmp_path / "blob", kind)


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("asked", ["auto", "by name"])
def test_round_trip(tmp_path: Path, kind: str, asked: str) -> None:
    assert unpack(tmp_path, PACKERS[kind](DATA), AUTO if asked == "auto" else kind) == DATA


@pytest.mark.parametrize("kind", PACKERS)
def test_nothing(tmp_path: Path, kind: str) -> None:
    assert unpack(tmp_path, PACKERS[kind](b"")) == b""


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_many_frames_are_one_stream(tmp_path: Path, kind: str) -> None:
    pieces = [DATA[start : start + 90_000] for start in range(0, len(DATA), 90_000)]
    assert unpack(tmp_path, b"".join(PACKERS[kind](piece) for piece in [*pieces, b""])) == DATA


def test_zstd_skippable_frame_first(tmp_path: Path) -> None:
    skippable = b"\x51\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    assert unpack(tmp_path, skippable + zstandarded(DATA)) == DATA


def test_zero_padding_behind_gzip(tmp_path: Path) -> None:
    assert unpack(tmp_path, gzipped(DATA) + bytes(1000)) == DATA


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
@pytest.mark.parametrize("missing", [1, 4, 9, 100, 5000])
def test_truncation(tmp_path: Path, kind: str, missing: int) -> None:
    with pytest.raises(InvalidLayer, match=f"{kind}: unexpected EOF"):
        unpack(tmp_path, PACKERS[kind](DATA)[:-missing])


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_damage(tmp_path: Path, kind: str) -> None:
    packed = bytearray(PACKERS[kind](DATA))
    packed[-6] ^= 0xFF  # in the checksum
    with pytest.raises(InvalidLayer, match=f"{kind}: invalid data"):
        unpack(tmp_path, bytes(packed))


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_junk_behind_the_last_frame(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidLayer):
        unpack(tmp_path, PACKERS[kind](DATA) + b"junk, which is no frame")


def test_a_bomb_comes_in_small_pieces(tmp_path: Path) -> None:
    (tmp_path / "bomb").write_bytes(gzipped(bytes(1 << 26)))
    with opened(tmp_path / "bomb", os.O_RDONLY) as fd:
        assert max(map(len, compression.decompressed(fd))) <= compression.CHUNK


def test_sniff() -> None:
    assert [
        sniff(head) for head in (b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x5f\x2a\x4d\x18", b"etc/")
    ] == [
        NONE,
        GZIP,
        ZSTD,
        ZSTD,
        NONE,
    ]


def test_digester(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(gzipped(DATA))
    with opened(tmp_path / "blob", os.O_RDONLY) as fd:
        stream = Digester(compression.decompressed(fd))
        while stream.chunk():
            pass
    assert stream.size == len(DATA)
    assert stream.digest == "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("kind", PACKERS)
def test_sink(tmp_path: Path, kind: str) -> None:
    packed = bytearray()
    sink = Sink(packed.extend, kind)
    for start in range(0, len(DATA), 77_777):
        sink.write(DATA[start : start + 77_777])
    sink.close()
    assert unpack(tmp_path, bytes(packed), kind) == DATA
    assert (sink.size, sink.packed_size) == (len(DATA), len(packed))
    assert sink.digest == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert sink.packed_digest == "sha256:" + hashlib.sha256(packed).hexdigest()


def test_equal_trees_give_equal_blobs() -> None:
    def pack() -> bytes:
        packed = bytearray()
        sink = Sink(packed.extend, GZIP)
        sink.write(DATA)
        sink.close()
        return bytes(packed)

    assert pack() == pack()

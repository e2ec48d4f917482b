"""The tar reader: every dialect that image builders write, and nothing that lies."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.layers import tar
from longshore.layers.apply import clean
from longshore.layers.errors import InvalidLayer
from longshore.layers.writer import Writer
from support.layers import directory, hardlink, layer, member, reader, symlink

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def entries(data: bytes, chunk: int = 1 << 16) -> list[tuple[tar.Entry, bytes]]:
    """All entries with their data."""
    stream = reader(data, chunk)
    found = []
    while (entry := stream.next()) is not None:
        found.append((entry, b"".join(stream.data())))
    return found


def only(data: bytes) -> tar.Entry:
    ((entry, _),) = entries(data)
    return entry


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_kinds_and_fields(format: int) -> None:
    data = layer(
        directory("d", mode=0o1777, uid=7, gid=8, mtime=12345),
        member("d/f", data=b"hello", mode=0o4755),
        symlink("d/l", "../x"),
        hardlink("d/h", "d/f"),
        member("c", tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("b", tarfile.BLKTYPE, devmajor=8, devminor=17),
        member("p", tarfile.FIFOTYPE),
        format=format,
    )
    found = [entry for entry, _ in entries(data)]
    assert [chr(entry.kind) for entry in found] == list("5021346")
    assert (found[0].mode, found[0].uid, found[0].gid, found[0].mtime_ns) == (0o1777, 7, 8, 12345 * 10**9)
    assert (found[1].mode, found[1].size) == (0o4755, 5)
    assert found[2].linkname == b"../x" and found[3].linkname == b"d/f"
    assert (found[4].major, found[4].minor, found[5].major, found[5].minor) == (1, 3, 8, 17)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_and_big_numbers(format: int) -> None:
    name, link = "x" * 90 + "/" + "y" * 200, "z" * 300
    entry = only(layer(symlink(name, link, uid=2**31, gid=2**24), format=format))
    assert (entry.name, entry.linkname) == (name.encode(), link.encode())
    assert (entry.uid, entry.gid) == (2**31, 2**24)


def test_ustar_prefix() -> None:
    name = "p" * 120 + "/" + "n" * 90
    assert only(layer(member(name), format=tarfile.USTAR_FORMAT)).name == name.encode()


def test_nanoseconds_and_xattrs() -> None:
    info, data = member("f", data=b"x", xattrs={"user.a": b"1", "security.capability": b"\1\0\0\2"})
    info.pax_headers = {**info.pax_headers, "mtime": "1700000000.123456789", "atime": "1700000001.5"}
    entry = only(layer((info, data)))
    assert entry.mtime_ns == 1700000000123456789
    assert entry.atime_ns == 1700000001500000000
    assert entry.xattrs == {"user.a": b"1", "security.capability": b"\1\0\0\2"}


def test_global_headers_change_nothing() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"path": "evil", "comment": "git"}) as archive:
        archive.addfile(tarfile.TarInfo("good"))
    assert only(buffer.getvalue()).name == b"good"


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=140)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(names, st.binary(max_size=3000), st.integers(0, 2**33), st.integers(0, 0o7777)), max_size=8
    ),
    st.integers(1, 3000),
)
def test_any_archive_of_tarfile_in_any_pieces(files: list[tuple[str, bytes, int, int]], chunk: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for name, data, number, mode in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = len(data), number, number, mode
            archive.addfile(info, io.BytesIO(data))
    found = entries(buffer.getvalue(), chunk)
    seen = [(e.name.decode(), data, e.uid, e.mtime_ns // 10**9, e.mode) for e, data in found]
    # tarfile itself drops a slash at the end and nothing else.
    assert seen == [(name, data, number, number, mode) for name, data, number, mode in files]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1536), st.integers(1, 600))
def test_rubbish_never_does_anything_but_fail(data: bytes, chunk: int) -> None:
    try:
        entries(data, chunk)
    except InvalidLayer:
        pass


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_archive_fails_or_is_still_an_archive(data: st.DataObject) -> None:
    good = bytearray(
        layer(directory("d"), member("d/f", data=b"x" * 700, xattrs={"user.a": b"b"}), symlink("l", "d/f"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        entries(bytes(good))
    except InvalidLayer:
        pass


@pytest.mark.parametrize("cut", [1, 100, 511, 513, 800, 1411, 1540, 1700])
def test_truncation_is_an_error(cut: int) -> None:
    data = layer(member("a", data=b"x" * 900), member("b"))
    with pytest.raises(InvalidLayer, match="unexpected EOF"):
        entries(data[:cut])


def test_an_end_at_a_header_is_an_end() -> None:
    assert len(entries(layer(member("a", data=b"x" * 900), member("b"))[: 512 + 1024])) == 1
    assert entries(b"") == []
    assert entries(bytes(512)) == []


def patched(offset: int, data: bytes) -> bytes:
    """One member's archive with some header bytes replaced and the checksum made right again."""
    block = bytearray(layer(member("a", data=b"x" * 10)))
    block[offset : offset + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"garbage" * 200, "checksum"),
        (patched(124, b"\xff" * 12), "size"),  # -1
        (patched(124, b"\x80" + b"\xff" * 11), "size"),  # beyond 64 bits
        (patched(124, b"9999999\0\0\0\0\0"), "size"),
        (patched(124, b"-0000000001\0"), "size"),
        (patched(124, b"0o17\0\0\0\0\0\0\0\0"), "size"),
        (patched(124, b"1_0\0\0\0\0\0\0\0\0\0"), "size"),
        (patched(124, b"77777777777\0"), "unexpected EOF"),
        (patched(108, b"\xff" * 8), "uid"),
        (patched(156, b"V"), "unhandled tar header type 86"),
        (patched(156, b"x"), "PAX"),
        (bytes(512) + layer(member("a")), "zero block"),
    ],
)
def test_lies_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidLayer, match=words):
        entries(data)


def pax(*records: bytes) -> bytes:
    """An archive with one member and a PAX header of exactly these bytes."""
    body = b"".join(records)
    info, data = member("x", data=body)
    info.type = b"x"
    return layer((info, data), format=tarfile.USTAR_FORMAT)[: 512 + -(-len(body) // 512) * 512] + layer(
        member("f", data=b"12345"), format=tarfile.USTAR_FORMAT
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"6 a=\n",
        b"5 =b\n",
        b"7 a=bc",
        b"99 a=b\n",
        b"-6 a=b\n",
        b"06a=b\n",
        b"4 a\n",
        b"12 path=a\0b\n",
        b"11 uid=-1\n\n",
        b"12 size=5x\n\n",
        b"29 mtime=99999999999999999999\n",
        b"16 mtime=1.2.3\n ",
        b"30 GNU.sparse.numbytes=1234567\n",
        b"24 GNU.sparse.map=1,2,3\n",
        b"22 GNU.sparse.map=a,b\n",
        b"23 GNU.sparse.map=0,99\n ",
    ],
)
def test_bad_pax_records(body: bytes) -> None:
    if not body:
        assert [entry.name for entry, _ in entries(pax())] == [b"f"]
        return
    with pytest.raises(InvalidLayer):
        entries(pax(body))


def test_a_pax_header_without_a_member() -> None:
    with pytest.raises(InvalidLayer, match="unexpected EOF"):
        entries(pax(b"11 path=ab\n")[:1024])


def test_a_pax_header_as_big_as_memory() -> None:
    info, _ = member("x")
    info.type, info.size = b"x", 1 << 40
    with pytest.raises(InvalidLayer, match="too long"):
        entries(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_old_directories_end_in_a_slash() -> None:
    data = bytearray(layer(member("d/x"), format=tarfile.USTAR_FORMAT)[:512])
    data[0:4], data[156], data[257:265] = b"d/\0\0", 0, bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    assert only(bytes(data)).kind == tar.DIRECTORY


def test_links_with_a_size_have_no_data() -> None:
    info, _ = hardlink("h", "f")
    info.size = 5
    assert [e.name for e, _ in entries(info.tobuf() + layer(member("g")))] == [b"h", b"g"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"./a/b/", b"a/b"),
        (b"/etc//passwd", b"etc/passwd"),
        (b"../../x", b"x"),
        (b"a/../../../b", b"b"),
        (b"a/./b/../c", b"a/c"),
        (b"./", b""),
        (b".", b""),
        (b"..", b""),
        (b"", b""),
        (b".hidden/.x", b".hidden/.x"),
        (b"..a/b..", b"..a/b.."),
    ],
)
def test_clean(name: bytes, path: bytes) -> None:
    assert clean(name) == path


# -- the writer ---------------------------------------------------------------------------------------------


def written(build: list[tuple[bytes, int, bytes, dict[str, object]]]) -> bytes:
    pieces: list[bytes] = []
    writer = Writer(lambda piece: pieces.append(bytes(piece)))
    for name, kind, data, fields in build:
        writer.entry(name, kind, size=len(data), **fields)  # type: ignore[arg-type]
        writer.data(data)
    writer.close()
    return b"".join(pieces)


def test_writer_and_tarfile_agree() -> None:
    data = written(
        [
            (b"d", tar.DIRECTORY, b"", {"mode": 0o1777, "uid": 1, "gid": 2, "mtime": 3}),
            (b"d/f", tar.REGULAR, b"x" * 1000, {"mode": 0o644, "uid": 2**30}),
            (b"n" * 300, tar.REGULAR, b"", {"xattrs": {"user.a": b"\0\xff"}}),
            ("ü".encode(), tar.SYMLINK, b"", {"linkname": b"l" * 200}),
            (b"c", tar.CHARACTER, b"", {"device": (1, 3)}),
        ]
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmembers()
    assert [info.name for info in found] == ["d", "d/f", "n" * 300, "ü", "c"]
    assert (found[0].mode, found[0].uid, found[0].gid, found[0].mtime) == (0o1777, 1, 2, 3)
    assert (found[1].size, found[1].uid) == (1000, 2**30)
    assert found[3].linkname == "l" * 200
    assert (found[4].devmajor, found[4].devminor) == (1, 3)
    assert entries(data)[2][0].xattrs == {"user.a": b"\0\xff"}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=250).filter(lambda name: not set(name) & {0, 47}),
            st.binary(max_size=1500),
            st.integers(0, 2**40),
            st.dictionaries(st.text("abc.", min_size=1, max_size=90), st.binary(max_size=300), max_size=3),
        ),
        max_size=6,
    )
)
def test_what_is_written_is_read(files: list[tuple[bytes, bytes, int, dict[str, bytes]]]) -> None:
    data = written(
        [
            (name, tar.REGULAR, data, {"uid": number, "mtime": number, "xattrs": x})
            for name, data, number, x in files
        ]
    )
    found = [(e.name, data, e.uid, e.mtime_ns // 10**9, e.xattrs or {}) for e, data in entries(data)]
    assert found == [(name, data, number, number, x) for name, data, number, x in files]


def test_writer_refuses_wrong_lengths() -> None:
    writer = Writer(lambda piece: None)
    writer.entry(b"f", tar.REGULAR, size=3)
    with pytest.raises(ValueError, match="more data"):
        writer.data(b"1234")
    writer.data(b"12")
    with pytest.raises(ValueError, match="missing"):
        writer.close()

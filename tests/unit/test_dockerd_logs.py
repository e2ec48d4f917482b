"""Log records: how bytes become them, how they lie in files, and how they are found again."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.api import errors
from longshore.dockerd.engine import LogEntry
from longshore.dockerd.errors import ServerError
from longshore.dockerd.logs import jsonfile, local, options, wire
from longshore.dockerd.logs.copier import PIECE, Copier
from longshore.dockerd.logs.jsonformat import JSONFormat, Times
from longshore.dockerd.logs.localformat import LocalFormat
from longshore.dockerd.logs.manager import _in_thread
from longshore.dockerd.logs.reading import Format, Reader, Span, read_all
from longshore.dockerd.logs.rotation import File, Limits
from longshore.dockerd.records import Container, ContainerConfig, HostConfig, LogConfig

SECOND = 1_000_000_000


def copied(*parts: bytes) -> list[tuple[bytes, bool]]:
    found: list[tuple[bytes, bool]] = []
    copier = Copier(lambda data, whole: found.append((data, whole)))
    for part in parts:
        copier.feed(part)
    copier.finish()
    return found


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"a\nb\n"], [(b"a\nb\n", True)]),
        ([b"a", b"b\nc"], [(b"ab\n", True), (b"c", False)]),
        ([b"\n"], [(b"\n", True)]),
        ([b"x" * PIECE + b"\n"], [(b"x" * PIECE, False), (b"\n", True)]),
        ([b"x" * (PIECE - 1) + b"\n"], [(b"x" * (PIECE - 1) + b"\n", True)]),
        (
            [b"a\n" + b"x" * 40_000, b"end\nb\n"],
            [(b"a\n", True), (b"x" * PIECE, False), (b"x" * PIECE, False), (b"x" * 7232 + b"end\nb\n", True)],
        ),
        # A character isn't torn.
        (["é".encode() * PIECE], [("é".encode() * (PIECE // 2), False)] * 2),
        (
            [b"x" + "é".encode() * PIECE],
            [(b"x" + "é".encode() * 8191, False), ("é".encode() * 8192, False), ("é".encode(), False)],
        ),
    ],
)
def test_lines_and_pieces(parts: list[bytes], expected: list[tuple[bytes, bool]]) -> None:
    assert copied(*parts) == expected


@given(st.lists(st.binary(max_size=40_000) | st.sampled_from([b"\n", b"x" * 20_000]), max_size=8))
def test_copying_loses_nothing(parts: list[bytes]) -> None:
    found = copied(*parts)
    assert b"".join(data for data, _ in found) == b"".join(parts)
    for data, whole in found:
        assert whole == data.endswith(b"\n")
        assert all(len(line) <= PIECE for line in data.split(b"\n"))


@given(st.binary(max_size=300).map(lambda data: data.replace(b"\n", b"")))
def test_any_bytes_become_json(data: bytes) -> None:
    record = json.loads(jsonfile.Encoder().encode("stdout", 1, data + b"\n", True))
    text = data.decode("utf-8", "surrogateescape")
    assert record["log"] == re.sub("[\udc80-\udcff]", "\ufffd", text) + "\n"


def test_the_format_is_the_originals() -> None:
    # As Debian's dockerd wrote it.
    text = b'a\tb\\c"d<e>&f\x01\x1b\r\n\xff\xfex \xe2\x80\xa8 \xc3\xa9\n'
    encoder = jsonfile.Encoder('{"E1":"x","foo":"1"}')
    first, second = encoder.encode("stdout", 1_795_515_719_480_379_410, text, True).splitlines()
    end = b'","stream":"stdout","attrs":{"E1":"x","foo":"1"},"time":"2026-11-24T10:21:59.48037941Z"}'
    assert first == rb'{"log":"a\u0009b\\c\"d\u003ce\u003e\u0026f\u0001\u001b\r\n' + end
    assert second == '{"log":"\ufffd\ufffdx \\u2028 é\\n'.encode() + end


@pytest.mark.parametrize("time_ns", [0, 5, 1_795_515_719_480_379_410, 1_795_515_719 * SECOND, SECOND // 10])
def test_times_come_back(time_ns: int) -> None:
    assert Times().parse(jsonfile.Clock().text(time_ns).decode()) == time_ns


def test_local_is_the_originals() -> None:
    # As Debian's dockerd wrote it.
    encoder = local.Encoder()
    record, ends = encoder.encode("stdout", 0x18F57A0_C, b"hello\n", True)
    assert ends == [len(record)]
    assert record[:12] == b"\x00\x00\x00" + bytes([record[3]]) + b"\n\x06stdout"
    assert record.endswith(b"\x1a\x05hello" + record[:4])
    piece, _ = encoder.encode("stderr", 5, b"w" * PIECE, False)
    last, _ = encoder.encode("stderr", 9, b"end\nnext\n", True)
    assert b"\x1a\x80\x80\x01" + b"w" * PIECE + b"\x20\x01\x2a\x44\x12\x40" in piece
    assert b"\x10\x05\x1a\x03end\x20\x01\x2a\x46\x08\x01\x12\x40" in last
    entries, used = LocalFormat().decode(record + piece + last + b"\0\0")
    assert used == len(record + piece + last)
    assert [(entry.stream, entry.line) for entry in entries] == [
        ("stdout", b"hello\n"),
        ("stderr", b"w" * PIECE),
        ("stderr", b"end\n"),
        ("stderr", b"next\n"),
    ]
    assert [entry.time_ns for entry in entries[1:]] == [5, 5, 9]


class Recorder:
    """Writes records "0\\n", "1\\n", ... at seconds 0, 1, ..."""

    def __init__(self, path: Path, kind: str, limits: Limits = Limits()) -> None:  # noqa: B008
        self.path, self.kind = str(path), kind
        self.file = File(self.path, limits)
        self.format: Format = JSONFormat() if kind == "json-file" else LocalFormat()
        self._json, self._local = jsonfile.Encoder(), local.Encoder()

    def write(self, numbers: range) -> None:
        for number in numbers:
            line = b"%d\n" % number
            if self.kind == "json-file":
                self.file.write(self._json.encode("stdout", number * SECOND, line, True))
            else:
                self.file.write(*self._local.encode("stdout", number * SECOND, line, True))

    def read(self, span: Span = Span()) -> list[int]:  # noqa: B008
        return numbers(read_all(self.path, self.format, span))


def numbers(entries: Any) -> list[int]:
    return [int(entry.line) for entry in entries]


@pytest.fixture(params=["json-file", "local"])
def kind(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


def test_tail_and_times(tmp_path: Path, kind: str) -> None:
    log = Recorder(tmp_path / "log", kind)
    log.write(range(2000))
    assert log.read() == list(range(2000))
    for tail in (0, 1, 3, 1999, 2000, 2001):
        assert log.read(Span(tail)) == list(range(2000))[2000 - tail if tail <= 2000 else 0 :][:tail]
    assert log.read(Span(None, 1998 * SECOND)) == [1998, 1999]
    assert log.read(Span(None, 5 * SECOND, 7 * SECOND)) == [5, 6, 7]
    assert log.read(Span(2, 1000 * SECOND, 1998 * SECOND)) == [1998]
    log.file.close()


@pytest.mark.parametrize("compress", [False, True])
def test_rotation(tmp_path: Path, kind: str, compress: bool) -> None:
    log = Recorder(tmp_path / "log", kind, Limits(1000, 3, compress))
    log.write(range(200))
    log.file.close()
    extension = ".gz" if compress else ""
    assert {path.name for path in tmp_path.iterdir()} == {"log", f"log.1{extension}", f"log.2{extension}"}
    found = log.read()
    assert found == list(range(found[0], 200))
    assert log.read(Span(25)) == list(range(175, 200))
    if not compress:
        # A file is full once it has reached its size, not before.
        assert all(1000 <= path.stat().st_size < 1080 for path in tmp_path.iterdir() if path.name != "log")
    elif kind == "json-file":
        packed = (tmp_path / "log.1.gz").read_bytes()
        assert packed[:10] == b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
        assert packed[12:25] == b'{"lastTime":"'
        assert gzip.decompress(packed).endswith(b"}\n")


def test_blocks_are_split_where_a_file_is_full(tmp_path: Path) -> None:
    file = File(str(tmp_path / "log"), Limits(100, 10))
    line = b"x" * 29 + b"\n"
    assert file.write(line * 10)
    file.close()
    sizes = [(tmp_path / name).stat().st_size for name in ("log.2", "log.1", "log")]
    assert sizes == [120, 120, 60]


def test_one_file_begins_anew(tmp_path: Path, kind: str) -> None:
    log = Recorder(tmp_path / "log", kind, Limits(1000, 1))
    log.write(range(100))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert log.read()[-1] == 99
    log.file.close()


def test_following_across_rotations(tmp_path: Path, kind: str) -> None:
    log = Recorder(tmp_path / "log", kind, Limits(1000, 2))
    log.write(range(5))
    with Reader(log.path, log.format, Span()) as reader:
        assert numbers(reader.more()) == list(range(5))
        assert reader.more() == []
        found = []
        for number in range(5, 300):
            before = log.file.fd
            inode = os.fstat(before).st_ino
            log.write(range(number, number + 1))
            if os.fstat(log.file.fd).st_ino != inode:
                reader.add(os.dup(log.file.fd))
        while entries := reader.more():
            found += numbers(entries)
        assert found == list(range(5, 300))
    log.file.close()


@pytest.mark.parametrize("limits", (Limits(), Limits(1000, 3)))
def test_who_does_not_follow_reads_what_was_there(tmp_path: Path, kind: str, limits: Limits) -> None:
    """However much is written meanwhile, and whether or not the file is replaced."""
    log = Recorder(tmp_path / "log", kind, limits)
    log.write(range(20))
    there = log.read()
    with (
        Reader(log.path, log.format, Span(), bounded=True) as everything,
        Reader(log.path, log.format, Span(1), bounded=True) as last,
        Reader(log.path, log.format, Span(0), bounded=True) as nothing,
    ):
        log.write(range(20, 60))
        found = []
        while entries := everything.more():
            found += numbers(entries)
            log.write(range(60, 70))
        assert (found, numbers(last.more()), last.more(), nothing.more()) == (there, [19], [], [])
    log.file.close()


def test_a_torn_record_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = jsonfile.Encoder().encode("stdout", 1, b"1\n2\n3\n", True).splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1][:20] + b"\n" + whole[2] + whole[0][:10])
    assert numbers(read_all(str(path), JSONFormat(), Span())) == [1, 3]
    assert numbers(read_all(str(path), JSONFormat(), Span(1))) == [3]


def test_there_may_be_no_log(tmp_path: Path, kind: str) -> None:
    assert read_all(str(tmp_path / "log"), JSONFormat(), Span(5)) == []


def container(**config: Any) -> Container:
    return Container(
        id="0123456789abcdef" * 4,
        name="box",
        created_ns=0,
        config=ContainerConfig(**config),
        host_config=HostConfig(),
        image_id="sha256:" + "fedc" * 16,
        image_ref="busybox:latest",
        path="sh",
        args=["-c", "true"],
    )


def test_attributes() -> None:
    box = container(labels={"foo": "1", "bar": "2"}, env=["E1=x", "E2=y=z", "F=1", "G"])
    asked = {
        "labels": "foo,nope",
        "env": "F,G",
        "env-regex": "^E[12]",
        "tag": "{{.Name}}/{{ .ID }}/{{.ImageName}}",
    }
    assert json.loads(options.attributes(box, asked)) == {
        "E1": "x",
        "E2": "y=z",
        "F": "1",
        "foo": "1",
        "tag": "box/0123456789ab/busybox:latest",
    }
    assert options.attributes(box, {}) == ""
    with pytest.raises(ServerError, match="can't evaluate field Foo in type"):
        options.attributes(box, {"tag": "{{.Foo}}"})


CONFIG = cast(Any, SimpleNamespace(log_driver="json-file", log_opts={"max-size": "10m"}))


@pytest.mark.parametrize(
    ("driver", "asked", "words"),
    [
        ("json-file", {"foo": "1"}, "unknown log opt 'foo' for json-file log driver"),
        ("local", {"tag": "x"}, "unknown log opt 'tag' for log driver local"),
        ("json-file", {"mode": "foo"}, "logger: logging mode not supported: foo"),
        (
            "local",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non",
        ),
        (
            "local",
            {"mode": "non-blocking", "max-buffer-size": "1x"},
            "option max-buffer-size: invalid size: '1x'",
        ),
        ("nope", {}, 'error looking up logging plugin nope: plugin "nope" not found'),
        ("syslog", {}, "the log driver 'syslog' isn't built in: there are json-file, local, none"),
    ],
)
def test_refused_at_create(driver: str, asked: dict[str, str], words: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        options.settle(LogConfig(type=driver, config=asked), CONFIG)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("driver", "asked", "words"),
    [
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-size": "x"}, "invalid size: 'x'"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        (
            "json-file",
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is",
        ),
        ("json-file", {"compress": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
        ("local", {"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ("local", {"max-file": "0"}, "compression cannot be enabled when max file count is 1"),
        ("local", {"compress": "x"}, 'error reading compress log option: strconv.ParseBool: parsing "x"'),
        (
            "local",
            {"max-file": "x"},
            'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax',
        ),
    ],
)
def test_refused_at_start(driver: str, asked: dict[str, str], words: str) -> None:
    with pytest.raises(ServerError) as caught:
        options.limits(driver, asked)
    assert f"failed to initialize logging driver: {words}" in str(caught.value)


def test_defaults() -> None:
    assert options.settle(LogConfig(), CONFIG) == LogConfig(type="json-file", config={"max-size": "10m"})
    assert options.settle(LogConfig(type="local"), CONFIG) == LogConfig(type="local", config={})
    assert options.limits("local", {}) == Limits(20_000_000, 5, True)
    assert options.limits("json-file", {"max-size": "1.5k", "max-file": "3"}) == Limits(1500, 3, False)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.integers(1, 40))
def test_frames_in_any_portions(frames: list[tuple[int, bytes]], portion: int) -> None:
    data = b"".join(wire.frame(kind, body) for kind, body in frames)
    reader = wire.Frames()
    found = [
        frame
        for start in range(0, len(data), portion)
        for frame in reader.feed(data[start : start + portion])
    ]
    assert found == frames


def test_entries_have_no_attributes_by_default() -> None:
    assert LogEntry("stdout", 1, b"x").attributes == {}


async def test_what_a_thread_opens_for_somebody_who_left_is_closed() -> None:
    begun, go = threading.Event(), threading.Event()
    left: list[str] = []

    def opened() -> str:
        begun.set()
        go.wait()
        return "reader"

    waiting = asyncio.create_task(_in_thread(opened, otherwise=left.append))
    await asyncio.to_thread(begun.wait)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()  # what the thread uses isn't taken away from it
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert left == ["reader"]

"""What an executable needs in order to run, read from its ELF headers.

Like ldd, but nothing is executed: ldd runs the file's own loader, which an
untrusted file may choose.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from glob import glob
from typing import NamedTuple

MAGIC = b"\x7fELF"
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 1, 5, 10, 15, 29


class Elf(NamedTuple):
    """`machine` and `bits` say which libraries fit."""

    bits: int
    machine: int
    interpreter: str
    needed: tuple[str, ...]
    search: tuple[str, ...]


class Segment(NamedTuple):
    type: int
    offset: int
    address: int
    size: int


def read(path: str) -> Elf | None:
    """The facts of an ELF file; None when it is something else. Raises OSError, ValueError (damaged)."""
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            return None
        file.seek(0)
        data = file.read()
    try:
        return parse(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path}: damaged ELF file: {error}") from None


def parse(data: bytes) -> Elf:
    """Raises struct.error or IndexError when the headers point outside the data."""
    bits = 64 if data[4] == 2 else 32
    order = "<" if data[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", data, 18)
    segments = list(_segments(data, bits, order))
    interpreter = next(
        (_bytes(data, s).split(b"\0")[0].decode() for s in segments if s.type == PT_INTERP), ""
    )
    dynamic = next((s for s in segments if s.type == PT_DYNAMIC), None)
    if dynamic is None:
        return Elf(bits, machine, interpreter, (), ())
    tags = list(_dynamic(data, dynamic, bits, order))
    values = dict(tags)
    table = _file_offset(segments, values.get(DT_STRTAB, 0))
    strings = data[table : table + values.get(DT_STRSZ, 0)]
    needed = tuple(_string(strings, value) for tag, value in tags if tag == DT_NEEDED)
    search = [_string(strings, values[tag]) for tag in (DT_RUNPATH, DT_RPATH) if tag in values][:1]
    return Elf(bits, machine, interpreter, needed, tuple(p for path in search for p in path.split(":") if p))


def _segments(data: bytes, bits: int, order: str) -> Iterator[Segment]:
    if bits == 64:
        (start,) = struct.unpack_from(f"{order}Q", data, 32)
        size, count = struct.unpack_from(f"{order}HH", data, 54)
        for place in range(count):
            type, _, offset, address, _, length = struct.unpack_from(
                f"{order}IIQQQQ", data, start + place * size
            )
            yield Segment(type, offset, address, length)
    else:
        (start,) = struct.unpack_from(f"{order}I", data, 28)
        size, count = struct.unpack_from(f"{order}HH", data, 42)
        for place in range(count):
            type, offset, address, _, length = struct.unpack_from(f"{order}IIIII", data, start + place * size)
            yield Segment(type, offset, address, length)


def _dynamic(data: bytes, segment: Segment, bits: int, order: str) -> Iterator[tuple[int, int]]:
    form = struct.Struct(f"{order}{'qQ' if bits == 64 else 'iI'}")
    for offset in range(segment.offset, segment.offset + segment.size, form.size):
        tag, value = form.unpack_from(data, offset)
        if tag == 0:
            return
        yield tag, value


def _file_offset(segments: Sequence[Segment], address: int) -> int:
    for segment in segments:
        if segment.type == PT_LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    return 0


def _bytes(data: bytes, segment: Segment) -> bytes:
    return data[segment.offset : segment.offset + segment.size]


def _string(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()


def library_paths(machine: str = os.uname().machine) -> list[str]:
    """Where glibc's loader looks without being told: its own list, as Debian and as Fedora build it."""
    folders = [
        f"/lib/{machine}-linux-gnu",
        f"/usr/lib/{machine}-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ]
    return [folder for folder in folders if os.path.isdir(folder)]


def configured_paths(path: str = "/etc/ld.so.conf") -> list[str]:
    """The further folders of ld.so.conf, with its includes."""
    folders: list[str] = []
    try:
        with open(path) as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except OSError:
        return folders
    for line in lines:
        if line.startswith("include "):
            pattern = os.path.join(os.path.dirname(path), line.removeprefix("include ").strip())
            for included in sorted(glob(pattern)):
                folders += configured_paths(included)
        elif line:
            folders.append(line)
    return folders


def find_library(name: str, wanted: Elf, origin: str, extra: Sequence[str] = ()) -> str | None:
    """The path that the loader would open for a needed library, or None."""
    if "/" in name:
        return name if os.path.exists(name) else None
    own = [folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", origin) for folder in wanted.search]
    for folder in [*own, *library_paths(), *extra]:
        path = os.path.join(folder, name)
        found = read(path) if os.path.isfile(path) else None
        if found is not None and (found.bits, found.machine) == (wanted.bits, wanted.machine):
            return path
    return None

"""User names looked up in layers, and what a hostile layer can't do to the look-up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.api.errors import InvalidArgument, NotFound
from longshore.api.types.mount_pb2 import Mount
from longshore.client import users

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/:/bin/sh\nbroken line\n"
GROUP = b"root:x:0:\nwww:x:34:\nlogs:x:50:www,other\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("www", (33, 34, (50,))),
        ("33", (33, 34, (50,))),
        ("www:logs", (33, 50, ())),
        ("1000", (1000, 0, ())),
        ("1000:1001", (1000, 1001, ())),
        ("root", (0, 0, ())),
    ],
)
def test_resolve(text: str, expected: tuple[int, int, tuple[int, ...]]) -> None:
    assert users.resolve(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize("text", ["nobody", "www:nogroup"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(NotFound):
        users.resolve(text, PASSWD, GROUP)


@pytest.mark.parametrize("text", ["1000", "1000:1000", "01000"])
def test_a_number_is_no_name(text: str) -> None:
    hostile = b"1000:x:0:0::/:/bin/sh\n01000:x:0:0::/:/bin/sh\n"
    found = users.resolve(text, hostile, b"1000:x:0:\n")
    assert found.uid == 1000
    assert (found.gid == 1000) == (":" in text)


@pytest.mark.parametrize("text", ["4294967296", "2147483648", "1:4294967296", "99999999999999999999"])
def test_no_number_wraps_around(text: str) -> None:
    hostile = f"{text}:x:0:0::/:/bin/sh\nbig:x:4294967296:4294967296::/:/bin/sh\n".encode()
    with pytest.raises(InvalidArgument):
        users.resolve(text, hostile)
    with pytest.raises(NotFound):
        users.resolve("big", hostile)


def test_layers_of_mounts() -> None:
    overlay = Mount(type="overlay", source="overlay", options=["workdir=/w", "upperdir=/u", "lowerdir=/a:/b"])
    assert users.layers([overlay]) == ["/u", "/a", "/b"]
    assert users.layers([Mount(type="bind", source="/s")]) == ["/s"]
    with pytest.raises(InvalidArgument):
        users.layers([Mount(type="ext4")])


def layer(folder: Path, name: str) -> Path:
    root = folder / name
    (root / "etc").mkdir(parents=True)
    return root


def test_the_topmost_layer_that_has_the_file_decides(tmp_path: Path) -> None:
    top, low = layer(tmp_path, "top"), layer(tmp_path, "low")
    (low / "etc/passwd").write_bytes(b"low")
    assert users.read_file([str(top), str(low)], "/etc/passwd") == b"low"
    (top / "etc/passwd").write_bytes(b"top")
    assert users.read_file([str(top), str(low)], "/etc/passwd") == b"top"


@pytest.mark.parametrize("kind", ["link", "fifo", "folder link"])
def test_nothing_irregular_is_opened(tmp_path: Path, kind: str) -> None:
    root = layer(tmp_path, "root")
    if kind == "link":
        (root / "etc/passwd").symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(root / "etc/passwd")
    else:
        (root / "etc").rmdir()
        (root / "etc").symlink_to("/etc")
    assert users.read_file([str(root)], "etc/passwd") == b""

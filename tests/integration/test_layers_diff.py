"""Diffs: applying what was found brings the one tree to the other, and the two ways to find it agree."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore.layers import overlay, trees, worker
from longshore.layers.diff import collect, compare
from longshore.layers.errors import InvalidLayer
from longshore.layers.writer import Writer
from longshore.linux.mounts import Mount, mounted
from support.layers import apply_to, directory, layer, member, opened, reader, symlink, tree

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
EPOCH = 1_000_000_000 * 10**9


def compared(left: Path | None, right: Path, epoch_ns: int | None = EPOCH) -> bytes:
    pieces: list[bytes] = []
    writer = Writer(lambda piece: pieces.append(bytes(piece)))
    with opened(right) as new:
        if left is None:
            compare(None, new, writer, epoch_ns)
        else:
            with opened(left) as old:
                compare(old, new, writer, epoch_ns)
    return b"".join(pieces)


def collected(upper: Path, lowers: list[Path]) -> bytes:
    pieces: list[bytes] = []
    writer = Writer(lambda piece: pieces.append(bytes(piece)))
    with (
        opened(upper) as fd,
        overlay.Lowers([str(path) for path in lowers], overlay.XATTR_PREFIXES[0]) as below,
    ):
        collect(fd, below, writer, EPOCH)
    return b"".join(pieces)


def names(data: bytes) -> list[str]:
    stream = reader(data)
    found = []
    while (entry := stream.next()) is not None:
        found.append(entry.name.decode())
    return found


BASE = layer(
    directory("etc", mtime=1),
    member("etc/passwd", data=b"root", mtime=1),
    member("etc/group", data=b"wheel", mtime=1),
    directory("a", mtime=1),
    directory("a/b", mode=0o1777, mtime=1),
    member("a/b/file", data=b"1", mtime=1),
    symlink("link", "etc", mtime=1),
)


class Overlay:
    """A base, and an overlay on it in which a change is made."""

    def __init__(self, tmp: Path) -> None:
        self.lower, self.upper = tmp / "lower", tmp / "upper"
        self.merged, self.work = tmp / "merged", tmp / "work"
        for path in (self.lower, self.upper, self.merged, self.work):
            path.mkdir()
        apply_to(self.lower, BASE)

    def mount(self) -> Any:
        options = (f"lowerdir={self.lower}", f"upperdir={self.upper}", f"workdir={self.work}", "index=off")
        return mounted([Mount("overlay", "overlay", options)], str(self.merged))


def rename_back(root: Path) -> None:
    os.rename(root / "etc/passwd", root / "etc/other")
    os.rename(root / "etc/other", root / "etc/passwd")


def replace_tree(root: Path) -> None:
    subprocess.run(["rm", "-r", root / "a"], check=True)
    (root / "a").mkdir()
    (root / "a/new").write_text("n")


def file_to_directory(root: Path) -> None:
    (root / "etc/group").unlink()
    (root / "etc/group").mkdir()
    (root / "etc/group/x").touch()


def directory_to_file(root: Path) -> None:
    subprocess.run(["rm", "-r", root / "a"], check=True)
    (root / "a").write_text("f")


def link_to_directory(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").mkdir()


def link_both(root: Path) -> None:
    (root / "x").write_text("x")
    os.link(root / "x", root / "a/y")


def capability(root: Path) -> None:
    (root / "tool").write_text("")
    os.setxattr(root / "tool", "security.capability", CAPABILITY)
    os.setxattr(root / "a", "user.color", b"blue")


def big_names(root: Path) -> None:
    (root / ("n" * 200)).mkdir()
    (root / ("n" * 200) / ("ü" * 100)).write_text("long")


def devices(root: Path) -> None:
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        previous = os.getcwd()
        os.chdir(root)
        try:
            server.bind("socket")
        finally:
            os.chdir(previous)


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda root: None, []),
    "new file": (lambda root: (root / "etc/new").write_text("n"), ["etc/", "etc/new"]),
    "changed file": (lambda root: (root / "etc/passwd").write_text("2"), ["etc/", "etc/passwd"]),
    "removed file": (lambda root: (root / "etc/passwd").unlink(), ["etc/", "etc/.wh.passwd"]),
    "changed mode": (lambda root: (root / "a/b/file").chmod(0o600), ["a/", "a/b/", "a/b/file"]),
    "changed owner of a directory": (lambda root: os.chown(root / "a/b", 7, 8), ["a/", "a/b/"]),
    "copied up and not changed": (rename_back, []),
    "file to directory": (file_to_directory, ["etc/", "etc/group/", "etc/group/x"]),
    "directory to file": (directory_to_file, ["a"]),
    "link to directory": (link_to_directory, ["link/"]),
    "hard links": (link_both, ["a/", "a/y", "x"]),
    "capability and xattr": (capability, ["a/", "tool"]),
    "long names": (big_names, ["n" * 200 + "/", "n" * 200 + "/" + "ü" * 100]),
    "devices, no sockets": (devices, ["fifo", "null"]),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_changes(tmp_path: Path, change: Callable[[Path], object], expected: list[str]) -> None:
    stack = Overlay(tmp_path)
    with stack.mount():
        change(stack.merged)
        after = tree(stack.merged, times=False)
        slow = compared(stack.lower, stack.merged)
    fast = collected(stack.upper, [stack.lower])
    assert names(slow) == expected
    # A directory made anew may be said to be opaque instead of each removal in it.
    assert names(fast) == expected or any(name.endswith(".wh..wh..opq") for name in names(fast))
    after.pop("socket", None)
    for number, data in enumerate((slow, fast)):
        target = tmp_path / f"target{number}"
        target.mkdir()
        apply_to(target, BASE)
        apply_to(target, data)
        assert tree(target, times=False) == after


def test_a_tree_replaced(tmp_path: Path) -> None:
    stack = Overlay(tmp_path)
    with stack.mount():
        replace_tree(stack.merged)
        after = tree(stack.merged, times=False)
        slow = compared(stack.lower, stack.merged)
    fast = collected(stack.upper, [stack.lower])
    assert names(slow) == ["a/", "a/.wh.b", "a/new"]
    assert names(fast) == ["a/", "a/.wh..wh..opq", "a/new"]
    for number, data in enumerate((slow, fast)):
        target = tmp_path / f"target{number}"
        target.mkdir()
        apply_to(target, BASE)
        apply_to(target, data)
        assert tree(target, times=False) == after


def test_from_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    apply_to(source, BASE)
    data = compared(None, source, None)
    apply_to(target, data)
    assert tree(target) == tree(source)
    assert compared(None, target, None) == data


def test_same_second_other_content(tmp_path: Path) -> None:
    """A tar cuts times to seconds: then a change within one must still be found."""
    for name, content in (("left", "1"), ("right", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(content)
        os.utime(tmp_path / name / "f", (5, 5))
    assert names(compared(tmp_path / "left", tmp_path / "right")) == ["f"]


def test_epoch_limits_times(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    stream = reader(compared(None, tmp_path, 77 * 10**9))
    entry = stream.next()
    assert entry is not None and entry.mtime_ns == 77 * 10**9


def mount_of(kind: str, source: str, *options: str) -> list[Any]:
    return [kind, source, list(options), ""]


def test_which_mounts_are_the_change_itself() -> None:
    def plan(left: list[list[Any]], right: list[list[Any]]) -> Any:
        return worker.changes_of(worker.mounts_of(left), worker.mounts_of(right))

    bind = mount_of("bind", "/s/1/fs", "ro", "rbind")
    upper = mount_of(
        "overlay", "overlay", "index=off", "workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"
    )
    view = mount_of("overlay", "overlay", "index=off", "lowerdir=/s/2/fs:/s/1/fs")
    third = mount_of(
        "overlay", "overlay", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"
    )
    trusted = overlay.XATTR_PREFIXES[0]
    assert plan([bind], [upper]) == ("/s/2/fs", ["/s/1/fs"], trusted)
    assert plan([bind], [view]) == ("/s/2/fs", ["/s/1/fs"], trusted)
    assert plan([view], [third]) == ("/s/3/fs", ["/s/2/fs", "/s/1/fs"], trusted)
    assert plan([], [bind]) == ("/s/1/fs", [], trusted)
    assert plan([], [upper]) is None
    assert plan([bind], [bind]) is None
    assert plan([upper], [bind]) is None
    assert plan([bind], []) is None
    assert plan([mount_of("tmpfs", "tmpfs")], [upper]) is None


# -- any change ---------------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b", "c"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_members = st.one_of(
    st.builds(lambda path, data: member(path, data=data), _paths, st.sampled_from([b"1", b"2"])),
    st.builds(
        lambda path, mode: directory(path, mode=mode), _paths, st.sampled_from([0o755, 0o1777, 0o2700])
    ),
    st.builds(symlink, _paths, st.sampled_from(["a", "b"])),
    st.builds(
        lambda path, name: member("/".join([*path, f".wh.{name}"])), st.lists(_names, max_size=2), _names
    ),
    st.builds(lambda path: member("/".join([*path, ".wh..wh..opq"])), st.lists(_names, max_size=2)),
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(_members, max_size=8), st.lists(_members, max_size=8))
def test_any_change(
    tmp_path_factory: pytest.TempPathFactory,
    base: list[tuple[tarfile.TarInfo, bytes]],
    change: list[tuple[tarfile.TarInfo, bytes]],
) -> None:
    tmp = tmp_path_factory.mktemp("any")
    try:
        for name in ("left", "right", "upper", "slow", "fast"):
            (tmp / name).mkdir()
        try:
            for name in ("left", "right", "slow", "fast"):
                apply_to(tmp / name, layer(*base))
            apply_to(tmp / "right", layer(*change))
            apply_to(tmp / "upper", layer(*change), [tmp / "left"])
        except (OSError, InvalidLayer):
            return
        apply_to(tmp / "slow", compared(tmp / "left", tmp / "right"))
        apply_to(tmp / "fast", collected(tmp / "upper", [tmp / "left"]))
        assert tree(tmp / "slow", times=False) == tree(tmp / "right", times=False)
        assert tree(tmp / "fast", times=False) == tree(tmp / "right", times=False)
    finally:
        with opened(tmp.parent) as parent:
            trees.remove(parent, os.fsencode(tmp.name))

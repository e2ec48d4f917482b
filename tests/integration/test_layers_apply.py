"""Layers applied to plain trees and to overlay directories: the same tree must come out, whatever the layer."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore.layers import trees
from longshore.layers.errors import InvalidLayer
from longshore.linux.mounts import Mount, mounted
from support.layercases import BASE, CAPABILITY, CASES
from support.layers import apply_to, directory, hardlink, layer, member, opened, symlink, tree

Layers = Sequence[bytes]


def plain(tmp: Path, layers: Layers) -> dict[str, tuple[object, ...]]:
    """Applied one after the other to one directory."""
    target = tmp / "plain"
    target.mkdir()
    for data in layers:
        apply_to(target, data)
    return tree(target, times=False)


def stacked(tmp: Path, layers: Layers) -> dict[str, tuple[object, ...]]:
    """Each applied to an upper directory of its own; what the overlay of all of them shows."""
    lowers: list[Path] = []
    for number, data in enumerate(layers):
        upper = tmp / f"layer{number}"
        upper.mkdir()
        apply_to(upper, data, lowers)
        lowers.insert(0, upper)
    return shown(tmp, lowers)


def shown(tmp: Path, lowers: Sequence[Path]) -> dict[str, tuple[object, ...]]:
    (tmp / "merged").mkdir(exist_ok=True)
    (tmp / "empty").mkdir(exist_ok=True)
    option = "lowerdir=" + ":".join(map(str, [*lowers, tmp / "empty"]))
    with mounted([Mount("overlay", "overlay", (option, "ro"))], str(tmp / "merged")) as place:
        return tree(Path(place), times=False)


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_plain_and_overlay_agree(tmp_path: Path, layers: Layers) -> None:
    assert stacked(tmp_path, layers) == plain(tmp_path, layers)


def test_what_the_cases_mean(tmp_path: Path) -> None:
    """The comparison above proves little if both are wrong."""

    def after(*changes: bytes) -> dict[str, tuple[object, ...]]:
        target = tmp_path / f"t{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        for data in (BASE, *changes):
            apply_to(target, data)
        return tree(target)

    assert "etc/passwd" not in after(layer(member("etc/.wh.passwd")))
    gone = after(layer(member(".wh.a"), directory("a"), member("a/new")))
    assert [name for name in gone if name.startswith("a/")] == ["a/new"]
    opaque = after(layer(member("a/b/new"), member("a/.wh..wh..opq")))
    assert [name for name in opaque if name.startswith("a/")] == ["a/b", "a/b/new"]
    assert after(layer(member("tmp/x")))["tmp"][0] == oct(stat.S_IFDIR | 0o1777)
    assert after(layer(member("bin/x")))["usr/bin/x"][0] == oct(stat.S_IFREG | 0o644)
    tool = after()["usr/bin/tool"]
    assert tool[0] == oct(stat.S_IFREG | 0o4755) and tool[1] == (5, 6)
    assert tool[6] == {"security.capability": CAPABILITY}
    assert after()["srv"][6] == {"user.color": b"blue"}


def test_hard_link_to_a_file_of_a_lower_layer(tmp_path: Path) -> None:
    change = layer(
        hardlink("etc/shadow", "etc/passwd"), hardlink("link", "usr/bin/tool", mode=0o4755, uid=5, gid=6)
    )
    found = stacked(tmp_path, (BASE, change))
    assert found == plain(tmp_path, (BASE, change))
    assert found["etc/shadow"][4] == "etc/passwd"


def test_times(tmp_path: Path) -> None:
    info, data = member("d/f", data=b"x")
    info.pax_headers = {"mtime": "1700000000.123456789"}
    change = layer(
        directory("d", mtime=1000), (info, data), symlink("d/l", "f", mtime=2000), member("old", mtime=-5)
    )
    apply_to(tmp_path, change)
    assert (tmp_path / "d").stat().st_mtime == 1000
    assert (tmp_path / "d/f").stat().st_mtime_ns == 1700000000123456789
    assert (tmp_path / "d/l").lstat().st_mtime == 2000
    assert (tmp_path / "old").stat().st_mtime == 0


def test_copied_up_parents_keep_their_times(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "upper").mkdir()
    apply_to(tmp_path / "lower", layer(directory("d", mtime=1000), directory("d/e", mtime=2000)))
    apply_to(tmp_path / "upper", layer(member("d/e/f")), [tmp_path / "lower"])
    assert [(tmp_path / "upper" / name).stat().st_mtime for name in ("d", "d/e")] == [1000, 2000]


@pytest.mark.parametrize("format", ["gnu", "posix"])
@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: str, version: str) -> None:
    import subprocess

    if format == "gnu" and version != "1.0":
        pytest.skip("one old format only")
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "holes", "wb") as file:
        for offset in range(0, 40 << 20, 1 << 20):  # more pieces than one header holds
            file.seek(offset + 4096)
            file.write(b"data at %d" % offset)
        file.truncate(50 << 20)
    (source / "hole").touch()
    os.truncate(source / "hole", 1 << 20)
    (source / "after").write_text("still in step")
    command = ["tar", "-C", str(source), "-c", "-S", f"--format={format}", "-f", str(tmp_path / "a.tar")]
    if format == "posix":
        command.append(f"--sparse-version={version}")
    subprocess.run([*command, "holes", "hole", "after"], check=True)
    (tmp_path / "target").mkdir()
    apply_to(tmp_path / "target", (tmp_path / "a.tar").read_bytes())
    for name in ("holes", "hole", "after"):
        assert (tmp_path / "target" / name).read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "target" / "holes").stat().st_blocks * 512 < 2 << 20


def test_many_directories(tmp_path: Path) -> None:
    """More parents than we keep open."""
    names = [f"d{number}/e" for number in range(400)]
    change = layer(*(member(f"{name}/f", data=name.encode()) for name in names for _ in (0, 1)))
    apply_to(tmp_path, change)
    assert all((tmp_path / name / "f").read_bytes() == name.encode() for name in names)


# -- hostile layers -----------------------------------------------------------------------------------------


def outside(tmp: Path) -> tuple[Path, Path]:
    """A target, and something beside it that no layer may reach."""
    target, secret = tmp / "target", tmp / "secret"
    target.mkdir()
    secret.mkdir()
    (secret / "file").write_text("secret")
    return target, secret


ESCAPES = {
    "dot dot": lambda secret: layer(
        member("../secret/file", data=b"evil"), member("../../../../x", data=b"evil")
    ),
    "absolute": lambda secret: layer(member(f"{secret}/file", data=b"evil")),
    "through a link": lambda secret: layer(symlink("l", str(secret)), member("l/file", data=b"evil")),
    "through a relative link": lambda secret: layer(
        symlink("l", "../secret"), member("l/file", data=b"evil")
    ),
    "through two links": lambda secret: layer(
        symlink("a", "/"), symlink("b", f"a/{secret}"), member("b/file", data=b"evil")
    ),
    "link swapped in for a directory": lambda secret: layer(
        directory("d"), member("d/x"), symlink("d", str(secret)), member("d/file", data=b"evil")
    ),
    "over a link": lambda secret: layer(symlink("l", f"{secret}/file"), member("l", data=b"evil")),
    "mode through a link": lambda secret: layer(symlink("l", str(secret)), directory("l", mode=0o777)),
    "whiteout dot dot": lambda secret: layer(member("../secret/.wh.file")),
    "whiteout through a link": lambda secret: layer(symlink("l", str(secret)), member("l/.wh.file")),
    "opaque through a link": lambda secret: layer(symlink("l", str(secret)), member("l/.wh..wh..opq")),
    "through /proc": lambda secret: layer(symlink("l", "/proc/self/cwd"), member("l/x", data=b"evil")),
}


@pytest.mark.parametrize("with_lowers", [False, True], ids=["plain", "overlay"])
@pytest.mark.parametrize("make", ESCAPES.values(), ids=ESCAPES)
def test_nothing_gets_out(tmp_path: Path, make, with_lowers: bool) -> None:  # type: ignore[no-untyped-def]
    target, secret = outside(tmp_path)
    before = tree(secret)
    lower = tmp_path / "lower"
    lower.mkdir()
    apply_to(lower, layer(directory("d"), symlink("s", str(secret))))
    beside = sorted(path.name for path in tmp_path.iterdir())
    apply_to(target, make(secret), [lower] if with_lowers else None)
    assert tree(secret) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == beside
    assert secret.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("target_name", ["../secret/file", "/etc/hostname", "l/file", "nothing"])
def test_hard_links_from_outside(tmp_path: Path, target_name: str) -> None:
    target, secret = outside(tmp_path)
    with pytest.raises(FileNotFoundError):
        apply_to(target, layer(symlink("l", str(secret)), hardlink("x", target_name)))
    assert (secret / "file").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (layer(member("x", tarfile.CHRTYPE)), "device 0:0"),
        (layer(member("x", tarfile.BLKTYPE)), "device 0:0"),
        (layer(member("x", xattrs={"trusted.overlay.redirect": b"/etc"})), "trusted.overlay.redirect"),
        (layer(directory("x", xattrs={"trusted.overlay.opaque": b"y"})), "trusted.overlay.opaque"),
        (layer(directory("x", xattrs={"user.overlay.opaque": b"y"})), "user.overlay.opaque"),
        (layer(member(".wh.")), "invalid whiteout name"),
        (layer(member("a/.wh..")), "invalid whiteout name"),
        (layer(member("a/.wh...")), "invalid whiteout name"),
        (layer(directory("d"), hardlink("x", "d")), "hard link to a directory"),
        (layer(member("x"), hardlink("x", "x")), "hard link to itself"),
        (layer(hardlink("x", "..")), "hard link to"),
        (layer(symlink("x", "")), "symbolic link to nothing"),
        (layer(member("x", b"V")), "unhandled tar header type 86"),
        (layer(member("big", data=b"x" * 2000))[:1500], "unexpected EOF"),
    ],
)
@pytest.mark.parametrize("with_lowers", [False, True], ids=["plain", "overlay"])
def test_refused(tmp_path: Path, data: bytes, words: str, with_lowers: bool) -> None:
    target, lower = tmp_path / "target", tmp_path / "lower"
    target.mkdir()
    lower.mkdir()
    with pytest.raises(InvalidLayer, match=words):
        apply_to(target, data, [lower] if with_lowers else None)


def test_a_file_is_no_parent(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError) as error:
        apply_to(tmp_path, layer(member("a"), member("a/b")))
    assert error.value.filename == "a/b"


def test_links_in_circles(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        apply_to(tmp_path, layer(symlink("a", "b"), symlink("b", "a"), member("a/x")))


def test_directories_deeper_than_python_recurses(tmp_path: Path) -> None:
    deep = "/".join("d" * 1 for _ in range(1900))
    apply_to(tmp_path, layer(directory(deep), member(f"{deep}/.wh..wh..opq")))
    apply_to(tmp_path, layer(symlink("s", deep), directory("s/" + deep)))
    apply_to(tmp_path, layer(member(".wh..wh..opq")))
    assert list(tmp_path.iterdir()) == []


def test_a_hidden_file_stays_hidden(tmp_path: Path) -> None:
    """A hard link must not bring back what a whiteout took away."""
    (tmp_path / "upper").mkdir()
    (tmp_path / "lower").mkdir()
    apply_to(tmp_path / "lower", layer(member("d/secret", data=b"s"), member("e", data=b"s")))
    for change in (
        layer(member("d/.wh..wh..opq"), hardlink("d/x", "d/secret")),
        layer(member(".wh.e"), hardlink("x", "e")),
    ):
        with pytest.raises((FileNotFoundError, InvalidLayer)):
            apply_to(tmp_path / "upper", change, [tmp_path / "lower"])


# -- any layers ---------------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b", "c"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)
_members = st.one_of(
    st.builds(lambda path, data: member(path, data=data), _paths, st.sampled_from([b"1", b"2"])),
    st.builds(
        lambda path, mode: directory(path, mode=mode), _paths, st.sampled_from([0o755, 0o1777, 0o2700])
    ),
    st.builds(
        lambda path, name: member("/".join([*path, f".wh.{name}"])), st.lists(_names, max_size=2), _names
    ),
    st.builds(lambda path: member("/".join([*path, ".wh..wh..opq"])), st.lists(_names, max_size=2)),
    st.builds(symlink, _paths, st.sampled_from(["a", "b/c", "../b", "/a/b", "."])),
    st.builds(hardlink, _paths, _paths),
)
_layers = st.lists(st.lists(_members, max_size=6), min_size=1, max_size=4)


def test_a_link_of_a_lower_layer_that_the_layer_replaces_leads_nowhere_any_more(tmp_path: Path) -> None:
    lower = layer(symlink("a", "."), symlink("b", "a"))
    upper = layer(member("b/b/a", data=b"1"), member("b/b/a", data=b"1"))
    with pytest.raises(NotADirectoryError):
        plain(tmp_path, [lower, upper])
    with pytest.raises(NotADirectoryError):
        stacked(tmp_path, [lower, upper])


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_layers)
def test_any_layers(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    tmp = tmp_path_factory.mktemp("any")
    try:
        archives = [layer(*members) for members in layers]
        try:
            expected = plain(tmp, archives)
        except (OSError, InvalidLayer):
            with pytest.raises((OSError, InvalidLayer)):
                stacked(tmp, archives)
        else:
            assert stacked(tmp, archives) == expected
    finally:
        with opened(tmp.parent) as parent:
            trees.remove(parent, os.fsencode(tmp.name))

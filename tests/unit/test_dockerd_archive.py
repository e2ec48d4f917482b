"""Archives of a container's files on plain folders: no root, no container."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longshore.dockerd.archive import changes, marks, paths
from longshore.dockerd.archive.pack import Packer
from longshore.dockerd.archive.unpack import Refused, Unpacker, Wishes
from longshore.layers import tar
from longshore.layers.errors import InvalidLayer
from longshore.layers.writer import Writer

ME = (os.getuid(), os.getgid())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").write_text("hello")
    (tmp_path / "root/link").symlink_to("/a/b")
    (tmp_path / "root/out").symlink_to("../../../..")
    (tmp_path / "secret").write_text("host")
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def pack(root: int, path: str) -> tarfile.TarFile:
    found = paths.find(root, path)
    data = io.BytesIO()
    writer = Writer(data.write)
    Packer(writer).tree(found.directory, found.name.encode(), found.shown.encode())
    writer.close()
    os.close(found.directory)
    data.seek(0)
    return tarfile.open(fileobj=data)


def member(name: str, data: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.uid, info.gid, info.size = *ME, len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(data))

    return add


def unpack(root: int, place: str, *members: Callable[[tarfile.TarFile], None], strict: bool = False) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for add in members:
            add(archive)
    data.seek(0)
    reader = tar.Reader(lambda: data.read(65536))
    Unpacker(reader, root, place, Wishes(strict, ME)).run()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/a", ["a", "a/b", "a/b/file"]),
        ("a/b/", ["b", "b/file"]),
        ("/a/b/.", [".", "./file"]),
        ("/link", ["link"]),
        ("/link/", ["link", "link/file"]),
        ("/link/file", ["file"]),
        ("/out/a/b/file", ["file"]),
    ],
)
def test_names_in_an_archive(root: int, path: str, names: list[str]) -> None:
    assert [name.rstrip("/") for name in pack(root, path).getnames()] == names


def test_statistics(root: int, tmp_path: Path) -> None:
    found = paths.find(root, "/link")
    told = paths.describe(root, "/link", found)
    assert (told["name"], told["linkTarget"]) == ("link", "/a/b")
    assert told["mode"] & 1 << 27
    assert paths.go_mode(stat.S_IFDIR | 0o1777) == 1 << 31 | 1 << 20 | 0o777
    assert paths.describe(root, "/out", paths.find(root, "/out"))["linkTarget"] == "/"
    with pytest.raises(FileNotFoundError):
        paths.find(root, "/out/secret")
    os.close(found.directory)


def test_hard_links_and_times_travel(root: int, tmp_path: Path) -> None:
    os.link(tmp_path / "root/a/b/file", tmp_path / "root/a/b/same")
    os.utime(tmp_path / "root/a/b/file", (5, 7))
    archive = pack(root, "/a/b")
    assert archive.getmember("b/same").islnk()
    assert archive.getmember("b/file").mtime == 7


def test_unpacking(root: int, tmp_path: Path) -> None:
    unpack(
        *(root, "/link"),
        member("dir", type=tarfile.DIRTYPE, mode=0o750, mtime=99),
        member("dir/new", b"x" * 100_000, mode=0o4755, mtime=42),
        member("again", type=tarfile.LNKTYPE, linkname="dir/new"),
        member("pointer", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("missing/parent", b"y"),
    )
    place = tmp_path / "root/a/b"
    assert (place / "dir/new").stat().st_size == 100_000
    assert stat.S_IMODE((place / "dir/new").stat().st_mode) == 0o4755
    assert (place / "dir").stat().st_mtime == 99
    assert (place / "again").stat().st_ino == (place / "dir/new").stat().st_ino
    assert os.readlink(place / "pointer") == "/etc/passwd"
    assert (place / "missing/parent").read_text() == "y"


@pytest.mark.parametrize("name", ["../escaped", "x/../../escaped", "/../escaped"])
def test_names_that_lead_out_are_refused(root: int, tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="is outside of"):
        unpack(root, "/a", member(name, b"evil"))
    assert not list(tmp_path.rglob("escaped"))


def test_links_end_in_the_root(root: int, tmp_path: Path) -> None:
    """The container's own, and those that the archive has just brought."""
    unpack(
        *(root, "/"),
        member("out/through", b"inside"),
        member("mine", type=tarfile.SYMTYPE, linkname="../../.."),
        member("mine/too", b"inside"),
    )
    assert (tmp_path / "root/through").read_text() == "inside"
    assert (tmp_path / "root/too").read_text() == "inside"
    assert {path.name for path in tmp_path.iterdir()} == {"root", "secret"}
    with pytest.raises((Refused, FileNotFoundError)):
        unpack(root, "/", member("hard", type=tarfile.LNKTYPE, linkname="../secret"))
    with pytest.raises(FileNotFoundError):
        unpack(root, "/", member("hard", type=tarfile.LNKTYPE, linkname="out/secret"))
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_at_the_end_is_replaced_not_followed(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/evil").symlink_to(tmp_path / "secret")
    unpack(root, "/", member("evil", b"mine"))
    assert (tmp_path / "root/evil").read_text() == "mine"
    assert (tmp_path / "secret").read_text() == "host"


def test_what_is_overwritten(root: int, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot overwrite directory"):
        unpack(root, "/a", member("b", b"file"), strict=True)
    with pytest.raises(Refused, match="cannot overwrite non-directory"):
        unpack(root, "/a/b", member("file", type=tarfile.DIRTYPE), strict=True)
    unpack(root, "/a", member("b", b"file"))
    assert (tmp_path / "root/a/b").read_text() == "file"
    unpack(root, "/a", member("b", type=tarfile.DIRTYPE, mode=0o755))
    assert (tmp_path / "root/a/b").is_dir()


def test_a_damaged_archive(root: int) -> None:
    reader = tar.Reader(iter([b"not a tar", b""]).__next__)
    with pytest.raises(InvalidLayer):
        Unpacker(reader, root, "/", Wishes()).run()


def test_changes(tmp_path: Path) -> None:
    for layer in ("upper", "lower"):
        (tmp_path / layer / "etc").mkdir(parents=True)
        (tmp_path / layer / "same").mkdir()
        for folder in ("etc", "same", "."):
            os.utime(tmp_path / layer / folder, (1, 1))
    (tmp_path / "lower/etc/old").write_text("a")
    (tmp_path / "upper/etc/old").write_text("abc")
    (tmp_path / "upper/etc/hosts").touch()  # the runtime's, to mount on
    (tmp_path / "upper/.dockerenv").touch()
    (tmp_path / "upper/new").mkdir()
    (tmp_path / "upper/new/file").write_text("12345")
    found = changes.of(str(tmp_path / "upper"), [str(tmp_path / "lower")], "trusted.overlay.")
    assert found == [
        ("/etc", changes.MODIFIED),
        ("/etc/old", changes.MODIFIED),
        ("/new", changes.ADDED),
        ("/new/file", changes.ADDED),
    ]
    assert changes.size(str(tmp_path / "upper")) == 8


def test_only_the_runtimes_places_changed(tmp_path: Path) -> None:
    (tmp_path / "lower/etc").mkdir(parents=True)
    (tmp_path / "upper/etc").mkdir(parents=True)
    (tmp_path / "upper/etc/hosts").touch()
    os.utime(tmp_path / "lower/etc", (1, 1))
    assert changes.of(str(tmp_path / "upper"), [str(tmp_path / "lower")], "trusted.overlay.") == []
    (tmp_path / "upper/etc").chmod(0o700)
    assert changes.of(str(tmp_path / "upper"), [str(tmp_path / "lower")], "trusted.overlay.") == [
        ("/etc", changes.MODIFIED)
    ]


class _Mount:
    type = "overlay"
    source = "overlay"
    target = ""

    def __init__(self, upper: Path, lower: Path) -> None:
        self.options = [f"upperdir={upper}", f"workdir={upper}-work", f"lowerdir={lower}"]


def test_marks(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    (lower / "etc").mkdir(parents=True)
    (lower / "etc").chmod(0o711)
    os.utime(lower / "etc", (1, 1))
    upper.mkdir()
    marks.make([_Mount(upper, lower)])
    assert (upper / ".dockerenv").exists()
    assert os.readlink(upper / "etc/mtab") == "/proc/mounts"
    assert stat.S_IMODE((upper / "etc/hosts").stat().st_mode) == 0o644
    assert stat.S_IMODE((upper / "etc").stat().st_mode) == 0o711
    assert changes.of(str(upper), [str(lower)], "trusted.overlay.") == []
    (upper / "etc/hostname").write_text("mine")
    marks.clear([_Mount(upper, lower)])
    assert not (upper / ".dockerenv").exists()
    assert {path.name for path in (upper / "etc").iterdir()} == {"hostname"}
    times = (upper / "etc").stat().st_mtime_ns
    marks.make([_Mount(upper, lower)])
    assert (upper / "etc/hostname").read_text() == "mine"
    assert os.readlink(upper / "etc/mtab") == "/proc/mounts"
    assert (upper / "etc").stat().st_mtime_ns == times


def test_marks_follow_no_link(tmp_path: Path) -> None:
    upper, lower, host = tmp_path / "upper", tmp_path / "lower", tmp_path / "host"
    for folder in (upper, lower / "etc", host):
        folder.mkdir(parents=True)
    (host / "hosts").touch()
    (upper / "etc").symlink_to(host)
    (upper / ".dockerenv").symlink_to(host / "new")
    with pytest.raises(OSError, match="symbolic links"):
        marks.make([_Mount(upper, lower)])
    (upper / ".dockerenv").unlink()
    marks.clear([_Mount(upper, lower)])
    marks.make([_Mount(upper, lower)])
    assert {path.name for path in host.iterdir()} == {"hosts"}

"""Bundles: their layout and modes, and that removal is atomic and never follows mounts."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from longshore.api.errors import AlreadyExists, InvalidArgument
from longshore.containerd.tasks import bundle as bundles
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.containerd.tasks.bundle import Bundle, Directories

SPEC = b'{"ociVersion":"1.0.2"}'


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    directories = Directories.below(str(tmp_path / "state"), str(tmp_path / "root"))
    directories.prepare()
    return directories


@pytest.fixture
def bundle(directories: Directories) -> Bundle:
    bundle = Bundle(directories, "ns", "c1")
    bundle.create(SPEC)
    return bundle


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_layout(bundle: Bundle) -> None:
    assert bundle.path.endswith("/state/io.containerd.runtime.v2.task/ns/c1")
    assert bundle.work_path.endswith("/root/io.containerd.runtime.v2.task/ns/c1")
    assert sorted(os.listdir(bundle.path)) == ["config.json", "log", "rootfs", "work"]
    assert Path(bundle.file("config.json")).read_bytes() == SPEC
    assert os.readlink(bundle.file("work")) == bundle.work_path
    assert stat.S_ISFIFO(os.lstat(bundle.file("log")).st_mode)


def test_modes(bundle: Bundle) -> None:
    assert mode(bundle.path) == 0o700
    assert mode(os.path.dirname(bundle.path)) == 0o711
    assert mode(bundle.file("rootfs")) == 0o711
    assert mode(bundle.work_path) == 0o711


def test_user_namespace_shares_with_its_root(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: owners.append((path, uid, gid)))
    bundle = Bundle(directories, "ns", "mapped")
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.create(json.dumps({"linux": {"uidMappings": mappings, "gidMappings": mappings}}).encode())
    assert owners == [(bundle.path, -1, 100000)]
    assert mode(bundle.path) == 0o710


def test_twice_is_refused_and_harmless(bundle: Bundle) -> None:
    with pytest.raises(AlreadyExists, match="task c1: already exists"):
        bundle.create(b"{}")
    assert Path(bundle.file("config.json")).read_bytes() == SPEC


def test_failed_creation_leaves_nothing(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "mkfifo", full)
    bundle = Bundle(directories, "ns", "c1")
    with pytest.raises(OSError, match="No space"):
        bundle.create(SPEC)
    assert os.listdir(os.path.dirname(bundle.path)) == []
    assert os.listdir(os.path.dirname(bundle.work_path)) == []


def test_removal_and_again(bundle: Bundle) -> None:
    bundle.remove()
    bundle.remove()
    assert os.listdir(os.path.dirname(bundle.path)) == []
    assert os.listdir(os.path.dirname(bundle.work_path)) == []


def test_work_of_a_lost_state_directory_is_replaced(directories: Directories) -> None:
    bundle = Bundle(directories, "ns", "c1")
    os.makedirs(bundle.work_path + "/old")
    bundle.create(SPEC)
    assert os.listdir(bundle.work_path) == []


def test_interrupted_removal_is_finished(bundle: Bundle, directories: Directories) -> None:
    hidden = os.path.join(os.path.dirname(bundle.path), ".c1")
    os.rename(bundle.path, hidden)
    assert list(directories.bundles()) == []
    assert directories.sweep() == []
    assert not os.path.exists(hidden)
    assert not os.path.exists(bundle.work_path)


def test_bundles_are_listed(bundle: Bundle, directories: Directories) -> None:
    Bundle(directories, "ns", "c2").create(SPEC)
    Bundle(directories, "other", "c1").create(SPEC)
    assert [(each.namespace, each.id) for each in directories.bundles()] == [
        ("ns", "c1"),
        ("ns", "c2"),
        ("other", "c1"),
    ]


def test_bootstrap_file(bundle: Bundle) -> None:
    bootstrap = Bootstrap(3, "unix:///run/s/x", "ttrpc")
    bundle.write_bootstrap(bootstrap)
    assert bundle.read_bootstrap() == bootstrap
    assert json.loads(Path(bundle.file("bootstrap.json")).read_bytes()) == bootstrap._asdict()


def test_legacy_address_file(bundle: Bundle) -> None:
    Path(bundle.file("address")).write_text("unix:///run/s/old")
    assert bundle.read_bootstrap() == Bootstrap(2, "unix:///run/s/old", "ttrpc")


def test_unusable_bootstrap(bundle: Bundle) -> None:
    with pytest.raises(FileNotFoundError):
        bundle.read_bootstrap()
    Path(bundle.file("bootstrap.json")).write_text("{")
    with pytest.raises(InvalidArgument):
        bundle.read_bootstrap()


def test_recorded_pids(bundle: Bundle) -> None:
    for name, text in {
        "init.pid": "7",
        "shim.pid": "5",
        "e2.pid": "9\n",
        "e1.pid": "8",
        "e3.pid": "",
        "o": "1",
    }.items():
        Path(bundle.file(name)).write_text(text)
    assert bundle.recorded_pids() == [("e1", 8), ("e2", 9), ("", 7)]


def test_files_below_an_unmounted_rootfs_go(bundle: Bundle) -> None:
    Path(bundle.file("rootfs/etc")).mkdir()
    bundle.remove()
    assert not os.path.exists(bundle.path)


def test_trees_with_mounts_are_not_removed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(bundle.file("extra")).mkdir()
    monkeypatch.setattr(bundles, "_mounted_below", lambda path: True)
    with pytest.raises(Exception, match="mounted"):
        bundle.remove()

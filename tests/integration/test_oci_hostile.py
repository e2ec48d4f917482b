"""What surrounds the runtime is against it: a full disk, links for mount points, fork bombs, nonsense for a config."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import soak
from support.bundles import Bundle, configuration
from support.process import eventually

FOREVER = "while :; do sleep 1000; done"


@contextmanager
def small(place: Path, *options: str) -> Iterator[None]:
    """A file system in memory that is full soon."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("inodes", range(3, 8))
def test_no_room_for_the_state(box: Bundle, inodes: int) -> None:
    """However far it gets: it works, or is an error that leaves nothing."""
    box.shell("echo there")
    with small(box.state, "size=64k", f"nr_inodes={inodes}"):
        done = box.run()
        if done.returncode:
            assert "no space left on device" in done.stderr and done.stdout == ""
        else:
            assert done.stdout == "there\n"
        assert os.listdir(box.state) == []
        assert not box.cgroup("pids").exists()


@pytest.mark.parametrize("filled", [65536, 61440])
def test_no_room_for_a_page_of_it(box: Bundle, filled: int) -> None:
    box.shell("echo there")
    with small(box.state, "size=64k"):
        (box.state / "filling").write_bytes(bytes(filled))
        done = box.run()
        assert done.returncode or done.stdout == "there\n"
        assert os.listdir(box.state) == ["filling"]
        assert not box.cgroup("pids").exists()


TARGETS = [mount["destination"] for mount in configuration()["mounts"]]
LINKS = [
    *((target, form) for target in TARGETS for form in ("relative", "absolute")),
    *((target, "through a parent") for target in TARGETS if "/" in target[1:]),
]


@pytest.mark.parametrize("target, form", LINKS)
def test_links_for_mount_points(box: Bundle, target: str, form: str) -> None:
    """The mount goes to what the link names inside the root, or the container doesn't start."""
    outside = box.folder / "outside"
    outside.mkdir()
    place = box.root / target[1:]
    # Where the link's own folder is a mount of the container, its image shows nothing: leave that one out.
    parents = {str(parent) for parent in Path(target).parents}
    box.config["mounts"] = [mount for mount in box.config["mounts"] if mount["destination"] not in parents]
    box.config["linux"]["maskedPaths"] = box.config["linux"]["readonlyPaths"] = []
    link = place.parent if form == "through a parent" else place
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir():
        for below in link.iterdir():
            below.unlink() if not below.is_dir() else below.rmdir()
        link.rmdir()
    link.symlink_to(str(outside) if form == "absolute" else f"../../../../../../../..{outside}")
    box.run("true")
    assert os.listdir(outside) == []
    assert str(outside) not in Path("/proc/self/mountinfo").read_text()


def test_a_fork_bomb_in_a_small_cgroup(box: Bundle) -> None:
    """One gets in, and everything out."""
    box.config["linux"]["resources"]["pids"] = {"limit": 12}
    box.create(FOREVER)
    box.do("start", "c")
    bomb = "bomb() { bomb & bomb & exec sleep 1000; }; bomb"
    box.detached("exec", "--detach", "c", "sh", "-c", bomb)
    full = box.cgroup("pids") / "pids.events"
    eventually(lambda: full.read_text() != "max 0\n")
    assert box.do("exec", "c", "echo", "in") == "in\n"
    assert len(json.loads(box.do("ps", "--format", "json", "c"))) > 2
    box.do("pause", "c")
    box.do("resume", "c")
    box.do("delete", "--force", "c")
    assert not box.cgroup("pids").exists()


JUNK: list[Any] = [
    *(None, 0, -1, 2**31, 2**32, 2**63, 2**64, 1.5, True, "", "x", "/", "..", "/proc/self/exe", "é" * 300),
    *([], {}, [None], [{}], {"a": 1}, ["x"] * 3, "a\0b", "\ud800"),
]
FULL: dict[str, Any] = {
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1}]}],
    },
    "sysctl": {"net.ipv4.ip_forward": "1"},
    "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0}],
    "resources": {
        "memory": {"limit": 1 << 26, "swap": 1 << 27, "swappiness": 10},
        "cpu": {"shares": 100, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 50},
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "devices": [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
    },
}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something could stand in a configuration."""
    if way:
        yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*way, key))


@pytest.mark.parametrize("seed", range(soak.times(12, 500)))
def test_nonsense_in_the_configuration(box: Bundle, seed: int) -> None:
    """It runs, or says in a line why not; either way nothing is left."""
    chance = random.Random(seed)
    box.shell("true")
    box.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}]
    box.config["linux"] |= json.loads(json.dumps(FULL))
    box.config["hooks"] = {"prestart": [{"path": "/bin/true", "args": ["true"], "timeout": 1}]}
    way = chance.choice([way for way in places(box.config) if way != ("linux", "cgroupsPath")])
    holder: Any = box.config
    for key in way[:-1]:
        holder = holder[key]
    holder[way[-1]] = chance.choice(JUNK)
    if way == ("linux",):
        box.config["linux"] = {"cgroupsPath": f"/{box.name}/c", "namespaces": holder["linux"]}
    done = box.run()
    assert done.returncode in (0, 1), (way, holder[way[-1]], done.stderr)
    assert (done.returncode == 0) or "level=error" in done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, (way, done.stderr)
    assert not box.state.exists() or os.listdir(box.state) == []

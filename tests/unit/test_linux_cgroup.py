"""Cgroups without a kernel: layouts from text, writes as data, and v2 on a tree of plain files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from longshore.linux.cgroup import (
    blkio,
    cpu,
    cpuset,
    devices,
    freezer,
    layout,
    manager,
    memory,
    others,
    pids,
    values,
)

V1 = b"""\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs cgroup rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = b"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
MEMBERSHIP = b"4:memory:/docker/x/y\n2:cpu,cpuacct:/a\n1:name=systemd:/\n0::/u\n"


def test_v1_layout() -> None:
    found = layout.detect(V1, MEMBERSHIP)
    assert (found.version, found.hybrid) == (1, False)
    assert found.mounts["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"
    assert found.own["memory"] == "/y"
    assert found.path("cpu", "rel") == "/sys/fs/cgroup/cpu,cpuacct/a/rel"
    assert found.path("cpu", "/abs") == "/sys/fs/cgroup/cpu,cpuacct/abs"


def test_hybrid_and_v2_layouts() -> None:
    hybrid = layout.detect(V1 + UNIFIED, MEMBERSHIP)
    assert (hybrid.version, hybrid.hybrid) == (1, True)
    assert manager.Cgroup.of(hybrid, "/c").paths[""] == "/sys/fs/cgroup/unified/c"
    pure = layout.detect(b"31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", b"0::/user\n")
    assert (pure.version, pure.hybrid) == (2, False)
    assert manager.Cgroup.of(pure, "c").paths == {"": "/sys/fs/cgroup/user/c"}


RESOURCES: dict[str, Any] = {
    "memory": {"limit": 100, "swap": 150, "reservation": 50},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0", "burst": 5},
    "pids": {"limit": 7},
    "blockIO": {
        "weight": 100,
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 5}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
    "unified": {"memory.high": "90"},
}


class Tree:
    """A v2 hierarchy of plain files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (folder / "cgroup.subtree_control").write_text("cpu\n")
        self.cgroup = manager.Cgroup({"": str(folder / "parent" / "c")}, 2)

    def make(self, *names: str, **content: str) -> Path:
        path = self.folder / "parent" / "c"
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            (path / name).touch()
        for name, text in content.items():
            (path / name.replace("__", ".")).write_text(text)
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_v2_limits_are_written(tree: Tree) -> None:
    names = [
        "pids.max",
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "memory.high",
        "cpu.weight",
        "cpu.max",
    ]
    names += ["cpu.max.burst", "cpuset.cpus", "cpuset.mems", "io.bfq.weight", "io.max", "hugetlb.2MB.max"]
    path = tree.make(*names)
    tree.cgroup.apply(RESOURCES, device_rules=False)
    written = {name: (path / name).read_text() for name in names}
    assert written == {
        "pids.max": "7",
        "memory.max": "100",
        "memory.swap.max": "50",
        "memory.low": "50",
        "memory.high": "90",
        "cpu.weight": "39",
        "cpu.max": "50000 100000",
        "cpu.max.burst": "5",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "io.bfq.weight": "100",
        "io.max": "8:0 wiops=5",
        "hugetlb.2MB.max": "9",
    } | {"io.max": written["io.max"]}
    assert written["io.max"].startswith("8:0 wiops=5")


def test_v2_controllers_are_enabled_on_the_way(tree: Tree) -> None:
    tree.cgroup.create()
    assert (tree.folder / "cgroup.subtree_control").read_text() == "+cpuset +io +memory +pids"
    assert (tree.folder / "parent" / "c").is_dir()
    assert tree.cgroup.exists()


def test_v2_figures(tree: Tree) -> None:
    tree.make(
        cpu__stat="usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
        memory__current="1000\n",
        memory__max="max\n",
        memory__stat="file 10\nanon 20\n",
        memory__events="low 0\nhigh 0\nmax 4\noom 1\noom_kill 3\n",
        pids__current="2\n",
        pids__max="max\n",
        io__stat="8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
        cpuset__cpus="0-2,5\n",
        cpuset__mems="0\n",
    )
    found = tree.cgroup.stats()
    assert found["cpu"] == {
        "usage": {"total": 10000, "kernel": 4000, "user": 6000},
        "throttling": {"periods": 3, "throttledPeriods": 2, "throttledTime": 1000},
    }
    assert found["memory"]["usage"] == {"limit": values.MAX, "usage": 1000, "max": 0, "failcnt": 4}
    assert found["memory"]["raw"] == {"file": 10, "anon": 20}
    assert found["pids"] == {"current": 2, "limit": 0}
    assert found["blkio"]["ioServicedRecursive"][1] == {"major": 8, "minor": 0, "op": "Write", "value": 4}
    assert found["cpuset"]["cpus"] == [0, 1, 2, 5]
    assert tree.cgroup.oom_kills() == 3


def test_v2_processes_of_the_whole_tree(tree: Tree) -> None:
    path = tree.make(cgroup__procs="3\n1\n")
    (path / "below").mkdir()
    (path / "below" / "cgroup.procs").write_text("2\n3\n")
    assert tree.cgroup.procs() == [1, 2, 3]
    assert tree.cgroup.procs(recursive=False) == [1, 3]


def test_v2_freezer(tree: Tree) -> None:
    path = tree.make(cgroup__freeze="0\n", cgroup__events="populated 1\nfrozen 1\n")
    assert not tree.cgroup.frozen()
    tree.cgroup.freeze()
    assert (path / "cgroup.freeze").read_text().strip() == "1"
    assert tree.cgroup.frozen()
    tree.cgroup.thaw()
    assert not tree.cgroup.frozen()


def test_v1_freezer_gives_up_thawed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezer, "_TRIES", 30)
    monkeypatch.setattr(freezer, "_PAUSE", 0)
    monkeypatch.setattr(freezer, "_freeze_v1", lambda path: False)
    (tmp_path / "freezer.state").write_text("FREEZING")
    with pytest.raises(OSError, match="unable to freeze"):
        freezer.freeze(str(tmp_path), 1)
    assert (tmp_path / "freezer.state").read_text().startswith("THAWED")


def test_v2_delete_takes_what_the_container_made(tree: Tree) -> None:
    folder = tree.folder / "parent" / "c"
    (folder / "below" / "deep").mkdir(parents=True)
    tree.cgroup.delete(0)
    assert not folder.exists()
    assert folder.parent.exists()  # not marked as ours


def test_half_made_directories_go_again(tmp_path: Path) -> None:
    blocker = tmp_path / "b"
    blocker.write_text("")
    cgroup = manager.Cgroup({"cpu": str(tmp_path / "a" / "c"), "pids": str(blocker / "c")}, 1)
    with pytest.raises(OSError):
        cgroup.create()
    assert not (tmp_path / "a").exists()


def test_v1_writes() -> None:
    assert cpu.v1(RESOURCES)[:1] == [("cpu.shares", "1024")]
    assert ("cpu.cfs_quota_us", "50000") in cpu.v1(RESOURCES)
    assert cpuset.v1(RESOURCES) == [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]
    assert pids.v1({"pids": {"limit": -1}}) == [("pids.max", "max")]
    assert pids.v1({"pids": {"limit": 0}}) == []
    assert blkio.v1(RESOURCES, {"blkio.weight"})[0] == ("blkio.weight", "100")
    assert blkio.v1(RESOURCES, set())[0] == ("blkio.bfq.weight", "100")
    assert others.hugetlb_v1(RESOURCES) == [("hugetlb.2MB.limit_in_bytes", "9")]
    assert others.net_cls_v1({"network": {"classID": 5}}) == [("net_cls.classid", "5")]
    assert others.rdma({"rdma": {"mlx5": {"hcaHandles": 3}}}) == [("rdma.max", "mlx5 hca_handle=3")]
    with pytest.raises(ValueError, match="no slashes"):
        others.unified({"unified": {"../x": "1"}})


@pytest.mark.parametrize(
    ("before", "wanted", "order"),
    [
        (100, {"limit": 200, "swap": 300}, ["memsw", "limit"]),
        (1000, {"limit": 200, "swap": 300}, ["limit", "memsw"]),
        (100, {"limit": -1}, ["memsw", "limit"]),
        (100, {"limit": 50}, ["limit"]),
    ],
)
def test_v1_limit_and_swap_in_an_order_the_kernel_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, wanted: dict[str, int], order: list[str]
) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text(str(before))
    written: list[str] = []
    monkeypatch.setattr(memory, "_write", lambda path, name, value: written.append(name))
    memory.set_limits(str(tmp_path), {"memory": wanted})
    assert ["memsw" if "memsw" in name else "limit" for name in written] == order


@pytest.mark.parametrize(
    ("controller", "asked"),
    [
        ("devices", {}),
        ("memory", {"memory": {"limit": 20_000_000}}),
        ("pids", {"pids": {"limit": 20}}),
        ("blkio", {"blockIO": {"weight": 100}}),
    ],
)
def test_v1_limits_need_their_controller(tmp_path: Path, controller: str, asked: dict[str, Any]) -> None:
    """The words are runc's. Unlimited devices in silence would be a way out."""
    cgroup = manager.Cgroup({"cpu": str(tmp_path)}, 1)
    with pytest.raises(OSError, match=f"cannot set {controller} limit: container could not join or create"):
        cgroup.apply(asked, device_rules=controller == "devices")


def test_v2_swap_excludes_memory() -> None:
    assert memory.swap_only(150, 100) == 50
    assert memory.v2({"memory": {"limit": -1}}) == [("memory.swap.max", "max"), ("memory.max", "max")]
    for both in ((50, 100), (50, 0)):
        with pytest.raises(ValueError):
            memory.swap_only(*both)


@pytest.mark.parametrize(("shares", "weight"), [(0, 0), (2, 1), (1024, 39), (262144, 10000), (1, 1)])
def test_weights(shares: int, weight: int) -> None:
    assert cpu.weight(shares) == weight


# Device rules

DENY = {"allow": False, "access": "rwm"}
FUSE = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}


def test_device_rules_as_writes() -> None:
    writes = devices.v1(devices.rules({"devices": [DENY, FUSE]}))
    assert writes[:3] == [("devices.deny", "a"), ("devices.allow", "b *:* m"), ("devices.allow", "c *:* m")]
    assert ("devices.allow", "c 10:229 rw") in writes
    assert [line for _, line in writes].index("c 10:229 rw") < [line for _, line in writes].index(
        "c 136:* rwm"
    )
    assert devices.v1(devices.rules({"devices": [{"allow": True, "access": "rwm"}]})) == [
        ("devices.allow", "a")
    ]
    assert devices.v1(devices.rules({}))[0] == ("devices.deny", "a")
    taken_back = [DENY, FUSE, {**FUSE, "allow": False, "access": "w"}]
    assert ("devices.allow", "c 10:229 r") in devices.v1(devices.rules({"devices": taken_back}))


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """A machine for the few instructions of our programs."""
    asked = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = {0: asked << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    registers = [0] * 11
    position = 0
    while True:
        code, both, offset, value = (
            program[position * 8],
            program[position * 8 + 1],
            int.from_bytes(program[position * 8 + 2 : position * 8 + 4], "little"),
            int.from_bytes(program[position * 8 + 4 : position * 8 + 8], "little"),
        )
        target, source = both & 15, both >> 4
        position += 1
        if code == 0x61:
            registers[target] = context[offset]
        elif code == 0xBC:
            registers[target] = registers[source]
        elif code in (0xB4, 0xB7):
            registers[target] = value
        elif code == 0x54:
            registers[target] &= value
        elif code == 0x74:
            registers[target] >>= value
        elif code == 0x55:
            position += offset if registers[target] != value else 0
        elif code == 0x5D:
            position += offset if registers[target] != registers[source] else 0
        else:
            assert code == 0x95
            return bool(registers[0])


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (("c", 1, 3, "rw"), True),
        (("c", 10, 229, "rw"), True),
        (("c", 10, 229, "r"), True),
        (("c", 10, 229, "rwm"), False),
        (("c", 10, 230, "r"), False),
        (("b", 8, 0, "r"), False),
        (("b", 8, 0, "m"), True),
        (("c", 136, 77, "rw"), True),
    ],
)
def test_device_program(question: tuple[str, int, int, str], answer: bool) -> None:
    assert run(devices.program(devices.rules({"devices": [DENY, FUSE]})), *question) is answer


def test_device_program_with_everything_allowed_but() -> None:
    wanted = devices.rules(
        {"devices": [{"allow": True}, {"allow": False, "type": "b", "major": 8, "access": "w"}]}
    )
    program = devices.program(wanted)
    assert run(program, "c", 10, 229, "rwm")
    assert run(program, "b", 8, 1, "r")
    assert not run(program, "b", 8, 1, "w")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root and a v2 hierarchy")
def test_the_kernel_takes_the_program() -> None:
    where = layout.detect()
    if "" not in where.mounts:
        pytest.skip("there is no v2 hierarchy")
    path = Path(where.mounts[""]) / f"o{os.getpid()}devices"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    try:
        program_fd = devices.attach(fd, devices.rules({"devices": [DENY, FUSE]}))
        devices.detach(fd, program_fd)
        os.close(program_fd)
    finally:
        os.close(fd)
        path.rmdir()

"""What a container sees, made by Debian's runc and by ours from the same config.json: it must be the same."""

from __future__ import annotations

import json
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from support import goparts, images
from support.daemon import LONGSHORE
from support.folders import short_folder
from support.leaks import Watch

Config = dict[str, Any]

# One section for each aspect; what differs from run to run by nature is taken out by `normal`.
SECTIONS = {
    "mounts": "cut -d' ' -f4- /proc/self/mountinfo",
    "status": "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/self/status",
    "limits": "cat /proc/self/limits",
    "cgroup lines": "cat /proc/self/cgroup",
    "uid map": "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups",
    "oom": "cat /proc/self/oom_score_adj",
    "hostname": "hostname; cat /proc/sys/kernel/domainname",
    "devices": r"cd /dev; stat -c '%n %A %u %g %t %T %s' * | grep -v '^pts\|^shm\|^mqueue'; ls /dev/pts",
    "links": "cd /dev; for l in *; do readlink $l; done",
    "masked": "for p in $MASKED; do stat -c '%n %A %s %t %T' $p; ls -A $p | wc -l; done; cat /proc/kcore 2>&1 | wc -c",
    "read-only": "for p in $READONLY / /sys /dev /tmp; do touch $p/x 2>&1 && echo writable $p; done; true",
    "environment": "env | sort",
    "process": "id; pwd; umask; cat /proc/1/comm",
    "descriptors": "ls -l /proc/self/fd | wc -l; ls /proc/1/fd",
    "namespaces": "for n in $(ls /ns); do [ $(readlink /proc/self/ns/$n) = $(cat /ns/$n) ] && echo $n shared; done",
    "network": "ip -o addr",
    "cgroup files": "cd /sys/fs/cgroup; for f in */*; do case $f in $FILES) echo $f $(cat $f);; esac; done",
    "sysctl": "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced",
    "times": "cat /proc/self/timens_offsets",
}
FILES = "|".join(
    f"*/{name}"
    for name in (
        *("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness", "memory.oom_control"),
        *("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "cpuset.mems"),
        *("pids.max", "devices.list", "blkio.weight", "freezer.state", "notify_on_release"),
    )
)
MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def script() -> str:
    lines = [f"echo '== {name}'; ({command}) 2>&1" for name, command in SECTIONS.items()]
    return "\n".join(line.replace("$FILES", FILES) for line in lines)


def base(name: str) -> Config:
    mounts = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
    few = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script()],
            "env": [
                "PATH=/bin",
                "TERM=xterm",
                f"MASKED={' '.join(MASKED)}",
                f"READONLY={' '.join(READONLY)}",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), few),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "view",
        "mounts": [
            {"destination": target, "type": kind, "source": source, "options": options}
            for target, kind, source, options in mounts
        ],
        "linux": {
            "cgroupsPath": f"/{name}/view",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": MASKED,
            "readonlyPaths": READONLY,
        },
    }


def plain(config: Config, folder: Path) -> None:
    """As `runc spec` writes it."""


def read_only_root(config: Config, folder: Path) -> None:
    config["root"]["readonly"] = True


def no_capabilities(config: Config, folder: Path) -> None:
    config["process"]["capabilities"] = {}
    config["process"]["noNewPrivileges"] = False


def ambient(config: Config, folder: Path) -> None:
    kinds = ("bounding", "effective", "permitted", "inheritable", "ambient")
    config["process"]["capabilities"] = {kind: ["CAP_NET_ADMIN", "CAP_CHOWN"] for kind in kinds}
    config["process"]["user"] = {"uid": 1000, "gid": 100, "additionalGids": [4, 5], "umask": 0o27}
    config["process"]["cwd"] = "/tmp"


def limited(config: Config, folder: Path) -> None:
    config["linux"]["resources"] |= {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
        "pids": {"limit": 77},
    }
    config["linux"]["resources"]["devices"] += [
        {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rw"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    config["process"]["rlimits"] += [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 1 << 20},
        {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200},
    ]
    config["process"]["oomScoreAdj"] = 321


def with_seccomp(config: Config, folder: Path) -> None:
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["personality"], "action": "SCMP_ACT_KILL"},
        ],
    }
    config["process"]["args"][-1] += "\nmkdir /tmp/made 2>&1"


def user_namespace(config: Config, folder: Path) -> None:
    config["linux"]["namespaces"] += [{"type": "user"}]
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    for path in [folder, *folder.parents]:
        path.chmod(path.stat().st_mode | 0o011)
    subprocess.run(["chown", "-Rh", "100000:100000", folder / "rootfs"], check=True)


def cgroup_namespace(config: Config, folder: Path) -> None:
    config["linux"]["namespaces"] += [{"type": "cgroup"}]


def host_namespaces(config: Config, folder: Path) -> None:
    config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid"}]
    del config["hostname"]


def more_mounts(config: Config, folder: Path) -> None:
    (folder / "source").mkdir()
    for name in ("tmpfs", "copied"):  # made by the first run otherwise, and a tmpfs takes a directory's mode
        (folder / "rootfs" / name).mkdir()
    (folder / "source" / "file").write_text("x")
    config["mounts"] += [
        {
            "destination": "/bound/deep",
            "type": "bind",
            "source": str(folder / "source"),
            "options": ["rbind", "ro"],
        },
        {
            "destination": "/etc/file",
            "type": "bind",
            "source": str(folder / "source" / "file"),
            "options": ["bind"],
        },
        {
            "destination": "/tmpfs",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noatime", "size=1m"],
        },
        {
            "destination": "/shared",
            "type": "bind",
            "source": str(folder / "source"),
            "options": ["rbind", "rshared"],
        },
        {"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "mode=700"]},
    ]
    config["linux"]["rootfsPropagation"] = "slave"


def more_devices(config: Config, folder: Path) -> None:
    config["linux"]["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/deep/loop", "type": "b", "major": 7, "minor": 0},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}


VARIANTS: list[Callable[[Config, Path], None]] = [
    *(plain, read_only_root, no_capabilities, ambient, limited, with_seccomp, user_namespace),
    *(cgroup_namespace, host_namespaces, more_mounts, more_devices),
]


@pytest.fixture
def bundle() -> Iterator[tuple[Path, str]]:
    """A bundle folder without its config.json, and a cgroup name of its own."""
    name = f"t{uuid.uuid4().hex[:8]}"
    with short_folder() as folder:
        root = images.busybox_rootfs(folder)
        (root / "ns").mkdir()
        for link in Path("/proc/self/ns").iterdir():
            (root / "ns" / link.name).write_text(str(link.readlink()))
        yield folder, name
        watch = Watch([folder], [name])
        watch.remove_cgroups()
        watch.check()


def view(runtime: list[str | Path], bundle: Path, config: Config) -> dict[str, list[str]]:
    (bundle / "config.json").write_text(json.dumps(config))
    command = [*runtime, "--root", bundle / "state", "run", "--bundle", bundle, "view"]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert "== mounts" in done.stdout, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for line in [*done.stdout.splitlines(), *(f"stderr {line}" for line in done.stderr.splitlines())]:
        if line.startswith("== "):
            section = found.setdefault(line[3:], [])
        else:
            section.append(normal(line))
    found["end"] = [f"status {done.returncode}"]
    return found


def normal(line: str) -> str:
    """Without what changes from run to run: numbers of peer groups, our own folder, inode counts."""
    line = re.sub(r"\b(shared|master|propagate_from):\d+", r"\1:N", line)
    line = re.sub(r"(/[\w.-]+)?/t[0-9a-f]{8}/view", "/CGROUP", line)
    return re.sub(r"\binode64\b,?|\binodes=\d+,?|nr_inodes=\d+,?", "", line)


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: change.__name__)
def test_same_view(bundle: tuple[Path, str], change: Callable[[Config, Path], None]) -> None:
    folder, name = bundle
    config = base(name)
    change(config, folder)
    theirs = view([goparts.path("runc")], folder, deepcopy(config))
    ours = view([LONGSHORE, "runc"], folder, deepcopy(config))
    assert theirs["end"] == ["status 0"] or change is with_seccomp
    for section in theirs:
        assert ours.get(section) == theirs[section], section
    assert ours.keys() == theirs.keys()

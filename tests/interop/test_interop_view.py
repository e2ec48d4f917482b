"""What a container sees, made by Debian's runc and by ours from the same config.json: it must be the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from support import goparts, images, soak
from support.daemon import LONGSHORE
from support.folders import short_folder
from support.leaks import Watch
from support.process import eventually

Config = dict[str, Any]
Edit = Callable[[Config, Path], None]

# One section for each aspect; what differs from run to run by nature is taken out by `normal`.
SECTIONS = {
    "mounts": "cut -d' ' -f4- /proc/self/mountinfo",
    "status": "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|Sig[^Q]|Shd|Cpus|Mems|THP)' /proc/self/status",
    "scheduling": "grep -E '^(policy|prio)' /proc/self/sched; ionice -p $$ 2>&1; cut -d' ' -f18,19,41 /proc/self/stat",
    "session": "[ $$ = 1 ] && cut -d' ' -f5-8 /proc/1/stat; cat /proc/self/timerslack_ns /proc/self/coredump_filter",
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
    "network": "ip -o addr; ip route",
    "cgroup files": "cd /sys/fs/cgroup; for f in */*; do case $f in $FILES) echo $f $(cat $f);; esac; done",
    "sysctl": "cd /proc/sys; cat net/ipv4/ip_forward kernel/shm_rmid_forced kernel/msgmax fs/mqueue/msg_max",
    "times": "cat /proc/self/timens_offsets",
}
FILES = "|".join(
    f"*/{name}"
    for name in (
        *("memory.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.swappiness", "memory.oom_control"),
        *("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "cpuset.mems"),
        *("pids.max", "devices.list", "blkio.weight", "freezer.state", "notify_on_release"),
        *("memory.memsw.limit_in_bytes", "memory.kmem.limit_in_bytes", "memory.use_hierarchy"),
        *("blkio.throttle.*_device", "blkio.bfq.weight*", "hugetlb.*limit_in_bytes", "net_cls.classid"),
        *("net_prio.ifpriomap", "cpu.rt_*_us", "cpuset.*exclusive", "cpu.idle", "cpu.cfs_burst_us"),
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


# The variants: what is changed in the configuration, as data.


def put(path: str, value: Any) -> Edit:
    """Set one value; ``linux.resources`` and lists are added to."""

    def edit(config: Config, _: Path) -> None:
        *parents, last = path.split(".")
        inner: Any = config
        for name in parents:
            inner = inner.setdefault(name, {})
        old = inner.get(last)
        if isinstance(old, list) and path != "process.args":
            inner[last] = [*old, *value]
        elif isinstance(old, dict):
            inner[last] = {**old, **value}
        else:
            inner[last] = value

    return edit


def drop(path: str) -> Edit:
    def edit(config: Config, _: Path) -> None:
        *parents, last = path.split(".")
        inner: Any = config
        for name in parents:
            inner = inner[name]
        del inner[last]

    return edit


def only(path: str, value: Any) -> Edit:
    """Replace a value whole."""

    def edit(config: Config, folder: Path) -> None:
        drop(path)(config, folder)
        put(path, value)(config, folder)

    return edit


def without(*kinds: str) -> Edit:
    """The host's namespaces of these kinds."""

    def edit(config: Config, _: Path) -> None:
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] not in kinds]
        if "uts" in kinds:
            del config["hostname"]

    return edit


def joined(kind: str, file: str) -> Edit:
    """A namespace of another process, by path."""

    def edit(config: Config, folder: Path) -> None:
        without(kind)(config, folder)
        config["linux"]["namespaces"].append({"type": kind, "path": f"/proc/HOLDER/ns/{file}"})

    return edit


def mount(target: str, kind: str, source: str, *options: str) -> Edit:
    """One mount more; a bind's source is made in the bundle: a folder with a file and a tmpfs in it."""
    entry = {"destination": target, "type": kind, "source": source, "options": list(options)}
    return put("mounts", [entry])


def bind(*options: str) -> Edit:
    return mount("/bound", "bind", "source", *options)


def remount(target: str, *options: str) -> Edit:
    """Other options for one of the usual mounts."""

    def edit(config: Config, _: Path) -> None:
        next(m for m in config["mounts"] if m["destination"] == target)["options"] = list(options)

    return edit


def together(*edits: Edit) -> Edit:
    def edit(config: Config, folder: Path) -> None:
        for each in edits:
            each(config, folder)

    return edit


def saying(command: str) -> Edit:
    """One more command in the script."""

    def edit(config: Config, _: Path) -> None:
        config["process"]["args"][-1] += f"\necho '== more'; ({command}) 2>&1; true"

    return edit


def prepared(command: str) -> Edit:
    """Run on the host, in the bundle, before."""

    def edit(_: Config, folder: Path) -> None:
        subprocess.run(["sh", "-c", command], cwd=folder, check=True)

    return edit


def reachable(_: Config, folder: Path) -> None:
    """For the root of a user namespace."""
    for path in [folder, *folder.parents]:
        path.chmod(path.stat().st_mode | 0o011)
    subprocess.run(["chown", "-Rh", "100000:100000", folder / "rootfs"], check=True)


ID_MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]
USER = [
    put("linux.namespaces", [{"type": "user"}]),
    put("linux.uidMappings", ID_MAP),
    put("linux.gidMappings", ID_MAP),
    reachable,
]
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
DEVICE = {"major": 7, "minor": 0}


def resources(**values: Any) -> list[Edit]:
    return [put(f"linux.resources.{key}", value) for key, value in values.items()]


def seccomp(default: str, *rules: dict[str, Any], **more: Any) -> Edit:
    profile = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": list(rules)}
    return put("linux.seccomp", {**profile, **more})


VARIANTS: dict[str, list[Edit]] = {
    "plain": [],
    # Namespaces.
    "user namespace": USER,
    "user namespace, read-only": [*USER, put("root.readonly", True)],
    "user namespace, another user": [
        *USER,
        put("process.user", {"uid": 1000, "gid": 100, "additionalGids": [7]}),
    ],
    "user and cgroup namespace": [*USER, put("linux.namespaces", [{"type": "cgroup"}])],
    "cgroup namespace": [put("linux.namespaces", [{"type": "cgroup"}])],
    "host namespaces": [without("network", "ipc", "uts")],
    "host network": [without("network")],
    "host ipc": [without("ipc")],
    "host uts": [without("uts")],
    "host pid": [without("pid")],
    "network of another": [joined("network", "net")],
    "ipc of another": [joined("ipc", "ipc")],
    "uts of another": [joined("uts", "uts")],
    "pid of another": [joined("pid", "pid")],
    # Mounts.
    "bind ro": [bind("bind", "ro")],
    "rbind ro": [bind("rbind", "ro")],
    "rbind rro": [bind("rbind", "rro")],
    "rbind rnosuid rnodev rnoexec": [bind("rbind", "rnosuid", "rnodev", "rnoexec")],
    "bind nosuid nodev noexec": [bind("bind", "nosuid", "nodev", "noexec")],
    "bind noatime nodiratime": [bind("bind", "noatime", "nodiratime")],
    "bind strictatime": [bind("bind", "strictatime")],
    "bind relatime": [bind("bind", "relatime")],
    "rbind rprivate": [bind("rbind", "rprivate")],
    "rbind rslave": [bind("rbind", "rslave")],
    "rbind rshared": [bind("rbind", "rshared")],
    "bind unbindable": [bind("bind", "unbindable")],
    "bind of a file": [mount("/etc/file", "bind", "source/file", "bind", "ro")],
    "bind over a file": [mount("/etc/passwd", "bind", "source/file", "rbind", "rprivate")],
    "bind to a relative place": [mount("deep/er", "bind", "source", "rbind")],
    "bind through a link": [
        prepared("ln -s /etc/../bound rootfs/link; mkdir rootfs/bound"),
        mount("/link/deeper", "bind", "source", "rbind"),
    ],
    "bind, remounted": [bind("bind"), mount("/bound", "bind", "source", "bind", "remount", "ro")],
    "bind of a file to a dangling link": [
        prepared("ln -s ../run/there rootfs/etc/link"),
        mount("/etc/link", "bind", "source/file", "bind"),
        saying("ls -l /etc/link /run | cut -c1"),
    ],
    "bind into a bind": [bind("rbind"), mount("/bound/below", "bind", "source", "rbind", "ro")],
    "tmpfs with options": [
        mount("/new", "tmpfs", "tmpfs", "nosuid", "noatime", "size=1m", "nr_inodes=99", "mode=750", "uid=3"),
    ],
    "tmpfs over a folder": [mount("/etc", "tmpfs", "tmpfs", "nodev")],
    "tmpfs ro": [mount("/new", "tmpfs", "tmpfs", "ro", "noexec")],
    "tmpfs with a copy": [mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), saying("ls -ln /etc")],
    "tmpfs sync": [mount("/new", "tmpfs", "tmpfs", "sync", "dirsync")],
    "proc with options": [remount("/proc", "nosuid", "noexec", "nodev", "hidepid=invisible")],
    "sysfs rw": [remount("/sys", "nosuid")],
    "cgroup rw": [remount("/sys/fs/cgroup", "nosuid", "noexec", "nodev", "relatime", "rw")],
    "dev ro": [remount("/dev", "nosuid", "mode=755", "ro")],
    "the host's sys": [
        mount("/host-sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"),
    ],
    "propagation private": [put("linux.rootfsPropagation", "private")],
    "propagation rslave": [put("linux.rootfsPropagation", "rslave")],
    "propagation shared": [put("linux.rootfsPropagation", "shared")],
    "read-only root": [put("root.readonly", True), mount("/tmp", "tmpfs", "tmpfs", "nodev")],
    "nothing masked": [only("linux.maskedPaths", []), only("linux.readonlyPaths", [])],
    "much masked": [
        put("linux.maskedPaths", ["/etc", "/etc/passwd", "/missing", "/tmp"]),
        put("linux.readonlyPaths", ["/bin", "/dev/shm", "/missing"]),
    ],
    "devices": [
        put(
            "linux.devices",
            [
                {
                    "path": "/dev/fuse",
                    "type": "c",
                    "major": 10,
                    "minor": 229,
                    "fileMode": 0o640,
                    "uid": 5,
                    "gid": 6,
                },
                {"path": "/dev/deep/loop", "type": "b", "major": 7, "minor": 0},
                {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
            ],
        ),
    ],
    # Resources.
    "memory": resources(memory={"limit": 64 << 20, "reservation": 32 << 20, "swappiness": 10}),
    "memory and swap": resources(memory={"limit": 64 << 20, "swap": 128 << 20}),
    "memory without an OOM killer": resources(memory={"limit": 64 << 20, "disableOOMKiller": True}),
    "memory unlimited": resources(memory={"limit": -1, "swap": -1}),
    "cpu": resources(cpu={"shares": 512, "quota": 50000, "period": 100000}),
    "cpu period alone": resources(cpu={"period": 50000}),
    "cpuset": resources(cpu={"cpus": "0", "mems": "0"}),
    "pids": resources(pids={"limit": 77}),
    "pids unlimited": resources(pids={"limit": -1}),
    "block throttling": resources(
        blockIO={
            "throttleReadBpsDevice": [{**DEVICE, "rate": 1 << 20}],
            "throttleWriteIOPSDevice": [{**DEVICE, "rate": 100}],
        }
    ),
    "device rules": resources(
        devices=[
            {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rw"},
            {"allow": True, "type": "b", "access": "m"},
            {"allow": False, "type": "c", "major": 1, "minor": 8, "access": "w"},
        ]
    ),
    "all devices": [only("linux.resources.devices", [{"allow": True, "access": "rwm"}])],
    # Process.
    "no capabilities": [only("process.capabilities", {}), put("process.noNewPrivileges", False)],
    "ambient": [
        only("process.capabilities", {kind: ["CAP_NET_ADMIN", "CAP_CHOWN"] for kind in SETS}),
        put("process.user", {"uid": 1000, "gid": 100, "additionalGids": [4, 5], "umask": 0o27}),
        put("process.cwd", "/tmp"),
    ],
    "inheritable, effective less than permitted": [
        only(
            "process.capabilities",
            {
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "permitted": ["CAP_KILL"],
                "effective": [],
                "inheritable": ["CAP_CHOWN"],
            },
        ),
    ],
    "unknown capability": [put("process.capabilities", {"bounding": ["CAP_KILL", "CAP_MAGIC"]})],
    "another user": [put("process.user", {"uid": 1234, "gid": 5678, "additionalGids": [1, 2, 3]})],
    "umask": [put("process.user", {"umask": 0o77}), saying("touch /tmp/x; stat -c %a /tmp/x")],
    "directory to be made": [put("process.cwd", "/made/by/runtime"), saying("stat -c '%a %u' . ..")],
    "directory closed to the user": [
        prepared("mkdir -m 700 rootfs/closed; chown 1000 rootfs/closed"),
        put("process.user", {"uid": 1000, "gid": 1000}),
        put("process.cwd", "/closed"),
    ],
    "environment": [put("process.env", ["A=1", "A=2", "EMPTY=", "TERM=dumb", "B=a=b", "HOME=/home/x"])],
    "limits": [
        put(
            "process.rlimits",
            [
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 1 << 20},
                {"type": "RLIMIT_NPROC", "soft": 100, "hard": 200},
                {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 2**64 - 1},
                {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192},
            ],
        ),
    ],
    "oom score": [put("process.oomScoreAdj", 321)],
    "terminal": [put("process.terminal", True), saying("tty; stty -a | head -1; ls -ln /dev/console")],
    "terminal of a size, another user": [
        put("process.terminal", True),
        put("process.consoleSize", {"height": 33, "width": 44}),
        put("process.user", {"uid": 1000, "gid": 5}),
        saying("tty; stty size; stat -c '%u %g %a' /dev/console /dev/pts/0"),
    ],
    "seccomp errno": [
        seccomp(
            "SCMP_ACT_ALLOW", {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        ),
        saying("mkdir /tmp/made"),
    ],
    "seccomp conditions": [
        seccomp(
            "SCMP_ACT_ALLOW",
            {
                "names": ["kill"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}],
            },
            {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_LOG"},
        ),
        saying("kill -0 $$; chmod 700 /tmp; kill -CONT $$"),
    ],
    "seccomp kills": [
        seccomp("SCMP_ACT_ALLOW", {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}),
        saying("mkdir /tmp/made; echo $?"),
    ],
    "sysctl": [
        put(
            "linux.sysctl",
            {
                "net.ipv4.ip_forward": "1",
                "kernel.shm_rmid_forced": "1",
                "kernel.msgmax": "9000",
                "fs.mqueue.msg_max": "20",
            },
        ),
    ],
    "sysctl with slashes": [
        put("linux.sysctl", {"net/ipv4/conf/lo/rp_filter": "2"}),
        saying("cat /proc/sys/net/ipv4/conf/lo/rp_filter"),
    ],
    "annotations and a long name": [
        put("annotations", {"org.example": "x" * 1000}),
        put("hostname", "a" * 63),
    ],
    "script by its path": [
        prepared("printf '#!/bin/sh\\nexec /bin/sh -c \"$*\"\\n' >rootfs/run; chmod 755 rootfs/run"),
        lambda config, _: config["process"].update(args=["/run", config["process"]["args"][-1]]),
    ],
    # What 1.1 doesn't know and we do.
    "domain, scheduler, priority, personality": [
        put("domainname", "example.org"),
        put("process.scheduler", {"policy": "SCHED_BATCH", "nice": 5}),
        put("process.ioPriority", {"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
        put("linux.personality", {"domain": "LINUX32"}),
        saying("uname -m"),
    ],
}

# In `make test`; the others in `make soak`.
ALWAYS = (
    *("plain", "user namespace", "cgroup namespace", "network of another", "rbind rro", "tmpfs with options"),
    *("memory", "device rules", "ambient", "terminal of a size, another user", "seccomp errno", "devices"),
)

# variant: {section: why it differs}. A difference that is gone fails, too.
DIFFERENT: dict[str, dict[str, str]] = {
    "bind over a file": {
        "environment": "a malformed line of passwd is no entry; runc takes it for one without a home"
    },
    "bind to a relative place": {"errors": "runc's second warning prints a structure of its own"},
    "propagation shared": {"mounts": "the root is to be shared, and is: runc obeys since 1.2"},
    "domain, scheduler, priority, personality": {
        "hostname": "domainname is of specification 1.1, runc 1.1 of 1.0.2",
        "scheduling": "scheduler and ioPriority likewise",
        "more": "personality likewise",
    },
}


@contextmanager
def bundle() -> Iterator[tuple[Path, str]]:
    """A bundle folder without its config.json, and a cgroup name of its own."""
    name = f"t{uuid.uuid4().hex[:8]}"
    with short_folder() as folder:
        root = images.busybox_rootfs(folder)
        (root / "ns").mkdir()
        for link in Path("/proc/self/ns").iterdir():
            (root / "ns" / link.name).write_text(str(link.readlink()))
        (folder / "source/inner").mkdir(parents=True)
        (folder / "source/file").write_text("x")
        watch = Watch([folder], [name])
        try:
            yield folder, name
        except BaseException:
            watch.remove_cgroups()
            raise
        watch.check(removing_cgroups=True)


@contextmanager
def holder() -> Iterator[str]:
    """A process in namespaces of its own."""
    process = subprocess.Popen(
        ["unshare", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "sleep", "infinity"]
    )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        eventually(lambda: children.exists() and children.read_text().strip())
        yield children.read_text().strip()
    finally:
        process.kill()
        process.wait()


def output(command: list[str | Path], *, terminal: bool) -> tuple[str, int]:
    """What a runtime's container says on both streams, and the status."""
    if not terminal:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )
        return f"{done.stdout}== errors\n{done.stderr}", done.returncode
    master, slave = os.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    said = bytearray()

    def read() -> None:
        try:
            while part := os.read(master, 65536):
                said.extend(part)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    status = process.wait(120)
    reader.join(60)
    os.close(master)
    return said.decode().replace("\r\n", "\n"), status


def view(runtime: list[str | Path], edits: list[Edit], other: str) -> dict[str, list[str]]:
    """The sections of one container's output, and what it left in its root."""
    with bundle() as (folder, name):
        config = base(name)
        for edit in edits:
            edit(config, folder)
        text = json.dumps(config).replace("HOLDER", other)
        (folder / "config.json").write_text(text)
        command = [*runtime, "--root", folder / "state", "run", "--bundle", folder, "view"]
        said, status = output(command, terminal=config["process"].get("terminal", False))
        assert "== mounts" in said, said
        found: dict[str, list[str]] = {}
        for line in said.splitlines():
            if line.startswith("== "):
                section = found.setdefault(line[3:], [])
            else:
                section.append(normal(line.replace(str(folder), "/BUNDLE")))
        found["end"] = [f"status {status}"]
        found["left"] = sorted(left(folder / "rootfs"))
        return found


def left(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        if folder == str(root / "bin"):
            continue
        for name in (*folders, *names):
            path = Path(folder, name)
            info = path.lstat()
            yield f"{path.relative_to(root)} {info.st_mode:o} {info.st_uid} {info.st_gid}"


def normal(line: str) -> str:
    """Without what changes from run to run: numbers of peer groups, our own cgroup, inode counts."""
    line = re.sub(r"\b(shared|master|propagate_from):\d+", r"\1:N", line)
    line = re.sub(r'^time="[^"]*" ', "", line)
    line = re.sub(r"(/[\w.-]+)?/t[0-9a-f]{8}/view", "/CGROUP", line)
    return re.sub(r"\binode64\b,?|\binodes=\d+,?", "", line)


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with holder() as pid:
        yield pid


def chosen() -> list[str]:
    return [name for name in VARIANTS if soak.SOAK or name in ALWAYS]


def test_the_table() -> None:
    assert len(VARIANTS) >= 60
    assert set(ALWAYS) | set(DIFFERENT) <= set(VARIANTS)


@pytest.mark.parametrize("name", chosen())
def test_same_view(other: str, name: str) -> None:
    edits = VARIANTS[name]
    theirs = view([goparts.path("runc")], deepcopy(edits), other)
    ours = view([LONGSHORE, "runc"], deepcopy(edits), other)
    assert ours.keys() == theirs.keys()
    assert theirs["end"] == ["status 0"]
    different = {section for section in theirs if ours[section] != theirs[section]}
    expected = set(DIFFERENT.get(name, {}))
    for section in different - expected:
        assert ours[section] == theirs[section], section
    assert different == expected


# What neither takes; None: with the same words.

REFUSED: dict[str, tuple[Edit, str | None]] = {
    "hostname without uts": (only("linux.namespaces", [{"type": "mount"}, {"type": "pid"}]), None),
    "sysctl of the hostname": (put("linux.sysctl", {"kernel.hostname": "x"}), None),
    "sysctl of the host": (put("linux.sysctl", {"vm.swappiness": "1"}), None),
    "relative directory": (put("process.cwd", "relative"), None),
    "no arguments": (put("process.args", []), None),
    "program missing": (put("process.args", ["missing"]), None),
    "program missing by path": (put("process.args", ["/bin/missing"]), None),
    "program is a folder": (put("process.args", ["/bin"]), None),
    "program not executable": (put("process.args", ["/etc/passwd"]), None),
    "unknown limit": (put("process.rlimits", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), None),
    "namespace twice": (put("linux.namespaces", [{"type": "pid"}]), None),
    "unknown namespace": (put("linux.namespaces", [{"type": "magic"}]), None),
    "bind source missing": (mount("/x", "bind", "/nowhere/x", "bind"), None),
    "root missing": (put("root.path", "nowhere"), None),
    "unknown propagation": (put("linux.rootfsPropagation", "bad"), None),
    "Intel RDT": (put("linux.intelRdt", {"l3CacheSchema": "L3:0=f"}), None),
    "SELinux label": (put("process.selinuxLabel", "system_u:object_r:x:s0"), None),
    "seccomp listener by default": (
        seccomp("SCMP_ACT_NOTIFY", listenerPath="/x"),
        None,
    ),
    "seccomp without its listener": (
        seccomp("SCMP_ACT_ALLOW", {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}),
        None,
    ),
    "seccomp listener of write": (
        seccomp("SCMP_ACT_ALLOW", {"names": ["write"], "action": "SCMP_ACT_NOTIFY"}, listenerPath="/x"),
        None,
    ),
    "seccomp listener away": (
        seccomp("SCMP_ACT_ALLOW", {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}, listenerPath="/x"),
        None,
    ),
    "unknown seccomp action": (seccomp("SCMP_ACT_MAGIC"), None),
    "mount in proc": (
        mount("/proc/sys/x", "tmpfs", "tmpfs"),
        "refused by name; runc fails to make the folder",
    ),
    "file over a folder": (
        mount("/tmp", "bind", "source/file", "bind"),
        "runc adds the flags of its mount",
    ),
    "unified on version 1": (resources(unified={"memory.max": "1"})[0], "ours names the step"),
    "too few shares": (resources(cpu={"shares": 1})[0], "another step is named"),
    "swappiness of 101": (resources(memory={"swappiness": 101})[0], "another step is named"),
    "unmapped user": (
        together(*USER, put("process.user", {"uid": 70000})),
        None,
    ),
    "unknown filesystem": (mount("/x", "nofs", "nofs"), "fsopen says it, not mount"),
    "cpu not there": (resources(cpu={"cpus": "77"})[0], "runc adds what it wrote"),
    "huge pages without the controller": (
        resources(hugepageLimits=[{"pageSize": "2MB", "limit": 4 << 20}])[0],
        "runc names the stage of its start at which it noticed",
    ),
    "mount label": (
        put("linux.mountLabel", "system_u:object_r:x:s0"),
        "refused first; the kernel refuses runc's mount",
    ),
    "device type": (put("linux.devices", [{"path": "/dev/x", "type": "z"}]), "ours names the device"),
    "relative hook": (
        put("hooks", {"prestart": [{"path": "bin/x"}]}),
        "refused when read; runc tries to run it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_same_refusal(name: str) -> None:
    edit, difference = REFUSED[name]
    said = []
    for runtime in ([goparts.path("runc")], [LONGSHORE, "runc"]):
        with bundle() as (folder, cgroup):
            config = base(cgroup)
            edit(config, folder)
            (folder / "config.json").write_text(json.dumps(config))
            words, status = output(
                [*runtime, "--root", folder / "state", "run", "--bundle", folder, "v"], terminal=False
            )
            assert status == 1, words
            lines = [normal(line.replace(str(folder), "/BUNDLE")) for line in words.splitlines()]
            said.append([line for line in lines if "level=error" in line])
    theirs, ours = said
    assert (ours == theirs) == (difference is None), said

"""What containers see of themselves, below our dockerd and below Debian's, for the same `docker run` options.

Mounts, capabilities, limits, devices, environment, namespaces, masked paths,
what may be done. `EXPECTED` lists where they differ, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from support.containerview import Shown, View, differences
from support.dockerd import BUSYBOX, AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd

FOLDER: Final = "/run/view"
NONE: Final = ("--network", "none")

SETS: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "alone": NONE,
    "host-network": ("--network", "host"),
    "hostname": (*NONE, "--hostname", "web", "--domainname", "example.test"),
    "terminal": (*NONE, "--tty"),
    "user-number": (*NONE, "--user", "1000:1001"),
    "user-groups": (*NONE, "--user", "1000", "--group-add", "44", "--group-add", "1"),
    "environment": (*NONE, "--env", "A=1", "--env", "PATH=/bin:/opt", "--workdir", "/opt/made"),
    "read-only": (*NONE, "--read-only", "--tmpfs", "/tmp"),
    "binds": (
        *NONE,
        "--volume",
        f"{FOLDER}/a:/a",
        "--volume",
        f"{FOLDER}/b:/a/b:ro",
        "--volume",
        f"{FOLDER}/missing/x:/m",
    ),
    "bind-file": (*NONE, "--volume", f"{FOLDER}/file:/etc/file:ro"),
    "volumes": (*NONE, "--volume", "data:/data", "--volume", "/anonymous", "--volume", "data:/again:ro"),
    "mounts": (
        *(*NONE, "--mount", f"type=bind,source={FOLDER}/a,target=/a,readonly"),
        *(
            "--mount",
            "type=volume,source=data,target=/v,readonly",
            "--mount",
            "type=tmpfs,target=/t,tmpfs-size=8192",
        ),
    ),
    "tmpfs": (*NONE, "--tmpfs", "/t:size=1m,mode=1770,exec", "--tmpfs", "/u:ro,noatime"),
    "shm-size": (*NONE, "--shm-size", "2m"),
    "capabilities": (*NONE, "--cap-add", "NET_ADMIN", "--cap-add", "SYS_ADMIN", "--cap-drop", "MKNOD"),
    "no-capabilities": (*NONE, "--cap-drop", "ALL"),
    "few-capabilities": (*NONE, "--cap-drop", "ALL", "--cap-add", "CHOWN", "--user", "7"),
    "no-new-privileges": (*NONE, "--security-opt", "no-new-privileges"),
    "unconfined": (*NONE, "--security-opt", "seccomp=unconfined"),
    "unmasked": (*NONE, "--security-opt", "systempaths=unconfined"),
    "memory": (*NONE, "--memory", "64m", "--memory-reservation", "32m", "--memory-swappiness", "10"),
    "memory-swap": (*NONE, "--memory", "64m", "--memory-swap", "100m", "--oom-score-adj", "500"),
    "cpu": (*NONE, "--cpus", "0.5", "--cpu-shares", "300", "--cpuset-cpus", "0"),
    "cpu-quota": (*NONE, "--cpu-period", "50000", "--cpu-quota", "20000", "--pids-limit", "77"),
    "ulimits": (*NONE, "--ulimit", "nofile=1024:2048", "--ulimit", "core=0", "--ulimit", "nproc=500:600"),
    "device": (*NONE, "--device", "/dev/zero:/dev/nothing:r", "--device-cgroup-rule", "c 7:* rmw"),
    "sysctls": (*NONE, "--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.shmmax=1000000"),
    "pid-host": (*NONE, "--pid", "host"),
    "ipc-host": (*NONE, "--ipc", "host"),
    "ipc-none": (*NONE, "--ipc", "none"),
    "ipc-shareable": (*NONE, "--ipc", "shareable"),
    "uts-host": (*NONE, "--uts", "host"),
    "cgroup-private": (*NONE, "--cgroupns", "private"),
    "init": (*NONE, "--init"),
    "hosts": ("--add-host", "db:10.1.2.3", "--add-host", "gate:host-gateway", "--dns", "10.9.9.9"),
    "shared-bind": (*NONE, "--volume", f"{FOLDER}/shared:/s:rshared"),
    "slave-bind": (*NONE, "--volume", f"{FOLDER}/shared:/s:rslave"),
}

# What is refused, or fails: the status and the words are compared.
REFUSED: Final = (
    "--memory 1m",
    "--memory-swap 100m",
    "--cpus 1000",
    "--cpus 0.5 --cpu-period 5000",
    "--cpuset-cpus 77",
    "--oom-score-adj 5000",
    "--oom-kill-disable",
    "--blkio-weight 5",
    "--device-read-bps /dev/nope:1mb",
    "--device /dev/nope",
    "--gpus all",
    "--storage-opt size=1g",
    "--cap-add NONSENSE",
    "--security-opt nonsense",
    "--security-opt no-new-privileges=perhaps",
    "--workdir relative",
    "--pid container:nobody",
    "--ipc container:nobody",
    "--ipc nonsense",
    "--volumes-from nobody",
    "--network host --sysctl net.ipv4.ip_forward=1",
    "--user ghost",
    "--user 0:ghosts",
    "--group-add ghosts",
    "--mount type=bind,src=/nope,dst=/x",
    "--mount type=tmpfs,dst=/x,tmpfs-mode=9",
    "--volume /a:/",
    "--volume /a:/b:nonsense",
    "--volume x:/y:rshared",
    "--volume /a:/x --volume /b:/x",
    "--volume /proc:/x:rshared",
    "--tmpfs /x:nonsense",
    "--tmpfs /x --volume /a:/x",
    "--shm-size 0",
    "--init=false",
    "--restart always",
    "--ulimit nofile=20:10",
    "--uts nonsense",
    "--cgroupns nonsense",
    "--userns nonsense",
)


def prepare(docker: AnyDockerd) -> None:
    """The host's folders that the sets name; one of them is a shared mount."""
    script = f"mkdir -p {FOLDER}/a/b {FOLDER}/b {FOLDER}/shared && echo x > {FOLDER}/file"
    script += f" && mount -t tmpfs s {FOLDER}/shared && mount --make-shared {FOLDER}/shared"
    docker.host.run(["sh", "-c", script])


class Expected(NamedTuple):
    """A difference that is meant. `sets` says where ("" is everywhere), `lines` which (as regular expressions)."""

    sets: str
    section: str
    lines: tuple[str, ...]
    why: str


EXPECTED: Final = (
    Expected(
        "",
        "mounts",
        (r"[-+] / r[ow],relatime( master| shared)? overlay",),
        "Debian's dockerd mounts the root on the host, where it is a slave of it; ours is mounted by the shim, in the"
        " container's own namespace. With a shared bind ours is shared itself, as the specification asks.",
    ),
    Expected(
        "volumes|mounts",
        "mounts",
        (r"[-+] /(again|anonymous|data|v) r[ow],relatime( master)? tmpfs .*",),
        "Debian's dockerd makes its data root a shared mount, and what is bound from there a slave of it; ours leaves"
        " the host's mounts as they are.",
    ),
    Expected(
        "",
        "mounts",
        (r"\+ /proc/interrupts rw,nosuid tmpfs .*", r"\+ /sys/devices/virtual/powercap .*"),
        "20.10 doesn't mask them yet; 28 does, against side channels.",
    ),
)


WORDS: Final[dict[str, str]] = {}


def unexpected(name: str, found: dict[str, list[str]]) -> dict[str, list[str]]:
    """What no entry of EXPECTED explains."""
    rest = {}
    for section, lines in found.items():
        rules = [rule for rule in EXPECTED if rule.section == section and _applies(rule, name)]
        patterns = [pattern for rule in rules for pattern in rule.lines]
        if left := [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in patterns)]:
            rest[section] = left
    return rest


def _applies(rule: Expected, name: str) -> bool:
    return not rule.sets or name in rule.sets.split("|")


def views(docker: AnyDockerd) -> dict[str, View]:
    prepare(docker)
    shown = Shown(docker)
    found = {name: shown.view(options, name) for name, options in SETS.items()}
    return found | {words: refusal(docker, words) for words in REFUSED}


def refusal(docker: AnyDockerd, words: str) -> View:
    done = docker("run", "--rm", *words.split(), BUSYBOX, "true", check=False)
    said = re.sub(r"[0-9a-f]{64}", "ID", done.stderr).replace("runc create failed: ", "")
    # The CLI's own complaint about a wait that ended with the container comes or doesn't.
    lines = [line for line in said.splitlines() if not line.startswith("time=")]
    return {"said": [f"status {done.returncode}", *lines]}


@pytest.fixture(scope="module")
def theirs() -> Iterator[dict[str, View]]:
    with Dockerd("real") as docker:
        found = views(docker)
    yield found


@pytest.fixture(scope="module")
def ours() -> Iterator[dict[str, View]]:
    with OurDockerd() as docker:
        found = views(docker)
    yield found


@pytest.mark.parametrize("name", SETS)
def test_a_container_sees_the_same(name: str, theirs: dict[str, View], ours: dict[str, View]) -> None:
    assert "refused" not in ours[name], ours[name]
    assert len(ours[name]) > 15
    assert unexpected(name, differences(theirs[name], ours[name])) == {}


@pytest.mark.parametrize("words", REFUSED)
def test_refusals_are_the_same(words: str, theirs: dict[str, View], ours: dict[str, View]) -> None:
    if words in WORDS:
        assert ours[words] != theirs[words], f"no longer different: {WORDS[words]}"
    else:
        assert ours[words] == theirs[words]


def test_every_expected_difference_is_there(theirs: dict[str, View], ours: dict[str, View]) -> None:
    """A list that says more than is true would hide the next difference."""
    seen = {name: differences(theirs[name], ours[name]) for name in SETS}
    for rule in EXPECTED:
        lines = [
            line
            for name, found in seen.items()
            if _applies(rule, name)
            for line in found.get(rule.section, [])
        ]
        assert any(re.fullmatch(rule.lines[0], line) for line in lines), rule.why


def test_privileged_and_named_containers() -> None:
    """What Debian's runc can't do on a host that withholds capabilities from us, and what takes two containers."""
    with OurDockerd() as docker:
        prepare(docker)
        view = Shown(docker).view((*NONE, "--privileged"), "privileged")
        assert "Seccomp:\t0" in view["status"]
        assert any(line.startswith("/sys rw") for line in view["mounts"])
        assert not any(line.startswith(("/proc/kcore", "/proc/sys ")) for line in view["mounts"])
        assert {"mount 0", "mknod 0"} <= set(view["rights"])
        assert any(" a *:* rwm" in line for line in view["limits-of-cgroup"])
        docker(
            "run",
            "-d",
            "--name",
            "db",
            "--ipc",
            "shareable",
            "--volume",
            "shared:/data",
            BUSYBOX,
            "sleep",
            "300",
        )
        joined = ("--pid", "container:db", "--ipc", "container:db", "--network", "container:db")
        script = "ls /dev/shm /data; hostname; cat /proc/1/comm; ls /proc/self/ns -l"
        docker("exec", "db", "sh", "-c", "echo 1 > /dev/shm/there; echo 2 > /data/too")
        done = docker("run", "--rm", *joined, "--volumes-from", "db:ro", BUSYBOX, "sh", "-c", script)
        assert {"there", "too", "sleep"} <= set(done.stdout.split())
        for kind in ("ipc", "net"):
            assert docker("exec", "db", "readlink", f"/proc/self/ns/{kind}").stdout.strip() in done.stdout
        refused = docker(
            *("run", "--rm", "--volumes-from", "db:ro", BUSYBOX, "touch", "/data/x"),
            check=False,
        )
        assert "Read-only file system" in refused.stderr

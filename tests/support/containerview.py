"""What a container sees of itself, said by a script that runs in it, and made comparable between two daemons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from support.dockerd import BUSYBOX, AnyDockerd

View = dict[str, list[str]]

# Each section begins with a line "== NAME". Programs are busybox's.
PROBE: Final = """
say() { echo "== $1"; }
say status; grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|CoreDumping|NoNewPrivs)' /proc/self/status
say limits; tail -n +2 /proc/self/limits
say environment; env
say place; pwd
say host; hostname; cat /proc/sys/kernel/domainname
say oom; cat /proc/self/oom_score_adj
say mounts; cat /proc/self/mountinfo
say cgroup; cat /proc/self/cgroup
say devices; ls -lA /dev | tail -n +2
say sysctl; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax
say etc; cat /etc/hosts /etc/hostname; ls -A /etc
say limits-of-cgroup
for name in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
  memory/memory.swappiness memory/memory.oom_control cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us \
  pids/pids.max cpuset/cpuset.cpus cpuset/cpuset.mems devices/devices.list blkio/blkio.throttle.read_bps_device; do
  echo "$name $(cat /sys/fs/cgroup/$name 2>&1 | tr '\\n' ' ')"
done
say namespaces; for kind in cgroup ipc mnt net pid uts user; do echo $kind $(readlink /proc/self/ns/$kind); done
say masked
for name in /proc/kcore /proc/keys /proc/timer_list /proc/scsi /sys/firmware /proc/sysrq-trigger /proc/acpi; do
  echo "$name $(ls -ldA $name 2>&1 | cut -c1-10)"
done
echo b > /proc/sysrq-trigger; echo "sysrq $?"; echo 1 > /proc/sys/kernel/core_pattern; echo "sys $?"
say rights; touch /x; echo "root $?"; mknod /n c 1 3; echo "mknod $?"; mount -t tmpfs t /tmp; echo "mount $?"
unshare -m true; echo "unshare $?"; chown 1:1 /tmp; echo "chown $?"; echo x > /dev/shm/x; echo "shm $?"
echo x > /dev/null; echo "null $?"; hostname changed; echo "hostname $?"
say process; cat /proc/1/comm; test -t 1; echo "terminal $?"; ls /proc/self/fd | wc -l
"""


class Shown:
    """A daemon, and what must be replaced in what its containers say."""

    def __init__(self, docker: AnyDockerd) -> None:
        self._docker = docker
        kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts", "user")
        script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
        links = docker.host.run(["sh", "-c", script]).stdout.split()
        self._host = dict.fromkeys(links, "host")

    def view(self, options: Sequence[str], name: str) -> View:
        """Of one container with these options; removed afterwards."""
        done = self._docker("run", "--name", name, *options, BUSYBOX, "sh", "-c", PROBE, check=False)
        id = self._docker.inspect(name, ".Id")
        self._docker("rm", "--force", "--volumes", name)
        if done.returncode and "== status" not in done.stdout:
            return {"refused": [self._plain(done.stderr.splitlines()[0], id)]}
        return self._sections(done.stdout.replace("\r\n", "\n").splitlines(), id)

    def _sections(self, lines: Iterable[str], id: str) -> View:
        found: View = {}
        current: list[str] = []
        for line in lines:
            if line.startswith("== "):
                current = found.setdefault(line[3:], [])
            else:
                current.append(self._plain(line, id))
        found["mounts"] = mounts(found.get("mounts", []))
        found["devices"] = [_device(line) for line in found.get("devices", [])]
        found["limits-of-cgroup"] = [_sorted(line) for line in found.get("limits-of-cgroup", [])]
        found["environment"] = sorted(found.get("environment", []))
        return found

    def _plain(self, line: str, id: str) -> str:
        for link, word in self._host.items():
            line = line.replace(link, word)
        line = re.sub(r"\b[a-z]+:\[\d+\]", "own", line)
        line = line.replace(id, "ID").replace(id[:12], "ID12").replace(f"/{self._docker.cgroup}/", "/PARENT/")
        line = re.sub(r"\b[0-9a-f]{64}\b", "OTHER", line)
        return re.sub(r"172\.\d+\.\d+\.\d+", "ADDRESS", line)


def mounts(lines: Iterable[str]) -> list[str]:
    """mountinfo without numbers and without what differs by where a daemon keeps its files; by place."""
    found = []
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, kind, more = left.split(), right.split()[0], right.split()
        place, flags = fields[4], fields[5]
        peers = " ".join(word.partition(":")[0] for word in fields[6:])
        source = "" if kind in ("overlay", "tmpfs", "ext4", "cgroup") else more[1]
        shown = "" if kind == "overlay" else ",".join(sorted(set(more[2].split(",")) - {"inode64"}))
        found.append(" ".join(word for word in (place, flags, peers, kind, source, shown) if word))
    return sorted(found)


def _device(line: str) -> str:
    """Mode, owner, number, name: no times."""
    words = line.split()
    numbers = words[4:6] if line[0] in "bc" else []
    name = words[8 if line[0] not in "bc" else 9 :]
    return " ".join([words[0], *words[2:4], *numbers, *name])


def _sorted(line: str) -> str:
    """Rules of the device cgroup, in any order."""
    name, _, rest = line.partition(" ")
    return f"{name} {rest.strip()}"


def differences(theirs: Mapping[str, list[str]], ours: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """By section: lines of theirs with "-", of ours with "+"."""
    found = {}
    for section in sorted({*theirs, *ours}):
        before, after = theirs.get(section, []), ours.get(section, [])
        lines = [f"- {line}" for line in before if line not in after]
        lines += [f"+ {line}" for line in after if line not in before]
        if lines:
            found[section] = lines
    return found

"""A benchmark's private host, and the certainty that nothing of it stays.

The measuring process runs as a child in mount, network and pid namespaces of
its own, with /run on a tmpfs as on a real machine. When it ends, however it
ends, the pid namespace ends with it and so do all daemons, shims and
containers. What namespaces don't hold is in one folder of /tmp and in cgroups
whose names begin with the folder's: the parent removes those, and then looks
for leftovers as tests do.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.measure import CGROUPS, family
from support import goparts, leaks

INSIDE = "LONGSHORE_BENCH_INSIDE"
# The first process is the shell: it reaps whom the daemons leave behind.
SETUP = 'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && { "$0" "$@"; exit $?; }'
SIDES = ("ours", "go")
_DISK = 8 << 30  # bytes, of which only those are taken that are written


def folder() -> Path:
    """Of this run, inside."""
    return Path(os.environ[INSIDE])


def name(side: str, what: str = "") -> str:
    """For a cgroup, and a containerd namespace, which is a directory of the one cgroup tree."""
    return f"{folder().name}{what}-{side}"


@contextmanager
def disk() -> Iterator[Path]:
    """A folder on a file system of its own: ext4 with a journal, in a file of /tmp.

    Without a journal ext4 passes over each inode that was deleted in the last five minutes, one by one, whenever it
    makes a file: who comes later pays for what others removed. Where none can be mounted the folder is on /tmp's.
    """
    place = folder() / "disk"
    place.mkdir()
    mounted = False
    try:
        _mount_ext4(folder() / "disk.ext4", place)
        mounted = True
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"bench: no file system of its own, and so on that of /tmp: {error}", file=sys.stderr)
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(
                ("umount", place), check=True
            )  # and with it, or with the namespace, the loop device goes
        (folder() / "disk.ext4").unlink()


def _mount_ext4(file: Path, place: Path) -> None:
    with file.open("wb") as made:
        made.truncate(_DISK)
    # All is written now: nothing of it is left for the kernel to do later.
    subprocess.run(
        ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", file), check=True
    )
    subprocess.run(("mount", "-o", "loop", file, place), check=True)
    device = f"/dev/loop{os.minor(place.stat().st_dev)}"
    # Else the page cache holds everything twice; not every file system can.
    subprocess.run(("losetup", "--direct-io=on", device), check=False)


def run_inside(arguments: Sequence[str]) -> int:
    """``python -m bench`` with these arguments in a private host; its exit status."""
    compile_all()
    # Not by tempfile, whose names may begin or end with "_": this one becomes part of containerd namespaces.
    place = Path(f"/tmp/ls-bench-{secrets.token_hex(4)}")
    place.mkdir(mode=0o700)
    environment = {**os.environ, INSIDE: str(place), "TMPDIR": str(place)}
    command = [
        *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *("--propagation", "private", "sh", "-c", SETUP, sys.executable, "-m", "bench", *arguments),
    ]
    try:
        with _patient() as ended:
            child = subprocess.Popen(command, env=environment)
            ended.append(child)
            status = child.wait()
    finally:
        shutil.rmtree(place, ignore_errors=True)
        remove_cgroups(place.name)
    watch = leaks.Watch([place], _groups(place.name))
    watch.check()
    return status


def compile_all() -> None:
    """Byte code of what was edited since: an installed package has it, and no start waits for the compiler.

    What doesn't compile is whatever imports it to tell.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    roots = [goparts.PROJECT / root for root in ("protos", "services", "clients", "runtime")]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *map(str, roots)],
        check=False,
        stdout=subprocess.DEVNULL,
    )


@contextmanager
def _patient() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ctrl-C is the child's to answer, which has it too; SIGTERM is passed on to the measuring process."""
    children: list[subprocess.Popen[bytes]] = []

    def end(*_: object) -> None:
        for child in children:  # unshare, the shell, the measuring process
            os.kill(family(child.pid)[:3][-1], signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, end)
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _groups(prefix: str) -> list[str]:
    """The names of cgroups at the top of some hierarchy that begin with `prefix`."""
    tops = [CGROUPS, *(entry for entry in CGROUPS.iterdir() if entry.is_dir())]
    return sorted({entry.name for top in tops for entry in top.iterdir() if entry.name.startswith(prefix)})


def remove_cgroups(prefix: str) -> None:
    """runc leaves the parents that it made, and a run that was broken off its containers'."""
    tops = [CGROUPS, *(entry for entry in CGROUPS.iterdir() if entry.is_dir() and not entry.is_symlink())]
    for group in (entry for top in tops for entry in top.iterdir() if entry.name.startswith(prefix)):
        below = (path for path in group.rglob("*") if path.is_dir())
        for path in (*sorted(below, key=lambda found: len(found.parts), reverse=True), group):
            try:
                path.rmdir()
            except OSError:
                pass  # what is still there will be told of

"""The life of a container, as a table; and the file that remembers it.

    created --start--> running --pause--> paused --resume--> running
       |                  |                  |
       +---- process ends +---- (killed) ----+---> stopped --delete--> (gone)

Whatever decides a state is in this file. A state is never stored: it follows
from facts that can't be stale (does init live, is the start FIFO still there,
is the cgroup frozen). A verb on a state that its row of `ALLOWED` lacks is an
error.

``<root>/<id>/``      0711
    cgroup            a link to nowhere that names the cgroup, from before it is made: should create be killed
    state.json        written once, before init is let go; only ``update`` rewrites it
    exec.fifo         there from create until start (init reads a byte from it)
    report.fifo       the same; init holds it until execve, and writes to it why it failed
    seccomp.bpf       the compiled filter, for exec
"""

from __future__ import annotations

import os
import stat
import sys
import time

from longshore.linux import files, processes
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import codec
from longshore.oci.errors import InvalidId, NotFound, NotRunning, RuntimeFailure, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.oci.cli import Call

CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"

ALLOWED = {
    "start": (CREATED,),
    "kill": (CREATED, RUNNING, PAUSED),
    "exec": (CREATED, RUNNING),
    "pause": (CREATED, RUNNING),
    "resume": (PAUSED,),
    "update": (CREATED, RUNNING, PAUSED),
    "events": (CREATED, RUNNING, PAUSED),
    "ps": (CREATED, RUNNING, PAUSED, STOPPED),
    "delete": (STOPPED, CREATED),
    "force delete": (STOPPED, CREATED, RUNNING, PAUSED),
}

_REFUSALS = {
    ("start", RUNNING): "cannot start an already running container",
    ("start", PAUSED): "cannot start a container in the paused state",
    ("start", STOPPED): "cannot start a container that has stopped",
    ("exec", STOPPED): "cannot exec in a stopped container",
    ("exec", PAUSED): "cannot exec in a paused container (use --ignore-paused to override)",
    ("resume", CREATED): "container not paused",
    ("resume", RUNNING): "container not paused",
    ("resume", STOPPED): "container not paused",
    ("pause", PAUSED): "container not running",
    ("update", STOPPED): "container not running",
}

HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

STATE_FILE = "state.json"
START_FIFO = "exec.fifo"
REPORT_FIFO = "report.fifo"
FILTER_FILE = "seccomp.bpf"
CGROUP_LINK = "cgroup"
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def validate_id(container_id: str) -> None:
    """InvalidId unless the id is one that names a directory below the root."""
    if not container_id:
        raise InvalidId("container id cannot be empty")
    if container_id in (".", "..") or not _ID_CHARACTERS.issuperset(container_id) or len(container_id) > 1024:
        raise InvalidId("invalid container ID format")


class Damaged(RuntimeFailure):
    """The state file can't be read, or is another runtime's."""


class State:
    """What is known of one container; `status` asks the kernel each time."""

    def __init__(self, root: str, record: dict[str, Any]) -> None:
        self.root = root
        self.record = record

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def directory(self) -> str:
        """Its directory below the runtime's root."""
        return f"{self.root}/{self.id}"

    @property
    def bundle(self) -> str:
        return str(self.record["bundle"])

    @property
    def rootfs(self) -> str:
        return str(self.record["rootfs"])

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.record.get("annotations") or {}
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The parts of config.json that later verbs need: process defaults, hooks, namespaces."""
        found: dict[str, Any] = self.record["config"]
        return found

    @property
    def process(self) -> processes.ProcessId:
        """Identity of init."""
        record = self.record
        return processes.ProcessId(
            record["boot_id"], record["init_process_pid"], record["init_process_start"]
        )

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup(self.record["cgroup_paths"], self.record["cgroup_version"])

    @property
    def cgroup_paths(self) -> dict[str, str]:
        """Controller -> directory ("" is the v2 hierarchy)."""
        paths: dict[str, str] = self.record["cgroup_paths"]
        return paths

    @property
    def status(self) -> str:
        """created, running, paused or stopped."""
        if not self.process.alive():
            return STOPPED
        if self.cgroup.frozen():
            return PAUSED
        return CREATED if os.path.exists(f"{self.directory}/{START_FIFO}") else RUNNING

    @property
    def pid(self) -> int:
        """Init's pid, 0 when it has ended."""
        return self.process.pid if self.process.alive() else 0

    def require(self, verb: str) -> str:
        """The status, if it allows the verb; else WrongState or NotRunning with runc's words."""
        status = self.status
        if status in ALLOWED[verb]:
            return status
        if verb == "delete":
            raise WrongState(f"cannot delete container {self.id} that is not stopped: {status}")
        if verb == "events":
            raise NotRunning(f"container with id {self.id} is not running")
        if status == STOPPED and (verb, status) not in _REFUSALS:
            raise NotRunning()
        raise (NotRunning if status == STOPPED else WrongState)(_REFUSALS[verb, status])

    def show(self, status: str = "") -> dict[str, Any]:
        """The fields that ``runc state`` and ``runc list`` print."""
        status = status or self.status
        shown = {
            "ociVersion": self.record["oci_version"],
            "id": self.id,
            "pid": 0 if status == STOPPED else self.process.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.record["created"],
        }
        if self.annotations:
            shown["annotations"] = self.annotations
        shown["owner"] = ""
        return shown

    def for_hooks(self, status: str) -> bytes:
        """The state as hooks read it on their standard input."""
        return codec.dumps(self.outline(status)).encode(errors="surrogateescape")

    def outline(self, status: str) -> dict[str, Any]:
        """The state as the specification has it."""
        shown = {
            "ociVersion": self.record["oci_version"],
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
        }
        if status != STOPPED:
            shown["pid"] = self.record["init_process_pid"]
        if self.annotations:
            shown["annotations"] = self.annotations
        return shown

    def save(self) -> None:
        """Write state.json (whole or not at all)."""
        data = codec.dumps(self.record).encode(errors="surrogateescape")
        files.replace_file(f"{self.directory}/{STATE_FILE}", data)


def load(root: str, container_id: str) -> State:
    """The state of a container; NotFound if there is none."""
    validate_id(container_id)
    root = os.path.abspath(root)
    try:
        data = files.read_bounded(f"{root}/{container_id}/{STATE_FILE}", 16 << 20)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound() from None
    try:
        record = codec.loads(data)
    except ValueError as error:
        raise Damaged(f"{root}/{container_id}/{STATE_FILE}: {error}") from None
    if not isinstance(record, dict) or "boot_id" not in record:
        raise Damaged(f"{root}/{container_id}/{STATE_FILE} was not written by longshore")
    return State(root, record)


def note_cgroup(directory: str, cgroup: Cgroup) -> None:
    """Leave word of a cgroup that is about to be made; a link, as that is one system call."""
    try:
        os.symlink(codec.dumps([cgroup.version, cgroup.paths]), f"{directory}/{CGROUP_LINK}")
    except OSError:
        pass  # longer than a path may be


def noted_cgroup(directory: str) -> Cgroup | None:
    """The cgroup of `note_cgroup`, for a directory whose state.json can't be read."""
    try:
        version, paths = codec.loads(os.readlink(f"{directory}/{CGROUP_LINK}"))
        return Cgroup(paths, version)
    except (OSError, ValueError, TypeError):
        return None


def load_all(root: str) -> list[State]:
    """All containers below a root, by id; directories without a state of ours are left out."""
    found = []
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            found.append(load(root, name))
        except (NotFound, InvalidId, Damaged):
            continue
    return found


def remove_directory(path: str) -> None:
    """Remove a state directory and its (flat) contents."""
    try:
        for name in os.listdir(path):
            below = f"{path}/{name}"
            if stat.S_ISDIR(os.lstat(below).st_mode):
                remove_directory(below)
            else:
                os.unlink(below)
        os.rmdir(path)
    except FileNotFoundError:
        pass


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits, trailing zeros cut, as Go writes it."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


FLAGS: dict[str, str] = {}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc state ID``"""
    sys.stdout.write(codec.dumps(load(call.root, call.arguments[0]).show(), "  "))
    return 0

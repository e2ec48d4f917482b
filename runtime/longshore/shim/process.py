"""The records of the shim's one table: containers, and their processes (init and execs)."""

from __future__ import annotations

from longshore.api.errors import FailedPrecondition, NotFound
from longshore.shim import states
from longshore.shim.direct import Direct
from longshore.shim.events import Journal
from longshore.shim.loop import Lock, Promise
from longshore.shim.oom import OomWatch
from longshore.shim.reaper import Exit
from longshore.shim.runtime import Image, Runtime, Settings
from longshore.shim.stdio import Stdio, Streams


class Process:
    """One process. `exec_id` is "" for a container's init; `spec` is OCI JSON of an exec."""

    def __init__(self, container: str, exec_id: str, streams: Streams, spec: bytes = b"") -> None:
        self.container = container
        self.exec_id = exec_id
        self.streams = streams
        self.spec = spec
        self.state: states.State = "created"
        self.pid = 0
        self.stdio: Stdio | None = None
        self.lock = Lock()
        # While a worker starts it, its end waits: the start's event comes first.
        self.starting = False
        # How it ended, as soon as that is known; `exited` follows when it is published.
        self.ending: Exit | None = None
        self.exited: Promise[Exit] = Promise()

    @property
    def id(self) -> str:
        """The name events give it."""
        return self.exec_id or self.container

    @property
    def active(self) -> bool:
        """Whether its exit event is still to come."""
        return self.starting or self.state in ("running", "paused")

    def check(self, verb: states.Verb) -> None:
        """Raise when `verb` is not allowed now."""
        states.check(states.EXEC if self.exec_id else states.INIT, self.state, verb)

    def check_killable(self) -> None:
        """Raise unless there is a process to signal: after its end the pid may be another's."""
        if self.ending is not None or self.state == "stopped":
            raise NotFound("process already finished: not found")
        if not self.pid:
            raise FailedPrecondition("process not created: failed precondition")
        self.check("kill")


class Container:
    """One container."""

    def __init__(self, id: str, bundle: str, settings: Settings, runtime: Runtime, init: Process) -> None:
        self.id = id
        self.bundle = bundle
        self.settings = settings
        self.runtime = runtime
        self.init = init
        self.execs: dict[str, Process] = {}
        self.journal = Journal(bundle)
        self.pausing = False
        self.own_pid_namespace = True
        self.cgroup_paths: dict[str, str] = {}
        self.cgroup_version = 1
        # For a container whose start and delete need no worker.
        self.direct: Direct | None = None
        self.mounted = False
        # For one that shall come out of a checkpoint: until `start` it has no process.
        self.image: Image | None = None
        self.oom: OomWatch | None = None

    def process(self, exec_id: str) -> Process:
        """A process by its exec id, "" for init. Raises NotFound."""
        if not exec_id:
            return self.init
        try:
            return self.execs[exec_id]
        except KeyError:
            raise NotFound(f"process does not exist {exec_id}: not found") from None

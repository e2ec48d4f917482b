"""A container's life played through in the zygote, so that its children find everything warm.

A page that a forked shim writes to is its own from then on. Most such writes
are no data: the interpreter specialises bytecode that it runs for the first
dozen times, fills its cache of type attributes, makes what is made lazily.
Done once here, before the fork, all shims share the result: this halves a
shim's memory, and its first calls are as fast as later ones.

Nothing of this reaches outside: the workers are stand-ins with canned answers,
processes are numbers, the daemon is the other end of an abstract socket, and
files lie in a directory that is gone at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from longshore.api import typeurls
from longshore.api.errors import NotFound
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.services.exits.v1.exits_pb2 import ReportResponse
from longshore.api.types.runc.options.oci_pb2 import Options
from longshore.shim import http2
from longshore.shim.daemon import Client
from longshore.shim.exits import ExitStream
from longshore.shim.loop import Loop, Promise
from longshore.shim.reaper import Reaper
from longshore.shim.service import SERVICES, Service
from longshore.shim.tasks import Tasks
from longshore.shim.workers import Workers
from longshore.ttrpc.client import Calls

# Bytecode is specialised after eight runs, and its last instructions some dozens later.
ROUNDS = 40
# How many calls of a life must end well; two are meant to find nothing.
SUCCEED = 13
# Never a real process: the reaper is told of its end by us.
INIT, EXEC = 0x7FFFFFF0, 0x7FFFFFF1
_PREFIX = "longshore-"
_NAME = re.compile(r"longshore-\d+-[0-9a-f]{12}")
_SETTLED = 60.0  # seconds: longer than it takes to lock a folder that was just made
_PROCESS = b'{"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}'


def rehearse(directory: str) -> list[str]:
    """Play `ROUNDS` lives in a folder below `directory`; what failed, though it should not. Raises OSError."""
    _sweep(directory)
    folder = f"{directory}/{_PREFIX}{os.getpid()}-{os.urandom(6).hex()}"
    os.mkdir(folder, 0o700)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        os.mkfifo(f"{folder}/out")
        stage = _Stage(folder)
        try:
            for _ in range(ROUNDS):
                stage.play()
                stage.work()
        finally:
            stage.close()
        return stage.failures
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _sweep(directory: str) -> None:
    """Remove what rehearsals left that were killed: old, ours, and locked by nobody (their lock went with them)."""
    for entry in os.scandir(directory):
        if not _NAME.fullmatch(entry.name):
            continue
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _SETTLED:
                continue
            fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(fd)


def _nothing() -> None:
    return None


class _StandIns(Workers):
    """Answers at once what the next worker would."""

    answer: Any = None

    def run(
        self, function: Callable[[], Any], *, stdio: Sequence[int] = (), keep: Sequence[int] = ()
    ) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        promise.resolve(self.answer)
        return promise


class _Stage:
    """A shim with a daemon's two sockets, both in our hands."""

    def __init__(self, folder: str) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self._folder = folder
        self._loop = Loop()
        self._loop.on_error = lambda _: None
        self._workers = _StandIns(self._loop)
        self._reaper = Reaper(self._workers)
        self._real_workers = Workers(self._loop)
        self._reaper_of_real = Reaper(self._real_workers)
        self._grpc = socket.socket(socket.AF_UNIX)
        self._grpc.bind("")
        self._grpc.listen()
        self._events = ExitStream(self._loop)
        self._events.begin(self._grpc.getsockname()[1:].decode(), "rehearsal")
        self._stream, _ = self._grpc.accept()
        self._stream.sendall(http2.frame(http2.SETTINGS, 0, 0, b""))
        self._tasks = Tasks(self._loop, self._workers, self._reaper)
        self._tasks.begin(self._events, "rehearsal", folder)
        self._service = Service(self._tasks, lambda: None)

    def play(self) -> None:
        """One life of a container, over a connection of its own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        client = Client(self._loop, self._service, theirs, _nothing)
        calls = Calls()

        def call(method: str, request: Message) -> None:
            _, data = calls.send(SERVICES[1], method, request.SerializeToString())
            ours.sendall(data)
            self._turn()
            if method != "Wait":
                answer(method, ours.recv(65536))

        def answer(method: str, data: bytes) -> None:
            for result in calls.receive(data):
                if result.error is not None and not isinstance(result.error, NotFound):
                    self.failures.append(f"{method}: {result.error.message}")
                self.answered += result.error is None

        self._workers.answer = {
            "pid": INIT,
            "oom_file": "",
            "own_pid_namespace": True,
            "cgroup_paths": {},
            "cgroup_version": 1,
            "directory": "",
        }
        options = typeurls.pack(Options())
        call(
            "Create",
            api.CreateTaskRequest(id="c", bundle=self._folder, stdout=f"{self._folder}/out", options=options),
        )
        self._workers.answer = None
        call("Connect", api.ConnectRequest(id="c"))
        call("Wait", api.WaitRequest(id="c"))
        call("Start", api.StartRequest(id="c"))
        call("State", api.StateRequest(id="c"))
        request = api.ExecProcessRequest(id="c", exec_id="e", stdout=f"{self._folder}/out")
        request.spec.value = _PROCESS
        call("Exec", request)
        self._workers.answer = EXEC
        call("Start", api.StartRequest(id="c", exec_id="e"))
        call("State", api.StateRequest(id="c", exec_id="e"))
        call("Wait", api.WaitRequest(id="c", exec_id="e"))
        self._end(EXEC)
        call("Delete", api.DeleteRequest(id="c", exec_id="e"))
        self._workers.answer = [INIT]
        call("Pids", api.PidsRequest(id="c"))
        self._workers.answer = ("x", b"")
        call("Stats", api.StatsRequest(id="c"))
        call("State", api.StateRequest(id="nobody"))
        call("Kill", api.KillRequest(id="c", signal=0))
        self._end(INIT)
        self._workers.answer = None
        call("Delete", api.DeleteRequest(id="c"))
        self._acknowledge()
        ours.close()
        self._turn()
        del client

        if self.answered % SUCCEED:
            self.failures.append(f"{self.answered % SUCCEED} calls of {SUCCEED} succeeded")

    def work(self) -> None:
        """One worker, a real one."""
        done = self._real_workers.run(_nothing)
        while not done.done:
            self._loop.turn()
        while self._real_workers.busy:
            self._reaper_of_real.reap()

    def close(self) -> None:
        self._events.retire()
        for end in (self._stream, self._grpc):
            end.close()
        self._loop.close()

    def _turn(self) -> None:
        self._loop.later(0, lambda: None)
        self._loop.turn()

    def _end(self, pid: int) -> None:
        """What `reap` does on SIGCHLD, with a made-up child."""
        self._reaper.reap()
        self._reaper.ended(pid, 0)
        self._turn()

    def _acknowledge(self) -> None:
        """Take what the stream sent, and acknowledge all of it."""
        self._stream.recv(1 << 20)
        answer = ReportResponse(acknowledged=1 << 40).SerializeToString()
        message = b"\0" + len(answer).to_bytes(4, "big") + answer
        self._stream.sendall(http2.frame(http2.DATA, 0, http2.STREAM, message))
        self._turn()

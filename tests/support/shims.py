"""A shim driven over ttrpc as a containerd drives it, without any containerd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from longshore.api import typeurls
from longshore.api.events import task_pb2
from longshore.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams, BootstrapResult
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from longshore.api.types.event_pb2 import Envelope
from longshore.api.types.runc.options.oci_pb2 import Options
from longshore.ttrpc.client import Client
from longshore.ttrpc.server import Connection

SHIM = Path(sys.executable).parent / "containerd-shim-longshore-v1"
CAPABILITIES = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_NET_RAW"]
EVENTS: dict[str, type[Message]] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        task_pb2.TaskCreate,
        task_pb2.TaskStart,
        task_pb2.TaskExit,
        task_pb2.TaskDelete,
        task_pb2.TaskOOM,
        task_pb2.TaskExecAdded,
        task_pb2.TaskExecStarted,
        task_pb2.TaskPaused,
        task_pb2.TaskResumed,
        task_pb2.TaskCheckpointed,
    )
}


def until(condition: Callable[[], Any], within: float = 60.0) -> Any:
    """Wait for a condition that another process makes true; its value."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within} s")
        time.sleep(0.005)
    return value


class Events:
    """A daemon's ttrpc socket that takes Forward calls: (topic, message) in order of arrival."""

    def __init__(self, path: Path) -> None:
        self.envelopes: list[Envelope] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)

    def all(self) -> list[tuple[str, Any]]:
        return [
            (
                envelope.topic,
                EVENTS[typeurls.type_name(envelope.event) or envelope.event.type_url].FromString(
                    envelope.event.value
                ),
            )
            for envelope in self.envelopes
        ]

    def topics(self, container: str = "") -> list[str]:
        return [topic for topic, event in self.all() if not container or event.container_id == container]

    def wait(self, topic: str, **fields: Any) -> Any:
        """The first event of the topic whose fields are these."""

        def find() -> Any:
            for seen, event in self.all():
                if seen == topic and all(getattr(event, name) == value for name, value in fields.items()):
                    return event
            return None

        return until(find)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[peer], daemon=True)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        connection = Connection()
        with peer, suppress(ConnectionError):  # a killed shim resets it
            while data := peer.recv(65536):
                for call in connection.receive(data):
                    self.envelopes.append(ForwardRequest.FromString(call.payload).envelope)
                    connection.respond(call.stream, Empty())
                peer.sendall(connection.take())


class Task:
    """One container in a shim: its bundle, its FIFOs, and the calls about it."""

    def __init__(self, folder: Path, id: str, namespace: str, rootfs: Path, options: Options) -> None:
        self.id = id
        self.folder = folder / id
        self.bundle = self.folder / "bundle"
        (self.bundle / "rootfs").mkdir(parents=True)
        self.namespace = namespace
        self.options = options
        self.spec: dict[str, Any] = spec(rootfs, f"/{namespace}/{id}")
        self.address = ""
        self.version = 3

    def write_spec(self) -> None:
        (self.bundle / "config.json").write_text(json.dumps(self.spec))

    def connect(self, timeout: float = 60) -> Client:
        return Client(self.address, timeout=timeout)

    def call(self, method: str, request: Message, reply: type[Any] = Empty, timeout: float = 60) -> Any:
        with self.connect(timeout) as client:
            return client.call(f"containerd.task.v{self.version}.Task", method, request, reply)

    def fifo(self, name: str) -> Path:
        path = self.folder / name
        os.mkfifo(path)
        return path

    def create(self, **fields: Any) -> int:
        self.write_spec()
        request = api.CreateTaskRequest(id=self.id, bundle=str(self.bundle), **fields)
        request.options.CopyFrom(typeurls.pack(self.options))
        pid: int = self.call("Create", request, api.CreateTaskResponse).pid
        return pid

    def start(self, exec_id: str = "") -> int:
        pid: int = self.call("Start", api.StartRequest(id=self.id, exec_id=exec_id), api.StartResponse).pid
        return pid

    def wait(self, exec_id: str = "") -> int:
        answer = self.call("Wait", api.WaitRequest(id=self.id, exec_id=exec_id), api.WaitResponse)
        status: int = answer.exit_status
        return status

    def delete(self, exec_id: str = "") -> Any:
        return self.call("Delete", api.DeleteRequest(id=self.id, exec_id=exec_id), api.DeleteResponse)

    def state(self, exec_id: str = "") -> Any:
        return self.call("State", api.StateRequest(id=self.id, exec_id=exec_id), api.StateResponse)

    def kill(self, signal: int = 9, *, exec_id: str = "", all: bool = False) -> None:
        self.call("Kill", api.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=all))

    def exec(self, exec_id: str, args: Sequence[str], *, terminal: bool = False, **fields: Any) -> None:
        process = {**self.spec["process"], "args": list(args), "terminal": terminal}
        request = api.ExecProcessRequest(id=self.id, exec_id=exec_id, terminal=terminal, **fields)
        request.spec.type_url = typeurls.PROCESS
        request.spec.value = json.dumps(process).encode()
        self.call("Exec", request)

    def shutdown(self) -> None:
        with suppress(OSError):
            self.call("Shutdown", api.ShutdownRequest(id=self.id))

    def clean(self) -> None:
        """Whatever state it is in: gone."""
        with suppress(Exception):
            self.kill(9)
            self.wait()
        with suppress(Exception):
            self.delete()
        self.shutdown()


class Shims:
    """Starts shims as a foreign containerd does, by the executable, and takes their events."""

    def __init__(self, folder: Path, namespace: str, rootfs: Path, runtime: str = "") -> None:
        self.folder = folder
        self.namespace = namespace
        self.rootfs = rootfs
        self.runtime = runtime
        self.address = folder / "c.sock"
        self.tasks: list[Task] = []
        self.events = Events(folder / "c.sock.ttrpc")

    def __enter__(self) -> Shims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.tasks:
            task.clean()
        until(lambda: not any(self._alive(task) for task in self.tasks))
        self.events.close()

    def bundle(self, id: str, *, group: str = "") -> Task:
        """A task with a bundle and no shim yet."""
        options = Options(binary_name=self.runtime, root=str(self.folder / "runtime"))
        task = Task(self.folder, id, self.namespace, self.rootfs, options)
        if group:
            task.spec["annotations"] = {"io.containerd.runc.v2.group": group}
        task.write_spec()
        self.tasks.append(task)
        return task

    def start(self, id: str, *, group: str = "") -> Task:
        """A task whose shim is running."""
        task = self.bundle(id, group=group)
        params = BootstrapParams(
            instance_id=id, namespace=self.namespace, socket_dir=str(self.folder / "s")
        ).SerializeToString()
        task.address = BootstrapResult.FromString(self.run(task, "start", stdin=params).stdout).address
        return task

    def run(self, task: Task, command: str, *flags: str, stdin: bytes = b"", check: bool = True) -> Any:
        words = ["-namespace", self.namespace, "-address", str(self.address), "-id", task.id, *flags]
        environment = {**os.environ, "TTRPC_ADDRESS": f"{self.address}.ttrpc", "MAX_SHIM_VERSION": "2"}
        environment["XDG_RUNTIME_DIR"] = str(self.folder)
        return subprocess.run(
            [str(SHIM), *words, command],
            cwd=task.bundle,
            env=environment,
            input=stdin,
            capture_output=True,
            check=check,
            timeout=120,
        )

    def _alive(self, task: Task) -> bool:
        if not task.address:
            return False
        try:
            task.connect().close()
        except OSError:
            return False
        return True


def spec(rootfs: Path, cgroup: str) -> dict[str, Any]:
    """A small OCI spec: private namespaces, no network, /proc and /dev."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sleep", "1000"],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        },
        "root": {"path": str(rootfs)},
        "hostname": "testing",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }


@contextmanager
def reader(path: Path) -> Iterator[int]:
    """The reading end of a FIFO, open before its writer."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    try:
        yield fd
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """Everything until the writers have gone."""
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)

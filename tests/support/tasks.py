"""Containers and tasks over a daemon's gRPC socket, one rpc per method: for tests of what ctr doesn't let one do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api import typeurls
from longshore.api.events import task_pb2
from longshore.api.services.containers.v1 import containers_pb2, containers_pb2_grpc
from longshore.api.services.events.v1 import events_pb2, events_pb2_grpc
from longshore.api.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from longshore.api.types.event_pb2 import Envelope
from longshore.api.types.task.task_pb2 import Process

_KINDS = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        task_pb2.TaskCreate,
        task_pb2.TaskStart,
        task_pb2.TaskExit,
        task_pb2.TaskDelete,
        task_pb2.TaskExecAdded,
        task_pb2.TaskExecStarted,
        task_pb2.TaskPaused,
        task_pb2.TaskResumed,
    )
}


def spec(rootfs: Path | str, arguments: Sequence[str], cgroup: str) -> dict[str, Any]:
    """A plain runtime spec: root, its own mount, pid, ipc, uts and network namespaces."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": list(arguments),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                kind: ["CAP_KILL", "CAP_SYS_CHROOT"] for kind in ("bounding", "effective", "permitted")
            },
        },
        "root": {"path": str(rootfs)},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["mode=755", "size=65536k"],
            },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")],
        },
    }


class Api:
    """``with Api(daemon.address, daemon.namespace) as api``; every call has a deadline of 60 s."""

    def __init__(self, address: Path | str, namespace: str) -> None:
        self.namespace = namespace
        self.metadata = (("containerd-namespace", namespace),)
        self.channel = grpc.insecure_channel(f"unix:{address}", options=[("grpc.enable_retries", 0)])
        self.containers = containers_pb2_grpc.ContainersStub(self.channel)
        self.tasks = tasks_pb2_grpc.TasksStub(self.channel)

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def _call(self, method: Any, request: Any) -> Any:
        return method(request, metadata=self.metadata, timeout=60)

    def container(
        self,
        id: str,
        rootfs: Path | str,
        *arguments: str,
        runtime: str = "io.containerd.runc.v2",
        options: Any = None,
    ) -> None:
        """A record whose task will run `arguments` in `rootfs`."""
        document = json.dumps(spec(rootfs, arguments, f"/{self.namespace}/{id}")).encode()
        record = containers_pb2.Container(
            id=id,
            runtime=containers_pb2.Container.Runtime(name=runtime),
            spec=AnyMessage(type_url=typeurls.SPEC, value=document),
        )
        if options is not None:
            record.runtime.options.CopyFrom(typeurls.pack(options))
        self._call(self.containers.Create, containers_pb2.CreateContainerRequest(container=record))

    def remove_container(self, id: str) -> None:
        self._call(self.containers.Delete, containers_pb2.DeleteContainerRequest(id=id))

    def create(self, id: str, **fields: Any) -> int:
        return int(self._call(self.tasks.Create, tasks_pb2.CreateTaskRequest(container_id=id, **fields)).pid)

    def start(self, id: str, exec_id: str = "") -> int:
        return int(self._call(self.tasks.Start, tasks_pb2.StartRequest(container_id=id, exec_id=exec_id)).pid)

    def run(self, id: str, rootfs: Path | str, *arguments: str, **options: Any) -> int:
        """Container, task, start; the pid."""
        self.container(id, rootfs, *arguments, **options)
        self.create(id)
        return self.start(id)

    def exec(self, id: str, exec_id: str, *arguments: str) -> int:
        """Add a process and start it; its pid."""
        process = spec("/", arguments, "")["process"]
        request = tasks_pb2.ExecProcessRequest(
            container_id=id,
            exec_id=exec_id,
            spec=AnyMessage(type_url=typeurls.PROCESS, value=json.dumps(process).encode()),
        )
        self._call(self.tasks.Exec, request)
        return self.start(id, exec_id)

    def kill(self, id: str, signal: int = 9, exec_id: str = "", *, all: bool = False) -> None:
        request = tasks_pb2.KillRequest(container_id=id, exec_id=exec_id, signal=signal, all=all)
        self._call(self.tasks.Kill, request)

    def wait(self, id: str, exec_id: str = "") -> int:
        """The exit status."""
        answer = self._call(self.tasks.Wait, tasks_pb2.WaitRequest(container_id=id, exec_id=exec_id))
        return int(answer.exit_status)

    def waiting(self, id: str, exec_id: str = "") -> Any:
        """A Wait under way; ``.result().exit_status``."""
        request = tasks_pb2.WaitRequest(container_id=id, exec_id=exec_id)
        return self.tasks.Wait.future(request, metadata=self.metadata, timeout=60)

    def get(self, id: str, exec_id: str = "") -> Process:
        found: Process = self._call(
            self.tasks.Get, tasks_pb2.GetRequest(container_id=id, exec_id=exec_id)
        ).process
        return found

    def list(self) -> list[Process]:
        return list(self._call(self.tasks.List, tasks_pb2.ListTasksRequest()).tasks)

    def delete(self, id: str) -> int:
        """Delete the task; its exit status."""
        return int(self._call(self.tasks.Delete, tasks_pb2.DeleteTaskRequest(container_id=id)).exit_status)

    def delete_exec(self, id: str, exec_id: str) -> int:
        request = tasks_pb2.DeleteProcessRequest(container_id=id, exec_id=exec_id)
        return int(self._call(self.tasks.DeleteProcess, request).exit_status)

    def end(self, id: str) -> None:
        """Kill, wait, delete task and container."""
        waiting = self.waiting(id)
        try:
            self.kill(id)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        waiting.result()
        self.delete(id)
        self.remove_container(id)


class TaskEvents:
    """What a subscriber (or one who replays from `since`) hears about tasks of one namespace."""

    def __init__(self, api: Api, since: int | None = None) -> None:
        self._namespace = api.namespace
        headers = api.metadata if since is None else (*api.metadata, ("longshore-since-sequence", str(since)))
        filters = [f"namespace=={api.namespace},topic~=|^/tasks/|"]
        self._stream = events_pb2_grpc.EventsStub(api.channel).Subscribe(
            events_pb2.SubscribeRequest(filters=filters), metadata=headers
        )
        received = dict(self._stream.initial_metadata())  # registered from here on
        self.head = int(received["longshore-sequence"])
        self._seen: list[tuple[str, Any]] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for envelope in self._stream:
                with self._news:
                    self._seen.append((envelope.topic, decode(envelope)))
                    self._news.notify_all()
        except grpc.RpcError:
            pass

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join()

    def __enter__(self) -> TaskEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def of(self, id: str, topic: str = "") -> list[Any]:
        """Events of a container so far."""
        with self._news:
            return [
                event
                for kind, event in self._seen
                if event.container_id == id and (not topic or kind == f"/tasks/{topic}")
            ]

    def until(self, id: str, topic: str, count: int = 1, within: float = 60) -> list[Any]:
        """Wait for `count` events of `topic`; all of them."""
        with self._news:
            done = self._news.wait_for(lambda: len(self._matching(id, topic)) >= count, within)
        found = self.of(id, topic)
        assert done, f"{len(found)} of {count} {topic} of {id} in {self._seen}"
        return found

    def _matching(self, id: str, topic: str) -> list[Any]:
        return [e for kind, e in self._seen if e.container_id == id and kind == f"/tasks/{topic}"]

    def topics(self, id: str) -> Iterator[str]:
        with self._news:
            return iter(
                [kind.removeprefix("/tasks/") for kind, event in self._seen if event.container_id == id]
            )


def decode(envelope: Envelope) -> Any:
    """The task event inside."""
    return _KINDS[typeurls.type_name(envelope.event)].FromString(envelope.event.value)

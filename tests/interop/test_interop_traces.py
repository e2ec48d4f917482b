"""Ten ways in which clients use containerd, played by one client on Debian's daemon and on ours.

Recorded is every answer (code, message, response) and every event, in order.
Both records must be the same; where ours is meant to differ, `DIFFERENCES`
says so and why.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.api import typeurls
from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.containers.v1 import containers_pb2_grpc
from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.content.v1 import content_pb2_grpc
from longshore.api.services.diff.v1 import diff_pb2 as diff
from longshore.api.services.diff.v1 import diff_pb2_grpc
from longshore.api.services.events.v1 import events_pb2 as events
from longshore.api.services.events.v1 import events_pb2_grpc
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.images.v1 import images_pb2_grpc
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.leases.v1 import leases_pb2_grpc
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.api.services.snapshots.v1 import snapshots_pb2_grpc
from longshore.api.services.tasks.v1 import tasks_pb2 as tasks
from longshore.api.services.tasks.v1 import tasks_pb2_grpc
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.containerd.events.fields import decoded
from support import require
from support.daemon import COLLECTION_WHEN_ASKED, Longshore
from support.images import busybox_layer
from support.realdaemon import RealContainerd
from support.tasks import spec

pytestmark = [pytest.mark.root, pytest.mark.interop]

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OVERLAY = "overlayfs"
RUNTIME = containers.Container.Runtime(name="io.containerd.runc.v2")

_STUBS: dict[str, Any] = {
    "Containers": containers_pb2_grpc.ContainersStub,
    "Content": content_pb2_grpc.ContentStub,
    "Diff": diff_pb2_grpc.DiffStub,
    "Images": images_pb2_grpc.ImagesStub,
    "Leases": leases_pb2_grpc.LeasesStub,
    "Snapshots": snapshots_pb2_grpc.SnapshotsStub,
    "Tasks": tasks_pb2_grpc.TasksStub,
}

_LOCKED = re.compile(r"ref NAMESPACE/(\d+/)?r locked for .* \(since .*\)")
_SNAPSHOT = re.compile(r"/[^ :=]*/snapshots/\d+")

Record = list[tuple[str, Any]]


def _one_answer(record: Record) -> Record:
    """1.6 repeats the last answer of a Write when the client is done, and leaves `total` out."""
    return [
        (
            method,
            [without_total(answer[-1])] if method == "Content.Write" and isinstance(answer, list) else answer,
        )
        for method, answer in record
    ]


def without_total(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "total"}


def _no_expectation(record: Record) -> Record:
    """1.6 leaves `expected` out of a Status."""
    return [
        (word, [{"status": {**answer[0]["status"], "expected": ""}}] if word == "Content.Status" else answer)
        for word, answer in record
    ]


def _no_content_events(record: Record) -> Record:
    """1.6 publishes nothing about content; /content/create came with 2.1."""
    return [(word, answer) for word, answer in record if word != "/content/create"]


def _no_snapshotter(record: Record) -> Record:
    """1.6 doesn't say in an event which snapshotter it is about, and is silent about what a collection removes."""
    return [
        (
            word,
            {key: value for key, value in answer.items() if key != "snapshotter"}
            if "/snapshot/" in word
            else answer,
        )
        for word, answer in record
        if word != "/snapshot/remove"
    ]


def _unnumbered(record: Record) -> Record:
    """How long a ref has been locked isn't the same twice, and 1.6 shows the number of its lock."""
    return [
        (word, _LOCKED.sub("ref NAMESPACE/r locked", answer) if isinstance(answer, str) else answer)
        for word, answer in record
    ]


DIFFERENCES: tuple[Callable[[Record], Record], ...] = (
    _one_answer,
    _no_expectation,
    _no_content_events,
    _no_snapshotter,
    _unnumbered,
)
"""What is taken out of both records, and why."""


class Trace:
    """One client in one namespace; `record` is what it heard, without pids, times and numbers of directories."""

    def __init__(self, daemon: Longshore | RealContainerd, name: str) -> None:
        self.daemon, self.namespace = daemon, f"{daemon.namespace}-{name}"
        self.record: list[tuple[str, Any]] = []
        self.heard: list[tuple[str, Any]] = []
        self._news = threading.Condition()
        self._marks = 0
        self._passed = 0
        self._channel = grpc.insecure_channel(f"unix:{daemon.address}")
        self._subscription: Any = None

    def __enter__(self) -> Trace:
        self._subscribe()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscription.cancel()
        self._channel.close()

    def restart(self) -> None:
        """Kill the daemon and start it again; what is heard afterwards is a new list."""
        self._subscription.cancel()
        self._channel.close()
        self.daemon.kill9()
        self.daemon.start()
        self._channel = grpc.insecure_channel(f"unix:{self.daemon.address}")
        self._subscribe()

    def _subscribe(self) -> None:
        """Debian's daemon doesn't say when a subscription stands: events of our own are published until one comes."""
        stub = events_pb2_grpc.EventsStub(self._channel)
        self._subscription = stub.Subscribe(events.SubscribeRequest(filters=[f"namespace=={self.namespace}"]))
        threading.Thread(target=self._follow, args=(self._subscription,), daemon=True).start()
        self.settle()
        with self._news:
            self.heard.clear()

    def settle(self) -> None:
        """Return when what was told so far has been heard: marks of our own are published until one is back."""
        first = self._marks + 1
        deadline = time.monotonic() + 60
        self._publish_mark()
        while not self._has_passed(first):
            assert time.monotonic() < deadline, "no event comes"
            self._publish_mark()

    def _publish_mark(self) -> None:
        self._marks += 1
        mark = events.PublishRequest(topic=f"/mark/{self._marks}", event=AnyMessage(type_url="mark"))
        events_pb2_grpc.EventsStub(self._channel).Publish(mark, metadata=self._headers(""), timeout=60)

    def everything(self) -> Record:
        """The record of the answers, and behind it all events, by the services that they are of."""
        self.settle()
        return [*self.record, *sorted(self.heard, key=lambda event: event[0].split("/")[1])]

    def _follow(self, stream: Any) -> None:
        try:
            for envelope in stream:
                with self._news:
                    if envelope.topic.startswith("/mark/"):
                        self._passed = int(envelope.topic.removeprefix("/mark/"))
                    else:
                        self.heard.append((envelope.topic, plain(decoded(envelope.event) or Timestamp())))
                    self._news.notify_all()
        except grpc.RpcError:
            pass

    def _has_passed(self, mark: int) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._passed >= mark, 0.1)

    def until(self, topic: str, count: int = 1) -> None:
        """Wait for the `count`-th event of a topic."""
        with self._news:
            done = self._news.wait_for(lambda: [t for t, _ in self.heard].count(topic) >= count, 60)
            assert done, f"no {topic}; heard were {self.heard}"

    def _headers(self, lease: str) -> tuple[tuple[str, str], ...]:
        named = (("containerd-namespace", self.namespace),)
        return (*named, ("containerd-lease", lease)) if lease else named

    def stub(self, method: str) -> Any:
        service, _, name = method.partition(".")
        return getattr(_STUBS[service](self._channel), name)

    def call(self, method: str, request: Any, lease: str = "") -> Any:
        """Make the call and record the answer; the (last) response, None on an error."""
        try:
            result = self.stub(method)(request, metadata=self._headers(lease), timeout=60)
            responses = [result] if isinstance(result, Message) else list(result)
        except grpc.RpcError as error:
            self.record.append((method, f"{error.code().name}: {self._clean(error.details() or '')}"))
            return None
        self.record.append((method, [plain(response) for response in responses]))
        return responses[-1] if responses else None

    def later(self, method: str, request: Message) -> Any:
        return self.stub(method).future(request, metadata=self._headers(""), timeout=60)

    def write(self, ref: str, data: bytes, lease: str = "") -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        first = content.WriteContentRequest(
            action=content.WRITE, ref=ref, data=data, total=len(data), expected=digest
        )
        last = content.WriteContentRequest(
            action=content.COMMIT, ref=ref, total=len(data), offset=len(data), expected=digest
        )
        self.call("Content.Write", iter((first, last)), lease)
        return digest

    def _clean(self, text: str) -> str:
        return _SNAPSHOT.sub("DIRECTORY", text).replace(self.namespace, "NAMESPACE")


def plain(message: Message) -> dict[str, Any]:
    return {field.name: _value(field.name, value) for field, value in message.ListFields()}


def _value(name: str, value: Any) -> Any:
    if name in ("pid", "bundle"):
        return name
    if isinstance(value, Timestamp):
        return "a time" if value.seconds else "no time"
    if isinstance(value, Message):
        return plain(value)
    if hasattr(value, "items"):
        return {key: _value("", inner) for key, inner in sorted(value.items())}
    if isinstance(value, str):
        return _SNAPSHOT.sub("DIRECTORY", value)
    if isinstance(value, bytes | int | float):
        return value
    return [_value("", inner) for inner in value]


# -- what they share --------------------------------------------------------------------------------------------


def container(trace: Trace, id: str, *arguments: str, **fields: Any) -> None:
    document = spec("rootfs", arguments, f"/{trace.daemon.namespace}/{id}")
    record = containers.Container(
        id=id,
        runtime=RUNTIME,
        spec=AnyMessage(type_url=typeurls.SPEC, value=json.dumps(document).encode()),
        **fields,
    )
    answer = trace.stub("Containers.Create")(
        containers.CreateContainerRequest(container=record),
        metadata=(("containerd-namespace", trace.namespace),),
        timeout=60,
    )
    trace.record.append(("Containers.Create", sorted(plain(answer.container))))


def root_file_system(trace: Trace) -> str:
    """A committed snapshot with busybox in it, held by a lease without end."""
    trace.call("Leases.Create", leases.CreateRequest(id="held"))
    data = busybox_layer()
    digest = trace.write("layer", data, "held")
    prepared = trace.call(
        "Snapshots.Prepare", snapshots.PrepareSnapshotRequest(snapshotter=OVERLAY, key="unpack"), "held"
    )
    blob = Descriptor(media_type=LAYER, digest=digest, size=len(data))
    trace.call("Diff.Apply", diff.ApplyRequest(diff=blob, mounts=prepared.mounts), "held")
    trace.call(
        "Snapshots.Commit",
        snapshots.CommitSnapshotRequest(snapshotter=OVERLAY, name=digest, key="unpack"),
        "held",
    )
    return digest


def mounts_of(trace: Trace, key: str, parent: str) -> Any:
    trace.call(
        "Snapshots.Prepare",
        snapshots.PrepareSnapshotRequest(snapshotter=OVERLAY, key=key, parent=parent),
        "held",
    )
    return trace.call("Snapshots.Mounts", snapshots.MountsRequest(snapshotter=OVERLAY, key=key)).mounts


def clean_up(trace: Trace, id: str) -> None:
    trace.call("Containers.Delete", containers.DeleteContainerRequest(id=id))
    trace.call("Snapshots.Remove", snapshots.RemoveSnapshotRequest(snapshotter=OVERLAY, key=id))


# -- the traces -------------------------------------------------------------------------------------------------


def run(trace: Trace) -> None:
    """T1: what `ctr run --rm` does."""
    top = root_file_system(trace)
    mounts = mounts_of(trace, "c1", top)
    container(trace, "c1", "/bin/sh", "-c", "exit 5", snapshotter=OVERLAY, snapshot_key="c1")
    trace.call("Tasks.Create", tasks.CreateTaskRequest(container_id="c1", rootfs=mounts))
    waiting = trace.later("Tasks.Wait", tasks.WaitRequest(container_id="c1"))
    trace.call("Tasks.Start", tasks.StartRequest(container_id="c1"))
    trace.record.append(("Wait", plain(waiting.result())))
    trace.until("/tasks/exit")
    trace.call("Tasks.Get", tasks.GetRequest(container_id="c1"))
    trace.call("Tasks.Delete", tasks.DeleteTaskRequest(container_id="c1"))
    trace.until("/tasks/delete")
    trace.call("Tasks.Get", tasks.GetRequest(container_id="c1"))
    clean_up(trace, "c1")


def engine(trace: Trace) -> None:
    """T2 and T3: what dockerd does for run and exec; it learns of everything by events."""
    top = root_file_system(trace)
    mounts = mounts_of(trace, "c2", top)
    container(trace, "c2", "/bin/sleep", "1000")
    trace.call("Tasks.Create", tasks.CreateTaskRequest(container_id="c2", rootfs=mounts))
    trace.until("/tasks/create")
    trace.call("Tasks.Start", tasks.StartRequest(container_id="c2"))
    trace.until("/tasks/start")
    process = AnyMessage(
        type_url=typeurls.PROCESS,
        value=json.dumps(spec("/", ("/bin/sh", "-c", "exit 4"), "")["process"]).encode(),
    )
    trace.call("Tasks.Exec", tasks.ExecProcessRequest(container_id="c2", exec_id="e", spec=process))
    trace.until("/tasks/exec-added")
    trace.call("Tasks.Start", tasks.StartRequest(container_id="c2", exec_id="e"))
    trace.until("/tasks/exit")
    trace.call("Tasks.CloseIO", tasks.CloseIORequest(container_id="c2", exec_id="e", stdin=True))
    trace.call("Tasks.DeleteProcess", tasks.DeleteProcessRequest(container_id="c2", exec_id="e"))
    trace.call("Tasks.Pause", tasks.PauseTaskRequest(container_id="c2"))
    trace.call("Tasks.Get", tasks.GetRequest(container_id="c2"))
    trace.call("Tasks.Delete", tasks.DeleteTaskRequest(container_id="c2"))
    trace.call("Tasks.Resume", tasks.ResumeTaskRequest(container_id="c2"))
    trace.call("Tasks.Kill", tasks.KillRequest(container_id="c2", signal=9))
    trace.until("/tasks/exit", 2)
    trace.call("Tasks.Delete", tasks.DeleteTaskRequest(container_id="c2"))
    trace.until("/tasks/delete")
    clean_up(trace, "c2")


def pull(trace: Trace) -> None:
    """T4: what a pull stores, with a layer of two names."""
    top = root_file_system(trace)
    again = snapshots.PrepareSnapshotRequest(
        snapshotter=OVERLAY, key="again", labels={"containerd.io/snapshot.ref": top}
    )
    trace.call("Snapshots.Prepare", again, "held")
    labels = {"containerd.io/uncompressed": top, "containerd.io/gc.ref.snapshot.overlayfs": top}
    update = content.UpdateRequest(
        info=content.Info(digest=top, labels=labels),
        update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
    )
    trace.call("Content.Update", update)
    image = images.Image(name="x/y:1", target=Descriptor(media_type=LAYER, digest=top, size=10))
    trace.call("Images.Create", images.CreateImageRequest(image=image))
    trace.call("Images.Create", images.CreateImageRequest(image=image))
    image.labels["a"] = "b"
    trace.call("Images.Update", images.UpdateImageRequest(image=image))
    trace.call("Leases.Delete", leases.DeleteRequest(id="held", sync=True))
    trace.call("Content.Info", content.InfoRequest(digest=top))
    trace.call("Snapshots.Stat", snapshots.StatSnapshotRequest(snapshotter=OVERLAY, key=top))
    trace.call("Images.Delete", images.DeleteImageRequest(name="x/y:1", sync=True))
    trace.call("Content.Info", content.InfoRequest(digest=top))


def collection(trace: Trace) -> None:
    """T7: content without a lease or a root goes with the next synchronous delete."""
    trace.call("Leases.Create", leases.CreateRequest(id="held"))
    lost, leased, rooted = (
        f"{kind} of {trace.daemon.address}".encode() for kind in ("lost", "leased", "rooted")
    )
    digests = [trace.write("a", lost), trace.write("b", leased, "held"), trace.write("c", rooted)]
    label = "containerd.io/gc.root"
    root = content.UpdateRequest(
        info=content.Info(digest=digests[2], labels={label: "now"}),
        update_mask=FieldMask(paths=[f"labels.{label}"]),
    )
    trace.stub("Content.Update")(root, metadata=(("containerd-namespace", trace.namespace),))
    image = images.Image(name="gone:1", target=Descriptor(media_type=LAYER, digest=digests[0], size=1))
    trace.stub("Images.Create")(
        images.CreateImageRequest(image=image), metadata=(("containerd-namespace", trace.namespace),)
    )
    trace.call("Images.Delete", images.DeleteImageRequest(name="gone:1", sync=True))
    # The digests hold the daemon's address: only the codes can be the same.
    del trace.record[1:4]
    for digest in digests:
        trace.call("Content.Info", content.InfoRequest(digest=digest))
    trace.record[-3:] = [(method, isinstance(answer, str)) for method, answer in trace.record[-3:]]
    trace.settle()
    trace.heard = [(topic, None) for topic, _ in trace.heard]


def target(trace: Trace) -> None:
    """T8: Prepare with the name of a committed snapshot: it is there already, and the lease has it."""
    top = root_file_system(trace)
    trace.call("Leases.Create", leases.CreateRequest(id="other"))
    wanted = snapshots.PrepareSnapshotRequest(
        snapshotter=OVERLAY, key="k", labels={"containerd.io/snapshot.ref": top}
    )
    trace.call("Snapshots.Prepare", wanted, "other")
    held = trace.stub("Leases.ListResources")(
        leases.ListResourcesRequest(id="other"), metadata=(("containerd-namespace", trace.namespace),)
    )
    # 1.6 forgets the lease here, and a collection takes what the client was told is there.
    assert isinstance(trace.daemon, RealContainerd) or [each.id for each in held.resources] == [top]


def resume(trace: Trace) -> None:
    """T9 and T10: an interrupted write goes on where it was; one writer at a time."""
    data = b"0123456789" * 100
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def request(action: Any, offset: int = 0, piece: bytes = b"") -> content.WriteContentRequest:
        return content.WriteContentRequest(
            action=action, ref="r", total=len(data), offset=offset, data=piece, expected=digest
        )

    trace.call("Content.Write", iter([request(content.WRITE, 0, data[:500])]))
    trace.call("Content.Write", iter([request(content.STAT)]))
    trace.call("Content.Write", iter([request(content.WRITE, 900, data[900:])]))
    held, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[content.WriteContentRequest]:
        yield request(content.STAT)
        held.set()
        go_on.wait(60)

    first = trace.stub("Content.Write")(slow(), metadata=(("containerd-namespace", trace.namespace),))
    next(first)
    held.wait(60)
    trace.call("Content.Write", iter([request(content.STAT)]))
    go_on.set()
    list(first)
    trace.call("Content.Status", content.StatusRequest(ref="r"))
    trace.call(
        "Content.Write", iter([request(content.WRITE, 500, data[500:]), request(content.COMMIT, 1000)])
    )
    trace.call("Content.Info", content.InfoRequest(digest=digest))


def restart(trace: Trace) -> None:
    """T5: the daemon is killed and started again; its tasks don't notice, and their ends are told once."""
    top = root_file_system(trace)
    for id in ("c3", "c4"):
        container(trace, id, "/bin/sleep", "1000")
        trace.call("Tasks.Create", tasks.CreateTaskRequest(container_id=id, rootfs=mounts_of(trace, id, top)))
        trace.call("Tasks.Start", tasks.StartRequest(container_id=id))
    pids = _pids(trace)
    trace.restart()
    assert _pids(trace) == pids
    trace.call("Tasks.Kill", tasks.KillRequest(container_id="c3", signal=9))
    trace.until("/tasks/exit")
    trace.call("Tasks.Delete", tasks.DeleteTaskRequest(container_id="c3"))
    trace.until("/tasks/delete")
    trace.call("Tasks.Kill", tasks.KillRequest(container_id="c4", signal=15))
    trace.call("Tasks.Kill", tasks.KillRequest(container_id="c4", signal=9))
    trace.until("/tasks/exit", 2)
    trace.call("Tasks.Delete", tasks.DeleteTaskRequest(container_id="c4"))
    trace.until("/tasks/delete", 2)
    for id in ("c3", "c4"):
        clean_up(trace, id)


def _pids(trace: Trace) -> dict[str, int]:
    headers = (("containerd-namespace", trace.namespace),)
    answer = trace.stub("Tasks.List")(
        tasks.ListTasksRequest(), metadata=headers, wait_for_ready=True, timeout=60
    )
    return {task.id: task.pid for task in answer.tasks}


TRACES: dict[str, Callable[[Trace], None]] = {
    "run": run,
    "engine": engine,
    "pull": pull,
    "collection": collection,
    "target": target,
    "resume": resume,
    "restart": restart,
}


@pytest.fixture(scope="module")
def ours() -> Iterator[Longshore]:
    require.go("busybox")
    with Longshore(
        config=COLLECTION_WHEN_ASKED
    ) as daemon:  # else one may come between two calls without a lease
        yield daemon


@pytest.fixture(scope="module")
def real() -> Iterator[RealContainerd]:
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2", "busybox")
    with RealContainerd(config=COLLECTION_WHEN_ASKED) as daemon:
        yield daemon


def play(daemon: Longshore | RealContainerd, name: str) -> Record:
    with Trace(daemon, name) as trace:
        TRACES[name](trace)
        return trace.everything()


@pytest.mark.parametrize("name", TRACES)
def test_trace(ours: Longshore, real: RealContainerd, name: str) -> None:
    expected, found = play(real, name), play(ours, name)
    for difference in DIFFERENCES:
        expected, found = difference(expected), difference(found)
    lines = difflib.unified_diff(_lines(expected), _lines(found), "Debian's", "ours", lineterm="", n=0)
    text = "\n".join(lines)
    assert not text, text


def _lines(record: Record) -> list[str]:
    return [f"{word} {answer}" for word, answer in record]

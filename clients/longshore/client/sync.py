"""`Client`: the SDK with blocking calls, a second face of the same core.

Every method here is one of `longshore.client.client` and its nouns; see there
what it does. Only the way of waiting differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

from longshore.client import client as core
from longshore.client import (
    containers,
    content,
    defaults,
    diff,
    events,
    images,
    introspection,
    leases,
    namespaces,
)
from longshore.client import io as streams
from longshore.client import snapshots as snapshot_nouns
from longshore.client import tasks as task_nouns
from longshore.client.blocking import Face, Portal, blocking, iterating, listing, making, managing
from longshore.client.spec import Spec


class Reader(Face[streams.Reader]):
    read = blocking(streams.Reader.read)
    read_block = blocking(streams.Reader.read_block)

    def __iter__(self) -> Iterator[bytes]:
        return self._portal.iterate(aiter(self._inner))


class Writer(Face[streams.Writer]):
    write = blocking(streams.Writer.write)
    close = blocking(streams.Writer.close)


class Image(Face[images.Image]):
    manifest = blocking(images.Image.manifest)
    config = blocking(images.Image.config)
    chain_id = blocking(images.Image.chain_id)
    size = blocking(images.Image.size)
    platforms = blocking(images.Image.platforms)
    layers = blocking(images.Image.layers)
    is_unpacked = blocking(images.Image.is_unpacked)
    unpack = blocking(images.Image.unpack)
    delete = blocking(images.Image.delete)

    @property
    def record(self) -> images.Record:
        return self._inner.record

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def labels(self) -> Mapping[str, str]:
        return self._inner.labels


P = TypeVar("P", bound=task_nouns.Process, covariant=True)


class ProcessFace(Face[P]):
    """What a process and a task have in common."""

    start = blocking(task_nouns.Process.start)
    wait = blocking(task_nouns.Process.wait)
    state = blocking(task_nouns.Process.state)
    kill = blocking(task_nouns.Process.kill)
    resize = blocking(task_nouns.Process.resize)
    delete = blocking(task_nouns.Process.delete)
    destroy = blocking(task_nouns.Process.destroy)

    def detach(self) -> None:
        """Close our pipes and let it be: the process goes on, unwatched."""
        self._portal.call(self._inner.detach)

    @property
    def pid(self) -> int:
        return self._inner.pid

    @property
    def container(self) -> str:
        return self._inner.container

    @property
    def exec_id(self) -> str:
        return self._inner.exec_id

    @property
    def stdin(self) -> Writer:
        return Writer(self._portal, self._inner.stdin)

    @property
    def stdout(self) -> Reader:
        return Reader(self._portal, self._inner.stdout)

    @property
    def stderr(self) -> Reader:
        return Reader(self._portal, self._inner.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.destroy()


class Process(ProcessFace[task_nouns.Process]):
    """An executed process."""


class Task(ProcessFace[task_nouns.Task]):
    """A container's own process, and the container as a whole."""

    exec = making(task_nouns.Task.exec, Process)
    pause = blocking(task_nouns.Task.pause)
    resume = blocking(task_nouns.Task.resume)
    pids = blocking(task_nouns.Task.pids)
    update = blocking(task_nouns.Task.update)
    metrics = blocking(task_nouns.Task.metrics)
    checkpoint = making(task_nouns.Task.checkpoint, Image)
    dump = blocking(task_nouns.Task.dump)


class Container(Face[containers.Container]):
    create_task = making(containers.Container.create_task, Task)
    checkpoint = making(containers.Container.checkpoint, Image)
    task = making(containers.Container.task, Task)
    label = blocking(containers.Container.label)
    delete = blocking(containers.Container.delete)

    @property
    def record(self) -> containers.Record:
        return self._inner.record

    @property
    def id(self) -> str:
        return self._inner.id

    @property
    def labels(self) -> Mapping[str, str]:
        return self._inner.labels

    @property
    def spec(self) -> Spec:
        return self._inner.spec


class Containers(Face[containers.Containers]):
    get = making(containers.Containers.get, Container)
    create = making(containers.Containers.create, Container)
    list = listing(containers.Containers.list, Container)
    restore = making(containers.Containers.restore, Container)
    temporary = managing(containers.Containers.temporary, Container)


class Tasks(Face[task_nouns.Tasks]):
    create = making(task_nouns.Tasks.create, Task)
    get = making(task_nouns.Tasks.get, Task)
    exec_process = making(task_nouns.Tasks.exec_process, Process)
    checkpoint = blocking(task_nouns.Tasks.checkpoint)
    metrics = blocking(task_nouns.Tasks.metrics)
    list = blocking(task_nouns.Tasks.list)


class Images(Face[images.Images]):
    get = making(images.Images.get, Image)
    create = making(images.Images.create, Image)
    tag = making(images.Images.tag, Image)
    label = making(images.Images.label, Image)
    delete = blocking(images.Images.delete)
    fetch = listing(images.Images.fetch, Image)
    pull = making(images.Images.pull, Image)
    push = blocking(images.Images.push)
    convert = making(images.Images.convert, Image)
    import_archive = listing(images.Images.import_archive, Image)
    export_archive = blocking(images.Images.export_archive)
    list = listing(images.Images.list, Image)


class ContentWriter(Face[content.Writer]):
    status = blocking(content.Writer.status)
    write = blocking(content.Writer.write)
    commit = blocking(content.Writer.commit)

    @property
    def offset(self) -> int:
        return self._inner.offset


class Content(Face[content.Content]):
    info = blocking(content.Content.info)
    label = blocking(content.Content.label)
    delete = blocking(content.Content.delete)
    chunks = iterating(content.Content.chunks)
    read = blocking(content.Content.read)
    statuses = blocking(content.Content.statuses)
    abort = blocking(content.Content.abort)
    writer = managing(content.Content.writer, ContentWriter)
    awaited_writer = managing(content.Content.awaited_writer, ContentWriter)
    write = blocking(content.Content.write)
    walk = iterating(content.Content.walk)
    list = blocking(content.Content.list)


class Diffs(Face[diff.Diffs]):
    apply = blocking(diff.Diffs.apply)
    compare = blocking(diff.Diffs.compare)


class Snapshots(Face[snapshot_nouns.Snapshots]):
    prepare = blocking(snapshot_nouns.Snapshots.prepare)
    view = blocking(snapshot_nouns.Snapshots.view)
    mounts = blocking(snapshot_nouns.Snapshots.mounts)
    commit = blocking(snapshot_nouns.Snapshots.commit)
    remove = blocking(snapshot_nouns.Snapshots.remove)
    stat = blocking(snapshot_nouns.Snapshots.stat)
    label = blocking(snapshot_nouns.Snapshots.label)
    usage = blocking(snapshot_nouns.Snapshots.usage)
    cleanup = blocking(snapshot_nouns.Snapshots.cleanup)
    walk = iterating(snapshot_nouns.Snapshots.walk)
    list = blocking(snapshot_nouns.Snapshots.list)


def _lease(portal: Portal, lease: leases.Lease) -> leases.Lease:
    return lease


class Leases(Face[leases.Leases]):
    create = blocking(leases.Leases.create)
    delete = blocking(leases.Leases.delete)
    add_resource = blocking(leases.Leases.add_resource)
    delete_resource = blocking(leases.Leases.delete_resource)
    resources = blocking(leases.Leases.resources)
    abandoned = blocking(leases.Leases.abandoned)
    end_abandoned = blocking(leases.Leases.end_abandoned)
    hold = managing(leases.Leases.hold, _lease)
    list = blocking(leases.Leases.list)


class Subscription(Face[events.Subscription]):
    """Iterate it; `close` (or the end of its with block) ends it."""

    next = blocking(events.Subscription.next)

    @property
    def head(self) -> int | None:
        return self._inner.head

    def __iter__(self) -> Iterator[events.Event]:
        return self._portal.iterate(aiter(self._inner))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._portal.call(self._inner.close)


class Events(Face[events.Events]):
    subscribe = making(events.Events.subscribe, Subscription)
    publish = blocking(events.Events.publish)


class Namespaces(Face[namespaces.Namespaces]):
    create = blocking(namespaces.Namespaces.create)
    get = blocking(namespaces.Namespaces.get)
    label = blocking(namespaces.Namespaces.label)
    delete = blocking(namespaces.Namespaces.delete)
    list = blocking(namespaces.Namespaces.list)


class Introspection(Face[introspection.Introspection]):
    plugins = blocking(introspection.Introspection.plugins)
    server = blocking(introspection.Introspection.server)
    plugin_info = blocking(introspection.Introspection.plugin_info)


class ClientFace(Face[core.AsyncClient]):
    """What `Client` and the clients derived from it have in common."""

    version = blocking(core.AsyncClient.version)
    run = managing(core.AsyncClient.run, Task)

    @property
    def address(self) -> str:
        return self._inner.address

    @property
    def namespace(self) -> str:
        return self._inner.namespace

    @cached_property
    def containers(self) -> Containers:
        return Containers(self._portal, self._inner.containers)

    @cached_property
    def tasks(self) -> Tasks:
        return Tasks(self._portal, self._inner.tasks)

    @cached_property
    def images(self) -> Images:
        return Images(self._portal, self._inner.images)

    @cached_property
    def content(self) -> Content:
        return Content(self._portal, self._inner.content)

    @cached_property
    def diffs(self) -> Diffs:
        return Diffs(self._portal, self._inner.diffs)

    @cached_property
    def leases(self) -> Leases:
        return Leases(self._portal, self._inner.leases)

    @cached_property
    def events(self) -> Events:
        return Events(self._portal, self._inner.events)

    @cached_property
    def namespaces(self) -> Namespaces:
        return Namespaces(self._portal, self._inner.namespaces)

    @cached_property
    def introspection(self) -> Introspection:
        return Introspection(self._portal, self._inner.introspection)

    def snapshots(self, snapshotter: str = defaults.SNAPSHOTTER) -> Snapshots:
        """The snapshots of one snapshotter."""
        return Snapshots(self._portal, self._inner.snapshots(snapshotter))

    def in_namespace(self, namespace: str) -> ClientFace:
        """The same daemon seen from another namespace."""
        return ClientFace(self._portal, self._inner.in_namespace(namespace))

    def with_lease(self, lease: str) -> ClientFace:
        """A client whose calls carry the lease with this id."""
        return ClientFace(self._portal, self._inner.with_lease(lease))


def _face(portal: Portal, inner: core.AsyncClient) -> ClientFace:
    return ClientFace(portal, inner)


class Client(ClientFace):
    """`longshore.client.AsyncClient` with blocking calls; its arguments are the same."""

    leased = managing(core.AsyncClient.leased, _face)

    def __init__(
        self, address: str | None = None, namespace: str | None = None, *, fifo_dir: str | None = None
    ) -> None:
        portal = Portal()
        try:
            super().__init__(
                portal, portal.call(lambda: core.AsyncClient(address, namespace, fifo_dir=fifo_dir))
            )
        except BaseException:
            portal.close()
            raise

    def close(self) -> None:
        """Close the channel and end the thread."""
        try:
            self._portal.run(self._inner.close())
        finally:
            self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

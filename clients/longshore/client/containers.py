"""Containers: the records of what could run, and the way from an image to a running process."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api import typeurls
from longshore.api.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from longshore.api.services.containers.v1 import containers_pb2 as pb
from longshore.client import defaults
from longshore.client import spec as specs
from longshore.client.io import IO
from longshore.client.spec import Option, Spec
from longshore.client.stubs import stub

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersAsyncStub
    from longshore.client.client import AsyncClient
    from longshore.client.images import Image
    from longshore.client.tasks import Task
    from longshore.client.users import User

STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"
RESERVED_LABELS = ("containerd.io/", "io.cri-containerd")

Record = pb.Container


class Container:
    """One container record; `record` is as it was read."""

    def __init__(self, client: AsyncClient, record: Record) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.record.labels)

    @property
    def spec(self) -> Spec:
        """The runtime specification."""
        found: Spec = json.loads(self.record.spec.value)
        return found

    async def create_task(
        self,
        *,
        io: IO | None = None,
        options: Message | None = None,
        runtime_path: str = "",
        checkpoint: str = "",
    ) -> Task:
        """Make its init process on its snapshot's mounts; `start` runs it.

        `checkpoint` names a checkpoint with a task, which goes on where it was
        when it starts. Raises NotFound when that has none.
        """
        mounts = []
        saved = None
        if checkpoint:
            from longshore.client.checkpoints import Saved

            saved = (await Saved.load(self._client, checkpoint)).criu()
        if self.record.snapshot_key:
            mounts = await self._client.snapshots(self.record.snapshotter).mounts(self.record.snapshot_key)
        return await self._client.tasks.create(
            self.id,
            io=io,
            rootfs=mounts,
            options=typeurls.pack(options) if options is not None else None,
            runtime_path=runtime_path,
            checkpoint=saved,
        )

    async def checkpoint(
        self, name: str, *, image: bool = False, rw: bool = False, task: bool = False
    ) -> Image:
        """Save it as an image called `name`; `Containers.restore` makes a container of that.

        `rw`: with what it has written; `task`: with what runs in it, by criu;
        `image`: with the image it was made from, for a restore where that
        isn't known. What runs is paused meanwhile. Raises AlreadyExists (the
        name), NotFound, FailedPrecondition.
        """
        from longshore.client.checkpoints import checkpoint_container

        return await checkpoint_container(self._client, self.record, name, image=image, rw=rw, task=task)

    async def task(self) -> Task:
        """The task it has. Raises NotFound."""
        return await self._client.tasks.get(self.id)

    async def user(self, user: str) -> dict[str, Any]:
        """The spec's user object for a name or number, looked up in this container. Raises NotFound."""
        rootfs = self.spec["root"]["path"]
        edited: Spec = {"process": {}}
        specs.with_user(*await _find_user(self._client, self.record, rootfs, user))(edited)
        found: dict[str, Any] = edited["process"]["user"]
        return found

    async def label(self, labels: Mapping[str, str]) -> None:
        """Set these labels and leave the others; an empty value removes one."""
        request = pb.UpdateContainerRequest(
            container=Record(id=self.id, labels=labels),
            update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
        )
        containers = self._client.containers
        self.record = (await self._client.connection.call(containers.stub.Update, request)).container

    async def delete(self, *, keep_snapshot: bool = False) -> None:
        """Remove the record and its snapshot. Raises FailedPrecondition while it has a task that hasn't stopped."""
        from longshore.api.types.task import task_pb2

        try:
            task = await self.task()
            if (await task.state()).status != task_pb2.STOPPED:
                raise FailedPrecondition(
                    f"cannot delete a non stopped container: {self.id}: failed precondition"
                )
        except NotFound:
            pass
        request = pb.DeleteContainerRequest(id=self.id)
        await self._client.connection.call(self._client.containers.stub.Delete, request)
        if self.record.snapshot_key and not keep_snapshot:
            with suppress(NotFound):
                await self._client.snapshots(self.record.snapshotter).remove(self.record.snapshot_key)


class Containers:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.stub: ContainersAsyncStub = stub(pb.DESCRIPTOR, "Containers", client.connection.channel)

    async def get(self, id: str) -> Container:
        """Raises NotFound."""
        answer = await self._client.connection.call(self.stub.Get, pb.GetContainerRequest(id=id))
        return Container(self._client, answer.container)

    async def create(
        self,
        id: str,
        *options: Option,
        image: str = "",
        args: Sequence[str] = (),
        user: str = "",
        rootfs: str = "",
        spec: Spec | None = None,
        runtime: str = defaults.RUNTIME,
        runtime_options: Message | None = None,
        snapshotter: str = "",
        snapshot_labels: Mapping[str, str] | None = None,
        platform: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Container:
        """Record a container on a fresh snapshot of `image`, or on the directory `rootfs`.

        From the image come command, environment, working directory and user;
        `args` replace its command, `user` its user (names are looked up in the
        root file system), `options` edit what comes out, in order. A ready
        `spec` is taken as it is. `snapshot_labels` are for the snapshotter. Raises AlreadyExists, NotFound (the image).
        """
        record = Record(id=id, image=image, labels=labels or {}, runtime=pb.Container.Runtime(name=runtime))
        if runtime_options is not None:
            record.runtime.options.CopyFrom(typeurls.pack(runtime_options))
        namespace = self._client.namespace
        async with self._client.leased() if image else nullcontext(self._client) as client:
            if image:
                settings = await _prepare_image(client, record, image, snapshotter, platform, snapshot_labels)
                options = (specs.with_image_config(settings, args), *options)
                user = user or (settings.get("config") or {}).get("User") or ""
            elif rootfs:
                options = (specs.with_rootfs(rootfs), specs.with_args(*args), *options)
            async with _no_stray_snapshot(client, record):
                if spec is None:
                    if user:
                        options = (await _user_option(client, record, rootfs, user), *options)
                    spec = specs.build(namespace, id, *options)
                    if not spec["process"]["args"]:
                        raise InvalidArgument("no command to run: invalid argument")
                record.spec.CopyFrom(AnyMessage(type_url=typeurls.SPEC, value=specs.encode(spec)))
                return await self._write(client, record)

    async def restore(self, id: str, checkpoint: str, *, rw: bool = False) -> Container:
        """A container like the one that `Container.checkpoint` saved.

        With `rw` it has what that one had written. A task that was saved goes
        on with ``create_task(checkpoint=...)``. Raises NotFound when the
        checkpoint, or a part that is needed, isn't here, AlreadyExists.
        """
        from longshore.client.checkpoints import restored_record

        async with self._client.leased() as client:
            record = await restored_record(client, id, checkpoint, rw=rw)
            async with _no_stray_snapshot(client, record):
                return await self._write(client, record)

    async def _write(self, client: AsyncClient, record: Record) -> Container:
        """Create the record, under the lease of `client`; the container is for this one."""
        request = pb.CreateContainerRequest(container=record)
        answer = await client.connection.call(self.stub.Create, request)
        return Container(self._client, answer.container)

    @asynccontextmanager
    async def temporary(
        self,
        id: str = "",
        *options: Option,
        image: str = "",
        args: Sequence[str] = (),
        rootfs: str = "",
        user: str = "",
    ) -> AsyncIterator[Container]:
        """A container that is gone, with task and snapshot, when the block ends."""
        container = await self.create(
            id or f"run-{os.urandom(6).hex()}", *options, image=image, args=args, rootfs=rootfs, user=user
        )
        try:
            yield container
        finally:
            with suppress(NotFound):
                await (await container.task()).destroy()
            with suppress(NotFound):
                await container.delete()

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[Container]:
        """One by one as the daemon streams them."""
        request = pb.ListContainersRequest(filters=filters)
        try:
            async for message in self._client.connection.stream(self.stub.ListStream, request):
                yield Container(self._client, message.container)
        except Unimplemented:
            answer = await self._client.connection.call(self.stub.List, request)
            for record in answer.containers:
                yield Container(self._client, record)

    async def list(self, filters: Sequence[str] = ()) -> list[Container]:
        """Filters know id, image, runtime.name and labels.*."""
        return [container async for container in self.walk(filters)]


async def _prepare_image(
    client: AsyncClient,
    record: Record,
    name: str,
    snapshotter: str,
    platform: str,
    snapshot_labels: Mapping[str, str] | None,
) -> Mapping[str, Any]:
    """Make the container's snapshot on the image's layers, label the record, answer the image's configuration."""
    from longshore.client.oci import parse_platform

    image = await client.images.get(name, platform=parse_platform(platform) if platform else None)
    record.snapshotter = snapshotter or defaults.SNAPSHOTTER
    config = await image.config()
    for key, value in image.labels.items():
        if not key.startswith(RESERVED_LABELS):
            record.labels[key] = record.labels.get(key, value)
    stop_signal = (config.get("config") or {}).get("StopSignal")
    if stop_signal:
        record.labels[STOP_SIGNAL_LABEL] = stop_signal
    parent = await image.unpack(record.snapshotter)
    await client.snapshots(record.snapshotter).prepare(record.id, parent, snapshot_labels)
    record.snapshot_key = record.id
    return config


async def _user_option(client: AsyncClient, record: Record, rootfs: str, user: str) -> Option:
    return specs.with_user(*await _find_user(client, record, rootfs, user))


async def _find_user(client: AsyncClient, record: Record, rootfs: str, user: str) -> User:
    from longshore.client import users

    if ":" in user and user.replace(":", "", 1).isdigit():
        return users.resolve(user)
    if not record.snapshot_key:
        return users.resolve_in(user, [rootfs])
    mounts = await client.snapshots(record.snapshotter).mounts(record.snapshot_key)
    return users.resolve_in(user, users.layers(mounts))


@asynccontextmanager
async def _no_stray_snapshot(client: AsyncClient, record: Record) -> AsyncIterator[None]:
    """If what is done in here fails, the record's snapshot goes."""
    try:
        yield
    except BaseException:
        if record.snapshot_key:
            with suppress(NotFound):
                await client.snapshots(record.snapshotter).remove(record.snapshot_key)
        raise

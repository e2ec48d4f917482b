"""`AsyncClient`: the nouns of one containerd socket.

Each noun is a property that imports its module when first touched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from longshore.client import defaults
from longshore.client.connection import Connection

if TYPE_CHECKING:
    from longshore.client.containers import Containers
    from longshore.client.content import Content
    from longshore.client.diff import Diffs
    from longshore.client.events import Events
    from longshore.client.images import Images
    from longshore.client.introspection import Introspection
    from longshore.client.io import IO
    from longshore.client.leases import Leases
    from longshore.client.namespaces import Namespaces
    from longshore.client.snapshots import Snapshots
    from longshore.client.spec import Option
    from longshore.client.tasks import Task, Tasks
    from longshore.client.version import Version


class AsyncClient:
    """A connection to containerd at `address` (a socket path), speaking for `namespace`.

    Both default to the environment (CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE)
    and then to containerd's own defaults. Use it as an async context manager,
    or call `close`. Nothing is sent before the first call; a daemon that is
    not there raises `longshore.api.errors.Unavailable` then.

    `fifo_dir` is where the named pipes of attached processes are made. The
    daemon's shims must see it under the same path; by default it lies beside
    the socket, which they both do.
    """

    def __init__(
        self,
        address: str | None = None,
        namespace: str | None = None,
        *,
        fifo_dir: str | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.connection = connection or Connection(
            address or defaults.address(), namespace or defaults.namespace()
        )
        self.fifo_dir = fifo_dir or os.path.join(os.path.dirname(self.connection.address), "fifo")
        self._owner = connection is None

    @property
    def address(self) -> str:
        return self.connection.address

    @property
    def namespace(self) -> str:
        return self.connection.namespace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; clients made by `in_namespace` and `leased` share it."""
        if self._owner:
            await self.connection.close()

    def in_namespace(self, namespace: str) -> AsyncClient:
        """The same daemon seen from another namespace."""
        return AsyncClient(fifo_dir=self.fifo_dir, connection=self.connection.derive(namespace=namespace))

    def with_lease(self, lease: str) -> AsyncClient:
        """A client whose calls carry the lease with this id: what they make belongs to it."""
        return AsyncClient(fifo_dir=self.fifo_dir, connection=self.connection.derive(lease=lease))

    @asynccontextmanager
    async def leased(
        self, *, id: str = "", expires: float | None = 24 * 3600, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncClient]:
        """A client with a fresh lease that ends with the block: what it makes survives garbage collection till then.

        `expires` (seconds) bounds the lease's life should this process die; None means never.
        A client that already has a lease keeps it.
        """
        if self.connection.lease:
            yield self
            return
        async with self.leases.hold(id=id, expires=expires, labels=labels) as lease:
            yield self.with_lease(lease.id)

    @asynccontextmanager
    async def run(
        self,
        image: str = "",
        args: Sequence[str] = (),
        *options: Option,
        rootfs: str = "",
        io: IO | None = None,
    ) -> AsyncIterator[Task]:
        """A started process in a container of its own, both gone when the block ends.

        The container runs `image` (a full name, see `longshore.client.references`)
        or the directory `rootfs`. To keep it, or to choose its id, use
        `containers.create` and `Container.create_task`.
        """
        async with (
            self.containers.temporary("", *options, image=image, args=args, rootfs=rootfs) as container,
            await container.create_task(io=io) as task,
        ):
            await task.start()
            yield task

    @cached_property
    def containers(self) -> Containers:
        from longshore.client.containers import Containers

        return Containers(self)

    @cached_property
    def tasks(self) -> Tasks:
        from longshore.client.tasks import Tasks

        return Tasks(self)

    @cached_property
    def images(self) -> Images:
        from longshore.client.images import Images

        return Images(self)

    @cached_property
    def content(self) -> Content:
        from longshore.client.content import Content

        return Content(self.connection)

    @cached_property
    def diffs(self) -> Diffs:
        from longshore.client.diff import Diffs

        return Diffs(self.connection)

    @cached_property
    def leases(self) -> Leases:
        from longshore.client.leases import Leases

        return Leases(self.connection)

    @cached_property
    def events(self) -> Events:
        from longshore.client.events import Events

        return Events(self.connection)

    @cached_property
    def namespaces(self) -> Namespaces:
        from longshore.client.namespaces import Namespaces

        return Namespaces(self.connection)

    @cached_property
    def introspection(self) -> Introspection:
        from longshore.client.introspection import Introspection

        return Introspection(self.connection)

    def snapshots(self, snapshotter: str = defaults.SNAPSHOTTER) -> Snapshots:
        """The snapshots of one snapshotter."""
        from longshore.client.snapshots import Snapshots

        return Snapshots(self.connection, snapshotter)

    async def version(self) -> Version:
        """What the daemon calls itself."""
        from longshore.client.version import version

        return await version(self.connection)

"""One gRPC channel to a containerd socket, and the headers of every call on it.

Everything the SDK sends goes through `Connection.call` and its streaming
relatives: this is the one place where a gRPC status becomes an error of the
closed set in `longshore.api.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from longshore.api import errors
from longshore.api.namespaces import GRPC_HEADER, LEASE_HEADER

if TYPE_CHECKING:
    from grpc import aio

    from longshore.client.wire.channel import Channel

Q = TypeVar("Q")
R = TypeVar("R")

MESSAGE_LIMIT = 16 << 20
METADATA_LIMIT = 1 << 20

# containerd allows 16 MiB both ways. Errors of runtimes can be long, and travel in headers: gRPC's own
# limit of 8 KiB would turn them into RESOURCE_EXHAUSTED. The back-off is short because the peer is a
# local socket: after a restart of the daemon a client should be back within a fraction of a second. (Not
# the minimum too: that one also limits how long the first handshake may take, and fails on a busy machine.)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.max_metadata_size", METADATA_LIMIT),
    ("grpc.absolute_max_metadata_size", METADATA_LIMIT),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


def socket_path(address: str) -> str:
    """The file system path of an address ("unix:///run/x.sock" or a bare path)."""
    return os.path.abspath(address.removeprefix("unix://").removeprefix("unix:"))


@contextmanager
def translated() -> Iterator[None]:
    """Turn a gRPC failure inside into one of `longshore.api.errors`."""
    try:
        yield
    except Exception as error:
        grpc: Any = sys.modules.get("grpc.aio")  # not imported, it raised nothing
        if grpc is None or not isinstance(error, grpc.AioRpcError):
            raise
        raise errors.from_code(int(error.code().value[0]), error.details() or error.code().name) from None


def _grpc_channel(path: str) -> aio.Channel:
    from grpc import aio  # 100 ms, which nobody pays who brings another channel

    return aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS)


class Connection:
    """A channel plus namespace and lease; `derive` shares the channel under other headers.

    The channel is `grpc.aio`'s unless another is given, of `longshore.client.wire`.

    Create it inside a running event loop. `close` is the owner's business:
    derived connections are views.
    """

    def __init__(
        self, address: str, namespace: str, *, lease: str = "", channel: aio.Channel | Channel | None = None
    ) -> None:
        self.address = socket_path(address)
        self.namespace = namespace
        self.lease = lease
        self.channel = channel or _grpc_channel(self.address)
        headers = ((GRPC_HEADER, namespace), (LEASE_HEADER, lease))
        self.metadata = tuple((key, value) for key, value in headers if value)

    def derive(self, *, namespace: str | None = None, lease: str | None = None) -> Connection:
        """The same channel with another namespace or lease."""
        return Connection(
            self.address,
            self.namespace if namespace is None else namespace,
            lease=self.lease if lease is None else lease,
            channel=self.channel,
        )

    async def call(
        self, method: aio.UnaryUnaryMultiCallable[Q, R], request: Q, *, timeout: float | None = None
    ) -> R:
        """One request, one answer. `timeout` is in seconds; None waits for ever (Tasks.Wait does)."""
        with translated():
            return await method(request, metadata=self.metadata, timeout=timeout)

    async def stream(self, method: aio.UnaryStreamMultiCallable[Q, R], request: Q) -> AsyncIterator[R]:
        """One request, many answers. Leaving the iteration early cancels the call."""
        call = method(request, metadata=self.metadata)
        try:
            with translated():
                async for message in call:
                    yield message
        finally:
            call.cancel()

    async def close(self) -> None:
        await self.channel.close()

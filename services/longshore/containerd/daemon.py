"""The running daemon: builds the parts, listens, waits for a signal, and takes everything down in order."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import structlog
from grpc_health.v1 import health_pb2

from longshore.api.errors import FailedPrecondition, InvalidArgument
from longshore.containerd import builtins, rpc
from longshore.containerd.config import TCP, Config
from longshore.containerd.directories import Directories
from longshore.containerd.version import VERSION
from longshore.systemd import notify

if TYPE_CHECKING:
    from longshore.zygote.client import Zygote

log = structlog.get_logger("containerd")

# How long running calls may go on after SIGTERM. dockerd kills its containerd 15 s after the signal.
GRACE_SECONDS: Final = 5.0

# Errors travel as headers: with grpc's default of 8 KiB a long one (a failed runc, a list of what keeps a
# namespace) would arrive as RESOURCE_EXHAUSTED.
MAX_METADATA: Final = 1 << 20

_CONNECT_SECONDS: Final = 1.0


class Daemon:
    """One containerd. `run` returns its exit status."""

    def __init__(self, config: Config, directories: Directories, zygote: Zygote | None) -> None:
        self._config = config
        self._directories = directories
        self._zygote = zygote

    async def run(self) -> int:
        stop = asyncio.Event()
        _handle_signals(stop)
        async with AsyncExitStack() as stack:
            if self._zygote is not None:
                stack.push_async_callback(self._zygote.close)
            registrar = rpc.Registrar()
            kit = builtins.Kit(self._config, self._directories, registrar, self._zygote, stack)
            await builtins.build(kit)
            server = self._server(registrar)
            for start in kit.before_serving:
                await start()
            self._bind(server)
            await server.start()
            await kit.health.set("", health_pb2.HealthCheckResponse.SERVING)
            gc.freeze()
            log.info("containerd successfully booted", address=self._config.address, version=VERSION)
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            log.info("stopping")
            for end in kit.on_stop:
                end()
            await kit.health.enter_graceful_shutdown()
            await server.stop(GRACE_SECONDS)
            await rpc.finish_shielded(GRACE_SECONDS)
            _unlink_socket(self._config.address)
        log.info("stopped")
        return 0

    def _server(self, registrar: rpc.Registrar) -> grpc.aio.Server:
        return grpc.aio.server(
            handlers=[registrar],
            options=[
                ("grpc.max_receive_message_length", self._config.max_recv_message_size),
                ("grpc.max_send_message_length", self._config.max_send_message_size),
                ("grpc.max_metadata_size", MAX_METADATA),
                ("grpc.absolute_max_metadata_size", MAX_METADATA),
                ("grpc.so_reuseport", 0),
                # Clients of a local socket may ping as often as they like.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )

    def _bind(self, server: grpc.aio.Server) -> None:
        if self._config.tcp.address:  # first: who sees the socket may take it that we are up
            bind_tcp(server, self._config.tcp)
        path = Path(self._config.address)
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        remove_stale_socket(path)
        with umask(0o117):
            try:
                server.add_insecure_port(f"unix:{path}")
            except RuntimeError as error:
                raise FailedPrecondition(f"can't listen on {path}: {error}") from None
        os.chown(path, self._config.uid, self._config.gid)


def _handle_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # All threads' stacks on stderr, even while the loop is stuck: the handler is C code.
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


# -- the socket ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Files made inside have no bit of `mask`; a socket is never open to all, not even for a moment."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def remove_stale_socket(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises FailedPrecondition if somebody does, or it is no socket.

    grpcio would take over a live socket's name without a word.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(f"{path} exists and is not a socket: remove it, or give another --address")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise FailedPrecondition(f"{path} can't be probed: {error}") from None
    raise FailedPrecondition(f"another process is listening on {path}: stop it, or give another --address")


def bind_tcp(server: grpc.aio.Server, tcp: TCP) -> None:
    """Listen there, too. Raises InvalidArgument for files that can't be used, FailedPrecondition for the address."""
    try:
        cert, key, ca = (Path(name).read_bytes() if name else None for name in (tcp.cert, tcp.key, tcp.ca))
    except OSError as error:
        raise InvalidArgument(f"TLS of {tcp.address}: {error.filename}: {error.strerror}") from None
    if (cert is None) != (key is None) or (ca and not cert):
        raise InvalidArgument(f"TLS of {tcp.address} needs both a certificate and its key")
    try:
        if cert is None or key is None:
            log.warning("anybody who reaches this address is root here: give it TLS", address=tcp.address)
            server.add_insecure_port(tcp.address)
        else:
            credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=ca is not None)
            server.add_secure_port(tcp.address, credentials)
    except RuntimeError as error:
        raise FailedPrecondition(f"can't listen on {tcp.address}: {error}") from None


def _unlink_socket(address: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)

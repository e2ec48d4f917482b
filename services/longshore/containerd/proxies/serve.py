"""Serve a snapshotter on a socket of its own, for a containerd of whatever make.

    python -m longshore.containerd.proxies.serve --driver MODULE:NAME --root DIR --address SOCKET

NAME is called with a directory below DIR and gives a `Driver` (see
`longshore.containerd.snapshots.driver`). The books (keys, parents, kinds) are
kept in a database below DIR.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import grpc

from longshore.api import errors
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from longshore.containerd import rpc
from longshore.containerd.daemon import remove_stale_socket, umask
from longshore.containerd.metadata.store import Store
from longshore.containerd.scope import Scope
from longshore.containerd.snapshots.driver import Driver
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers
from longshore.containerd.snapshots.service import SnapshotsService

Factory = Callable[[Path], Driver]


class _Any(dict[str, LocalSnapshotter]):
    """containerd asks for it by the name that its configuration has, which is nobody else's business."""

    def get(self, name: str, default: object = None) -> LocalSnapshotter:
        return self["served"]


async def serve(factory: Factory, root: Path, address: Path) -> None:
    """Until SIGTERM or SIGINT. Prints a line when it listens. Raises FailedPrecondition for a socket in use."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = Store(root / "meta.sqlite")
    snapshotter = LocalSnapshotter("served", factory(root / "data"), store, Numbers(store), None)
    snapshotter.start()
    # Keys hold the caller's namespace already, and leases are the caller's: here is one space for all.
    service = SnapshotsService(_Any(served=snapshotter), lambda call: Scope("proxy"))
    registrar = rpc.Registrar()
    add_SnapshotsServicer_to_server(service, registrar)  # type: ignore[arg-type]
    server = grpc.aio.server(handlers=[registrar])
    remove_stale_socket(address)
    with umask(0o117):
        server.add_insecure_port(f"unix:{address}")
    await server.start()
    print(f"serving on {address}", flush=True)
    await stop.wait()
    await server.stop(5)
    await rpc.finish_shielded(5)
    await snapshotter.close()
    store.close()
    _unlink(address)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def load(text: str) -> Factory:
    """MODULE:NAME. Raises InvalidArgument."""
    module, _, name = text.partition(":")
    try:
        factory: Factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise errors.InvalidArgument(f"--driver {text}: {error}: invalid argument") from None
    return factory


def main() -> int:
    parser = argparse.ArgumentParser(prog="longshore-snapshotter", description=__doc__.splitlines()[0])
    parser.add_argument("--driver", required=True, metavar="MODULE:NAME")
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--address", required=True, type=Path)
    arguments = parser.parse_args()
    try:
        arguments.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.run(serve(load(arguments.driver), arguments.root, arguments.address))
    except (errors.Error, OSError) as error:
        print(f"longshore-snapshotter: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

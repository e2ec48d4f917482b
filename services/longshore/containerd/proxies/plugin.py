"""Builds what isn't ours: ``[proxy_plugins.NAME]`` of config.toml, and entry points of other packages.

Each becomes a plugin of its own in the list that clients see. One that can't be
built is there with its error, and the daemon starts all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from longshore.api import errors
from longshore.containerd.config import Proxy
from longshore.containerd.plugins import PluginRecord
from longshore.containerd.proxies import entrypoints
from longshore.containerd.proxies.diff import ProxyDiffer
from longshore.containerd.proxies.snapshots import Backend, ProxySnapshotter
from longshore.containerd.snapshots.local import LocalSnapshotter, Numbers

if TYPE_CHECKING:
    from longshore.containerd.builtins import Kit

log = structlog.get_logger("proxies")

SNAPSHOTTER: Final = "io.containerd.snapshotter.v1"
DIFFER: Final = "io.containerd.differ.v1"
OPTIONS: Final = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.enable_http_proxy", 0),
)


def build(kit: Kit) -> None:
    for name, proxy in kit.config.proxy_plugins.items():
        type = _TYPES.get(proxy.type, f"io.containerd.{proxy.type}.v1")
        _add(kit, type, name, partial(_proxy, kit, name, proxy), proxy.exports, proxy.capabilities)
    for name, loaded in entrypoints.found(entrypoints.SNAPSHOTTERS):
        exports = {"root": str(kit.directories.plugin_root(SNAPSHOTTER, name))}
        _add(kit, SNAPSHOTTER, name, partial(_snapshotter, kit, name, loaded), exports)
    for name, loaded in entrypoints.found(entrypoints.DIFFERS):
        _add(kit, DIFFER, name, partial(_differ, kit, name, loaded))


_TYPES: Final = {"snapshot": SNAPSHOTTER, "diff": DIFFER, "content": "io.containerd.content.v1"}


def _add(
    kit: Kit,
    type: str,
    name: str,
    make: Callable[[], None],
    exports: Mapping[str, str] | None = None,
    capabilities: Sequence[str] = (),
) -> None:
    failure: errors.Error | None = None
    if f"{type}.{name}" in kit.config.disabled_plugins:
        return
    try:
        make()
    except Exception as error:  # anything that a strange package may raise
        log.error("part failed to start", plugin=f"{type}.{name}", exc_info=error)
        failure = error if isinstance(error, errors.Error) else errors.Error(str(error) or "failed")
    kit.plugins.append(
        PluginRecord(
            type, name, (), exports or {}, tuple(capabilities), type != "io.containerd.content.v1", failure
        )
    )


def target(name: str, proxy: Proxy) -> str:
    """Its address as grpc wants it. Raises InvalidArgument if there is none."""
    if not proxy.address:
        raise errors.InvalidArgument(f"proxy plugin {name} has no address: invalid argument")
    address = proxy.address if "://" in proxy.address else f"unix:{proxy.address}"
    return address.replace("unix://", "unix:")


def _proxy(kit: Kit, name: str, proxy: Proxy) -> None:
    if proxy.type == "content":  # the content store has taken it
        return
    if proxy.type not in ("snapshot", "diff"):
        raise errors.Unimplemented(f"proxy plugins of type {proxy.type!r}: not implemented")
    channel = grpc.aio.insecure_channel(target(name, proxy), options=OPTIONS)
    kit.stack.push_async_callback(channel.close)
    if proxy.type == "diff":
        kit.differs[name] = ProxyDiffer(channel)
        return
    _unused(name, kit.snapshotters)
    snapshotter = ProxySnapshotter(name, Backend(name, channel), kit.store, _numbers(kit), kit.holds)
    kit.snapshotters[name] = snapshotter
    kit.before_serving.append(snapshotter.recover)
    kit.stack.push_async_callback(snapshotter.close)


def _snapshotter(kit: Kit, name: str, loaded: Callable[..., Any] | errors.Error) -> None:
    if isinstance(loaded, errors.Error):
        raise loaded
    _unused(name, kit.snapshotters)
    driver = loaded(kit.directories.plugin_root(SNAPSHOTTER, name))
    # Not the zygote: it knows our own worker functions only, and such a driver may want others.
    snapshotter = LocalSnapshotter(name, driver, kit.store, _numbers(kit), None, kit.holds)
    snapshotter.start()
    kit.snapshotters[name] = snapshotter
    kit.stack.push_async_callback(snapshotter.close)


def _differ(kit: Kit, name: str, loaded: Callable[..., Any] | errors.Error) -> None:
    if isinstance(loaded, errors.Error):
        raise loaded
    _unused(name, kit.differs)
    kit.differs[name] = loaded(kit.content)


def _unused(name: str, known: Mapping[str, object]) -> None:
    if name in known:
        raise errors.AlreadyExists(f"plugin {name}: already exists")


def _numbers(kit: Kit) -> Numbers:
    kit.snapshot_numbers = kit.snapshot_numbers or Numbers(kit.store)
    return kit.snapshot_numbers

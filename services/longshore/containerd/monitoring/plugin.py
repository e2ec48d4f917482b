"""Builds the metrics endpoint and the debug socket, where an address is configured for them.

``[metrics] address = "127.0.0.1:1338"`` and ``[debug] address = "/run/containerd/debug.sock"``, or the same below
``[plugins."io.containerd.server.v1.metrics"]`` and ``.debug`` in version 4. With ``grpc_histogram = true`` beside the
first calls are counted and timed; nothing is in their way otherwise.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from longshore.containerd.version import VERSION

if TYPE_CHECKING:
    from longshore.containerd.builtins import Exports, Kit
    from longshore.containerd.monitoring.calls import Calls

TYPE: Final = "io.containerd.server.v1"
HISTOGRAMS: Final = "io.containerd.metrics.v1.grpc-prometheus"  # where version 4 has the setting


async def build_metrics(kit: Kit) -> Exports:
    given = kit.config.plugin(f"{TYPE}.metrics")
    address = str(given.get("address", ""))
    if not address:
        _skip("metrics")
    from longshore.containerd.monitoring.calls import Calls
    from longshore.containerd.monitoring.http import Pages
    from longshore.containerd.monitoring.metrics import Collector

    calls = Calls()
    if {**given, **kit.config.plugin(HISTOGRAMS)}.get("grpc_histogram") is True:
        kit.before_serving.append(partial(_measure, kit, calls))
    pages = Pages({"/v1/metrics": Collector(kit.store, kit.manager, VERSION, calls.samples).page})
    await pages.tcp(address)
    kit.stack.push_async_callback(pages.close)
    return {"address": address}


async def _measure(kit: Kit, calls: Calls) -> None:
    kit.server.wrap(calls.wrap)


async def build_debug(kit: Kit) -> Exports:
    from longshore.containerd.daemon import remove_stale_socket, umask

    given = kit.config.plugin(f"{TYPE}.debug")
    address = str(given.get("address", "")).removeprefix("unix://")
    if not address:
        _skip("debug")
    from longshore.containerd.monitoring import debug
    from longshore.containerd.monitoring.http import Pages

    path = Path(address)
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    remove_stale_socket(path)
    pages = Pages(debug.pages())
    with umask(0o117):
        await pages.unix(address)
    os.chown(address, int(given.get("uid", os.geteuid())), int(given.get("gid", os.getegid())))
    kit.stack.callback(_unlink, address)
    kit.stack.push_async_callback(pages.close)
    return {"address": address}


def _skip(what: str) -> None:
    from longshore.containerd.builtins import Skip

    raise Skip(f"no {what} address is configured: skip plugin")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

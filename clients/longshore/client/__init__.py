"""The Longshore SDK: talk to a containerd socket, Longshore's or the original's.

`AsyncClient` is the core, `Client` the same with blocking calls; `spec` builds
what a container runs. Names load on first use, so that a program pays only for
what it touches (``ctr version`` wants 20 ms of this package, not 200).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longshore.client import spec
    from longshore.client.client import AsyncClient
    from longshore.client.io import PIPE, LogURI, Null, Pipes
    from longshore.client.sync import Client
    from longshore.client.tasks import ExitStatus

_HOMES = {
    "AsyncClient": "longshore.client.client",
    "Client": "longshore.client.sync",
    "ExitStatus": "longshore.client.tasks",
    "LogURI": "longshore.client.io",
    "Null": "longshore.client.io",
    "PIPE": "longshore.client.io",
    "Pipes": "longshore.client.io",
}

__all__ = ["PIPE", "AsyncClient", "Client", "ExitStatus", "LogURI", "Null", "Pipes", "spec"]


def __getattr__(name: str) -> object:
    if name == "spec":
        return import_module("longshore.client.spec")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

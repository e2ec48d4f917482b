"""How to reach registries, apart from what does it: who only says so needn't load an HTTP client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from longshore.registry.credentials import Provider, anonymous
from longshore.registry.hosts import Settings
from longshore.registry.policy import Policy


class Options(NamedTuple):
    """How to reach registries.

    `chunk_size` (bytes): push blobs in pieces of this size, each of which can
    be taken up again; 0 sends each in one request. `trace` is called with
    every request and answer, without secrets.
    """

    settings: Settings = Settings()
    credentials: Provider = anonymous
    policy: Policy = Policy()
    headers: tuple[tuple[str, str], ...] = ()
    chunk_size: int = 0
    trace: Callable[[str], None] | None = None


DEFAULT_OPTIONS: Final = Options()

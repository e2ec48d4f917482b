"""What the daemon says of a part of itself. The parts are listed in `builtins`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from longshore.api import errors


class PluginRecord(NamedTuple):
    """One part, as ``ctr plugins ls`` shows it."""

    type: str
    id: str
    requires: tuple[str, ...] = ()
    exports: Mapping[str, str] = {}
    capabilities: tuple[str, ...] = ()
    has_platform: bool = False  # works for this machine's platform only
    error: errors.Error | None = None  # why it isn't there

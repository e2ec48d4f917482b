"""For whom the stores work: passed first to every method of a content store or snapshotter."""

from __future__ import annotations

from typing import NamedTuple


class Scope(NamedTuple):
    """A caller's namespace, and the lease that shall hold what the call creates ("" for none)."""

    namespace: str
    lease: str = ""

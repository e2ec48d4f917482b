"""pids: how many tasks."""

from __future__ import annotations

from longshore.linux.cgroup import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def v1(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """What to write (the same in v1 and v2); 0 means not set, negative means no limit."""
    limit = (resources.get("pids") or {}).get("limit") or 0
    return [("pids.max", str(limit) if limit > 0 else "max")] if limit else []


v2 = v1


def stats(path: str) -> dict[str, Any]:
    """Tasks now; the limit, 0 if there is none."""
    limit = values.number(path + "/pids.max")
    return {"current": values.number(path + "/pids.current"), "limit": 0 if limit == values.MAX else limit}

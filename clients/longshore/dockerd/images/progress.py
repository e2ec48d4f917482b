"""Lines of progress, as Docker's clients draw them: news of the SDK in, documents out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from longshore.client.registries import Progress
from longshore.dockerd.images import names

INTERVAL: Final = 0.1  # seconds between two lines about one layer
_WIDTH: Final = 50  # characters of a bar
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")

Line = dict[str, Any]


def size(count: float) -> str:
    """Four significant digits, decimal units: 4.272MB."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.4g}{_UNITS[unit]}"


def bar(current: int, total: int) -> str:
    """As the original draws it for those who only print."""
    if total <= 0 or current > total:
        return f"{size(current):>8}"
    done = int(current / total * 100) // 2
    head = ">" if done < _WIDTH else ""
    drawn = "=" * done + head + " " * (_WIDTH - done - len(head))
    return f"[{drawn}] {size(current):>8}/{size(total)}"


def line(status: str, digest: str, current: int = 0, total: int = 0) -> Line:
    """News of one layer."""
    found: Line = {"status": status, "progressDetail": {}, "id": names.short(digest)}
    if current or total:
        detail = {"current": current, **({"total": total} if total > 0 else {})}
        found |= {"progressDetail": detail, "progress": bar(current, total)}
    return found


class Layers:
    """What to say of each layer, and not too often. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._stage: dict[str, str] = {}
        self.hide_existing = False

    def _due(self, digest: str) -> bool:
        now = self._clock()
        if now - self._last.get(digest, -INTERVAL) < INTERVAL:
            return False
        self._last[digest] = now
        return True

    def pulled(self, news: Progress) -> list[Line]:
        """Of a pull; nothing for what isn't a layer."""
        if not news.name.startswith("layer-"):
            return []
        before, self._stage[news.digest] = self._stage.get(news.digest, ""), news.stage
        if news.stage == "downloading":
            if news.offset and self._due(news.digest):
                return [line("Downloading", news.digest, news.offset, news.total)]
            return []
        if news.stage == "unpacking":  # one step, of which nothing is known until it is done
            return [line("Extracting", news.digest, news.total, news.total)]
        if news.stage == "exists" and (self.hide_existing or before == "exists"):
            return []
        return [line(status, news.digest) for status in _PULLED.get(news.stage, ())]

    def pushed(self, news: Progress, shown: str, mounted_from: str = "") -> list[Line]:
        """Of a push; `shown` is the digest by which clients know the layer."""
        if news.stage == "uploading":
            return [line("Pushing", shown, news.offset, news.total)] if self._due(news.digest) else []
        statuses = _PUSHED.get(news.stage, ())
        return [line(status.format(mounted_from), shown) for status in statuses]


_PULLED: Final = {
    "waiting": ("Pulling fs layer",),
    "exists": ("Already exists",),
    "downloaded": ("Verifying Checksum", "Download complete"),
    "unpacked": ("Pull complete",),
}
_PUSHED: Final = {
    "exists": ("Layer already exists",),
    "mounted": ("Mounted from {}",),
    "uploaded": ("Pushed",),
}

"""What has happened, for `docker events`: the last events, on disk too, and who listens.

Publishing never waits: a listener that doesn't read loses its oldest events,
and nobody else notices. The journal is a file of JSON lines that isn't synced:
events are news, not state, but the last ones are still there after a restart.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Self
from weakref import WeakSet

import msgspec
import structlog

log = structlog.get_logger("dockerd.events")

KEPT: Final = 1024  # events for `since`
WAITING: Final = 4096  # events that one listener may be behind

Event = dict[str, Any]
Filters = Mapping[str, Sequence[str]]

FILTERS: Final = frozenset(
    {
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    }
)


class Events:
    """`path` is the journal, "" for none."""

    def __init__(self, path: str = "") -> None:
        self._journal = _Journal(path) if path else None
        self._kept: deque[Event] = deque(self._journal.load() if self._journal else (), KEPT)
        self._listeners: WeakSet[Subscription] = WeakSet()
        self._last_ns = 0

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], scope: str = "local"
    ) -> None:
        """Tell everybody; cheap, and never an error. From the event loop's thread."""
        # Two events never have one time: clients ask for what came after the last that they saw.
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        event = message(type, action, actor_id, attributes, scope, self._last_ns)
        self._kept.append(event)
        if self._journal is not None:
            self._journal.append(event, self._kept)
        for listener in list(self._listeners):
            listener.offer(event)

    def subscribe(
        self, since_ns: int | None = None, until_ns: int | None = None, filters: Filters | None = None
    ) -> Subscription:
        """Kept events from `since_ns` on (None: only new ones), then new ones until `until_ns` (None: for ever).

        It listens from now on, whenever iteration begins, and until it is closed or forgotten.
        """
        wanted = matcher(filters or {})
        subscription = Subscription(wanted, until_ns, self._listeners.discard)
        if since_ns is not None or until_ns is not None:
            for event in self._kept:
                if event["timeNano"] >= (since_ns or 0):
                    subscription.offer(event)
        self._listeners.add(subscription)
        return subscription

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def close(self) -> None:
        """End every subscription, and the journal."""
        for listener in list(self._listeners):
            listener.end()
        if self._journal is not None:
            self._journal.close()


class Subscription:
    """An async iterator of events; `aclose` ends it, and so does an `async with`."""

    def __init__(
        self,
        wanted: Callable[[Event], bool],
        until_ns: int | None,
        forget: Callable[[Subscription], None],
    ) -> None:
        self._wanted, self._until_ns, self._forget = wanted, until_ns, forget
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._news = asyncio.Event()
        self._ended = False

    def offer(self, event: Event) -> None:
        if self._ended or (self._until_ns is not None and event["timeNano"] > self._until_ns):
            return
        if self._wanted(event):
            self._waiting.append(event)
            self._news.set()

    def end(self) -> None:
        self._ended = True
        self._forget(self)
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            try:
                async with asyncio.timeout(self._left()):
                    await self._news.wait()
            except TimeoutError:
                self.end()
        return self._waiting.popleft()

    def _left(self) -> float | None:
        if self._until_ns is None:
            return None
        return max(0.0, (self._until_ns - time.time_ns()) / 1e9)

    async def aclose(self) -> None:
        self.end()
        self._waiting.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def message(
    type: str, action: str, actor_id: str, attributes: Mapping[str, str], scope: str, time_ns: int
) -> Event:
    """As the API has it: containers and images are told about in the oldest form, too."""
    event: Event = {}
    if type in ("container", "image"):
        event |= {"status": action, "id": actor_id}
    if type == "container" and "image" in attributes:
        event["from"] = attributes["image"]
    return event | {
        "Type": type,
        "Action": action,
        "Actor": {"ID": actor_id, "Attributes": dict(sorted(attributes.items()))},
        "scope": scope,
        "time": time_ns // 1_000_000_000,
        "timeNano": time_ns,
    }


# -- filters ------------------------------------------------------------------------------------------------


def matcher(filters: Filters) -> Callable[[Event], bool]:
    """All filters must hold; of one filter's values, one (of labels, all)."""
    tests = [_test(name, values) for name, values in filters.items() if values]
    return lambda event: all(test(event) for test in tests)


def _test(name: str, values: Sequence[str]) -> Callable[[Event], bool]:
    match name:
        case "event":
            return lambda event: event["Action"] in values or event["Action"].partition(":")[0] in values
        case "type":
            return lambda event: event["Type"] in values
        case "scope":
            return lambda event: event["scope"] in values
        case "label":
            return lambda event: all(_labelled(event["Actor"]["Attributes"], value) for value in values)
        case "image":
            return lambda event: _image(event, values)
        case _:
            return lambda event: event["Type"] == name and _named(event["Actor"], values)


def _labelled(attributes: Mapping[str, str], wanted: str) -> bool:
    key, found, value = wanted.partition("=")
    return key in attributes and (not found or attributes[key] == value)


def _named(actor: Event, values: Sequence[str]) -> bool:
    names = [name for name in (actor["ID"], actor["Attributes"].get("name", "")) if name]
    return any(name.startswith(value) for name in names for value in values)


def _image(event: Event, values: Sequence[str]) -> bool:
    if event["Type"] not in ("image", "container"):
        return False
    attributes = event["Actor"]["Attributes"]
    key = "name" if event["Type"] == "image" else "image"
    names = {event["Actor"]["ID"], attributes.get(key, "")}
    return bool((names | {_without_tag(name) for name in names}) & set(values))


def _without_tag(name: str) -> str:
    head, colon, tag = name.partition("@")[0].rpartition(":")
    return head if colon and "/" not in tag else name


# -- the journal --------------------------------------------------------------------------------------------


class _Journal:
    """A file of JSON lines, written anew when it holds four times what is kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines = 0
        self._file: int | None = None
        self._cut = False

    def load(self) -> list[Event]:
        try:
            with open(self._path, "rb") as file:
                lines = file.readlines()
        except FileNotFoundError:
            lines = []
        events = [event for line in lines[-KEPT:] if (event := _parsed(line)) is not None]
        self._lines, self._cut = len(lines), bool(lines) and not lines[-1].endswith(b"\n")
        try:
            self._rewrite(events)
        except OSError as error:
            self._complain(error)
        return events

    def append(self, event: Event, kept: Sequence[Event]) -> None:
        try:
            if self._lines >= 4 * KEPT:
                self._rewrite(kept)
            elif self._file is not None:
                self._write(self._file, msgspec.json.encode(event) + b"\n")
                self._lines += 1
        except OSError as error:
            self._complain(error)

    def _write(self, file: int, line: bytes) -> None:
        """A line that a full disk has cut short doesn't spoil the next."""
        line = b"\n" + line if self._cut else line
        self._cut = True
        self._cut = os.write(file, line) < len(line)

    def _complain(self, error: OSError) -> None:
        log.warning("the journal of events can't be written", path=self._path, error=str(error))

    def _rewrite(self, events: Sequence[Event]) -> None:
        """OSError: the file is as it was."""
        fresh = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if self._file is None:
            self._file = os.open(self._path, flags, 0o600)
        with open(fresh, "wb", opener=lambda path, _: os.open(path, flags | os.O_TRUNC, 0o600)) as file:
            file.writelines(msgspec.json.encode(event) + b"\n" for event in events)
            file.flush()
            os.rename(fresh, self._path)
            self.close()
            self._file, self._lines, self._cut = os.dup(file.fileno()), len(events), False

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _parsed(line: bytes) -> Event | None:
    """None for a line that was cut short."""
    try:
        event = msgspec.json.decode(line, type=Event)
    except msgspec.DecodeError:
        return None
    return event if "timeNano" in event and "Actor" in event else None

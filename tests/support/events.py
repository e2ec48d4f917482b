"""Watching a daemon's events with Debian's `ctr events`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import uuid
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from support import host


class Event(NamedTuple):
    namespace: str
    topic: str
    fields: dict[str, Any]

    def names(self, wanted: str) -> bool:
        """Whether a field is `wanted`; every event names ""."""
        return not wanted or wanted in self.fields.values()


class Daemon(Protocol):
    """What both kinds of daemons offer."""

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[bytes]: ...

    def go_ctr(self, *words: str) -> Any: ...


class Watcher:
    """``with Watcher(daemon) as watcher:`` sees every event from then on.

    The protocol has no sign that a subscription stands, so that we make
    namespaces until we hear of one.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._text = ""

    def __enter__(self) -> Watcher:
        self._process = self._daemon.popen("events", stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._stream = self._process.stdout.fileno()
        while "/namespaces/create" not in self._text:
            probe = f"probe-{uuid.uuid4().hex[:8]}"
            self._daemon.go_ctr("namespaces", "create", probe)
            self._daemon.go_ctr("namespaces", "rm", probe)
            self._read(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(host.innermost(self._process.pid), 9)
        self._process.communicate()

    def until(self, topic: str, *, count: int = 1, of: str = "", within: float = 60) -> list[Event]:
        """All events so far, once `count` of them have `topic` and name `of`, if that is given, in a field.

        AssertionError after `within` idle seconds.
        """
        while sum(event.topic == topic and event.names(of) for event in self.events()) < count:
            if not self._read(within):
                raise AssertionError(f"no {count} of {topic} {of} in:\n{self._text}")
        return self.events()

    def events(self) -> list[Event]:
        return [_parse(line) for line in self._text.split("\n")[:-1]]

    def _read(self, within: float) -> bool:
        """Take in what there is, waiting `within` seconds for the first of it; False when nothing came."""
        ready, _, _ = select.select([self._stream], [], [], within)
        if ready:
            came = os.read(self._stream, 1 << 16).decode()
            assert came, f"ctr events has ended after:\n{self._text}"
            self._text += came
        return bool(ready)


def _parse(line: str) -> Event:
    """``2026-01-01 00:00:00.0 +0000 UTC NAMESPACE TOPIC {...}``"""
    stamp, brace, fields = line.partition(" {")
    namespace, topic = stamp.split(" ")[-2:]
    return Event(namespace, topic, json.loads("{" + fields) if brace else {})

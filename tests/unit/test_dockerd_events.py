"""Events: shape, filters, what is kept, who is slow."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from longshore.dockerd import events as module
from longshore.dockerd.events import Events, matcher, message

ID = "4f" * 32
CONTAINER = message("container", "die", ID, {"name": "web", "image": "nginx:1", "color": "red"}, "local", 5)
HEALTH = message("container", "health_status: healthy", ID, {"name": "web"}, "local", 6)
IMAGE = message("image", "tag", "sha256:aa", {"name": "nginx:1"}, "local", 7)
NETWORK = message("network", "connect", "n1", {"name": "bridge", "container": ID}, "local", 8)


def test_containers_and_images_have_the_oldest_form_too() -> None:
    assert CONTAINER == {
        "status": "die",
        "id": ID,
        "from": "nginx:1",
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": ID, "Attributes": {"color": "red", "image": "nginx:1", "name": "web"}},
        "scope": "local",
        "time": 0,
        "timeNano": 5,
    }
    assert (IMAGE["status"], "from" in IMAGE, "status" in NETWORK) == ("tag", False, False)


@pytest.mark.parametrize(
    ("filters", "wanted"),
    (
        ({}, [CONTAINER, HEALTH, IMAGE, NETWORK]),
        ({"type": ["container"]}, [CONTAINER, HEALTH]),
        ({"type": ["image", "network"]}, [IMAGE, NETWORK]),
        ({"event": ["die", "tag"]}, [CONTAINER, IMAGE]),
        ({"event": ["health_status"]}, [HEALTH]),
        ({"event": ["health_status: healthy"]}, [HEALTH]),
        ({"container": ["web"]}, [CONTAINER, HEALTH]),
        ({"container": [ID[:12]]}, [CONTAINER, HEALTH]),
        ({"container": ["other"]}, []),
        ({"image": ["nginx"]}, [CONTAINER, IMAGE]),
        ({"image": ["nginx:1"]}, [CONTAINER, IMAGE]),
        ({"image": ["nginx:2"]}, []),
        ({"network": ["bridge"]}, [NETWORK]),
        ({"label": ["color"]}, [CONTAINER]),
        ({"label": ["color=red"]}, [CONTAINER]),
        ({"label": ["color=red", "size"]}, []),
        ({"scope": ["swarm"]}, []),
        ({"type": ["container"], "event": ["tag"]}, []),
    ),
)
def test_filters(filters: dict[str, list[str]], wanted: list[Any]) -> None:
    test = matcher(filters)
    assert [event for event in (CONTAINER, HEALTH, IMAGE, NETWORK) if test(event)] == wanted


async def test_since_and_until_and_news() -> None:
    events = Events()
    events.publish("volume", "create", "a", {})
    later = time.time_ns()
    events.publish("volume", "create", "b", {})
    kept = events.subscribe(since_ns=later, until_ns=time.time_ns())
    assert [event["Actor"]["ID"] async for event in kept] == ["b"]
    assert [event["Actor"]["ID"] async for event in events.subscribe(0, time.time_ns())] == ["a", "b"]
    async with events.subscribe() as news:
        events.publish("volume", "create", "c", {})
        events.publish("volume", "destroy", "c", {})
        assert [(await anext(news))["Action"], (await anext(news))["Action"]] == ["create", "destroy"]
    assert events.listeners == 0


async def test_until_in_the_future_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    events, now = Events(), time.time_ns()
    with monkeypatch.context() as patch:  # however long it takes from here to the next event
        patch.setattr("longshore.dockerd.events.time.time_ns", lambda: now)
        subscription = events.subscribe(None, now + 50_000_000)
        events.publish("volume", "create", "a", {})
    assert [event["Actor"]["ID"] async for event in subscription] == ["a"]


async def test_close_ends_every_listener() -> None:
    events = Events()
    subscription = events.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    events.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_slow_listener_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 2)
    events = Events()
    slow = events.subscribe()
    for name in "abc":
        events.publish("volume", "create", name, {})
    assert (await anext(slow))["Actor"]["ID"] == "b"


async def test_no_two_events_have_one_time() -> None:
    events = Events()
    for _ in range(100):
        events.publish("volume", "create", "a", {})
    times = [event["timeNano"] async for event in events.subscribe(0, time.time_ns() + 1)]
    assert len(set(times)) == len(times) == 100


async def test_the_journal_is_read_again_and_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    path = tmp_path / "events"
    events = Events(str(path))
    for number in range(30):
        events.publish("volume", "create", str(number), {})
    events.close()
    assert len(path.read_text().splitlines()) <= 12
    path.write_text(path.read_text() + '{"cut sh')
    again = Events(str(path))
    assert [e["Actor"]["ID"] async for e in again.subscribe(0, time.time_ns())] == ["28", "29"]
    again.publish("volume", "create", "30", {})
    again.close()
    assert all(json.loads(line) for line in path.read_text().splitlines())

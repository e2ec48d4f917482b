"""What only our daemon offers: events replayed by sequence and time, to the SDK and to ctr."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from longshore.api.errors import Unavailable
from longshore.client import Client
from longshore.ctr.hostimage import build
from support.daemon import Longshore


@pytest.fixture(scope="module")
def daemon() -> Iterator[Longshore]:
    with Longshore() as daemon:
        yield daemon


@pytest.fixture
def client(daemon: Longshore) -> Iterator[Client]:
    with Client(str(daemon.address), daemon.namespace) as client:
        yield client


def make(client: Client, *names: str) -> None:
    for name in names:
        client.containers.create(name, rootfs="/", args=["true"]).delete()


def topics(client: Client, count: int, **since: int) -> list[str]:
    with client.events.subscribe("topic~=|^/containers/|", **since) as events:
        return [event.topic for event in islice(events, count)]


def test_by_sequence(client: Client) -> None:
    with client.events.subscribe() as events:
        head = events.head
    assert head is not None
    make(client, "a")
    expected = ["/containers/create", "/containers/delete"]
    assert topics(client, 2, since=head) == expected
    assert topics(client, 2, since=head) == expected


def test_by_time(client: Client) -> None:
    make(client, "before")
    now = time.time_ns()
    make(client, "after")
    with client.events.subscribe('topic=="/containers/create"', since_time_ns=now) as events:
        first = events.next()
    assert getattr(first.message, "id", None) == "after"
    assert first.time_ns >= now


def test_replay_goes_over_into_live(client: Client) -> None:
    with client.events.subscribe() as events:
        head = events.head
    make(client, "old")
    with client.events.subscribe('topic=="/containers/create"', since=head) as events:
        make(client, "new")
        ids = [getattr(event.message, "id", None) for event in islice(events, 2)]
    assert ids == ["old", "new"]


def test_a_subscription_is_live_when_subscribe_returns(client: Client) -> None:
    for number in range(10):
        with client.events.subscribe('topic=="/containers/create"') as events:
            make(client, f"live-{number}")
            assert getattr(events.next().message, "id", None) == f"live-{number}"


def test_ctr_replays(daemon: Longshore, client: Client) -> None:
    make(client, "told")
    done = daemon.ctr(
        "events", "--since", "0", "--count", "1", "--format", "json", 'topic=="/containers/delete"'
    )
    assert json.loads(done.stdout)["topic"] == "/containers/delete"
    done = daemon.ctr("events", "--since-time", "600", "--count", "1", 'event.id=="told"')
    assert "/containers/create" in done.stdout


def test_a_client_outlives_the_daemon(client: Client, daemon: Longshore) -> None:
    """kill -9 and a new start: the same client, the same task, and `wait` asks again."""
    with tempfile.TemporaryFile() as archive:
        name = build(["sleep"], "host/sleep", archive).name
        archive.seek(0)
        client.images.import_archive(archive)
    with client.run(name, ["sleep", "1000"]) as task:
        daemon.kill9()
        with pytest.raises(Unavailable):
            task.wait()
        daemon.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                assert task.state().pid == task.pid
                break
            except Unavailable:
                assert time.monotonic() < deadline
        task.kill(9)
        assert task.wait().code == 137

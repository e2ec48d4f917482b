"""The exchange: order, replay, and what a subscriber is owed after the daemon was killed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from longshore.api import errors
from longshore.api.events.container_pb2 import ContainerCreate, ContainerDelete
from longshore.api.events.task_pb2 import TaskExit, TaskOOM, TaskStart
from longshore.api.typeurls import pack
from longshore.containerd.events import exchange as exchanging
from longshore.containerd.events import fields, journal, subscriptions
from longshore.containerd.events.exchange import Exchange, Subscription
from longshore.containerd.events.subscriptions import SubscriptionFile
from longshore.containerd.filters import compile as compile_filters
from longshore.containerd.metadata.store import Event, Store


@contextmanager
def daemon(folder: Path) -> Iterator[Exchange]:
    """One life of the daemon; leaving it without closing subscriptions is its death."""
    store = Store(folder / "meta.sqlite")
    file = SubscriptionFile(folder / "subscriptions")
    yield Exchange(store, file)
    store.close()
    file.close()


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    with daemon(tmp_path) as made:
        yield made


async def take(subscription: Subscription, count: int) -> list[str]:
    """The topics of the next events, and one look further, so that the last counts as delivered."""
    topics: list[str] = []
    async with asyncio.timeout(60), aclosing(subscription.events()) as events:
        async for event in events:
            topics.append(event.topic)
            subscription._cursor = event.sequence
            if subscription._slot:
                subscription._slot.delivered(event.sequence)
            if len(topics) == count:
                break
    return topics


async def put(exchange: Exchange, *topics: str, namespace: str = "ns") -> None:
    for topic in topics:
        await exchange.publish(namespace, topic, ContainerDelete(id="x"))


async def test_subscribers_get_what_follows_their_registration(exchange: Exchange) -> None:
    await put(exchange, "/before")
    subscription = exchange.subscribe([])
    await put(exchange, "/a", "/b")
    assert await take(subscription, 2) == ["/a", "/b"]


async def test_filters_choose(exchange: Exchange) -> None:
    subscription = exchange.subscribe(["namespace==other,topic~=|^/tasks/|", "event.id==y"])
    await put(exchange, "/tasks/x")
    await put(exchange, "/tasks/y", namespace="other")
    await exchange.publish("ns", "/containers/delete", ContainerDelete(id="y"))
    assert await take(subscription, 2) == ["/tasks/y", "/containers/delete"]


async def test_replay_from_a_sequence_runs_on_into_the_present(exchange: Exchange) -> None:
    await put(exchange, "/1", "/2", "/3")
    subscription = exchange.subscribe([], since_sequence=1)
    await put(exchange, "/4")
    assert await take(subscription, 3) == ["/2", "/3", "/4"]
    assert subscription.head == 3


async def test_replay_from_a_time(exchange: Exchange) -> None:
    await exchange.publish("ns", "/old", ContainerDelete(), timestamp_ns=1)
    await put(exchange, "/new")
    (new,) = exchange._store.read(lambda connection: journal.after(connection, 1, 1))
    subscription = exchange.subscribe([], since_time_ns=new.time_ns)
    await put(exchange, "/newer")
    assert await take(subscription, 2) == ["/new", "/newer"]


async def test_a_slow_subscriber_is_served_from_the_database(exchange: Exchange) -> None:
    exchange._recent = deque(maxlen=2)
    subscription = exchange.subscribe([])
    wanted = [f"/{number}" for number in range(10)]
    await put(exchange, *wanted)
    assert await take(subscription, 10) == wanted


async def test_the_journal_is_bounded_but_keeps_its_counter(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(exchange, "/1", "/2", "/3")
    monkeypatch.setattr(journal, "MAX_EVENTS", 2)
    await exchange.prune()
    kept = exchange._store.read(lambda connection: journal.after(connection, 0, 10))
    assert [event.sequence for event in kept] == [2, 3]
    monkeypatch.setattr(journal, "MIN_EVENTS", 1)
    monkeypatch.setattr(journal, "MAX_AGE_NS", -1_000_000_000)
    await exchange.prune()
    kept = exchange._store.read(lambda connection: journal.after(connection, 0, 10))
    assert [event.sequence for event in kept] == [3]
    await put(exchange, "/4")
    assert exchange.head == 4


async def test_stopping_ends_subscriptions(exchange: Exchange) -> None:
    waiting = asyncio.create_task(take(exchange.subscribe([]), 1))
    await asyncio.sleep(0)
    exchange.end_subscriptions()
    with pytest.raises(errors.Unavailable):
        await waiting


DOCKERD = ["namespace==ns,topic~=|^/tasks/|"]


async def test_the_continuation_of_a_subscription_gets_the_task_events_it_missed(tmp_path: Path) -> None:
    with daemon(tmp_path) as exchange:
        old = exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/seen")
        assert await take(old, 1) == ["/tasks/seen"]
        await put(exchange, "/tasks/missed", "/images/create")
    with daemon(tmp_path) as exchange:
        await put(exchange, "/tasks/at-boot")
        stranger = exchange.subscribe(["topic"])
        new = exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/live")
        assert await take(new, 3) == ["/tasks/missed", "/tasks/at-boot", "/tasks/live"]
        assert await take(stranger, 1) == ["/tasks/live"]
        # Once is enough: an equal subscription that wasn't open starts from now.
        second = exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/later")
        assert await take(second, 1) == ["/tasks/later"]


async def test_without_a_filter_too_only_task_events_are_made_up_for(tmp_path: Path) -> None:
    with daemon(tmp_path) as exchange:
        exchange.subscribe([])
        await put(exchange, "/images/create", "/tasks/missed")
    with daemon(tmp_path) as exchange:
        new = exchange.subscribe([])
        await put(exchange, "/images/delete")
        assert await take(new, 2) == ["/tasks/missed", "/images/delete"]


async def test_who_left_before_the_end_is_owed_nothing(tmp_path: Path) -> None:
    with daemon(tmp_path) as exchange:
        exchange.subscribe(DOCKERD).close()
        await put(exchange, "/tasks/missed")
    with daemon(tmp_path) as exchange:
        new = exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/live")
        assert await take(new, 1) == ["/tasks/live"]


async def test_a_graceful_stop_keeps_the_subscriptions_too(tmp_path: Path) -> None:
    with daemon(tmp_path) as exchange:
        old = exchange.subscribe(DOCKERD)
        exchange.end_subscriptions()
        old.close()
        await put(exchange, "/tasks/missed")
    with daemon(tmp_path) as exchange:
        assert await take(exchange.subscribe(DOCKERD), 1) == ["/tasks/missed"]


async def test_a_minute_after_the_start_nobody_is_a_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon(tmp_path) as exchange:
        exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/missed")
    with daemon(tmp_path) as exchange:
        monkeypatch.setattr(exchange, "_started", exchange._started - exchanging.RESUME_SECONDS - 1)
        new = exchange.subscribe(DOCKERD)
        await put(exchange, "/tasks/live")
        assert await take(new, 1) == ["/tasks/live"]


def test_slots_of_another_boot_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SubscriptionFile(tmp_path / "subscriptions")
    file.take(subscriptions.digest(["a"]), 5)
    file.close()
    monkeypatch.setattr(subscriptions, "_boot_id", lambda: bytes(16))
    assert SubscriptionFile(tmp_path / "subscriptions").left_open == {}


def test_slots_run_out_without_harm(tmp_path: Path) -> None:
    file = SubscriptionFile(tmp_path / "subscriptions")
    slots = [file.take(bytes(32), number) for number in range(subscriptions.SLOTS + 1)]
    assert slots[-1] is None
    assert slots[0] is not None
    slots[0].release()
    assert file.take(bytes(32), 1) is not None


async def test_age_never_takes_the_newest_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps forward makes all of them old."""
    monkeypatch.setattr(journal, "MIN_EVENTS", 3)
    with daemon(tmp_path) as exchange:
        for _ in range(5):
            await put(exchange, "/a")
        store = exchange._store
        now = time.time_ns()
        assert await store.write(journal.prune) == 0
        monkeypatch.setattr(time, "time_ns", lambda: now + 2 * journal.MAX_AGE_NS)
        assert await store.write(journal.prune) == 2
        assert [event.sequence for event in store.read(lambda c: journal.after(c, 0, 9))] == [3, 4, 5]


def test_filters_are_the_same_in_any_order() -> None:
    assert subscriptions.digest(["a", "b"]) == subscriptions.digest(["b", "a"])
    assert subscriptions.digest(["ab"]) != subscriptions.digest(["a", "b"])


@pytest.mark.parametrize(
    ("topic", "namespace"),
    [("", "ns"), ("/", "ns"), ("a", "ns"), ("/a//b", "ns"), ("/a b", "ns"), ("/a", ""), ("/a", "n s")],
)
async def test_bad_envelopes_are_refused(exchange: Exchange, topic: str, namespace: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        await put(exchange, topic, namespace=namespace)


def sees(event: Event, text: str) -> bool:
    return compile_filters([text])(fields.lookup(event))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("namespace==ns", True),
        ('topic=="/tasks/exit"', True),
        ("event.container_id==c", True),
        ("event.id", False),
        ("event.pid", False),
        ("event.nothing", False),
        ("event", False),
        ("timestamp", False),
    ],
)
def test_what_filters_see_of_an_event(text: str, expected: bool) -> None:
    event = Event(1, 1, "ns", "/tasks/exit", pack(TaskExit(container_id="c", pid=5)))
    assert sees(event, text) is expected


def test_filters_look_into_messages_and_labels() -> None:
    created = ContainerCreate(
        id="c", runtime=ContainerCreate.Runtime(name="r", options=pack(TaskOOM(container_id="o")))
    )
    event = Event(1, 1, "ns", "/containers/create", pack(created))
    assert sees(event, "event.runtime.name==r")
    assert sees(event, "event.runtime.options.container_id==o")
    assert not sees(event, "event.runtime")
    broken = Event(1, 1, "ns", "/x", pack(TaskStart()))
    broken.event.value = b"\xff"
    assert not sees(broken, "event.container_id")

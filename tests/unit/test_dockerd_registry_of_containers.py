"""Containers in memory: found by name, ID and prefix; drafts; waiters; lists and their filters; inspect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from longshore.api.errors import InvalidArgument, NotFound
from longshore.dockerd.backend import describe, listing
from longshore.dockerd.backend.live import Live, Outcome, Waiters
from longshore.dockerd.backend.registry import Registry
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import (
    Container,
    ContainerConfig,
    ContainerState,
    EndpointSettings,
    Health,
    HostConfig,
    MountPoint,
    PortBinding,
    named_links,
)
from longshore.dockerd.state import State

SECOND = 1_000_000_000


def record(id: str, name: str, **members: Any) -> Container:
    return Container(
        **{
            "id": id * 64,
            "name": name,
            "created_ns": 1,
            "config": ContainerConfig(image="busybox"),
            "host_config": HostConfig(),
            "image_id": "sha256:x",
            "image_ref": "busybox",
            "path": "sh",
            **members,
        }
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(str(tmp_path / "state")) as opened:
        yield opened


@pytest.fixture
def registry(state: State) -> Registry:
    return Registry(state)


async def add(registry: Registry, *records: Container) -> list[Live]:
    found = [Live(each) for each in records]
    for live in found:
        registry.reserve(live.record.name, live.id)
        await registry.add(live)
    return found


# -- names


async def test_found_by_id_name_and_prefix(registry: Registry) -> None:
    (web,) = await add(registry, record("a", "web"))
    for name in (web.id, "web", "/web", "aaa", "a"):
        assert registry.find(name) is web


async def test_what_is_not_there(registry: Registry) -> None:
    with pytest.raises(NotFound, match="No such container: nope"):
        registry.find("nope")
    with pytest.raises(InvalidArgument, match='invalid name or ID supplied: ""'):
        registry.find("")


async def test_an_ambiguous_prefix(registry: Registry) -> None:
    one, two = record("a", "one"), record("a", "two")
    two.id = "ab" * 32
    await add(registry, one, two)
    with pytest.raises(InvalidArgument, match="Multiple IDs found with provided prefix: a"):
        registry.find("a")


async def test_a_name_is_held_by_one(registry: Registry) -> None:
    (web,) = await add(registry, record("a", "web"))
    with pytest.raises(
        Conflict, match=f'Conflict. The container name "/web" is already in use by container "{web.id}"'
    ):
        registry.reserve("web", "b" * 64)
    registry.release("web", "b" * 64)  # who doesn't hold it can't release it
    assert registry.find("web") is web
    registry.drop(web)
    assert registry.reserve("web", "b" * 64) == "web"


async def test_records_survive(registry: Registry, state: State) -> None:
    (web,) = await add(registry, record("a", "web"))
    draft = web.draft()
    draft.state.status = "exited"
    assert web.record.state.status == "created"  # nobody sees a draft
    await registry.save(web, draft)
    assert web.record.state.status == "exited"
    fresh = Registry(state)
    fresh.load()
    assert fresh.find("web").record.state.status == "exited"
    await fresh.delete(fresh.find("web"))
    last = Registry(state)
    last.load()
    assert not len(last)


def test_links() -> None:
    assert named_links(["db:store", "/db", "db:/web/store"]) == [
        ("db", "store"),
        ("db", "db"),
        ("db", "store"),
    ]


async def test_a_linked_container_has_more_names(registry: Registry) -> None:
    db, _ = await add(
        registry, record("a", "db"), record("b", "web", host_config=HostConfig(links=["db:store"]))
    )
    assert registry.aliases(db) == ["/web/store"]


# -- waiters


async def test_waiters_are_told_once_and_forgotten() -> None:
    waiters = Waiters()
    first, second = waiters.add(), waiters.add()
    second.cancel()
    waiters.tell(Outcome(3))
    assert await first == (3, "")
    later = waiters.add()
    assert not later.done()
    later.cancel()
    await asyncio.sleep(0)
    waiters.tell(Outcome(4))


# -- lists


def lister(registry: Registry) -> listing.Listing:
    return listing.Listing(cast(Any, SimpleNamespace(registry=registry)))


async def names(registry: Registry, filters: dict[str, list[str]], everything: bool = True) -> list[str]:
    return [live.record.name for live in await lister(registry).select(filters, everything)]


@pytest.fixture
async def some(registry: Registry) -> Registry:
    running = ContainerState(status="running", started_ns=SECOND, health=Health(status="healthy"))
    await add(
        registry,
        record("a", "old", created_ns=10, state=ContainerState(status="exited", exit_code=3, finished_ns=5)),
        record(
            "b",
            "web",
            created_ns=20,
            state=running,
            config=ContainerConfig(image="busybox", labels={"tier": "front"}, exposed_ports={"80/tcp": {}}),
            ports={"80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")]},
            networks={"net": EndpointSettings(network_id="f" * 64)},
            mounts=[MountPoint(type="volume", name="data", target="/data", source="/v/data/_data")],
        ),
        record("c", "fresh", created_ns=30),
    )
    return registry


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["fresh", "web", "old"]),
        ({"name": ["we"]}, ["web"]),
        ({"name": ["^/web$"]}, ["web"]),
        ({"id": ["b"]}, ["web"]),
        ({"status": ["created", "exited"]}, ["fresh", "old"]),
        ({"exited": ["3"]}, ["old"]),
        ({"exited": ["0"]}, []),
        ({"label": ["tier=front"]}, ["web"]),
        ({"label": ["tier", "tier=back"]}, []),
        ({"health": ["healthy"]}, ["web"]),
        ({"health": ["none"]}, ["fresh", "old"]),
        ({"before": ["web"]}, ["old"]),
        ({"since": ["web"]}, ["fresh"]),
        ({"network": ["net"]}, ["web"]),
        ({"network": ["fff"]}, ["web"]),
        ({"volume": ["data"]}, ["web"]),
        ({"volume": ["/data"]}, ["web"]),
        ({"publish": ["8080"]}, ["web"]),
        ({"publish": ["8000-8090/tcp"]}, ["web"]),
        ({"publish": ["8080/udp"]}, []),
        ({"expose": ["80"]}, ["web"]),
        ({"is-task": ["true"]}, []),
        ({"is-task": ["false"]}, ["fresh", "web", "old"]),
    ],
)
async def test_filters(some: Registry, filters: dict[str, list[str]], expected: list[str]) -> None:
    assert await names(some, filters) == expected


async def test_without_all_only_what_runs(some: Registry) -> None:
    assert await names(some, {}, everything=False) == ["web"]
    assert [live.record.name for live in await lister(some).select({}, False, 2)] == ["fresh", "web"]


@pytest.mark.parametrize(
    "filters",
    [{"status": ["happy"]}, {"health": ["so-so"]}, {"exited": ["x"]}, {"publish": ["a-b"]}],
)
async def test_values_that_cannot_be(some: Registry, filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidArgument):
        await names(some, filters)
    with pytest.raises(NotFound):
        await names(some, {"before": ["nobody"]})


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (ContainerState(), "Created"),
        (ContainerState(status="running", started_ns=SECOND), "Up 5 minutes"),
        (ContainerState(status="paused", started_ns=SECOND), "Up 5 minutes (Paused)"),
        (
            ContainerState(status="running", started_ns=SECOND, health=Health()),
            "Up 5 minutes (health: starting)",
        ),
        (
            ContainerState(status="running", started_ns=SECOND, health=Health(status="unhealthy")),
            "Up 5 minutes (unhealthy)",
        ),
        (ContainerState(status="exited", exit_code=2, finished_ns=SECOND), "Exited (2) 5 minutes ago"),
        (
            ContainerState(status="restarting", exit_code=2, finished_ns=SECOND),
            "Restarting (2) 5 minutes ago",
        ),
    ],
)
def test_status_in_words(state: ContainerState, words: str) -> None:
    assert listing.status(state, now_ns=301 * SECOND) == words


async def test_ports_of_a_line(some: Registry) -> None:
    assert listing.ports(some.find("web").record) == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}
    ]
    assert listing.ports(some.find("fresh").record) == []


# -- inspect


async def test_inspect_has_what_clients_read(some: Registry) -> None:
    document = describe.inspect(some.find("web"), (1, 48))
    assert document["State"]["Running"] and document["State"]["Health"]["Status"] == "healthy"
    assert document["Name"] == "/web"
    assert document["Mounts"] == [
        {
            "Type": "volume",
            "Name": "data",
            "Source": "/v/data/_data",
            "Destination": "/data",
            "Mode": "",
            "RW": True,
            "Propagation": "",
        }
    ]
    assert document["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    assert "DNSNames" in document["NetworkSettings"]["Networks"]["net"]
    old = describe.inspect(some.find("web"), (1, 41))
    assert "DNSNames" not in old["NetworkSettings"]["Networks"]["net"]


async def test_inspect_leaves_out_what_go_leaves_out(some: Registry) -> None:
    live = some.find("fresh")
    document = describe.inspect(live, (1, 41))
    assert "Healthcheck" not in document["Config"] and "StopTimeout" not in document["Config"]
    assert "Health" not in document["State"] and "Mounts" not in document["HostConfig"]
    live.record.config.stop_timeout = 0
    assert describe.inspect(live, (1, 41))["Config"]["StopTimeout"] == 0

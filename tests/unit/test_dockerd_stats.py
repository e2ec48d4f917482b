"""Readings, ps and update as data."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from longshore.api import typeurls
from longshore.api.cgroups.v1 import metrics_pb2 as v1
from longshore.api.cgroups.v2 import metrics_pb2 as v2
from longshore.api.errors import InvalidArgument
from longshore.api.types.metrics_pb2 import Metric
from longshore.dockerd.backend import commit, stats, top, update
from longshore.dockerd.errors import Conflict, ServerError
from longshore.dockerd.records import ContainerConfig, HostConfig


def test_first_version() -> None:
    metrics = v1.Metrics()
    metrics.pids.current, metrics.pids.limit = 3, 50
    metrics.cpu.usage.total, metrics.cpu.usage.kernel = 1000, 400
    metrics.cpu.usage.per_cpu.extend([600, 400])
    metrics.memory.usage.usage, metrics.memory.usage.limit = 4096, 1 << 20
    metrics.memory.total_inactive_file, metrics.memory.total_pg_fault = 77, 5
    metrics.blkio.io_service_bytes_recursive.add(op="Read", major=8, minor=0, value=512)
    shaped = stats.shaped(metrics)
    assert shaped["pids_stats"] == {"current": 3, "limit": 50}
    assert shaped["cpu_stats"]["cpu_usage"]["percpu_usage"] == [600, 400]
    assert shaped["memory_stats"]["usage"] == 4096
    # What the CLI subtracts: the cache that could be had back.
    assert shaped["memory_stats"]["stats"]["total_inactive_file"] == 77
    assert shaped["memory_stats"]["stats"]["total_pgfault"] == 5
    entry = {"major": 8, "minor": 0, "op": "Read", "value": 512}
    assert shaped["blkio_stats"]["io_service_bytes_recursive"] == [entry]


def test_second_version() -> None:
    metrics = v2.Metrics()
    metrics.cpu.usage_usec, metrics.cpu.system_usec = 7, 3
    metrics.memory.usage, metrics.memory.usage_limit, metrics.memory.inactive_file = 4096, 2**64 - 1, 9
    metrics.io.usage.add(major=8, rbytes=5, wbytes=6)
    shaped = stats.shaped(metrics)
    assert shaped["cpu_stats"]["cpu_usage"]["total_usage"] == 7000
    assert "percpu_usage" not in shaped["cpu_stats"]["cpu_usage"]
    assert shaped["memory_stats"]["stats"]["inactive_file"] == 9
    assert "usage" not in shaped["memory_stats"]["stats"]
    words = [entry["op"] for entry in shaped["blkio_stats"]["io_service_bytes_recursive"]]
    assert words == ["read", "write"]


def test_interfaces() -> None:
    text = "\n".join(
        (
            "Inter-|   Receive      |  Transmit",
            " face |bytes    packets errs drop fifo frame compressed multicast|bytes packets ...",
            "    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0",
            "  eth0: 570 7 1 2 0 0 0 0  90 3 0 4 0 0 0 0",
        )
    )
    assert stats.parse_interfaces(text) == {
        "eth0": {
            "rx_bytes": 570,
            "rx_packets": 7,
            "rx_errors": 1,
            "rx_dropped": 2,
            "tx_bytes": 90,
            "tx_packets": 3,
            "tx_errors": 0,
            "tx_dropped": 4,
        }
    }


def test_a_reading_is_compared_with_the_one_before() -> None:
    first = {"read": "1", "cpu_stats": {"a": 1}}
    second = {"read": "2", "cpu_stats": {"a": 2}}
    assert stats.compared(second, first) == second | {"preread": "1", "precpu_stats": {"a": 1}}
    assert stats.compared(first, None) == first


def test_ps() -> None:
    output = "UID        PID  PPID CMD\nroot         7     1 sleep 100 000\nroot         8     1 other\n"
    assert top.parse(output, {7}) == {
        "Titles": ["UID", "PID", "PPID", "CMD"],
        "Processes": [["root", "7", "1", "sleep 100 000"]],
    }
    with pytest.raises(ServerError, match="Couldn't find PID field in ps output"):
        top.parse("UID CMD\nroot sh\n", {7})


def test_updates_that_contradict() -> None:
    host = HostConfig(memory=10, memory_swap=20)
    with pytest.raises(
        Conflict,
        match="Cannot update container ID: Memory limit should be smaller than already set memoryswap",
    ):
        update.merged(host, {"memory": 30}, "ID")
    update.merged(host, {"memory": 30, "memory_swap": 60}, "ID")
    assert (host.memory, host.memory_swap) == (30, 60)
    with pytest.raises(Conflict, match="NanoCPUs has already been set"):
        update.merged(HostConfig(nano_cpus=1), {"cpu_quota": 5000}, "ID")
    body = update.UpdateBody(cpu_shares=5, pids_limit=-1)
    assert update.asked(body) == {"cpu_shares": 5, "pids_limit": -1}


def test_changes_of_a_commit() -> None:
    lines = [
        'CMD ["a", "b"]',
        "ENTRYPOINT run me",
        'ENV A=1 B="2 3"',
        "ENV C plain words",
        "EXPOSE 80 53/udp",
        "LABEL l=v",
        "USER www",
        "WORKDIR sub",
        "VOLUME /x /y",
        "STOPSIGNAL SIGINT",
        "ONBUILD RUN x",
        "HEALTHCHECK CMD true",
    ]
    changed = commit.change(ContainerConfig(env=["A=0"], working_dir="/w"), lines)
    assert (changed.cmd, changed.entrypoint) == (["a", "b"], ["/bin/sh", "-c", "run me"])
    assert changed.env == ["A=1", "B=2 3", "C=plain words"]
    assert changed.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert (changed.working_dir, changed.user, changed.stop_signal) == ("/w/sub", "www", "SIGINT")
    assert changed.volumes == {"/x": {}, "/y": {}}
    assert changed.healthcheck is not None
    assert changed.healthcheck.test == ["CMD-SHELL", "true"]
    for wrong in ("RUN x", "COPY a b", "NONSENSE"):
        with pytest.raises(InvalidArgument, match="is not a valid change command"):
            commit.change(ContainerConfig(), [wrong])


async def test_a_shim_that_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reading at all, and no second one."""
    monkeypatch.setattr(stats.read, "__defaults__", (0.05,))
    for name in ("_PATIENCE_AGAIN", "_INTERVAL"):
        monkeypatch.setattr(stats, name, 0.05)
    answers: list[list[Any]] = []

    async def metrics(_: object) -> list[Any]:
        if not answers:
            await asyncio.Event().wait()
        return answers.pop()

    parts: Any = SimpleNamespace(client=SimpleNamespace(tasks=SimpleNamespace(metrics=metrics)))
    state = SimpleNamespace(pid=0)
    record = SimpleNamespace(name="box", state=state, host_config=SimpleNamespace(network_mode="host"))
    live: Any = SimpleNamespace(has_process=True, id="1234", record=record)
    nothing = await stats.once(parts, live, compare=True)
    assert (nothing["read"], nothing["name"]) == ("0001-01-01T00:00:00Z", "/box")
    answers.append([Metric(data=typeurls.pack(v1.Metrics()))])
    first = await stats.once(parts, live, compare=True)
    assert first["read"] > "2000"
    assert first["preread"] == nothing["preread"]

"""Prometheus' text format, and HTTP enough to be scraped."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api.cgroups.v1.metrics_pb2 import Metrics as MetricsV1
from longshore.api.cgroups.v2.metrics_pb2 import Metrics as MetricsV2
from longshore.api.typeurls import pack
from longshore.containerd.monitoring.calls import Calls
from longshore.containerd.monitoring.http import Page, Pages
from longshore.containerd.monitoring.metrics import Sample, of_container, text


def test_samples_of_a_name_stand_together_and_labels_are_escaped() -> None:
    samples = [
        Sample("b", 1, (("x", 'a"\\\n'),), "counter", "b's"),
        Sample("a", 2.5, help="a's"),
        Sample("b", 3),
    ]
    assert text(samples) == (
        '# HELP a a\'s\n# TYPE a gauge\na 2.5\n# HELP b b\'s\n# TYPE b counter\nb{x="a\\"\\\\\\n"} 1\nb 3\n'
    )


def test_both_versions_of_cgroups_are_understood() -> None:
    one, two = MetricsV1(), MetricsV2()
    one.cpu.usage.total = 5
    two.memory.usage = 7
    values = {sample.name: sample.value for stats in (one, two) for sample in of_container(pack(stats), ())}
    assert values["container_cpu_total_nanoseconds"] == 5 and values["container_memory_usage_bytes"] == 7
    assert list(of_container(pack(MetricsV1()), ())) and not list(of_container(pack(Empty()), ()))


async def test_calls_are_counted_by_how_they_end_and_how_long_they_took() -> None:
    class Context:
        def __init__(self, code: Any) -> None:
            self.code = lambda: code

    async def ends(error: BaseException | None, _: Any) -> str:
        if error is not None:
            raise error
        return "answer"

    calls = Calls()
    call = calls.wrap("unary", "/a.B/C", ends)
    assert await call(None, Context(0)) == "answer"
    for error, code in (
        (OSError(), grpc.StatusCode.NOT_FOUND),
        (asyncio.CancelledError(), 0),
        (OSError(), 0),
    ):
        with pytest.raises(type(error)):
            await call(error, Context(code))
    page = text(calls.samples())
    labels = 'grpc_method="C",grpc_service="a.B",grpc_type="unary"'
    assert f"grpc_server_started_total{{{labels}}} 4\n" in page
    for name in ("OK", "NotFound", "Canceled", "Unknown"):
        assert f'grpc_server_handled_total{{grpc_code="{name}",{labels}}} 1\n' in page
    assert f'grpc_server_handling_seconds_bucket{{{labels},le="+Inf"}} 4\n' in page
    assert f"grpc_server_handling_seconds_count{{{labels}}} 4\n" in page
    assert page.count("# TYPE grpc_server_handling_seconds histogram\n") == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"HEAD /a?b HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /b HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /a HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"x" * 100_000, b""),
    ],
)
async def test_requests_are_answered(request_: bytes, status: bytes) -> None:
    async def page() -> Page:
        return Page(b"hello")

    pages = Pages({"/a": page})
    await pages.tcp("127.0.0.1:0")
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(request_)
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        writer.close()
        assert answer.partition(b"\r\n")[0].split(b" ")[1:2] == ([status] if status else [])
        assert (b"hello" in answer) == (request_.startswith(b"GET /a"))
    finally:
        await pages.close()

"""How calls end and how long they take, for who asks (``grpc_histogram = true``).

Names and labels are those of the Prometheus interceptors that containerd has.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

import grpc

from longshore.containerd.monitoring.metrics import Sample

# Seconds; what client libraries of Prometheus take when nothing is said.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOOK: Final = "grpc_server_handling_seconds"

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Method(NamedTuple):
    type: str  # unary, client_stream, server_stream, bidi_stream
    service: str
    name: str

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        return ("grpc_method", self.name), ("grpc_service", self.service), ("grpc_type", self.type)


class Calls:
    """Counts the calls of the behaviours that it wrapped."""

    def __init__(self) -> None:
        self._started: Counter[Method] = Counter()
        self._handled: Counter[tuple[Method, str]] = Counter()
        self._within: dict[
            Method, list[int]
        ] = {}  # by bucket, the last for what took longer than all of them
        self._seconds: defaultdict[Method, float] = defaultdict(float)

    def wrap(self, type: str, path: str, behaviour: Behaviour) -> Behaviour:
        """`behaviour`, measured. `path` is /service/method."""
        service, _, name = path.removeprefix("/").rpartition("/")
        method = Method(type, service, name)

        async def measured(request: Any, context: Any) -> Any:
            self._started[method] += 1
            begun = time.monotonic()
            try:
                answer = await behaviour(request, context)
            except asyncio.CancelledError:
                self._ended(method, "Canceled", begun)
                raise
            except BaseException:
                self._ended(method, code_name(context.code(), "Unknown"), begun)
                raise
            self._ended(method, code_name(context.code(), "OK"), begun)
            return answer

        return measured

    def _ended(self, method: Method, code: str, begun: float) -> None:
        took = time.monotonic() - begun
        self._handled[method, code] += 1
        self._within.setdefault(method, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, took)] += 1
        self._seconds[method] += took

    def samples(self) -> Iterator[Sample]:
        for method, count in self._started.items():
            yield Sample("grpc_server_started_total", count, method.labels, "counter", "RPCs that began")
        for (method, code), count in self._handled.items():
            labels = (("grpc_code", code), *method.labels)
            yield Sample("grpc_server_handled_total", count, labels, "counter", "RPCs that ended, by code")
        for method, counts in self._within.items():
            yield from self._histogram(method, counts)

    def _histogram(self, method: Method, counts: list[int]) -> Iterator[Sample]:
        def sample(suffix: str, value: float, *labels: tuple[str, str]) -> Sample:
            name, help = f"{_TOOK}{suffix}", "How long RPCs took, s"
            return Sample(name, value, (*method.labels, *labels), "histogram", help, _TOOK)

        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            total += count
            yield sample("_bucket", total, ("le", bound.removesuffix(".0")))
        yield sample("_sum", self._seconds[method])
        yield sample("_count", total)


def code_name(code: Any, unset: str) -> str:
    """As Go spells it: NotFound, OK."""
    if not isinstance(code, grpc.StatusCode):
        return unset
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")

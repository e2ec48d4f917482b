"""The shim's loop: promises, coroutines, timers, locks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from longshore.shim import loop as shim_loop
from longshore.shim.loop import READ, Lock, Loop, Promise, spawn


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_a_coroutine_runs_until_it_waits_and_on_when_settled() -> None:
    seen: list[str] = []
    wanted: Promise[str] = Promise()

    async def story() -> str:
        seen.append("begun")
        seen.append(await wanted)
        return "end"

    outcome = spawn(story())
    assert seen == ["begun"] and not outcome.done
    wanted.resolve("value")
    assert seen == ["begun", "value"] and outcome.result() == "end"


def test_errors_travel_and_the_first_settlement_counts() -> None:
    wanted: Promise[int] = Promise()

    async def story() -> int:
        return await wanted

    outcome = spawn(story())
    wanted.reject(ValueError("no"))
    wanted.resolve(1)
    with pytest.raises(ValueError, match="no"):
        outcome.result()


def test_lock_serves_in_order() -> None:
    lock = Lock()
    gates: list[Promise[None]] = [Promise() for _ in range(3)]
    order: list[int] = []

    async def holder(number: int) -> None:
        async with lock:
            order.append(number)
            await gates[number]

    for number in range(3):
        spawn(holder(number))
    assert order == [0]
    gates[0].resolve(None)
    assert order == [0, 1]
    gates[1].resolve(None)
    gates[2].resolve(None)
    assert order == [0, 1, 2]


def test_timers_in_order_and_cancelled_ones_not(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 1000.0, list[str]()
    monkeypatch.setattr(shim_loop, "time", SimpleNamespace(monotonic=lambda: now))
    loop.later(0.002, lambda: seen.append("second"))
    loop.later(0.001, lambda: seen.append("first"))
    loop.later(0.0015, lambda: seen.append("never")).cancel()
    now += 0.001
    loop.turn()
    assert seen == ["first"]
    now += 0.001
    loop.turn()
    assert seen == ["first", "second"]


def test_within_times_out_and_passes_results(loop: Loop) -> None:
    never: Promise[int] = Promise()
    late = spawn(loop.within(0.001, never))
    soon: Promise[int] = Promise()
    early = spawn(loop.within(5, soon))
    soon.resolve(7)
    while not late.done:
        loop.turn()
    assert early.result() == 7
    with pytest.raises(TimeoutError):
        late.result()


def test_a_failing_handler_is_reported_and_survived(loop: Loop) -> None:
    errors: list[BaseException] = []
    loop.on_error = errors.append
    read, write = os.pipe()
    try:
        os.write(write, b"x")

        def fail(_: int) -> None:
            os.read(read, 1)
            raise ValueError("bad handler")

        loop.watch(read, READ, fail)
        loop.turn()
        assert [str(error) for error in errors] == ["bad handler"]
    finally:
        loop.forget(read)
        os.close(read)
        os.close(write)

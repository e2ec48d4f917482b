"""The shim's only loop: epoll, timers, and coroutines that wait for promises. No asyncio.

asyncio would cost each shim 1.5 MiB for what these lines do. Rule for whatever
runs here: never block. What may takes a worker (`longshore.shim.workers`).
"""

from __future__ import annotations

import heapq
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, Generic, TypeVar

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
PRIORITY = select.EPOLLPRI

T = TypeVar("T")
Handler = Callable[[int], None]


class Promise(Generic[T]):
    """A result that arrives later, or an error. The first settlement counts, later ones are ignored."""

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def resolve(self, value: T) -> None:
        if not self.done:
            self._value = value
            self._settle()

    def reject(self, error: BaseException) -> None:
        if not self.done:
            self._error = error
            self._settle()

    def follow(self, other: Promise[T]) -> None:
        """Settle as `other`, which is done, did."""
        if not self.done:
            self._error = other._error
            if self._error is None:
                self._value = other._value
            self._settle()

    def then(self, callback: Callable[[], None]) -> None:
        """Call back on settlement, at once when it has happened."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> T:
        """The value, or the error raised; only once `done`."""
        error = self._error
        if error is None:
            return self._value
        try:
            raise error
        finally:
            # The traceback holds this frame: it must not lead back to the error.
            del self, error

    def _settle(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def __await__(self) -> Generator[Promise[T], None, T]:
        if not self.done:
            yield self
        return self.result()


def spawn(coroutine: Coroutine[Promise[Any], None, T]) -> Promise[T]:
    """Run a coroutine until its first wait now, and on as its promises settle; its result as a promise."""
    running = _Running(coroutine)
    running.step()
    return running.outcome


class _Running(Generic[T]):
    """A spawned coroutine. A class and not a closure: one that names itself is a cycle, and nobody collects."""

    __slots__ = ("_coroutine", "outcome")

    def __init__(self, coroutine: Coroutine[Promise[Any], None, T]) -> None:
        self._coroutine = coroutine
        self.outcome: Promise[T] = Promise()

    def step(self) -> None:
        try:
            awaited = self._coroutine.send(None)
        except StopIteration as stop:
            self.outcome.resolve(stop.value)
        except Exception as error:
            # A traceback keeps every local on its way alive, this promise among them.
            self.outcome.reject(error.with_traceback(None))
        else:
            awaited.then(self.step)


class Lock:
    """First come, first served; ``async with``."""

    def __init__(self) -> None:
        self._held = False
        self._queue: deque[Promise[None]] = deque()

    async def __aenter__(self) -> None:
        if self._held:
            turn: Promise[None] = Promise()
            self._queue.append(turn)
            await turn
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        if self._queue:
            self._queue.popleft().resolve(None)
        else:
            self._held = False


class Timer:
    """A call to be made later, unless `cancel` comes first."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Descriptors and timers. Handlers get the epoll events and must bear a wake-up for nothing."""

    def __init__(self, *, opened: bool = True) -> None:
        """With `opened` false it has no descriptor yet: an epoll instance must not be shared across a fork."""
        self._epoll: select.epoll
        if opened:
            self.open()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._stopped = False
        self.on_error: Callable[[BaseException], None] = lambda error: print(error, file=sys.stderr)

    def open(self) -> None:
        """Take the epoll descriptor."""
        self._epoll = select.epoll()

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` while `events` (or a hang-up) hold on `fd`; a second call replaces the first."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching; must precede the closing of `fd`."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, `seconds` from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def sleep(self, seconds: float) -> Promise[None]:
        pause: Promise[None] = Promise()
        self.later(seconds, lambda: pause.resolve(None))
        return pause

    async def within(self, seconds: float, promise: Promise[T]) -> T:
        """The promise's result; TimeoutError when it takes longer."""
        if promise.done:
            return promise.result()
        either: Promise[None] = Promise()
        timer = self.later(seconds, lambda: either.resolve(None))
        promise.then(lambda: either.resolve(None))
        await either
        timer.cancel()
        if not promise.done:
            raise TimeoutError(f"timed out after {seconds:g} s")
        return promise.result()

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Until `stop`. What a handler raises is reported and survived."""
        while not self._stopped:
            self.turn()

    def turn(self) -> None:
        """Wait for the next events or timers and handle them."""
        for fd, events in self._epoll.poll(self._patience()):
            handler = self._handlers.get(fd)
            if handler is not None:
                self._guarded(lambda handler=handler, events=events: handler(events))  # type: ignore[misc]
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self._guarded(callback)

    def close(self) -> None:
        self._epoll.close()

    def _patience(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        # epoll counts in milliseconds and rounds up itself.
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self.on_error(error)

"""How a blocking method is made of an asynchronous one, with its signature.

`Portal` runs the core on an event loop in a thread of its own, so that pipes
are served and exits noticed while the program computes. A `Face` pairs a
portal with an object of the core; the descriptors below turn the core's
methods into the face's:

    blocking(Core.method)            a call
    making(Core.method, Kind)        a call that answers with an object, wrapped in its own face
    listing(Core.method, Kind)       a call that answers with a list of them
    iterating(Core.method)           an asynchronous iterator
    managing(Core.method, Kind)      an asynchronous context manager

They are generic in the parameters, so type checkers and editors see the same
signature on both faces.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
C = TypeVar("C", covariant=True)
F = TypeVar("F")

INTERRUPT_GRACE = 5  # seconds that an interrupted call has for its own clean-up


class Portal:
    """An event loop in a daemon thread. Calls may come from any thread but that one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="longshore-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the loop, wait, answer or raise. Ctrl-C while waiting cancels the coroutine."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            future.cancel()
            concurrent.futures.wait([future], timeout=INTERRUPT_GRACE)
            raise

    def call(self, function: Callable[[], T]) -> T:
        """Call something plain on the loop's thread."""

        async def run() -> T:
            return function()

        return self.run(run())

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Step an asynchronous iterator; closing this generator closes it."""
        try:
            while True:
                try:
                    item = self.run(_step(iterator))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                self.run(close())

    @contextmanager
    def manage(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter and leave an asynchronous context manager."""
        value = self.run(_enter(manager))
        try:
            yield value
        except BaseException as error:
            if not self.run(_leave(manager, error)):
                raise
        else:
            self.run(_leave(manager, None))

    def close(self) -> None:
        """Stop the loop and end the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _step(iterator: AsyncIterator[T]) -> T:
    return await anext(iterator)


async def _enter(manager: AbstractAsyncContextManager[T]) -> T:
    return await manager.__aenter__()


async def _leave(manager: AbstractAsyncContextManager[Any], error: BaseException | None) -> bool | None:
    if error is None:
        return await manager.__aexit__(None, None, None)
    return await manager.__aexit__(type(error), error, error.__traceback__)


class Face(Generic[C]):
    """The blocking side of one object of the core."""

    def __init__(self, portal: Portal, inner: C) -> None:
        self._portal = portal
        self._inner = inner


class blocking(Generic[U, P, T]):
    def __init__(self, method: Callable[Concatenate[U, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, face: Face[U], owner: type[Face[U]] | None = None) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return face._portal.run(self._method(face._inner, *args, **kwargs))

        return call


class making(Generic[U, P, T, F]):
    def __init__(
        self, method: Callable[Concatenate[U, P], Coroutine[Any, Any, T]], kind: Callable[[Portal, T], F]
    ) -> None:
        self._method = method
        self._kind = kind
        self.__doc__ = method.__doc__

    def __get__(self, face: Face[U], owner: type[Face[U]] | None = None) -> Callable[P, F]:
        def call(*args: P.args, **kwargs: P.kwargs) -> F:
            return self._kind(face._portal, face._portal.run(self._method(face._inner, *args, **kwargs)))

        return call


class listing(Generic[U, P, T, F]):
    def __init__(
        self,
        method: Callable[Concatenate[U, P], Coroutine[Any, Any, Sequence[T]]],
        kind: Callable[[Portal, T], F],
    ) -> None:
        self._method = method
        self._kind = kind
        self.__doc__ = method.__doc__

    def __get__(self, face: Face[U], owner: type[Face[U]] | None = None) -> Callable[P, list[F]]:
        def call(*args: P.args, **kwargs: P.kwargs) -> list[F]:
            found = face._portal.run(self._method(face._inner, *args, **kwargs))
            return [self._kind(face._portal, item) for item in found]

        return call


class iterating(Generic[U, P, T]):
    def __init__(self, method: Callable[Concatenate[U, P], AsyncIterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, face: Face[U], owner: type[Face[U]] | None = None) -> Callable[P, Iterator[T]]:
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return face._portal.iterate(self._method(face._inner, *args, **kwargs))

        return call


class managing(Generic[U, P, T, F]):
    def __init__(
        self,
        method: Callable[Concatenate[U, P], AbstractAsyncContextManager[T]],
        kind: Callable[[Portal, T], F],
    ) -> None:
        self._method = method
        self._kind = kind
        self.__doc__ = method.__doc__

    def __get__(
        self, face: Face[U], owner: type[Face[U]] | None = None
    ) -> Callable[P, AbstractContextManager[F]]:
        @contextmanager
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[F]:
            with face._portal.manage(self._method(face._inner, *args, **kwargs)) as value:
                yield self._kind(face._portal, value)

        return call

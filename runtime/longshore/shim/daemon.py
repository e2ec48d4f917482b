"""The running shim: its socket, its clients, its signals, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from importlib import import_module

from google.protobuf.message import Message

from longshore.api.errors import DeadlineExceeded, Error
from longshore.linux import processes
from longshore.shim.events import Publisher
from longshore.shim.exits import ExitStream
from longshore.shim.forward import Forwarder
from longshore.shim.loop import HANGUP, READ, WRITE, Loop, Promise, spawn
from longshore.shim.reaper import Reaper
from longshore.shim.service import Service
from longshore.shim.tasks import Tasks
from longshore.shim.workers import Workers
from longshore.ttrpc.server import Call, Connection

_CREDENTIALS = struct.Struct("iII")
# A client that doesn't read its answers is dropped with this much unread.
_UNREAD_LIMIT = 32 << 20
FLUSH_SECONDS = 5.0
# Without containers and without clients for this long, a shim ends.
IDLE_SECONDS = 120.0

# The module's own numbers and functions go through enums, which cost each shim 100 KiB of written pages.
_set_handler: Callable[[int, object], object] = import_module("_signal").signal
_SIGHUP, _SIGINT, _SIGTERM, _SIGCHLD, _SIG_IGN = (
    int(each) for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIG_IGN)
)


def _noticed(number: int, frame: object) -> None:
    """The wake-up descriptor tells the loop; this is only there so that the signal isn't ignored."""


class Client:
    """One ttrpc connection."""

    def __init__(
        self, loop: Loop, service: Service, connected: socket.socket, left: Callable[[], None]
    ) -> None:
        self._left = left
        self._loop = loop
        self._service = service
        self._socket: socket.socket | None = connected
        self._connection = Connection()
        self._out = bytearray()
        connected.setblocking(False)
        loop.watch(connected.fileno(), READ, self._event)

    def _event(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HANGUP):
            self._read()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        for call in self._connection.receive(data):
            outcome = spawn(self._service.call(call.service, call.method, call.payload))
            if call.timeout_nano > 0 and not outcome.done:
                self._limit(call, outcome)
                continue
            outcome.then(lambda call=call, outcome=outcome: self._answer(call, outcome))  # type: ignore[misc]
        self._flush()

    def _limit(self, call: Call, outcome: Promise[Message]) -> None:
        """Answer at the call's deadline at the latest. What was asked for goes on, as it does without its client."""
        first: Promise[Message] = Promise()
        late = DeadlineExceeded("context deadline exceeded")
        timer = self._loop.later(call.timeout_nano / 1e9, lambda: first.reject(late))

        def done() -> None:
            timer.cancel()
            first.follow(outcome)

        outcome.then(done)
        first.then(lambda: self._answer(call, first))

    def _answer(self, call: Call, outcome: Promise[Message]) -> None:
        if self._socket is None:
            return  # the client has gone; what it asked for has been done all the same
        try:
            self._connection.respond(call.stream, outcome.result())
        except Exception as error:
            if not isinstance(error, Error):
                self._loop.on_error(error)
            self._connection.fail(call.stream, error.with_traceback(None))
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        self._out += self._connection.take()
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        if len(self._out) > _UNREAD_LIMIT:
            self._close()
            return
        self._loop.watch(self._socket.fileno(), READ | WRITE if self._out else READ, self._event)

    def _close(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
            self._left()


class Daemon:
    """A shim that serves until it is asked to shut down and nothing is left."""

    def __init__(self) -> None:
        """Everything that needs no descriptor, so that a zygote can have it made before it forks."""
        self._listener: socket.socket
        self._path = ""
        self._log = ""
        self._clients = 0
        self._loop = Loop(opened=False)
        self._loop.on_error = self._report
        self._workers = Workers(self._loop)
        self._reaper = Reaper(self._workers)
        self._stream = ExitStream(self._loop)
        self._publisher: Publisher = self._stream
        self._tasks = Tasks(self._loop, self._workers, self._reaper)
        self._service = Service(self._tasks, self._shut_down)

    def run(
        self,
        listener: socket.socket,
        *,
        namespace: str,
        ttrpc_address: str,
        exits_address: str,
        runtime_root: str,
        log: str,
    ) -> None:
        """Serve `listener`; returns when the shim shall exit."""
        processes.set_child_subreaper()
        self._loop.open()
        self._listener = listener
        self._path = listener.getsockname()
        self._log = log
        self._watch_signals()
        if exits_address:
            self._stream.begin(exits_address, namespace)
        else:
            self._publisher = Forwarder(self._loop, ttrpc_address, namespace)
        self._tasks.begin(self._publisher, namespace, runtime_root)
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, self._accept)
        self._loop.later(IDLE_SECONDS, self._check_idle)
        try:
            self._loop.run()
        finally:
            self._stop_listening()

    def _stop_listening(self) -> None:
        """Give up the socket's name, once: after that it may be our successor's."""
        if self._listener.fileno() >= 0:
            self._loop.forget(self._listener.fileno())
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._listener.close()

    def _accept(self, _: int) -> None:
        try:
            connected, _address = self._listener.accept()
        except OSError:
            return
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != os.geteuid():
            connected.close()
            return
        self._clients += 1
        Client(self._loop, self._service, connected, self._client_left)

    def _client_left(self) -> None:
        self._clients -= 1

    def _check_idle(self) -> None:
        """A shim that was made, and then forgotten because its containerd died, is nobody's to end."""
        if self._tasks.empty and not self._clients:
            self._shut_down()
        else:
            self._loop.later(IDLE_SECONDS, self._check_idle)

    def _watch_signals(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (_SIGCHLD, _SIGTERM, _SIGINT):
            _set_handler(number, _noticed)
        _set_handler(_SIGHUP, _SIG_IGN)
        self._loop.watch(read, READ, lambda _: self._signalled(read))

    def _signalled(self, pipe: int) -> None:
        try:
            numbers = os.read(pipe, 4096)
        except BlockingIOError:
            return
        if _SIGCHLD in numbers:
            self._reaper.reap()
        if (_SIGTERM in numbers or _SIGINT in numbers) and self._tasks.empty:
            # With containers to look after we stay, whoever asks.
            self._shut_down()

    def _shut_down(self) -> None:
        if not self._service.ending:
            self._service.ending = True
            # Before the answer: the next container of the same id must not find us.
            self._stop_listening()
            # First the answer to the call that asked for it, in this turn of the loop.
            self._loop.later(0, self._end)

    def _end(self) -> None:
        spawn(self._flush_and_stop())

    async def _flush_and_stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self._loop.within(FLUSH_SECONDS, self._publisher.flushed())
        self._loop.stop()

    def _report(self, error: BaseException) -> None:
        line = f"{type(error).__name__}: {error}\n"
        frames = []
        trace = error.__traceback__
        while trace is not None:
            frames.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
            trace = trace.tb_next
        log(self._log, f"level=error msg={line.strip()!r} at={' '.join(frames)!r}")


def log(path: str, line: str) -> None:
    """Write a line to the bundle's log FIFO; without a reader, or with a full pipe, to nobody."""
    if not path:
        print(line, file=sys.stderr)
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, line.encode() + b"\n")
    except OSError:
        pass
    finally:
        os.close(fd)

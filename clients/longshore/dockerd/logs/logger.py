"""The logger process: reads a container's output, records it, and carries its streams to who is attached.

Forked from dockerd's zygote and then on its own: it outlives dockerd, and ends
when the container's streams do. One thread, one epoll, no asyncio; it waits
for nothing but its descriptors.

Whoever is attached gets all output. Like the original, we let a client fall
behind by 1 MB, then the container waits for it: what reads a container through
a pipe wants every byte. The log itself is never behind.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from longshore.dockerd.logs import wire
from longshore.dockerd.logs.copier import Copier
from longshore.dockerd.logs.drivers import Driver, make_driver
from longshore.linux import processes

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
CHUNK = 65536
BEHIND = 1_000_000
"""Bytes that an attached client may be behind before the container waits."""
STDIN_AHEAD = 65536
"""Bytes for the container's stdin that we hold."""
LAST_SECONDS = 1.5
"""How long, after FINISH, streams that something still holds open are read."""
_PIPE_CHUNKS = 16
_BACKLOG = 64


def start(arguments: dict[str, Any], fds: list[int]) -> Callable[[], NoReturn]:
    """Worker of dockerd's zygote: open everything, then go on as the logger. Raises OSError."""
    return partial(_become_daemon, Logger(arguments))


def _become_daemon(logger: Logger) -> NoReturn:
    status = 1
    try:
        os.setsid()
        processes.set_name("docker-logger")
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        processes.close_fds_except([0, 1, 2, *logger.descriptors()])
        logger.run()
        status = 0
    finally:
        os._exit(status)


class Stream:
    """One output of the container."""

    __slots__ = ("copier", "fd", "kind")

    def __init__(self, kind: int, fd: int, copier: Copier) -> None:
        self.kind = kind
        self.fd = fd
        self.copier = copier


class Client:
    """A connection of dockerd's."""

    __slots__ = ("behind", "events", "frames", "mode", "output", "rotated", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.frames = wire.Frames()
        self.mode = 0
        self.events = READ
        self.output: deque[bytes] = deque()
        self.behind = 0
        self.rotated: deque[int] = deque()


class Logger:
    """What a container's streams need; `run` returns when they have ended and everybody was told."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        folder = arguments["folder"]
        self._folder = folder
        self._driver: Driver = make_driver(arguments)
        self._streams: dict[int, Stream] = {}
        for kind, name in wire.FIFOS.items():
            if kind == wire.STDOUT or arguments["stderr"]:
                self._add_stream(kind, f"{folder}/{name}")
        self._stdin = -1
        if arguments["stdin"]:
            # Both ends: it must not break while nobody reads yet.
            self._stdin = os.open(f"{folder}/{wire.STDIN_FIFO}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stdin_output: deque[bytes] = deque()
        self._stdin_ahead = 0
        self._stdin_closing = False
        self._clients: dict[int, Client] = {}
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._listener = _listen(folder)
        self._waiting = False  # the container, for a client
        self._deadline = 0.0
        self._epoll: select.epoll

    def _add_stream(self, kind: int, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        name, driver = wire.NAMES[kind], self._driver
        self._streams[fd] = Stream(kind, fd, Copier(lambda data, whole: driver.write(name, data, whole)))

    def descriptors(self) -> list[int]:
        """What we need of the process that made us."""
        fds = [*self._streams, self._listener.fileno(), *self._driver.descriptors()]
        return [*fds, self._stdin] if self._stdin >= 0 else fds

    def run(self) -> None:
        """Until the streams have ended."""
        self.begin()
        while self.step(self._patience()):
            pass
        self.finish()

    def begin(self) -> None:
        self._epoll = select.epoll()
        self._watch_streams()
        self._watch(self._listener.fileno(), READ, self._connected)

    def step(self, seconds: float) -> bool:
        """Do what there is to do, after waiting for it if need be; False if the streams have ended."""
        self._turn(seconds)
        if self._deadline and time.monotonic() >= self._deadline:
            self._end_streams()
        return bool(self._streams)

    def _patience(self) -> float:
        return max(0.0, self._deadline - time.monotonic()) if self._deadline else -1

    def _turn(self, seconds: float) -> None:
        for fd, events in self._epoll.poll(seconds):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def _watch(self, fd: int, events: int, handler: Callable[[int], object]) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # The container's output.

    def _watch_streams(self) -> None:
        # Epoll is silent about a FIFO that no writer has opened so far, so end of file always means the end.
        for stream in self._streams.values():
            self._watch(stream.fd, READ, partial(self._read, stream))

    def _read(self, stream: Stream, _: int = 0) -> bool:
        """One chunk; False if there was none."""
        try:
            data = os.read(stream.fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._end(stream)
            return False
        stream.copier.feed(data)
        self._log_grown()
        self._fan_out(stream.kind, data)
        return True

    def _end(self, stream: Stream) -> None:
        stream.copier.finish()
        self._log_grown()
        self._forget(stream.fd)
        del self._streams[stream.fd]
        os.close(stream.fd)

    def _end_streams(self) -> None:
        """Whoever still holds them open: take what is there, and no more."""
        for stream in list(self._streams.values()):
            for _ in range(_PIPE_CHUNKS):
                if not self._read(stream):
                    break
            if stream.fd in self._streams:
                self._end(stream)

    def _log_grown(self) -> None:
        grown, rotated = self._driver.news()
        if not grown:
            return
        for client in list(self._clients.values()):
            if client.mode != wire.WATCH:
                continue
            if rotated >= 0:
                client.rotated.append(os.dup(rotated))
            if rotated >= 0 or not client.output:
                # One word is enough, however much there is to read.
                self._send(client, wire.frame(wire.ROTATED if rotated >= 0 else wire.WRITTEN))

    def _fan_out(self, kind: int, data: bytes) -> None:
        whole = b""
        for client in list(self._clients.values()):
            if client.mode == wire.ATTACH:
                whole = whole or wire.frame(kind, data)
                self._send(client, whole)
                if client.behind > BEHIND and not self._deadline:
                    self._wait_for_clients()

    def _wait_for_clients(self) -> None:
        self._waiting = True
        for fd in self._streams:
            self._forget(fd)

    def _go_on(self) -> None:
        if self._waiting and all(client.behind <= BEHIND // 2 for client in self._clients.values()):
            self._waiting = False
            self._watch_streams()

    # Connections.

    def _connected(self, _: int) -> None:
        try:
            connection, _address = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        client = Client(connection)
        self._clients[connection.fileno()] = client
        self._watch(connection.fileno(), READ, partial(self._client_ready, client))

    def _client_ready(self, client: Client, events: int) -> None:
        try:
            if events & WRITE:
                self._flush(client)
            if events & ~WRITE:
                self._receive(client)
        except OSError:
            self._drop(client)

    def _receive(self, client: Client) -> None:
        try:
            data = client.socket.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            self._drop(client)
            return
        for kind, body in client.frames.feed(data):
            request = _REQUESTS.get(kind)
            if request is not None:
                request(self, client, body)

    def _drop(self, client: Client) -> None:
        fd = client.socket.fileno()
        if self._clients.pop(fd, None) is None:
            return
        self._forget(fd)
        client.socket.close()
        client.output.clear()
        client.behind = 0
        for rotated in client.rotated:
            os.close(rotated)
        self._go_on()

    def _send(self, client: Client, data: bytes) -> None:
        client.output.append(data)
        client.behind += len(data)
        if len(client.output) == 1:
            try:
                self._flush(client)
            except OSError:
                self._drop(client)

    def _flush(self, client: Client) -> None:
        while client.output:
            try:
                sent = self._send_one(client, client.output[0])
            except BlockingIOError:
                break
            client.behind -= sent
            rest = client.output.popleft()[sent:]
            if rest:
                client.output.appendleft(rest)
        self._watch_client(client)
        self._go_on()

    def _send_one(self, client: Client, data: bytes) -> int:
        if not client.rotated or data[0] != wire.ROTATED:
            return client.socket.send(data)
        fd = client.rotated[0]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        sent = client.socket.sendmsg([data], rights)
        client.rotated.popleft()
        os.close(fd)
        return sent

    def _watch_client(self, client: Client) -> None:
        events = (READ if self._stdin_ahead < STDIN_AHEAD else 0) | (WRITE if client.output else 0)
        if events != client.events:
            client.events = events
            self._epoll.modify(client.socket.fileno(), events)

    # What clients ask for.

    def _attach(self, client: Client, _: bytes) -> None:
        client.mode = wire.ATTACH
        self._send(client, wire.frame(wire.READY))

    def _watch_log(self, client: Client, _: bytes) -> None:
        client.mode = wire.WATCH
        self._send(client, wire.frame(wire.READY))

    def _finish_asked(self, client: Client, _: bytes) -> None:
        client.mode = wire.FINISH
        self._deadline = self._deadline or time.monotonic() + LAST_SECONDS
        if self._waiting:  # no container is left to wait for a client, only what the pipes hold
            self._waiting = False
            self._watch_streams()
        # A stream that was never opened, because no task was made, ends here.
        for stream in list(self._streams.values()):
            self._read(stream)

    def _take_stdin(self, client: Client, data: bytes) -> None:
        if self._stdin < 0 or self._stdin_closing:
            return
        self._stdin_output.append(data)
        self._stdin_ahead += len(data)
        self._feed_stdin(0)

    def _close_stdin(self, client: Client, _: bytes) -> None:
        self._stdin_closing = True
        self._feed_stdin(0)

    def _feed_stdin(self, _: int) -> None:
        while self._stdin_output:
            try:
                written = os.write(self._stdin, self._stdin_output[0])
            except BlockingIOError:
                self._watch(self._stdin, WRITE, self._feed_stdin)
                break
            self._stdin_ahead -= written
            rest = self._stdin_output.popleft()[written:]
            if rest:
                self._stdin_output.appendleft(rest)
        else:
            self._stdin_empty()
        for client in list(self._clients.values()):
            self._watch_client(client)

    def _stdin_empty(self) -> None:
        if self._stdin < 0:
            return
        self._forget(self._stdin)
        if self._stdin_closing:
            os.close(self._stdin)
            self._stdin = -1

    # The end.

    def finish(self) -> None:
        """The log is complete: make room for a successor, tell everybody, serve those who are behind."""
        self._forget(self._listener.fileno())
        _unlink(f"{self._folder}/{wire.SOCKET}")
        self._listener.close()
        if self._stdin >= 0:
            self._forget(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
        self._driver.close()
        for client in list(self._clients.values()):
            self._send(client, wire.frame(wire.DONE))
        while any(client.output for client in self._clients.values()):
            self._turn(-1)
            for client in [client for client in self._clients.values() if not client.output]:
                self._drop(client)


_REQUESTS: dict[int, Callable[[Logger, Client, bytes], None]] = {
    wire.ATTACH: Logger._attach,
    wire.WATCH: Logger._watch_log,
    wire.FINISH: Logger._finish_asked,
    wire.STDIN: Logger._take_stdin,
    wire.CLOSE_STDIN: Logger._close_stdin,
}


def _listen(folder: str) -> socket.socket:
    """The folder's path may be longer than an address can be: go by way of a descriptor."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{wire.SOCKET}")
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass

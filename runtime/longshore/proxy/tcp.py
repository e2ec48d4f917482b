"""Connections (TCP, and SCTP's streams): one epoll, edge-triggered; bulk moves by splice(2) and is never copied.

Little data is read and written, which costs a short connection less than two
pipes would; a flow that turns out to be bulk gets a pipe.
"""

from __future__ import annotations

import fcntl
import os
import select
from _socket import (
    IPPROTO_TCP,
    SHUT_WR,
    SO_ERROR,
    SO_KEEPALIVE,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.proxy.main import Target

CHUNK = 65536
BULK = 32768
"""Bytes arriving at once that make a flow bulk."""
PIPE = 1 << 20
TURN = 4 << 20
"""Bytes that one flow may move before others get their turn."""
ACCEPTS = 64
PAUSE = 0.1
"""Seconds that nothing is accepted after descriptors have run out."""
KEEPALIVE = 15
_SPLICE_F_MOVE = 1
_SPLICE_F_NONBLOCK = 2
_F_SETPIPE_SZ = 1031
_IN = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
_OUT = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_BOTH = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def tune(sock: socket) -> None:
    """No delay, and keep-alive probes; what a listener has, its connections inherit."""
    sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    if sock.proto in (0, IPPROTO_TCP):
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        sock.setsockopt(IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE)
        sock.setsockopt(IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE)


class Pipes:
    """Pipes that are empty, to be used again."""

    def __init__(self, *, used: bool) -> None:
        self.used = used
        self._free: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        if self._free:
            return self._free.pop()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fcntl.fcntl(write, _F_SETPIPE_SZ, PIPE)
        except OSError:
            pass  # the user's limit is reached: a smaller one does
        return read, write

    def give(self, pipe: tuple[int, int], held: int) -> None:
        if held or len(self._free) >= 16:
            os.close(pipe[0])
            os.close(pipe[1])
        else:
            self._free.append(pipe)


class Flow:
    """One direction. What it has taken from `source` and not given to `sink` is `pending` or `held` by its pipe."""

    __slots__ = ("bulk", "done", "eof", "held", "pending", "pipe", "readable", "sink", "source", "writable")

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.pending: memoryview | bytes = b""
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.bulk = False
        self.readable = False
        self.writable = False
        self.eof = False
        self.done = False

    def step(self, pipes: Pipes) -> bool:
        """Move what can be moved; True if there may be more but others should have their turn."""
        moved = 0
        while not self.done:
            if self.pending or self.held:
                if not self.writable:
                    return False
                try:
                    moved += self._give()
                except BlockingIOError:
                    self.writable = False
                except OSError:
                    self.done = True  # nobody reads there any more
            elif self.eof:
                self.done = True
            elif not self.readable:
                return False
            elif moved >= TURN:
                return True
            else:
                self._take(pipes)
        return False

    def _give(self) -> int:
        if self.pending:
            count = os.write(self.sink, self.pending)
            self.pending = memoryview(self.pending)[count:] if count < len(self.pending) else b""
            return count
        assert self.pipe is not None
        count = os.splice(self.pipe[0], self.sink, self.held, flags=_SPLICE_F_MOVE | _SPLICE_F_NONBLOCK)
        self.held -= count
        return count

    def _take(self, pipes: Pipes) -> None:
        try:
            if self.bulk:
                self._splice(pipes)
            else:
                self.pending = os.read(self.source, CHUNK)
                self.eof = not self.pending
                self.bulk = len(self.pending) >= BULK and pipes.used
        except BlockingIOError:
            self.readable = False
        except OSError:
            self.eof = True  # reset: what came before is still delivered

    def _splice(self, pipes: Pipes) -> None:
        if self.pipe is None:
            self.pipe = pipes.take()
        flags = _SPLICE_F_MOVE | _SPLICE_F_NONBLOCK
        self.held = os.splice(self.source, self.pipe[1], PIPE, flags=flags)
        self.eof = not self.held


class Pair:
    """A client's connection and ours to the container."""

    __slots__ = ("backend", "client", "connecting", "down", "queued", "up")

    def __init__(self, client: socket, backend: socket) -> None:
        self.client = client
        self.backend = backend
        self.up = Flow(client.fileno(), backend.fileno())
        self.down = Flow(backend.fileno(), client.fileno())
        self.connecting = True
        self.queued = False


def _established(sock: socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class StreamProxy:
    def __init__(self, listener: socket, target: Target) -> None:
        self._listener = listener
        self._target = target
        self._epoll: select.epoll
        self._parent = -1
        self._pipes = Pipes(used=target.protocol == 0)
        self._pairs: dict[int, Pair] = {}
        self._ready: list[Pair] = []
        self._paused = False

    def run(self, parent: int = -1) -> None:
        """Until the process behind the pidfd `parent`, if there is one, has ended."""
        self.begin(parent)
        while self.turn(self._patience()):
            pass

    def begin(self, parent: int = -1) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        if parent >= 0:
            self._epoll.register(parent, select.EPOLLIN)
        self._parent = parent

    def turn(self, seconds: float) -> bool:
        """Do what there is to do, after waiting for it if need be; False if the parent has ended."""
        listener, accepting = self._listener.fileno(), False
        for fd, events in self._epoll.poll(seconds):
            if (pair := self._pairs.get(fd)) is not None:
                self._event(pair, fd, events)
            elif fd == listener:
                accepting = True
            elif fd == self._parent:
                return False
        # Last: a new connection may get the number of one whose events are still in that list.
        if accepting:
            self._accept()
        ready, self._ready = self._ready, []
        for pair in ready:
            pair.queued = False
            self._step(pair)
        if self._paused:
            self._pause(False)
        return True

    def _patience(self) -> float:
        if self._ready:
            return 0
        return PAUSE if self._paused else -1

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._epoll.modify(self._listener.fileno(), 0 if paused else select.EPOLLIN)

    def _accept(self) -> None:
        listener = self._listener
        for _ in range(ACCEPTS):
            try:
                fd, _address = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError:
                self._pause(True)
                return
            client = socket(listener.family, SOCK_STREAM, listener.proto, fd)
            client.setblocking(False)
            self._connect(client)

    def _connect(self, client: socket) -> None:
        target = self._target
        try:
            backend = socket(target.family, SOCK_STREAM, target.protocol)
        except OSError:
            client.close()
            self._pause(True)
            return
        backend.setblocking(False)
        tune(backend)
        try:
            backend.connect(target.address)
        except BlockingIOError:
            pass
        except OSError:
            client.close()
            backend.close()
            return
        pair = Pair(client, backend)
        self._pairs[client.fileno()] = self._pairs[backend.fileno()] = pair
        self._epoll.register(backend.fileno(), _BOTH)
        self._epoll.register(client.fileno(), _BOTH)
        # Nearby, the connection is there at once; if not, the first write says so.
        if _established(backend):
            pair.connecting = False
            pair.up.readable = pair.up.writable = True
            self._step(pair)

    def _event(self, pair: Pair, fd: int, events: int) -> None:
        inward, outward = (pair.up, pair.down) if fd == pair.up.source else (pair.down, pair.up)
        if events & _IN:
            inward.readable = True
        if events & _OUT:
            outward.writable = True
        if pair.connecting:
            # Until we are connected there is nobody to read for.
            if fd != pair.down.source:
                return
            if pair.backend.getsockopt(SOL_SOCKET, SO_ERROR):
                self._close(pair)
                return
            pair.connecting = False
        self._step(pair)

    def _step(self, pair: Pair) -> None:
        more = self._move(pair, pair.up, pair.backend)
        more = self._move(pair, pair.down, pair.client) or more
        if pair.up.done and pair.down.done:
            self._close(pair)
        elif more and not pair.queued:
            pair.queued = True
            self._ready.append(pair)

    def _move(self, pair: Pair, flow: Flow, sink: socket) -> bool:
        if flow.done:
            return False
        more = flow.step(self._pipes)
        if flow.done:
            self._give_back(flow)
            try:
                sink.shutdown(SHUT_WR)
            except OSError:
                pass  # it is gone as a whole
        return more

    def _give_back(self, flow: Flow) -> None:
        if flow.pipe is not None:
            self._pipes.give(flow.pipe, flow.held)
            flow.pipe = None

    def _close(self, pair: Pair) -> None:
        for sock, flow in ((pair.client, pair.up), (pair.backend, pair.down)):
            self._pairs.pop(sock.fileno(), None)
            self._give_back(flow)
            flow.done = True
            sock.close()

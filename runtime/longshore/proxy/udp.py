"""Datagrams: each client gets a socket of its own to the container, so that replies find their way back.

It is forgotten after 90 s without traffic. Where we listen on all addresses, a
reply leaves from the address that the client wrote to.
"""

from __future__ import annotations

import select
import time
from _socket import AF_INET6, CMSG_SPACE, IPPROTO_IP, IPPROTO_IPV6, IPV6_RECVPKTINFO, SOCK_DGRAM, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from longshore.proxy.main import Target

IDLE = 90.0
SIZE = 65536
BATCH = 64
_IP_PKTINFO = 8
_PKTINFO_SPACE = 64


class Track:
    """A client and its socket to the container."""

    __slots__ = ("address", "key", "origin", "socket", "used")

    def __init__(self, key: object, address: Any, origin: list[Any], sock: socket) -> None:
        self.key = key
        self.address = address
        self.origin = origin
        self.socket = sock
        self.used = 0.0


class DatagramProxy:
    def __init__(self, listener: socket, target: Target, *, anywhere: bool) -> None:
        self._listener = listener
        self._target = target
        self._anywhere = anywhere
        self._epoll: select.epoll
        self._tracks: dict[object, Track] = {}
        self._by_fd: dict[int, Track] = {}
        self._now = time.monotonic()
        if anywhere:
            if listener.family == AF_INET6:
                listener.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            else:
                listener.setsockopt(IPPROTO_IP, _IP_PKTINFO, 1)

    def run(self, parent: int = -1) -> None:
        """Until the process behind the pidfd `parent`, if there is one, has ended."""
        listener = self._listener.fileno()
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        if parent >= 0:
            self._epoll.register(parent, select.EPOLLIN)
        swept = self._now
        while True:
            events = self._epoll.poll(IDLE / 3 if self._tracks else -1)
            self._now = time.monotonic()
            for fd, _ in events:
                if fd == listener:
                    self._requests()
                elif (track := self._by_fd.get(fd)) is not None:
                    self._replies(track)
                elif fd == parent:
                    return
            if self._now - swept > IDLE / 3:
                swept = self._now
                self._sweep(self._now - IDLE)

    def _requests(self) -> None:
        for _ in range(BATCH):
            try:
                data, origin, address = self._receive()
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply
            track = self._track(address, origin)
            if track is None:
                continue
            track.used = self._now
            try:
                track.socket.send(data)
            except OSError:
                continue  # refused, or full: datagrams may get lost

    def _receive(self) -> tuple[bytes, list[Any], Any]:
        if not self._anywhere:
            data, address = self._listener.recvfrom(SIZE)
            return data, [], address
        data, origin, _, address = self._listener.recvmsg(SIZE, CMSG_SPACE(_PKTINFO_SPACE))
        return data, [_source(item) for item in origin], address

    def _track(self, address: Any, origin: list[Any]) -> Track | None:
        key = (address, origin[0][2]) if origin else address
        track = self._tracks.get(key)
        if track is None:
            sock = self._connected()
            if sock is None:
                return None
            track = Track(key, address, origin, sock)
            self._tracks[key] = self._by_fd[sock.fileno()] = track
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        return track

    def _connected(self) -> socket | None:
        for _ in range(2):
            try:
                sock = socket(self._target.family, SOCK_DGRAM, 0)
            except OSError:
                # Out of descriptors: the one that was silent longest makes room.
                if not self._tracks:
                    return None
                self._forget(min(self._tracks.values(), key=lambda track: track.used))
                continue
            sock.setblocking(False)
            try:
                sock.connect(self._target.address)
            except OSError:
                sock.close()
                return None
            return sock
        return None

    def _replies(self, track: Track) -> None:
        for _ in range(BATCH):
            try:
                data = track.socket.recv(SIZE)
            except BlockingIOError:
                return
            except OSError:
                return  # nobody listens there (yet)
            track.used = self._now
            try:
                if track.origin:
                    self._listener.sendmsg([data], track.origin, 0, track.address)
                else:
                    self._listener.sendto(data, track.address)
            except OSError:
                continue

    def _sweep(self, before: float) -> None:
        for track in [track for track in self._tracks.values() if track.used < before]:
            self._forget(track)

    def _forget(self, track: Track) -> None:
        del self._tracks[track.key]
        del self._by_fd[track.socket.fileno()]
        track.socket.close()


def _source(item: Any) -> Any:
    """A received in(6)_pktinfo as one to send with: the address it came to, through any interface."""
    level, kind, data = item
    if level == IPPROTO_IP:
        # Interface, the local address, the address in the header.
        return level, kind, bytes(4) + data[4:8] + bytes(4)
    return level, kind, data

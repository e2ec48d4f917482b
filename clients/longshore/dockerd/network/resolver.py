"""The embedded DNS server: sockets inside each container's namespace, served by dockerd's event loop.

A container of a user-defined network asks 127.0.0.11:53. In its namespace two
rules lead that to ports of ours, so port 53 stays free for the container's own
use. Names of the container's networks are answered here; the rest is asked of
the servers outside, and not at all where the container has no way out.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, cast

import structlog

from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import dns, files
from longshore.dockerd.network.kernel import Kernel

log = structlog.get_logger(__name__)

_PATIENCE: Final = 4.0
"""Seconds for one server outside."""
_MOST_SERVERS: Final = 3
_MOST_AT_ONCE: Final = 256
"""Questions of one container under way; each holds a descriptor of ours, and so does each of its TCP connections."""
_MOST_STREAMS: Final = 32
_LENGTH: Final = struct.Struct(">H")
_IDLE: Final = 10.0
"""Seconds that a TCP client may say nothing."""

Address = IPv4Address | IPv6Address


class Upstream(NamedTuple):
    """A server outside; `inside`: asked from within the container's namespace (the user named it)."""

    address: str
    inside: bool = False


class Answers(NamedTuple):
    """What the server asks of its owner."""

    addresses: Callable[[str], list[Address] | None]
    """Of a name; None if nobody here has it."""
    name: Callable[[Address], str | None]
    upstreams: Callable[[], list[Upstream]]
    """Empty where there is no way out."""


class Server:
    """For one namespace. `open`, then `close`."""

    def __init__(self, kernel: Kernel, namespace: str, answers: Answers) -> None:
        self._kernel, self._namespace, self._answers = kernel, namespace, answers
        self._datagrams: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def open(self, ports: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """The UDP and TCP ports that were taken; after a restart those that the namespace's rules know."""
        loop = asyncio.get_running_loop()
        udp, tcp = await self._kernel.run(self._kernel.inside, self._namespace, lambda: _prepare(ports))
        self._datagrams, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        self._streams = await asyncio.start_server(self._serve_stream, sock=tcp)
        return udp.getsockname()[1], tcp.getsockname()[1]

    def close(self) -> None:
        for task in self._work:
            task.cancel()
        if self._datagrams is not None:
            self._datagrams.close()
        if self._streams is not None:
            self._streams.close()

    def received(self, packet: bytes, reply: Callable[[bytes], None]) -> None:
        """A datagram; answered at once or, where others have to be asked, later."""
        if len(self._work) >= _MOST_AT_ONCE:
            with suppress(ValueError):
                reply(dns.failure(dns.parse(packet), dns.REFUSED))
            return
        task = asyncio.create_task(self._reply(packet, reply))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _reply(self, packet: bytes, reply: Callable[[bytes], None]) -> None:
        answer = await self._answer(packet, self._ask_by_datagram)
        if answer:
            reply(answer)

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _MOST_STREAMS:
            writer.close()
            return
        self._connections += 1
        try:
            while True:
                (size,) = _LENGTH.unpack(await asyncio.wait_for(reader.readexactly(2), _IDLE))
                packet = await asyncio.wait_for(reader.readexactly(size), _IDLE)
                answer = await self._answer(packet, self._ask_by_stream)
                if not answer:
                    return
                writer.write(_LENGTH.pack(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            pass
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, packet: bytes, ask: Callable[[Upstream, bytes], Awaitable[bytes]]) -> bytes:
        try:
            question = dns.parse(packet)
        except ValueError:
            return b""
        found = self._own(question)
        if found is not None:
            return found
        last = dns.failure(question, dns.SERVFAIL)
        for upstream in self._answers.upstreams()[:_MOST_SERVERS]:
            try:
                answer = await asyncio.wait_for(ask(upstream, packet), _PATIENCE)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
            last = answer
            if dns.code_of(answer) not in (dns.SERVFAIL, dns.REFUSED):
                break
        return last

    def _own(self, question: dns.Question) -> bytes | None:
        if question.kind in (dns.A, dns.AAAA):
            found = self._answers.addresses(question.name)
            if found is None:
                return None
            random.shuffle(found)
            answer = dns.addresses(question, found)
            return answer if len(answer) <= dns.UDP_LIMIT else dns.addresses(question, found[:16])
        if question.kind == dns.PTR:
            address = dns.reversed_address(question.name)
            name = self._answers.name(address) if address else None
            return dns.name(question, name) if name else None
        return None

    async def _ask_by_datagram(self, upstream: Upstream, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with await self._socket(upstream, socket.SOCK_DGRAM) as client:
            await loop.sock_connect(client, (upstream.address, 53))
            await loop.sock_sendall(client, packet)
            while True:
                answer = await loop.sock_recv(client, 65535)
                if answer[:2] == packet[:2]:
                    return answer

    async def _ask_by_stream(self, upstream: Upstream, packet: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        client = await self._socket(upstream, socket.SOCK_STREAM)
        try:
            await loop.sock_connect(client, (upstream.address, 53))
            reader, writer = await asyncio.open_connection(sock=client)
        except BaseException:
            client.close()
            raise
        try:
            writer.write(_LENGTH.pack(len(packet)) + packet)
            (size,) = _LENGTH.unpack(await reader.readexactly(2))
            return await reader.readexactly(size)
        finally:
            writer.close()

    async def _socket(self, upstream: Upstream, kind: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in upstream.address else socket.AF_INET

        def make() -> socket.socket:
            made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            return made

        if not upstream.inside:
            return make()
        return await self._kernel.run(self._kernel.inside, self._namespace, make)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self._server.received(data, lambda answer: self._send(answer, address))

    def _send(self, answer: bytes, address: tuple[str, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, address)


def _prepare(ports: tuple[int, int]) -> tuple[socket.socket, socket.socket]:
    """In the namespace: both sockets, and the rules that lead to them (they are there already for known ports)."""
    if shutil.which("iptables-restore") is None:
        return _bind(socket.SOCK_DGRAM, 53), _bind(socket.SOCK_STREAM, 53)
    udp = tcp = None
    try:
        udp, tcp = _bind(socket.SOCK_DGRAM, ports[0]), _bind(socket.SOCK_STREAM, ports[1])
        if ports == (0, 0):
            _redirect(udp.getsockname()[1], tcp.getsockname()[1])
    except BaseException:
        for made in (udp, tcp):
            if made is not None:
                made.close()
        raise
    return udp, tcp


def _bind(kind: int, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((files.EMBEDDED, port))
        if kind == socket.SOCK_STREAM:
            made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def _redirect(udp: int, tcp: int) -> None:
    own = f"{files.EMBEDDED}/32"
    lines = ["*nat", ":DOCKER_OUTPUT - [0:0]", ":DOCKER_POSTROUTING - [0:0]"]
    lines += [f"-A OUTPUT -d {own} -j DOCKER_OUTPUT", f"-A POSTROUTING -d {own} -j DOCKER_POSTROUTING"]
    for protocol, port in (("tcp", tcp), ("udp", udp)):
        match = f"-p {protocol} -m {protocol}"
        target = f"{files.EMBEDDED}:{port}"
        lines.append(f"-A DOCKER_OUTPUT -d {own} {match} --dport 53 -j DNAT --to-destination {target}")
        lines.append(f"-A DOCKER_POSTROUTING -s {own} {match} --sport {port} -j SNAT --to-source :53")
    text = "\n".join([*lines, "COMMIT", ""])
    # A child of this thread, so in the namespace that the thread is in.
    done = subprocess.run(["iptables-restore", "--noflush"], input=text.encode(), capture_output=True)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise ServerError(f"the embedded DNS server could not be set up: iptables-restore: {reason}")

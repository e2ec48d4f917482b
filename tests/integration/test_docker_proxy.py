"""docker-proxy: what it carries, how connections end, what it tells its parent."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from longshore.proxy.main import Failure, parse
from longshore.zygote.client import WorkerError, Zygote

PROGRAM = [sys.executable, "-c", "import sys; from longshore.proxy.main import main; sys.exit(main())"]
HERE = "127.0.0.1"


@contextmanager
def proxy(
    words: list[str], listener: socket.socket | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """The process, and what it said on descriptor 3."""
    read, write = os.pipe()
    # The shell puts the descriptors where they are expected.
    places = f"3>&{write} {write}>&-" + (f" 4<&{listener.fileno()}" if listener else "")
    fds = [write, *([listener.fileno()] if listener else [])]
    started = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {places}', "bash", *PROGRAM, *words],
        pass_fds=fds,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        status = b""
        while select.select([read], [], [], 60)[0] and (part := os.read(read, 100)):
            status += part
        yield started, status
    finally:
        os.close(read)
        started.kill()
        started.wait()


@contextmanager
def backend(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server whose connections go to `handle`; its port."""
    with socket.create_server((HERE, 0), backlog=256) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handled, args=(connection,), daemon=True).start()

        def handled(connection: socket.socket) -> None:
            with connection:
                handle(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def proxied(port: int, proto: str = "tcp") -> Iterator[int]:
    """The port on which a proxy to `port` listens."""
    kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind((HERE, 0))
        front = listener.getsockname()[1]
        words = ["-proto", proto, "-host-ip", HERE, "-host-port", str(front), "-container-ip", HERE]
        with proxy([*words, "-container-port", str(port), "-use-listen-fd"], listener) as (_, status):
            assert status == b"0\n"
            yield front


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer_length(connection: socket.socket) -> None:
    connection.sendall(b"%d" % len(read_all(connection)))


@pytest.mark.parametrize("size", [0, 5, 40_000, 20_000_000])
def test_each_side_is_closed_by_itself(size: int) -> None:
    with (
        backend(answer_length) as port,
        proxied(port) as front,
        socket.create_connection((HERE, front)) as client,
    ):
        client.sendall(b"x" * size)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"%d" % size


def test_the_container_may_stop_writing_first() -> None:
    arrived: list[bytes] = []
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        arrived.append(read_all(connection))
        done.set()

    with backend(handle) as port, proxied(port) as front:
        with socket.create_connection((HERE, front)) as client:
            assert client.recv(1) == b""
            client.sendall(b"still here")
        assert done.wait(60)
    assert arrived == [b"still here"]


def test_both_ways_at_once() -> None:
    text = os.urandom(1 << 20) * 8

    def handle(connection: socket.socket) -> None:
        while part := connection.recv(65536):
            connection.sendall(part)

    with backend(handle) as port, proxied(port) as front, socket.create_connection((HERE, front)) as client:

        def send() -> None:
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        assert read_all(client) == text
        sending.join()


def test_many_connections() -> None:
    with backend(answer_length) as port, proxied(port) as front, ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection((HERE, front))) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(b"x" * number)
            client.shutdown(socket.SHUT_WR)
        assert [read_all(client) for client in clients] == [b"%d" % number for number in range(200)]


def test_nobody_listens_in_the_container() -> None:
    with socket.socket() as deaf:  # bound, so that nobody else takes the port
        deaf.bind((HERE, 0))
        with proxied(deaf.getsockname()[1]) as front:
            for _ in range(3):
                with socket.create_connection((HERE, front)) as client:
                    assert client.recv(1) == b""


def test_datagrams_find_their_way_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, ExitStack() as stack:
        server.bind((HERE, 0))
        front = stack.enter_context(proxied(server.getsockname()[1], "udp"))
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(5)]
        for number, client in enumerate(clients):
            client.settimeout(60)
            client.sendto(b"%d" % number, (HERE, front))
        for _ in clients:
            data, address = server.recvfrom(100)
            server.sendto(b"re " + data, address)
        assert [client.recv(100) for client in clients] == [b"re %d" % n for n in range(5)]


@pytest.mark.parametrize("size", [0, 1, 65507])
def test_a_datagram_of_any_size(size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HERE, 0))
        server.settimeout(60)
        with (
            proxied(server.getsockname()[1], "udp") as front,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            client.sendto(b"x" * size, (HERE, front))
            assert server.recv(65536) == b"x" * size


def test_a_port_that_is_taken_is_told_on_the_status_pipe() -> None:
    with socket.create_server((HERE, 0)) as server:
        port = str(server.getsockname()[1])
        words = ["--proto=tcp", "--host-ip", HERE, "--host-port", port]
        with proxy([*words, "--container-ip=127.0.0.2", "--container-port", "80"]) as (process, status):
            assert status == f"1\nlisten tcp {HERE}:{port}: bind: address already in use".encode()
            assert process.wait() == 1


def test_sigterm_ends_it_well() -> None:
    with socket.create_server((HERE, 0)) as listener:
        words = ["-proto", "tcp", "-host-ip", HERE, "-container-ip", HERE, "-container-port", "1"]
        with proxy([*words, "-host-port", "1", "-use-listen-fd"], listener) as (process, status):
            assert status == b"0\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0


def test_what_it_does_not_understand() -> None:
    with pytest.raises(Failure, match='invalid value "x" for flag -host-port: parse error'):
        parse(["-host-port", "x"])
    with pytest.raises(Failure, match="flag needs an argument: -proto"):
        parse(["-proto"])
    with pytest.raises(SystemExit):
        parse(["-what"])


async def test_from_the_zygote_it_ends_with_the_daemon() -> None:
    with backend(answer_length) as port, socket.create_server((HERE, 0)) as listener:
        front = listener.getsockname()[1]
        zygote = Zygote.spawn()
        arguments = {
            "proto": "tcp",
            "host_ip": HERE,
            "host_port": front,
            "container_ip": HERE,
            "container_port": port,
        }
        try:
            started = await zygote.call("longshore.proxy.main:start", arguments, [listener.fileno()])
            pidfd = os.pidfd_open(started["pid"])
            with socket.create_connection((HERE, front)) as client:
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"0"
            with pytest.raises(WorkerError, match="bind: address already in use"):
                await zygote.call("longshore.proxy.main:start", arguments)
        finally:
            await zygote.close()
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)

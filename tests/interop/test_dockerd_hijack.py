"""Connections that stop being HTTP: run, attach and exec of the docker CLI over a Unix socket, TCP and TLS.

Standard input's end must reach the container while output goes on; that is
where proxies, TLS and HTTP libraries go wrong.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest
import trustme

from support import host, require, session
from support.folders import short_folder
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.process import eventually
from support.terminal import Terminal

TCP, TLS = "tcp://127.0.0.1:2375", "tcp://127.0.0.1:2376"
NO_NETWORK = ("--network", "none")


class Keys(NamedTuple):
    """Files of an identity and of whom it trusts, as docker's flags take them."""

    ca: Path
    cert: Path
    key: Path

    def flags(self) -> list[str]:
        return [f"--tlscacert={self.ca}", f"--tlscert={self.cert}", f"--tlskey={self.key}"]


def keys(folder: Path, name: str, issued: trustme.LeafCert, trusted: trustme.CA) -> Keys:
    made = Keys(folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    trusted.cert_pem.write_to_path(str(made.ca))
    issued.cert_chain_pems[0].write_to_path(str(made.cert))
    issued.private_key_pem.write_to_path(str(made.key))
    return made


class Door:
    """A running dockerd and one way to it."""

    def __init__(self, docker: OurDockerd, flags: list[str]) -> None:
        self.docker, self._flags = docker, flags

    def command(self, *words: str) -> list[str]:
        return self.docker.host.inside([self.docker.cli, *self._flags, *words])

    def __call__(self, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        given: dict[str, Any] = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            self.command(*words),
            capture_output=True,
            timeout=120,
            check=False,
            env=self.environment(),
            **given,
        )
        return done

    def popen(self, *words: str, stdin: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        command = self.command(*words)
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, env=self.environment())

    def environment(self) -> dict[str, str]:
        return {name: text for name, text in self.docker.environment().items() if name != "DOCKER_HOST"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def plain() -> Iterator[OurDockerd]:
    """On its Unix socket and on plain TCP at once."""
    require.root()
    require.go(*PARTS)
    with OurDockerd(flags=["--host", TCP], cli=session.which_cli()) as docker:
        yield docker


@pytest.fixture(scope="module")
def secured(folder: Path, authority: trustme.CA) -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    server = keys(folder, "server", authority.issue_cert("127.0.0.1", "localhost"), authority)
    with OurDockerd(flags=["--host", TLS, "--tlsverify", *server.flags()], cli=session.which_cli()) as docker:
        yield docker


@pytest.fixture(scope="module", params=["unix", "tcp", "tls"])
def door(request: pytest.FixtureRequest, folder: Path, authority: trustme.CA) -> Door:
    if request.param == "tls":
        client = keys(folder, "client", authority.issue_cert("client@localhost"), authority)
        return Door(request.getfixturevalue("secured"), ["-H", TLS, "--tlsverify", *client.flags()])
    docker = request.getfixturevalue("plain")
    return Door(docker, ["-H", TCP if request.param == "tcp" else f"unix://{docker.socket}"])


@pytest.fixture
def box(door: Door) -> Iterator[str]:
    """A container that goes on after the end of standard input, which is the end of what a client sends."""
    door("rm", "-f", "box")
    door("create", "-i", "--name", "box", *NO_NETWORK, BUSYBOX, "sh", "-c", "cat; sleep 0.2; echo end")
    assert door("start", "box").returncode == 0
    yield "box"
    door("rm", "-f", "box")


@pytest.fixture
def lasting(door: Door) -> Iterator[str]:
    """One whose standard input stays open whoever comes and goes: started detached."""
    door("rm", "-f", "lasting")
    assert door("run", "-di", "--name", "lasting", *NO_NETWORK, BUSYBOX, "cat").returncode == 0
    yield "lasting"
    door("rm", "-f", "lasting")


def test_run_goes_on_after_the_end_of_input(door: Door) -> None:
    script = "cat; sleep 0.2; echo end; echo err >&2; exit 3"
    done = door("run", "--rm", "-i", *NO_NETWORK, BUSYBOX, "sh", "-c", script, data=b"x")
    assert (done.stdout, done.stderr, done.returncode) == (b"xend\n", b"err\n", 3)


def test_attach_goes_on_after_the_end_of_input(door: Door, box: str) -> None:
    done = door("attach", box, data=b"x")
    assert (done.stdout, done.returncode) == (b"xend\n", 0), done.stderr


def test_exec_goes_on_after_the_end_of_input(door: Door, lasting: str) -> None:
    done = door("exec", "-i", lasting, "sh", "-c", "cat; sleep 0.2; echo end; exit 4", data=b"x")
    assert (done.stdout, done.returncode) == (b"xend\n", 4), done.stderr


def test_start_attached(door: Door) -> None:
    door("create", "-i", "--name", "made", *NO_NETWORK, BUSYBOX, "sh", "-c", "cat; echo end")
    try:
        assert door("start", "-ai", "made", data=b"x").stdout == b"xend\n"
    finally:
        door("rm", "-f", "made")


def test_megabytes_both_ways(door: Door) -> None:
    data = random.Random(7).randbytes(3 << 20)
    done = door("run", "--rm", "-i", *NO_NETWORK, BUSYBOX, "cat", data=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), done.stderr


def test_megabytes_through_exec(door: Door, lasting: str) -> None:
    data = random.Random(8).randbytes(3 << 20)
    done = door("exec", "-i", lasting, "cat", data=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest(), done.stderr


def test_a_client_that_goes_away_ends_nothing(door: Door, lasting: str) -> None:
    client = door.popen("attach", lasting)
    assert client.stdin is not None and client.stdout is not None
    client.stdin.write(b"seen\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"seen\n"
    os.kill(host.innermost(client.pid), signal.SIGKILL)
    client.communicate(timeout=120)
    assert door.docker.inspect(lasting, ".State.Status") == "running"


class Lines:
    """What a client prints, read as it comes."""

    def __init__(self, client: subprocess.Popen[bytes]) -> None:
        self._seen: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=(client.stdout,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in iter(stream.readline, b""):
            self._seen.append(line)

    def has(self, line: bytes) -> bool:
        return line in self._seen


def test_two_are_attached(door: Door, lasting: str) -> None:
    clients = [door.popen("attach", lasting), door.popen("attach", lasting)]
    try:
        printed = [Lines(client) for client in clients]
        for word, client in ((b"one\n", clients[0]), (b"two\n", clients[1])):

            def heard(word: bytes = word, client: subprocess.Popen[bytes] = client) -> bool:
                # Again and again: a client that is still on its way misses what others say before it has come.
                assert client.stdin is not None
                client.stdin.write(word)
                client.stdin.flush()
                return all(lines.has(word) for lines in printed)

            eventually(heard)
    finally:
        door("rm", "-f", lasting)
        for client in clients:
            client.wait(60)


@pytest.mark.parametrize("door", ["unix", "tls"], indirect=True, scope="module")
def test_terminal_and_detaching(door: Door) -> None:
    """Not on plain TCP: there Go wraps the error that tells the client itself of the keys, and it goes on waiting."""
    command = door.command("run", "-it", "--name", "term", *NO_NETWORK, BUSYBOX, "sh")
    opened = Terminal(command, door.environment())
    try:
        opened.type("tty\n")
        opened.until(r"/dev/pts/\d+\r\n")
        opened.wait_for_size(24, 80)
        opened.type("\x10\x11")  # Ctrl-P Ctrl-Q
    finally:
        status = opened.end()
    try:
        assert status == 0
        assert door.docker.inspect("term", ".State.Status") == "running"
    finally:
        door("rm", "-f", "term")


# raw connections


def receive(connection: socket.socket, until: bytes) -> bytes:
    seen = b""
    while until not in seen:
        piece = connection.recv(65536)
        if not piece:
            break
        seen += piece
    return seen


def ask(docker: OurDockerd, request: bytes, until: bytes = b"\r\n\r\n", *, half_close: bool = False) -> bytes:
    """The answer to `request`, up to `until`; b"" from a server that closes the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(docker.socket))
        try:
            connection.sendall(request)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            return receive(connection, until)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_bytes_sent_with_the_request_are_not_lost(plain: OurDockerd) -> None:
    """A client need not wait for the answer before it sends input."""
    plain("create", "-i", "--name", "raw", *NO_NETWORK, BUSYBOX, "sh", "-c", "cat; echo end")
    try:
        plain("start", "raw")
        request = (
            b"POST /v1.41/containers/raw/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\n"
        )
        upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly\n"
        answer = ask(plain, request + upgrade, b"end\n", half_close=True)
        assert answer.startswith(b"HTTP/1.1 101 ")
        frame = answer.partition(b"\r\n\r\n")[2]
        # On a busy machine what follows may be in the same frame.
        assert frame[:7] == b"\x01\0\0\0\0\0\0" and frame[8:].startswith(b"early\n")
    finally:
        plain("rm", "-f", "raw")


def test_without_upgrade_it_is_200(plain: OurDockerd) -> None:
    plain("run", "-d", "--name", "raw", *NO_NETWORK, BUSYBOX, "sleep", "1000")
    try:
        answer = ask(plain, b"POST /containers/raw/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nContent-Type: application/vnd.docker." in answer
    finally:
        plain("rm", "-f", "raw")


def test_slow_and_half_open_clients_stop_nobody(plain: OurDockerd) -> None:
    """Twenty connections that never finish their request; others are served meanwhile."""
    opened = []
    try:
        for number in range(20):
            opened.append(socket.socket(socket.AF_UNIX))
            opened[-1].connect(str(plain.socket))
            opened[-1].sendall(b"POST /containers/create HTTP/1.1\r\nHost: d\r\n" + b"X-A: b\r\n" * number)
        assert plain("version").returncode == 0
    finally:
        for connection in opened:
            connection.close()


POST = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
NONSENSE = {
    "huge header": (
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: " + b"a" * (2 << 20) + b"\r\n\r\n",
        (b"400", b"431", b""),
    ),
    "no HTTP": (b"NONSENSE\r\n\r\n", (b"400", b"")),
    "too new": (b"GET /v9.99/_ping HTTP/1.1\r\nHost: d\r\n\r\n", (b"400",)),
    "too old": (b"GET /v1.1/info HTTP/1.1\r\nHost: d\r\n\r\n", (b"400",)),
    "no page": (b"GET /no/such/page HTTP/1.1\r\nHost: d\r\n\r\n", (b"404",)),
    "no JSON": (POST + b"Content-Length: 3\r\n\r\n{x}", (b"400",)),
    "endless JSON": (POST + b"Content-Length: 4\r\n\r\n[[[[", (b"400",)),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(plain: OurDockerd, what: str) -> None:
    request, statuses = NONSENSE[what]
    answer = ask(plain, request)
    words = answer.split(maxsplit=2)
    assert (words[1] if words else b"") in statuses, answer[:500]
    assert plain("version").returncode == 0


def test_socket_mode(plain: OurDockerd) -> None:
    assert stat.S_IMODE(plain.socket.stat().st_mode) == 0o660


def test_plain_tcp_is_warned_of(plain: OurDockerd) -> None:
    assert "[warning" in plain.log.read_text() and "2375" in plain.log.read_text()


# who may enter by TLS


@pytest.mark.parametrize("who", ["nobody", "a stranger", "the expired", "the invited"])
def test_client_certificates(secured: OurDockerd, folder: Path, authority: trustme.CA, who: str) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    issued = {
        "nobody": authority.issue_cert("unused@localhost"),
        "a stranger": trustme.CA().issue_cert("client@localhost"),
        "the expired": authority.issue_cert("client@localhost", not_after=yesterday),
        "the invited": authority.issue_cert("client@localhost"),
    }[who]
    flags = keys(folder, who.replace(" ", "-"), issued, authority).flags()
    if who == "nobody":
        flags = [flags[0], "--tlscert=", "--tlskey="]
    done = Door(secured, ["-H", TLS, "--tlsverify", *flags])("version", "--format", "{{json .Server.Os}}")
    if who == "the invited":
        assert json.loads(done.stdout) == "linux", done.stderr
    else:
        assert done.returncode != 0 and (b"tls" in done.stderr or b"certificate" in done.stderr), done.stderr
    assert secured("version").returncode == 0


def test_plain_text_on_the_tls_port(secured: OurDockerd) -> None:
    assert Door(secured, ["-H", TLS])("version").returncode != 0
    assert secured("version").returncode == 0

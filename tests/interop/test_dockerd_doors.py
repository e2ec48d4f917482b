"""Our dockerd's doors, with the real docker CLI at each: unix, tcp, TLS; hijacked streams; who is let in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import trustme

from support import goparts, require
from support.folders import short_folder
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd

PLAIN, SECURE = 2375, 2376
NEWER = Path("/usr/local/bin/docker")
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


class Door(NamedTuple):
    """`flags` of the docker CLI lead to the daemon."""

    docker: OurDockerd
    flags: Sequence[str]

    def __call__(
        self, *words: str, program: Path | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [program or goparts.path("docker"), *self.flags, *words]
        environment = {**self.docker.environment(), "DOCKER_HOST": ""}
        return self.docker.call(command, inside=True, check=False, env=environment, **options)


class Certificates:
    """Of the daemon, and of clients that should and should not get in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, trustme.CA()
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self._write("server", self.authority.issue_cert("localhost", "127.0.0.1"))
        self._write("right", self.authority.issue_cert("client@example.org"))
        past = datetime.now(UTC) - timedelta(days=1)
        expired = self.authority.issue_cert(
            "client@example.org", not_before=past - timedelta(days=9), not_after=past
        )
        self._write("expired", expired)
        self._write("stranger", trustme.CA().issue_cert("client@example.org"))

    def _write(self, name: str, made: trustme.LeafCert) -> None:
        made.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(self.folder / f"{name}-key.pem"))

    @property
    def of_daemon(self) -> list[str]:
        return ["--tlsverify", "--tlscacert", self._at("ca.pem"), *self._pair("server")]

    def of_client(self, name: str) -> list[str]:
        pair = self._pair(name) if name else []
        return ["--tlsverify", "--tlscacert", self._at("ca.pem"), *pair, "-H", f"tcp://localhost:{SECURE}"]

    def _pair(self, name: str) -> list[str]:
        return ["--tlscert", self._at(f"{name}.pem"), "--tlskey", self._at(f"{name}-key.pem")]

    def _at(self, name: str) -> str:
        return str(self.folder / name)


@contextmanager
def secured() -> Iterator[tuple[OurDockerd, Certificates]]:
    with short_folder() as folder:
        certificates = Certificates(folder)
        flags = ["-H", f"tcp://127.0.0.1:{SECURE}", *certificates.of_daemon]
        with OurDockerd(flags=flags) as docker:
            yield docker, certificates


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[OurDockerd, Certificates]]:
    require.root()
    require.go(*PARTS)
    with secured() as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd(flags=["-H", f"tcp://127.0.0.1:{PLAIN}"]) as docker:
        yield docker


@pytest.fixture(params=("unix", "tcp", "tls"))
def door(request: pytest.FixtureRequest) -> Door:
    if request.param == "tls":
        docker, certificates = request.getfixturevalue("secure")
        return Door(docker, certificates.of_client("right"))
    docker = request.getfixturevalue("plain")
    host = f"unix://{docker.socket}" if request.param == "unix" else f"tcp://127.0.0.1:{PLAIN}"
    return Door(docker, ["-H", host])


@pytest.fixture(params=("debian", "newer"))
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "debian":
        return goparts.path("docker")
    if not NEWER.exists():
        require.lacking(f"there is no {NEWER}")
    return NEWER


@pytest.fixture
def running(door: Door) -> Iterator[str]:
    """A container that waits for its end."""
    made = door("run", "-d", BUSYBOX, "sh", "-c", FOREVER)
    assert made.returncode == 0, made.stderr
    yield made.stdout.strip()
    door("rm", "-f", made.stdout.strip())


# -- streams ------------------------------------------------------------------------------------------------


def test_run_reads_on_after_the_end_of_its_input(door: Door, program: Path) -> None:
    done = door(
        "run", "--rm", "-i", BUSYBOX, "sh", "-c", "cat; sleep 0.2; echo end", program=program, input="x"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "xend\n", "")


def test_exec_reads_on_after_the_end_of_its_input(door: Door, program: Path, running: str) -> None:
    script = "cat; sleep 0.2; echo end; echo bad >&2; exit 3"
    done = door("exec", "-i", running, "sh", "-c", script, program=program, input="x")
    assert (done.returncode, done.stdout, done.stderr) == (3, "xend\n", "bad\n")


def test_attach_reads_on_after_the_end_of_its_input(door: Door, program: Path) -> None:
    made = door("create", "-i", BUSYBOX, "sh", "-c", "cat; sleep 0.2; echo end").stdout.strip()
    done = door("start", "-ai", made, program=program, input="x")
    assert (done.returncode, done.stdout) == (0, "xend\n")
    assert door("rm", made).returncode == 0


def test_a_megabyte_there_and_back(door: Door) -> None:
    text = "0123456789abcde\n" * 65536
    done = door("run", "--rm", "-i", BUSYBOX, "cat", input=text)
    assert (done.returncode, done.stdout == text) == (0, True)


# -- who is let in ------------------------------------------------------------------------------------------


def test_the_right_certificate(secure: tuple[OurDockerd, Certificates], program: Path) -> None:
    docker, certificates = secure
    done = Door(docker, certificates.of_client("right"))("version", program=program)
    assert done.returncode == 0 and "longshore" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    (
        ("", ("certificate required", "bad certificate")),
        ("expired", ("expired certificate", "certificate expired", "bad certificate")),
        ("stranger", ("unknown certificate authority", "unknown authority", "bad certificate")),
    ),
)
def test_other_certificates(secure: tuple[OurDockerd, Certificates], name: str, words: Sequence[str]) -> None:
    docker, certificates = secure
    done = Door(docker, certificates.of_client(name))("ps")
    assert done.returncode != 0
    assert any(word in done.stderr for word in words), done.stderr


def test_no_tls_on_a_door_with_tls(secure: tuple[OurDockerd, Certificates]) -> None:
    docker, _ = secure
    done = Door(docker, ["-H", f"tcp://127.0.0.1:{SECURE}"])("ps")
    assert done.returncode != 0
    assert Door(docker, ["-H", f"unix://{docker.socket}"])("ps").returncode == 0


def test_an_open_door_is_warned_of(plain: OurDockerd) -> None:
    assert "root access" in plain.log.read_text()
    assert "without client certificates" in Door(plain, ["-H", f"unix://{plain.socket}"])("info").stderr


async def test_a_websocket(plain: OurDockerd) -> None:
    made = plain("run", "-di", BUSYBOX, "sh", "-c", "cat; echo end").stdout.strip()
    path = f"http://x/v1.41/containers/{made}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(plain.socket))) as session,
            session.ws_connect(path) as client,
        ):
            await client.send_bytes(b"hello\n")
            assert (await client.receive(60)).data == b"hello\n"
    finally:
        plain("rm", "-f", made)

"""Containers by the Engine API itself: attach, websockets, detach keys, waits, statuses of what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from support import require
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd

pytestmark = [pytest.mark.interop, pytest.mark.root]


@pytest.fixture(scope="module")
def daemon() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd() as docker:
        yield docker


@pytest.fixture
def docker(daemon: OurDockerd) -> Iterator[OurDockerd]:
    yield daemon
    daemon.clean()


@pytest.fixture
async def api(docker: OurDockerd) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(docker.socket))
    async with aiohttp.ClientSession("http://docker", connector=connector) as session:
        yield session


async def create(api: aiohttp.ClientSession, *command: str, name: str = "", **config: Any) -> str:
    body = {"Image": BUSYBOX, "Cmd": list(command), **config}
    async with api.post("/containers/create", params={"name": name} if name else {}, json=body) as answer:
        document = await answer.json()
        assert answer.status == 201, document
        return str(document["Id"])


async def ask(api: aiohttp.ClientSession, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Status and message (or text)."""
    async with api.request(method, path, **options) as answer:
        text = await answer.text()
        try:
            return answer.status, json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            return answer.status, text


class Hijack:
    """An upgraded connection, by hand."""

    def __init__(self, docker: OurDockerd, path: str, version: str = "") -> None:
        self._socket, self._path, self._version = str(docker.socket), path, version

    async def __aenter__(self) -> Hijack:
        self.reader, self.writer = await asyncio.open_unix_connection(self._socket)
        prefix = f"/v{self._version}" if self._version else ""
        head = (
            f"POST {prefix}{self._path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        )
        self.writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def frames(self) -> list[tuple[int, bytes]]:
        found = []
        while header := await self.reader.read(1):
            stream, length = struct.unpack(">BxxxI", header + await self.reader.readexactly(7))
            found.append((stream, await self.reader.readexactly(length)))
        return found


def joined(frames: list[tuple[int, bytes]], stream: int) -> bytes:
    return b"".join(data for number, data in frames if number == stream)


EVERYTHING = "stream=1&stdin=1&stdout=1&stderr=1"


# -- attach


async def test_frames_and_their_content_type(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "sh", "-c", "echo out; echo err >&2")
    for version, kind in (("", "multiplexed-stream"), ("1.41", "raw-stream")):
        async with Hijack(docker, f"/containers/{id}/attach?{EVERYTHING}", version) as attached:
            assert attached.head.startswith("HTTP/1.1 101 ")
            assert f"Content-Type: application/vnd.docker.{kind}" in attached.head
            assert await ask(api, "POST", f"/containers/{id}/start") == (204, "")
            frames = await attached.frames()
        await ask(api, "POST", f"/containers/{id}/wait")
        assert joined(frames, 1) == b"out\n" and joined(frames, 2) == b"err\n"


async def test_the_end_of_the_input_leaves_the_output_open(
    docker: OurDockerd, api: aiohttp.ClientSession
) -> None:
    id = await create(
        api, "sh", "-c", "cat; sleep 0.3; echo end", OpenStdin=True, StdinOnce=True, AttachStdin=True
    )
    async with Hijack(docker, f"/containers/{id}/attach?{EVERYTHING}") as attached:
        attached.writer.write(b"typed\n")
        attached.writer.write_eof()
        await ask(api, "POST", f"/containers/{id}/start")
        assert joined(await attached.frames(), 1) == b"typed\nend\n"


async def test_only_what_is_wanted(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "sh", "-c", "echo out; echo err >&2")
    async with Hijack(docker, f"/containers/{id}/attach?stream=1&stderr=1") as attached:
        await ask(api, "POST", f"/containers/{id}/start")
        assert await attached.frames() == [(2, b"err\n")]


async def test_what_was_printed_before(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "sh", "-c", "echo first; cat", OpenStdin=True, StdinOnce=True)
    await ask(api, "POST", f"/containers/{id}/start")
    async with api.get(f"/containers/{id}/logs?follow=1&stdout=1") as answer:
        await answer.content.readexactly(8 + len(b"first\n"))
    async with Hijack(docker, f"/containers/{id}/attach?logs=1&{EVERYTHING}") as attached:
        attached.writer.write(b"second\n")
        attached.writer.write_eof()
        assert joined(await attached.frames(), 1) == b"first\nsecond\n"


async def test_two_clients_see_the_same(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "sh", "-c", "seq 2000")
    path = f"/containers/{id}/attach?stream=1&stdout=1"
    async with Hijack(docker, path) as first, Hijack(docker, path) as second:
        await ask(api, "POST", f"/containers/{id}/start")
        expected = "".join(f"{number}\n" for number in range(1, 2001)).encode()
        assert joined(await first.frames(), 1) == expected
        assert joined(await second.frames(), 1) == expected


async def test_who_waits_for_a_start_that_fails_sees_the_end(
    docker: OurDockerd, api: aiohttp.ClientSession
) -> None:
    id = await create(api, "no-such-program")
    async with Hijack(docker, f"/containers/{id}/attach?{EVERYTHING}") as attached:
        status, words = await ask(api, "POST", f"/containers/{id}/start")
        assert status == 400 and "executable file not found" in words
        assert await attached.frames() == []


async def test_detach_keys_leave_it_running(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "cat", Tty=True, OpenStdin=True, name="term")
    await ask(api, "POST", f"/containers/{id}/start")
    async with Hijack(docker, f"/containers/{id}/attach?{EVERYTHING}&detachKeys=ctrl-x,q") as attached:
        attached.writer.write(b"typed\n\x18")
        assert await attached.reader.readexactly(7) == b"typed\r\n"
        attached.writer.write(b"q")
        while await attached.reader.read(100):
            pass
    assert docker.running() == {"term"}
    status, words = await ask(api, "POST", f"/containers/{id}/attach?stream=1&detachKeys=nonsense")
    assert status == 400 and "nvalid detach keys" in words


async def test_a_websocket(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "cat", Tty=True, OpenStdin=True)
    await ask(api, "POST", f"/containers/{id}/start")
    async with api.ws_connect(f"/containers/{id}/attach/ws?{EVERYTHING}") as socket:
        await socket.send_bytes(b"hello\n")
        found = b""
        while not found.endswith(b"hello\r\nhello\r\n"):
            found += (await socket.receive(timeout=60)).data
        docker("kill", id)
        assert (await socket.receive(timeout=60)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_attach_to_a_paused_container(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = docker("run", "--detach", BUSYBOX, "sleep", "1000").stdout.strip()
    docker("pause", id)
    status, words = await ask(api, "POST", f"/containers/{id}/attach?{EVERYTHING}")
    assert (status, words) == (409, f"container {id} is paused, unpause the container before attach")


# -- exec


async def test_exec_by_hand(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    box = docker("run", "--detach", BUSYBOX, "sleep", "1000").stdout.strip()
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": ["sh", "-c", "echo out; echo err >&2; exit 3"]}
    async with api.post(f"/containers/{box}/exec", json=body) as answer:
        assert answer.status == 201
        id = (await answer.json())["Id"]
    async with api.post(f"/exec/{id}/start", json={"Detach": False}) as answer:
        assert answer.status == 200
        data = await answer.read()
    assert data.count(b"out\n") == 1 and data.count(b"err\n") == 1
    async with api.get(f"/exec/{id}/json") as answer:
        document = await answer.json()
    assert (document["Running"], document["ExitCode"], document["ContainerID"]) == (False, 3, box)
    status, words = await ask(api, "POST", f"/exec/{id}/start", json={})
    assert status == 409 and "has already run" in words
    assert await ask(api, "GET", "/exec/nope/json") == (404, "No such exec instance: nope")
    assert (await ask(api, "POST", f"/containers/{box}/exec", json={}))[0] == 400


# -- waits


@pytest.mark.parametrize("condition", ["", "not-running", "next-exit", "removed"])
async def test_wait(docker: OurDockerd, api: aiohttp.ClientSession, condition: str) -> None:
    id = await create(api, "sh", "-c", "sleep 0.2; exit 4", HostConfig={"AutoRemove": condition == "removed"})
    if condition in ("", "not-running"):
        await ask(api, "POST", f"/containers/{id}/start")
    async with api.post(f"/containers/{id}/wait", params={"condition": condition}) as answer:
        assert answer.status == 200  # the answer has begun
        await ask(api, "POST", f"/containers/{id}/start")
        assert (await answer.json(content_type=None))["StatusCode"] == 4


async def test_wait_for_nonsense(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = await create(api, "true")
    status, words = await ask(api, "POST", f"/containers/{id}/wait?condition=rain")
    assert status == 400 and 'invalid condition: "rain"' in words


# -- what is refused


async def test_statuses(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    id = docker("run", "--detach", "--name", "box", BUSYBOX, "sleep", "1000").stdout.strip()
    cases: list[tuple[str, str, int, str]] = [
        ("GET", "/containers/nope/json", 404, "No such container: nope"),
        ("POST", "/containers/box/start", 304, ""),
        ("POST", "/containers/box/unpause", 409, f"Container {id} is not paused"),
        ("DELETE", "/containers/box", 409, "You cannot remove a running container"),
        ("POST", "/containers/box/rename?name=box", 400, "same name"),
        ("POST", "/containers/box/rename", 400, "may be empty"),
        ("POST", "/containers/box/kill?signal=RAIN", 400, "Invalid signal: RAIN"),
        ("GET", "/containers/box/logs", 400, "you must choose at least one stream"),
        ("POST", "/containers/box/stop?t=0", 204, ""),
        ("POST", "/containers/box/stop", 304, ""),
        ("POST", "/containers/box/kill", 409, "is not running"),
        ("POST", "/containers/box/pause", 409, "is not running"),
        ("POST", "/containers/box/resize?h=1&w=1", 409, "is not running"),
        ("DELETE", "/containers/box", 204, ""),
        ("DELETE", "/containers/box", 404, "No such container: box"),
    ]
    for method, path, status, words in cases:
        answer = await ask(api, method, path)
        assert answer[0] == status and words in answer[1], (method, path, answer)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Image": "nope"}, 404, "No such image: nope:latest"),
        ({"Image": BUSYBOX, "StopSignal": "RAIN"}, 400, "Invalid signal: RAIN"),
        ({"Image": BUSYBOX, "HostConfig": {"Runtime": "nope"}}, 400, "unknown or invalid runtime name: nope"),
    ],
)
async def test_create_refuses(
    docker: OurDockerd, api: aiohttp.ClientSession, body: dict[str, Any], status: int, words: str
) -> None:
    answer = await ask(api, "POST", "/containers/create", json=body)
    assert answer[0] == status and words in answer[1]
    assert docker("ps", "--all", "--quiet").stdout == ""
    assert docker.host.run(["ls", "/run/d/containers"]).stdout == ""


async def test_a_part_of_a_volume(docker: OurDockerd, api: aiohttp.ClientSession) -> None:
    """A folder, a file, a link that stays inside; what isn't there; and a removal that leaves the volume alone."""
    script = "mkdir /v/a; echo deep > /v/a/f; echo top > /v/f; ln -s /a /v/in; ln -s /etc/passwd /v/out"
    docker("run", "--rm", "-v", "vol:/v", BUSYBOX, "sh", "-c", script)

    async def made(subpath: str, *command: str) -> str:
        mount = {"Type": "volume", "Source": "vol", "Target": "/s", "VolumeOptions": {"Subpath": subpath}}
        return await create(api, *command, HostConfig={"Mounts": [mount]})

    def mounted() -> str:
        return docker.host.run(["grep", "-F", "/mounts/", "/proc/mounts"]).stdout

    for subpath, file, said in (("a", "/s/f", "deep\n"), ("f", "/s", "top\n"), ("in", "/s/f", "deep\n")):
        id = await made(subpath, "sh", "-c", f"cat {file}; exec sleep 1000")
        for _ in range(2):
            docker("start", id)
            assert mounted().count("\n") == 1
            assert docker("exec", id, "cat", file).stdout == said
            docker("stop", "--time", "0", id)
            assert mounted() == ""
        docker("cp", f"{id}:{file}", docker.folder / "copied")
        assert (docker.folder / "copied").read_text() == said
    for subpath in ("nope", "out"):
        id = await made(subpath, "true")
        status, words = await ask(api, "POST", f"/containers/{id}/start")
        assert status == 500 and words.endswith(f"_data/{subpath}: no such file or directory")
    running = await made("a", "sleep", "1000")
    assert await ask(api, "POST", f"/containers/{running}/start") == (204, "")
    docker.kill9()
    docker.start()
    docker.clean()
    assert mounted() == ""
    assert docker("run", "--rm", "-v", "vol:/v", BUSYBOX, "cat", "/v/a/f").stdout == "deep\n"
    docker("volume", "rm", "vol")


async def test_an_image_of_another_platform(api: aiohttp.ClientSession) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    words = (
        f"image with reference {BUSYBOX} was found but does not match the specified platform:"
        f" wanted linux/s390x, actual: linux/{machine}"
    )
    other = '{"os":"linux","architecture":"s390x"}'
    for method, path, platform in (
        ("POST", "/containers/create", "linux/s390x"),
        ("GET", f"/images/{BUSYBOX}/history", other),
        ("GET", f"/images/{BUSYBOX}/get", other),
        ("GET", "/images/get?names=" + BUSYBOX, other),
    ):
        options = {"json": {"Image": BUSYBOX}} if method == "POST" else {}
        assert await ask(api, method, path, params={"platform": platform}, **options) == (404, words)
    body = {"json": {"Image": BUSYBOX}}
    said = await ask(api, "POST", "/containers/create", params={"platform": f"linux/{machine}"}, **body)
    assert said[0] == 201
    same = {"platform": f'{{"os":"linux","architecture":"{machine}"}}'}
    assert (await ask(api, "GET", f"/images/{BUSYBOX}/history", params=same))[0] == 200


async def test_a_network_that_is_not_there_is_the_starts_complaint(
    docker: OurDockerd, api: aiohttp.ClientSession
) -> None:
    id = await create(api, "true", HostConfig={"NetworkMode": "nope"})
    assert await ask(api, "POST", f"/containers/{id}/start") == (404, "network nope not found")
    assert docker.inspect(id, ".State.ExitCode") == "128"

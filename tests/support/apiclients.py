"""What programs do with Docker's libraries: ``python -m support.apiclients docker-py|aiodocker|testcontainers``.

Run on the host of a dockerd (DOCKER_HOST says which), so that published ports
can be reached. Ends with 0 and prints "done" when everything was as it should.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

IMAGE = "busybox:latest"
WEB = ["sh", "-c", "mkdir /w; echo hello > /w/i; echo serving; exec httpd -f -p 80 -h /w"]


def fetch(port: int | str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/i", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def until(look: Callable[[], Any], what: str, within: float = 60) -> Any:
    deadline = time.monotonic() + within
    while True:
        try:
            if answer := look():
                return answer
            error = ""
        except OSError as caught:
            error = str(caught)
        assert time.monotonic() < deadline, f"still not so: {what} {error}"
        time.sleep(0.05)


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def docker_py() -> None:
    """A service with a published port, a volume, a health check, followed logs, exec and an alias."""
    import docker
    from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
    from docker.types import Healthcheck

    client: Any = docker.from_env(timeout=120)  # its stubs are stricter than it is
    assert client.ping() and client.version()["Version"] and client.info()["OSType"] == "linux"
    seen: list[tuple[str, str]] = []
    events = client.events(decode=True, filters={"type": "container"})
    listener = threading.Thread(
        target=lambda: seen.extend(
            (event["Action"], event["Actor"]["Attributes"]["name"]) for event in events
        )
    )
    listener.start()

    assert client.containers.run(IMAGE, ["echo", "hi"], remove=True) == b"hi\n"
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
        raise AssertionError("no ContainerError")
    except ContainerError as error:
        assert error.exit_status == 3 and b"bad" in (error.stderr or b"")
    for kind in (client.containers, client.volumes, client.networks):
        try:
            kind.get("no-such")
            raise AssertionError("no NotFound")
        except NotFound as error:
            assert error.status_code == 404 and "no-such" in str(error.explanation)
    try:
        client.images.get("no-such")
        raise AssertionError("no ImageNotFound")
    except ImageNotFound:
        pass

    network = client.networks.create("py-net", labels={"of": "docker-py"})
    volume = client.volumes.create("py-vol", labels={"of": "docker-py"})
    check = Healthcheck(test=["CMD", "test", "-e", "/w/i"], interval=200_000_000, retries=50)
    web = client.containers.run(
        IMAGE,
        WEB,
        name="py-web",
        detach=True,
        ports={"80/tcp": ("127.0.0.1", None)},
        volumes={"py-vol": {"bind": "/data", "mode": "rw"}},
        healthcheck=check,
        environment={"COLOR": "red"},
        labels={"of": "docker-py"},
        mem_limit="64m",
        init=True,
        stop_signal="KILL",
    )
    network.connect(web, aliases=["store"])
    web.reload()
    assert web.status == "running" and set(web.attrs["NetworkSettings"]["Networks"]) == {"bridge", "py-net"}
    port = web.ports["80/tcp"][0]["HostPort"]
    until(lambda: fetch(port) == "hello\n", "the published port answers")
    until(lambda: client.containers.get("py-web").health == "healthy", "healthy")
    assert (
        client.containers.run(
            IMAGE, ["wget", "-q", "-O", "-", "http://store/i"], network="py-net", remove=True
        )
        == b"hello\n"
    )
    assert next(web.logs(stream=True, follow=True)).strip() == b"serving"
    assert web.exec_run(["sh", "-c", "echo $COLOR; exit 4"], environment={"COLOR": "blue"}) == (4, b"blue\n")
    code, (out, err) = web.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
    assert (code, out, err) == (0, b"out\n", b"err\n")
    exec_id = client.api.exec_create(web.id, "cat", stdin=True)["Id"]
    connection = client.api.exec_start(exec_id, socket=True)._sock
    connection.sendall(b"typed\n")
    header = connection.recv(8)
    assert header == b"\x01\0\0\0\0\0\0\x06" and connection.recv(6) == b"typed\n"
    connection.close()

    assert web.put_archive("/data", archive(file="carried\n"))
    stream, stat = web.get_archive("/data/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        carried = tar.extractfile("file")
        assert carried is not None and carried.read() == b"carried\n" and stat["size"] == 8
    assert (
        client.containers.run(IMAGE, ["cat", "/d/file"], volumes=["py-vol:/d:ro"], remove=True)
        == b"carried\n"
    )
    until(lambda: "httpd" in str(web.top()["Processes"]), "the server runs")
    figures = web.stats(stream=False)
    assert figures["memory_stats"]["limit"] == 64 << 20 and figures["pids_stats"]["current"] >= 1
    assert {"Kind": 1, "Path": "/w"} in (web.diff() or [])
    web.pause()
    assert client.containers.get("py-web").status == "paused"
    web.unpause()
    web.rename("py-renamed")
    web.update(mem_limit="32m", memswap_limit="64m")
    web.restart(timeout=0)
    assert [found.name for found in client.containers.list(filters={"label": "of=docker-py"})] == [
        "py-renamed"
    ]
    made = web.commit("py-made", "v1")
    assert "py-made:v1" in made.tags
    assert made.history()
    context = io.BytesIO(archive(Dockerfile=f"FROM {IMAGE}\nRUN echo built > /b\nCMD cat /b\n"))
    built, lines = client.images.build(fileobj=context, custom_context=True, tag="py-built", rm=True)
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    assert client.containers.run("py-built", remove=True) == b"built\n"
    saved = b"".join(built.save(named=True))
    client.images.remove("py-built")
    assert client.images.load(saved)[0].tags == ["py-built:latest"]
    for name in ("py-built", "py-made:v1"):
        client.images.remove(name)

    try:
        volume.remove()
        raise AssertionError("a volume in use was removed")
    except APIError as error:
        assert error.status_code == 409
    web.stop(timeout=30)
    assert web.wait()["StatusCode"] == 137
    web.remove(v=True)
    volume.remove()
    network.remove()
    client.close()
    until(lambda: ("destroy", "py-renamed") in seen, "the event of its removal")
    assert [action for action, name in seen if name == "py-web"][:2] == ["create", "start"]
    events.close()
    listener.join(10)


async def aiodocker_() -> None:
    import aiodocker

    opened: Any = aiodocker.Docker()  # parts of it have no types
    async with opened as client:
        assert (await client.version())["ApiVersion"]
        subscriber = client.events.subscribe()
        config: dict[str, Any] = {
            "Image": IMAGE,
            "Cmd": ["sh", "-c", "read line; echo got $line; sleep 1000"],
            "OpenStdin": True,
            "AttachStdin": True,
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "0"}]}},
            "ExposedPorts": {"80/tcp": {}},
        }
        container = await client.containers.create_or_replace("aio", config)
        await container.start()
        assert int((await container.port(80) or [{}])[0]["HostPort"]) > 0
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await stream.write_in(b"hello\n")
            message = await stream.read_out()
            assert message is not None and message.data == b"got hello\n", message
        assert await container.log(stdout=True) == ["got hello\n"]
        async for line in container.log(stdout=True, follow=True):
            assert line == "got hello\n"
            break
        execution = await container.exec(["sh", "-c", "cat; exit 6"], stdin=True)
        async with execution.start(detach=False) as stream:
            await stream.write_in(b"typed\n")
            message = await stream.read_out()
            assert message is not None and message.data == b"typed\n"
        await container.put_archive("/tmp", archive(file="carried\n"))
        tar = await container.get_archive("/tmp/file")
        carried = tar.extractfile("file")
        assert carried is not None and carried.read() == b"carried\n"
        assert (await container.show())["State"]["Running"]
        assert (await container.stats(stream=False))[0]["pids_stats"]
        try:
            await client.containers.get("no-such")
            raise AssertionError("no DockerError")
        except aiodocker.DockerError as error:
            assert error.status == 404
        await container.kill()
        assert (await container.wait())["StatusCode"] == 137
        await container.delete(force=True)
        actions = []
        while "destroy" not in actions:
            event = await asyncio.wait_for(subscriber.get(), 60)
            assert event is not None
            actions.append(event["Action"])
        assert actions[0] == "create" and "die" in actions
        volume = await client.volumes.create({"Name": "aio-vol"})
        assert (await volume.show())["Name"] == "aio-vol"
        await volume.delete()
        assert any(IMAGE in (image["RepoTags"] or []) for image in await client.images.list())


def testcontainers() -> None:
    """Without ryuk: there is no registry to pull it from."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    with Network() as network:
        served = (
            DockerContainer(IMAGE)
            .with_command(WEB)
            .with_exposed_ports(80)
            .with_env("COLOR", "red")
            .with_network(network)
            .with_network_aliases("store")
            .waiting_for(LogMessageWaitStrategy("serving"))
        )
        with served as web:
            until(lambda: fetch(web.get_exposed_port(80)) == "hello\n", "the exposed port answers")
            code, output = web.exec(["sh", "-c", "echo $COLOR"])
            assert (code, output) == (0, b"red\n")
            stdout, _ = web.get_logs()
            assert stdout == b"serving\n"
            command = ["sh", "-c", "wget -q -O - http://store/i; exec sleep 1000"]
            with DockerContainer(IMAGE).with_command(command).with_network(network) as client:
                until(lambda: client.get_logs()[0] == b"hello\n", "the alias is found")


CLIENTS: dict[str, Callable[[], None]] = {
    "docker-py": docker_py,
    "aiodocker": lambda: asyncio.run(aiodocker_()),
    "testcontainers": testcontainers,
}

if __name__ == "__main__":
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    CLIENTS[sys.argv[1]]()
    print("done")

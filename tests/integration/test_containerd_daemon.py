"""The daemon as a process: how it starts, what it refuses, what it answers to nonsense, how it stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from longshore.api.services.containers.v1.containers_pb2 import (
    Container,
    CreateContainerRequest,
    ListContainersRequest,
)
from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersStub
from longshore.api.services.events.v1.events_pb2 import SubscribeRequest
from longshore.api.services.events.v1.events_pb2_grpc import EventsStub
from longshore.api.services.introspection.v1.introspection_pb2 import PluginInfoRequest, PluginsRequest
from longshore.api.services.introspection.v1.introspection_pb2_grpc import IntrospectionStub
from longshore.api.services.namespaces.v1.namespace_pb2 import ListNamespacesRequest
from longshore.api.services.namespaces.v1.namespace_pb2_grpc import NamespacesStub
from longshore.containerd.metadata.store import Store
from support.daemon import LONGSHORE, Longshore
from support.process import eventually

NAMESPACE = (("containerd-namespace", "test"),)


@contextmanager
def channel(daemon: Longshore) -> Iterator[grpc.Channel]:
    options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(f"unix:{daemon.address}", options=options) as opened:
        yield opened


def containerd(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself."""
    command = [str(LONGSHORE), "containerd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def refusal(*arguments: str | Path) -> str:
    """What a daemon says that refuses to start."""
    done = containerd(*arguments)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def flags(folder: Path, address: Path | None = None) -> list[str | Path]:
    return ["--root", folder / "root", "--state", folder / "state", "--address", address or folder / "c.sock"]


# -- starting and stopping ----------------------------------------------------------------------------------


def test_it_serves_on_a_private_socket_and_leaves_it_on_request() -> None:
    with Longshore() as daemon:
        mode = daemon.address.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
        with channel(daemon) as opened:
            stub: Any = health_pb2_grpc.HealthStub(opened)
            health = stub.Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert daemon.stop() == 0
        assert not daemon.address.exists()
        daemon.start()


def test_an_open_subscription_does_not_hold_up_the_stop() -> None:
    with Longshore() as daemon, channel(daemon) as opened:
        stream = EventsStub(opened).Subscribe(SubscribeRequest())
        assert dict(stream.initial_metadata())["longshore-sequence"].isdigit()
        assert daemon.stop() == 0
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        # Told in words: it was not cut off when the patience with it had ended.
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "containerd is stopping: unavailable"


def test_systemd_hears_of_ready_and_stopping(short_tmp: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(short_tmp / "notify"))
        notify.settimeout(60)
        with Longshore(environment={"NOTIFY_SOCKET": str(short_tmp / "notify")}) as daemon:
            assert notify.recv(100) == b"READY=1"
            daemon.stop()
            assert notify.recv(100) == b"STOPPING=1"


def test_a_signal_shows_what_every_thread_does() -> None:
    with Longshore() as daemon:
        os.kill(daemon.pid, signal.SIGUSR1)
        eventually(lambda: b"_write_forever" in daemon.log.read_bytes())


def test_json_logs() -> None:
    with Longshore(arguments=["--log-format", "json"]) as daemon:
        eventually(lambda: "containerd successfully booted" in daemon.log.read_text())
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
    assert any(line["event"] == "containerd successfully booted" for line in lines)


def test_version_and_configuration_are_printed(tmp_path: Path) -> None:
    assert containerd("--version").stdout.startswith(
        "containerd github.com/containerd/containerd 2.3.4+longshore."
    )
    assert "version = 4" in containerd("config", "default").stdout
    (tmp_path / "c.toml").write_text('version = 2\n[grpc]\naddress = "/file"\n')
    assert 'address = "/file"' in containerd("--config", tmp_path / "c.toml", "config", "dump").stdout
    assert (
        'address = "/flag"' in containerd("-c", tmp_path / "c.toml", "-a", "/flag", "config", "dump").stdout
    )


def test_the_uuid_stays_with_the_root() -> None:
    def server(daemon: Longshore) -> Any:
        with channel(daemon) as opened:
            return IntrospectionStub(opened).Server(Empty())

    with Longshore() as daemon:
        first = server(daemon)
        assert first.pid == daemon.pid
        assert first.pidns == os.stat("/proc/self/ns/pid").st_ino
        daemon.stop()
        daemon.start()
        second = server(daemon)
        assert (second.uuid, second.pid) == (first.uuid, daemon.pid)


# -- refusals -----------------------------------------------------------------------------------------------


def test_directories_and_socket_in_use_are_refused(short_tmp: Path) -> None:
    with Longshore() as daemon:
        other = short_tmp / "other"
        root = refusal("--root", daemon.root, "--state", other, "--address", short_tmp / "o.sock")
        assert f"{daemon.root} is in use by another containerd (pid {daemon.pid})" in root
        state = refusal("--root", other, "--state", daemon.state, "--address", short_tmp / "o.sock")
        assert f"{daemon.state} is in use by another containerd" in state
        address = refusal("--root", other, "--state", short_tmp / "s", "--address", daemon.address)
        assert f"another process is listening on {daemon.address}" in address
        assert daemon.go_ctr("version").returncode == 0


@pytest.mark.parametrize("flag", ["--root", "--state", "--address"])
def test_a_file_where_a_directory_should_be(short_tmp: Path, flag: str) -> None:
    (short_tmp / "file").write_text("precious")
    below = short_tmp / "file" / ("c.sock" if flag == "--address" else "below")
    text = refusal(*flags(short_tmp), flag, below)
    assert text.startswith("containerd: ") and f"is no directory: give another {flag}" in text
    assert (short_tmp / "file").read_text() == "precious"


def test_a_socket_that_nobody_listens_on_is_replaced() -> None:
    with Longshore() as daemon:
        daemon.kill9()
        assert daemon.address.exists()
        daemon.start()
        assert daemon.go_ctr("version").returncode == 0


def test_what_is_no_socket_is_not_removed(short_tmp: Path) -> None:
    (short_tmp / "c.sock").write_text("precious")
    assert "is not a socket" in refusal(*flags(short_tmp))
    assert (short_tmp / "c.sock").read_text() == "precious"


@pytest.mark.parametrize(
    "path",
    [
        "io.containerd.metadata.v1.bolt/meta.db",
        "io.containerd.content.v1.content/blobs/sha256/abc",
        "io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/file",
        "io.containerd.snapshotter.v1.native/snapshots/1/file",
    ],
)
def test_the_root_of_another_containerd_is_left_alone(short_tmp: Path, path: str) -> None:
    theirs = short_tmp / "root" / path
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    before = sorted(short_tmp.rglob("*"))
    text = refusal(*flags(short_tmp))
    assert "refusing to use" in text
    assert f"--root {short_tmp}/root-longshore" in text
    assert [path for path in sorted(short_tmp.rglob("*")) if path not in before] == [short_tmp / "state"]


METADATA = Path("root/io.containerd.metadata.v1.sqlite/meta.sqlite")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"nonsense" * 1000), "is damaged (file is not a database)"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:8192]),
            "is damaged (database disk image is malformed)",
        ),
        (lambda path: (path.unlink(), path.mkdir()), "unable to open database file; give another --root"),
        (lambda path: path.write_bytes(b""), "is empty, and "),
    ],
    ids=["nonsense", "cut", "folder", "empty"],
)
def test_a_damaged_database_is_refused_in_words(short_tmp: Path, damage: Any, words: str) -> None:
    """Never taken for a fresh start: what is on disk would be nobody's."""
    path = short_tmp / METADATA
    path.parent.mkdir(parents=True)
    Store(path).close()
    blob = short_tmp / "root/io.containerd.content.v1.content/blobs/sha256/abc"
    blob.parent.mkdir(parents=True)
    blob.write_text("precious")
    damage(path)
    text = refusal(*flags(short_tmp))
    last = text.splitlines()[-1]
    assert last.startswith("containerd: ") and words in last and "--root" in last
    assert blob.read_text() == "precious"


@pytest.mark.parametrize(
    "place",
    [
        "root/io.containerd.event.v1.exchange/subscriptions",
        "root/io.containerd.metadata.v1.sqlite/meta.sqlite-reserve",
        "state/io.containerd.runtime.v2.task",
    ],
)
def test_something_else_in_the_place_of_our_files(short_tmp: Path, place: str) -> None:
    path = short_tmp / place
    path.parent.mkdir(parents=True)
    path.write_text("") if place.startswith("state") else path.mkdir()
    last = refusal(*flags(short_tmp)).splitlines()[-1]
    assert last in (f"containerd: {path}: is a directory", f"containerd: {path}: file exists")


def test_a_part_that_fails_says_why_and_takes_along_who_needs_it(short_tmp: Path) -> None:
    with Longshore() as daemon:
        daemon.stop()
        content = daemon.root / "io.containerd.content.v1.content"
        shutil.rmtree(content)
        content.write_text("a file")
        daemon.start()
        listed = daemon.go_ctr("plugins", "ls").stdout.splitlines()
        states = {tuple(line.split()[:2]): line.split()[-1] for line in listed}
        assert states["io.containerd.content.v1", "content"] == "error"
        assert states["io.containerd.grpc.v1", "content"] == "error"
        assert states["io.containerd.grpc.v1", "images"] == "ok"
        log = daemon.log.read_text()
        assert "not a directory" in log and "no plugins registered for io.containerd.content.v1" in log
        assert "Traceback" not in log


def test_a_disk_that_cannot_be_written_to(short_tmp: Path) -> None:
    disk = short_tmp / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
    try:
        for flag in ("--root", "--state"):
            for place in (disk, disk / "below"):
                text = refusal(*flags(short_tmp), flag, place)
                assert text == f"containerd: can't use {place}: read-only file system; give another {flag}\n"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_bad_settings_are_named(short_tmp: Path) -> None:
    long = short_tmp / ("l" * 100)
    assert "longer than the kernel allows (107 bytes)" in refusal(*flags(short_tmp, long))
    assert "not a valid log level: 'loud'" in refusal(*flags(short_tmp), "--log-level", "loud")
    (short_tmp / "new.toml").write_text("version = 9\n")
    assert "`4`, got `9`" in refusal(*flags(short_tmp), "--config", short_tmp / "new.toml")
    (short_tmp / "need.toml").write_text('version = 2\nrequired_plugins = ["io.containerd.x.v1.y"]\n')
    assert "io.containerd.x.v1.y" in refusal(*flags(short_tmp), "--config", short_tmp / "need.toml")


def test_a_disabled_service_is_unknown() -> None:
    with (
        Longshore(config='version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.namespaces"]\n') as daemon,
        channel(daemon) as opened,
        pytest.raises(grpc.RpcError) as caught,
    ):
        NamespacesStub(opened).List(ListNamespacesRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "unknown service containerd.services.namespaces.v1.Namespaces"


# -- answers ------------------------------------------------------------------------------------------------


def _error(opened: grpc.Channel, method: str, data: bytes) -> tuple[str, str]:
    """Code and text with which raw bytes are answered."""
    call: Any = opened.unary_unary(method)
    try:
        call(data, metadata=NAMESPACE, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def test_nonsense_is_answered_and_does_no_harm() -> None:
    containers = "/containerd.services.containers.v1.Containers"
    with Longshore() as daemon, channel(daemon) as opened:
        assert _error(opened, "/no.such.Service/Method", b"") == (
            "UNIMPLEMENTED",
            "unknown service no.such.Service",
        )
        assert _error(opened, f"{containers}/Nothing", b"") == (
            "UNIMPLEMENTED",
            "unknown method Nothing for service containerd.services.containers.v1.Containers",
        )
        for method in ("Get", "List", "ListStream", "Create", "Update", "Delete"):
            code, text = _error(opened, f"{containers}/{method}", b"\xff\xff\xff")
            assert code == "INTERNAL" and text.endswith(": proto: cannot parse invalid wire-format data")
            # A string field that isn't UTF-8.
            assert _error(opened, f"{containers}/{method}", b"\x0a\x02\xff\xfe")[0] in (
                "INTERNAL",
                "INVALID_ARGUMENT",
            )
        assert _error(opened, f"{containers}/Create", bytes(17 << 20))[0] == "RESOURCE_EXHAUSTED"
        assert daemon.go_ctr("version").returncode == 0


def test_long_errors_arrive_whole() -> None:
    with Longshore() as daemon, channel(daemon) as opened, pytest.raises(grpc.RpcError) as caught:
        ContainersStub(opened).List(ListContainersRequest(filters=["x" * 50_000 + "="]), metadata=NAMESPACE)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(caught.value.details() or "") > 50_000


def test_the_first_of_several_namespaces_counts() -> None:
    with Longshore() as daemon, channel(daemon) as opened:
        stub = ContainersStub(opened)
        container = Container(id="c", runtime=Container.Runtime(name="r"), spec=AnyMessage())
        request = CreateContainerRequest(container=container)
        stub.Create(request, metadata=(("containerd-namespace", "first"), ("containerd-namespace", "second")))
        names = [space.name for space in NamespacesStub(opened).List(ListNamespacesRequest()).namespaces]
    assert names == ["first"]


def test_reflection_lists_what_is_there() -> None:
    with Longshore() as daemon, channel(daemon) as opened:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(opened)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"containerd.services.version.v1.Version", "grpc.health.v1.Health"} <= names


def test_plugins_are_the_builtins() -> None:
    with Longshore() as daemon, channel(daemon) as opened:
        stub = IntrospectionStub(opened)
        (one,) = stub.Plugins(PluginsRequest(filters=["type==io.containerd.metadata.v1"])).plugins
        assert (one.id, one.exports["policy"]) == ("sqlite", "shared")
        assert stub.PluginInfo(PluginInfoRequest(type=one.type, id=one.id)).plugin == one
        with pytest.raises(grpc.RpcError) as caught:
            stub.PluginInfo(PluginInfoRequest(type="no", id="such"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_programs_without_grpc_publish_by_command() -> None:
    with Longshore() as daemon, channel(daemon) as opened:
        stream = EventsStub(opened).Subscribe(SubscribeRequest(filters=['topic=="/from/shim"']))
        stream.initial_metadata()
        command: list[str | Path] = ["--address", daemon.address, "publish", "--namespace", "test", "--topic"]
        event = AnyMessage(type_url="t", value=b"v").SerializeToString().decode()
        assert containerd(*command, "/from/shim", input=event).returncode == 0
        envelope = next(stream)
        assert (envelope.namespace, envelope.event.type_url) == ("test", "t")
        stream.cancel()
        refused = containerd(*command, "nonsense", input=event)
        assert (refused.returncode, "must start with '/'" in refused.stderr) == (1, True)
        assert containerd(*command, "/x", input="\n\x7f").returncode == 1

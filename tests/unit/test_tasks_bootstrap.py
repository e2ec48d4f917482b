"""The three forms in which shims answer, runtime names, and command lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from longshore.api.errors import Error, InvalidArgument, NotFound, Unimplemented
from longshore.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams, BootstrapResult
from longshore.api.runtime.task.v3.shim_pb2 import DeleteResponse
from longshore.containerd.tasks import bootstrap
from longshore.containerd.tasks.bootstrap import Bootstrap
from longshore.containerd.tasks.runtimes import BUILTIN_PROGRAM, Program, Runtime, Runtimes, Settings

ADDRESS = "unix:///run/containerd/s/0f"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            b'{"version":3,"address":"unix:///run/containerd/s/0f","protocol":"ttrpc"}',
            Bootstrap(3, ADDRESS, "ttrpc"),
        ),
        (b'{"version":2,"address":"unix:///run/containerd/s/0f"}\n', Bootstrap(2, ADDRESS, "ttrpc")),
        (ADDRESS.encode(), Bootstrap(2, ADDRESS, "ttrpc")),
        (ADDRESS.encode() + b"\n", Bootstrap(2, ADDRESS, "ttrpc")),
        (b"/containerd-shim/abstract.sock", Bootstrap(2, "/containerd-shim/abstract.sock", "ttrpc")),
        (
            BootstrapResult(version=3, address=ADDRESS, protocol="ttrpc").SerializeToString(),
            Bootstrap(3, ADDRESS, "ttrpc"),
        ),
    ],
)
def test_answers(output: bytes, expected: Bootstrap) -> None:
    assert bootstrap.parse_answer(output) == expected


@pytest.mark.parametrize(
    ("output", "error"),
    [
        (b"", InvalidArgument),
        (b"  \n", InvalidArgument),
        (b'{"version":', InvalidArgument),
        (b'{"address":"unix:///x"}', InvalidArgument),
        (b'{"version":3,"address":""}', InvalidArgument),
        (b'{"version":[1],"address":"x"}', InvalidArgument),
        (b"warning: something\nunix:///run/s", InvalidArgument),
        (b"\xff\xfe", InvalidArgument),
        (b'{"version":4,"address":"unix:///x","protocol":"ttrpc"}', Unimplemented),
        (b'{"version":3,"address":"unix:///x","protocol":"grpc"}', Unimplemented),
        (BootstrapResult(version=9, address=ADDRESS).SerializeToString(), Unimplemented),
    ],
)
def test_answers_refused(output: bytes, error: type[Error]) -> None:
    with pytest.raises(error):
        bootstrap.parse_answer(output)


def settings(**changes: object) -> Settings:
    base = Settings(
        "/run/c.sock", "/run/c.sock.ttrpc", "/usr/bin/containerd", "2.3.4", "/run/s", "info", {"A": "B"}
    )
    return base._replace(**changes)  # type: ignore[arg-type]


def test_command_lines() -> None:
    program = Program("/bin/shim", settings(), "ns", "c1", "/run/b")
    common = ["/bin/shim", "-namespace", "ns", "-address", "/run/c.sock"]
    common += ["-publish-binary", "/usr/bin/containerd", "-id", "c1"]
    assert program.command("start") == [*common, "start"]
    assert program.command("delete") == [*common, "-bundle", "/run/b", "delete"]
    debug = Program("/bin/shim", settings(log_level="debug"), "ns", "c1", "/run/b")
    assert debug.command("start") == [*common, "-debug", "start"]


def test_environment_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("REGISTRY_PASSWORD", "x")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    environment = Program("/bin/shim", settings(), "ns", "c1", "/run/b").environment()
    assert not {"AWS_SECRET_ACCESS_KEY", "REGISTRY_PASSWORD", "NOTIFY_SOCKET"} & environment.keys()
    assert environment["XDG_RUNTIME_DIR"] == "/run/user/0"
    assert environment["TTRPC_ADDRESS"] == "/run/c.sock.ttrpc"
    assert environment["GRPC_ADDRESS"] == environment["LONGSHORE_EXITS_ADDRESS"] == "/run/c.sock"
    assert (environment["NAMESPACE"], environment["MAX_SHIM_VERSION"], environment["A"]) == ("ns", "2", "B")


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_resolving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = Runtimes()
    assert runtimes.resolve("io.containerd.runc.v2").builtin
    assert runtimes.resolve("io.containerd.longshore.v1").builtin
    absolute = script(tmp_path / "anything", "exit 0")
    assert runtimes.resolve(absolute) == Runtime(absolute, absolute)
    found = script(tmp_path / "containerd-shim-kata-v2", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runtimes.resolve("io.containerd.kata.v2").program == found
    with pytest.raises(NotFound, match="containerd-shim-none-v9"):
        runtimes.resolve("io.containerd.none.v9")
    for bad in ("shims/mine", "runc", "a..b", ""):
        with pytest.raises(InvalidArgument):
            runtimes.resolve(bad)
    with pytest.raises(NotFound):
        runtimes.resolve(str(tmp_path / "absent"))


def test_recorded_program_wins(tmp_path: Path) -> None:
    runtimes = Runtimes()
    assert runtimes.recorded("", "io.containerd.runc.v2").builtin
    assert runtimes.recorded(f"/gone/{BUILTIN_PROGRAM}", "").builtin
    assert runtimes.recorded("/opt/shim", "io.containerd.runc.v2").program == "/opt/shim"


async def test_start_of_an_old_shim_gets_the_options(tmp_path: Path) -> None:
    shim = script(
        tmp_path / "containerd-shim-runc-v2",
        f'if [ "$1" = -v ]; then echo "  Version:  1.6.20"; exit; fi\ncat > {tmp_path}/stdin; pwd > {tmp_path}/cwd\n'
        f"echo {ADDRESS}",
    )
    options = Any(type_url="containerd.runc.v1.Options", value=b"\x08\x01")
    program = Program(shim, settings(), "ns", "c1", str(tmp_path))
    assert await program.start(options) == Bootstrap(2, ADDRESS, "ttrpc")
    assert (tmp_path / "stdin").read_bytes() == options.SerializeToString()
    assert (tmp_path / "cwd").read_text().strip() == str(tmp_path)


async def test_start_of_a_new_shim_gets_bootstrap_params(tmp_path: Path) -> None:
    shim = script(
        tmp_path / "containerd-shim-runc-v2",
        f'if [ "$1" = -v ]; then echo "  Version:  v2.3.4"; exit; fi\ncat > {tmp_path}/stdin\necho {ADDRESS}',
    )
    options = Any(type_url="containerd.runc.v1.Options", value=b"\x08\x01")
    await Program(shim, settings(), "ns", "c1", str(tmp_path)).start(options)
    params = BootstrapParams.FromString((tmp_path / "stdin").read_bytes())
    assert (params.instance_id, params.namespace, params.socket_dir) == ("c1", "ns", "/run/s")
    assert params.containerd_grpc_address == "/run/c.sock"
    assert [extension.value for extension in params.extensions] == [options]


async def test_failed_start_shows_what_was_printed(tmp_path: Path) -> None:
    shim = script(tmp_path / "shim", "echo out; echo broken >&2; exit 3")
    with pytest.raises(Error, match=r"broken.*exit status 3"):
        await Program(shim, settings(), "ns", "c1", str(tmp_path)).start(None)
    with pytest.raises(Error, match="No such file"):
        await Program("/no/such/shim", settings(), "ns", "c1", str(tmp_path)).start(None)


async def test_delete_reads_stdout_only(tmp_path: Path) -> None:
    answer = DeleteResponse(pid=12, exit_status=137)
    (tmp_path / "answer").write_bytes(answer.SerializeToString())
    shim = script(tmp_path / "shim", f"echo noise >&2; cat {tmp_path}/answer")
    assert await Program(shim, settings(), "ns", "c1", str(tmp_path)).delete(10) == answer


async def test_delete_that_hangs_is_ended(tmp_path: Path) -> None:
    shim = script(tmp_path / "shim", "exec sleep 60")
    with pytest.raises(Error, match="deadline"):
        await Program(shim, settings(), "ns", "c1", str(tmp_path)).delete(0.1)

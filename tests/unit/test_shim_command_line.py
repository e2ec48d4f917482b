"""The shim's command line: Go's flags, the forms of stdin and of the answer, socket names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from longshore.api import typeurls
from longshore.api.errors import Error
from longshore.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapParams, BootstrapResult
from longshore.api.types.runc.options.oci_pb2 import Options
from longshore.shim import main, runtime
from longshore.zygote import place


def test_flags_as_go_takes_them() -> None:
    words = ["-namespace", "ns", "--address=/a.sock", "-debug", "-id", "c1", "start", "-x"]
    arguments = main.parse(words)
    assert (arguments["namespace"], arguments["address"], arguments["id"]) == ("ns", "/a.sock", "c1")
    assert arguments["debug"] == "true" and arguments["bundle"] == ""
    assert arguments.words == ["start", "-x"]


@pytest.mark.parametrize("words", [["-nonsense"], ["-id"]])
def test_bad_flags(words: list[str]) -> None:
    with pytest.raises(main.UsageError):
        main.parse(words)


def test_bootstrap_parameters_and_bare_options_are_told_apart() -> None:
    arguments = main.parse(["-namespace", "ns", "-id", "c1"])
    params = BootstrapParams(instance_id="c1", namespace="ns", socket_dir="/s")
    assert main._bootstrap(params.SerializeToString(), arguments) == params
    options = Any(type_url="containerd.runc.v1.Options", value=Options(root="/r").SerializeToString())
    assert main._bootstrap(options.SerializeToString(), arguments) is None
    assert main._bootstrap(b"", arguments) is None
    assert main._bootstrap(b"\xff\xff", arguments) is None


def test_every_daemon_gets_an_answer_it_can_read() -> None:
    address = "unix:///s/x"
    params = BootstrapParams(instance_id="c1")
    result = BootstrapResult.FromString(main.answer(address, params, {}))
    assert (result.version, result.address, result.protocol) == (3, address, "ttrpc")
    ours = json.loads(main.answer(address, None, {main.EXITS_ADDRESS: "/c.sock"}))
    assert ours == {"version": 3, "address": address, "protocol": "ttrpc"}
    assert json.loads(main.answer(address, None, {"GRPC_ADDRESS": "/c.sock"}))["version"] == 2
    assert main.answer(address, None, {}) == address.encode()


def test_socket_names() -> None:
    path = place.socket_path("/run/containerd/s", "/run/containerd/containerd.sock", "default", "c1")
    digest = hashlib.sha256(b"/run/containerd/containerd.sock/default/c1").hexdigest()
    assert path == f"/run/containerd/s/{digest}"
    assert len(path.rpartition("/")[2]) == 64
    assert path != place.socket_path("/run/containerd/s", "/other.sock", "default", "c1")
    with pytest.raises(ValueError, match="too long"):
        place.socket_path("/" + "x" * 43, "a", "b", "c")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "c1"),
        ({"annotations": None}, "c1"),
        ({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}, "pod"),
        ({"annotations": {"io.containerd.runc.v2.group": "g", "io.kubernetes.cri.sandbox-id": "p"}}, "g"),
        ({"annotations": {"io.containerd.runc.v2.group": ""}}, "c1"),
        ({"process": {"env": ["X=io.containerd.runc.v2.group"]}}, "c1"),
    ],
)
def test_groups(tmp_path: Path, spec: dict[str, object], name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(spec))
    assert place.group(str(tmp_path), "c1") == name


def test_a_bundle_without_a_spec_is_a_group_of_its_own(tmp_path: Path) -> None:
    assert place.group(str(tmp_path), "c1") == "c1"


def test_settings_survive_in_the_bundle(tmp_path: Path) -> None:
    settings = runtime.Settings(root="/r", binary="crun", systemd_cgroup=True, io_uid=7)
    runtime.save(str(tmp_path), settings)
    assert runtime.load(str(tmp_path)) == settings
    assert json.loads((tmp_path / "options.json").read_text())["binary_name"] == "crun"


def test_settings_from_options() -> None:
    value = Options(binary_name="crun", no_pivot_root=True).SerializeToString()
    for prefix in ("", "type.googleapis.com/"):
        options = Any(type_url=f"{prefix}containerd.runc.v1.Options", value=value)
        assert runtime.settings_from(options) == runtime.Settings(binary="crun", no_pivot=True)
    assert runtime.settings_from(Any()) == runtime.Settings()
    with pytest.raises(Exception, match="unsupported runtime options type"):
        runtime.settings_from(Any(type_url="x.y.Z"))


@pytest.mark.parametrize(
    ("asked", "executed"), [("", ""), ("runc", ""), ("/usr/sbin/runc", "/usr/sbin/runc"), ("crun", "crun")]
)
def test_the_name_of_the_usual_runtime_means_ours(asked: str, executed: str) -> None:
    """dockerd says "runc" in every request, whether or not there is one on the machine."""
    options = Any(type_url="containerd.runc.v1.Options", value=Options(binary_name=asked).SerializeToString())
    assert runtime.settings_from(options).binary == executed


def test_the_default_runtime_root() -> None:
    assert runtime.DEFAULT_ROOT == "/run/containerd/runc"


def test_information_echoes_the_options() -> None:
    found = main.info()
    assert (found.name, found.HasField("options")) == ("io.containerd.longshore.v1", False)
    assert "seccomp" in json.loads(found.features.value)["linux"]
    options = typeurls.pack(Options(binary_name="/bin/echo"))
    found = main.info(options.SerializeToString())
    assert (found.options, found.features.value) == (options, b"features\n")
    with pytest.raises(Error, match="/nowhere features"):
        main.info(typeurls.pack(Options(binary_name="/nowhere")).SerializeToString())
    with pytest.raises(main.UsageError):
        main.info(b"\xff\xff")

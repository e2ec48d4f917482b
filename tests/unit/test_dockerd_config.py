"""dockerd's settings: flags, daemon.json, what conflicts, what SIGHUP changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument
from longshore.dockerd import config
from longshore.dockerd.config import Config

NOFILE = {"nofile": config.DefaultUlimit(name="nofile", soft=1, hard=2)}
POOL = [config.AddressPool(base="10.0.0.0/8", size=24)]


def load(folder: Path, document: Any = None, *flags: str) -> Config:
    file = folder / "daemon.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document or {}))
    return config.load(config.parser().parse_args(["--config-file", str(file), *flags]))


def test_defaults_need_no_file() -> None:
    made = config.load(config.parser().parse_args([]))
    assert (made.data_root, made.containerd_namespace, made.log_driver) == (
        "/var/lib/docker",
        "moby",
        "json-file",
    )
    assert made.hosts == []
    assert made.live_restore


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        config.load(config.parser().parse_args(["--config-file", str(tmp_path / "none")]))


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    (
        (["-H", "unix:///a", "--host", "tcp://b"], "hosts", ["unix:///a", "tcp://b"]),
        (["-D"], "debug", True),
        (["--icc=false"], "icc", False),
        (["--iptables=0"], "iptables", False),
        (
            ["--log-opt", "max-size=1m", "--log-opt", "max-file=2"],
            "log_opts",
            {"max-size": "1m", "max-file": "2"},
        ),
        (["--default-shm-size", "1.5g"], "default_shm_size", 3 << 29),
        (["--label", "a=b"], "labels", ["a=b"]),
        (["--mtu", "1400"], "mtu", 1400),
        (["--default-ulimit", "nofile=1:2"], "default_ulimits", NOFILE),
        (["--add-runtime", "crun=/bin/crun"], "runtimes", {"crun": config.Runtime(path="/bin/crun")}),
        (["--default-address-pool", "base=10.0.0.0/8,size=24"], "default_address_pools", POOL),
        (["--cgroup-parent", "/t1"], "cgroup_parent", "/t1"),
        (["--live-restore=false"], "live_restore", False),
    ),
)
def test_flags(tmp_path: Path, flags: list[str], name: str, value: Any) -> None:
    assert getattr(load(tmp_path, {}, *flags), name) == value


@pytest.mark.parametrize(
    ("document", "name", "value"),
    (
        ({"storage-driver": "overlay2"}, "storage_driver", "overlayfs"),
        ({"exec-opts": ["native.cgroupdriver=cgroupfs"]}, "exec_opts", ["native.cgroupdriver=cgroupfs"]),
        ({"hosts": ["unix:///a"]}, "hosts", ["unix:///a"]),
        ({"log-opts": {"max-size": "1m"}}, "log_opts", {"max-size": "1m"}),
        ({"registry-mirrors": ["https://m"]}, "registry_mirrors", ["https://m"]),
        ({"default-shm-size": "128M"}, "default_shm_size", 128 << 20),
        ({"default-shm-size": 5}, "default_shm_size", 5),
        (
            {"default-ulimits": {"nofile": {"Name": "nofile", "Hard": 2, "Soft": 1}}},
            "default_ulimits",
            NOFILE,
        ),
        (
            {"runtimes": {"crun": {"path": "crun", "runtimeArgs": ["--debug"]}}},
            "runtimes",
            {"crun": config.Runtime(path="crun", runtime_args=["--debug"])},
        ),
        (
            {"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}]},
            "default_address_pools",
            POOL,
        ),
        ({"features": {"buildkit": False}}, "features", {"buildkit": False}),
        ({"max-concurrent-downloads": 7, "raw-logs": True}, "max_concurrent_downloads", 7),
    ),
)
def test_file(tmp_path: Path, document: Any, name: str, value: Any) -> None:
    assert getattr(load(tmp_path, document), name) == value


@pytest.mark.parametrize(
    ("document", "flags", "words"),
    (
        ({"debgu": True}, [], "the following directives don't match any configuration option: debgu"),
        (
            {"debug": False, "dns": ["1.1.1.1"]},
            ["--debug", "--dns", "8.8.8.8"],
            "the following directives are specified both as a flag and in the configuration file:"
            " debug: (from flag: true, from file: false), dns: (from flag: [8.8.8.8], from file: [1.1.1.1])",
        ),
        ({"debug": "yes"}, [], "Expected `bool`, got `str`"),
        ("{nonsense", [], "unable to configure the Docker daemon with file"),
        ("[]", [], "unable to configure the Docker daemon with file"),
        ({"userns-remap": "default"}, [], "userns-remap: not supported"),
        ({"labels": ["nokey"]}, [], "bad attribute format: nokey"),
        ({"labels": ["a=1", "a=2"]}, [], "conflict labels for a=2 and a=1"),
        ({"runtimes": {"runc": {"path": "x"}}}, [], "runtime name 'runc' is reserved"),
        ({"max-concurrent-downloads": -1}, [], "invalid max concurrent downloads: -1"),
        ({"storage-driver": "btrfs"}, [], "driver not supported: btrfs"),
        ({"storage-opts": ["overlay2.size=1G"]}, [], "storage options are not supported: overlay2.size=1G"),
        ({"exec-opts": ["native.cgroupdriver=systemd"]}, [], "exec options are not supported"),
        ({"selinux-enabled": True}, [], "selinux-enabled: not supported"),
        ({"log-driver": "syslog"}, [], "logger: no log driver named 'syslog' is registered"),
        ({"default-runtime": "kata"}, [], "specified default runtime 'kata' does not exist"),
        ({"default-cgroupns-mode": "x"}, [], "default-cgroupns-mode"),
        ({}, ["--bridge", "br0", "--bip", "10.0.0.1/24"], "mutually exclusive"),
        ({"dns": ["not-an-ip"]}, [], "not-an-ip is not an ip address"),
        ({"ip": "abc"}, [], "invalid IP address: abc"),
        ({"bip": "300.1.1.1/24"}, [], "invalid CIDR address: 300.1.1.1/24"),
        ({"fixed-cidr": "10.0.0.1"}, [], "invalid CIDR address: 10.0.0.1"),
        ({"registry-mirrors": ["ftp://x"]}, [], 'invalid mirror: unsupported scheme "ftp" in "ftp://x"'),
    ),
)
def test_refused(tmp_path: Path, document: Any, flags: list[str], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(tmp_path, document, *flags)
    assert words in str(refused.value)


def test_bad_flags_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--icc=maybe"], ["--log-opt", "novalue"], ["--default-address-pool", "x"], ["--debu"]):
        with pytest.raises(SystemExit):
            config.parser().parse_args(flags)
    assert "novalue" in capsys.readouterr().err


def test_reload_changes_what_may_change_and_nothing_else(tmp_path: Path) -> None:
    made = load(tmp_path, {"labels": ["a=1"], "mtu": 1400}, "--icc=false")
    (tmp_path / "daemon.json").write_text(json.dumps({"labels": ["a=2"], "debug": True, "mtu": 9000}))
    changed = config.reload(made, {"icc": False}, must_exist=True)
    assert (made.labels, made.debug, made.mtu, made.icc) == (["a=2"], True, 1400, False)
    assert changed["labels"] == ["a=2"]
    (tmp_path / "daemon.json").write_text("nonsense")
    with pytest.raises(InvalidArgument):
        config.reload(made, {}, must_exist=True)
    assert made.labels == ["a=2"]


@pytest.mark.parametrize(
    ("text", "value"), (("64m", 64 << 20), ("1GiB", 1 << 30), ("10", 10), ("1.5k", 1536), ("2 GB", 2 << 30))
)
def test_sizes(text: str, value: int) -> None:
    assert config.size(text) == value


@pytest.mark.parametrize("text", ("", "x", "-1", "1q", "1 2"))
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        config.size(text)

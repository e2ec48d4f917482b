"""config.toml of every version, and the one that dockerd writes for its own containerd."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from longshore.api.errors import InvalidArgument
from longshore.containerd import config, main

DOCKERD = """\
disabled_plugins = ["io.containerd.grpc.v1.cri"]
imports = []
oom_score = 0
plugin_dir = ""
required_plugins = []
root = "/var/lib/docker/containerd/daemon"
state = "/var/run/docker/containerd/daemon"
temp = ""
version = 2

[cgroup]
  path = ""

[debug]
  address = "/var/run/docker/containerd/containerd-debug.sock"
  format = ""
  gid = 0
  level = "debug"
  uid = 0

[grpc]
  address = "/var/run/docker/containerd/containerd.sock"
  gid = 0
  max_recv_message_size = 16777216
  max_send_message_size = 16777216
  tcp_address = ""
  tcp_tls_ca = ""
  tcp_tls_cert = ""
  tcp_tls_key = ""
  uid = 0

[metrics]
  address = ""
  grpc_histogram = false

[plugins]

[proxy_plugins]

[stream_processors]

[timeouts]

[ttrpc]
  address = ""
  gid = 0
  uid = 0
"""


def parse(text: str) -> config.Config:
    return config.parse(tomllib.loads(text))


def test_the_file_of_dockerds_own_containerd() -> None:
    read = parse(DOCKERD)
    assert read.root == Path("/var/lib/docker/containerd/daemon")
    assert read.state == Path("/var/run/docker/containerd/daemon")
    assert read.address == "/var/run/docker/containerd/containerd.sock"
    assert read.ttrpc_socket == "/var/run/docker/containerd/containerd.sock.ttrpc"
    assert (read.log_level, read.log_format) == ("debug", "text")
    assert read.disabled_plugins == ("io.containerd.grpc.v1.cri",)


@pytest.mark.parametrize("version", [2, 3])
def test_older_versions_keep_the_servers_at_the_top(version: int) -> None:
    read = parse(f'version = {version}\n[grpc]\naddress = "/a"\nuid = 7\n[ttrpc]\naddress = "/t"\n')
    assert (read.address, read.uid, read.ttrpc_socket) == ("/a", 7, "/t")


def test_version_4_keeps_the_servers_under_plugins() -> None:
    read = parse(
        'version = 4\n[plugins."io.containerd.server.v1.grpc"]\naddress = "/a"\n[grpc]\naddress = "/b"\n'
    )
    assert read.address == "/a"


def test_no_version_is_version_1_with_short_names() -> None:
    read = parse('disabled_plugins = ["cri"]\n[plugins.scheduler]\npause_threshold = 0.1\n')
    assert read.disabled_plugins == ("io.containerd.grpc.v1.cri",)
    assert read.plugin("io.containerd.gc.v1.scheduler") == {"pause_threshold": 0.1}
    assert read.plugin("io.containerd.nothing.v1.here") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("version = 5", "equal to or less than `4`, got `5`"),
        ('version = "2"', "version must be a number"),
        ("version = 2\nroot = 5", "root must be a string"),
        ("version = 2\n[grpc]\nuid = true", "io.containerd.server.v1.grpc: uid must be a number"),
        ('version = 2\ndisabled_plugins = "x"', "disabled_plugins must be a list"),
        ("version = 2\nplugins = 3", "plugins must be a table"),
        ("version = 2\n[proxy_plugins]\nx = 1", "x must be a table"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        parse(text)


def test_proxy_plugins() -> None:
    read = parse(
        'version = 2\n[proxy_plugins.mine]\ntype = "snapshot"\naddress = "/run/m.sock"\ncapabilities = ["rebase"]'
    )
    assert read.proxy_plugins["mine"] == config.Proxy("snapshot", "/run/m.sock", capabilities=("rebase",))


def test_imports_are_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/1.toml").write_text('version = 2\ndisabled_plugins = ["b"]\n[grpc]\nuid = 5\n')
    (tmp_path / "conf.d/2.toml").write_text("version = 2\n[grpc]\nuid = 6\n")
    (tmp_path / "config.toml").write_text(
        'version = 2\nimports = ["conf.d/*.toml"]\ndisabled_plugins = ["a"]\n[grpc]\naddress = "/a"\n'
    )
    read = config.load(tmp_path / "config.toml")
    assert (read.address, read.uid, read.disabled_plugins) == ("/a", 6, ("a", "b"))


def test_a_drop_in_may_not_be_newer_than_the_file(tmp_path: Path) -> None:
    (tmp_path / "new.toml").write_text("version = 3\n")
    (tmp_path / "config.toml").write_text('version = 2\nimports = ["new.toml"]\n')
    with pytest.raises(InvalidArgument, match="drop-in"):
        config.load(tmp_path / "config.toml")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"absent\.toml: No such file"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("version = ")
    with pytest.raises(InvalidArgument, match=r"bad\.toml"):
        config.load(tmp_path / "bad.toml")


def test_a_dump_reads_back_as_the_same() -> None:
    read = config.with_flags(parse(DOCKERD), root=Path('/with "quotes"\n'), log_level="warn", address=None)
    assert read.log_level == "warn"
    dumped = config.dump(read)
    assert tomllib.loads(dumped)["version"] == 4
    again = parse(dumped)
    assert config.dump(again) == dumped
    assert (again.root, again.address, again.log_level) == (read.root, read.address, "warn")


def test_a_dump_keeps_the_settings_of_plugins() -> None:
    text = """version = 4
[plugins."io.containerd.gc.v1.scheduler"]
pause_threshold = 0.02
list = ["a", { b = 1 }]
[plugins."io.containerd.gc.v1.scheduler".deep."er key"]
on = true
"""
    assert (
        parse(config.dump(parse(text))).plugins["io.containerd.gc.v1.scheduler"]
        == tomllib.loads(text)["plugins"]["io.containerd.gc.v1.scheduler"]
    )


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1)),
        ("6.18.33", (6, 18)),
        ("5.6-rc1", (5, 6)),
        ("4.19", (4, 19)),
        ("odd", (0, 0)),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert main.kernel_version(release) == version


def test_an_old_kernel_is_refused() -> None:
    with pytest.raises(Exception, match=r"Linux 5\.12 or newer is needed, this is 4\.19\.0"):
        main._require_platform("4.19.0")

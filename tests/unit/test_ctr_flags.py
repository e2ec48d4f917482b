"""Command lines of run: what they ask for, and what is refused before the daemon hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from longshore.client import spec
from longshore.ctr.command import Failure
from longshore.ctr.flags import Wishes, env_file, id_map, mount_option, namespace, with_container_options
from longshore.ctr.run import chosen_io
from longshore.ctr.tasks import signal_number


def parsed(*words: str) -> Wishes:
    caught: dict[str, Any] = {}

    @click.command()
    @with_container_options
    def command(**values: Any) -> None:
        caught.update(values)

    command.main(list(words), standalone_mode=False)
    return Wishes(caught)


def built(*words: str) -> dict[str, Any]:
    return spec.build("default", "c", *parsed(*words).options())


def test_everything_at_once() -> None:
    made = built(
        *(
            "--env",
            "A=1",
            "--cwd",
            "/w",
            "--hostname",
            "h",
            "--cap-add",
            "CAP_SYS_ADMIN",
            "--cap-drop",
            "CAP_CHOWN",
        ),
        *(
            "--memory-limit",
            "1048576",
            "--annotation",
            "k=v",
            "--mount",
            "type=tmpfs,src=t,dst=/t,options=ro",
        ),
        *("--with-ns", "network:/proc/1/ns/net", "--cpus", "2", "--cpuset-cpus", "0", "--rlimit-nofile", "9"),
        *("--read-only", "--allow-new-privs", "--cgroup", "", "--device", "/dev/null", "-t"),
    )
    process = made["process"]
    assert "A=1" in process["env"] and process["cwd"] == "/w" and process["terminal"]
    assert "CAP_SYS_ADMIN" in process["capabilities"]["bounding"]
    assert "CAP_CHOWN" not in process["capabilities"]["bounding"]
    assert process["noNewPrivileges"] is False
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}]
    assert made["hostname"] == "h" and made["annotations"] == {"k": "v"}
    assert made["root"]["readonly"] and made["linux"]["cgroupsPath"] == ""
    assert made["linux"]["resources"]["cpu"] == {"quota": 200_000, "period": 100_000, "cpus": "0"}
    assert {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro"]} in made["mounts"]


def test_runtime_options() -> None:
    options: Any = parsed("--runc-binary", "crun", "--runc-root", "/r", "--no-pivot").runtime_options()
    assert (options.binary_name, options.root, options.no_pivot_root) == ("crun", "/r", True)
    generic: Any = parsed("--runtime-config-path", "/c.toml").runtime_options()
    assert generic.config_path == "/c.toml"


def test_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_US", "yes")
    path = tmp_path / "env"
    path.write_text("# comment\n\nA=1\n  B=two words \nFROM_US\n")
    assert env_file(str(path)) == ["A=1", "B=two words", "FROM_US=yes"]


def test_refusals() -> None:
    for refused in (
        lambda: mount_option("type=bind,src=/a"),
        lambda: mount_option("nonsense"),
        lambda: namespace("network"),
        lambda: id_map("0:1"),
        lambda: signal_number("SIGNOPE"),
        lambda: parsed("--gpus", "1"),
        lambda: parsed("--cni"),
        lambda: parsed("--seccomp-profile", "/p").options(),
        lambda: chosen_io(tty=True, null_io=True, log_uri=""),
    ):
        with pytest.raises(Failure):
            refused()


@pytest.mark.parametrize(("text", "number"), [("9", 9), ("KILL", 9), ("sigterm", 15), ("SIGRTMIN+1", 35)])
def test_signals(text: str, number: int) -> None:
    assert signal_number(text) == number


def test_the_default_seccomp_profile_sees_the_capabilities_asked_for() -> None:
    def mounts(*words: str) -> bool:
        rules = built("--seccomp", *words)["linux"]["seccomp"]["syscalls"]
        return any("mount" in rule["names"] for rule in rules)

    assert not mounts() and mounts("--cap-add", "CAP_SYS_ADMIN")


def test_privileged_brings_the_hosts_devices_unless_told_otherwise() -> None:
    assert built("--privileged")["linux"]["devices"]
    assert "devices" not in built("--privileged", "--privileged-without-host-devices")["linux"]


def test_labels_of_the_snapshot() -> None:
    wishes = parsed(
        "--uidmap", "0:1000:10", "--gidmap", "0:2000:10", "--remap-labels", "--snapshotter-label", "a=b"
    )
    assert wishes.snapshot_labels() == {
        "a": "b",
        "containerd.io/snapshot/uidmapping": "0:1000:10",
        "containerd.io/snapshot/gidmapping": "0:2000:10",
    }
    assert parsed().snapshot_labels() == {}

"""Spec options: what they edit, what they refuse, and that none edits what another built."""

from __future__ import annotations

import json
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument
from longshore.client import seccomp, spec


def build(*options: spec.Option) -> dict[str, Any]:
    return spec.build("default", "c1", *options)


def test_default_is_what_containerds_clients_agree_on() -> None:
    made = build()
    assert made["linux"]["cgroupsPath"] == "/default/c1"
    assert len(made["process"]["capabilities"]["bounding"]) == 14
    assert made["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    assert made["process"]["noNewPrivileges"] is True
    assert [m["destination"] for m in made["mounts"]] == [
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/run",
    ]
    kinds = {namespace["type"] for namespace in made["linux"]["namespaces"]}
    assert {"pid", "ipc", "uts", "mount", "network"} <= kinds
    assert json.loads(spec.encode(made)) == made


def test_two_specs_share_nothing() -> None:
    spec.with_privileged(build())
    assert build()["linux"]["maskedPaths"] == list(spec.MASKED_PATHS)


def test_env_replaces_appends_and_removes() -> None:
    env = build(spec.with_env({"A": "1", "B": "2"}), spec.with_env(["A=3", "B"]))["process"]["env"]
    assert env == [f"PATH={spec.DEFAULT_PATH}", "A=3"]


def test_capabilities() -> None:
    held = build(spec.with_dropped_capabilities(["ALL"]), spec.with_added_capabilities(["net_admin"]))
    assert held["process"]["capabilities"]["effective"] == ["CAP_NET_ADMIN"]
    everything = build(spec.with_added_capabilities(["ALL"]))["process"]["capabilities"]["bounding"]
    assert set(everything) == {
        *spec.own_capabilities(),
        *spec.DEFAULT_CAPABILITIES,
    }  # no more than can be given
    assert len(spec.ALL_CAPABILITIES) == 41
    with pytest.raises(InvalidArgument, match="CAP_NOPE"):
        spec.with_added_capabilities(["CAP_NOPE"])


def test_host_network_drops_the_namespace() -> None:
    made = build(spec.with_host_network)
    assert "network" not in {namespace["type"] for namespace in made["linux"]["namespaces"]}


@pytest.mark.parametrize("name", ["net", "network"])
def test_joining_a_namespace_by_either_name(name: str) -> None:
    made = build(spec.with_namespace(name, "/proc/1/ns/net"))
    assert {"type": "network", "path": "/proc/1/ns/net"} in made["linux"]["namespaces"]
    assert [n["type"] for n in made["linux"]["namespaces"]].count("network") == 1


def test_unknown_namespace() -> None:
    with pytest.raises(InvalidArgument):
        spec.with_namespace("nope")


def test_a_mount_replaces_the_default_one() -> None:
    made = build(spec.with_mount("/tmp", "/run", options=["rbind", "ro"]))
    assert [m["source"] for m in made["mounts"] if m["destination"] == "/run"] == ["/tmp"]


def test_privileged_undoes_what_confines() -> None:
    made = build(spec.with_seccomp({"defaultAction": "SCMP_ACT_ERRNO"}), spec.with_privileged)
    assert "seccomp" not in made["linux"]
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert made["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "rw" in next(m for m in made["mounts"] if m["type"] == "sysfs")["options"]


def test_device() -> None:
    made = build(spec.with_device("/dev/null", access="r"))
    assert made["linux"]["devices"][0]["path"] == "/dev/null"
    assert {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"} in made["linux"]["resources"][
        "devices"
    ]
    with pytest.raises(InvalidArgument):
        spec.with_device("/etc/passwd")


CONFIG = {"config": {"Entrypoint": ["/bin/e"], "Cmd": ["c"], "Env": ["X=1"], "WorkingDir": "/w"}}


@pytest.mark.parametrize(
    ("args", "expected"), [((), ["/bin/e", "c"]), (("a", "b"), ["/bin/e", "a", "b"])], ids=["cmd", "args"]
)
def test_image_config(args: tuple[str, ...], expected: list[str]) -> None:
    process = build(spec.with_image_config(CONFIG, args))["process"]
    assert (process["args"], process["cwd"]) == (expected, "/w")
    assert "X=1" in process["env"]


def test_an_image_without_command_needs_arguments() -> None:
    with pytest.raises(InvalidArgument, match="no arguments"):
        build(spec.with_image_config({}))


def test_limits() -> None:
    made = build(spec.with_memory_limit(1 << 20), spec.with_cpus(1.5), spec.with_pids_limit(7))
    resources = made["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["pids"] == {"limit": 7}


def test_user_namespace() -> None:
    made = build(spec.with_user_namespace([(0, 1000, 10)], [(0, 2000, 10)]))
    assert {"type": "user"} in made["linux"]["namespaces"]
    assert made["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 10}]


def names_allowed(profile: dict[str, Any]) -> set[str]:
    return {
        name
        for rule in profile["syscalls"]
        if rule["action"] == seccomp.ALLOW and "args" not in rule
        for name in rule["names"]
    }


def test_the_default_seccomp_profile_follows_the_capabilities() -> None:
    plain = build(spec.with_default_seccomp)["linux"]["seccomp"]
    assert plain["defaultAction"] == seccomp.ERRNO
    assert {"read", "execve", "futex", "chroot", "openat2"} <= names_allowed(plain)
    assert not {"mount", "bpf", "keyctl", "io_uring_setup", "clone", "personality"} & names_allowed(plain)
    assert {"names": ["clone3"], "action": seccomp.ERRNO, "errnoRet": seccomp.ENOSYS} in plain["syscalls"]
    admin = build(spec.with_added_capabilities(["SYS_ADMIN"]), spec.with_default_seccomp)["linux"]["seccomp"]
    assert {"mount", "clone", "clone3", "setns"} <= names_allowed(admin)
    assert not any(rule["names"] == ["clone3"] for rule in admin["syscalls"])
    without = build(spec.with_dropped_capabilities(["ALL"]), spec.with_default_seccomp)["linux"]["seccomp"]
    assert "chroot" not in names_allowed(without)


def test_every_name_of_the_seccomp_profile_is_a_system_call() -> None:
    """Of this machine, of the 32-bit one below it, or of a kernel newer than the library that knows the names."""
    pyseccomp = pytest.importorskip("pyseccomp")
    newer = {
        "getxattrat",
        "listxattrat",
        "setxattrat",
        "removexattrat",
        "lsm_get_self_attr",
        "lsm_list_modules",
    }
    newer |= {
        "mseal",
        "fchmodat2",
        "cachestat",
        "map_shadow_stack",
        "futex_wait",
        "futex_wake",
        "futex_requeue",
    }
    every = {*seccomp.EVERYONE, *(name for names in seccomp.CAPABILITIES.values() for name in names)}

    def known(name: str) -> bool:
        try:
            return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != -1)
        except ValueError:
            return False

    assert sorted(name for name in every - newer if not known(name)) == []
    assert len(seccomp.EVERYONE) == len(set(seccomp.EVERYONE))


def test_devices_below_a_folder_and_of_the_host() -> None:
    found = [node["path"] for node in build(spec.with_host_devices)["linux"]["devices"]]
    assert "/dev/null" in found and found == sorted(found)
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) or path == "/dev/console" for path in found)
    assert (
        build(spec.with_device("/dev"))["linux"]["devices"]
        == build(spec.with_host_devices)["linux"]["devices"]
    )
    with pytest.raises(InvalidArgument, match="/dev/no-such"):
        spec.with_device("/dev/no-such")


def test_propagation_and_rdt() -> None:
    made = build(spec.with_rootfs_propagation("rslave"), spec.with_rdt_class("gold"))["linux"]
    assert (made["rootfsPropagation"], made["intelRdt"]) == ("rslave", {"closID": "gold"})
    with pytest.raises(InvalidArgument):
        spec.with_rootfs_propagation("sideways")

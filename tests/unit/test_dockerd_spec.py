"""A container's specification as data: no daemon, no mounts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument
from longshore.dockerd.engine import NetworkPlace
from longshore.dockerd.errors import Conflict
from longshore.dockerd.records import (
    Container,
    ContainerConfig,
    ContainerState,
    DeviceMapping,
    EndpointSettings,
    HostConfig,
    MountPoint,
    MountSpec,
    RestartPolicy,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
    WeightDevice,
)
from longshore.dockerd.spec import build, links, merge, points, process, seccomp, shm, tmpfs, validate
from longshore.dockerd.spec.settings import Place, Settings

ID = "b" * 64


def container(host: HostConfig | None = None, /, **config: Any) -> Container:
    host = host or HostConfig()
    made = ContainerConfig(hostname="web", **config)
    return Container(
        id=ID,
        name="web",
        created_ns=0,
        config=made,
        host_config=host,
        image_id="",
        image_ref="",
        path="sh",
        args=["-c", "true"],
        folder="/data/containers/b",
        mounts=points.plan(made, host),
    )


def spec(host: HostConfig | None = None, place: Place | None = None, /, **config: Any) -> dict[str, Any]:
    place = place or Place(NetworkPlace("/run/netns/web", {"/etc/hosts": "/data/hosts"}))
    return build.make(container(host, **config), place)


def mount(document: dict[str, Any], target: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [entry for entry in document["mounts"] if entry["destination"] == target]
    assert len(found) == 1, found
    return found[0]


def kinds(document: dict[str, Any]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in document["linux"]["namespaces"]}


def test_plain() -> None:
    document = spec(env=["A=1", "TERM"], tty=True)
    assert document["process"]["args"] == ["sh", "-c", "true"]
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert document["process"]["env"] == [path, "HOSTNAME=web", "A=1"]
    assert document["process"]["terminal"]
    assert document["hostname"] == "web"
    assert document["linux"]["cgroupsPath"] == f"/docker/{ID}"
    assert kinds(document).keys() >= {"mount", "uts", "pid", "ipc"}
    assert kinds(document)["network"] == "/run/netns/web"
    assert mount(document, "/dev/shm")["options"][-1] == "size=67108864"
    assert mount(document, "/etc/hosts")["options"] == ["rbind", "rprivate"]
    assert document["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(document["process"]["capabilities"]["effective"]) == 14
    json.dumps(document)


def test_a_users_mount_replaces_a_default_one() -> None:
    host = HostConfig(binds=["/mine:/dev/shm", "/x:/a/b:ro", "/y:/a"], tmpfs={"/etc/hosts": "size=1k"})
    document = spec(host)
    assert mount(document, "/dev/shm")["source"] == "/mine"
    assert mount(document, "/etc/hosts")["type"] == "tmpfs"
    order = [entry["destination"] for entry in document["mounts"]]
    assert order.index("/a") < order.index("/a/b")
    assert mount(document, "/a/b")["options"] == ["rbind", "ro", "rprivate"]


def test_readonly_root_keeps_what_must_be_written() -> None:
    document = spec(HostConfig(readonly_rootfs=True, tmpfs={"/tmp": ""}))
    assert document["root"]["readonly"]
    assert "ro" not in mount(document, "/dev")["options"]
    assert "ro" not in mount(document, "/tmp")["options"]
    assert "ro" in mount(document, "/etc/hosts")["options"]


def test_privileged() -> None:
    document = spec(HostConfig(privileged=True))
    linux = document["linux"]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "seccomp" not in linux
    assert "maskedPaths" not in linux
    assert "ro" not in mount(document, "/sys")["options"]
    assert "ro" not in mount(document, "/sys/fs/cgroup")["options"]
    assert "/dev/null" in {node["path"] for node in linux["devices"]}


def test_writable_cgroups() -> None:
    document = spec(HostConfig(security_opt=["writable-cgroups=true"]))
    assert "ro" not in mount(document, "/sys/fs/cgroup")["options"]
    assert "ro" in mount(document, "/sys")["options"]


@pytest.mark.parametrize(
    ("volume", "path", "words"),
    [
        ("", "a", "must not set Subpath when using anonymous volumes"),
        ("v", "/a", "subpath must be a relative path within the volume"),
        ("v", "a/../../b", "subpath must be a relative path within the volume"),
    ],
)
def test_subpaths_that_are_refused(volume: str, path: str, words: str) -> None:
    wanted = MountSpec(type="volume", source=volume, target="/t", volume_options=VolumeOptions(subpath=path))
    with pytest.raises(InvalidArgument, match=words):
        points.of_mount(wanted)


def test_host_namespaces() -> None:
    host = HostConfig(network_mode="host", pid_mode="host", ipc_mode="host", uts_mode="host")
    document = spec(host, Place(NetworkPlace("", {})))
    assert not kinds(document).keys() & {"network", "pid", "ipc", "uts"}
    assert "hostname" not in document
    assert document["linux"]["sysctl"] == {}
    assert mount(document, "/dev/shm")["source"] == "/dev/shm"


def test_a_peers_namespaces() -> None:
    peer = container(HostConfig(ipc_mode="shareable"))
    place = Place(NetworkPlace("/n", {}), peer=lambda name: peer)
    host = HostConfig(pid_mode="container:db", ipc_mode="container:db")
    with pytest.raises(Conflict, match="is not running"):
        build.make(container(host), place)
    peer.state = ContainerState(status="running", pid=77)
    document = build.make(container(host), place)
    assert kinds(document) | {"pid": "/proc/77/ns/pid", "ipc": "/proc/77/ns/ipc"} == kinds(document)
    assert mount(document, "/dev/shm")["source"] == "/data/containers/b/mounts/shm"
    assert shm.shareable(peer, Settings()) == ("/data/containers/b/mounts/shm", "mode=1777,size=67108864")


def test_users(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww:x:33:34::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nadm:x:4:root,www\nweb:x:34:\nlogs:x:50:\n")
    place = Place(NetworkPlace("", {}), layers=[str(tmp_path)])

    def user(name: str, *groups: str) -> dict[str, Any]:
        made = build.make(container(HostConfig(group_add=list(groups)), user=name), place)["process"]
        assert ("effective" in made["capabilities"]) == (made["user"]["uid"] == 0)
        found: dict[str, Any] = made["user"]
        return found

    assert user("") == {"uid": 0, "gid": 0, "additionalGids": [0, 4]}
    assert user("www", "logs", "99") == {"uid": 33, "gid": 34, "additionalGids": [34, 4, 50, 99]}
    assert user("33:logs") == {"uid": 33, "gid": 50, "additionalGids": [50]}
    with pytest.raises(
        InvalidArgument, match="unable to find user nobody: no matching entries in passwd file"
    ):
        user("nobody")
    with pytest.raises(InvalidArgument, match="unable to find group x: no matching entries in group file"):
        user("www:x")
    with pytest.raises(InvalidArgument, match="Unable to find group y"):
        user("www", "y")


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (["NET_ADMIN"], ["CAP_MKNOD"], {"CAP_NET_ADMIN"}),
        (["chown"], ["ALL"], {"CAP_CHOWN"}),
        (["all"], ["sys_admin"], {"CAP_KILL"}),
    ],
)
def test_capabilities(add: list[str], drop: list[str], expected: set[str]) -> None:
    found = set(process.capabilities(HostConfig(cap_add=add, cap_drop=drop)))
    assert expected <= found
    assert not found & {"CAP_MKNOD"} or drop != ["CAP_MKNOD"]
    assert drop != ["ALL"] or found == expected
    assert "CAP_SYS_ADMIN" not in found


def test_init() -> None:
    place = Place(NetworkPlace("", {}), settings=Settings(init=True, init_path="/opt/init"))
    document = build.make(container(), place)
    assert document["process"]["args"][:2] == ["/sbin/docker-init", "--"]
    assert mount(document, "/sbin/docker-init")["source"] == "/opt/init"
    assert build.make(container(HostConfig(pid_mode="host")), place)["process"]["args"][0] == "sh"
    assert build.make(container(HostConfig(init=False)), place)["process"]["args"][0] == "sh"


def test_limits_and_devices() -> None:
    host = HostConfig(
        memory=64 << 20,
        nano_cpus=500_000_000,
        pids_limit=0,
        ulimits=[Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1)],
        devices=[
            DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/nn", cgroup_permissions="r")
        ],
        device_cgroup_rules=["c 7:* rmw"],
    )
    document = spec(host)
    resources = document["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20}
    assert resources["cpu"] == {"quota": 50_000, "period": 100_000}
    assert resources["pids"] == {"limit": -1}
    assert resources["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
        {"allow": True, "type": "c", "major": 7, "access": "rmw"},
    ]
    assert document["linux"]["devices"][0]["path"] == "/dev/nn"
    limits = {limit["type"]: limit["hard"] for limit in document["process"]["rlimits"]}
    assert limits == {"RLIMIT_NOFILE": 20, "RLIMIT_CORE": 2**64 - 1}


def test_security_options() -> None:
    document = spec(
        HostConfig(security_opt=["no-new-privileges", "seccomp=unconfined", "apparmor=unconfined"])
    )
    assert document["process"]["noNewPrivileges"]
    assert "seccomp" not in document["linux"]
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "mkdir", "action": "A"}]})
    document = spec(HostConfig(security_opt=[f"seccomp={profile}"]))
    assert document["linux"]["seccomp"] == {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "A"}],
    }
    for wrong in ("nonsense", "no-new-privileges=perhaps", "x=y"):
        with pytest.raises(InvalidArgument, match="invalid --security-opt"):
            spec(HostConfig(security_opt=[wrong]))
    with pytest.raises(InvalidArgument, match="Decoding seccomp profile failed"):
        spec(HostConfig(security_opt=["seccomp={"]))


def test_conditions_of_a_seccomp_profile() -> None:
    rules = [
        {"names": ["a"], "action": "A", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["b"], "action": "A", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["c"], "action": "A", "includes": {"arches": ["arm64"]}},
        {"names": ["d"], "action": "A", "includes": {"minKernel": "4.8"}},
        {"names": ["e"], "action": "A", "includes": {"minKernel": "99.1"}},
    ]
    maps = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]
    profile = {"defaultAction": "E", "archMap": maps, "syscalls": rules}
    converted = seccomp.convert(profile, ["CAP_CHOWN"], "x86_64")
    assert [rule["names"] for rule in converted["syscalls"]] == [["b"], ["d"]]
    assert converted["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_tmpfs_options() -> None:
    defaults = ["noexec", "nosuid", "nodev", "rprivate"]
    assert tmpfs.mount("/t", "size=1m,exec,ro")["options"] == [
        "nosuid",
        "nodev",
        "rprivate",
        "size=1m",
        "exec",
        "ro",
    ]
    assert tmpfs.mount("/t", "")["options"] == defaults
    point = points.of_mount(
        MountSpec(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o700))
    )
    assert tmpfs.of_spec(point)["options"] == [*defaults, "mode=700", "size=4k"]
    with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
        tmpfs.mount("/t", "huge=always")


def test_merging_an_image() -> None:
    image = merge.image_config(
        {
            "config": {
                "Env": ["A=1", "B=2"],
                "Cmd": ["c"],
                "Entrypoint": ["e"],
                "User": "u",
                "Labels": {"l": "1"},
            }
        }
    )

    def merged(**config: Any) -> ContainerConfig:
        return merge.merge(ContainerConfig(**config), image)

    assert merge.command(merged()) == ("e", ["c"])
    assert merge.command(merged(cmd=["x", "y"])) == ("e", ["x", "y"])
    assert merge.command(merged(entrypoint="f")) == ("f", [])
    assert merge.command(merged(entrypoint=[""], cmd=["x"])) == ("x", [])
    assert merged(env=["B=3"]).env == ["B=3", "A=1"]
    assert merged(user="v").user == "v"
    with pytest.raises(InvalidArgument, match="No command specified"):
        merge.command(merged(entrypoint=[""]))


def test_binds() -> None:
    bind = points.parse_bind("/a/../b:/c/:ro,rslave")
    assert (bind.type, bind.source, bind.target) == ("bind", "/b", "/c")
    assert (bind.writable, bind.propagation, bind.mode) == (False, "rslave", "ro,rslave")
    named = points.parse_bind("data:/d")
    assert (named.type, named.name, named.mode, named.copy_up) == ("volume", "data", "z", True)
    assert not points.parse_bind("data:/d:nocopy").copy_up
    assert points.parse_bind("/only").anonymous


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/a:/b:xx", "invalid mode: xx"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("a:/b:rslave", "field BindOptions must not be specified"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b/..", "destination can't be '/'"),
        ("/a:/b:ro:x", "invalid volume specification"),
        ("", "invalid volume specification"),
    ],
)
def test_wrong_binds(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        points.parse_bind(text)


def test_points_of_all_kinds() -> None:
    peer = container(HostConfig(binds=["/p:/peer", "shared:/s"]))
    config = ContainerConfig(volumes={"/peer": {}, "/own": {}, "/t": {}})
    host = HostConfig(volumes_from=["db:ro"], binds=["/mine:/s"], tmpfs={"/t": ""})
    planned = {point.target: point for point in points.plan(config, host, lambda name: peer)}
    assert set(planned) == {"/peer", "/s", "/own"}
    assert not planned["/peer"].writable
    assert planned["/s"].source == "/mine"
    assert planned["/own"].anonymous
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /s"):
        points.plan(ContainerConfig(), HostConfig(binds=["/a:/s", "/b:/s/"]))
    with pytest.raises(InvalidArgument, match="No such container: nobody"):
        points.plan(ContainerConfig(), HostConfig(volumes_from=["nobody"]))


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (MountSpec(type="npipe", target="/t"), 'type "npipe": mount type unknown'),
        (MountSpec(type="bind", target="/t"), "field Source must not be empty"),
        (MountSpec(type="volume"), "field Target must not be empty"),
        (MountSpec(type="bind", source="/no/such", target="/t"), "bind source path does not exist: /no/such"),
        (MountSpec(type="tmpfs", source="/x", target="/t"), "field Source must not be specified"),
        (MountSpec(type="volume", target="/t", tmpfs_options=TmpfsOptions()), "field TmpfsOptions must not"),
    ],
)
def test_wrong_mounts(mount: MountSpec, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        points.of_mount(mount)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HostConfig(memory=1 << 20), "Minimum memory limit allowed is 6MB"),
        (HostConfig(memory_swap=8 << 20), "You should always set the Memory limit"),
        (HostConfig(memory=8 << 20, memory_swap=7 << 20), "Minimum memoryswap limit should be larger"),
        (HostConfig(nano_cpus=10**12), "Range of CPUs is from 0.01 to"),
        (HostConfig(nano_cpus=10**8, cpu_period=5000), "Nano CPUs and CPU Period cannot both be set"),
        (HostConfig(cpu_period=10), "CPU cfs period can not be less than 1ms"),
        (HostConfig(cpuset_cpus="4095"), "Requested CPUs are not available - requested 4095"),
        (HostConfig(cpuset_cpus="x"), "Invalid value x for cpuset cpus"),
        (
            HostConfig(blkio_weight_device=[WeightDevice(path="/dev/null", weight=5)]),
            "Range of blkio weight is from 10 to 1000",
        ),
        (HostConfig(oom_score_adj=2000), "Invalid value 2000, range for oom score adj"),
        (HostConfig(pid_mode="pod"), "invalid PID mode: pod"),
        (HostConfig(network_mode="container:a", dns=["1.1.1.1"]), "dns and the network mode"),
        (HostConfig(restart_policy=RestartPolicy(name="never")), "invalid restart policy"),
        (
            HostConfig(auto_remove=True, restart_policy=RestartPolicy(name="always")),
            "can't create 'AutoRemove'",
        ),
        (HostConfig(cap_add=["FLY"]), 'invalid CapAdd: unknown capability: "CAP_FLY"'),
        (HostConfig(shm_size=-1), "SHM size can not be less than 0"),
        (HostConfig(ulimits=[Ulimit(name="nofile", soft=3, hard=2)]), "ulimit soft limit must be less"),
        (HostConfig(device_cgroup_rules=["x"]), "invalid device cgroup rule format"),
    ],
)
def test_refused(host: HostConfig, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        validate.create(ContainerConfig(), host, Settings())


def test_defaults_that_inspect_shows() -> None:
    host = HostConfig(memory=64 << 20, pids_limit=-1, pid_mode="host")
    assert validate.create(ContainerConfig(), host, Settings()) == []
    assert (host.memory_swap, host.shm_size, host.pids_limit) == (128 << 20, 64 << 20, None)
    assert (host.ipc_mode, host.restart_policy.name) == ("private", "no")
    assert host.security_opt == ["label=disable"]
    assert host.masked_paths and "/proc/kcore" in host.masked_paths


async def test_resolving_releases_what_it_took() -> None:
    class Volumes:
        held: list[str]

        def __init__(self) -> None:
            self.held = []

        async def use(self, name: str, container: str, driver: str = "", *_: object) -> str:
            if name == "bad":
                raise InvalidArgument("no")
            self.held.append(name)
            return f"/volumes/{name}"

        async def release(self, name: str, container: str) -> None:
            self.held.remove(name)

    volumes: Any = Volumes()
    good = points.parse_bind("good:/g")
    (found,) = await points.resolve([good], ID, volumes)
    assert found.source == "/volumes/good"
    volumes.held.clear()
    with pytest.raises(InvalidArgument):
        await points.resolve([good, points.parse_bind("bad:/b")], ID, volumes)
    assert volumes.held == []


def test_shared_propagation_reaches_the_root() -> None:
    host = HostConfig(binds=["/a:/b:rshared", "/c:/d:rslave"])
    assert spec(host)["linux"]["rootfsPropagation"] == "shared"
    assert "rootfsPropagation" not in spec()["linux"]
    assert MountPoint(type="bind", target="/x").propagation == ""


def test_the_environment_of_a_legacy_link() -> None:
    child = container(env=["PATH=/bin", "WORD=x"], exposed_ports={"6379/tcp": {}, "53/udp": {}, "53/tcp": {}})
    child.networks = {"bridge": EndpointSettings(ip_address="172.17.0.9")}
    linking = container(HostConfig(links=["/redis:my-db"]))
    with pytest.raises(Conflict, match="Cannot link to a non running container: /web AS /web/my-db"):
        links.environment(linking, lambda name: child)
    child.state = ContainerState(status="running", pid=1)
    found = links.environment(linking, lambda name: child)
    assert found[:3] == [
        "MY_DB_PORT=tcp://172.17.0.9:53",
        "MY_DB_PORT_53_TCP=tcp://172.17.0.9:53",
        "MY_DB_PORT_53_TCP_ADDR=172.17.0.9",
    ]
    assert found[-2:] == ["MY_DB_NAME=/web/my-db", "MY_DB_ENV_WORD=x"]
    assert "MY_DB_PORT_6379_TCP_PROTO=tcp" in found
    assert (
        links.environment(container(HostConfig(links=["a:b"], network_mode="mine")), lambda name: child) == []
    )

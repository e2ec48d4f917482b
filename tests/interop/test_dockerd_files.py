"""cp, export, diff, commit, top, stats and update: the same on our dockerd as on Debian's; and attacks on ours."""

from __future__ import annotations

import io
import json
import re
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import docker as sdk
import pytest

from support.dockerd import BUSYBOX, AnyDockerd, Dockerd
from support.ourdockerd import OurDockerd
from support.process import eventually

SETUP: Final = """
mkdir -p /a/b /empty; echo hello > /a/b/file; ln -s /a/b /link; ln -s file /a/b/near; ln /a/b/file /a/hard
ln -s /nowhere /dangling; ln -s ../../../../etc /up; chmod 4711 /a/b/file; chown 7:8 /a/b/file; mkfifo /a/fifo
echo v > /data/inside; exec sleep 1000
"""
RUN: Final = (
    "--volume",
    "data:/data",
    "--volume",
    "/run/kept:/ro:ro",
    "--tmpfs",
    "/memory",
    "--network",
    "none",
)

LISTING: Final = (
    "ls -lAR /in /data /a | grep -v '^total' | sed -E 's/ +[A-Z][a-z]{2} .{9}//; s/^(d.*[^ ]) +[0-9]+/\\1 /'"
)


class Desk:
    """A user with a folder of files and a docker prompt."""

    def __init__(self, docker: AnyDockerd, folder: Path) -> None:
        self.docker, self.folder = docker, folder
        (folder / "tree/below").mkdir(parents=True)
        (folder / "tree/one").write_text("1")
        (folder / "tree/below/two").write_text("22")
        (folder / "tree/link").symlink_to("one")

    def says(self, *words: str, name: str = "box", **options: Any) -> str:
        done = self.docker(*words, check=False, **options)
        text = f"{done.returncode} {done.stdout}{done.stderr}"
        id = self.docker.inspect(name, ".Id")
        return text.replace(str(self.folder), "FOLDER").replace(id, "ID").replace(id[:12], "ID12")


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return sorted(
            f"{member.name} {member.type!r} {member.linkname} {member.mode:o}" for member in archive
        )


OUT: Final = (
    *(
        "/a",
        "/a/",
        "/a/.",
        "/a/b/file",
        "/a/b/near",
        "/link",
        "/link/",
        "/link/file",
        "/dangling",
        "/up",
        "/up/",
    ),
    *(
        "/empty",
        "/nope",
        "/a/nope",
        "/a/b/file/x",
        "/data",
        "/data/inside",
        "/ro",
        "a/b",
        "/a/../a/b",
        "/a/hard",
    ),
)
IN: Final = (
    *(
        "box:/in",
        "box:/in/",
        "box:/in/new",
        "box:/in/new/",
        "box:/nope/deep",
        "box:/link/x",
        "box:/data",
        "box:/up",
    ),
    *("box:/ro", "box:/in/file", "box:/dangling"),
)


def session(docker: AnyDockerd, folder: Path) -> dict[str, Any]:
    """Everything that is compared, by what was done."""
    desk = Desk(docker, folder)
    docker.host.run(["sh", "-c", "mkdir /run/kept && echo k > /run/kept/file"])
    docker("run", "--detach", "--name", "box", *RUN, BUSYBOX, "sh", "-c", f"mkdir /in; {SETUP}")
    docker("exec", "box", "sh", "-c", "until test -e /data/inside; do sleep 0.05; done")
    said: dict[str, Any] = {}
    for state in ("running", "stopped"):
        if state == "stopped":
            docker("stop", "--time", "0", "box")
        api = sdk.DockerClient(base_url=f"unix://{docker.socket}")
        try:
            said |= {f"{state}: out {path}": archived(api, path) for path in OUT}
        finally:
            api.close()
        for place in IN:
            for source in ("tree", "tree/.", "tree/one", "tree/link")[: 4 if state == "running" else 2]:
                key = f"{state}: cp {source} {place}"
                said[key] = desk.says("cp", f"{folder}/{source}", place)
        said[f"{state}: diff"] = sorted(docker("diff", "box").stdout.splitlines())
    docker("start", "box")
    said["tree"] = docker("exec", "box", "sh", "-c", LISTING).stdout.splitlines()
    exported = folder / "exported.tar"
    docker("export", "--output", exported, "box")
    said["export"] = [
        line
        for line in names(exported.read_bytes())
        if line.startswith(("a", "data", "link", "up", "memory"))
    ]
    said |= limits(desk)
    return said


def archived(api: sdk.DockerClient, path: str) -> Any:
    try:
        blocks, statistics = api.containers.get("box").get_archive(path)
        data = b"".join(blocks)
        assert statistics is not None
    except sdk.errors.APIError as error:
        return re.sub(r"[0-9a-f]{64}", "ID", f"{error.status_code} {error.explanation}")
    kept = {key: value for key, value in statistics.items() if key != "mtime"}
    if statistics["mode"] & 1 << 31:
        kept.pop("size")  # of a folder: its file system's business
    return [kept, *names(data)]


def limits(desk: Desk) -> dict[str, Any]:
    says: dict[str, Any] = {}
    for words in (
        "update --memory 64m --memory-swap 128m --pids-limit 33 --cpus 0.5 box",
        "update --memory 1m box",
        "update --memory 256m box",
        "update --cpu-quota 20000 box",
        "update --restart on-failure:2 box",
        "update --restart nonsense box",
        "update --cpuset-cpus 77 box",
        "top box -o pid,comm",
        "top box -o ppid=PID",
        "top box --nonsense",
    ):
        says[words] = re.sub(r" +", " ", re.sub(r"\d{2,}", "N", desk.says(*words.split())))
    files = (
        "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us"
    )
    script = f"cd /sys/fs/cgroup && cat {files}"
    says["limits"] = desk.docker("exec", "box", "sh", "-c", script).stdout.split()
    fields = (".Memory", ".MemorySwap", ".PidsLimit", ".NanoCpus", ".RestartPolicy.Name")
    says["recorded"] = [desk.docker.inspect("box", f".HostConfig{field}") for field in fields]
    commit = (
        "commit",
        "--message",
        "m",
        "--author",
        "a",
        "--change",
        'CMD ["cat", "/a/b/file"]',
        "--change",
        "ENV X=1",
    )
    desk.docker(*commit, "box", "made:1")
    says["committed"] = desk.docker("run", "--rm", "made:1").stdout
    config = json.loads(desk.docker("image", "inspect", "made:1").stdout)[0]
    says["config"] = {key: config["Config"][key] for key in ("Cmd", "Env", "Entrypoint", "User", "Volumes")}
    says["signed"] = [config["Author"], config["Comment"]]
    desk.docker("rmi", "made:1")
    found = eventually(lambda: stats(desk.docker))
    says["stats"] = [sorted(found), found["PIDs"], found["MemUsage"].partition(" / ")[2]]
    return says


def stats(docker: AnyDockerd) -> dict[str, str]:
    """{} when the CLI has had no answer within two seconds, and shows zeros."""
    found: dict[str, str] = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", "box").stdout)
    return found if found["PIDs"] not in ("", "0", "--") else {}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with Dockerd("real") as docker:
        found = session(docker, tmp_path_factory.mktemp("theirs"))
    yield found


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with OurDockerd() as docker:
        found = session(docker, tmp_path_factory.mktemp("ours"))
    yield found


EXPECTED: Final = {
    "update --restart nonsense box": "the words of 28, which name the policies that there are",
    "running: out /a/b/file/x": "Debian's is a 500 that tells a path of the host; ours is a 400",
    "stopped: out /a/b/file/x": "as for a running one",
}


def test_the_same_answers(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert len(theirs) > 100
    different = {key: (theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]}
    assert {key: found for key, found in different.items() if key not in EXPECTED} == {}
    assert set(EXPECTED) <= set(different)


# -- attacks, and what the comparison can't show


@pytest.fixture(scope="module")
def daemon() -> Iterator[OurDockerd]:
    with OurDockerd() as docker:
        docker.host.run(["sh", "-c", "mkdir -p /run/kept && echo host > /run/kept/secret"])
        yield docker


@pytest.fixture
def box(daemon: OurDockerd) -> Iterator[OurDockerd]:
    """A daemon without containers."""
    yield daemon
    daemon.clean()


def archive(*members: tuple[str, bytes, str, str]) -> bytes:
    """(name, kind, link, data) of each."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as made:
        for name, kind, link, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(text)
            made.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


ATTACKS: Final = (
    archive(("../../../../../../run/kept/secret", tarfile.REGTYPE, "", "evil")),
    archive(("/run/kept/secret", tarfile.REGTYPE, "", "evil")),
    archive(("l", tarfile.SYMTYPE, "/run/kept", ""), ("l/secret", tarfile.REGTYPE, "", "evil")),
    archive(
        ("l", tarfile.SYMTYPE, "../../../../../../run/kept", ""), ("l/secret", tarfile.REGTYPE, "", "evil")
    ),
    archive(
        ("h", tarfile.LNKTYPE, "../../../../../../run/kept/secret", ""), ("h", tarfile.REGTYPE, "", "evil")
    ),
    archive(("out/secret", tarfile.REGTYPE, "", "evil")),
    archive(("proc/1/root/run/kept/secret", tarfile.REGTYPE, "", "evil")),
)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_no_archive_leaves_the_container(box: OurDockerd, running: bool) -> None:
    """Names with "..", absolute ones, links of the archive's and of the container's own, /proc's magic links."""
    script = "ln -s /run/kept /out; ln -s ../../../../../run/kept /up; sleep 1000"
    box("run", "--detach", "--name", "box", "--network", "none", BUSYBOX, "sh", "-c", script)
    box("exec", "box", "sh", "-c", "until test -L /up; do sleep 0.05; done")
    if not running:
        box("stop", "--time", "0", "box")
    api = sdk.DockerClient(base_url=f"unix://{box.socket}")
    try:
        container = api.containers.get("box")
        for attack in ATTACKS:
            for place in ("/", "/tmp"):
                try:
                    container.put_archive(place, attack)
                except sdk.errors.APIError as error:
                    assert error.status_code in (400, 404, 500), error
        for path in ("/out/secret", "/up/secret", "/proc/1/root/run/kept/secret", "/../run/kept/secret"):
            try:
                blocks, _ = container.get_archive(path)
                assert b"host" not in b"".join(blocks)  # at most what an attack left inside
            except sdk.errors.APIError as error:
                assert error.status_code in (404, 500), error
    finally:
        api.close()
    assert box.host.run(["cat", "/run/kept/secret"]).stdout == "host\n"
    assert box.host.run(["stat", "-c", "%h", "/run/kept/secret"]).stdout == "1\n"


def test_owners_and_kinds(box: OurDockerd) -> None:
    """copyUIDGID makes everything the container's user's; noOverwriteDirNonDir keeps a folder a folder."""
    script = "mkdir /in /in/folder; chmod 777 /in; exec sleep 1000"
    box("run", "--detach", "--name", "box", "--network", "none", BUSYBOX, "sh", "-c", script)
    box("exec", "box", "sh", "-c", "until test -d /in/folder; do sleep 0.05; done")
    user = ("--user", "33:44")
    box("run", "--detach", "--name", "www", *user, "--network", "none", BUSYBOX, "sleep", "1000")
    api = sdk.DockerClient(base_url=f"unix://{box.socket}")
    try:
        data = archive(("folder", tarfile.REGTYPE, "", "file"))

        def put(name: str, place: str, **options: str) -> Any:
            url = f"{api.api.base_url}/v1.41/containers/{name}/archive"
            return api.api.put(url, params={"path": place, **options}, data=data)

        refused = put("box", "/in", noOverwriteDirNonDir="1")
        assert refused.status_code == 400
        assert "cannot overwrite directory" in refused.json()["message"]
        assert put("www", "/tmp", copyUIDGID="1").status_code == 200
        assert put("box", "/in").status_code == 200
        assert put("box", "/nope").status_code == 404
        assert put("box", "/in/folder").json()["message"] == "extraction point is not a directory"
    finally:
        api.close()
    assert box("exec", "www", "stat", "-c", "%u:%g", "/tmp/folder").stdout == "33:44\n"
    assert box("exec", "box", "cat", "/in/folder").stdout == "file"


def test_read_only_places(box: OurDockerd) -> None:
    options = ("--read-only", "--volume", "data:/data", "--volume", "kept:/kept:ro", "--network", "none")
    box("run", "--detach", "--name", "box", *options, BUSYBOX, "sleep", "1000")
    for state in ("running", "stopped"):
        if state == "stopped":
            box("stop", "--time", "0", "box")
        said = box("cp", "/etc/hostname", "box:/tmp", check=False).stderr
        assert "container rootfs is marked read-only" in said
        said = box("cp", "/etc/hostname", "box:/kept", check=False).stderr
        assert "mounted volume is marked read-only" in said
        box("cp", "/etc/hostname", "box:/data/hostname")


def test_nothing_is_left_of_a_client_that_goes(box: OurDockerd, tmp_path: Path) -> None:
    """Half an archive out, half an archive in: workers end, and the container can be removed."""
    script = "dd if=/dev/zero of=/big bs=1M count=64 2>/dev/null; exec sleep 1000"
    box("run", "--detach", "--name", "box", "--network", "none", BUSYBOX, "sh", "-c", script)
    box("exec", "box", "sh", "-c", "until test $(stat -c %s /big) = 67108864; do sleep 0.05; done")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(box.socket))
        client.sendall(b"GET /containers/box/archive?path=/big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in client.recv(4096)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(box.socket))
        head = b"PUT /containers/box/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"
        client.sendall(head + archive(("x", tarfile.REGTYPE, "", "y" * 5000))[:3000])
    box("cp", "box:/big", tmp_path)
    assert (tmp_path / "big").stat().st_size == 64 << 20
    box("rm", "--force", "box")


def test_readings_in_a_row(box: OurDockerd) -> None:
    """Each reading carries the one before; nothing is read of a container that doesn't run; the stream ends with it."""
    box("run", "--detach", "--name", "box", BUSYBOX, "sh", "-c", "while :; do :; done")
    api = sdk.DockerClient(base_url=f"unix://{box.socket}")
    try:
        container = api.containers.get("box")
        stream: Any = container.stats(stream=True, decode=True)
        first = second = next(stream)
        while not (first["read"] < second["read"] and first["pids_stats"] and second["pids_stats"]):
            first, second = second, next(stream)  # one may be empty where the machine is too busy to answer
        assert second["precpu_stats"] == first["cpu_stats"]
        assert second["preread"] == first["read"]
        used = (
            second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
        )
        passed = second["cpu_stats"]["system_cpu_usage"] - first["cpu_stats"]["system_cpu_usage"]
        assert used > 0 and passed > 0
        assert second["memory_stats"]["limit"] > 0
        assert second["networks"]["eth0"].keys() >= {"rx_bytes", "tx_packets"}
        container.stop(timeout=0)
        still: Any = container.stats(stream=False)
        assert (still["read"], still["name"]) == ("0001-01-01T00:00:00Z", "/box")
        with pytest.raises(sdk.errors.APIError, match="is not running") as refused:
            container.top()
        assert refused.value.status_code == 409
        container.remove()
        assert all(reading["read"] for reading in stream)
    finally:
        api.close()

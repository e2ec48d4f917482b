"""Attacks of published advisories that test_oci_attacks doesn't have already; see longshore/oci/ADVISORIES.md."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import soak
from support.bundles import MAPPING, Bundle

FOREVER = "while :; do sleep 1000; done"


def without_mounts_in(box: Bundle, place: str) -> None:
    box.config["mounts"] = [m for m in box.config["mounts"] if not m["destination"].startswith(place)]


def snapshot(folder: Path) -> dict[str, tuple[int, int, int, int, str]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        text = path.read_text() if path.is_file() and not path.is_symlink() else ""
        found[str(path)] = (info.st_ino, info.st_mode, info.st_uid, info.st_mtime_ns, text)
    return found


@pytest.fixture
def outside(box: Bundle) -> Path:
    """A folder of the host's with the files that attacks want replaced, removed or owned."""
    made = box.folder / "outside"
    made.mkdir()
    for name in ("ptmx", "null", "console", "fd", "stdin", "file"):
        (made / name).write_text("the host's")
    return made


@pytest.mark.parametrize("link", ["absolute", "relative"])
@pytest.mark.parametrize("verb", ["run", "create"])
def test_dev_of_the_image_is_a_link_to_the_host(box: Bundle, outside: Path, link: str, verb: str) -> None:
    """CVE-2026-41579: nodes and links of /dev went through it to the host, whose ptmx was removed."""
    without_mounts_in(box, "/dev")
    (box.root / "dev").rmdir()
    (box.root / "dev").symlink_to(outside if link == "absolute" else "../outside")
    before = snapshot(outside)
    box.shell("true")
    box.call(verb, "c", **({} if verb == "run" else {"stdout": None, "stderr": None}))
    assert snapshot(outside) == before


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_nodes_of_an_image_without_a_mount_on_dev(
    box: Bundle, outside: Path, terminal: bool, read_only: bool
) -> None:
    """CVE-2026-88264, CVE-2026-88265: /dev/console and /dev/null as links to files of the host."""
    without_mounts_in(box, "/dev/mqueue")
    without_mounts_in(box, "/dev/shm")
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] != "/dev"]
    for name in ("null", "console"):
        (box.root / "dev" / name).symlink_to(f"../../outside/{name}")
        (box.root / "outside").mkdir(exist_ok=True)
        (box.root / "outside" / name).write_text("the image's")
    box.config["root"]["readonly"] = read_only
    box.config["process"] |= {"terminal": terminal, "user": {"uid": 1000, "gid": 1000}}
    before = snapshot(outside)
    with_null = os.open("/dev/null", os.O_RDWR)
    try:
        box.shell("echo x >/dev/console; echo x >/dev/null; true")
        box.call("run", "c", stdout=with_null, stderr=with_null)
    finally:
        os.close(with_null)
    assert snapshot(outside) == before
    assert os.stat("/dev/null").st_uid == 0


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names as fast as can be."""
    libc = ctypes.CDLL(None, use_errno=True)
    first, second, over = os.fsencode(one), os.fsencode(other), threading.Event()

    def swap() -> None:
        while not over.is_set():
            for _ in range(100):
                libc.renameat2(-100, first, -100, second, 2)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("kind", ["tmpfs", "bind of a folder", "bind of a file"])
def test_a_link_swapped_in_while_mounting(box: Bundle, outside: Path, kind: str) -> None:
    """CVE-2021-30465 (the mount goes outside), CVE-2024-45310 (an empty file or folder is made there)."""
    volume = box.folder / "volume"
    (volume / "place").mkdir(parents=True)
    (volume / "link").symlink_to(f"../../../../../../../..{outside}")
    (box.folder / "some").mkdir()
    (box.folder / "some/file").touch()
    source = {"tmpfs": "tmpfs", "bind of a folder": "some", "bind of a file": "some/file"}[kind]
    options = [] if kind == "tmpfs" else ["bind"]
    box.config["mounts"] += [
        {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind"]},
        *(
            {
                "destination": f"/volume/place/made/{n}",
                "type": kind.split()[0],
                "source": source,
                "options": options,
            }
            for n in range(5)
        ),
    ]
    box.shell("true")
    before = snapshot(outside)
    with swapping(volume / "place", volume / "link"):
        for _ in range(soak.times(6, 200)):
            box.call("run", "c")
            assert snapshot(outside) == before
            assert not (outside / "made").exists()
    assert str(outside) not in Path("/proc/self/mountinfo").read_text()


def test_capabilities_of_exec_are_not_inheritable(box: Bundle) -> None:
    """CVE-2022-29162, CVE-2022-24769, crun's CVE-2022-27650, youki's CVE-2025-27612."""
    box.create(FOREVER)
    box.do("start", "c")
    for words in (["exec", "c"], ["exec", "--cap", "CAP_NET_RAW", "c"]):
        lines = box.do(*words, "cat", "/proc/self/status").splitlines()
        caps = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
        assert int(caps["CapInh"], 16) == 0
        assert int(caps["CapAmb"], 16) == 0
        assert bool(int(caps["CapEff"], 16) >> 13 & 1) == ("--cap" in words)


@pytest.mark.parametrize(
    ("user", "expected"), [("1", "1 0"), ("1:2", "1 2"), ("0", "0 0"), ("65534:1", "65534 1")]
)
def test_the_user_of_exec_is_who_was_asked_for(box: Bundle, user: str, expected: str) -> None:
    """crun's CVE-2026-30892: -u 1 was root."""
    box.create(FOREVER)
    box.do("start", "c")
    assert box.do("exec", "-u", user, "c", "sh", "-c", "echo $(id -u) $(id -g)").strip() == expected


@pytest.mark.parametrize(
    "user", ["-1", "4294967295", "4294967296", "1:4294967295", "1_0", "x", "", "0x1", "1 "]
)
def test_users_that_are_no_numbers(box: Bundle, user: str) -> None:
    """CVE-2024-40635 at this level: an id that wraps around to root."""
    box.create(FOREVER)
    box.do("start", "c")
    assert box.call("exec", "-u", user, "c", "true").returncode != 0


def test_ids_that_wrap_around_in_the_configuration(box: Bundle) -> None:
    for user in (
        {"uid": 2**32, "gid": 0},
        {"uid": 2**32 - 1, "gid": 0},
        {"uid": -1, "gid": 0},
        {"uid": 1, "gid": -1},
        {"uid": True, "gid": 0},
        {"uid": 1, "gid": 2**32},
        {"uid": 1, "gid": 1, "additionalGids": [2**32]},
    ):
        box.config["process"]["user"] = user
        done = box.run("id")
        assert done.returncode != 0, done.stdout
        assert not done.stdout


def test_masses_of_mappings_switch_nothing_off(box: Bundle) -> None:
    """CVE-2021-43784: a message too long made runc read the attacker's bytes as other options."""
    for path in (box.folder, box.root):
        path.chmod(0o755)
    box.config["linux"]["namespaces"].append({"type": "user"})
    many = [{"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(5000)]
    box.config["linux"] |= {"uidMappings": many, "gidMappings": MAPPING}
    done = box.run("id -u")
    assert done.returncode == 1
    assert not done.stdout
    box.config["linux"]["namespaces"] = [{"type": "mount", "path": "/" + "x" * 70000}]
    assert box.run("id -u").returncode == 1


@pytest.mark.parametrize(
    "devices", [None, [], [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]]
)
def test_devices_are_refused_unless_allowed(box: Bundle, devices: object) -> None:
    """GHSA-g54h-m393-cpwq: without a rule for all devices, all were allowed."""
    box.config["linux"]["resources"] = {} if devices is None else {"devices": devices}
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    box.config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    done = box.run("mknod /kmsg c 1 11 && head -c0 /kmsg && cat /kmsg; echo tried")
    assert done.stdout == "tried\n"
    assert "not permitted" in done.stderr


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("sys", ["sysfs", "bound"])
def test_cgroups_are_not_writable_from_a_user_namespace(box: Bundle, private: bool, sys: str) -> None:
    """CVE-2023-25809: with /sys bound from the host, the cgroup file system below was writable."""
    for path in (box.folder, box.root):
        path.chmod(0o755)
    linux = box.config["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if private or n["type"] != "cgroup"]
    linux["namespaces"].append({"type": "user"})
    linux |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    if sys == "bound":
        next(m for m in box.config["mounts"] if m["destination"] == "/sys").update(
            type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"]
        )
    done = box.run("for d in /sys/fs/cgroup/*/; do mkdir $d/evil && echo made $d; done; true")
    assert "made" not in done.stdout, done.stdout
    assert done.returncode == 0, done.stderr


def test_a_volume_over_proc_s_attributes_is_refused_in_any_disguise(box: Bundle) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2025-52881."""
    (box.folder / "fake/self/attr").mkdir(parents=True)
    mount = {"type": "bind", "source": str(box.folder / "fake"), "options": ["bind"]}
    (box.root / "one").symlink_to("two")
    (box.root / "two").symlink_to("/proc/../proc/./self")
    usual = box.config["mounts"]
    for place in ("/proc", "//proc", "/./proc/", "/one/attr", "/proc/thread-self/attr", "/proc/1", "/two"):
        box.config["mounts"] = [*usual, {**mount, "destination": place}]
        done = box.run("true")
        assert done.returncode == 1, place
        assert "cannot be mounted because" in done.stderr, (place, done.stderr)


def test_names_that_lead_out_of_the_state_directory(box: Bundle) -> None:
    """crun's and youki's hardening: an id is a directory name, whatever the verb."""
    (box.state / "x").mkdir(parents=True)
    for name in ("../x", "x/../../y", ".", "..", "a\nb", "", "x" * 5000):
        for verb in ("create", "state", "delete", "kill", "exec"):
            words = [verb, name, "true"] if verb == "exec" else [verb, name]
            assert box.call(*words).returncode != 0
    assert (box.state / "x").is_dir()
    (box.state / "x").rmdir()

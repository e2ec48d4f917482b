"""The runtime's parts that need no kernel: JSON, state table, command lines, configuration, plans."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.linux import mounts, processes
from longshore.linux.cgroup import layout
from longshore.linux.cgroup.manager import Cgroup
from longshore.oci import cli, codec, config, create, onefile, shape, signals, spec, state, update
from longshore.oci import list as listing
from longshore.oci.errors import (
    InvalidConfig,
    InvalidId,
    NotFound,
    NotRunning,
    RuntimeFailure,
    StartFailed,
    WrongState,
    explain,
)
from longshore.oci.process import messages, program, rootfs, users
from longshore.oci.process.init import sysctl_path

# JSON

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(values)
def test_json_both_ways(value: Any) -> None:
    assert codec.loads(json.dumps(value)) == value
    assert json.loads(codec.dumps(value)) == value
    assert json.loads(codec.dumps(value, "  ")) == value


def test_json_is_indented_as_json_does() -> None:
    value = {"a": [1, {"b": None}], "c": {}, "d": []}
    assert codec.dumps(value, "  ") == json.dumps(value, indent=2)


@pytest.mark.parametrize(
    "text", ["", " ", "{", "[1,]", '{"a":1}x', "nul", '"\x01"', "{'a':1}", "NaN", "[" * 100000]
)
def test_bad_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        codec.loads(text)


def test_bad_json_is_a_value_error_in_a_bare_interpreter() -> None:
    """There the C scanner's own exception isn't loaded."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(codec.__file__).parents[2])!r})
from longshore.oci import codec
try: codec.loads("{{")
except ValueError: print("value error")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "value error\n"


# The table of states


class Fake(state.State):
    """A container in a state of our choice."""

    def __init__(self, status: str) -> None:
        super().__init__("/nowhere", {"id": "x"})
        self._status = status

    @property
    def status(self) -> str:
        return self._status


STATES = (state.CREATED, state.RUNNING, state.PAUSED, state.STOPPED)


@pytest.mark.parametrize("verb", state.ALLOWED)
@pytest.mark.parametrize("status", STATES)
def test_every_verb_in_every_state(verb: str, status: str) -> None:
    container = Fake(status)
    if status in state.ALLOWED[verb]:
        assert container.require(verb) == status
    else:
        with pytest.raises(WrongState) as caught:
            container.require(verb)
        assert str(caught.value)


def test_words_that_shims_look_for() -> None:
    with pytest.raises(NotRunning, match="container not running"):
        Fake(state.STOPPED).require("kill")
    assert "does not exist" in str(NotFound())
    with pytest.raises(WrongState, match="cannot delete container x that is not stopped: running"):
        Fake(state.RUNNING).require("delete")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "a\0", "x" * 1025])
def test_bad_ids(name: str) -> None:
    with pytest.raises(InvalidId):
        state.validate_id(name)


@pytest.mark.parametrize("name", ["a", "A-b_c.d+1", "0" * 64])
def test_good_ids(name: str) -> None:
    state.validate_id(name)


def test_timestamps_are_go_s() -> None:
    assert state.timestamp(0) == "1970-01-01T00:00:00Z"
    assert state.timestamp(1_500_000_000_120_000_000) == "2017-07-14T02:40:00.12Z"
    assert state.timestamp(1_500_000_000_000_000_001) == "2017-07-14T02:40:00.000000001Z"


def test_damaged_state_is_an_error_and_a_missing_one_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        state.load(str(tmp_path), "c")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "state.json").write_text("{")
    with pytest.raises(RuntimeFailure, match=r"state\.json"):
        state.load(str(tmp_path), "c")
    assert state.load_all(str(tmp_path / "missing")) == []


# Command lines


def test_flags() -> None:
    flags = {"bundle b": cli.VALUE, "env e": cli.LIST, "force f": cli.BOOL}
    words = ["--bundle", "x", "-b=y", "-e", "A=1", "--env=B=2", "-f", "id", "--force"]
    values, rest = cli.parse(words, flags)
    assert values == {"bundle": ["x", "y"], "env": ["A=1", "B=2"], "force": ["true"]}
    assert rest == ["id", "--force"]
    call = cli.Call("/r", False, values, rest)
    assert (call.value("bundle"), call.all("env"), call.on("force")) == ("y", ["A=1", "B=2"], True)
    assert cli.parse(["--", "-b"], flags) == ({}, ["-b"])
    assert cli.parse(["--force=false", "-"], flags) == ({"force": ["false"]}, ["-"])


@pytest.mark.parametrize("words", [["--nope"], ["--bundle"], ["--force=maybe"], ["-x=1"]])
def test_bad_flags(words: list[str]) -> None:
    with pytest.raises(cli.UsageError):
        cli.parse(words, {"bundle b": cli.VALUE, "force f": cli.BOOL})


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("SIGTERM", 15),
        ("sigusr1", 10),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
    ],
)
def test_signals(word: str, number: int) -> None:
    assert signals.parse_signal(word) == number


@pytest.mark.parametrize("word", ["", "FOO", "-9", "SIG", "RTMIN+99", "RTMIN-1", "9x"])
def test_unknown_signals(word: str) -> None:
    with pytest.raises(RuntimeFailure, match="unknown signal"):
        signals.parse_signal(word)


@pytest.mark.parametrize(
    ("text", "count"),
    [("-1", -1), ("0", 0), ("512", 512), ("1k", 1024), ("2M", 2 << 20), ("1GiB", 1 << 30), ("3gb", 3 << 30)],
)
def test_bytes(text: str, count: int) -> None:
    assert update.parse_bytes("memory", text) == count


def test_update_merges_by_controller() -> None:
    old = {"cpu": {"shares": 1, "cpus": "0"}, "devices": [1]}
    new = {"cpu": {"shares": 2, "cpus": None}, "pids": {"limit": 3}, "devices": [2], "memory": None}
    assert update.merged(old, new) == {
        "cpu": {"shares": 2, "cpus": "0"},
        "devices": [1],
        "pids": {"limit": 3},
    }


def test_table_columns() -> None:
    assert listing.table([["ID", "PID", "OWNER"], ["a-long-identifier", "1", "root"]]) == (
        "ID                  PID         OWNER\na-long-identifier   1           root\n"
    )


# Configuration


def change(path: str, value: Any) -> dict[str, Any]:
    """`runc spec`'s configuration with one thing changed; None removes it."""
    whole = spec.example()
    *parents, last = path.split(".")
    inner: Any = whole
    for name in parents:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return whole


def test_the_example_is_good() -> None:
    config.check(spec.example())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("process", None, "process property must not be empty"),
        ("process.args", [], "args must not be empty"),
        ("process.cwd", "", "Cwd property must not be empty"),
        ("process.cwd", "x", "Cwd must be an absolute path"),
        ("process.args", ["a\0b"], "null byte"),
        ("root", None, "root must be specified"),
        ("linux.namespaces", [], "UTS namespace"),
        ("linux.namespaces", [{"type": "uts"}], "private MNT namespace"),
        ("linux.uidMappings", [{}], "USER namespace isn't enabled"),
        ("linux.sysctl", {"vm.swappiness": "1"}, "not in a separate kernel namespace"),
        ("linux.sysctl", {"net/../vm.swappiness": "1"}, "not in a separate kernel namespace"),
        ("linux.sysctl", {"kernel.hostname": "x"}, 'conflicts with the OCI "hostname" field'),
        ("linux.sysctl", {"user.max_user_namespaces": "1"}, "separate user namespace"),
        ("linux.timeOffsets", {"monotonic": {}}, "TIME namespace"),
        ("linux.intelRdt", {"closID": "x"}, "Intel RDT is not supported or enabled"),
        ("hooks", {"poststart": [{"path": "relative"}]}, "not absolute"),
        ("hooks", {"poststop": [{"path": "/x", "timeout": 0}]}, "not greater than zero"),
    ],
)
def test_bad_configurations(path: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message.replace("(", r"\(")):
        config.check(change(path, value))


def test_what_nobody_knows_is_ignored() -> None:
    config.check(change("hooks", {"never": [{"path": "relative"}]}))
    config.check(change("linux.never", {"nothing": [1]}))


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"unified": {"memory.max": "1"}}, "cannot use unified on cgroup v1"),
        ({"cpu": {"shares": 1}}, "the minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "the maximum allowed cpu-shares is 262144"),
        ({"memory": {"swappiness": 101}}, "invalid memory swappiness value: 101"),
        ({"devices": [{"allow": True, "type": "x"}]}, 'invalid cgroup device type "x"'),
    ],
)
def test_limits_that_cannot_be(resources: dict[str, Any], message: str, tmp_path: Path) -> None:
    from longshore.linux.cgroup import limits

    paths = dict.fromkeys(("cpu", "memory", "devices", "cpuset"), str(tmp_path))
    with pytest.raises(ValueError, match=message):
        limits.apply_v1(paths, resources, device_rules="devices" in resources)
    assert not list(tmp_path.iterdir())


def test_maps_and_offsets() -> None:
    assert (
        config.id_map([{"containerID": 0, "hostID": 1000, "size": 5}, {"containerID": 9, "size": 1}])
        == "0 1000 5\n9 0 1\n"
    )
    assert (
        config.time_offsets({"timeOffsets": {"boottime": {"secs": -1, "nanosecs": 2}}}) == "boottime -1 2\n"
    )
    with pytest.raises(InvalidConfig):
        config.time_offsets({"timeOffsets": {"realtime": {"secs": 1}}})


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("", "id"),
        ("/a/b", "/a/b"),
        ("/../../etc", "/etc"),
        ("a/../../b", "b"),
        ("//x//", "/x"),
        ("rel", "rel"),
    ],
)
def test_cgroup_paths_cannot_climb(given_path: str, path: str) -> None:
    assert create.cgroup_path({"cgroupsPath": given_path}, "id") == path


@pytest.mark.parametrize("given_path", ["/", "..", ".", "//", "/../..", "./"])
def test_a_cgroup_of_all_is_no_container_s(given_path: str) -> None:
    """Its limits, device rules and SIGKILLs would be the machine's."""
    with pytest.raises(InvalidConfig, match="not a container's own"):
        create.cgroup_path({"cgroupsPath": given_path}, "id")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
        ("net.ipv4.conf.eth0/1.rp_filter", "net/ipv4/conf/eth0.1/rp_filter"),
        ("net/../../../etc/passwd", "etc/passwd"),
    ],
)
def test_sysctl_names_as_paths(key: str, path: str) -> None:
    assert sysctl_path(key) == path


def test_limits() -> None:
    assert program.rlimits([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]) == [(7, 1, 2)]
    with pytest.raises(InvalidConfig, match="wrong rlimit value"):
        program.rlimits([{"type": "RLIMIT_NOPE"}])
    with pytest.raises(InvalidConfig, match="duplicated rlimit"):
        program.rlimits([{"type": "RLIMIT_CPU"}, {"type": "RLIMIT_CPU"}])


def test_words_for_what_cannot_be_executed(tmp_path: Path) -> None:
    """dockerd makes exit statuses of them: 126 of "permission denied", 127 of the others."""
    (tmp_path / "text").write_text("")
    (tmp_path / "text").chmod(0o644)
    for name, words in {
        str(tmp_path): "permission denied",
        f"{tmp_path}/text": "permission denied",
        f"{tmp_path}/none": "no such file or directory",
        "none": "executable file not found in $PATH",
    }.items():
        with pytest.raises(StartFailed, match=re.escape(words)):
            program.resolve([name], [f"PATH={tmp_path}"])


def test_identity_knows_what_it_does_not_know() -> None:
    identity = program.Identity(
        {"capabilities": {"effective": ["CAP_KILL", "CAP_NOPE"], "bounding": ["CAP_NOPE"]}}
    )
    assert identity.caps["effective"] == 1 << 5
    assert identity.unknown == ["CAP_NOPE"]
    assert program.Identity({}).caps == dict.fromkeys(
        ("bounding", "effective", "inheritable", "permitted", "ambient"), 0
    )


def test_explain_sounds_like_go() -> None:
    assert explain(FileNotFoundError(2, "open_tree: No such file or directory", "/x")) == (
        "open_tree /x: no such file or directory"
    )
    assert explain(PermissionError(13, "Permission denied")) == "permission denied"


# The plan


def plan(whole: dict[str, Any], **options: Any) -> list[str]:
    where = layout.Layout(
        1, {"cpu": "/sys/fs/cgroup/cpu", "": "/sys/fs/cgroup/unified"}, {"cpu": "/", "": "/"}
    )
    cgroup = Cgroup.of(where, "/c")
    settings = {"userns": False, "private_cgroup": False, "idmap": lambda entry: 99, **options}
    return [step.describe() for step in rootfs.plan(whole, "/b", where, cgroup, **settings)]


def test_the_plan_of_the_example() -> None:
    steps = plan(spec.example())
    assert steps[0] == "mount proc at /proc flags=0x0 data="
    assert steps[1] == "mount tmpfs at /dev flags=0x1000002 data=mode=755,size=65536k"
    assert "cgroup v1 at /sys/fs/cgroup (bind mounts)" in steps
    assert "make c 1:3 /dev/null 666" in steps
    assert "link /dev/ptmx -> pts/ptmx" in steps
    assert len([step for step in steps if step.startswith("make c")]) == 6


def test_devices_are_bound_where_they_cannot_be_made() -> None:
    assert "bind c 1:3 /dev/null 666" in plan(spec.example(), userns=True)


def test_a_bound_dev_is_left_alone() -> None:
    whole = spec.example()
    whole["mounts"] = [{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]
    assert plan(whole) == ["bind /dev to /dev flags=0x5000"]


def test_relative_sources_are_the_bundle_s() -> None:
    whole = spec.example()
    whole["mounts"] = [{"destination": "x/../../y", "source": "data", "options": ["bind", "ro"]}]
    assert plan(whole)[0] == "bind /b/data to /y flags=0x1001"


def test_plans_that_cannot_be() -> None:
    for entry in ({"source": "x"}, {"destination": "/x", "source": "y"}):
        whole = spec.example()
        whole["mounts"] = [entry]
        with pytest.raises(InvalidConfig):
            plan(whole)
    with pytest.raises(InvalidConfig, match="invalid device type"):
        plan(change("linux.devices", [{"path": "/dev/x", "type": "z"}]))
    with pytest.raises(InvalidConfig, match="rootfsPropagation"):
        rootfs.propagation("sideways")


def test_inside_proc_is_refused_by_name() -> None:
    rootfs.check_inside("/x", "/proc/meminfo")
    rootfs.check_inside("/x", "/procedure")
    for path in ("/proc/self", "/proc/sys/kernel"):
        with pytest.raises(RuntimeFailure, match="inside /proc"):
            rootfs.check_inside("/x", path)


# Users, messages, identities


def test_passwd(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "# c\nroot:x:0:0:r:/root:/bin/sh\nbroken\na:x:one:2:::\nu:x:5:6::/home/u:\nv:x:7:8:::\n"
    )
    (tmp_path / "etc/group").write_text("g:x:9:\nbad\n")
    root = os.open(tmp_path, os.O_PATH)
    try:
        assert [users.home(root, uid) for uid in (0, 5, 7, 8)] == ["/root", "/home/u", "/", "/"]
        assert users.find_user(root, "u") == (5, 6)
        assert users.find_user(root, "a") is None
        assert (users.find_group(root, "g"), users.find_group(root, "x")) == (9, None)
    finally:
        os.close(root)


def test_messages_keep_bounds_and_refuse_strangers() -> None:
    ours, theirs = messages.pair()
    theirs.send(messages.HOOKS)
    theirs.send(messages.READY, "text")
    assert ours.receive(messages.HOOKS, messages.READY) == (messages.HOOKS, "")
    assert ours.receive(messages.READY) == (messages.READY, "text")
    theirs.send(messages.HOOKED)
    with pytest.raises(
        RuntimeFailure, match="expected message ready from the container's process, received hooked"
    ):
        ours.receive(messages.READY)
    theirs.send(messages.FAILED, "why")
    with pytest.raises(RuntimeFailure, match="why"):
        ours.receive(messages.READY)
    theirs.close()
    with pytest.raises(RuntimeFailure, match="died"):
        ours.receive(messages.READY)
    ours.close()


def test_process_identity() -> None:
    me = processes.ProcessId.of(os.getpid())
    assert me.alive()
    os.close(me.open())
    for stranger in (
        processes.ProcessId(me.boot, me.pid, me.start + 1),
        processes.ProcessId("another", me.pid, me.start),
        processes.ProcessId(me.boot, 0, 0),
        processes.ProcessId(me.boot, 2**22 + 1, 0),
    ):
        assert not stranger.alive()
        with pytest.raises(ProcessLookupError):
            stranger.open()


def test_mount_options() -> None:
    options = mounts.parse_options(
        ["ro", "rw", "ro", "nosuid", "rbind", "rslave", "shared", "rro", "size=1m", "x", "tmpcopyup"]
    )
    assert options.flags == mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_BIND | mounts.MS_REC
    assert options.propagation == [mounts.MS_SLAVE | mounts.MS_REC, mounts.MS_SHARED]
    assert options.attributes_set == mounts.MOUNT_ATTR_RDONLY
    assert (options.data, options.copy_up) == ("size=1m,x", True)
    assert mounts.parse_options(["ro", "rw"]).flags == 0
    assert mounts.parse_options(["ro", "rw"]).cleared == mounts.MS_RDONLY


def test_mountinfo() -> None:
    line = b"36 35 98:0 /a\\040b /mnt/c\\134d rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    assert mounts.parse_mountinfo(line) == [
        (36, 35, "/a b", "/mnt/c\\d", "rw,noatime", "ext3", "rw,errors=continue")
    ]


def test_mount_is_a_plain_value() -> None:
    one = mounts.Mount("bind", "/a", ["ro"])
    assert one == mounts.Mount(type="bind", source="/a", options=("ro",), target="")
    assert (one.type, one.source, one.options, one.target) == ("bind", "/a", ("ro",), "")


# What a start costs


def test_the_runtime_imports_only_what_it_names() -> None:
    """The whole of create, run and exec without the modules that make an interpreter slow."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(codec.__file__).parents[2])!r})
import longshore.oci.main, longshore.oci.run, longshore.oci.exec, longshore.oci.foreground
print(*sorted(name for name in sys.modules if not name.startswith("longshore")))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    slow = {
        "re",
        "enum",
        "json",
        "typing",
        "ctypes",
        "collections",
        "functools",
        "argparse",
        "subprocess",
        "socket",
    }
    slow |= {
        "contextlib",
        "dataclasses",
        "pathlib",
        "signal",
        "struct",
        "hashlib",
        "shutil",
        "tempfile",
        "pwd",
        "grp",
    }
    assert not slow & set(done.stdout.split())


def test_one_file_holds_everything() -> None:
    found = onefile.modules()
    assert {
        "longshore",
        "longshore.oci.main",
        "longshore.linux.libc",
        "longshore.oci.process.init",
    } <= found.keys()
    assert found["longshore.oci.process"][0]
    assert not found["longshore.oci.main"][0]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"process": {"args": ["a"], "cwd": "/", "unknown": 5}, "else": []}, ""),
        ({"process": None, "linux": {"namespaces": None, "resources": {"unified": {}}}}, ""),
        ([], " is not an object"),
        ({"process": {"args": "a"}}, ".process.args is not a list"),
        (
            {"process": {"user": {"additionalGids": [1, "2"]}}},
            ".process.user.additionalGids[1] is not an integer",
        ),
        ({"process": {"noNewPrivileges": "false"}}, ".process.noNewPrivileges is not true or false"),
        ({"process": {"user": {"uid": True}}}, ".process.user.uid is not an integer"),
        ({"linux": {"namespaces": {}}}, ".linux.namespaces is not a list"),
        ({"linux": {"seccomp": []}}, ".linux.seccomp is not an object"),
        ({"mounts": [None]}, ".mounts[0] is not an object"),
        ({"hooks": {"prestart": [{"path": 1}]}}, ".hooks.prestart[0].path is not a string"),
    ],
)
def test_forms_of_config_json(document: object, said: str) -> None:
    assert shape.misfit(document, shape.CONFIG) == said

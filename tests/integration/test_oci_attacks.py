"""Containers that attack the runtime: images full of traps, leaked descriptors, links where mounts should go.

Each attack is also shown to work on something unprotected, or its effect is
looked for in the place where it would show, so that these tests can fail.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import require
from support.bundles import BASE_PYTHON, MAPPING, Bundle, bundle
from support.daemon import LONGSHORE
from support.process import eventually

PROJECT = Path(__file__).resolve().parents[2]
FOREVER = "while :; do sleep 1000; done"


# Nothing is imported from the image.


def module_names() -> list[str]:
    ours = [
        path.stem
        for package in ("oci", "linux")
        for path in (PROJECT / "runtime/longshore" / package).rglob("*.py")
    ]
    encodings = [path.stem for path in Path(sysconfig.get_path("stdlib"), "encodings").glob("*.py")]
    return sorted({*sys.stdlib_module_names, *ours, *encodings} - {"__init__"})


def set_traps(root: Path) -> Path:
    """A module for every name, wherever an interpreter of this host could look for it; the file a sprung one makes."""
    code = "import posix\nposix.close(posix.open('/SPRUNG', posix.O_WRONLY | posix.O_CREAT))\n"
    names = module_names()
    for package in (
        "",
        "encodings",
        "longshore",
        "longshore/oci",
        "longshore/oci/process",
        "longshore/linux",
    ):
        place = root / "traps" / package
        place.mkdir(exist_ok=True)
        for name in names if package in ("", "encodings") else [*names, "__init__"]:
            if not (place / name).exists():
                (place / f"{name}.py").write_text(code)
    folders = {"usr/lib/python3", f"{sys.base_prefix}/lib/python3.11", f"{PROJECT}/runtime"}
    folders |= {entry for entry in sys.path if entry.startswith("/")}
    for folder in sorted(folders):
        link = root / folder.lstrip("/")
        if any(parent.is_symlink() for parent in link.parents if parent != root):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to("/traps")
    for trap in (root / "traps").iterdir():
        if not os.path.lexists(root / trap.name):
            (root / trap.name).symlink_to(f"/traps/{trap.name}")
    return root / "SPRUNG"


@pytest.fixture
def trapped() -> Iterator[tuple[Bundle, Path]]:
    """A bundle whose root is full of traps, run by the runtime as installed, with a full sys.path."""
    require.go("busybox")
    with bundle([LONGSHORE, "runc"]) as box:
        yield box, set_traps(box.root)


def test_the_traps_work(trapped: tuple[Bundle, Path]) -> None:
    box, sprung = trapped
    code = "import os, sys; os.chroot(sys.argv[1]); os.chdir('/'); 'x'.encode('idna')"
    subprocess.run([sys.executable, "-c", code, box.root], stderr=subprocess.DEVNULL, check=False)
    assert sprung.exists()


def test_no_path_through_the_runtime_springs_a_trap(trapped: tuple[Bundle, Path]) -> None:
    box, sprung = trapped
    assert box.run("true").returncode == 0
    box.config["process"]["args"] = ["missing"]
    assert box.call("run", "c").returncode == 1
    box.config["process"] |= {"args": ["true"], "cwd": "/etc/passwd"}
    assert box.call("run", "c").returncode == 1
    box.config["process"]["cwd"] = "/"
    box.config["mounts"].append({"destination": "/x", "type": "nofs", "source": "nofs"})
    assert box.call("run", "c").returncode == 1
    box.config["mounts"].pop()
    box.config["process"]["args"] = ["/etc/passwd"]
    (box.root / "etc/passwd").chmod(0o755)
    box.call("run", "c")
    box.config["hooks"] = {
        "startContainer": [{"path": "/bin/false"}],
        "createContainer": [{"path": "/bin/true"}],
    }
    assert "startContainer" in box.call("run", "c").stderr
    del box.config["hooks"]
    box.create(FOREVER)
    box.do("start", "c")
    box.do("exec", "c", "true")
    assert box.call("exec", "c", "missing").returncode == 255
    assert box.call("exec", "--cwd", "/nowhere/at/all", "c", "true").returncode == 255
    assert not sprung.exists()


LIBRARY = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void spring(void) { close(open("/SPRUNG", O_CREAT | O_WRONLY, 0600)); }
"""


def compiler() -> str:
    found = shutil.which("gcc") or shutil.which("cc")
    if not found:
        require.lacking("there is no C compiler")
        raise AssertionError
    return found


def test_no_name_service_or_character_set_library_is_loaded(box: Bundle) -> None:
    source = box.folder / "trap.c"
    source.write_text(LIBRARY)
    subprocess.run([compiler(), "-shared", "-fPIC", "-o", box.folder / "trap.so", source], check=True)
    for folder in (
        "lib",
        "lib64",
        "usr/lib",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/gconv",
    ):
        (box.root / folder).mkdir(parents=True, exist_ok=True)
        for name in (
            "libnss_trap.so.2",
            "libnss_files.so.2",
            "libnss_compat.so.2",
            "UTF-16.so",
            "ISO8859-1.so",
            "libseccomp.so.2",
        ):
            shutil.copy(box.folder / "trap.so", box.root / folder / name)
    (box.root / "etc/nsswitch.conf").write_text("passwd: trap files\ngroup: trap files\nhosts: trap\n")
    (box.root / "etc/ld.so.preload").write_text("/lib/libnss_trap.so.2\n")
    box.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    box.create(FOREVER)
    box.do("start", "c")
    box.do("exec", "c", "true")
    assert not (box.root / "SPRUNG").exists()


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "huge", "outside"])
def test_strange_passwd(box: Bundle, kind: str) -> None:
    passwd = box.root / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "loop":
        passwd.symlink_to("/etc/passwd")
    elif kind == "huge":
        with passwd.open("wb") as file:
            file.truncate(1 << 40)
    else:
        (box.folder / "secret").write_text("x:x:0:0:x:/from/the/host:/bin/sh\n")
        passwd.symlink_to(f"../../../../../..{box.folder}/secret")
    done = box.run("echo $HOME")
    assert (done.returncode, done.stdout) == (0, "/\n")


# The executable can't be written.


@pytest.fixture
def own_python(our_runc: list[str | Path], tmp_path: Path) -> list[str | Path]:
    """The runtime on a copy of the interpreter: what an attack destroys here is only that."""
    (tmp_path / "bin").mkdir()
    shutil.copy2(BASE_PYTHON, tmp_path / "bin/python3")
    (tmp_path / "lib").symlink_to(Path(sys.base_prefix) / "lib")
    return [tmp_path / "bin/python3", *our_runc[1:]]


HOLD_AND_WRITE = """
exec 9</proc/$PID/exe
echo held >/tmp/held
while [ -d /proc/$PID ] && [ ! -e /tmp/go ]; do usleep 10000; done
if echo gotcha >/proc/self/fd/9; then echo wrote; fi >/tmp/result 2>&1
"""


def attack(evil: Bundle, pid: int, release: object) -> str:
    """Let a container that sees all processes take /proc/PID/exe and write to it when it isn't running any more."""
    evil.detached("exec", "-d", "--env", f"PID={pid}", "c", "sh", "-c", HOLD_AND_WRITE)
    eventually((evil.root / "tmp/held").exists)
    assert callable(release)
    release()
    (evil.root / "tmp/go").touch()
    eventually(lambda: (evil.root / "tmp/result").exists() and (evil.root / "tmp/result").read_text())
    return (evil.root / "tmp/result").read_text()


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def privileged(box: Bundle) -> None:
    box.config["linux"]["namespaces"].remove({"type": "pid"})
    names = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_KILL"]
    box.config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)


def test_the_executable_of_a_container_process_is_read_only(
    box: Bundle, own_python: list[str | Path]
) -> None:
    python = Path(own_python[0])
    before = checksum(python)
    privileged(box)
    box.create(FOREVER)
    box.do("start", "c")
    with bundle(own_python) as victim:
        # Its init waits for start: an interpreter inside a container.
        pid = victim.create("true")
        assert os.path.samefile(f"/proc/{pid}/exe", python)
        result = attack(box, pid, lambda: victim.do("delete", "--force", "c"))
    assert "Read-only file system" in result
    assert "wrote" not in result
    assert checksum(python) == before


def test_an_unsealed_executable_would_be_overwritten(box: Bundle, own_python: list[str | Path]) -> None:
    python = Path(own_python[0])
    before = checksum(python)
    privileged(box)
    box.create(FOREVER)
    box.do("start", "c")
    plain = subprocess.Popen(
        [python, "-I", "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )

    def release() -> None:
        plain.communicate()

    assert "wrote" in attack(box, plain.pid, release)
    assert checksum(python) != before


# Directories and descriptors of the host.


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_working_directory_in_a_leaked_descriptor(box: Bundle, verb: str) -> None:
    host = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.set_inheritable(host, True)
        if verb == "exec":
            box.create(FOREVER)
            box.do("start", "c")
        high = fcntl.fcntl(host, fcntl.F_DUPFD, 100)
        os.set_inheritable(high, True)
        for number in (*range(3, 14), host, high):
            cwd = f"/proc/self/fd/{number}"
            given = (host, high)
            if verb == "run":
                box.config["process"] |= {"args": ["ls", "-a"], "cwd": cwd}
                done = box.call("run", "c", pass_fds=given)
            else:
                done = box.call("exec", "--cwd", cwd, "c", "ls", "-a", pass_fds=given)
            assert "hostname" not in done.stdout
            assert done.returncode != 0, (cwd, done.stdout)
    finally:
        os.close(host)
        os.close(high)


def test_working_directory_in_a_preserved_descriptor_is_a_breakout(box: Bundle) -> None:
    """Here the directory is there, by the caller's own wish: only the check after chdir can tell."""
    box.config["process"] |= {"args": ["ls", "-a"], "cwd": "/proc/self/fd/3"}
    box.runtime = ["sh", "-c", 'exec 3</etc; exec "$@"', "sh", *box.runtime]
    done = box.call("run", "--preserve-fds", "1", "c")
    assert done.returncode == 1
    assert "possible container breakout detected" in done.stderr
    assert not done.stdout


def test_no_descriptor_of_the_runtime_is_left(box: Bundle) -> None:
    extra = [os.open("/etc", os.O_RDONLY) for _ in range(5)]
    try:
        done = box.run("ls /proc/self/fd | wc -l")
        assert done.stdout == "4\n"
        box.shell("ls /proc/self/fd | wc -l")
        assert box.do("run", "c", pass_fds=extra) == "4\n"
        box.create(FOREVER)
        box.do("start", "c")
        assert box.do("exec", "c", "sh", "-c", "ls /proc/self/fd | wc -l", pass_fds=extra) == "4\n"
    finally:
        for fd in extra:
            os.close(fd)


# Mounts and masks that lead elsewhere.


def test_mount_targets_stay_inside(box: Bundle) -> None:
    outside = box.folder / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (box.root / "link").symlink_to(f"../../../../../../..{outside}")
    (box.root / "absolute").symlink_to(outside)
    for name in ("link", "absolute", "../../../../../.." + str(outside)):
        box.config["mounts"].append(
            {"destination": f"/{name}/made", "type": "tmpfs", "source": "tmpfs", "options": []}
        )
    box.run("true")
    assert [path.name for path in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize("fake", ["file", "link", "wrong device"])
def test_masking_with_a_false_null_device(box: Bundle, fake: str) -> None:
    dev = box.folder / "dev"
    dev.mkdir()
    if fake == "file":
        (dev / "null").write_text("unmasked")
    elif fake == "link":
        (dev / "null").symlink_to("/proc/sysrq-trigger")
    else:
        os.mknod(dev / "null", 0o20666, os.makedev(1, 5))
    box.config["mounts"] = [
        mount for mount in box.config["mounts"] if not mount["destination"].startswith("/dev")
    ]
    box.config["mounts"].append(
        {"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]}
    )
    done = box.run("cat /proc/kcore; echo alive")
    assert done.returncode == 1
    assert "alive" not in done.stdout
    assert "null" in done.stderr


def test_masks_through_links_stay_inside(box: Bundle) -> None:
    outside = box.folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("visible")
    (box.root / "link").symlink_to(f"../../../../../../..{outside}")
    (box.root / "hidden").write_text("hidden")
    (box.root / "inside").symlink_to("/hidden")
    box.config["linux"]["maskedPaths"] += ["/link/file", "/inside"]
    done = box.run("cat /hidden; cat /proc/self/mountinfo")
    assert str(outside) not in done.stdout
    assert not done.stdout.startswith("hidden")
    assert (outside / "file").read_text() == "visible"


def test_procfs_must_be_what_it_seems(box: Bundle) -> None:
    (box.root / "proc").rmdir()
    (box.root / "evil").mkdir()
    (box.root / "proc").symlink_to("evil")
    done = box.run("true")
    assert done.returncode == 1
    assert "ordinary directory" in done.stderr


@pytest.mark.parametrize("way", ["/proc", "/proc/self/attr", "/lane"])
def test_nothing_is_mounted_over_or_into_proc(box: Bundle, way: str) -> None:
    (box.root / "lane").symlink_to("/proc/sys")
    (box.folder / "fake").mkdir()
    mount = {"destination": way, "type": "bind", "source": str(box.folder / "fake"), "options": ["bind"]}
    box.config["mounts"].append(mount)
    done = box.run("true")
    assert done.returncode == 1
    assert "cannot be mounted because" in done.stderr


def test_sysctl_is_written_to_the_kernel_not_to_the_image(box: Bundle) -> None:
    fake = box.root / "proc/sys/net/ipv4/ip_forward"
    fake.parent.mkdir(parents=True)
    fake.write_text("fake")
    box.config["mounts"] = [
        mount for mount in box.config["mounts"] if not mount["destination"].startswith("/proc")
    ]
    box.config["linux"] |= {"sysctl": {"net.ipv4.ip_forward": "1"}, "maskedPaths": [], "readonlyPaths": []}
    pid = box.create(FOREVER)
    assert fake.read_text() == "fake"
    real = ["nsenter", "-n", "-t", str(pid), "cat", "/proc/sys/net/ipv4/ip_forward"]
    assert subprocess.run(real, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize("fake", ["ptmx is a file", "ptmx is a fifo", "console is a link"])
def test_false_terminals(box: Bundle, fake: str) -> None:
    target = box.folder / "target"
    target.write_text("")
    if fake.startswith("ptmx"):
        box.config["mounts"] = [mount for mount in box.config["mounts"] if mount["destination"] != "/dev/pts"]
        dev = box.folder / "pts"
        dev.mkdir()
        (dev / "ptmx").write_text("") if "file" in fake else os.mkfifo(dev / "ptmx")
        source = {"destination": "/dev/pts", "type": "bind", "source": str(dev), "options": ["bind"]}
    else:
        dev = box.folder / "dev"
        (dev / "pts").mkdir(parents=True)
        (dev / "console").symlink_to("/tmp")
        box.config["mounts"] = [
            mount for mount in box.config["mounts"] if not mount["destination"].startswith("/dev")
        ]
        source = {"destination": "/dev", "type": "bind", "source": str(dev), "options": ["bind"]}
        box.config["linux"]["maskedPaths"] = []
    box.config["mounts"].append(source)
    if fake.startswith("console"):
        options = ["newinstance", "ptmxmode=0666"]
        box.config["mounts"].append(
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
        )
    box.config["process"]["terminal"] = True
    done = box.run("true")
    assert done.returncode == 1
    assert "/dev/pts/ptmx" in done.stderr or "/dev/console" in done.stderr


# System calls by other doors.

CALLS = r"""
static long call(long number, const void *a, long b) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}
static long call32(long number, const void *a, long b) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b) : "memory", "r8", "r9", "r10", "r11");
    return result;
}
static void say(const char *name, long result) {
    char line[32]; int length = 0; long value = result < 0 ? -result : result;
    while (*name) line[length++] = *name++;
    line[length++] = ' '; if (result < 0) line[length++] = '-';
    if (value >= 100) line[length++] = '0' + value / 100 % 10;
    if (value >= 10) line[length++] = '0' + value / 10 % 10;
    line[length++] = '0' + value % 10; line[length++] = '\n';
    __asm__ volatile("syscall" :: "a"(1L), "D"(1L), "S"(line), "d"((long)length) : "rcx", "r11", "memory");
}
static char path[] = "/tmp/made";
void _start(void) {
    say("native", call(83, path, 0700));
    say("compat", call32(39, path, 0700));
    say("x32", call(0x40000000 + 83, path, 0700));
    say("new", call(5000, path, 0700));
    say("unlisted", call(95, 0, 0));
    call(231, 0, 0);
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the other doors are x86's")
def test_system_calls_of_every_architecture_are_filtered(box: Bundle) -> None:
    (box.folder / "calls.c").write_text(CALLS)
    # Below 4 GiB, or int 0x80 couldn't pass the pointer.
    build: list[str | Path] = [
        compiler(),
        "-static",
        "-nostdlib",
        "-no-pie",
        "-fno-pie",
        "-fno-stack-protector",
        "-Ttext=0x1000000",
    ]
    build += ["-O1", "-fno-asynchronous-unwind-tables", "-o", box.root / "bin/calls", box.folder / "calls.c"]
    subprocess.run(build, check=True)
    box.config["process"]["args"] = ["/bin/calls"]
    free = dict(line.split() for line in box.do("run", "c").splitlines())
    assert free["native"] == "0"
    assert free["compat"] == "-17"  # EEXIST: this door is open without a filter
    (box.root / "tmp/made").rmdir()
    box.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {
                "names": ["write", "exit_group", "execve", "brk", "capset", "prctl", "clone3"],
                "action": "SCMP_ACT_ALLOW",
            },
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
        ],
    }
    done = box.call("run", "c")
    filtered = dict(line.split() for line in done.stdout.splitlines())
    assert filtered == {"native": "-95", "compat": "-95", "x32": "-95", "new": "-38", "unlisted": "-1"}, (
        done.stderr
    )
    assert not (box.root / "tmp/made").exists()


def test_a_profile_without_libseccomp_is_an_error(box: Bundle, tmp_path: Path) -> None:
    """Hidden by an empty file over it, in a mount namespace of its own."""
    library = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    paths = [line.rpartition(" => ")[2] for line in library.splitlines() if "libseccomp.so.2" in line]
    (tmp_path / "empty").touch()
    (tmp_path / "cache").mkdir()
    hide = "; ".join(f"mount --bind {tmp_path}/empty {os.path.realpath(path)}" for path in paths)
    hide += f"; mkdir -p /run/longshore/seccomp; mount --bind {tmp_path}/cache /run/longshore/seccomp"
    box.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    box.runtime = ["unshare", "-m", "sh", "-c", f'{hide}; exec "$@"', "sh", *box.runtime]
    done = box.call("run", "c")
    assert done.returncode == 1
    assert "libseccomp" in done.stderr


def test_confinement_that_the_kernel_lacks_is_an_error(box: Bundle) -> None:
    from longshore.oci import config

    for key, there, words in (
        ("apparmorProfile", config.apparmor_enabled(), "is not enabled on this host"),
        ("selinuxLabel", config.selinux_enabled(), "selinux is disabled or not supported"),
    ):
        if there:
            continue
        box.config["process"][key] = "some"
        assert words in box.run("true").stderr
        del box.config["process"][key]


def test_the_installation_may_vanish(box: Bundle, tmp_path: Path) -> None:
    """The one-file runtime needs no package: with the source tree hidden, running containers are served."""
    box.create(FOREVER)
    hide = f"mount -t tmpfs none {PROJECT / 'runtime'}"
    box.runtime = ["unshare", "-m", "sh", "-c", f'{hide}; exec "$@"', "sh", *box.runtime]
    box.do("start", "c")
    assert box.do("exec", "c", "echo", "here") == "here\n"
    box.do("kill", "c", "KILL")
    eventually(lambda: box.inspect()["status"] == "stopped")
    box.do("delete", "c")


def test_user_namespace_root_is_nobody_outside(box: Bundle) -> None:
    for path in (box.folder, box.root):
        path.chmod(0o755)
    (box.root / "mnt").mkdir()
    (box.folder / "secret").write_text("x")
    (box.folder / "secret").chmod(0o600)
    box.config["linux"]["namespaces"].append({"type": "user"})
    box.config["linux"] |= {"uidMappings": MAPPING, "gidMappings": MAPPING}
    box.config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": str(box.folder), "options": ["bind"]}
    )
    done = box.run("id -u; cat /mnt/secret")
    assert done.stdout == "0\n", done.stderr
    assert "Permission denied" in done.stderr
    assert done.returncode == 1

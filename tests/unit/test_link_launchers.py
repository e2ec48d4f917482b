"""`longshore link`: what it writes, what it leaves alone, and that what it wrote starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore import link
from longshore.init import native as init
from longshore.launcher import PROGRAMS
from longshore.link import bundle
from longshore.oci import native

VERSIONS = {
    "containerd": ("--version", "containerd"),
    "containerd-shim-longshore-v1": ("-v", "Version:"),
    "containerd-shim-runc-v2": ("-v", "Version:"),
    "ctr": ("--version", "ctr longshore"),
    "docker": ("--version", "Docker version"),
    "docker-proxy": ("-version", "docker-proxy"),
    "dockerd": ("--version", "Docker version"),
    "runc": ("--version", "runc version"),
}


@pytest.fixture(scope="module", params=["native", "script"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With runc's launcher as a program, where there is a C compiler, and as the script that does without."""
    if request.param == "native" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("linked") / "made" / "bin"
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "script":
            patch.setattr(native, "build", lambda *_: False)
        _link(folder)
        yield folder


def _link(folder: Path) -> None:
    assert set(map(Path, link.link(str(folder)))) == {
        *(folder / name for name in VERSIONS),
        *([folder / "docker-init"] if init.BINARY.exists() else []),
        folder / link.RUNTIME,
        folder / bundle.NAME,
    }


def test_every_launcher_has_a_program() -> None:
    assert set(link.LAUNCHERS.values()) <= PROGRAMS.keys()


@pytest.mark.parametrize("name", VERSIONS)
def test_it_starts(folder: Path, name: str, tmp_path: Path) -> None:
    """Also where the folder and the environment are full of traps."""
    for trap in ("longshore", "json", "click", "marshal"):
        (tmp_path / f"{trap}.py").write_text("raise SystemExit('trapped')")
    flag, text = VERSIONS[name]
    done = subprocess.run(
        [folder / name, flag],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and text in done.stdout, done.stderr


def test_runc_needs_nothing_but_its_file(folder: Path) -> None:
    """No site-packages, no installed longshore."""
    done = subprocess.run(
        [folder / "runc", "--root", folder / "none", "list"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    data = (folder / "runc").read_bytes()
    assert data.startswith((b"\x7fELF", f"#!{sys.executable} -IS\n".encode()))
    assert str(folder / link.RUNTIME).encode() in data


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathering them takes a second or two."""
    monkeypatch.setattr(link, "bundled", lambda *_: bundle.NOTHING)


@pytest.mark.usefixtures("no_modules")
def test_runc_of_another_python_says_so(tmp_path: Path) -> None:
    link.link(str(tmp_path / "bin"))
    runtime = tmp_path / "bin" / link.RUNTIME
    runtime.write_bytes(b"\0\0\0\0" + runtime.read_bytes()[4:])
    done = subprocess.run([tmp_path / "bin" / "runc", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "longshore link again" in done.stderr


@pytest.mark.usefixtures("no_modules")
def test_again_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    link.link(str(folder))
    before, names = os.stat(folder / "ctr").st_ino, os.listdir(folder)
    link.link(str(folder))
    assert os.stat(folder / "ctr").st_ino != before
    assert sorted(os.listdir(folder)) == sorted(names)


@pytest.mark.parametrize("kind", ["file", "script", "link", "folder", "dangling"])
def test_what_is_not_ours_stays(tmp_path: Path, kind: str) -> None:
    foreign = tmp_path / "runc"
    if kind == "file":
        foreign.write_bytes(b"\x7fELF")
    elif kind == "script":
        foreign.write_text("#!/bin/sh\nexec /usr/sbin/runc\n")
    elif kind == "link":
        foreign.symlink_to("/bin/true")
    elif kind == "folder":
        foreign.mkdir()
    else:
        foreign.symlink_to("/no/such/file")
    done = subprocess.run(
        [sys.executable, "-m", "longshore.link", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and str(foreign) in done.stderr and "left alone" in done.stderr
    assert os.listdir(tmp_path) == ["runc"]


def test_a_folder_that_cannot_be_made() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "longshore.link", "/proc/x"], capture_output=True, text=True, check=False
    )
    said = "longshore link: /proc/x: no such file or directory; choose another folder\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_an_interpreter_that_no_script_can_name(tmp_path: Path) -> None:
    with pytest.raises(link.Refused, match="a space or is too long"):
        link.link(str(tmp_path), python="/opt/my python/bin/python3")
    with pytest.raises(link.Refused):
        link.link(str(tmp_path), python=f"/opt/{'p' * 260}/python3")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("launcher", ["linked", "longshore"])
@pytest.mark.parametrize("name", ["ctr", "docker"])
def test_brief_ones_say_all_before_they_leave(folder: Path, name: str, launcher: str) -> None:
    """Statuses come through; what can't be written is an error, a reader who has gone is none."""
    command = [folder / name] if launcher == "linked" else [sys.executable, "-m", "longshore.launcher", name]

    def ended(*words: str, out: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )

    assert len(ended("--help").stdout.splitlines()) > 10
    assert ended("nonsense").returncode != 0
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, os.fdopen(writer, "w") as broken:
        done = ended("--version", out=full.fileno())
        assert done.returncode != 0 and "No space left on device" in done.stderr
        done = ended("--version", out=broken.fileno())
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr


PROBE = """
import sys
sys.path.insert(0, {folder!r})
import probe, package.inside
print(probe.SAID, package.inside.SAID, type(probe.__loader__).__name__)
print(probe.__file__, package.__path__, probe.__loader__.get_source("probe") == open(probe.__file__).read())
"""


class Bundled:
    """A file of two modules, and a program that imports them by it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.file = folder, folder / bundle.NAME
        (folder / "package").mkdir()
        self.write("first")
        (folder / "package" / "__init__.py").write_text("")
        (folder / "package" / "inside.py").write_text("SAID = 'inside'\n")
        modules = {
            "probe": "probe.py",
            "package": "package/__init__.py",
            "package.inside": "package/inside.py",
        }
        monkeypatch.setattr(
            bundle, "_modules", lambda python: {name: str(folder / path) for name, path in modules.items()}
        )
        bundle.build(str(self.file), sys.executable)

    def write(self, said: str) -> None:
        (self.folder / "probe.py").write_text(f"SAID = {said!r}\n")

    def run(self) -> list[str]:
        code = bundle.PRELUDE.format(file=str(self.file)) + PROBE.format(folder=str(self.folder))
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert f"{self.folder}/probe.py ['{self.folder}/package'] True" in done.stdout
        return done.stdout.split()[:3]


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundled:
    return Bundled(tmp_path, monkeypatch)


def test_modules_come_from_the_file(bundled: Bundled) -> None:
    data = bundled.file.read_bytes()
    assert bundled.run() == ["first", "inside", "Loader"]
    # Really from there: other words of the same length.
    bundled.file.write_bytes(data.replace(b"first", b"again"))
    assert bundled.run() == ["again", "inside", "Loader"]


def test_a_source_that_has_changed_counts(bundled: Bundled) -> None:
    bundled.write("second")
    assert bundled.run() == ["second", "inside", "SourceFileLoader"]
    bundled.write("third")
    status = os.stat(bundled.folder / "probe.py")
    os.utime(bundled.folder / "probe.py", (status.st_atime, status.st_mtime + 100))
    assert bundled.run() == ["third", "inside", "SourceFileLoader"]


@pytest.mark.parametrize(
    "harm", ["gone", "empty", "another python", "no modules", "cut", "nonsense", "nothing"]
)
def test_a_file_that_is_no_use_is_done_without(bundled: Bundled, harm: str) -> None:
    data = bundled.file.read_bytes()
    head = 16 + int.from_bytes(data[4:8], "little")
    harmed = {
        "empty": b"",
        "another python": b"\0\0\0\0" + data[4:],
        "no modules": data[:head],
        "cut": data[: head // 2],
        "nonsense": data[:16] + bytes(len(data) - 16),
        "nothing": bundle.NOTHING,
    }
    if harm == "gone":
        bundled.file.unlink()
    else:
        bundled.file.write_bytes(harmed[harm])
    assert bundled.run()[:2] == ["first", "inside"]


SEARCHED = """
import longshore.ctr.main, longshore.client.wire.blocking, longshore.client.version
for name, module in list(sys.modules.items()):
    if name.startswith(("longshore.", "google.protobuf", "click")) and (module.__file__ or "").endswith(".py"):
        if type(module.__loader__).__name__ != "Loader":
            print(name)
"""


def test_the_file_holds_what_programs_start_with(folder: Path) -> None:
    """Nothing of a command is searched on disk, but for the packages that are only folders."""
    code = bundle.PRELUDE.format(file=str(folder / bundle.NAME)) + SEARCHED
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""

"""Images of the host's commands: what an ELF file needs, what goes in, the same digests twice."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from longshore.api.errors import InvalidArgument, NotFound
from longshore.ctr import elf, hostpython
from longshore.ctr.hostimage import Plan, build, image

SH = shutil.which("sh") or "/bin/sh"


def archive(*commands: str, name: str = "host/tools", files: tuple[str, ...] = ()) -> tuple[bytes, Any]:
    output = io.BytesIO()
    return (built := build(commands, name, output, files=files), output.getvalue())[1], built


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]


def test_the_same_files_give_the_same_bytes() -> None:
    assert archive("sh", "cat")[0] == archive("sh", "cat")[0]


def test_a_layout_with_everything_that_it_names() -> None:
    data, built = archive("sh", "cat")
    found = members(data)
    index = json.loads(found["index.json"])
    top = index["manifests"][0]
    assert top["digest"] == built.digest
    assert top["annotations"]["io.containerd.image.name"] == "docker.io/host/tools:latest"
    manifest = json.loads(found[f"blobs/{top['digest'].replace(':', '/')}"])
    config = json.loads(found[f"blobs/{manifest['config']['digest'].replace(':', '/')}"])
    layer = found[f"blobs/{manifest['layers'][0]['digest'].replace(':', '/')}"]
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    assert os.path.basename(config["config"]["Cmd"][0]) == "sh"
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        assert all((m.uid, m.gid, m.mtime) == (0, 0, 0) for m in tar)
        assert tar.getmember("tmp").mode == 0o1777
    assert any("libc.so" in name for name in names) or elf.read(os.path.realpath(SH)) is None


def test_it_runs_when_unpacked(tmp_path: Path) -> None:
    """The loader, started from the unpacked tree, finds every library in there."""
    plan = Plan()
    plan.add_command("sh")
    for path, entry in plan.entries.items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.source:
            shutil.copy(entry.source, target)
        elif entry.target:
            target.symlink_to(entry.target)
    program = elf.read(os.path.realpath(SH))
    assert program is not None and program.interpreter
    loader = tmp_path / os.path.realpath(program.interpreter).lstrip("/")
    libraries = ":".join(str(p) for p in {path.parent for path in tmp_path.rglob("*.so*")})
    shell = tmp_path / os.path.realpath(SH).lstrip("/")
    done = subprocess.run([loader, "--library-path", libraries, shell, "-c", "echo ok"], capture_output=True)
    assert done.stdout == b"ok\n"


def test_what_ldd_says() -> None:
    """glibc's own loader lists the same libraries."""
    plan = Plan()
    plan.add_file(sys.executable)
    ldd = subprocess.run(
        ["ldd", os.path.realpath(sys.executable)], capture_output=True, text=True, check=False
    )
    if ldd.returncode:
        pytest.skip("no ldd here, or a static Python")
    for line in ldd.stdout.splitlines():
        if "=> /" in line:
            assert os.path.realpath(line.split()[2]).lstrip("/") in plan.entries


def test_scripts_bring_their_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "hello"
    script.write_text("#!/bin/sh\necho hi\n")
    plan = Plan()
    plan.add_file(str(script))
    assert os.path.realpath("/bin/sh").lstrip("/") in plan.entries


def test_missing_command_and_bad_name() -> None:
    with pytest.raises(NotFound, match="no-such-command"):
        archive("no-such-command")
    with pytest.raises(InvalidArgument):
        archive("sh", name="Not A Name")


def test_damaged_elf(tmp_path: Path) -> None:
    whole = Path(os.path.realpath(SH)).read_bytes()
    for size in (5, 40, 100, 400):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            elf.read(str(tmp_path / "cut"))
    (tmp_path / "text").write_text("#!/bin/sh\n")
    assert elf.read(str(tmp_path / "text")) is None


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtualenv with one package, one compiled file and one module that can't be loaded."""
    folder = tmp_path_factory.mktemp("python") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours" / "__pycache__").mkdir(parents=True)
    (packages / "ours" / "__init__.py").write_text("#!/no/such/interpreter\nANSWER = 42\n")
    (packages / "ours" / "__pycache__" / "__init__.pyc").write_bytes(b"\0")
    (packages / "broken.so").write_bytes(b"\x7fELF and no more")
    return folder / "bin" / "python3"


def test_an_interpreter_with_its_packages(virtual: Path) -> None:
    plan = Plan()
    hostpython.add_python(plan, hostpython.ask(str(virtual)))
    names = plan.entries.keys()
    assert str(virtual).lstrip("/") in names and os.path.realpath(virtual).lstrip("/") in names
    assert str(virtual.parent.parent / "pyvenv.cfg").lstrip("/") in names
    assert str(Path(json.__file__).resolve()).lstrip("/") in names
    assert any(name.endswith("site-packages/ours/__init__.py") for name in names)
    assert any(name.endswith("site-packages/broken.so") for name in names)
    assert any("lib-dynload/_ctypes" in name for name in names)
    left_out = [
        name
        for name in names
        if "__pycache__" in name or name.endswith((".pyc", ".a")) or "/idlelib/" in name
    ]
    assert left_out == []


def test_an_image_of_an_interpreter(virtual: Path) -> None:
    output = io.BytesIO()
    build((), "host/python", output, python=str(virtual))
    found = members(output.getvalue())
    config = next(json.loads(data) for data in found.values() if b'"diff_ids"' in data[:4096])
    assert config["config"]["Cmd"] == [str(virtual)]
    assert config["config"]["Env"][0].startswith(f"PATH={virtual.parent}:")


def test_the_same_interpreter_gives_the_same_plan(virtual: Path) -> None:
    plans = [Plan(), Plan()]
    for plan in plans:
        hostpython.add_python(plan, hostpython.ask(str(virtual)))
    assert plans[0].entries == plans[1].entries


def test_no_interpreter() -> None:
    with pytest.raises(NotFound, match="/no/such/python"):
        hostpython.ask("/no/such/python")
    done = subprocess.run(
        [sys.executable, "-m", "longshore.ctr.hostimage", "from-host", "-t", "x"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and b"--python" in done.stderr


def test_without_a_daemon_it_says_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(image, ["from-host", "sh", "-t", "a/b", "-a", str(tmp_path / "none")])
    assert done.exit_code == 1
    assert "longshore up" in done.output and "--output" in done.output

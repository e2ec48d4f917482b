"""Images of the host's commands: what an ELF file needs, what goes in, the same digests twice."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument, NotFound
from longshore.ctr import elf
from longshore.ctr.hostimage import Plan, build

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

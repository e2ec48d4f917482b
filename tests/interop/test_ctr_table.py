"""The whole of ctr: every command, ours and Debian's, on Debian's containerd and on ours."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from support import ctrtable, images, require
from support.daemon import COLLECTION_WHEN_ASKED, Longshore
from support.realdaemon import RealContainerd
from support.registry import Registry

Daemon: TypeAlias = RealContainerd | Longshore
BOX = "example.org/table:1"


@pytest.fixture(scope="module", params=["real", "longshore"])
def containerd(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Commands follow each other without a lease: only those that wait for a collection have one."""
    kind = RealContainerd if request.param == "real" else Longshore
    with kind(config=COLLECTION_WHEN_ASKED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    require.go("docker-registry")
    with Registry() as running:
        yield running


def config_of(archive: Path) -> str:
    """The digest of an archive's image configuration: its smallest blob that names layers' DiffIDs."""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            data = file.read() if file is not None else b""
            if b'"diff_ids"' in data:
                return f"sha256:{hashlib.sha256(data).hexdigest()}"
    raise AssertionError("no configuration")


@pytest.mark.parametrize("ctr", [ctrtable.OURS, ctrtable.DEBIANS])
def test_every_command(
    containerd: Daemon,
    registry: Registry,
    ctr: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    archive = images.busybox_archive(tmp_path, BOX)
    (tmp_path / "mnt").mkdir()
    real = isinstance(containerd, RealContainerd)
    (tmp_path / "note").write_text(f"{containerd.namespace} {ctr}")
    holes = {
        "note": str(tmp_path / "note"),
        "ns": f"{containerd.namespace}{ctr[0]}",
        "box": BOX,
        "archive": str(archive),
        "out": str(tmp_path / "out.tar"),
        "folder": str(tmp_path / "mnt"),
        "registry": registry.address,
        "config": config_of(archive),
        "type": "application/vnd.oci.image.config.v1+json",
    }
    ours = ctrtable.our_call(str(containerd.address), containerd.namespace)
    session = ctrtable.Session(ours if ctr == ctrtable.OURS else containerd.go_ctr, holes)
    wrong = [
        problem
        for row in ctrtable.ROWS
        if ctr in row.by
        and ("real" if real else "longshore") in row.on
        and not (row.reach and real and ctr == ctrtable.DEBIANS)
        and (problem := session.run(row))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_command_is_left_out() -> None:
    """Of ours, and of Debian's."""
    rows = {
        ctr: {ctrtable.named(row) for row in ctrtable.ROWS if ctr in row.by} for ctr in ("ours", "debian's")
    }
    assert set(ctrtable.our_commands()) - rows["ours"] - ctrtable.ELSEWHERE.keys() == set()
    left = set(ctrtable.debians_commands()) - rows["debian's"] - ctrtable.ELSEWHERE.keys()
    assert {name for name in left if name.split()[0] not in ctrtable.ELSEWHERE} == set()


def test_no_flag_is_left_out() -> None:
    """What Debian's ctr takes ours takes; what isn't built refuses in words of its own."""
    common = set(ctrtable.debians_commands()) & set(ctrtable.our_commands())
    assert len(common) > 60
    missing = {name: ctrtable.debians_flags(name) - ctrtable.our_flags(name) for name in common}
    assert {name: flags for name, flags in missing.items() if flags} == {}

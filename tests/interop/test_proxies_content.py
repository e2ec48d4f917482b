"""Our daemon with its blobs in the content store of Debian's containerd; in ours, nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.containerd.proxies.content import NAMESPACE
from support import goparts, images, require
from support.ctr import checked, column
from support.daemon import Longshore
from support.process import eventually
from support.realdaemon import RealContainerd

pytestmark = [pytest.mark.root, pytest.mark.interop]


@pytest.fixture
def real() -> Iterator[RealContainerd]:
    require.go("containerd", "ctr", "runc", "containerd-shim-runc-v2", "busybox")
    with RealContainerd() as daemon:
        yield daemon


@pytest.fixture
def ours(real: RealContainerd) -> Iterator[Longshore]:
    config = f'version = 2\n[proxy_plugins.there]\ntype = "content"\naddress = "{real.address}"\n'
    with Longshore(config=config) as daemon:
        yield daemon


def there(real: RealContainerd) -> set[str]:
    command = [
        goparts.path("ctr"),
        "--address",
        real.address,
        "--namespace",
        NAMESPACE,
        "content",
        "ls",
        "-q",
    ]
    return set(column(checked(real.host.run([str(word) for word in command])).stdout))


def test_an_image_lives_there_and_runs_here(ours: Longshore, real: RealContainerd, tmp_path: Path) -> None:
    ours.go_ctr("images", "import", images.busybox_archive(tmp_path))
    known = set(column(ours.go_ctr("content", "ls", "-q").stdout))
    assert known and known == there(real)
    assert not [
        path for path in (ours.root / "io.containerd.content.v1.content/blobs").rglob("*") if path.is_file()
    ]
    assert ours.go_ctr("run", "--rm", images.BUSYBOX, "a", "echo", "here").stdout == "here\n"
    listed = ours.go_ctr("plugins", "ls").stdout
    assert any(
        "io.containerd.content.v1" in line and "there" in line and "ok" in line
        for line in listed.splitlines()
    )
    ours.kill9()
    ours.start()
    assert ours.go_ctr("run", "--rm", images.BUSYBOX, "b", "echo", "again").stdout == "again\n"
    ours.go_ctr("images", "rm", "--sync", images.BUSYBOX)
    assert there(real) == set()


def test_a_store_that_is_away(ours: Longshore, real: RealContainerd, tmp_path: Path) -> None:
    """Names the store; what needs no blob goes on; when it is back, so is everything."""
    archive = images.busybox_archive(tmp_path)
    ours.go_ctr("images", "import", archive)
    digest = column(ours.go_ctr("images", "ls").stdout, 2)[0]
    real.kill9()
    failed = ours.go_ctr("content", "get", digest, check=False)
    assert failed.returncode and "content store there" in failed.stderr and "Traceback" not in failed.stderr
    assert ours.go_ctr("images", "ls", "-q").stdout.strip() == images.BUSYBOX
    real.start()
    eventually(lambda: ours.go_ctr("content", "get", digest, check=False).returncode == 0)
    ours.go_ctr("images", "rm", "--sync", images.BUSYBOX)


def test_two_are_one_too_many() -> None:
    """The part fails and says why, as any other."""
    config = "".join(f'[proxy_plugins.{name}]\ntype = "content"\naddress = "/x"\n' for name in ("one", "two"))
    with Longshore(config=f"version = 2\n{config}") as daemon:
        assert "one content store is used, not one, two" in daemon.log.read_text()
        assert daemon.go_ctr("content", "ls", check=False).returncode

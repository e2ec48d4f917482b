"""Where dockerd listens, and what it refuses to take over."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.api.errors import FailedPrecondition, InvalidArgument
from longshore.dockerd import directories, listeners
from longshore.dockerd.config import Config
from longshore.dockerd.listeners import Address, listening, parse
from support.folders import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.mark.parametrize(
    ("host", "tls", "address"),
    (
        ("unix:///a/b", False, Address("unix", "/a/b")),
        ("/a/b", False, Address("unix", "/a/b")),
        ("unix://", False, Address("unix", "/var/run/docker.sock")),
        ("tcp://", False, Address("tcp", "localhost:2375")),
        ("tcp://0.0.0.0", True, Address("tcp", "0.0.0.0:2376")),
        ("tcp://[::1]:5", False, Address("tcp", "[::1]:5")),
        ("1.2.3.4:5", False, Address("tcp", "1.2.3.4:5")),
        ("fd://", False, Address("fd", "")),
        ("fd://docker.socket", False, Address("fd", "docker.socket")),
    ),
)
def test_hosts(host: str, tls: bool, address: Address) -> None:
    assert parse(host, tls=tls) == address


@pytest.mark.parametrize("host", ("npipe:////./x", "tcp://a:b", "unix://" + "/x" * 60))
def test_no_hosts(host: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(host, tls=False)


def test_the_socket_is_for_its_group_only_and_goes(folder: Path) -> None:
    path = folder / "new" / "s"
    with listening(Config(hosts=[f"unix://{path}"], group=str(os.getgid())), {}) as (listener,):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o777 == 0o660
        assert not listener.secure
    assert not path.exists()


def test_a_socket_that_another_put_in_its_place_stays(folder: Path) -> None:
    path = folder / "s"
    with listening(Config(hosts=[f"unix://{path}"], group="0"), {}), socket.socket(socket.AF_UNIX) as other:
        path.rename(folder / "away")
        other.bind(str(path))
    assert path.exists()


def test_stale_sockets_are_replaced_and_others_are_not(folder: Path) -> None:
    path = folder / "s"
    config = Config(hosts=[f"unix://{path}"], group="0")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with (
        listening(config, {}),
        pytest.raises(FailedPrecondition, match="another process is listening"),
        listening(config, {}),
    ):
        pass
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="is not a socket"), listening(config, {}):
        pass
    assert path.read_text() == "precious"


def test_an_unknown_group_is_an_error_unless_it_is_the_default(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    with (
        pytest.raises(InvalidArgument, match="group no-such-group not found"),
        listening(Config(hosts=[f"unix://{folder}/s"], group="no-such-group"), {}),
    ):
        pass
    assert os.listdir(folder) == []
    with listening(Config(hosts=[f"unix://{folder}/s"]), {}) as (listener,):
        assert listener.address == Address("unix", f"{folder}/s")


def test_tcp_in_use(folder: Path) -> None:
    with listening(Config(hosts=["tcp://127.0.0.1:0"]), {}) as (first,):
        port = first.socket.getsockname()[1]
        with (
            pytest.raises(FailedPrecondition, match="in use"),
            listening(Config(hosts=[f"unix://{folder}/s", f"tcp://127.0.0.1:{port}"], group="0"), {}),
        ):
            pass
    assert os.listdir(folder) == []


def test_files_of_tls_that_are_not_there(tmp_path: Path) -> None:
    config = Config(tlsverify=True, tlscert=str(tmp_path / "c"), tlskey=str(tmp_path / "k"))
    with pytest.raises(InvalidArgument, match=f"could not load the X509 files .*{tmp_path}/c"):
        listeners.context(config)
    assert listeners.context(Config()) is None


def test_descriptors_of_systemd(folder: Path) -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "X": "y"}
    assert listeners.inherited(environment) == {}
    assert environment == {"X": "y"}
    with pytest.raises(FailedPrecondition, match="socket activation"), listening(Config(hosts=["fd://"]), {}):
        pass
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(folder / "s"))
        ours.listen()
        given = {ours.fileno(): "docker.socket"}
        for host in ("fd://", "fd://*", f"fd://{ours.fileno()}", "fd://docker.socket"):
            with listening(Config(hosts=[host]), given) as (listener,):
                assert listener.socket.getsockname() == str(folder / "s")
        assert (folder / "s").exists()


# -- directories --------------------------------------------------------------------------------------------


def test_a_root_is_one_daemons(tmp_path: Path) -> None:
    roots = (str(tmp_path / "root"), str(tmp_path / "run"))
    with (
        directories.claim(*roots),
        pytest.raises(FailedPrecondition, match=f"in use by another dockerd .pid {os.getpid()}."),
        directories.claim(*roots),
    ):
        pass
    with directories.claim(*roots):
        pass


@pytest.mark.parametrize("name", ("overlay2", "image"))
def test_another_engines_root_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with (
        pytest.raises(FailedPrecondition, match="another engine"),
        directories.claim(str(tmp_path), str(tmp_path)),
    ):
        pass
    assert os.listdir(tmp_path) == [name]


def test_pidfile(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with directories.pidfile(str(path)):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()
    path.write_text("1")  # not a dockerd
    with directories.pidfile(str(path)):
        pass
    with directories.pidfile(""):
        pass

"""The running shim without containers: how it answers, and when it ends by itself."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.api.errors import NotFound, Unimplemented
from longshore.api.runtime.task.v3 import shim_pb2 as api
from longshore.shim import daemon
from longshore.ttrpc.client import Client

SERVICE = "containerd.task.v3.Task"


@contextmanager
def running(path: Path, visitor: socket.socket | None = None) -> Iterator[int]:
    """A shim in a fork of ours; its pid. `visitor` has connected before it begins."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    if visitor is not None:
        visitor.connect(str(path))
    pid = os.fork()
    if pid == 0:
        try:
            if visitor is not None:
                visitor.close()
            daemon.Daemon().run(
                listener,
                namespace="ns",
                ttrpc_address=f"{path}.nobody",
                exits_address="",
                runtime_root="",
                log=f"{path}.log",
            )
            os._exit(0)
        finally:
            os._exit(1)
    listener.close()
    try:
        yield pid
    finally:
        if not ended(pid, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended(pid: int, within: float) -> bool:
    """Whether the shim ends, with status 0, within that many seconds. Reaps it."""
    deadline = time.monotonic() + within
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if found:
            assert status == 0
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)


def test_it_ends_when_nobody_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "IDLE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as visitor, running(tmp_path / "s", visitor) as pid:
        assert not ended(pid, 0.2)
        with Client(str(tmp_path / "s")) as client:
            assert client.call(SERVICE, "Connect", api.ConnectRequest(), api.ConnectResponse).shim_pid == pid
        visitor.close()
        assert ended(pid, 60)
    assert not (tmp_path / "s").exists()


def test_shutdown_and_sigterm_end_an_empty_shim(tmp_path: Path) -> None:
    with running(tmp_path / "s") as pid, Client(str(tmp_path / "s")) as client:
        client.call(SERVICE, "Shutdown", api.ShutdownRequest(), api.ConnectResponse)
        assert not (tmp_path / "s").exists()
        assert ended(pid, 60)
    with running(tmp_path / "s") as pid:
        with Client(str(tmp_path / "s")) as client:
            client.call(SERVICE, "Connect", api.ConnectRequest(), api.ConnectResponse)
        os.kill(pid, signal.SIGTERM)
        assert ended(pid, 60)


def test_two_hundred_clients_leave_nothing_open(tmp_path: Path) -> None:
    with running(tmp_path / "s") as pid:
        with Client(str(tmp_path / "s")) as first:
            first.call(SERVICE, "Connect", api.ConnectRequest(), api.ConnectResponse)
            before = len(os.listdir(f"/proc/{pid}/fd"))
            for _ in range(200):
                with Client(str(tmp_path / "s")) as client, pytest.raises(NotFound):
                    client.call(SERVICE, "State", api.StateRequest(id="x"), api.StateResponse)
            with pytest.raises(Unimplemented):
                first.call(SERVICE, "Nothing", api.StateRequest(), api.StateResponse)
            assert len(os.listdir(f"/proc/{pid}/fd")) <= before + 1
        os.kill(pid, signal.SIGTERM)
        assert ended(pid, 60)

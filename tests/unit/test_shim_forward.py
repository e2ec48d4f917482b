"""Forwarding events over ttrpc: in order whatever fails, five more tries, then dropped."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from longshore.api.errors import Error
from longshore.api.events.task_pb2 import TaskExit
from longshore.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from longshore.shim import forward
from longshore.shim.events import Journal
from longshore.shim.forward import Forwarder
from longshore.shim.loop import READ, Loop
from longshore.ttrpc.server import Connection


class Daemon:
    """Takes Forward calls in the shim's own loop; `script` says what becomes of the next ones."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self.script: list[str] = []
        self.taken: list[int] = []
        self.namespaces: set[str] = set()
        self._loop = loop
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._peers: list[socket.socket] = []
        loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, _: int) -> None:
        peer, _address = self._listener.accept()
        self._peers.append(peer)
        connection = Connection()
        self._loop.watch(peer.fileno(), READ, lambda _: self._receive(peer, connection))

    def _receive(self, peer: socket.socket, connection: Connection) -> None:
        data = peer.recv(65536)
        if not data:
            self._drop(peer)
            return
        for call in connection.receive(data):
            what = self.script.pop(0) if self.script else "take"
            if what == "hang up":
                self._drop(peer)
                return
            if what == "refuse":
                connection.fail(call.stream, Error("not now"))
                continue
            envelope = ForwardRequest.FromString(call.payload).envelope
            self.taken.append(TaskExit.FromString(envelope.event.value).exit_status)
            self.namespaces |= {envelope.namespace, *call.metadata["containerd-namespace-ttrpc"]}
            connection.respond(call.stream, Empty())
        peer.sendall(connection.take())

    def _drop(self, peer: socket.socket) -> None:
        self._loop.forget(peer.fileno())
        peer.close()
        self._peers.remove(peer)

    def close(self) -> None:
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for peer in list(self._peers):
            self._drop(peer)


class Pair:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "d.sock"
        self.loop = Loop()
        self.daemon = Daemon(self.loop, self.path)
        self.forwarder = Forwarder(self.loop, str(self.path), "default")
        self._journal = Journal(str(folder))

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            self.forwarder.publish(self._journal, "/tasks/exit", TaskExit(exit_status=number))

    def run(self) -> None:
        """Until the forwarder has nothing left."""
        self.loop.later(60, self.loop.stop)
        while not self.forwarder.idle():
            self.loop.turn()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(forward, "RETRY_SECONDS", 0.001)
    made = Pair(tmp_path)
    yield made
    made.forwarder.drop("test ends")
    made.daemon.close()
    made.loop.close()


def test_in_order_under_the_shims_namespace(pair: Pair) -> None:
    pair.publish(*range(100))
    pair.run()
    assert pair.daemon.taken == list(range(100))
    assert pair.daemon.namespaces == {"default"}


@pytest.mark.parametrize("failure", ["refuse", "hang up"])
def test_a_retry_is_not_overtaken(pair: Pair, failure: str) -> None:
    pair.daemon.script = ["take", failure, failure, "take", failure]
    pair.publish(1, 2, 3, 4)
    pair.run()
    assert pair.daemon.taken == [1, 2, 3, 4] and pair.forwarder.dropped == 0


def test_after_six_tries_it_is_dropped_and_the_next_one_goes(pair: Pair) -> None:
    pair.daemon.script = ["refuse"] * 6
    pair.publish(1, 2)
    pair.run()
    assert pair.daemon.taken == [2] and pair.forwarder.dropped == 1


def test_a_daemon_that_was_away(pair: Pair, tmp_path: Path) -> None:
    pair.publish(1)
    pair.run()
    pair.daemon.close()
    pair.path.unlink()
    pair.loop.turn()  # notices the hang-up: nobody's failure
    pair.daemon = Daemon(pair.loop, pair.path)
    pair.publish(2)
    pair.run()
    assert pair.daemon.taken == [2] and pair.forwarder.dropped == 0


def test_a_full_queue_drops_the_newest(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "QUEUE_LIMIT", 3)
    pair.publish(1, 2, 3, 4)
    pair.run()
    assert pair.daemon.taken == [1, 2, 3] and pair.forwarder.dropped == 1

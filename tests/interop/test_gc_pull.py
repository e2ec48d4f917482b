"""A pull goes on under its lease while collections come one after the other; its image is whole and runs on."""

from __future__ import annotations

import asyncio
import os
import threading

import grpc
import pytest

from longshore.api.services.gc.v1 import gc_pb2 as gc
from longshore.api.services.gc.v1.gc_pb2_grpc import GCStub
from support import layers, require
from support.daemon import Longshore
from support.gcgraphs import Builder
from support.registry import Registry, publish
from support.soak import times

LAYERS = 12


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_pulls_and_collections() -> None:
    require.go("docker-registry")
    tree = [layers.layer(layers.member(f"f{number}", data=os.urandom(1 << 16))) for number in range(LAYERS)]
    with (
        Registry() as registry,
        Longshore() as daemon,
        grpc.insecure_channel(f"unix:{daemon.address}") as channel,
    ):
        name = registry.name("busy/image:1")
        asyncio.run(publish(name, tree))
        builder, stub, over = Builder(channel, daemon.namespace), GCStub(channel), threading.Event()
        collections = [0]

        def collect() -> None:
            while not over.is_set():
                stub.Collect(gc.CollectRequest(), timeout=60)
                collections[0] += 1

        collecting = threading.Thread(target=collect)
        collecting.start()
        try:
            for _ in range(times(3, 50)):
                daemon.ctr("images", "pull", name)
                left = builder.objects()
                assert len([id for kind, id in left if kind == "content"]) == LAYERS + 2
                assert len([id for kind, id in left if kind == "snapshots/overlayfs"]) == LAYERS
                daemon.go_ctr("images", "rm", "--sync", name)
                assert builder.objects() == set()
        finally:
            over.set()
            collecting.join()
        assert collections[0] > 5

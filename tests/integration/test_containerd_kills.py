"""The metadata store against a model: the daemon is killed at random points while one client changes records.

What was answered is there; the one change under way at the kill is there as a
whole or not at all; nothing else has changed. Containers, images and leases,
with labels and resources, and what a synchronous delete collects.
"""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersStub
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.images.v1.images_pb2_grpc import ImagesStub
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.api.types.descriptor_pb2 import Descriptor
from support import soak
from support.daemon import Longshore

pytestmark = pytest.mark.root

KILLS = soak.times(50, 500)
HEADERS = (("containerd-namespace", "kills"),)
NAMES = [f"n{number}" for number in range(6)]
DIGEST = "sha256:" + "b" * 64
LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


@dataclass
class Model:
    """What must be there: names with what was last written to them."""

    containers: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    leases: dict[str, frozenset[str]] = field(default_factory=dict)


class Interrupted(Exception):
    """The daemon went before it answered."""


class Client:
    """Random changes, each made on the daemon and, once answered, on the model."""

    def __init__(self, daemon: Longshore, chance: random.Random) -> None:
        self._channel = grpc.insecure_channel(f"unix:{daemon.address}", options=[("grpc.enable_retries", 0)])
        self._containers: Any = ContainersStub(self._channel)
        self._images: Any = ImagesStub(self._channel)
        self._leases: Any = LeasesStub(self._channel)
        self._chance = chance

    def close(self) -> None:
        self._channel.close()

    def step(self, model: Model) -> Model:
        """The model after one more change. Raises Interrupted with what it would have been."""
        after = copy.deepcopy(model)
        work: Callable[[Model], None] = self._chance.choice((self._container, self._image, self._lease))
        try:
            work(after)
        except grpc.RpcError as error:
            if error.code() in LOST:
                raise Interrupted(after) from None
            raise
        return after

    def _container(self, model: Model) -> None:
        name, text = self._chance.choice(NAMES), f"{self._chance.random()}"
        record = containers.Container(
            id=name,
            labels={"text": text},
            runtime=containers.Container.Runtime(name="r"),
            spec=AnyMessage(type_url="t", value=text.encode() * 200),
        )
        if name not in model.containers:
            model.containers[name] = text
            self._containers.Create(containers.CreateContainerRequest(container=record), metadata=HEADERS)
        elif self._chance.random() < 0.5:
            model.containers[name] = text
            self._containers.Update(containers.UpdateContainerRequest(container=record), metadata=HEADERS)
        else:
            del model.containers[name]
            self._containers.Delete(containers.DeleteContainerRequest(id=name), metadata=HEADERS)

    def _image(self, model: Model) -> None:
        name, text = self._chance.choice(NAMES), f"{self._chance.random()}"
        record = images.Image(
            name=name, labels={"text": text}, target=Descriptor(media_type="m", digest=DIGEST, size=1)
        )
        if name not in model.images:
            model.images[name] = text
            self._images.Create(images.CreateImageRequest(image=record), metadata=HEADERS)
        elif self._chance.random() < 0.5:
            model.images[name] = text
            self._images.Update(images.UpdateImageRequest(image=record), metadata=HEADERS)
        else:
            del model.images[name]
            self._images.Delete(images.DeleteImageRequest(name=name, sync=True), metadata=HEADERS)

    def _lease(self, model: Model) -> None:
        name, resource = self._chance.choice(NAMES), f"r{self._chance.randrange(4)}"
        wanted = leases.Resource(id=resource, type="ingests")
        if name not in model.leases:
            model.leases[name] = frozenset()
            self._leases.Create(leases.CreateRequest(id=name), metadata=HEADERS)
        elif resource in model.leases[name]:
            model.leases[name] -= {resource}
            self._leases.DeleteResource(
                leases.DeleteResourceRequest(id=name, resource=wanted), metadata=HEADERS
            )
        elif self._chance.random() < 0.7:
            model.leases[name] |= {resource}
            self._leases.AddResource(leases.AddResourceRequest(id=name, resource=wanted), metadata=HEADERS)
        else:
            del model.leases[name]
            self._leases.Delete(leases.DeleteRequest(id=name, sync=True), metadata=HEADERS)

    def found(self) -> Model:
        """What the daemon has; of a container also that spec and label are of one write."""
        model = Model()
        for record in self._containers.List(containers.ListContainersRequest(), metadata=HEADERS).containers:
            model.containers[record.id] = record.labels["text"]
            assert record.spec.value == record.labels["text"].encode() * 200
        for image in self._images.List(images.ListImagesRequest(), metadata=HEADERS).images:
            model.images[image.name] = image.labels["text"]
        for lease in self._leases.List(leases.ListRequest(), metadata=HEADERS).leases:
            held = self._leases.ListResources(leases.ListResourcesRequest(id=lease.id), metadata=HEADERS)
            model.leases[lease.id] = frozenset(resource.id for resource in held.resources)
        return model


def until_killed(
    daemon: Longshore, client: Client, chance: random.Random, model: Model
) -> tuple[Model, Model]:
    """Make changes until the daemon is killed: the model of what was answered, and with the one under way."""
    killer = threading.Timer(chance.random() * 0.15, daemon.kill9)
    killer.start()
    try:
        while True:
            model = client.step(model)
    except Interrupted as interrupted:
        return model, interrupted.args[0]
    finally:
        killer.join()


def test_what_was_answered_is_there() -> None:
    chance, model = random.Random(20261124), Model()
    with Longshore() as daemon:
        for kill in range(KILLS):
            client = Client(daemon, chance)
            try:
                answered, under_way = until_killed(daemon, client, chance, model)
            finally:
                client.close()
            daemon.start()
            client = Client(daemon, chance)
            try:
                model = client.found()
            finally:
                client.close()
            assert model in (answered, under_way), f"after kill {kill}"

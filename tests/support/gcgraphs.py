"""Random objects with random references, and what garbage collection must leave of them: the facts in plain Python.

A `Graph` is data: `stored` writes it into a database, `build` makes it on a
daemon. `survivors` is the model. It knows nothing of the code under test.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.containers.v1.containers_pb2_grpc import ContainersStub
from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.content.v1.content_pb2_grpc import ContentStub
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.images.v1.images_pb2_grpc import ImagesStub
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.leases.v1.leases_pb2_grpc import LeasesStub
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.containerd.metadata.store import Transaction

GC = "containerd.io/gc."
SNAPSHOTTERS = ("overlayfs", "native")
HOUR = 3600 * 10**9

PAST, FUTURE, NONSENSE = "2001-02-03T04:05:06Z", "2999-01-01T00:00:00.5+02:00", "next tuesday"

Labels = dict[str, str]
Key = tuple[str, str]  # kind, id


def blob(number: int) -> bytes:
    return f"blob {number}".encode()


def digest(number: int) -> str:
    return "sha256:" + hashlib.sha256(blob(number)).hexdigest()


@dataclass
class Snapshot:
    snapshotter: str
    key: str
    parent: str
    committed: bool
    labels: Labels


@dataclass
class Lease:
    labels: Labels
    resources: list[Key] = field(default_factory=list)


@dataclass
class Ingest:
    expected: str
    leased: bool  # by the one under which all is built: nothing else then
    expired: bool = False


@dataclass
class Graph:
    """All objects of a namespace, by id. Targets of references need not exist."""

    blobs: dict[str, Labels] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    images: dict[str, tuple[str, Labels]] = field(default_factory=dict)
    containers: dict[str, tuple[str, str, Labels]] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    ingests: dict[str, Ingest] = field(default_factory=dict)

    def objects(self) -> set[Key]:
        return {
            *(("content", id) for id in self.blobs),
            *((f"snapshots/{each.snapshotter}", each.key) for each in self.snapshots),
            *(("images", id) for id in self.images),
            *(("leases", id) for id in self.leases),
            *(("ingests", id) for id in self.ingests),
        }


# -- the model ----------------------------------------------------------------------------------------------


class Reference(NamedTuple):
    source: Key | None  # None: a root
    target: Key
    flat: bool = False


def survivors(graph: Graph, now: int) -> set[Key]:
    """What a collection at `now` (ns) leaves."""
    references = list(_references(graph, now))
    reached: set[tuple[Key, bool]] = set()
    waiting = [(each.target, False) for each in references if each.source is None]
    for id, lease in graph.leases.items():
        if not _expired(lease.labels):
            waiting.append((("leases", id), False))
            flat = GC + "flat" in lease.labels
            waiting += [(key, flat and key[0] != "ingests") for key in lease.resources]
    while waiting:
        place = waiting.pop()
        if place in reached:
            continue
        reached.add(place)
        key, flat = place
        waiting += [
            (each.target, flat) for each in references if each.source == key and (each.flat or not flat)
        ]
    return graph.objects() & {key for key, _ in reached}


def _references(graph: Graph, now: int) -> Iterator[Reference]:
    used = {(f"snapshots/{each.snapshotter}", each.key): list(_uses(each.labels)) for each in graph.snapshots}
    for id, labels in graph.blobs.items():
        yield from _labelled(("content", id), labels)
        yield from _rooted(("content", id), labels)
        yield from _conditions(("content", id), labels, used, now)
    for snapshot in graph.snapshots:
        key = (f"snapshots/{snapshot.snapshotter}", snapshot.key)
        yield from _labelled(key, snapshot.labels)
        yield from _rooted(key, snapshot.labels)
        if snapshot.parent:
            yield Reference(key, (key[0], snapshot.parent), flat=True)
    for id, (target, labels) in graph.images.items():
        if not _expired(labels):
            yield Reference(None, ("images", id))
        yield Reference(("images", id), ("content", target), flat=True)
        yield from _labelled(("images", id), labels)
        yield from _conditions(("images", id), labels, used, now)
    for id, (snapshotter, name, labels) in graph.containers.items():
        yield Reference(None, ("containers", id))
        if snapshotter:
            yield Reference(("containers", id), (f"snapshots/{snapshotter}", name))
        yield from _labelled(("containers", id), labels)
    for ref, ingest in graph.ingests.items():
        if not ingest.leased and not ingest.expired:
            yield Reference(None, ("ingests", ref))
        if ingest.expected:
            yield Reference(("ingests", ref), ("content", ingest.expected))


def _labelled(owner: Key, labels: Labels) -> Iterator[Reference]:
    for label, value in labels.items():
        found = re.fullmatch(r"containerd\.io/gc\.(b?)ref\.(content|image|container)([./].*)?", label)
        if found and not (found[2] == "container" and not found[1]):
            other = ({"image": "images", "container": "containers"}.get(found[2], "content"), value)
            yield Reference(other, owner) if found[1] else Reference(owner, other)
        found = re.fullmatch(r"containerd\.io/gc\.(b?)ref\.snapshot\.([^/]*)(/.*)?", label)
        if found:
            other = (f"snapshots/{found[2]}", value)
            yield Reference(other, owner) if found[1] else Reference(owner, other)


def _rooted(owner: Key, labels: Labels) -> Iterator[Reference]:
    if any(label.startswith(GC + "root") for label in labels):
        yield Reference(None, owner)


def _conditions(owner: Key, labels: Labels, used: dict[Key, list[int]], now: int) -> Iterator[Reference]:
    for label, value in labels.items():
        found = re.fullmatch(r"containerd\.io/gc\.cond\.snapshot[./](\w+)(/.*)?", label)
        if found and "|" in value:
            conditions, _, key = value.partition("|")
            target = (f"snapshots/{found[1]}", key)
            for condition in conditions.split(","):
                hours = re.fullmatch(r"usedat([<>])(\d+)h", condition)
                for at in used.get(target, ()) if hours else ():
                    age, limit = now - at, int(hours[2] if hours else 0) * HOUR
                    if age < limit if hours and hours[1] == "<" else age > limit:
                        yield Reference(owner, target)


def _uses(labels: Labels) -> Iterator[int]:
    for label, value in labels.items():
        if label.startswith(GC + "cond.value-usedat") and re.fullmatch(r"[\d-]+T[\d:]+Z", value):
            stamp = Timestamp()
            stamp.FromJsonString(value)
            yield stamp.seconds * 10**9


def _expired(labels: Labels) -> bool:
    return labels.get(GC + "expire") == PAST


# -- generating ---------------------------------------------------------------------------------------------

_DIGESTS = [digest(number) for number in range(7)]
_SNAPSHOTS = [f"s{number}" for number in range(6)]
_IMAGES = [f"example.com/i{number}" for number in range(4)]
_CONTAINERS = ["c0", "c1"]
_EXPIRES = st.sampled_from([PAST, PAST, FUTURE, NONSENSE])


def hours_ago(hours: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - hours * 3600))


def _label(old: bool) -> st.SearchStrategy[tuple[str, str]]:
    """A label; `old`: that containerd 1.6 knows, or ignores as all do."""
    content_ref = st.tuples(
        st.sampled_from(["ref.content", "ref.content.0", "ref.content.l.1", "ref.contents"]),
        st.sampled_from(_DIGESTS),
    )
    snapshot_ref = st.tuples(
        st.sampled_from(
            ["ref.snapshot.overlayfs", "ref.snapshot.native", "ref.snapshot.other", "ref.snapshot"]
        ),
        st.sampled_from(_SNAPSHOTS),
    )
    plain = st.just(("other", "x"))
    known = [content_ref, content_ref, snapshot_ref, snapshot_ref, plain]
    if not old:
        known += [
            st.tuples(
                st.sampled_from(["ref.content/a", "bref.content", "bref.content/b"]),
                st.sampled_from(_DIGESTS),
            ),
            st.tuples(st.sampled_from(["ref.image", "ref.image.2", "bref.image"]), st.sampled_from(_IMAGES)),
            st.tuples(st.sampled_from(["bref.container", "bref.container.x"]), st.sampled_from(_CONTAINERS)),
            st.tuples(
                st.sampled_from(
                    ["ref.snapshot.overlayfs/n", "bref.snapshot.overlayfs", "bref.snapshot.native/m"]
                ),
                st.sampled_from(_SNAPSHOTS),
            ),
        ]
    return st.one_of(known).map(lambda pair: (GC + pair[0], pair[1]))


def _root(labels: Labels, rooted: bool) -> Labels:
    return labels | {GC + "root": "yes"} if rooted else labels


@st.composite
def graphs(draw: st.DrawFn, old: bool = False) -> Graph:
    """`old`: only what containerd 1.6 knows."""
    graph = Graph()

    def labels(most: int = 3) -> Labels:
        return dict(draw(st.lists(_label(old), max_size=most)))

    def seldom() -> bool:
        return draw(st.integers(0, 7)) == 7

    for id in draw(st.lists(st.sampled_from(_DIGESTS), unique=True)):
        graph.blobs[id] = _root(labels(), seldom())
    for key in draw(st.lists(st.sampled_from(_SNAPSHOTS), unique=True)):
        snapshotter = draw(st.sampled_from(SNAPSHOTTERS))
        below = [each.key for each in graph.snapshots if each.committed and each.snapshotter == snapshotter]
        parent = draw(st.sampled_from(["", *below]))
        marks = _root(labels(2), seldom())
        if not old and draw(st.booleans()):
            marks |= {
                GC + "cond.value-usedat": draw(st.sampled_from([hours_ago(1), hours_ago(50), NONSENSE]))
            }
        graph.snapshots.append(Snapshot(snapshotter, key, parent, draw(st.booleans()), marks))
    for name in draw(st.lists(st.sampled_from(_IMAGES), unique=True, max_size=3)):
        marks = labels(2)
        if not old and draw(st.booleans()):
            marks |= {GC + "expire": draw(_EXPIRES)}
        graph.images[name] = (draw(st.sampled_from(_DIGESTS)), marks)
    if not old:
        _add_conditions(draw, graph)
    for id in draw(st.lists(st.sampled_from(_CONTAINERS), unique=True)):
        snapshotter = draw(st.sampled_from(["", *SNAPSHOTTERS]))
        name = draw(st.sampled_from(_SNAPSHOTS)) if snapshotter else ""
        graph.containers[id] = (snapshotter, name, labels(1))
    for id in draw(st.lists(st.sampled_from(["l0", "l1", "l2"]), unique=True)):
        graph.leases[id] = _lease(draw, old)
    for ref in draw(st.lists(st.sampled_from(["r0", "r1"]), unique=True)):
        leased = draw(st.booleans())
        expired = not old and not leased and draw(st.booleans())
        # In 1.6 an upload doesn't keep what it expects.
        expected = "" if old else draw(st.sampled_from(["", *_DIGESTS]))
        graph.ingests[ref] = Ingest(expected, leased, expired)
    return graph


def _lease(draw: st.DrawFn, old: bool) -> Lease:
    lease = Lease({})
    if draw(st.booleans()):
        lease.labels[GC + "expire"] = draw(_EXPIRES)
    if draw(st.booleans()):
        lease.labels[GC + "flat"] = "yes"
    kinds = {
        "content": _DIGESTS,
        "ingests": ["r0", "r1"],
        **{f"snapshots/{each}": _SNAPSHOTS for each in SNAPSHOTTERS},
    }
    if not old:
        kinds["images"] = _IMAGES
    pairs = [(kind, id) for kind, ids in kinds.items() for id in ids]
    lease.resources = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3))
    return lease


def _add_conditions(draw: st.DrawFn, graph: Graph) -> None:
    owners = [*graph.blobs.values(), *(marks for _, marks in graph.images.values())]
    for owner in owners:
        if draw(st.integers(0, 3)) == 3:
            label = draw(st.sampled_from(["cond.snapshot.overlayfs", "cond.snapshot.native/x"]))
            when = draw(
                st.sampled_from(["usedat<24h", "usedat>24h", "usedat<1h,usedat>30h", "usedat=24h", "size<1h"])
            )
            owner[GC + label] = f"{when}|{draw(st.sampled_from(_SNAPSHOTS))}"


# -- into a database ----------------------------------------------------------------------------------------


def stored(transaction: Transaction, namespace: str, graph: Graph, now: int) -> None:
    """The rows; edges are the test's business."""
    for id, labels in graph.blobs.items():
        transaction.execute(
            "INSERT INTO blobs VALUES (?, ?, 6, 1, 1, ?)", (namespace, id, json.dumps(labels))
        )
    for each in graph.snapshots:
        transaction.execute(
            "INSERT INTO snapshots (namespace, snapshotter, key, parent, kind, created, updated, labels)"
            " VALUES (?, ?, ?, ?, ?, 1, 1, ?)",
            (
                namespace,
                each.snapshotter,
                each.key,
                each.parent,
                3 if each.committed else 2,
                json.dumps(each.labels),
            ),
        )
    for name, (target, labels) in graph.images.items():
        image = image_message(name, target, labels)
        transaction.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?)", (namespace, name, target, image.SerializeToString())
        )
    for id, made in graph.containers.items():
        record = container_message(id, *made).SerializeToString()
        transaction.execute("INSERT INTO containers VALUES (?, ?, ?)", (namespace, id, record))
    for id, lease in graph.leases.items():
        record = leases.Lease(id=id, labels=lease.labels).SerializeToString()
        transaction.execute("INSERT INTO leases VALUES (?, ?, ?)", (namespace, id, record))
        for kind, resource in lease.resources:
            transaction.execute(
                "INSERT INTO lease_resources VALUES (?, ?, ?, ?)", (namespace, id, kind, resource)
            )
    for ref, ingest in graph.ingests.items():
        expires = 0 if ingest.leased else now + (-1 if ingest.expired else HOUR)
        transaction.execute(
            "INSERT INTO ingests VALUES (?, ?, ?, ?, 1, ?)",
            (namespace, ref, f"{namespace}-{ref}", ingest.expected, expires),
        )


def image_message(name: str, target: str, labels: Labels) -> images.Image:
    media = "application/vnd.oci.image.manifest.v1+json"
    return images.Image(name=name, labels=labels, target=Descriptor(media_type=media, digest=target, size=6))


def container_message(id: str, snapshotter: str, name: str, labels: Labels) -> containers.Container:
    made = containers.Container(id=id, labels=labels, snapshotter=snapshotter, snapshot_key=name)
    made.runtime.name = "io.containerd.runc.v2"
    made.spec.CopyFrom(
        AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
    )
    return made


# -- on a daemon --------------------------------------------------------------------------------------------


@contextmanager
def gone_is_fine() -> Iterator[None]:
    """For what a collection may have taken already."""
    try:
        yield
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise


class Builder:
    """Makes a graph on a daemon, all under a lease, so that no collection comes too early; `collect` ends it."""

    GUARD = "guard"

    def __init__(self, channel: Any, namespace: str) -> None:
        self.namespace = namespace
        self.content, self.snapshots = ContentStub(channel), SnapshotsStub(channel)
        self.images, self.containers, self.leases = (
            ImagesStub(channel),
            ContainersStub(channel),
            LeasesStub(channel),
        )
        self.plain = (("containerd-namespace", namespace),)
        self.leased = (*self.plain, ("containerd-lease", self.GUARD))

    def build(self, graph: Graph) -> None:
        self.leases.Create(leases.CreateRequest(id=self.GUARD), metadata=self.plain)
        for ref, ingest in graph.ingests.items():
            self.ingest(ref, ingest.expected, leased=ingest.leased)
        for id, labels in graph.blobs.items():
            self.put(id, labels)
        for each in graph.snapshots:
            self.snapshot(each)
        for name, (target, labels) in graph.images.items():
            image = image_message(name, target, labels)
            self.images.Create(images.CreateImageRequest(image=image), metadata=self.plain)
        for id, made in graph.containers.items():
            container = container_message(id, *made)
            self.containers.Create(
                containers.CreateContainerRequest(container=container), metadata=self.plain
            )
        for id, lease in graph.leases.items():
            self.leases.Create(leases.CreateRequest(id=id, labels=lease.labels), metadata=self.plain)
            for kind, resource in lease.resources:
                request = leases.AddResourceRequest(id=id, resource=leases.Resource(type=kind, id=resource))
                self.leases.AddResource(request, metadata=self.plain)

    def ingest(self, ref: str, expected: str, *, leased: bool) -> None:
        request = content.WriteContentRequest(action=content.WriteAction.STAT, ref=ref, expected=expected)
        list(self.content.Write(iter([request]), metadata=self.leased if leased else self.plain))

    def put(self, id: str, labels: Labels, *, leased: bool = True) -> None:
        data = next(blob(number) for number in range(100) if digest(number) == id)
        request = content.WriteContentRequest(
            action=content.WriteAction.COMMIT,
            ref=f"put-{id}",
            data=data,
            expected=id,
            total=len(data),
            labels=labels,
        )
        list(self.content.Write(iter([request]), metadata=self.leased if leased else self.plain))

    def snapshot(self, each: Snapshot) -> None:
        key = f"making {each.key}" if each.committed else each.key
        self.snapshots.Prepare(
            snapshots.PrepareSnapshotRequest(
                snapshotter=each.snapshotter, key=key, parent=each.parent, labels=each.labels
            ),
            metadata=self.leased,
        )
        if each.committed:
            self.snapshots.Commit(
                snapshots.CommitSnapshotRequest(
                    snapshotter=each.snapshotter, name=each.key, key=key, labels=each.labels
                ),
                metadata=self.leased,
            )

    def collect(self) -> None:
        self.leases.Delete(leases.DeleteRequest(id=self.GUARD, sync=True), metadata=self.plain, timeout=60)

    def objects(self) -> set[Key]:
        found: set[Key] = set()
        for block in self.content.List(content.ListContentRequest(), metadata=self.plain):
            found |= {("content", info.digest) for info in block.info}
        for snapshotter in SNAPSHOTTERS:
            request = snapshots.ListSnapshotsRequest(snapshotter=snapshotter)
            for listed in self.snapshots.List(request, metadata=self.plain):
                found |= {(f"snapshots/{snapshotter}", info.name) for info in listed.info}
        for image in self.images.List(images.ListImagesRequest(), metadata=self.plain).images:
            found.add(("images", image.name))
        for lease in self.leases.List(leases.ListRequest(), metadata=self.plain).leases:
            found.add(("leases", lease.id))
        for status in self.content.ListStatuses(content.ListStatusesRequest(), metadata=self.plain).statuses:
            found.add(("ingests", status.ref))
        return found

    def clear(self) -> None:
        """Let go of everything, and collect: the next graph's blobs must not be there already."""
        for image in self.images.List(images.ListImagesRequest(), metadata=self.plain).images:
            self.images.Delete(images.DeleteImageRequest(name=image.name), metadata=self.plain)
        for each in self.containers.List(containers.ListContainersRequest(), metadata=self.plain).containers:
            self.containers.Delete(containers.DeleteContainerRequest(id=each.id), metadata=self.plain)
        for kind, id in self.objects():
            if kind == "content":
                with gone_is_fine():  # the daemon may collect what was let go of before
                    self.content.Delete(content.DeleteContentRequest(digest=id), metadata=self.plain)
            elif kind == "ingests":
                with gone_is_fine():
                    self.content.Abort(content.AbortRequest(ref=id), metadata=self.plain)
            elif kind == "leases":
                self.leases.Delete(leases.DeleteRequest(id=id), metadata=self.plain)
            else:
                request = snapshots.UpdateSnapshotRequest(
                    snapshotter=kind.partition("/")[2],
                    info=snapshots.Info(name=id),
                    update_mask=FieldMask(paths=["labels"]),
                )
                with gone_is_fine():
                    self.snapshots.Update(request, metadata=self.plain)
        self.leases.Create(leases.CreateRequest(id=self.GUARD), metadata=self.plain)
        self.collect()
        assert self.objects() == set()

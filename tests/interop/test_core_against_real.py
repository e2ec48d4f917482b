"""The same calls on Debian's containerd and on ours: same codes, same messages, same answers.

`CALLS` is one session, in order. Where ours is meant to differ, `DIFFERENCES`
says so and why; everything else must be equal, and no difference may be listed
that isn't there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.api.services.containers.v1 import containers_pb2 as containers
from longshore.api.services.containers.v1 import containers_pb2_grpc
from longshore.api.services.events.v1 import events_pb2 as events
from longshore.api.services.events.v1 import events_pb2_grpc
from longshore.api.services.images.v1 import images_pb2 as images
from longshore.api.services.images.v1 import images_pb2_grpc
from longshore.api.services.introspection.v1 import introspection_pb2 as introspection
from longshore.api.services.introspection.v1 import introspection_pb2_grpc
from longshore.api.services.leases.v1 import leases_pb2 as leases
from longshore.api.services.leases.v1 import leases_pb2_grpc
from longshore.api.services.namespaces.v1 import namespace_pb2 as namespaces
from longshore.api.services.namespaces.v1 import namespace_pb2_grpc
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.event_pb2 import Envelope
from longshore.containerd.events.fields import decoded
from support.daemon import Longshore
from support.realdaemon import RealContainerd

MAIN = "core-main"
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SPEC = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
RUNTIME = containers.Container.Runtime(name="io.containerd.runc.v2")

STUBS: Mapping[str, Any] = {
    "Containers": containers_pb2_grpc.ContainersStub,
    "Events": events_pb2_grpc.EventsStub,
    "Images": images_pb2_grpc.ImagesStub,
    "Introspection": introspection_pb2_grpc.IntrospectionStub,
    "Leases": leases_pb2_grpc.LeasesStub,
    "Namespaces": namespace_pb2_grpc.NamespacesStub,
}


@dataclass(frozen=True)
class Call:
    """One call; `service.method`, in `namespace` unless that is None."""

    method: str
    request: Message
    namespace: str | None = MAIN
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A status, and what came with it."""

    code: str
    message: str = ""
    responses: list[dict[str, Any]] = field(default_factory=list)


def ask(channel: grpc.Channel, call: Call) -> Answer:
    """Make the call; times are reduced to the fact that they are there."""
    service, _, method = call.method.partition(".")
    headers = list(call.headers)
    if call.namespace is not None:
        headers.insert(0, ("containerd-namespace", call.namespace))
    function = getattr(STUBS[service](channel), method)
    try:
        result = function(call.request, metadata=headers, timeout=60)
        responses = [result] if isinstance(result, Message) else list(result)
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details() or "")
    return Answer("OK", "", [_plain(response) for response in responses])


def _plain(message: Message) -> dict[str, Any]:
    """Like json_format, but an Any stays what it is (a URL and bytes), and times only are there or aren't."""
    return {descriptor.name: _value(value) for descriptor, value in message.ListFields()}


def _value(value: Any) -> Any:
    if isinstance(value, Timestamp):
        return "recent" if value.seconds > 1_500_000_000 else "old"
    if isinstance(value, Message):
        return _plain(value)
    if hasattr(value, "items"):
        return {key: _value(inner) for key, inner in sorted(value.items())}
    if isinstance(value, str | bytes | int | float):
        return value
    return [_value(inner) for inner in value]


def namespace(name: str, **labels: str) -> namespaces.Namespace:
    return namespaces.Namespace(name=name, labels=labels)


def container(id: str, **fields: Any) -> containers.Container:
    whole: dict[str, Any] = {"id": id, "runtime": RUNTIME, "spec": SPEC}
    return containers.Container(**whole | fields)


def image(name: str, digest: str = DIGEST, **fields: Any) -> images.Image:
    target = Descriptor(media_type=MANIFEST, digest=digest, size=100)
    whole: dict[str, Any] = {"name": name, "target": target}
    return images.Image(**whole | fields)


def mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def _namespaces() -> Iterator[Call]:
    def call(method: str, request: Message) -> Call:
        # 1.6 needs a namespace to publish the event in, though the request names one.
        return Call(f"Namespaces.{method}", request)

    create, update = namespaces.CreateNamespaceRequest, namespaces.UpdateNamespaceRequest
    yield call("Get", namespaces.GetNamespaceRequest(name="never-made"))
    yield call("Get", namespaces.GetNamespaceRequest())
    yield call("Get", namespaces.GetNamespaceRequest(name="bad name"))
    yield call("Create", create(namespace=namespace("ns-a", x="1", y="2", empty="")))
    yield call("Create", create(namespace=namespace("ns-a")))
    yield call("Create", create(namespace=namespace("")))
    yield call("Create", create())
    yield call("Create", create(namespace=namespace("-bad")))
    yield call("Create", create(namespace=namespace("a" * 77)))
    yield call("Create", create(namespace=namespace("version")))
    yield call("Create", create(namespace=namespace("ns-long", **{"k" * 100: "v" * 4000})))
    yield call("Get", namespaces.GetNamespaceRequest(name="ns-a"))
    yield call("Update", update(namespace=namespace("ns-a", x="3", z="4"), update_mask=mask("labels.x")))
    yield call("Update", update(namespace=namespace("ns-a"), update_mask=mask("labels.y")))
    yield call("Get", namespaces.GetNamespaceRequest(name="ns-a"))
    yield call("Update", update(namespace=namespace("ns-a", x="3"), update_mask=mask("labels")))
    yield call("Update", update(namespace=namespace("ns-a", x="3"), update_mask=mask("name")))
    yield call("Update", update(namespace=namespace("ns-a", w="5")))
    yield call("Update", update(namespace=namespace("ns-new", w="5")))
    yield call("Update", update(namespace=namespace("ns-never")))
    yield call("Update", update(namespace=namespace("")))
    yield call("Update", update(namespace=namespace("ns-a", **{"k" * 100: "v" * 4000})))
    yield call("Get", namespaces.GetNamespaceRequest(name="ns-a"))
    yield call("List", namespaces.ListNamespacesRequest())
    yield call("List", namespaces.ListNamespacesRequest(filter="name==ns-a"))
    yield call("Delete", namespaces.DeleteNamespaceRequest(name="ns-a"))
    yield call("Delete", namespaces.DeleteNamespaceRequest(name="ns-a"))
    yield call("Delete", namespaces.DeleteNamespaceRequest(name="ns-new"))
    yield call("Delete", namespaces.DeleteNamespaceRequest(name=""))
    yield call("Delete", namespaces.DeleteNamespaceRequest(name="bad name"))


def _containers() -> Iterator[Call]:
    create, update = containers.CreateContainerRequest, containers.UpdateContainerRequest
    get, listing = containers.GetContainerRequest, containers.ListContainersRequest

    def call(method: str, request: Message, namespace: str | None = MAIN) -> Call:
        return Call(f"Containers.{method}", request, namespace)

    for method, request in (
        ("Get", get(id="c1")),
        ("List", listing()),
        ("ListStream", listing()),
        ("Create", create(container=container("c1"))),
        ("Update", update(container=container("c1"))),
        ("Delete", containers.DeleteContainerRequest(id="c1")),
    ):
        yield call(method, request, namespace=None)
        yield call(method, request, namespace="")
        yield call(method, request, namespace="bad name")
    yield call("Get", get(id="c1"))
    yield call("List", listing())
    yield call("Update", update(container=container("c1")))
    yield call("Delete", containers.DeleteContainerRequest(id="c1"))
    full = container(
        "c1",
        labels={"a.b/c": "1", "x": "y", "empty": ""},
        image="docker.io/library/busybox:latest",
        snapshotter="overlayfs",
        snapshot_key="c1",
        extensions={"ext": AnyMessage(type_url="some.Type", value=b"\x01\x02")},
        created_at=Timestamp(seconds=1),
    )
    full.runtime.options.CopyFrom(AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x08\x01"))
    yield call("Create", create(container=full))
    yield call("Create", create(container=full))
    yield call("Create", create(container=container("c3", labels={"x": "z"})))
    yield call("Create", create(container=container("c2", labels={"n": "é"}, image="other")))
    yield call("Create", create(container=container("c-1")))
    for bad in (
        containers.Container(),
        container(""),
        container("a b"),
        container("c" * 77),
        container("x1", runtime=None),
        containers.Container(id="x1", spec=SPEC),
        containers.Container(id="x1", runtime=RUNTIME),
        container("x1", snapshot_key="k"),
        container("x1", extensions={"": SPEC}),
        container("x1", labels={"k" * 5000: "v"}),
        container("x1", labels={"k": "v" * 4096}),
        container("x1", labels={"é" * 100: "v" * 4000}),
    ):
        yield call("Create", create(container=bad))
        yield call("Update", update(container=bad))
    yield call("Create", create(container=container("fits", labels={"k" * 96: "v" * 4000})))
    yield call("Create", create())
    yield call("Get", get(id="c1"))
    yield call("Get", get(id="nope"))
    yield call("Get", get(id=""))
    yield call("Get", get(id="bad id"))
    yield call("Get", get(id="c1"), namespace="elsewhere")
    for method in ("List", "ListStream"):
        for filters in FILTERS:
            yield call(method, listing(filters=filters))
    yield call("Update", update(container=container("c1", labels={"x": "9"}), update_mask=mask("labels.x")))
    yield call("Update", update(container=container("c1", labels={}), update_mask=mask("labels.x")))
    yield call("Update", update(container=container("c1", labels={"q": "1"}), update_mask=mask("labels")))
    yield call("Update", update(container=container("c1", image="new"), update_mask=mask("image")))
    yield call(
        "Update", update(container=container("c1", snapshot_key="new"), update_mask=mask("snapshotkey"))
    )
    yield call(
        "Update", update(container=container("c1", snapshot_key="new"), update_mask=mask("snapshot_key"))
    )
    extended = container("c1", extensions={"ext": SPEC, "other": SPEC})
    yield call("Update", update(container=extended, update_mask=mask("extensions.other")))
    yield call("Update", update(container=extended, update_mask=mask("extensions.none")))
    yield call("Update", update(container=extended, update_mask=mask("extensions")))
    spec = AnyMessage(type_url="t", value=b"[]")
    yield call("Update", update(container=container("c1", spec=spec), update_mask=mask("spec")))
    yield call("Update", update(container=containers.Container(id="c1"), update_mask=mask("spec")))
    yield call("Update", update(container=container("c1"), update_mask=mask("runtime")))
    yield call("Update", update(container=container("c1"), update_mask=mask("labels.x", "id")))
    yield call("Update", update(container=container("c1", snapshotter="native")))
    yield call("Update", update(container=container("c1", snapshotter="overlayfs")))
    other_runtime = containers.Container.Runtime(name="other")
    yield call("Update", update(container=container("c1", snapshotter="overlayfs", runtime=other_runtime)))
    yield call("Update", update(container=container("c1", snapshotter="overlayfs", labels={"only": "this"})))
    yield call(
        "Update", update(container=container("c2", labels={"k": "v" * 5000}), update_mask=mask("labels"))
    )
    yield call("Get", get(id="c1"))
    yield call("Get", get(id="c2"))
    yield call("Delete", containers.DeleteContainerRequest(id="c3"))
    yield call("Delete", containers.DeleteContainerRequest(id="c3"))
    yield call("Delete", containers.DeleteContainerRequest(id=""))
    yield call("Delete", containers.DeleteContainerRequest(id="x"), namespace="elsewhere")


# Lists of filter strings, tried on containers c-1, c1, c2, c3, fits.
FILTERS: tuple[tuple[str, ...], ...] = (
    (),
    ("",),
    (" ",),
    ("id==c1",),
    ('id=="c1"',),
    ("id==c1", "id==c2"),
    ("id==c1", ""),
    ("id!=c1",),
    ("id~=^c[12]$",),
    ("id~=/^c[12]$/",),
    ("id~=|^c[12]$|",),
    (r"id~=/c\d/",),
    (r"id~=|c\\d|",),
    (r'id~="c\\d"',),
    (r"id~=c\d",),
    ("id~=(",),
    ("id~=c,image==other",),
    ("labels.x",),
    ("labels.x==y",),
    ("labels.x!=y",),
    ("labels.a.b/c==1",),
    ('labels."a.b/c"==1',),
    ('labels.a."b/c"==1',),
    ("labels.n==é",),
    ('labels.n=="\\u00e9"',),
    ('labels.n=="\\xc3\\xa9"',),
    ("labels",),
    ("labels.empty",),
    ("runtime.name==io.containerd.runc.v2",),
    ("runtime",),
    ("runtime.name.x",),
    ("image",),
    ("image!=other",),
    ("image~=.",),
    ("nosuch",),
    ("nosuch!=x",),
    ("id.x",),
    ("id==c1,labels.x==y",),
    ("id==c1 , labels.x == y",),
    ("  id  ==  c1  ",),
    ("id==",),
    ("id=c1",),
    ("id===c1",),
    ("id~c1",),
    ("id!c1",),
    ("==c1",),
    ("id==c1,",),
    (",id==c1",),
    (",",),
    ("id==c1,,id==c2",),
    ("id.==c1",),
    (".id==c1",),
    ("id..x==c1",),
    ("id c1",),
    ("id==c1 c2",),
    ("id==/c1/",),
    ("id==|c1|",),
    ("/id/==c1",),
    ('"id"==c1',),
    ('id=="c1',),
    ('id=="c1\\',),
    ('id=="c\\1"',),
    ('id=="c\\q"',),
    (r'id=="\x63\061"',),
    (r'id=="\x6"',),
    (r'id=="\u00631"',),
    (r'id=="\ud800"',),
    (r'id=="\U00110000"',),
    (r'id=="\400"',),
    (r"id=='c1'",),
    (r'id=="\'"',),
    (r"id~=/\//",),
    (r"id~=/\|/",),
    (r"id~=/\"/",),
    ("id-x==c1",),
    ("é==c1",),
    ("id==c1\tx",),
    ("id==\x01",),
    ("labels.x==é",),
    ("id==c1é|x",),
    ("id==.c1",),
    ("id==c.1",),
    ("id==-c1",),
    ("id==c1=",),
    ("id==c1]",),
    ("id==c1", "id=="),
    ("id~=",),
    ("id!=",),
    ("labels.x==y", "nosuch"),
    ("id==c1\nlabels.x==y",),
    ("id==c1\u00a0",),
    ("id\u2028==c1",),
    ("id==c\u200b1",),
    ('""==c1',),
    ('id==""',),
    ('image==""',),
    ("id~=//",),
    ("id~=/a",),
)


def _images() -> Iterator[Call]:
    create, update, delete = images.CreateImageRequest, images.UpdateImageRequest, images.DeleteImageRequest
    get, listing = images.GetImageRequest, images.ListImagesRequest

    def call(method: str, request: Message, namespace: str | None = MAIN) -> Call:
        return Call(f"Images.{method}", request, namespace)

    for method, request in (
        ("Get", get(name="i1")),
        ("List", listing()),
        ("Create", create(image=image("i1"))),
        ("Update", update(image=image("i1"))),
        ("Delete", delete(name="i1")),
    ):
        yield call(method, request, namespace=None)
        yield call(method, request, namespace="-")
    yield call("Get", get(name="i1"))
    yield call("Get", get(name=""))
    yield call("List", listing(), namespace="images-nowhere")
    yield call("Delete", delete(name="i1"), namespace="images-nowhere")
    yield call("Update", update(image=image("i1")))
    target = Descriptor(media_type=MANIFEST, digest=DIGEST, size=5, annotations={"an": "notation"})
    first = image("docker.io/library/i1:latest", target=target, labels={"l": "1", "none": ""})
    yield call("Create", create(image=first))
    yield call("Create", create(image=first))
    yield call("Create", create(image=image("I 2 with spaces", OTHER_DIGEST)))
    yield call("Create", create(image=image("a-first")))
    for bad in (
        images.Image(),
        image(""),
        images.Image(name="x"),
        image("x", digest=""),
        image("x", digest="nonsense"),
        image("x", digest="sha256:abc"),
        image("x", digest="sha256:" + "A" * 64),
        image("x", digest="md5:" + "a" * 32),
        image("x", target=Descriptor(media_type=MANIFEST, digest=DIGEST)),
        image("x", target=Descriptor(media_type=MANIFEST, digest=DIGEST, size=-5)),
        image("x", target=Descriptor(digest=DIGEST, size=5)),
        image("x", labels={"k": "v" * 5000}),
        image("x", target=Descriptor(media_type="", digest="", size=0)),
    ):
        yield call("Create", create(image=bad))
        yield call("Update", update(image=bad))
    yield call("Create", create())
    yield call("Get", get(name="docker.io/library/i1:latest"))
    for filters in (
        (),
        ("name==a-first",),
        ("name~=i1",),
        (f"target.digest=={DIGEST}",),
        (f"target.digest=={OTHER_DIGEST}", "name==a-first"),
        ("target.mediatype~=manifest",),
        ("target.mediaType~=manifest",),
        ("target.size==5",),
        ("target",),
        ("labels.l",),
        ("annotations.an==notation",),
        ("name==",),
    ):
        yield call("List", listing(filters=filters))
    name = "docker.io/library/i1:latest"
    yield call("Update", update(image=image(name, labels={"l": "2"}), update_mask=mask("labels.l")))
    yield call("Update", update(image=image(name), update_mask=mask("labels.l")))
    yield call("Update", update(image=image(name, labels={"m": "2"}), update_mask=mask("labels")))
    yield call("Update", update(image=image(name, OTHER_DIGEST), update_mask=mask("target")))
    yield call("Update", update(image=images.Image(name=name), update_mask=mask("target")))
    yield call("Update", update(image=image(name), update_mask=mask("name")))
    yield call("Update", update(image=image(name), update_mask=mask("target.digest")))
    noted = Descriptor(media_type=MANIFEST, digest=DIGEST, size=5, annotations={"p": "q", "r": "s"})
    yield call("Update", update(image=image(name, target=noted), update_mask=mask("annotations.p")))
    yield call("Update", update(image=image(name, target=noted), update_mask=mask("annotations")))
    yield call("Update", update(image=image(name, labels={"whole": "new"})))
    yield call("Update", update(image=image("absent", labels={"whole": "new"})))
    yield call("Get", get(name=name))
    yield call("Delete", delete(name=name, sync=True))
    yield call("Delete", delete(name=name))
    yield call("Delete", delete(name=""))
    yield call("Delete", delete(name="I 2 with spaces"))


def _leases() -> Iterator[Call]:
    create, listing = leases.CreateRequest, leases.ListRequest
    add, remove, resources = (
        leases.AddResourceRequest,
        leases.DeleteResourceRequest,
        leases.ListResourcesRequest,
    )

    def call(method: str, request: Message, namespace: str | None = MAIN) -> Call:
        return Call(f"Leases.{method}", request, namespace)

    resource = leases.Resource(id=DIGEST, type="content")
    for method, request in (
        ("Create", create(id="l1")),
        ("List", listing()),
        ("Delete", leases.DeleteRequest(id="l1")),
        ("AddResource", add(id="l1", resource=resource)),
        ("DeleteResource", remove(id="l1", resource=resource)),
        ("ListResources", resources(id="l1")),
    ):
        yield call(method, request, namespace=None)
        yield call(method, request, namespace="a..b")
    for namespace in ("leases-nowhere", MAIN):
        yield call("List", listing(), namespace)
        yield call("Delete", leases.DeleteRequest(id="l1"), namespace)
        yield call("AddResource", add(id="l1", resource=resource), namespace)
        yield call("DeleteResource", remove(id="l1", resource=resource), namespace)
        yield call("ListResources", resources(id="l1"), namespace)
    yield call("Create", create(id="l1", labels={"a": "1", "empty": ""}))
    yield call("Create", create(id="l1"))
    yield call("Create", create(id="a strange/id", labels={"long": "v" * 5000}))
    yield call("Create", create(id="a0", labels={"containerd.io/gc.expire": "not a time"}))
    for filters in ((), ("id==l1",), ("labels.a==1",), ("labels.empty",), ("id==",)):
        yield call("List", listing(filters=filters))
    for kind, id in (
        ("content", DIGEST),
        ("content", DIGEST),
        ("content", "not-a-digest"),
        ("snapshots/overlayfs", "key"),
        ("snapshots/nosuch", "key"),
        ("snapshots", "key"),
        ("snapshots/", "key"),
        ("snapshots/a/b", "key"),
        ("content/x", DIGEST),
        ("ingests", "ref"),
        ("ingests/x", "ref"),
        ("images", "image"),
        ("", "x"),
        ("nonsense", "x"),
        ("content", ""),
        ("ingests", ""),
        ("snapshots/overlayfs", ""),
    ):
        yield call("AddResource", add(id="l1", resource=leases.Resource(id=id, type=kind)))
    yield call("AddResource", add(id="l1"))
    yield call("ListResources", resources(id="l1"))
    for kind, id in (
        ("content", DIGEST),
        ("content", DIGEST),
        ("snapshots/overlayfs", "key"),
        ("snapshots/never", "key"),
        ("snapshots", "key"),
        ("nonsense", "x"),
    ):
        yield call("DeleteResource", remove(id="l1", resource=leases.Resource(id=id, type=kind)))
    yield call("ListResources", resources(id="l1"))
    yield call("ListResources", resources(id="a0"))
    yield call("Delete", leases.DeleteRequest(id="l1", sync=True))
    yield call("Delete", leases.DeleteRequest(id="l1"))
    yield call("Delete", leases.DeleteRequest(id=""))
    yield call("ListResources", resources(id="l1"))


def _events() -> Iterator[Call]:
    event = AnyMessage(type_url="containerd.events.ContainerDelete", value=b"\x0a\x01x")

    def publish(topic: str, namespace: str | None = MAIN) -> Call:
        return Call("Events.Publish", events.PublishRequest(topic=topic, event=event), namespace)

    yield publish("/a/b", namespace=None)
    yield publish("/a/b", namespace="no no")
    for topic in ("/a/b", "/a", "", "/", "a", "a/b", "/a/", "//", "/a//b", "/a b", "/a-/b", "/" + "a" * 77):
        yield publish(topic)
    yield Call("Events.Publish", events.PublishRequest(topic="no-slash"))

    def forward(**fields: Any) -> Call:
        whole: dict[str, Any] = {
            "timestamp": Timestamp(seconds=1_700_000_000),
            "namespace": MAIN,
            "topic": "/f",
            "event": event,
        }
        kept = {key: value for key, value in (whole | fields).items() if value is not None}
        return Call("Events.Forward", events.ForwardRequest(envelope=Envelope(**kept)), namespace=None)

    yield forward()
    yield forward(timestamp=None)
    yield forward(timestamp=Timestamp(seconds=-62135596800))
    yield forward(namespace=None)
    yield forward(namespace="x y")
    yield forward(topic=None)
    yield forward(topic="no-slash")
    yield Call("Events.Subscribe", events.SubscribeRequest(filters=["topic=="]), namespace=None)
    yield Call("Events.Subscribe", events.SubscribeRequest(filters=["topic==/a/b"]), namespace=None)


def _last() -> Iterator[Call]:
    """What a namespace says when it may not be deleted, with what the others left in it."""
    for name in (MAIN, "elsewhere"):
        yield Call("Namespaces.Delete", namespaces.DeleteNamespaceRequest(name=name), namespace=None)
    yield Call("Leases.Create", leases.CreateRequest(id="only"), namespace="leased")
    yield Call("Namespaces.Delete", namespaces.DeleteNamespaceRequest(name="leased"), namespace=None)
    yield Call("Namespaces.List", namespaces.ListNamespacesRequest(), namespace=None)
    for filters in (["id==version,type==io.containerd.grpc.v1"], ["type=="], ["id==nosuch"]):
        yield Call("Introspection.Plugins", introspection.PluginsRequest(filters=filters), namespace=None)


CALLS = [*_namespaces(), *_containers(), *_images(), *_leases(), *_events(), *_last()]


@dataclass(frozen=True)
class Difference:
    """Where ours may differ from 1.6: `applies` looks at the call, the real answer and ours."""

    reason: str
    applies: Callable[[Call, Answer, Answer], bool]


DIFFERENCES = [
    Difference(
        "2.3 says how long the label is, and shows 64 bytes of its key instead of 10",
        lambda call, real, ours: (
            "label key and value greater than maximum size" in real.message
            and "label key and value length (" in ours.message
            and ours.code == "INVALID_ARGUMENT"
        ),
    ),
    Difference(
        "the name of 1.6's schema key is refused as what it is, and not by its database",
        lambda call, real, ours: real.message == "incompatible value" and ours.code == "INVALID_ARGUMENT",
    ),
    Difference(
        "1.6 answers Update with an empty namespace, and takes one without a name; 2.3's client reads it",
        lambda call, real, ours: call.method == "Namespaces.Update" and real.responses == [{"namespace": {}}],
    ),
    Difference(
        "1.6 stores an empty value for an extension that the mask names and the request lacks, and never"
        " drops one that a later update leaves out: what was asked for is what ours stores",
        lambda call, real, ours: (
            call.namespace == MAIN
            and call.method in ("Containers.Update", "Containers.Get")
            and real.code == ours.code == "OK"
            and "none" in real.responses[0]["container"]["extensions"]
        ),
    ),
    Difference(
        "errors of 1.6's database, of no known class, are invalid arguments",
        lambda call, real, ours: (
            real.message in ("key required", "bucket name required") and ours.code == "INVALID_ARGUMENT"
        ),
    ),
    Difference(
        "leases of images came with 2.x",
        lambda call, real, ours: call.method.startswith("Leases.") and "images" in f"{real}{ours}",
    ),
    Difference(
        "bad filters of Subscribe are invalid arguments, as everywhere",
        lambda call, real, ours: (
            call.method == "Events.Subscribe"
            and real.message == ours.message
            and (real.code, ours.code) == ("UNKNOWN", "INVALID_ARGUMENT")
        ),
    ),
]


END = "/session/end"


@dataclass(frozen=True)
class Told:
    """An event of the session."""

    namespace: str
    topic: str
    type_url: str
    value: bytes


def _session(address: object) -> tuple[list[Answer], list[Told]]:
    """All answers, and all events that a subscriber saw meanwhile."""
    options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(f"unix:{address}", options=options) as channel:
        stub = events_pb2_grpc.EventsStub(channel)
        stream = iter(stub.Subscribe(events.SubscribeRequest()))
        _until(channel, stream, "/session/begin")
        answers = [ask(channel, call) for call in CALLS]
        return answers, _until(channel, stream, END)


def _until(channel: grpc.Channel, stream: Iterator[Envelope], topic: str) -> list[Told]:
    """Publish `topic` until the subscriber sees it (1.6 doesn't say when a subscription stands); what came before."""
    event = AnyMessage(type_url="mark")
    seen: list[Told] = []
    sent = threading.Event()

    def publish() -> None:
        while not sent.wait(0.1):
            ask(channel, Call("Events.Publish", events.PublishRequest(topic=topic, event=event)))

    publisher = threading.Thread(target=publish)
    publisher.start()
    for envelope in stream:
        if envelope.topic == topic:
            break
        if not envelope.topic.startswith("/session/"):
            value = envelope.event.value
            seen.append(Told(envelope.namespace, envelope.topic, envelope.event.type_url, value))
    sent.set()
    publisher.join()
    return seen


def _comparable(told: Told) -> tuple[str, str, object]:
    """Payloads as dictionaries, for a map has no order on the wire.

    In 1.6 the namespace of a namespace's event is the caller's; since 2.x it is the one that the event is about.
    """
    namespace = "" if told.topic.startswith("/namespaces/") else told.namespace
    message = decoded(AnyMessage(type_url=told.type_url, value=told.value))
    return namespace, told.topic, told.value if message is None else _plain(message)


def test_every_call_is_answered_and_told_as_containerd_does_it() -> None:
    with RealContainerd() as real:
        expected, their_events = _session(real.address)
    with Longshore() as ours:
        answers, our_events = _session(ours.address)
    unexplained: list[str] = []
    used: set[str] = set()
    for call, theirs, answer in zip(CALLS, expected, answers, strict=True):
        if theirs == answer:
            continue
        reasons = [each.reason for each in DIFFERENCES if each.applies(call, theirs, answer)]
        used.update(reasons)
        if not reasons:
            unexplained.append(f"{call}\n    real: {theirs}\n    ours: {answer}")
    assert not unexplained, "\n".join(unexplained)
    assert used == {each.reason for each in DIFFERENCES}
    # The update without a name, that only 1.6 takes.
    nameless: tuple[str, str, object] = ("", "/namespaces/update", {})
    told = [_comparable(event) for event in their_events]
    assert [_comparable(event) for event in our_events] == [event for event in told if event != nameless]

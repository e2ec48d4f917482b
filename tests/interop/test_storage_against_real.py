"""Content, snapshots and diffs: the same calls on Debian's containerd and on ours.

`session` is one sequence of calls; its answers must be equal but for
DIFFERENCES, each with its reason. The layers of `layercases` are unpacked by
both, and the trees compared; where ours is meant to differ, UNPACKED says why.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from longshore.api.services.content.v1 import content_pb2 as content
from longshore.api.services.content.v1.content_pb2_grpc import ContentStub
from longshore.api.services.diff.v1 import diff_pb2 as diffs
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffStub
from longshore.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from longshore.api.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.linux import mounts as kernel
from support import images
from support.daemon import NO_COLLECTION, Longshore
from support.layercases import CAPABILITY, CASES
from support.layers import digest, directory, gzipped, hardlink, layer, member, symlink, tree
from support.realdaemon import RealContainerd
from support.remote import OPTIONS

DATA = b"hello world"
DIGEST = digest(DATA)
NOBODY = "sha256:" + "a" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar"
STAT, WRITE, COMMIT = content.WriteAction.STAT, content.WriteAction.WRITE, content.WriteAction.COMMIT

# What is meant to differ, by call. Everything else is equal.
DIFFERENCES = {
    # One writes its last answer again when a call ends in peace; nobody reads it. Not compared at all.
    "total of a commit": "1.6 forgets the total in the answer to a one-message commit",
    "unknown action": "ours answers with what a STAT does",
    "status": "ours tells `expected`, as 2.3 does",
    "statuses": "ours tells `expected`, as 2.3 does",
    "label too long": "2.3 words it longer",
    "update, label too long": "2.3 words it longer",
    "sha512": "2.3 takes any algorithm, 1.6 sha256 only",
    "prepare without key": "an accident of bbolt: bucket name required",
    "commit without name": "an accident of bbolt: bucket name required",
    "prepare, label too long": "2.3 words it longer",
    "update without name": "ours says what is missing",
    "snapshots, bad filter": "1.6 forgets to translate the error: Unknown",
    "snapshots without namespace": "1.6 forgets to translate the error: Unknown",
    "cleanup": "2.3 has it",
    "cleanup native": "2.3 has it",
    "apply to nothing": "1.6 unpacks into a directory that it then removes",
    "diff zstd": "2.3 has it",
}

# Failures that both report as Unknown, each in its own words.
WORDING = re.compile(r"^(apply|diff) .*")


class Session:
    """One daemon, and what it has answered."""

    def __init__(self, address: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{address}", options=OPTIONS)
        self.content, self.snapshots = ContentStub(self.channel), SnapshotsStub(self.channel)
        self.diff = DiffStub(self.channel)
        self.answers: dict[str, Any] = {}

    def headers(self, namespace: str = "storage", lease: str = "") -> tuple[tuple[str, str | bytes], ...]:
        pairs = (("containerd-namespace", namespace), ("containerd-lease", lease))
        return tuple(pair for pair in pairs if pair[1])

    def note(self, name: str, call: Callable[[], Any]) -> None:
        assert name not in self.answers
        try:
            answer = call()
        except grpc.RpcError as error:
            self.answers[name] = [error.code().name, plain(error.details())]
            return
        messages = answer if isinstance(answer, list) else [answer]
        self.answers[name] = [plain(json_format.MessageToDict(message)) for message in messages]

    def write(self, name: str, *requests: content.WriteContentRequest, **where: str) -> None:
        """One answer per request; then the status if it is an error."""
        found: list[Any] = []
        try:
            for answer in self.content.Write(iter(requests), metadata=self.headers(**where), timeout=60):
                if len(found) < len(requests):
                    found.append(plain(json_format.MessageToDict(answer)))
        except grpc.RpcError as error:
            found.append([error.code().name, plain(error.details())])
        self.answers[name] = found

    def stream(self, call: Any, request: Any, **where: str) -> Callable[[], list[Any]]:
        return lambda: list(call(request, metadata=self.headers(**where)))

    def put(self, data: bytes) -> str:
        request = content.WriteContentRequest(action=COMMIT, ref=f"put {uuid.uuid4()}", data=data)
        try:
            list(self.content.Write(iter([request]), metadata=self.headers()))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        return digest(data)


_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_NUMBERED = re.compile(r'((?:storage|other)/)\d+/|(/snapshots/)\d+|"(storage/)\d+/')
_ROOT = re.compile(r"/tmp/[\w-]+/(?:root|run)")


def plain(answer: Any) -> Any:
    """Without what is bound to differ: times, folders, numbers of snapshots."""
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [plain(value) for value in answer]
    if isinstance(answer, str):
        answer = _TIME.sub("TIME", answer)
        answer = _ROOT.sub("ROOT", answer)
        return _NUMBERED.sub(lambda match: "".join(group or "" for group in match.groups()) + "N/", answer)
    return answer


def write_session(s: Session) -> None:
    def request(**fields: Any) -> content.WriteContentRequest:
        return content.WriteContentRequest(**fields)

    start = request(action=STAT, ref="r1", total=11, expected=DIGEST)
    half = request(action=WRITE, data=DATA[:5], offset=0)
    s.write("no ref", request(action=STAT))
    s.write("no namespace", start, namespace="")
    s.write("no message")
    s.write("bad namespace", start, namespace="a/b")
    s.write("no ref and no namespace", request(action=STAT), namespace="")
    s.write("expected is nonsense", request(action=STAT, ref="x", expected="foo"))
    s.write("begin", start)
    s.write("half", start, half)
    s.write("resume", start)
    s.note("status", lambda: s.content.Status(content.StatusRequest(ref="r1"), metadata=s.headers()))
    s.write("wrong offset", start, request(action=WRITE, data=DATA[5:], offset=3))
    s.write("no offset", start, request(action=WRITE, data=DATA[5:]))
    s.write("negative offset", request(action=STAT, ref="neg"), request(action=WRITE, offset=-3, data=b"x"))
    s.write("other total", request(action=STAT, ref="r1", total=12))
    s.write("unknown action", request(action=7, ref="neg"))
    full = (request(action=STAT, ref="r3"), request(action=WRITE, data=DATA))
    s.write("commit without offset", *full, request(action=COMMIT, total=11, expected=DIGEST))
    s.write("wrong size", *full, request(action=COMMIT, offset=11, total=5))
    resumed = request(action=STAT, ref="r3")
    s.write("wrong digest", resumed, request(action=COMMIT, offset=11, expected=NOBODY))
    s.write("digest is nonsense", resumed, request(action=COMMIT, offset=11, expected="sha256:xx"))
    s.write("label too long", resumed, request(action=COMMIT, offset=11, labels={"a": "b" * 5000}))
    s.write(
        "commit",
        resumed,
        request(action=COMMIT, offset=11, total=11, expected=DIGEST, labels={"a": "b", "e": ""}),
    )
    s.write("known at once", request(action=STAT, ref="r7", total=11, expected=DIGEST))
    s.write("known later", request(action=STAT, ref="r7"), request(action=WRITE, data=DATA, expected=DIGEST))
    s.note("aborted by that", lambda: s.content.Status(content.StatusRequest(ref="r7"), metadata=s.headers()))
    s.write("known at commit", request(action=COMMIT, ref="r8", data=DATA))
    s.write("total of a commit", request(action=COMMIT, ref="r9", data=b"x", total=1))
    shared = request(action=STAT, ref="r9", total=11, expected=DIGEST)
    s.write("shared", shared, request(action=COMMIT, offset=11, total=11, expected=DIGEST), namespace="other")
    s.write(
        "shared, wrong total", request(action=STAT, ref="r9b", total=12, expected=DIGEST), namespace="third"
    )
    s.write("shared, written", shared, request(action=WRITE, data=b"x"), namespace="third")
    s.write("nothing", request(action=COMMIT, ref="r10"))
    s.write("unknown lease", request(action=COMMIT, ref="r11", data=b"zz"), lease="none")
    sha512 = "sha512:" + hashlib.sha512(b"zz").hexdigest()
    s.write("sha512", request(action=COMMIT, ref="r12", data=b"zz", expected=sha512))
    s.write(
        "md5", request(action=COMMIT, ref="r13", data=b"zz", expected="md5:" + hashlib.md5(b"zz").hexdigest())
    )


def content_session(s: Session) -> None:
    def call(name: str, method: str, request: Any, **where: str) -> None:
        s.note(name, lambda: getattr(s.content, method)(request, metadata=s.headers(**where)))

    for name, text in (
        ("known", DIGEST),
        ("bad", "foo"),
        ("short", "sha256:abc"),
        ("nobody", NOBODY),
        ("empty", ""),
    ):
        call(f"info {name}", "Info", content.InfoRequest(digest=text))
        if name != "known":
            call(f"delete {name}", "Delete", content.DeleteContentRequest(digest=text))
            s.note(f"read {name}", s.stream(s.content.Read, content.ReadContentRequest(digest=text)))
    call("info elsewhere", "Info", content.InfoRequest(digest=DIGEST), namespace="fourth")

    def update(name: str, labels: dict[str, str], *paths: str, blob: str = DIGEST) -> None:
        info = content.Info(digest=blob, labels=labels)
        call(name, "Update", content.UpdateRequest(info=info, update_mask=FieldMask(paths=paths)))

    update("update all", {"x": "1", "y": "2"})
    update("update one", {"z": "1", "q": "2"}, "labels.z")
    update("update dotted", {"a.b/c": "1"}, "labels.a.b/c")
    update("update away", {}, "labels.z")
    update("update labels", {"n": "1", "e": ""}, "labels")
    update("update size", {"n": "1"}, "size")
    update("update nobody", {}, blob=NOBODY)
    update("update bad", {}, blob="x")
    update("update, label too long", {"n": "1" * 5000})
    s.note("blobs", s.stream(s.content.List, content.ListContentRequest(filters=["labels.n==1"])))
    s.note("no blobs", s.stream(s.content.List, content.ListContentRequest(filters=["labels.n==2"])))
    for name, offset, size in (
        ("read all", 0, 0),
        ("read some", 3, 4),
        ("read from before", -3, 4),
        ("read less than nothing", 3, -4),
        ("read at the end", 11, 0),
        ("read behind the end", 12, 0),
        ("read too much", 3, 400),
    ):
        s.note(
            name,
            s.stream(s.content.Read, content.ReadContentRequest(digest=DIGEST, offset=offset, size=size)),
        )
    s.note("blobs, bad filter", s.stream(s.content.List, content.ListContentRequest(filters=["size="])))
    call("statuses, bad filter", "ListStatuses", content.ListStatusesRequest(filters=["ref="]))
    call("status without namespace", "Status", content.StatusRequest(ref="r1"), namespace="")
    call("status of nobody", "Status", content.StatusRequest(ref="none"))
    call("statuses", "ListStatuses", content.ListStatusesRequest(filters=["ref==r1", "ref==neg"]))
    call("abort", "Abort", content.AbortRequest(ref="r1"))
    call("abort nobody", "Abort", content.AbortRequest(ref="r1"))
    call("delete", "Delete", content.DeleteContentRequest(digest=DIGEST))
    call("info deleted", "Info", content.InfoRequest(digest=DIGEST))


def snapshot_session(s: Session) -> None:
    def call(
        deed: str, method: str, kind: Any, snapshotter: str = "overlayfs", lease: str = "", **fields: Any
    ) -> None:
        request = kind(snapshotter=snapshotter, **fields)
        s.note(deed, lambda: getattr(s.snapshots, method)(request, metadata=s.headers(lease=lease)))

    def prepare(deed: str, **fields: Any) -> None:
        call(deed, "Prepare", snapshots.PrepareSnapshotRequest, **fields)

    def view(deed: str, **fields: Any) -> None:
        call(deed, "View", snapshots.ViewSnapshotRequest, **fields)

    def commit(deed: str, **fields: Any) -> None:
        call(deed, "Commit", snapshots.CommitSnapshotRequest, **fields)

    long = {"x" * 100: "y" * 4000}
    prepare("prepare for nobody", snapshotter="", key="a")
    prepare("prepare for a stranger", snapshotter="zz", key="a")
    prepare("prepare without key")
    prepare("prepare", key="a k", labels={"l": "1", "containerd.io/snapshot/x": "y", "e": ""})
    prepare("prepare twice", key="a k")
    prepare("prepare on nothing", key="b", parent="none")
    prepare("prepare on an active one", key="b", parent="a k")
    prepare("prepare, label too long", key="b", labels=long)
    prepare("prepare, unknown lease", key="b", lease="none")
    for name in ("a k", "zz"):
        call(f"stat {name}", "Stat", snapshots.StatSnapshotRequest, key=name)
        call(f"mounts {name}", "Mounts", snapshots.MountsRequest, key=name)
        call(f"usage {name}", "Usage", snapshots.UsageRequest, key=name)
    commit("commit nothing", key="zz", name="n")
    commit("commit without name", key="a k")
    commit("commit snapshot", key="a k", name="base", labels={"q": "1"})
    call("stat base", "Stat", snapshots.StatSnapshotRequest, key="base")
    call("stat its key", "Stat", snapshots.StatSnapshotRequest, key="a k")
    call("mounts of a committed one", "Mounts", snapshots.MountsRequest, key="base")
    call("usage of a committed one", "Usage", snapshots.UsageRequest, key="base")
    commit("commit a committed one", key="base", name="base2")
    prepare("prepare on base", key="c1", parent="base")
    commit("commit to a name that is taken", key="c1", name="base")
    prepare("prepare what is committed", key="base", parent="base")
    view("view", key="v1", parent="base")
    view("view of nothing", key="v0")
    commit("commit a view", key="v1", name="vv")
    call("usage of a view", "Usage", snapshots.UsageRequest, key="v1")
    commit("commit nothing to a name that is taken", key="zz", name="base")
    commit("commit a committed one to itself", key="base", name="base")
    commit("second layer", key="c1", name="two")
    prepare("prepare on two", key="c3", parent="two")
    view("view of two", key="v4", parent="two")
    call("remove a parent", "Remove", snapshots.RemoveSnapshotRequest, key="base")
    call("remove nothing", "Remove", snapshots.RemoveSnapshotRequest, key="zz")
    call("remove", "Remove", snapshots.RemoveSnapshotRequest, key="c3")

    def update(name: str, key: str, labels: dict[str, str], *paths: str) -> None:
        info = snapshots.Info(name=key, labels=labels)
        mask = FieldMask(paths=paths)
        call(name, "Update", snapshots.UpdateSnapshotRequest, info=info, update_mask=mask)

    update("update snapshot", "base", {"m": "1"})
    update("update snapshot, one", "base", {"n": "1"}, "labels.n")
    update("update snapshot, parent", "base", {}, "parent")
    update("update no snapshot", "zz", {})
    update("update without name", "", {})

    def listed(name: str, *filters: str, **fields: Any) -> None:
        request = snapshots.ListSnapshotsRequest(**{"snapshotter": "overlayfs", "filters": filters} | fields)
        s.note(name, s.stream(s.snapshots.List, request))

    listed("snapshots")
    listed("snapshots, filtered", "kind==committed", "name~=^c", "parent==base,labels.x")
    listed("snapshots with a parent", "parent")
    listed("snapshots, bad filter", "kind=")
    listed("snapshots of nobody", snapshotter="")
    request = snapshots.ListSnapshotsRequest(snapshotter="overlayfs")
    s.note("snapshots without namespace", s.stream(s.snapshots.List, request, namespace=""))
    call("cleanup", "Cleanup", snapshots.CleanupRequest)
    call("cleanup native", "Cleanup", snapshots.CleanupRequest, snapshotter="native")
    prepare("target is there", key="sr", labels={"containerd.io/snapshot.ref": "base"})
    prepare("target isn't there", key="sr", labels={"containerd.io/snapshot.ref": "nobase"})
    prepare("native", snapshotter="native", key="n1")
    commit("native commit", snapshotter="native", key="n1", name="nb")
    view("native view", snapshotter="native", key="nv", parent="nb")
    prepare("native prepare", snapshotter="native", key="np", parent="nb")


def diff_session(s: Session) -> None:
    def mounts(key: str, parent: str = "", view: bool = False) -> list[Mount]:
        if view:
            shown = snapshots.ViewSnapshotRequest(snapshotter="overlayfs", key=key, parent=parent)
            return list(s.snapshots.View(shown, metadata=s.headers()).mounts)
        request = snapshots.PrepareSnapshotRequest(snapshotter="overlayfs", key=key, parent=parent)
        return list(s.snapshots.Prepare(request, metadata=s.headers()).mounts)

    def apply(name: str, data: bytes, media_type: str = LAYER, **fields: Any) -> None:
        descriptor = Descriptor(media_type=media_type, digest=s.put(data), size=len(data))
        request = diffs.ApplyRequest(**{"diff": descriptor} | fields)
        if "mounts" not in fields:
            request.mounts.extend(mounts(f"for {name}"))
        s.note(f"apply {name}", lambda: s.diff.Apply(request, metadata=s.headers()))

    good = layer(directory("d", mtime=5), member("d/f", data=b"f", mtime=7), symlink("l", "d", mtime=9))
    gzip_layer = LAYER + "+gzip"
    docker = "application/vnd.docker.image.rootfs.diff.tar"
    apply("tar", good)
    apply("gzip", gzipped(good), gzip_layer)
    apply("docker gzip", gzipped(good), docker + ".gzip")
    apply("docker, sniffed", gzipped(good), docker)
    apply("tar said to be gzip", good, gzip_layer)
    apply("gzip said to be tar", gzipped(good))
    apply("unknown type", good, "application/foo")
    apply("no type", good, "")
    apply("lying size", good, diff=Descriptor(media_type=LAYER, digest=s.put(good), size=5))
    apply("missing", good, diff=Descriptor(media_type=LAYER, digest=NOBODY, size=5))
    apply("digest is nonsense", good, diff=Descriptor(media_type=LAYER, digest="foo", size=5))
    apply("to nothing", good, mounts=[])
    apply("to nowhere", good, mounts=[Mount(type="bind", source="/nowhere", options=["rbind", "rw"])])
    apply("truncated gzip", gzipped(good)[:-20], gzip_layer)
    apply("truncated tar", good[:1300])
    apply("garbage", b"garbage" * 200)
    apply("a little garbage", b"garbage")
    apply("nothing at all", b"")
    apply("dot dot", layer(member("../../x", data=b"x")))
    apply("absolute", layer(member("/x", data=b"x")))
    apply("link out", layer(symlink("l", "/etc"), member("l/x", data=b"x")))
    apply("hard link out", layer(hardlink("l", "../../../etc/passwd")))
    apply("bad whiteout", layer(member(".wh..")))
    apply("file as a parent", layer(member("a"), member("a/b")))
    apply("bad type", layer(member("x", b"V")))

    apply("for diff", good, mounts=mounts("right"))
    right = list(
        s.snapshots.Mounts(
            snapshots.MountsRequest(snapshotter="overlayfs", key="right"), metadata=s.headers()
        ).mounts
    )
    left = mounts("left", view=True)
    s.note(
        "diff tar",
        lambda: s.diff.Diff(
            diffs.DiffRequest(left=left, right=right, media_type=LAYER), metadata=s.headers()
        ),
    )
    nothing = diffs.DiffRequest(media_type=LAYER + "+gzip")
    s.note("diff of nothing", lambda: s.diff.Diff(nothing, metadata=s.headers()))
    for name, media_type in (("zstd", LAYER + "+zstd"), ("unknown", "foo")):
        request = diffs.DiffRequest(left=left, right=right, media_type=media_type)
        s.note(f"diff {name}", lambda request=request: s.diff.Diff(request, metadata=s.headers()))  # type: ignore[misc]


@pytest.fixture(scope="module")
def daemons() -> Iterator[tuple[RealContainerd, Longshore]]:
    with RealContainerd(config=NO_COLLECTION) as real, Longshore(config=NO_COLLECTION) as ours:
        yield real, ours


@pytest.fixture(scope="module")
def sessions(daemons: tuple[RealContainerd, Longshore]) -> Iterator[tuple[Session, Session]]:
    pair = Session(daemons[0].address), Session(daemons[1].address)
    yield pair
    for session in pair:
        session.channel.close()


@pytest.mark.parametrize("run", [write_session, content_session, snapshot_session, diff_session])
def test_same_answers(sessions: tuple[Session, Session], run: Callable[[Session], None]) -> None:
    real, ours = sessions
    before = set(real.answers)
    for session in sessions:
        run(session)
    differing = []
    for name in real.answers.keys() - before:
        if name in DIFFERENCES or name.removeprefix("apply ") in DIFFERENCES:
            continue
        theirs, own = real.answers[name], ours.answers[name]
        if WORDING.match(name) and theirs[0] == own[0] == "UNKNOWN":
            continue
        if theirs != own:
            differing.append(f"{name}:\n  real {theirs}\n  ours {own}")
    assert not differing, "\n".join(differing)


def test_the_differences_are_real(sessions: tuple[Session, Session]) -> None:
    """A difference that is gone must go from the list."""
    real, ours = sessions
    if len(real.answers) < 100:
        pytest.skip("needs the answers of the sessions")
    equal = [
        name for name in DIFFERENCES if name in real.answers and real.answers[name] == ours.answers[name]
    ]
    assert not equal
    assert not [name for name in DIFFERENCES if name not in real.answers]


# Where an unpacked tree is meant to differ, and why.
_OWN_FILES = (
    "a whiteout speaks of lower layers only (OCI): Debian's removes what the layer itself brings, or fails"
)
_SHINES = "Debian's forgets to make the new directory opaque: what stood there before shines through"
_STRAY = "Debian's leaves a whiteout where nothing is to be hidden; in a directory that isn't merged it shows"
_LINK = "Debian's makes a directory that hides the link in the layer below"
_ROOT_MARK = "Debian's marks the root opaque; the kernel doesn't look for that there"
_AUFS = "Debian's unpacks the bookkeeping of aufs"

UNPACKED = {
    "overlayfs: goes and comes in one layer": _SHINES,
    "overlayfs: file and directory in one layer": _SHINES,
    "overlayfs: comes and goes in one layer": _OWN_FILES,
    "native: comes and goes in one layer": _OWN_FILES,
    "overlayfs: a new file is not its own whiteout's victim": _OWN_FILES,
    "native: a new file is not its own whiteout's victim": _OWN_FILES,
    "native: opaque with a directory made on the way": _OWN_FILES,
    "native: opaque root, marker last": _OWN_FILES,
    "overlayfs: opaque root": _ROOT_MARK,
    "overlayfs: opaque root, marker last": _ROOT_MARK,
    "overlayfs: whiteout of nothing": _STRAY,
    "overlayfs: below an opaque directory nothing shines through": _STRAY,
    "overlayfs: a parent that is a link": _LINK,
    "overlayfs: whiteout through a link": _LINK,
    "overlayfs: bookkeeping of aufs": _AUFS,
    "native: bookkeeping of aufs": _AUFS,
    "native: hard link to a symlink": "Debian's copy makes two symlinks of it",
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_same_trees(sessions: tuple[Session, Session], tmp_path: Path, case: str, snapshotter: str) -> None:
    real, ours = (unpacked(session, CASES[case], snapshotter, tmp_path) for session in sessions)
    if f"{snapshotter}: {case}" in UNPACKED:
        assert ours != real, "a difference that is gone must go from the list"
    else:
        assert ours == real


def unpacked(session: Session, layers: tuple[bytes, ...], snapshotter: str, tmp: Path) -> Any:
    """What a container would see, or the failure."""
    parent = ""
    headers = session.headers("unpack")
    for data in layers:
        key, name = f"key {uuid.uuid4()}", f"name {uuid.uuid4()}"
        prepare = snapshots.PrepareSnapshotRequest(snapshotter=snapshotter, key=key, parent=parent)
        mounts = session.snapshots.Prepare(prepare, metadata=headers).mounts
        put = content.WriteContentRequest(action=COMMIT, ref=key, data=data)
        try:
            list(session.content.Write(iter([put]), metadata=headers))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ALREADY_EXISTS
        descriptor = Descriptor(media_type=LAYER, digest=digest(data), size=len(data))
        try:
            session.diff.Apply(diffs.ApplyRequest(diff=descriptor, mounts=mounts), metadata=headers)
        except grpc.RpcError as error:
            return error.code().name
        commit = snapshots.CommitSnapshotRequest(snapshotter=snapshotter, key=key, name=name)
        session.snapshots.Commit(commit, metadata=headers)
        parent = name
    prepare = snapshots.PrepareSnapshotRequest(
        snapshotter=snapshotter, key=f"top {uuid.uuid4()}", parent=parent
    )
    mounts = session.snapshots.Prepare(prepare, metadata=headers).mounts
    place = tmp / uuid.uuid4().hex
    place.mkdir()
    with kernel.mounted([kernel.Mount(m.type, m.source, m.options) for m in mounts], str(place)):
        try:
            return tree(place, times=False)
        except FileNotFoundError as error:
            return f"a listed name that isn't there: {error}"


def test_same_image(sessions: tuple[Session, Session], daemons: tuple[Any, Any], tmp_path: Path) -> None:
    """`ctr images import` of an image of three layers, one of them packed by GNU tar: the same trees, to the ns."""
    source = tmp_path / "source"
    apply_to_folder(source)
    packed = subprocess.run(
        ["tar", "-C", source, "--xattrs", "--xattrs-include=*", "--format=posix", "-cf", "-", "."],
        check=True,
        capture_output=True,
    ).stdout
    change = layer(directory("tmp", mode=0o1777), member("tmp/x", data=b"x"), member("data/.wh.sparse"))
    archive = tmp_path / "image.tar"
    images.oci_archive(archive, "example.com/three:1", [images.busybox_layer(), packed, change])
    trees = []
    for session, daemon in zip(sessions, daemons, strict=True):
        daemon.go_ctr("images", "import", archive)
        headers = session.headers(daemon.namespace)
        listed = snapshots.ListSnapshotsRequest(snapshotter="overlayfs", filters=["kind==committed"])
        infos = [info for block in session.snapshots.List(listed, metadata=headers) for info in block.info]
        (top,) = {info.name for info in infos} - {info.parent for info in infos}
        assert len(infos) == 3
        view = snapshots.ViewSnapshotRequest(snapshotter="overlayfs", key="look", parent=top)
        mounts = session.snapshots.View(view, metadata=headers).mounts
        place = tmp_path / uuid.uuid4().hex
        place.mkdir()
        with kernel.mounted([kernel.Mount(m.type, m.source, m.options) for m in mounts], str(place)):
            trees.append(tree(place))
    real, ours = trees
    # Debian's leaves the time of its own work on a directory that a layer changes without an entry for it.
    assert real.pop("data")[:5] == ours.pop("data")[:5]
    assert ours == real
    assert "data/kept" in ours and "data/sparse" not in ours


def apply_to_folder(source: Path) -> None:
    """Something of everything that GNU tar packs in its own way."""
    (source / "data").mkdir(parents=True)
    (source / "data" / ("long" * 60)).write_text("a name of 240 bytes")
    (source / "data" / "sparse").touch()
    os.truncate(source / "data" / "sparse", 10 << 20)
    (source / "data" / "kept").write_bytes(b"x" * 4096)
    with open(source / "data" / "kept", "r+b") as file:
        file.seek(5 << 20)
        file.write(b"end")
    os.link(source / "data" / "kept", source / "data" / "twin")
    (source / "data" / "link").symlink_to("y" * 150)
    (source / "data" / "ü").write_text("non-ASCII")
    os.chown(source / "data" / "ü", 3_000_000, 4)
    os.setxattr(source / "data" / "ü", "security.capability", CAPABILITY)
    os.setxattr(source / "data" / "ü", "user.color", b"\x00blue\xff")
    (source / "data" / "tool").touch(mode=0o755)
    (source / "data" / "tool").chmod(0o6755)
    os.mknod(source / "data" / "disk", 0o660 | stat.S_IFBLK, os.makedev(8, 300))
    os.mkfifo(source / "data" / "pipe")


def test_same_layers(sessions: tuple[Session, Session]) -> None:
    """Equal trees make equal tars, so that a DiffID doesn't tell who made it.

    Only extended attributes besides capabilities differ: Debian's loses them.
    """
    base = layer(
        directory("etc", mode=0o1777, uid=7),
        member("etc/f", data=b"f" * 5000, mtime=1_700_000_000),
        symlink("etc/l", "x" * 120, mtime=5),
        member("tool", mode=0o4755, xattrs={"security.capability": CAPABILITY}),
        member("null", b"3", devmajor=1, devminor=3),
    )
    extra = layer(
        member("n" * 150, data=b"long"),
        member("\u00fc", data=b"non-ASCII", mode=0o4755, uid=2**22),
        hardlink("z", "\u00fc", mode=0o4755, uid=2**22),
        member("pipe", b"6"),
    )
    made = []
    for session in sessions:
        headers = session.headers("layers")
        prepare = snapshots.PrepareSnapshotRequest(snapshotter="overlayfs", key="right")
        right = session.snapshots.Prepare(prepare, metadata=headers).mounts
        for data in (base, extra):
            put = content.WriteContentRequest(action=COMMIT, ref="put", data=data)
            list(session.content.Write(iter([put]), metadata=headers))
            descriptor = Descriptor(media_type=LAYER, digest=digest(data), size=len(data))
            session.diff.Apply(diffs.ApplyRequest(diff=descriptor, mounts=right), metadata=headers)
        left = session.snapshots.View(
            snapshots.ViewSnapshotRequest(snapshotter="overlayfs", key="left"), metadata=headers
        ).mounts
        request = diffs.DiffRequest(left=left, right=right, media_type=LAYER)
        made.append(session.diff.Diff(request, metadata=headers).diff)
    assert made[0] == made[1]

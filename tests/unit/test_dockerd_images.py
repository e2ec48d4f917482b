"""dockerd's images: references, filters, rules of removal, lines of progress. No daemon."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from longshore.api.errors import InvalidArgument
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.client import oci
from longshore.client.images import Record
from longshore.client.registries import Progress
from longshore.dockerd.images import documents, listing, names, progress, registries, removal
from longshore.dockerd.images.catalogue import Entry, Facts, moment
from longshore.dockerd.images.progress import Layers
from longshore.dockerd.records import Container, ContainerConfig, ContainerState, HostConfig

DIGEST = "sha256:" + "a" * 64


def entry(*references: str, created: int = 0, labels: dict[str, str] | None = None, **config: Any) -> Entry:
    whole = {"os": "linux", "architecture": "amd64", "config": {"Labels": labels}, **config}
    blob = Descriptor(digest=DIGEST, size=1, media_type=oci.MANIFEST)
    facts = Facts("sha256:" + "b" * 64, blob, blob, whole, (), (), (), created)
    parsed = [names.parse(reference) for reference in references]
    return Entry(
        facts,
        [Record(name=str(reference)) for reference in parsed],
        [reference for reference in parsed if not reference.digest],
        [reference for reference in parsed if reference.digest],
    )


def container(status: str, image: str = "sha256:" + "b" * 64) -> Container:
    return Container(
        id="c" * 64,
        name="c",
        created_ns=1,
        config=ContainerConfig(),
        host_config=HostConfig(),
        image_id=image,
        image_ref="x",
        state=ContainerState(status=status),
    )


# -- names


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("busybox", "busybox:latest"),
        ("docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/library/busybox:1", "busybox:1"),
        ("user/tool", "user/tool:latest"),
        ("docker.io/user/tool:V1", "user/tool:V1"),
        ("localhost/tool", "localhost/tool:latest"),
        ("host:5000/a/b:c", "host:5000/a/b:c"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("library/a/b", "library/a/b:latest"),
    ],
)
def test_familiar_names(text: str, familiar: str) -> None:
    found = names.parse(text)
    assert names.familiar(found) == familiar
    assert names.parse(names.familiar(found)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("a:b:c", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("../a", "invalid reference format"),
        ("Box", "invalid reference format: repository name (library/Box) must be lowercase"),
        ("user/Box:1", "invalid reference format: repository name (user/Box) must be lowercase"),
        ("host:5000/Box:1", "invalid reference format: repository name (Box) must be lowercase"),
        (
            "a" * 64,
            f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
        ),
        ("b" * 256, "repository name must not be more than 255 characters"),
    ],
)
def test_words_about_bad_names(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        names.parse(text)
    assert error.value.message == message


def test_tag_and_digest_as_parameters() -> None:
    assert names.familiar(names.with_tag("box", "1")) == "box:1"
    assert names.familiar(names.with_tag("box:2", "1")) == "box:1"
    assert names.familiar(names.with_tag("box", DIGEST)) == f"box@{DIGEST}"
    with pytest.raises(InvalidArgument, match="ambiguous tag"):
        names.new_tag("sha256", "1")
    with pytest.raises(InvalidArgument, match="digest reference"):
        names.new_tag("box", DIGEST)


@pytest.mark.parametrize(("text", "has"), [("a", False), ("h:1/a", False), ("h:1/a:2", True), ("a@b", True)])
def test_whether_a_tag_was_written(text: str, has: bool) -> None:
    assert names.has_tag(text) is has


def test_records_of_ours_are_no_names() -> None:
    assert names.parse_stored(names.dangling(DIGEST)) is None
    assert names.parse_stored("busybox") is None  # not a full name: somebody else's record
    assert names.parse_stored("docker.io/library/busybox:1") == names.parse("busybox:1")


@pytest.mark.parametrize(
    ("text", "prefix"), [("ab1", "sha256:ab1"), ("sha256:ab1", "sha256:ab1"), ("box", ""), ("", "")]
)
def test_what_may_be_an_id(text: str, prefix: str) -> None:
    assert names.id_prefix(text) == prefix


# -- listing


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("box", ["box:1", "box:2"]),
        ("b*", ["box:1", "box:2"]),
        ("box:1", ["box:1"]),
        ("*:2", ["box:2"]),
        ("*", ["box:1", "box:2"]),
        ("*/*", ["user/box:1"]),
        ("user/[^a]ox", ["user/box:1"]),
        ("nothing", []),
    ],
)
def test_patterns(pattern: str, left: list[str]) -> None:
    found = listing.narrowed(entry("box:1", "box:2", "user/box:1"), [pattern])
    assert (found.repo_tags if found else []) == left


def test_selection() -> None:
    image = entry(created=100, labels={"a": "1", "b": ""})
    takes = listing.Selection
    assert takes(labels=("a", "a=1", "b")).takes(image)
    assert not takes(labels=("a=2",)).takes(image)
    assert not takes(labels=("c",)).takes(image)
    assert not takes(no_labels=("a",)).takes(image)
    assert takes(before_ns=101, since_ns=99).takes(image)
    assert not takes(before_ns=100).takes(image)
    assert not takes(since_ns=100).takes(image)


def test_filters_that_are_no_booleans() -> None:
    assert listing.boolean({"dangling": ["1"]}, "dangling") is True
    assert listing.boolean({}, "dangling") is None
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'dangling=\[maybe\]'$"):
        listing.boolean({"dangling": ["maybe"]}, "dangling")


# -- removal


@pytest.mark.parametrize(
    ("references", "single"),
    [
        ([], True),
        (["a:1"], True),
        (["a:1", f"a@{DIGEST}"], True),
        ([f"a@{DIGEST}", f"a@sha256:{'c' * 64}"], True),
        (["a:1", "a:2"], False),
        (["a:1", f"b@{DIGEST}"], False),
        (["a:1", "b:1"], False),
    ],
)
def test_what_counts_as_one_name(references: list[str], single: bool) -> None:
    assert removal.is_single([names.parse(reference) for reference in references]) is single


@pytest.mark.parametrize(
    ("status", "soft", "reason"),
    [
        ("running", False, "image is being used by running container cccccccccccc"),
        ("paused", False, "image is being used by running container cccccccccccc"),
        ("exited", False, None),
        ("exited", True, "image is being used by stopped container cccccccccccc"),
        ("created", True, "image is being used by stopped container cccccccccccc"),
    ],
)
def test_containers_in_the_way(status: str, soft: bool, reason: str | None) -> None:
    found = removal.obstacle(entry(), [container(status)], has_children=False, soft=soft)
    assert (found.reason if found else None) == reason
    assert removal.obstacle(entry(), [container(status, "other")], has_children=False, soft=soft) is None


def test_digests_go_with_the_last_tag() -> None:
    tag, digest, other = (names.parse(text) for text in ("a:1", f"a@{DIGEST}", f"b@{DIGEST}"))
    assert removal.orphaned(tag, [digest, other]) == [digest]
    assert removal.orphaned(tag, [names.parse("a:2"), digest]) == []
    assert removal.orphaned(digest, [other]) == []


# -- documents


def test_summaries_of_nameless_images_by_version() -> None:
    image, extras = entry(), documents.Extras(5)
    old = documents.summary(image, extras, (1, 41))
    assert (old["RepoTags"], old["RepoDigests"], old["VirtualSize"]) == (
        ["<none>:<none>"],
        ["<none>@<none>"],
        5,
    )
    new = documents.summary(image, extras, (1, 44))
    assert (new["RepoTags"], new["RepoDigests"]) == ([], [])
    assert "VirtualSize" not in new


def test_inspect_by_version() -> None:
    image = entry("a:1", variant="v8", history=[{"comment": "said last"}], labels={"x": "y"})
    old = documents.inspect(image, documents.Extras(5), (1, 41))
    assert (old["Variant"], old["Comment"], old["Config"]["Labels"]) == ("v8", "said last", {"x": "y"})
    assert old["Config"]["Hostname"] == ""
    assert "Container" not in documents.inspect(image, documents.Extras(5), (1, 48))


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2024-05-06T07:08:09.123456789+02:00", 1714972089123456789),
        ("0001-01-01T00:00:00Z", 0),
        ("nonsense", 0),
        (None, 0),
        (5, 0),
    ],
)
def test_times_of_others(text: object, ns: int) -> None:
    assert moment(text) == ns


# -- progress


def test_bars() -> None:
    assert progress.size(999) == "999B"
    assert progress.size(4_272_000) == "4.272MB"
    line = progress.line("Downloading", DIGEST, 50, 100)
    assert line["progressDetail"] == {"current": 50, "total": 100}
    assert line["progress"] == "[" + "=" * 25 + ">" + " " * 24 + "]      50B/100B"
    assert progress.line("Waiting", DIGEST) == {"status": "Waiting", "progressDetail": {}, "id": "a" * 12}
    assert len(progress.bar(100, 100)) == len(progress.bar(1, 100))


def test_lines_of_a_layer_are_not_too_many() -> None:
    now = [0.0]
    layers = Layers(lambda: now[0])

    def news(stage: str, offset: int = 0) -> list[str]:
        lines = layers.pulled(Progress(stage, f"layer-{DIGEST}", DIGEST, offset, 100))
        return [line["status"] for line in lines]

    assert news("waiting") == ["Pulling fs layer"]
    assert news("downloading", 10) == ["Downloading"]
    assert news("downloading", 20) == []
    now[0] = 1
    assert news("downloading", 30) == ["Downloading"]
    assert news("downloaded") == ["Verifying Checksum", "Download complete"]
    assert news("unpacked") == ["Pull complete"]
    assert layers.pulled(Progress("downloaded", "config-x", DIGEST, 0, 1)) == []


# -- registries


def header(**members: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode()


def test_credentials_of_a_request() -> None:
    assert registries.decode(header(username="a", password="b")).pair == ("a", "b")
    packed = base64.b64encode(b"a:b:c").decode()
    assert registries.decode(header(auth=packed)).pair == ("a", "b:c")
    assert registries.decode(header(identitytoken="t")).identity_token == "t"
    assert registries.decode(header(username="a").rstrip("=")).pair == ("a", "")
    for nonsense in ("", "%%", base64.b64encode(b"[]").decode(), base64.b64encode(b"\xff").decode()):
        assert registries.decode(nonsense) == registries.Auth()


@pytest.mark.parametrize(
    ("domain", "insecure"),
    [
        ("localhost:5000", True),
        ("127.1.2.3:5000", True),
        ("[::1]:5000", True),
        ("10.1.2.3:5000", True),
        ("10.2.0.1", False),
        ("plain.example:80", True),
        ("plain.example:81", False),
        ("docker.io", False),
    ],
)
def test_insecure_registries(domain: str, insecure: bool) -> None:
    assert registries.is_insecure(domain, ["10.1.0.0/16", "plain.example:80", "nonsense/99"]) is insecure

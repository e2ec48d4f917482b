"""Descriptors, children, labels and names of the image model."""

from __future__ import annotations

import hashlib

import pytest

from longshore.client import oci
from longshore.client.archive import recorded_name
from longshore.client.content import ingest_ref

MANIFEST = {
    "config": {"mediaType": oci.CONFIG, "digest": "sha256:c", "size": 1},
    "layers": [{"mediaType": oci.LAYER, "digest": f"sha256:{n}", "size": 1} for n in "ab"],
}


def test_children_and_their_labels() -> None:
    assert [child.digest for child in oci.children(MANIFEST)] == ["sha256:c", "sha256:a", "sha256:b"]
    assert oci.gc_labels(MANIFEST) == {
        "containerd.io/gc.ref.content.l.0": "sha256:a",
        "containerd.io/gc.ref.content.l.1": "sha256:b",
        "containerd.io/gc.ref.content.config": "sha256:c",
    }
    index = {"manifests": [{"digest": "sha256:m"}]}
    assert oci.gc_labels(index) == {"containerd.io/gc.ref.content.m.0": "sha256:m"}


def test_chain_ids() -> None:
    assert oci.chain_ids([]) == []
    second = f"sha256:{hashlib.sha256(b'sha256:a sha256:b').hexdigest()}"
    assert oci.chain_ids(["sha256:a", "sha256:b"]) == ["sha256:a", second]


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("linux/amd64", None, True),
        ("linux/amd64", {"os": "linux", "architecture": "amd64"}, True),
        ("linux/amd64", {"os": "linux", "architecture": "arm64"}, False),
        ("linux/arm64", {"os": "linux", "architecture": "arm64", "variant": "v8"}, True),
        ("linux/arm64/v8", {"os": "linux", "architecture": "arm64"}, True),
        ("linux/arm/v7", {"os": "linux", "architecture": "arm", "variant": "v6"}, False),
        ("amd64", {"os": "linux", "architecture": "amd64"}, True),
    ],
)
def test_platforms(wanted: str, found: dict[str, str] | None, expected: bool) -> None:
    assert oci.matches(oci.parse_platform(wanted), found) is expected


@pytest.mark.parametrize("text", ["", "a/b/c/d", "linux/"])
def test_bad_platforms(text: str) -> None:
    with pytest.raises(ValueError, match="platform"):
        oci.parse_platform(text)


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("docker.io/library/a:1", "", "docker.io/library/a:1"),
        ("a:1", "", "docker.io/library/a:1"),
        ("latest", "foo/bar", "docker.io/foo/bar:latest"),
        ("latest", "", ""),
        ("", "foo/bar", ""),
    ],
)
def test_names_found_in_archives(name: str, base: str, expected: str) -> None:
    assert recorded_name(name, base) == expected


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (oci.MANIFEST, "manifest"),
        (oci.DOCKER_MANIFEST, "manifest"),
        (oci.INDEX, "index"),
        (oci.DOCKER_INDEX, "index"),
        (oci.CONFIG, "config"),
        (oci.DOCKER_CONFIG, "config"),
        (oci.LAYER_GZIP, "layer"),
        (oci.DOCKER_LAYER, "layer"),
        ("text/plain", "unknown"),
    ],
)
def test_ingest_refs(media_type: str, kind: str) -> None:
    blob = oci.descriptor({"mediaType": media_type, "digest": "sha256:x"})
    assert ingest_ref(blob) == f"{kind}-sha256:x"

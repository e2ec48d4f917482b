"""Names of images: short ones completed, bad ones refused."""

from __future__ import annotations

import pytest

from longshore.api.errors import InvalidArgument
from longshore.client.references import normalize, parse

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.example.com/a/b/c", "registry.example.com/a/b/c:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"quay.io/a/b:t@{DIGEST}", f"quay.io/a/b:t@{DIGEST}"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("a__b/c.d-e--f", "docker.io/a__b/c.d-e--f:latest"),
    ],
)
def test_completed(text: str, full: str) -> None:
    assert normalize(text) == full
    assert normalize(full) == full


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "busybox:",
        "Busy",
        "a b",
        "busybox@sha256:12",
        f"@{DIGEST}",
        "-a/b",
        "a//b",
        "a/_b",
        "x:" + "t" * 129,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


def test_parts() -> None:
    reference = parse("localhost:5000/a/b:t")
    assert (reference.domain, reference.path, reference.tag) == ("localhost:5000", "a/b", "t")
    assert reference.repository == "localhost:5000/a/b"

"""The rules of garbage collection, label by label, and Go's times."""

from __future__ import annotations

import pytest

from longshore.containerd.gc import references as refs
from longshore.containerd.gc.references import Edge

GC = "containerd.io/gc."


@pytest.mark.parametrize(
    "label, kind",
    [
        ("ref.content", "content"),
        ("ref.content.l.0", "content"),
        ("ref.content/x", "content"),
        ("ref.contents", None),
        ("ref.image", "images"),
        ("ref.image.a", "images"),
        ("ref.images", None),
        ("ref.container", None),
        ("ref.snapshot.overlayfs", "snapshots/overlayfs"),
        ("ref.snapshot.overlayfs/x/y", "snapshots/overlayfs"),
        ("ref.snapshot.a.b", "snapshots/a.b"),
        ("ref.snapshot", None),
        ("reference.content", None),
    ],
)
def test_forward_references(label: str, kind: str | None) -> None:
    found = refs.of_content("sha256:1", {GC + label: "x"}).edges
    assert found == (() if kind is None else (Edge("content", "sha256:1", kind, "x", GC + label),))


@pytest.mark.parametrize(
    "label, kind",
    [
        ("bref.content", "content"),
        ("bref.content.a", "content"),
        ("bref.image/a", "images"),
        ("bref.container", "containers"),
        ("bref.containers", None),
        ("bref.snapshot.native/n", "snapshots/native"),
    ],
)
def test_back_references(label: str, kind: str | None) -> None:
    found = refs.of_snapshot("overlayfs", "s", "", {GC + label: "x"}).edges
    assert found == (() if kind is None else (Edge(kind, "x", "snapshots/overlayfs", "s", GC + label),))


def test_what_roots_are() -> None:
    assert refs.of_content("d", {GC + "root": "no"}).edges == (Edge("root", "", "content", "d", GC + "root"),)
    assert refs.of_image("i", "d", {GC + "root": "1"}).edges[0] == Edge("root", "", "images", "i", "image")
    assert refs.of_content("d", {"containerd.io/uncompressed": "x"}).edges == ()


def test_leases() -> None:
    until = 946684800 * 10**9
    lease = refs.of_lease("l", {GC + "expire": "2000-01-01T00:00:00Z", GC + "flat": "x"})
    assert lease.edges == (Edge("root", "", "leases", "l", GC + "expire", flat=True, until=until),)
    # A time that can't be read never comes.
    assert refs.of_lease("l", {GC + "expire": "soon"}).edges == (Edge("root", "", "leases", "l", "lease"),)


def test_conditions() -> None:
    label = GC + "cond.snapshot.overlayfs"
    found = refs.of_image("i", "d", {label: "usedat<24h,usedat>1000h,usedat=1h,age<1h|a|b"}).edges
    conditional = [edge for edge in found if edge.usedat]
    assert [(edge.to_kind, edge.to_id, edge.usedat, edge.span) for edge in conditional] == [
        ("snapshots/overlayfs", "a|b", "<", 24 * 3600 * 10**9),
        ("snapshots/overlayfs", "a|b", ">", 1000 * 3600 * 10**9),
    ]
    assert not any(edge.usedat for edge in refs.of_image("i", "d", {label: "usedat<24h"}).edges)
    used = refs.of_snapshot("overlayfs", "s", "", {GC + "cond.value-usedat": "1970-01-01T00:00:01Z"})
    assert used.used == (10**9,)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59.5Z", -(5 * 10**8)),
        ("2024-02-29T12:00:00.123456789123Z", 1709208000_123456789),
        ("9999-12-31T23:59:59Z", 2**63 - 1),
        ("0000-01-01T00:00:00Z", -(2**63 - 1)),
        ("2023-02-29T00:00:00Z", None),
        ("2024-01-01", None),
        ("2024-01-01T00:00:00", None),
        ("2024-01-01 00:00:00Z", None),
        ("2024-01-01T00:00:00z", None),
        ("2024-01-01T24:00:00Z", None),
        ("2024-01-01T00:00:00+25:00", None),
        ("2024-01-01T00:00:00Z ", None),
        ("", None),
    ],
)
def test_moments(text: str, expected: int | None) -> None:
    assert refs.moment(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("24h", 86400 * 10**9),
        ("1h30m", 5400 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("-2ms", -2 * 10**6),
        ("+3us", 3000),
        (".5s", 5 * 10**8),
        ("0", 0),
        ("100ms", 10**8),
        ("1", None),
        ("h", None),
        ("", None),
        ("-", None),
        ("1d", None),
        ("1h ", None),
        ("9999999h", None),
    ],
)
def test_durations(text: str, expected: int | None) -> None:
    assert refs.duration(text) == expected

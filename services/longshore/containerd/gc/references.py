"""The rules: what an object's labels and record say about what keeps what. Pure; nothing here knows the database.

Each function takes what one kind of object consists of and returns what it
*owns*: the edges that are true as long as its record says so. Most lead from
the object to others. Those of its back references lead from others to it, and
those from `ROOT` say that it keeps itself.

    forward    containerd.io/gc.ref.{content,image}[./...]  gc.ref.snapshot.<snapshotter>[/...]
    backward   containerd.io/gc.bref.{container,content,image}[./...]  gc.bref.snapshot.<snapshotter>[/...]
    root       containerd.io/gc.root...            of content and snapshots; any value
    condition  containerd.io/gc.cond.snapshot.<snapshotter>[/...] = usedat<24h[,usedat>720h...]|<key>
               of content and images; one of the conditions must hold of a time in the snapshot's label
               containerd.io/gc.cond.value-usedat...
    expiry     containerd.io/gc.expire             RFC 3339; of images and leases. A bad one never comes
    flat       containerd.io/gc.flat               of leases: what it holds doesn't keep what its labels name

Change a rule and raise RULES: the edges are derived anew when the daemon starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, NamedTuple

import structlog

log = structlog.get_logger("gc")

RULES: Final = 1

ROOT: Final = "root"
CONTENT: Final = "content"
IMAGES: Final = "images"
CONTAINERS: Final = "containers"
INGESTS: Final = "ingests"
LEASES: Final = "leases"
SANDBOXES: Final = "sandboxes"

EXPIRE: Final = "containerd.io/gc.expire"
_PREFIX: Final = "containerd.io/gc."
_ROOT: Final = "containerd.io/gc.root"
_FLAT: Final = "containerd.io/gc.flat"
_CONDITION: Final = "containerd.io/gc.cond.snapshot"
_USED: Final = "containerd.io/gc.cond.value-usedat"

# What follows the prefix of a label -> the kind that its value names. Longer words first.
_FORWARD: Final = {"ref.content": CONTENT, "ref.image": IMAGES}
_BACKWARD: Final = {"bref.container": CONTAINERS, "bref.content": CONTENT, "bref.image": IMAGES}

# Times in the database are 64-bit integers.
_LAST: Final = 2**63 - 1


class Edge(NamedTuple):
    """`from` keeps `to`. A time `until` is in ns, the last moment at which that holds; None: for ever."""

    from_kind: str
    from_id: str
    to_kind: str
    to_id: str
    why: str
    flat: bool = False
    until: int | None = None
    usedat: str | None = None  # < or >, with a span in ns
    span: int | None = None


class Owned(NamedTuple):
    """All that one object's record says. `used`: when it was used last, ns."""

    kind: str
    id: str
    edges: tuple[Edge, ...]
    used: tuple[int, ...] = ()


def snapshots(snapshotter: str) -> str:
    """The kind of a snapshotter's snapshots, as leases spell it."""
    return f"snapshots/{snapshotter}"


# -- kinds --------------------------------------------------------------------------------------------------


def of_content(digest: str, labels: Mapping[str, str]) -> Owned:
    if not _has_any(labels):
        return Owned(CONTENT, digest, ())
    edges = [*_rooted(CONTENT, digest, labels), *_references(CONTENT, digest, labels)]
    return Owned(CONTENT, digest, (*edges, *_conditions(CONTENT, digest, labels)))


def of_snapshot(snapshotter: str, key: str, parent: str, labels: Mapping[str, str]) -> Owned:
    kind = snapshots(snapshotter)
    edges = [*_rooted(kind, key, labels), *_references(kind, key, labels)]
    if parent:
        edges.append(Edge(kind, key, kind, parent, "parent", flat=True))
    return Owned(kind, key, tuple(edges), tuple(_used(labels)))


def of_image(name: str, target: str, labels: Mapping[str, str]) -> Owned:
    until = expiry(labels, f"image {name}")
    edges = [
        Edge(ROOT, "", IMAGES, name, "image" if until is None else EXPIRE, until=until),
        Edge(IMAGES, name, CONTENT, target, "target", flat=True),
        *_references(IMAGES, name, labels),
        *_conditions(IMAGES, name, labels),
    ]
    return Owned(IMAGES, name, tuple(edges))


def of_container(id: str, snapshotter: str, snapshot: str, labels: Mapping[str, str]) -> Owned:
    edges = [Edge(ROOT, "", CONTAINERS, id, "container"), *_references(CONTAINERS, id, labels)]
    if snapshotter:
        edges.append(Edge(CONTAINERS, id, snapshots(snapshotter), snapshot, "snapshot"))
    return Owned(CONTAINERS, id, tuple(edges))


def of_ingest(ref: str, expected: str, expires: int) -> Owned:
    """`expires` in ns; 0 if a lease holds it instead."""
    edges = []
    if expires:
        edges.append(Edge(ROOT, "", INGESTS, ref, "unfinished upload", until=expires))
    if expected:
        edges.append(Edge(INGESTS, ref, CONTENT, expected, "expected"))
    return Owned(INGESTS, ref, tuple(edges))


def of_lease(id: str, labels: Mapping[str, str]) -> Owned:
    """What a lease holds stands in a table of its own."""
    until = expiry(labels, f"lease {id}")
    why = "lease" if until is None else EXPIRE
    return Owned(LEASES, id, (Edge(ROOT, "", LEASES, id, why, flat=_FLAT in labels, until=until),))


def of_sandbox(id: str, labels: Mapping[str, str]) -> Owned:
    edges = [Edge(ROOT, "", SANDBOXES, id, "sandbox"), *_forward(SANDBOXES, id, labels)]
    return Owned(SANDBOXES, id, tuple(edges))


# -- labels -------------------------------------------------------------------------------------------------


def _has_any(labels: Mapping[str, str]) -> bool:
    return any(key.startswith(_PREFIX) for key in labels)


def _rooted(kind: str, id: str, labels: Mapping[str, str]) -> Iterator[Edge]:
    # Whatever begins like the label counts, as in containerd: better one too many kept.
    for key in labels:
        if key.startswith(_ROOT):
            yield Edge(ROOT, "", kind, id, key)


def _references(kind: str, id: str, labels: Mapping[str, str]) -> Iterator[Edge]:
    yield from _forward(kind, id, labels)
    for key, value in labels.items():
        if (named := _named(key, "bref.snapshot.", _BACKWARD)) is not None:
            yield Edge(named, value, kind, id, key)


def _forward(kind: str, id: str, labels: Mapping[str, str]) -> Iterator[Edge]:
    for key, value in labels.items():
        if (named := _named(key, "ref.snapshot.", _FORWARD)) is not None:
            yield Edge(kind, id, named, value, key)


def _named(key: str, of_snapshot: str, words: Mapping[str, str]) -> str | None:
    """The kind of object that a label's value names; None if the label is none of these."""
    if not key.startswith(_PREFIX):
        return None
    rest = key[len(_PREFIX) :]
    if rest.startswith(of_snapshot):
        return snapshots(rest[len(of_snapshot) :].partition("/")[0])
    for word, kind in words.items():
        if rest.startswith(word) and rest[len(word) :][:1] in ("", ".", "/"):
            return kind
    return None


def _conditions(kind: str, id: str, labels: Mapping[str, str]) -> Iterator[Edge]:
    for key, value in labels.items():
        conditions, bar, snapshot = value.partition("|")
        if not bar or not key.startswith(_CONDITION):
            continue
        snapshotter = key[len(_CONDITION) :].lstrip("./").partition("/")[0]
        for condition in conditions.split(","):
            found = re.fullmatch(r"usedat([<>])(.*)", condition, re.DOTALL)
            span = duration(found[2]) if found else None
            if found and span is not None:
                yield Edge(kind, id, snapshots(snapshotter), snapshot, key, usedat=found[1], span=span)


def _used(labels: Mapping[str, str]) -> Iterator[int]:
    for key, value in labels.items():
        if key.startswith(_USED) and (at := moment(value)) is not None:
            yield at


def expiry(labels: Mapping[str, str], what: str) -> int | None:
    """When the object stops keeping itself, ns; None: never. `what` is for the log, should the label be bad."""
    value = labels.get(EXPIRE)
    if value is None:
        return None
    until = moment(value)
    if until is None:
        log.info("ignoring invalid expiration value", object=what, value=value)
    return until


# -- Go's times ---------------------------------------------------------------------------------------------

_MOMENT: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(text: str) -> int | None:
    """RFC 3339 as ns since the epoch, limited to 64 bits; None if it isn't."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        return None
    fraction, sign, hours, minutes = found[7], found[8], found[9], found[10]
    if hours and (int(hours) > 23 or int(minutes) > 59):
        return None
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    zone = timezone(-offset if sign == "-" else offset)
    try:
        # Year 0 exists for Go; where it was exactly doesn't matter.
        whole = datetime(max(int(found[1]), 1), *(int(found[n]) for n in range(2, 7)), tzinfo=zone)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    since = whole - _EPOCH
    nanos = int((fraction or "0")[:9].ljust(9, "0"))
    return max(-_LAST, min((since.days * 86400 + since.seconds) * 1_000_000_000 + nanos, _LAST))


_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def duration(text: str) -> int | None:
    """Go's ``1h30m`` as ns; None if it isn't one, or too long for 64 bits."""
    sign, rest = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if rest == "0":
        return 0
    total = 0
    position = 0
    while found := _PART.match(rest, position):
        whole, _, fraction = found[1].partition(".")
        unit = _UNITS[found[2]]
        total += int(whole or 0) * unit
        total += int(fraction or 0) * unit // 10 ** len(fraction)
        position = found.end()
    if not rest or position != len(rest) or total > _LAST:
        return None
    return -total if sign == "-" else total

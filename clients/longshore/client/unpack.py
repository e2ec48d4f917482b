"""From layers to snapshots: an active snapshot on the one below, Diff.Apply, a look at the DiffID, Commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from longshore.api.errors import AlreadyExists, DataLoss, NotFound

if TYPE_CHECKING:
    from longshore.api.types.descriptor_pb2 import Descriptor
    from longshore.client.client import AsyncClient
    from longshore.client.snapshots import Snapshots

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
GC_SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot"
REF_LABEL = "containerd.io/snapshot.ref"


class Step(NamedTuple):
    """One layer on its way: `diff_id` is the digest of its tar, `chain_id` the name of the snapshot it becomes."""

    layer: Descriptor
    diff_id: str
    chain_id: str
    parent: str


async def unpack_layer(client: AsyncClient, snapshotter: str, step: Step) -> None:
    """Make the layer a snapshot. One that somebody else made meanwhile serves as well. Raises DataLoss."""
    snapshots = client.snapshots(snapshotter)
    key, labels = _key(step), {REF_LABEL: step.chain_id}
    try:
        mounts = await snapshots.prepare(key, step.parent, labels)
    except AlreadyExists:
        await snapshots.stat(step.chain_id)
        return
    try:
        applied = await client.diffs.apply(step.layer, mounts)
        if applied.digest != step.diff_id:
            raise DataLoss(
                f"layer {step.layer.digest} has DiffID {applied.digest}, not {step.diff_id}: data loss"
            )
        await snapshots.commit(step.chain_id, key, labels)
    except BaseException as error:
        await _remove(snapshots, key)
        if not isinstance(error, AlreadyExists):
            raise
    await client.content.label(step.layer.digest, {UNCOMPRESSED_LABEL: step.diff_id})


async def holds_snapshot(client: AsyncClient, snapshotter: str, step: Step) -> bool:
    """Whether the layer's snapshot exists; if so it belongs to the client's lease from now on.

    Stat wouldn't do that: a Prepare that names the snapshot (snapshot.ref) and is refused does.
    """
    snapshots = client.snapshots(snapshotter)
    try:
        await snapshots.stat(step.chain_id)
        key = _key(step)
        await snapshots.prepare(key, step.parent, {REF_LABEL: step.chain_id})
    except NotFound:
        return False
    except AlreadyExists:
        return True
    await _remove(snapshots, key)  # it was collected between the two calls
    return False


async def first_missing(client: AsyncClient, snapshotter: str, steps: Sequence[Step]) -> int:
    """How many layers, from the bottom, are snapshots already; from now on the client's lease has them."""
    for count in range(len(steps), 0, -1):
        if await holds_snapshot(client, snapshotter, steps[count - 1]):
            return count
    return 0


def is_extraction(key: str) -> bool:
    """Whether an active snapshot is a layer that is being unpacked."""
    return key.startswith("extract-")


def _key(step: Step) -> str:
    import secrets  # and with it random and hmac, which only an unpacking client needs

    return f"extract-{time.time_ns() % 1_000_000_000}-{secrets.token_urlsafe(3)} {step.chain_id}"


async def _remove(snapshots: Snapshots, key: str) -> None:
    try:
        await snapshots.remove(key)
    except NotFound:
        pass


async def label_config(client: AsyncClient, snapshotter: str, config: str, top: str) -> None:
    """The image's snapshots live as long as its configuration does."""
    await client.content.label(config, {f"{GC_SNAPSHOT_LABEL}.{snapshotter}": top})

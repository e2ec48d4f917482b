"""Which stream processors a layer passes through: ``[stream_processors.ID]`` of config.toml.

accepts = ["application/vnd.oci.image.layer.v1.tar+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar"
path    = "/usr/bin/ctd-decoder"     # absolute, or found on PATH by the worker
args    = []
env     = []                         # empty: the daemon's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api import errors
from longshore.containerd.diff import mediatypes

_LONGEST_CHAIN: Final = 16


class Processor(NamedTuple):
    id: str
    accepts: tuple[str, ...]
    returns: str
    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]


def configured(tables: Mapping[str, Mapping[str, Any]]) -> tuple[Processor, ...]:
    """Raises InvalidArgument for a table that is no processor."""
    return tuple(_processor(id, tables[id]) for id in sorted(tables))


def _processor(id: str, table: Mapping[str, Any]) -> Processor:
    lists = {key: table.get(key, []) for key in ("accepts", "args", "env")}
    words = {key: table.get(key, "") for key in ("returns", "path")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise errors.InvalidArgument(
            f"stream_processors.{id}: accepts, args and env are lists: invalid argument"
        )
    if not all(isinstance(value, str) and value for value in words.values()) or not lists["accepts"]:
        raise errors.InvalidArgument(
            f"stream_processors.{id} needs accepts, returns and path: invalid argument"
        )
    return Processor(
        id,
        tuple(map(str, lists["accepts"])),
        words["returns"],
        words["path"],
        tuple(map(str, lists["args"])),
        tuple(map(str, lists["env"])),
    )


def plan(
    media_type: str, processors: Sequence[Processor], payloads: Mapping[str, AnyMessage]
) -> tuple[list[dict[str, Any]], str]:
    """The programs that a layer passes through, as `longshore.layers.processors` takes them, and the compression
    of what comes out. Raises Error (Unknown) where no way leads to a layer that we can read."""
    programs: list[dict[str, Any]] = []
    while not mediatypes.is_layer(media_type):
        found = next((each for each in processors if media_type in each.accepts), None)
        if found is None or len(programs) == _LONGEST_CHAIN:
            raise errors.Error(
                f"failed to get stream processor for {media_type}: no processor for media-type"
            )
        payload = payloads[found.id].SerializeToString().hex() if found.id in payloads else ""
        programs.append(
            {
                "path": found.path,
                "args": list(found.args),
                "env": list(found.env),
                "media_type": media_type,
                "payload": payload,
            }
        )
        media_type = found.returns
    return programs, mediatypes.compression_of_layer(media_type)

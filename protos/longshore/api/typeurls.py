"""google.protobuf.Any as containerd packs it.

The type URL is the bare full name ("containerd.events.TaskExit"), without the
``type.googleapis.com/`` that `Any.Pack` would put before it; readers accept
both, because they look at the last path segment only. Go types that are no
messages travel as JSON below the fixed URLs here.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
LINUX_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"


def pack(message: Message) -> Any:
    """Wrap a message under its bare full name."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def type_name(any_: Any) -> str:
    """The full name of the message inside, whatever prefix the URL has."""
    return any_.type_url.rpartition("/")[2]

"""Which runtime a container asks for, as containerd wants to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.any_pb2 import Any as AnyMessage

from longshore.api import typeurls
from longshore.api.errors import InvalidArgument, Unimplemented
from longshore.client import defaults

if TYPE_CHECKING:
    from longshore.dockerd.config import Config

STOCK: Final = ("", "runc", "io.containerd.runc.v2")


class Runtime(NamedTuple):
    name: str
    """Of the shim."""
    binary: str = ""
    """Of a runtime that speaks runc's language; "" is the shim's own choice."""

    def packed(self) -> AnyMessage | None:
        if not self.binary:
            return None
        from longshore.api.types.runc.options import oci_pb2

        return typeurls.pack(oci_pb2.Options(binary_name=self.binary))


def find(config: Config, name: str) -> Runtime:
    """The name of a container's, of daemon.json's `runtimes`, or of a shim. Raises InvalidArgument."""
    wanted = name or config.default_runtime
    entry = config.runtimes.get(wanted)
    if entry is not None:
        if entry.runtime_args:
            raise Unimplemented(
                f"runtime {wanted}: runtimeArgs are not supported: write a script that has them"
            )
        binary = entry.path or str((entry.options or {}).get("BinaryName", ""))
        return Runtime(entry.runtime_type or defaults.RUNTIME, binary)
    if wanted in STOCK:
        return Runtime(defaults.RUNTIME)
    if wanted.startswith(("io.containerd.", "/")):
        return Runtime(wanted)
    raise InvalidArgument(f"unknown or invalid runtime name: {wanted}")

"""A service's methods on a channel, from its descriptor: what generated stubs do, without importing grpc for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor


class Stub:
    """Calls by name, each made when it is first asked for."""

    def __init__(self, file: FileDescriptor, service: str, channel: Any) -> None:
        self._service = file.services_by_name[service]
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        method = self._service.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f"{self._service.full_name} has no method {name!r}")
        sides = (method.client_streaming, method.server_streaming)
        make = getattr(self._channel, "_".join("stream" if many else "unary" for many in sides))
        call = make(
            f"/{self._service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        self.__dict__[name] = call
        return call


def stub(file: FileDescriptor, service: str, channel: Any) -> Any:
    """`service` of a .proto file (``..._pb2.DESCRIPTOR``). Say of which generated stub's type it is, where you keep it.

    Raises KeyError when there is no such service in the file.
    """
    return Stub(file, service, channel)

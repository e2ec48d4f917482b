"""Where a transfer comes from and where it goes to, out of the request's Anys; and how a registry is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from longshore.api import errors
from longshore.api.types.platform_pb2 import Platform as PlatformMessage
from longshore.api.types.transfer.imagestore_pb2 import ImageStore
from longshore.api.types.transfer.importexport_pb2 import ImageExportStream, ImageImportStream
from longshore.api.types.transfer.registry_pb2 import (
    AuthRequest,
    AuthResponse,
    AuthType,
    OCIRegistry,
    RegistryResolver,
)
from longshore.api.typeurls import type_name
from longshore.containerd.streaming.bytestream import decoded
from longshore.containerd.streaming.streams import Stream
from longshore.registry.credentials import Credentials, Provider, anonymous
from longshore.registry.hosts import Settings
from longshore.registry.platforms import Platform

if TYPE_CHECKING:
    from longshore.registry.client import Options

Endpoint = OCIRegistry | ImageStore | ImageImportStream | ImageExportStream

_KINDS: Final[dict[str, type[Message]]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (OCIRegistry, ImageStore, ImageImportStream, ImageExportStream)
}


def endpoint(message: Any, role: str) -> Message:
    """Raises InvalidArgument for one that is missing or malformed, Unimplemented for an unknown kind."""
    if not message.type_url:
        raise errors.InvalidArgument(f"transfer needs a {role}: invalid argument")
    kind = _KINDS.get(type_name(message))
    if kind is None:
        raise errors.Unimplemented(f"transfer {role} {message.type_url}: not implemented")
    try:
        return kind.FromString(message.value)
    except DecodeError:
        raise errors.InvalidArgument(f"malformed {role} {message.type_url}: invalid argument") from None


def registry_options(
    resolver: RegistryResolver, reference: str, folder: str, auth: Stream | None, trace: Stream | None
) -> Options:
    """How to reach the registry. `folder` is the daemon's own hosts directory, for requests that name none."""
    from longshore.registry.client import Options

    settings = Settings(resolver.host_dir or folder, plain_http=resolver.default_scheme == "http")
    provider = asking(auth, reference) if auth is not None else anonymous
    log = _Log(trace) if trace is not None else None
    return Options(settings, provider, headers=tuple(resolver.headers.items()), trace=log)


def asking(stream: Stream, reference: str) -> Provider:
    """Ask the client on the other end of `stream` who we are, once for each host."""
    known: dict[str, Credentials | None] = {}

    async def provide(host: str) -> Credentials | None:
        if host not in known:
            stream.send(AuthRequest(host=host, reference=reference))
            known[host] = _credentials(await stream.receive())
        return known[host]

    return provide


def _credentials(answer: Any | None) -> Credentials | None:
    if answer is None:
        return None
    response = decoded(answer, AuthResponse)
    match response.authType:
        case AuthType.NONE:
            return None
        case AuthType.CREDENTIALS:
            return Credentials(response.username, response.secret)
        case AuthType.REFRESH:
            return Credentials("", response.secret)
        case _:
            raise errors.Unimplemented(
                "authentication by a ready-made header is not supported, send credentials: not implemented"
            )


class _Log:
    """Lines for the client's logs stream; it keeps no more than it can send."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __call__(self, text: str) -> None:
        from longshore.api.types.transfer.streaming_pb2 import Data

        if not self._stream.ended and self._stream.waiting < 1000:
            self._stream.send(Data(data=f"{text}\n".encode()))


def platform_of(message: PlatformMessage) -> Platform:
    return Platform(message.os, message.architecture, message.variant)

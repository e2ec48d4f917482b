"""Builds the content store and its service. Setting ``content_sharing_policy`` of the metadata part as containerd's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from longshore.api.errors import InvalidArgument
from longshore.api.services.content.v1.content_pb2_grpc import add_ContentServicer_to_server
from longshore.containerd.content.files import Files
from longshore.containerd.content.local import ISOLATED, SHARED, LocalContent
from longshore.containerd.content.service import ContentService

if TYPE_CHECKING:
    from longshore.containerd.builtins import Exports, Kit


def build_store(kit: Kit) -> Exports:
    policy = str(kit.config.plugin("io.containerd.metadata.v1.bolt").get("content_sharing_policy", SHARED))
    if policy not in (SHARED, ISOLATED):
        raise InvalidArgument(f"unknown content sharing policy {policy}: invalid argument")
    root = kit.directories.plugin_root("io.containerd.content.v1", "content")
    store = LocalContent(_files(kit, root), kit.store, policy, kit.holds)
    kit.stack.callback(store.close)
    kit.content = store
    return {"root": str(root)}


def _files(kit: Kit, root: Path) -> Files:
    """Ours, or those behind the one proxy plugin of type content. Raises InvalidArgument for two of them."""
    proxies = {name: proxy for name, proxy in kit.config.proxy_plugins.items() if proxy.type == "content"}
    if not proxies:
        return Files(root)
    if len(proxies) > 1:
        raise InvalidArgument(
            f"one content store is used, not {', '.join(sorted(proxies))}: invalid argument"
        )
    import grpc

    from longshore.containerd.proxies.content import RemoteFiles
    from longshore.containerd.proxies.plugin import OPTIONS, target

    ((name, proxy),) = proxies.items()
    channel = grpc.insecure_channel(target(name, proxy), options=OPTIONS)
    kit.stack.callback(channel.close)
    return RemoteFiles(root, name, channel)


def build_service(kit: Kit) -> None:
    add_ContentServicer_to_server(ContentService(kit.content), kit.server)  # type: ignore[arg-type]

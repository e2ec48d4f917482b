"""The gRPC server on TCP: with client certificates, without any, and with files that aren't there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import trustme
from google.protobuf.empty_pb2 import Empty

from longshore.api.services.version.v1.version_pb2_grpc import VersionStub
from longshore.containerd.config import TCP, parse
from support import process
from support.daemon import Longshore
from support.registry import free_port

CONFIG = """version = 2
[grpc]
tcp_address = "localhost:{port}"
tcp_tls_cert = "{folder}/cert"
tcp_tls_key = "{folder}/key"
tcp_tls_ca = "{folder}/ca"
"""


def test_clients_with_a_certificate_are_served_and_no_others(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours = authority.issue_cert("localhost")
    (tmp_path / "cert").write_bytes(ours.cert_chain_pems[0].bytes())
    (tmp_path / "key").write_bytes(ours.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    port, root = free_port(), authority.cert_pem.bytes()
    pair = (ours.private_key_pem.bytes(), ours.cert_chain_pems[0].bytes())
    with Longshore(config=CONFIG.format(port=port, folder=tmp_path)):
        assert asyncio.run(_version(port, grpc.ssl_channel_credentials(root, *pair)))
        with pytest.raises(grpc.aio.AioRpcError):
            asyncio.run(_version(port, grpc.ssl_channel_credentials(root)))


async def _version(port: int, credentials: grpc.ChannelCredentials) -> str:
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        return (await VersionStub(channel).Version(Empty(), timeout=60)).version


def test_files_that_are_not_there_stop_it(tmp_path: Path) -> None:
    daemon = Longshore(config=CONFIG.format(port=free_port(), folder=tmp_path))
    with pytest.raises(process.NotReady, match="No such file"), daemon:
        pass


def test_both_places_in_the_configuration() -> None:
    old = {"version": 2, "grpc": {"tcp_address": "a:1", "tcp_tls_ca": "c"}}
    new = {"version": 4, "plugins": {"io.containerd.server.v1.grpc-tcp": {"address": "a:1", "tls_ca": "c"}}}
    assert parse(old).tcp == parse(new).tcp == TCP("a:1", ca="c")

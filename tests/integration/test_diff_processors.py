"""Stream processors: a layer through other people's programs, by Apply; what comes out, and what is said on failure."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any

from longshore.api import errors
from longshore.api.services.diff.v1.diff_pb2 import ApplyRequest
from longshore.api.services.diff.v1.diff_pb2_grpc import DiffStub
from longshore.api.types.descriptor_pb2 import Descriptor
from longshore.api.types.mount_pb2 import Mount
from longshore.containerd.scope import Scope
from support.daemon import NO_COLLECTION, Longshore
from support.layers import digest, layer, member
from support.remote import RemoteContent, ask, channel

pytestmark = pytest.mark.root

OCI = "application/vnd.oci.image.layer.v1.tar"
SHIFTED, TWICE, LOUD, SILENT = (f"{OCI}+{kind}" for kind in ("shifted", "twice", "loud", "silent"))
LAYER = layer(member("etc/hello", data=b"hello" * 1000))

# Every byte is one less afterwards; "twice" also writes the payload that it was given into a file.
TR = r"""'tr', '\001-\377\000', '\000-\377'"""
CONFIG = f"""{NO_COLLECTION}
[stream_processors.shifted]
accepts = ["{SHIFTED}"]
returns = "{OCI}"
path = "sh"
args = ["-c", 'test "$STREAM_PROCESSOR_MEDIATYPE" = "{SHIFTED}" && test "$A" = b && exec "$0" "$@"', @TR@]
env = ["A=b", "PATH=/usr/bin:/bin", "LC_ALL=C"]

[stream_processors.twice]
accepts = ["{TWICE}"]
returns = "{SHIFTED}"
path = "sh"
args = ["-c", 'cat <&3 > "$0"; export LC_ALL=C; exec "$@"', "@PAYLOAD@", @TR@]

[stream_processors.loud]
accepts = ["{LOUD}"]
returns = "{OCI}"
path = "sh"
args = ["-c", "echo the key is missing >&2; exit 3"]

[stream_processors.silent]
accepts = ["{SILENT}"]
returns = "{OCI}"
path = "/nowhere/decoder"

[stream_processors.round]
accepts = ["{OCI}+round"]
returns = "{OCI}+round"
path = "cat"
"""


@pytest.fixture(scope="module")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("payload") / "seen"


@pytest.fixture(scope="module")
def daemon(payload: Path) -> Iterator[Longshore]:
    with Longshore(config=CONFIG.replace("@PAYLOAD@", str(payload)).replace("@TR@", TR)) as running:
        yield running


class Client:
    def __init__(self, daemon: Longshore, target: Path) -> None:
        self.scope, self._daemon, self._target = Scope(f"p{uuid.uuid4().hex[:10]}"), daemon, target

    async def apply(self, data: bytes, media_type: str, **payloads: Any) -> Descriptor:
        async with channel(self._daemon.address) as opened:
            content = RemoteContent(opened)
            writer = await content.writer(self.scope, f"ref{uuid.uuid4()}")
            await writer.write(data)
            await writer.commit(len(data), "", {})
            await writer.close()
            mounts = [Mount(type="bind", source=str(self._target), options=["rbind", "rw"])]
            blob = Descriptor(media_type=media_type, digest=digest(data), size=len(data))
            request = ApplyRequest(diff=blob, mounts=mounts, payloads=payloads)
            applied: Descriptor = (await ask(DiffStub(opened).Apply, request, self.scope)).applied
            return applied


@pytest.fixture
async def client(daemon: Longshore, tmp_path: Path) -> AsyncIterator[Client]:
    yield Client(daemon, tmp_path)


def shifted(data: bytes, times: int = 1) -> bytes:
    return data.translate(bytes((byte + times) % 256 for byte in range(256)))


async def test_one(client: Client, tmp_path: Path) -> None:
    applied = await client.apply(shifted(LAYER), SHIFTED)
    assert (tmp_path / "etc/hello").read_bytes() == b"hello" * 1000
    assert (applied.digest, applied.size, applied.media_type) == (digest(LAYER), len(LAYER), OCI)


async def test_two_and_a_payload(client: Client, tmp_path: Path, payload: Path) -> None:
    given = Any(type_url="x/key", value=b"secret")
    await client.apply(shifted(LAYER, 2), TWICE, twice=given)
    assert (tmp_path / "etc/hello").read_bytes() == b"hello" * 1000
    assert Any.FromString(await asyncio.to_thread(payload.read_bytes)) == given


@pytest.mark.parametrize(
    ("media_type", "words"),
    [
        (LOUD, "stream processor sh: exit status 3: the key is missing"),
        (SILENT, "stream processor /nowhere/decoder: No such file or directory"),
        (f"{OCI}+unknown", "no processor for media-type"),
        (f"{OCI}+round", "no processor for media-type"),
    ],
)
async def test_failures(client: Client, tmp_path: Path, media_type: str, words: str) -> None:
    with pytest.raises(errors.Error, match=words):
        await client.apply(LAYER, media_type)
    assert not (tmp_path / "etc").exists()


async def test_bad_layer_behind_a_good_processor(client: Client) -> None:
    with pytest.raises(errors.Error, match="failed to apply layer"):
        await client.apply(b"no tar\n" * 1000, SHIFTED)

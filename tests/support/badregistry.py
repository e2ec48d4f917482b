"""A registry of the tests' own, on loopback, that serves images from memory and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any

from aiohttp import web

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

HANGS = 60  # seconds, when it does

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class BadRegistry:
    """``async with BadRegistry() as registry``: `blobs` and `tags` are what it has, `faults` what it does instead.

    A fault sees every request first; answering None it lets the next one see
    it, and the last of all the honest registry. `requests` is what was asked.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.tags: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.requests: list[web.Request] = []
        self.sent: Counter[str] = Counter()
        self.uploads: dict[str, bytearray] = {}
        self._tls = tls
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{rest:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> BadRegistry:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.address = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    # -- what it has ------------------------------------------------------------------------------------------

    def add(self, data: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
        """Store a blob; its descriptor."""
        digest = digest_of(data)
        self.blobs[digest] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_image(self, tag: str, layers: list[bytes], diff_ids: list[str], **config: Any) -> dict[str, Any]:
        """An OCI image of gzipped `layers`; the descriptor of its manifest."""
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            **config,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.add(json.dumps(image).encode(), OCI_CONFIG),
            "layers": [self.add(layer, OCI_LAYER) for layer in layers],
        }
        found = self.add(json.dumps(manifest).encode(), OCI_MANIFEST)
        self.tags[tag] = found["digest"]
        return found

    # -- serving ----------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        for fault in list(self.faults):
            answer = await fault(request)
            if answer is not None:
                return answer
        return await self.honest(request)

    async def honest(self, request: web.Request) -> web.StreamResponse:
        kind, name = self.asked(request)
        if kind == "uploads":
            return await self._upload(request, name)
        if request.method == "PUT" and kind == "manifests":
            data = await request.read()
            found = self.add(data, request.content_type)
            self.tags[name] = found["digest"]
            return web.Response(status=201, headers={"Docker-Content-Digest": found["digest"]})
        digest = self.tags.get(name, name)
        if digest not in self.blobs:
            body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(body, status=404)
        media_type, data = self.blobs[digest]
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(data))})
        return await self.send(request, data, headers)

    async def send(
        self,
        request: web.Request,
        data: bytes,
        headers: dict[str, str],
        *,
        drop_after: int | None = None,
        hang_after: int | None = None,
    ) -> web.StreamResponse:
        """`data` or the part asked for; breaking or hanging after so many bytes of the answer."""
        start = request.http_range.start or 0
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        response.content_length = len(body)
        await response.prepare(request)
        stop = min(x for x in (drop_after, hang_after, len(body)) if x is not None)
        for at in range(0, stop, 1 << 16):
            await response.write(body[at : min(at + (1 << 16), stop)])
        self.sent[self.asked(request)[1]] += stop
        if hang_after is not None:
            await asyncio.sleep(HANGS)
        if drop_after is not None and request.transport is not None:
            await asyncio.sleep(0.01)  # lets what was written reach the peer
            request.transport.abort()
        return response

    @staticmethod
    def asked(request: web.Request) -> tuple[str, str]:
        """("manifests", tag or digest), ("blobs", digest), ("uploads", id), or ("", "") for anything else."""
        parts = request.path.split("/")
        if "uploads" in parts:
            return "uploads", parts[-1]
        return (parts[-2], parts[-1]) if parts[-2] in ("manifests", "blobs") else ("", "")

    async def _upload(self, request: web.Request, name: str) -> web.StreamResponse:
        base = request.path.rpartition("/")[0]
        if request.method == "POST":
            mounted = request.query.get("mount", "")
            if mounted in self.blobs:
                return web.Response(status=201, headers={"Location": f"{base}/done"})
            name = str(len(self.uploads))
            self.uploads[name] = bytearray()
            return web.Response(status=202, headers={"Location": f"{base}/{name}?state=a"})
        if name not in self.uploads:
            return web.Response(status=404)
        held = self.uploads[name]
        if request.method in ("PATCH", "PUT"):
            start = request.headers.get("Content-Range", "").partition("-")[0]
            if start and int(start) != len(held):
                return web.Response(status=416)
            held += await request.read()
        if request.method == "PUT":
            found = self.add(bytes(held))
            good = found["digest"] == request.query["digest"]
            return web.Response(status=201 if good else 400)
        headers = {"Location": f"{base}/{name}?state=b", "Range": f"0-{max(len(held) - 1, 0)}"}
        return web.Response(status=204 if request.method == "GET" else 202, headers=headers)


# -- faults ---------------------------------------------------------------------------------------------------


def times(count: int, kind: str, answer: Fault) -> Fault:
    """`answer` for the first `count` requests of `kind` ("manifests", "blobs", "uploads"), then nothing."""
    left = iter(range(count))

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if BadRegistry.asked(request)[0] != kind or next(left, None) is None:
            return None
        return await answer(request)

    return fault


def statuses(kind: str, numbers: Iterator[int], **headers: str) -> Fault:
    """One status after the other until there are no more."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        if BadRegistry.asked(request)[0] != kind:
            return None
        number = next(numbers, None)
        return web.Response(status=number, headers=headers) if number else None

    return fault

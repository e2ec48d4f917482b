"""Image verifiers: programs in a folder, each of which must agree before an image is pulled.

The contract is containerd's ``io.containerd.image-verifier.v1.bindir``: every
executable is run with ``-name``, ``-digest`` and ``-stdin-media-type``, gets
the descriptor as JSON on stdin, and says yes by status 0. What it prints on
stdout is the reason.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Final, NamedTuple

import structlog

from longshore.api import errors
from longshore.registry.documents import Descriptor

log = structlog.get_logger("image-verifier")

_STDIN: Final = "application/vnd.oci.descriptor.v1+json"
_REASON: Final = 1 << 14  # bytes of what a verifier prints that we pass on


class BinDir(NamedTuple):
    """`most`: how many programs are run (-1: all); `timeout`: of each, in seconds."""

    folder: str
    most: int = 10
    timeout: float = 10.0

    async def verify(self, name: str, target: Descriptor) -> None:
        """Raises PermissionDenied when a program says no or can't be asked. A missing folder says yes."""
        for program in await asyncio.to_thread(self._programs):
            status, reason = await self._ask(program, name, target)
            if status != 0:
                text = reason.strip() or f"exit status {status}"
                raise errors.PermissionDenied(
                    f"image verifier {os.path.basename(program)} blocked pull of {name} with digest"
                    f" {target.digest} for reason: {text}: permission denied"
                )
            log.debug("image verified", program=program, name=name, reason=reason.strip())

    def _programs(self) -> list[str]:
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        paths = [os.path.join(self.folder, name) for name in names]
        found = [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)]
        return found if self.most < 0 else found[: self.most]

    async def _ask(self, program: str, name: str, target: Descriptor) -> tuple[int, str]:
        descriptor = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                *("-name", name, "-digest", target.digest, "-stdin-media-type", _STDIN),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            return -1, f"it can't be run: {(error.strerror or str(error)).lower()}"
        try:
            async with asyncio.timeout(self.timeout):
                output, _ = await process.communicate(json.dumps(descriptor).encode())
        except TimeoutError:
            return -1, f"it did not answer within {self.timeout:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, output[:_REASON].decode(errors="replace")

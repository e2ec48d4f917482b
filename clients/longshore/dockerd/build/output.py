"""What a build says: lines of JSON to a client."""

from __future__ import annotations

import codecs
from typing import Any

from longshore.dockerd.http import Call, Streamed

_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class Output:
    """Begins the answer with the first line; what fails before it has a status of its own.

    `quiet` keeps everything back: a failure shows it, else only the image's ID is said.
    """

    def __init__(self, call: Call, quiet: bool) -> None:
        self._call, self._quiet = call, quiet
        self._stream: Streamed | None = None
        self._kept: list[Any] = []
        self._decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")
        }

    @property
    def begun(self) -> bool:
        return self._stream is not None

    async def line(self, document: Any) -> None:
        """One document."""
        if self._quiet:
            self._kept.append(document)
        else:
            await self._write(document)

    async def say(self, text: str) -> None:
        """A piece of text for the client's terminal."""
        await self.line({"stream": text})

    async def step(self, number: int, count: int, code: str) -> None:
        await self.say(f"Step {number}/{count} : {code}")
        await self.say("\n")

    async def printed(self, stream: str, data: bytes) -> None:
        """What a RUN prints; its errors are red."""
        text = self._decoders[stream].decode(data)
        if text:
            await self.say(f"{_RED}{text}{_PLAIN}" if stream == "stderr" else text)

    async def end_printed(self) -> None:
        """What is left of a broken character."""
        for decoder in self._decoders.values():
            if rest := decoder.decode(b"", final=True):
                await self.say(rest)
            decoder.reset()

    async def image(self, image_id: str) -> None:
        """For programs: the ID of what was built."""
        await self.line({"aux": {"ID": image_id}})

    async def done(self, image_id: str) -> None:
        """The end of a quiet build."""
        if self._quiet:
            await self._write({"stream": f"{image_id}\n"})

    async def failed(self, message: str, code: int) -> None:
        """The last line of one that failed after it had begun to speak."""
        for document in self._kept:
            await self._write(document)
        detail: dict[str, Any] = {"code": code} if code else {}
        await self._write({"errorDetail": {**detail, "message": message}, "error": message})

    @property
    def kept(self) -> bool:
        return bool(self._kept)

    async def _write(self, document: Any) -> None:
        if self._stream is None:
            self._stream = await self._call.stream()
        await self._stream.line(document)

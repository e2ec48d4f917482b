"""News of a transfer on the client's progress stream. A client that doesn't read loses news, not the transfer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from longshore.api import errors
from longshore.api.types.transfer.progress_pb2 import Progress as Message
from longshore.containerd.streaming.streams import Stream
from longshore.containerd.transfer.oci import ingest_ref, message_of
from longshore.registry.documents import Descriptor

_INTERVAL: Final = 0.1  # seconds between two of a blob that differ in their number only
_PILE: Final = 4096  # unsent messages


class Progress:
    """`stream` None: nobody wants to know."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._last: dict[str, float] = {}

    def say(self, event: str, name: str = "", blob: Descriptor | None = None) -> None:
        """Something that happened once."""
        self._send(Message(event=event, name=name, desc=message_of(blob) if blob else None))

    def blob(self, event: str, blob: Descriptor, done: int = 0, parents: Sequence[str] = ()) -> None:
        """How far a blob has come, in bytes; repeated words are thinned out."""
        name, now = ingest_ref(blob), time.monotonic()
        if done and done < blob.size and now - self._last.get(name, 0.0) < _INTERVAL:
            return
        self._last[name] = now
        self._send(
            Message(
                event=event,
                name=name,
                parents=parents,
                progress=done,
                total=blob.size,
                desc=message_of(blob),
            )
        )

    def close(self) -> None:
        """The last word is said."""
        if self._stream is not None:
            self._stream.close()

    def _send(self, message: Message) -> None:
        if self._stream is not None and self._stream.waiting < _PILE:
            with suppress(errors.Unavailable):
                self._stream.send(message)

"""The keys that leave a terminal without ending what runs in it, without I/O."""

from __future__ import annotations

from typing import Final, NamedTuple

from longshore.api.errors import InvalidArgument

DEFAULT: Final = bytes([16, 17])  # ctrl-p, ctrl-q
_CONTROL: Final = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse(keys: str) -> bytes:
    """ "ctrl-p,ctrl-q" or "a,b" as bytes; "" is the default. Raises InvalidArgument."""
    return bytes(_key(word) for word in keys.split(",")) if keys else DEFAULT


def _key(word: str) -> int:
    if len(word) == 1:
        return ord(word) & 0xFF
    name = word.removeprefix("ctrl-")
    if name != word and len(name) == 1:
        if "a" <= name <= "z":
            return ord(name) - ord("a") + 1
        if name in _CONTROL:
            return _CONTROL[name]
    raise InvalidArgument(f"Invalid detach keys: Unknown character: '{word}'")


class Filtered(NamedTuple):
    data: bytes
    """What goes on to the process."""
    detached: bool


class Watcher:
    """Finds the keys in typed input, also across blocks.

    What may be the beginning of the sequence is held back; if it goes on
    differently, it is passed on then.
    """

    def __init__(self, keys: bytes = DEFAULT) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> Filtered:
        passed = bytearray()
        for byte in data:
            if byte != self._keys[self._matched]:
                passed += self._keys[: self._matched]
                self._matched = 0
            if byte != self._keys[self._matched]:
                passed.append(byte)
                continue
            self._matched += 1
            if self._matched == len(self._keys):
                return Filtered(bytes(passed), True)
        return Filtered(bytes(passed), False)

    def rest(self) -> bytes:
        """At the end of the input: what was held back."""
        held, self._matched = self._keys[: self._matched], 0
        return held

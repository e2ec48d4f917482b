"""Command lines: flags as runc's, parsed by twenty lines instead of argparse (10 ms)."""

from __future__ import annotations

from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOOL = "bool"
VALUE = "value"
LIST = "list"


class UsageError(RuntimeFailure):
    """The command line can't be understood."""


class Call:
    """One invocation of a verb: ``root`` and the other global flags, the verb's flags and its arguments."""

    def __init__(
        self,
        root: str,
        systemd_cgroup: bool,
        values: dict[str, list[str]],
        arguments: list[str],
        criu: str = "",
    ) -> None:
        self.root = root
        self.criu = criu
        self.systemd_cgroup = systemd_cgroup
        self.arguments = arguments
        self._values = values

    def on(self, name: str) -> bool:
        """A BOOL flag."""
        return self._values.get(name, ["false"])[-1] == "true"

    def value(self, name: str, default: str = "") -> str:
        """A VALUE flag."""
        return self._values.get(name, [default])[-1]

    def has(self, name: str) -> bool:
        """Whether a flag was given."""
        return name in self._values

    def all(self, name: str) -> list[str]:
        """A LIST flag: every occurrence."""
        return self._values.get(name, [])

    def number(self, name: str) -> int:
        """A VALUE flag as a number, 0 if absent."""
        return number(name, self.value(name, "0"))


def number(name: str, text: str) -> int:
    """A decimal number; UsageError names the flag. (int() alone also takes spaces, underscores and more.)"""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits.isascii() or not digits.isdecimal():
        raise UsageError(f'invalid value "{text}" for flag -{name}: parse error')
    return int(text, 10)


def parse(words: Sequence[str], flags: Mapping[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Split ``words`` into flags and, from the first word that is none, arguments.

    ``flags``: "name alias": kind. ``--name=x``, ``--name x``, ``-name x`` and ``--`` mean what they mean to runc.
    """
    known = {alias: (names.split()[0], kind) for names, kind in flags.items() for alias in names.split()}
    values: dict[str, list[str]] = {}
    index = 0
    while index < len(words):
        word = words[index]
        if not word.startswith("-") or word == "-":
            break
        index += 1
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name not in known:
            raise UsageError(f"flag provided but not defined: -{name}")
        name, kind = known[name]
        if kind == BOOL:
            value = value if equals else "true"
            if value not in ("true", "false"):
                raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
        elif not equals:
            if index >= len(words):
                raise UsageError(f"flag needs an argument: -{name}")
            value = words[index]
            index += 1
        values.setdefault(name, []).append(value)
    return values, list(words[index:])


def expect(call: Call, verb: str, least: int, most: int | None) -> None:
    """UsageError unless there are between ``least`` and ``most`` (None: any number of) arguments."""
    count = len(call.arguments)
    if least == most and count != least:
        raise UsageError(f'runc: "{verb}" requires exactly {least} argument(s)')
    if count < least:
        raise UsageError(f'runc: "{verb}" requires a minimum of {least} argument(s)')
    if most is not None and count > most:
        raise UsageError(f'runc: "{verb}" requires a maximum of {most} argument(s)')

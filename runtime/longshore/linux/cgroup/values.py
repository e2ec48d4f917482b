"""Reading the kernel's control files: numbers, "key value" lists, and what "max" means."""

from __future__ import annotations

from longshore.linux import files

MAX = 2**64 - 1


def text(path: str) -> str:
    """The file's content without the newline; "" if there is no such file (controllers differ by kernel)."""
    try:
        return files.read_bounded(path).decode().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno in (95, 6, 19):  # EOPNOTSUPP, ENXIO, ENODEV: there, but it can't say
            return ""
        raise


def number(path: str, default: int = 0) -> int:
    """One number; "max" is 2^64-1."""
    return parse(text(path), default)


def parse(word: str, default: int = 0) -> int:
    """A number as the kernel writes it."""
    if word == "max":
        return MAX
    return int(word) if word.lstrip("-").isdigit() else default


def table(path: str) -> dict[str, int]:
    """Lines of "key number"."""
    return {
        key: int(value)
        for key, value in (line.split(None, 1) for line in text(path).splitlines() if " " in line)
    }

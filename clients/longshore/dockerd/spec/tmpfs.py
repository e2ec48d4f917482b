"""tmpfs mounts: `--tmpfs /path:options` and `--mount type=tmpfs`."""

from __future__ import annotations

from typing import Any, Final

from longshore.api.errors import InvalidArgument
from longshore.dockerd.records import MountPoint, TmpfsOptions

_DEFAULTS: Final = ("noexec", "nosuid", "nodev", "rprivate")

# An option and what it replaces; the last one said wins.
_OPPOSITES: Final = {
    "exec": "noexec",
    "suid": "nosuid",
    "dev": "nodev",
    "rw": "ro",
    "sync": "async",
    "mand": "nomand",
    "atime": "noatime",
    "diratime": "nodiratime",
}
_PAIRS: Final = _OPPOSITES | {opposite: option for option, opposite in _OPPOSITES.items()}
_PROPAGATIONS: Final = frozenset(
    prefix + kind for prefix in ("", "r") for kind in ("private", "shared", "slave", "unbindable")
)
_MORE: Final = frozenset(("defaults", "relatime", "norelatime", "strictatime", "nostrictatime", "remount"))
_VALUES: Final = frozenset(("mode", "uid", "gid", "size", "nr_inodes", "nr_blocks", "mpol"))

_UNITS: Final = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"))


def mount(target: str, text: str) -> dict[str, Any]:
    """Of `--tmpfs target:text`. Raises InvalidArgument."""
    return _mount(target, merge(_DEFAULTS, [word for word in text.split(",") if word]))


def _mount(target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}


def merge(defaults: tuple[str, ...], words: list[str]) -> list[str]:
    """The defaults and then the words; a later word takes out what it contradicts or says again."""
    unknown = [word for word in words if not _known(*word.partition("=")[::2])]
    if unknown:
        quoted = " ".join(f'"{word}"' for word in unknown)
        raise InvalidArgument(f"invalid tmpfs option [{quoted}]")
    merged: dict[str, str] = {}
    for word in [*defaults, *words]:
        key = word.partition("=")[0]
        if key == "defaults":
            continue
        merged.pop(_PAIRS.get(key, ""), None)
        place = "propagation" if key in _PROPAGATIONS else key
        merged.pop(place, None)
        merged[place] = word
    return list(merged.values())


def _known(key: str, value: str) -> bool:
    if value:
        return key in _VALUES
    return key in _PAIRS or key in _PROPAGATIONS or key in _MORE


def of_spec(point: MountPoint) -> dict[str, Any]:
    """Of a `--mount type=tmpfs`."""
    wishes = (point.spec.tmpfs_options if point.spec else None) or TmpfsOptions()
    words = [] if point.writable else ["ro"]
    if wishes.mode:
        words.append(f"mode={wishes.mode:o}")
    if wishes.size_bytes:
        words.append(f"size={_size(wishes.size_bytes)}")
    words += ["=".join(option) for option in wishes.options or ()]
    return _mount(point.target, merge(_DEFAULTS, words))


def _size(size: int) -> str:
    for unit, letter in _UNITS:
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)

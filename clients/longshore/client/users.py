"""Who a user name is inside a root file system that isn't mounted.

An image may say ``USER www``. The answer stands in the /etc/passwd of its
snapshot; we read it through the snapshot's mounts layer by layer, without
mounting and without following a link, so that a hostile image can't send us
to the host's files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from longshore.api.errors import InvalidArgument, NotFound
from longshore.api.types.mount_pb2 import Mount

MAX_ID = 2**31 - 1  # containerd's limit, too
LIMIT = 4 << 20  # bytes of a passwd or group file that we are ready to read


class User(NamedTuple):
    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()


def layers(mounts: Sequence[Mount]) -> list[str]:
    """The directories behind a snapshot's mount, topmost first. Raises InvalidArgument for an unknown type."""
    if len(mounts) != 1:
        raise InvalidArgument("cannot look into a snapshot of several mounts: invalid argument")
    mount = mounts[0]
    if mount.type in ("bind", "rbind"):
        return [mount.source]
    if mount.type != "overlay":
        raise InvalidArgument(f"cannot look into a snapshot of type {mount.type}: invalid argument")
    options = dict(option.partition("=")[::2] for option in mount.options)
    upper = [options["upperdir"]] if "upperdir" in options else []
    return [*upper, *(path for path in options.get("lowerdir", "").split(":") if path)]


def read_file(roots: Sequence[str], path: str) -> bytes:
    """A regular file as the union of the directories shows it; b"" when there is none."""
    parts = path.strip("/").split("/")
    for root in roots:
        found = _read_in(root, parts)
        if found is not None:
            return found
    return b""


def _read_in(root: str, parts: Sequence[str]) -> bytes | None:
    """b"" when this layer hides the file (whiteout or something irregular), None when a lower layer decides."""
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            try:
                status = os.stat(part, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                return None
            last = part is parts[-1]
            if not (stat.S_ISREG if last else stat.S_ISDIR)(status.st_mode):
                return b""
            flags = os.O_RDONLY | os.O_NONBLOCK if last else os.O_PATH | os.O_DIRECTORY
            inner = os.open(part, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        return os.read(at, LIMIT)
    finally:
        os.close(at)


def _rows(table: bytes) -> list[list[str]]:
    rows = [line.split(":") for line in table.decode("utf-8", "replace").splitlines()]
    return [row for row in rows if len(row) >= 4 and _is_id(row[2])]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_ID


def _number(text: str) -> int | None:
    """A user or group given as a number; None for a name. What looks like a number is never looked up as a name."""
    if not text.isascii() or not text.isdecimal():
        return None
    if not _is_id(text):
        raise InvalidArgument(f"user or group {text}: ids end at {MAX_ID}: invalid argument")
    return int(text)


def resolve(user: str, passwd: bytes = b"", group: bytes = b"") -> User:
    """``name``, ``uid``, ``name:group``, ``uid:gid``. Raises NotFound for a name that the tables don't know.

    A number needs no entry. Groups that list the user as a member are added
    when no group is named. The tables are the image's: a user there with the
    name "1000" and the uid 0 must not make root of who asks for uid 1000
    (CVE-2026-46680), nor an id too large for the kernel's 32 bits wrap around
    to it (CVE-2024-40635).
    """
    name, colon, group_name = user.partition(":")
    number = _number(name)
    rows = _rows(passwd)
    row = next((row for row in rows if (row[0] == name if number is None else int(row[2]) == number)), None)
    if row is None and number is None:
        raise NotFound(f"user {name!r} in the image's /etc/passwd: not found")
    uid = int(row[2]) if row is not None else number or 0
    if colon:
        return User(uid, _group(group_name, group))
    gid = int(row[3]) if row is not None and _is_id(row[3]) else 0
    login = row[0] if row is not None else ""
    members = tuple(int(entry[2]) for entry in _rows(group) if login and login in entry[3].split(","))
    return User(uid, gid, members)


def _group(name: str, group: bytes) -> int:
    number = _number(name)
    if number is not None:
        return number
    for row in _rows(group):
        if row[0] == name:
            return int(row[2])
    raise NotFound(f"group {name!r} in the image's /etc/group: not found")


def resolve_in(user: str, roots: Sequence[str]) -> User:
    """`resolve` with the tables of a root file system given as its layers."""
    return resolve(user, read_file(roots, "etc/passwd"), read_file(roots, "etc/group"))

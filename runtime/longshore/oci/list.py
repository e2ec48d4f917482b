"""list: the containers below a root."""

from __future__ import annotations

import os
import sys

from longshore.linux import files
from longshore.oci import codec, state
from longshore.oci.cli import BOOL, VALUE
from longshore.oci.errors import RuntimeFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from longshore.oci.cli import Call

FLAGS = {"format f": VALUE, "quiet q": BOOL}
ARGUMENTS = (0, 0)
_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def containers(root: str) -> list[dict[str, Any]]:
    """What ``runc list`` prints of each container, by id."""
    shown = []
    for container in state.load_all(root):
        entry = container.show()
        entry["owner"] = owner_name(container.record["owner_uid"])
        shown.append(entry)
    return shown


def owner_name(uid: int) -> str:
    """The name of a user of the host, ``#uid`` if it has none. (Read by ourselves: pwd loads libraries.)"""
    try:
        lines = files.read_bounded("/etc/passwd").decode(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            return fields[0]
    return f"#{uid}"


def main(call: Call) -> int:
    """``runc list [--format table|json] [--quiet]``"""
    found = containers(os.path.abspath(call.root))
    form = call.value("format", "table")
    if call.on("quiet"):
        sys.stdout.write("".join(f"{entry['id']}\n" for entry in found))
    elif form == "json":
        sys.stdout.write(codec.dumps(found) + "\n" if found else "null\n")
    elif form == "table":
        rows = [[str(entry[key]) for key in _COLUMNS] for entry in found]
        sys.stdout.write(table([[key.upper() for key in _COLUMNS], *rows]))
    else:
        raise RuntimeFailure("invalid format option")
    return 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, at least 12 wide, as Go's tabwriter makes them."""
    widths = [max(12, *(len(row[i]) + 3 for row in rows)) for i in range(len(rows[0]))]
    lines = (
        "".join(word.ljust(width) for word, width in zip(row[:-1], widths, strict=False)) + row[-1]
        for row in rows
    )
    return "\n".join(lines) + "\n"

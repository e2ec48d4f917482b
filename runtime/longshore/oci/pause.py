"""pause: freeze every process of a container."""

from __future__ import annotations

from longshore.oci import state
from longshore.oci.errors import RuntimeFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.cli import Call


def pause(root: str, id: str) -> None:
    """Freeze; WrongState if it isn't running (or created)."""
    container = state.load(root, id)
    container.require("pause")
    try:
        container.cgroup.freeze()
    except OSError as error:
        raise RuntimeFailure(explain(error)) from None


FLAGS: dict[str, str] = {}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc pause ID``"""
    pause(call.root, call.arguments[0])
    return 0

"""resume: let the frozen processes of a container go on."""

from __future__ import annotations

from longshore.oci import state
from longshore.oci.errors import RuntimeFailure, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from longshore.oci.cli import Call


def resume(root: str, id: str) -> None:
    """Thaw; WrongState if it isn't paused."""
    container = state.load(root, id)
    container.require("resume")
    try:
        container.cgroup.thaw()
    except OSError as error:
        raise RuntimeFailure(explain(error)) from None


FLAGS: dict[str, str] = {}
ARGUMENTS = (1, 1)


def main(call: Call) -> int:
    """``runc resume ID``"""
    resume(call.root, call.arguments[0])
    return 0

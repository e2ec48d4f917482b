"""The namespace header, the lease header, and what a valid identifier is.

The wording of the errors is containerd's: clients and their tests grep it.
"""

from __future__ import annotations

import re

from longshore.api.errors import FailedPrecondition, InvalidArgument

GRPC_HEADER = "containerd-namespace"
TTRPC_HEADER = "containerd-namespace-ttrpc"
LEASE_HEADER = "containerd-lease"
DEFAULT = "default"

MAX_IDENTIFIER = 76
_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*", re.ASCII)
_PATTERN = r"^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"


def validate_identifier(identifier: str) -> None:
    """Check a namespace, container, exec or sandbox id or an event topic's component.

    1 to 76 bytes: runs of ASCII letters and digits, joined by single dots,
    hyphens or underscores. Raises InvalidArgument.
    """
    if not identifier:
        raise InvalidArgument("identifier must not be empty: invalid argument")
    if len(identifier) > MAX_IDENTIFIER:
        raise InvalidArgument(
            f'identifier "{identifier}" greater than maximum length ({MAX_IDENTIFIER} characters): invalid argument'
        )
    if _IDENTIFIER.fullmatch(identifier) is None:
        raise InvalidArgument(f'identifier "{identifier}" must match {_PATTERN}: invalid argument')


def require_namespace(namespace: str | None) -> str:
    """The caller's namespace. Raises FailedPrecondition when absent, InvalidArgument when malformed."""
    if not namespace:
        raise FailedPrecondition("namespace is required: failed precondition")
    try:
        validate_identifier(namespace)
    except InvalidArgument as error:
        raise InvalidArgument(f"namespace validation: {error.message}") from None
    return namespace

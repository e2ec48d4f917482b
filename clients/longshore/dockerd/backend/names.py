"""Container IDs and names: made, checked, found by what a client calls them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from longshore.api.errors import InvalidArgument

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ADJECTIVES: Final = (
    "able amber bold brave breezy bright brisk calm careful cheerful civil clear clever cosy crisp curious "
    "daring deft eager earnest easy fair fancy fleet fluent fond frank fresh gentle glad golden graceful "
    "handy happy hardy hazel honest humble jolly keen kind lively loyal lucid lucky mellow merry mild modest "
    "neat nimble noble patient placid plucky polite proud quick quiet rapid ready regal robust rosy sage "
    "serene sharp silver sincere sleek smart snug sober solid steady still sturdy sunny swift tidy tranquil "
    "trusty upbeat vivid warm wise witty zesty"
)
_NOUNS: Final = (
    "anchor barge bay beacon berth boat bollard bosun bow breaker brig buoy cabin canal capstan cargo clipper "
    "coast compass coral cove crane current cutter deck delta derrick dinghy dock dory dune ebb ferry fjord "
    "fleet flotilla fog galley gangway gull gulf halyard harbour hatch hawser helm hold hull inlet island "
    "jetty kayak keel ketch knot lagoon lantern lighthouse lock lugger mainsail marina mast mooring oar pearl "
    "pier pilot pontoon port quay raft reef rigging rudder sailor schooner shoal shore skiff sloop spinnaker "
    "stern strait tide tiller trawler tug wake wharf wave whaler winch yacht yawl"
)


def new_id() -> str:
    """64 hex digits; never one whose short form is a number, which clients could take for a PID or a count."""
    while True:
        found = secrets.token_hex(32)
        if not found[:12].isdigit():
            return found


def generate(taken: Callable[[str], bool]) -> str:
    """A name that nobody has."""
    for attempt in range(6):
        name = f"{secrets.choice(_ADJECTIVES.split())}_{secrets.choice(_NOUNS.split())}"
        if attempt:
            name += str(secrets.randbelow(10**attempt))
        if not taken(name):
            return name
    return secrets.token_hex(6)


def check(name: str) -> str:
    """The name without its leading slash. Raises InvalidArgument."""
    bare = name.removeprefix("/")
    if not _VALID.fullmatch(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare

"""What can be wrong with a layer, as opposed to with this machine (that is OSError)."""

from __future__ import annotations


class InvalidLayer(Exception):
    """The bytes are no layer, or one that we refuse: truncated, malformed, hostile. The text is for the user."""

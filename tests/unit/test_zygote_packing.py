"""What is allocated after the holes are filled lies together."""

from __future__ import annotations

import subprocess
import sys

_PAGES = """
import os, sys
from longshore.zygote import packing

scattered = [bytes(31) for _ in range(20000)]
del scattered[::7]
if sys.argv[1] == "fill":
    packing.fill_holes()
fresh = [bytes(31) for _ in range(640)]
print(len({id(each) >> 12 for each in fresh}))
"""


def pages(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PAGES, mode], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return int(done.stdout)


def test_fresh_allocations_lie_together() -> None:
    """640 blocks of 64 bytes are ten pages; with holes about, they are on many more."""
    assert pages("leave") > 40
    assert pages("fill") <= 16

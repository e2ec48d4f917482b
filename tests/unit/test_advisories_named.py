"""ADVISORIES.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_every_attack_named_is_a_test() -> None:
    text = (PROJECT / "runtime/longshore/oci/ADVISORIES.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = (path.read_text() for path in (PROJECT / "tests").rglob("test_*.py"))
    defined = {
        name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)
    }
    assert len(named) > 25
    assert not named - defined


def test_every_row_is_attacked() -> None:
    attackable = (PROJECT / "runtime/longshore/oci/ADVISORIES.md").read_text().partition("## Not here")[0]
    rows = [line for line in attackable.splitlines() if re.match(r"\| [CGoi]", line)]
    assert rows
    assert not [row for row in rows if "`test_" not in row and not row.startswith("| advisory")]

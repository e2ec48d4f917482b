"""Tables, sizes, ages, and durations."""

from __future__ import annotations

import click
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.ctr import tables
from longshore.ctr.leases import duration


def test_columns_are_padded_to_the_widest() -> None:
    assert tables.render(("A", "LONG"), [("xxx", "y")]) == "A   LONG \nxxx y    \n"
    assert tables.render(("A",), [], padding=4) == "A    \n"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 B"), (1024, "1.0 KiB"), (8222720, "7.8 MiB"), (1 << 50, "1024.0 TiB")]
)
def test_binary_sizes(count: int, text: str) -> None:
    assert tables.binary_size(count) == text


@pytest.mark.parametrize(("count", "text"), [(420, "420B"), (8223232, "8.223MB"), (1000, "1kB")])
def test_decimal_sizes(count: int, text: str) -> None:
    assert tables.decimal_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "Less than a second"),
        (1, "1 second"),
        (41, "41 seconds"),
        (60, "About a minute"),
        (420, "7 minutes"),
        (3600, "About an hour"),
        (2 * 86400, "2 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert tables.age(seconds) == text


def test_times() -> None:
    assert tables.rfc3339(Timestamp(seconds=1795501158, nanos=776780774)) == "2026-11-24T06:19:18.776780774Z"
    assert tables.rfc3339(Timestamp(seconds=1795501158, nanos=500000000)) == "2026-11-24T06:19:18.5Z"
    assert tables.rfc3339(Timestamp(seconds=1795501158)) == "2026-11-24T06:19:18Z"


def test_labels() -> None:
    assert tables.labels({"b": "2", "a": "1"}) == "a=1,b=2"
    assert tables.labels({}) == "-"


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("1h30m", 5400), ("90s", 90), ("0", 0), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_bad_duration() -> None:
    with pytest.raises(click.BadParameter):
        duration("soon")

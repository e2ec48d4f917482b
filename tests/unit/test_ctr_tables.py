"""Tables, sizes, ages, and durations."""

from __future__ import annotations

import click
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.api.events.container_pb2 import ContainerCreate
from longshore.api.events.namespace_pb2 import NamespaceCreate
from longshore.api.events.task_pb2 import TaskExit
from longshore.ctr import tables
from longshore.ctr.documents import document
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


def test_messages_as_json() -> None:
    """Payloads of unknown types stay as they are: protobuf's converter would refuse the whole event."""
    made = ContainerCreate(id="c", runtime=ContainerCreate.Runtime(name="r"))
    made.runtime.options.type_url = "nobody.knows.this"
    made.runtime.options.value = b"x"
    assert document(made) == {
        "id": "c",
        "runtime": {"name": "r", "options": {"type_url": "nobody.knows.this", "value": "eA=="}},
    }
    ended = TaskExit(container_id="c", pid=7, exited_at=Timestamp(seconds=1))
    assert document(ended) == {"container_id": "c", "pid": 7, "exited_at": "1970-01-01T00:00:01Z"}
    created = NamespaceCreate(name="n", labels={"b": "2", "a": "1"})
    assert document(created) == {"name": "n", "labels": {"a": "1", "b": "2"}}

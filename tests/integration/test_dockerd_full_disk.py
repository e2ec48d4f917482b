"""dockerd's own files on a disk that is full, and on the same disk when there is room again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.dockerd.events import Events
from longshore.dockerd.logs.drivers import JSONFile
from longshore.dockerd.logs.rotation import Limits
from longshore.dockerd.state import Delete, Put, State
from longshore.linux.mounts import Mount, mounted

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """One of two megabytes."""
    root = tmp_path / "disk"
    root.mkdir()
    with mounted([Mount("tmpfs", "tmpfs", ("size=2m",))], str(root)):
        yield root


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with open(filler, "ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    return filler


async def test_what_is_recorded_can_be_removed(disk: Path) -> None:
    document = "x" * 1000
    with State(str(disk / "state")) as state:
        for number in range(50):
            await state.commit(Put("thing", str(number), document))
        filler = fill(disk)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            for number in range(50, 500):
                await state.commit(Put("thing", str(number), document))
        kept = set(state.load("thing", str))
        for number in range(10):
            await state.commit(Delete("thing", str(number)))
        assert set(state.load("thing", str)) == kept - {str(number) for number in range(10)}
        filler.unlink()
        await state.commit(Put("thing", "new", document))
    with State(str(disk / "state")) as state:
        assert "new" in state.load("thing", str) and "3" not in state.load("thing", str)


async def test_the_journal_of_events_goes_on(disk: Path) -> None:
    path = disk / "events"
    events = Events(str(path))
    events.publish("volume", "create", "before", {})
    filler = fill(disk)
    for number in range(100):
        events.publish("volume", "create", str(number), {})
    events.close()
    events = Events(str(path))  # dockerd starts on the full disk
    events.publish("volume", "create", "still full", {})
    filler.unlink()
    events.publish("volume", "create", "after", {})
    events.close()
    again = Events(str(path))
    again.close()
    names = [json.loads(line)["Actor"]["ID"] for line in path.read_text().splitlines()]
    assert names[0] == "before" and names[-1] == "after"


@pytest.mark.parametrize("files", [1, 3])
def test_a_log_loses_whole_records(disk: Path, files: int) -> None:
    """None is cut, and a rotation that found no room happens when there is some."""
    path = disk / "log"
    driver = JSONFile(str(path), Limits(100_000, files), "")
    number = 0

    def write(count: int) -> None:
        nonlocal number
        for _ in range(count):
            driver.write("stdout", b"%d\n" % number, True)
            number += 1

    write(10)
    filler = fill(disk)
    write(3000)
    filler.unlink()
    write(3000)
    driver.close()
    found = []
    for file in sorted(disk.glob("log*"), reverse=True):
        found += [int(json.loads(line)["log"]) for line in file.read_text().splitlines()]
    assert found == sorted(found) and found[-1] == number - 1

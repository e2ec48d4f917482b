"""Numbering and keeping events: what stands in the bundle, and when it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.api.events.task_pb2 import TaskExit
from longshore.api.services.exits.v1.exits_pb2 import ReportRequest
from longshore.shim.events import Journal, Outbox


@pytest.fixture
def errors() -> list[BaseException]:
    return []


@pytest.fixture
def outbox(errors: list[BaseException]) -> Outbox:
    made = Outbox(errors.append)
    made.begin("default")
    return made


def kept(bundle: Path) -> list[int]:
    data, found = (bundle / "events").read_bytes(), []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(ReportRequest.FromString(data[4 : 4 + length]).sequence)
        data = data[4 + length :]
    return found


def test_a_record_is_in_the_file_before_it_can_be_sent(tmp_path: Path, outbox: Outbox) -> None:
    record = outbox.add(Journal(str(tmp_path)), "/tasks/exit", TaskExit(id="c"))
    assert (tmp_path / "events").read_bytes() == len(record).to_bytes(4, "big") + record
    assert outbox.unacknowledged() == [record]


def test_the_file_is_emptied_when_all_of_its_own_are_acknowledged(tmp_path: Path, outbox: Outbox) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (Journal(str(folder)) for folder in folders)
    for journal in (first, second, first):
        outbox.add(journal, "/tasks/exit", TaskExit())
    assert (kept(folders[0]), kept(folders[1])) == ([1, 3], [2])
    outbox.acknowledge(2)
    assert (kept(folders[0]), kept(folders[1])) == ([1, 3], [])
    assert len(outbox) == 1
    outbox.acknowledge(3)
    assert kept(folders[0]) == [] and len(outbox) == 0


def test_a_removed_bundle_hurts_nobody(tmp_path: Path, outbox: Outbox, errors: list[BaseException]) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    journal = Journal(str(bundle))
    outbox.add(journal, "/tasks/delete", TaskExit())
    (bundle / "events").unlink()
    bundle.rmdir()
    journal.close()
    outbox.acknowledge(1)
    assert not errors and not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_sent_all_the_same(
    tmp_path: Path, outbox: Outbox, errors: list[BaseException]
) -> None:
    journal = Journal(str(tmp_path / "missing"))
    record = outbox.add(journal, "/tasks/exit", TaskExit())
    assert outbox.unacknowledged() == [record] and len(errors) == 1
    outbox.acknowledge(1)
    assert len(outbox) == 0


def test_a_full_disk_leaves_whole_records(
    tmp_path: Path, outbox: Outbox, errors: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path))
    outbox.add(journal, "/tasks/exit", TaskExit())
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:10]))
    outbox.add(journal, "/tasks/exit", TaskExit())
    monkeypatch.undo()
    outbox.add(journal, "/tasks/exit", TaskExit())
    assert kept(tmp_path) == [1, 3] and len(errors) == 1
    outbox.acknowledge(3)
    assert kept(tmp_path) == []

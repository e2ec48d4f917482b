"""Restart labels: what they ask for."""

from __future__ import annotations

import pytest

from longshore.containerd.restart.policy import Deed, Task, decide, restarts

P = "containerd.io/restart."
UP, ENDED, FAILED = Task(True), Task(False), Task(False, 1)


@pytest.mark.parametrize(
    ("labels", "task", "deed"),
    [
        ("", FAILED, Deed.NOTHING),
        ("status=running", UP, Deed.NOTHING),
        ("status=running", ENDED, Deed.START),
        ("status=running policy=always explicitly-stopped=true", ENDED, Deed.START),
        ("status=running policy=no", FAILED, Deed.NOTHING),
        ("status=running policy=strange", FAILED, Deed.NOTHING),
        ("status=running policy=unless-stopped", ENDED, Deed.START),
        ("status=running policy=unless-stopped explicitly-stopped=true", ENDED, Deed.NOTHING),
        ("status=running policy=on-failure", ENDED, Deed.NOTHING),
        ("status=running policy=on-failure", FAILED, Deed.START),
        ("status=running policy=on-failure:2 count=1", FAILED, Deed.START),
        ("status=running policy=on-failure:2 count=2", FAILED, Deed.NOTHING),
        ("status=stopped", UP, Deed.STOP),
        ("status=stopped", ENDED, Deed.NOTHING),
    ],
)
def test_what_labels_ask_for(labels: str, task: Task, deed: Deed) -> None:
    pairs = {f"{P}{key}": value for key, _, value in (word.partition("=") for word in labels.split())}
    assert decide(pairs, task) == deed


def test_a_count_that_is_none() -> None:
    assert [restarts({f"{P}count": text}) for text in ("", "x", "-1", "3", "9" * 50)] == [0, 0, 0, 3, 0]

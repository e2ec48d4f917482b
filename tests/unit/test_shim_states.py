"""The table of states, and the words for what it doesn't allow."""

from __future__ import annotations

from typing import get_args

import pytest

from longshore.api.errors import Error, NotFound
from longshore.shim import states

ALLOWED = {
    "created": {"start", "delete", "kill", "exec", "update", "resize"},
    "running": {"pause", "kill", "exec", "update", "checkpoint", "resize"},
    "paused": {"resume", "kill", "update", "checkpoint", "resize"},
    "stopped": {"delete"},
}


@pytest.mark.parametrize("state", get_args(states.State))
@pytest.mark.parametrize("verb", get_args(states.Verb))
def test_init(state: states.State, verb: states.Verb) -> None:
    if verb in ALLOWED[state]:
        states.check(states.INIT, state, verb)
    else:
        with pytest.raises(Error):
            states.check(states.INIT, state, verb)


@pytest.mark.parametrize(
    ("state", "verb", "words"),
    [
        ("running", "start", "cannot start a running process"),
        ("running", "delete", "cannot delete a running process"),
        ("created", "pause", "cannot pause task in created state"),
        ("stopped", "exec", "cannot exec in a stopped state"),
        ("paused", "exec", "cannot exec in a paused state"),
    ],
)
def test_words_have_no_class(state: states.State, verb: states.Verb, words: str) -> None:
    with pytest.raises(Error, match=words) as caught:
        states.check(states.INIT, state, verb)
    assert caught.value.code == 2


@pytest.mark.parametrize("table", [states.INIT, states.EXEC])
def test_kill_after_the_end_is_not_found(table: dict[states.State, frozenset[states.Verb]]) -> None:
    with pytest.raises(NotFound, match="process already finished"):
        states.check(table, "stopped", "kill")


def test_every_state_has_a_status() -> None:
    assert set(states.STATUS) == set(get_args(states.State)) == set(states.INIT) == set(states.EXEC)

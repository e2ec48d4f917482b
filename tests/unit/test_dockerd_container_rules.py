"""The rules of containers that need no daemon: restarts, detaching, frames, names, times, health, filters."""

from __future__ import annotations

import pytest

from longshore.api.errors import Error, InvalidArgument, NotFound
from longshore.dockerd.backend import (
    detach,
    failures,
    frames,
    health,
    names,
    restart,
    runtimes,
    signals,
    times,
)
from longshore.dockerd.config import Config, Runtime
from longshore.dockerd.errors import HTTPStatus
from longshore.dockerd.records import (
    ContainerConfig,
    Health,
    HealthConfig,
    HealthResult,
    RestartPolicy,
)

# -- frames


def test_a_frame_has_its_stream_and_length_in_eight_bytes() -> None:
    assert frames.frame("stdout", b"hi\n") == b"\x01\0\0\0\0\0\0\x03hi\n"
    assert frames.frame("stderr", b"") == b"\x02\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("terminal", "version", "expected"),
    [
        (True, (1, 48), frames.RAW),
        (False, (1, 48), frames.MULTIPLEXED),
        (False, (1, 42), frames.MULTIPLEXED),
        (False, (1, 41), frames.RAW),
    ],
)
def test_the_content_type_says_whether_there_are_frames(
    terminal: bool, version: tuple[int, int], expected: str
) -> None:
    assert frames.content_type(terminal, version) == expected


# -- detach keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-a", b"\x01"),
        ("ctrl-z,q", b"\x1aq"),
        ("ctrl-@,ctrl-[,ctrl-_", b"\x00\x1b\x1f"),
    ],
)
def test_keys_by_name(text: str, keys: bytes) -> None:
    assert detach.parse(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-aa", "shift-a", "a,,b"])
def test_unknown_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        detach.parse(text)


def test_the_keys_are_found_across_blocks_and_not_passed_on() -> None:
    watcher = detach.Watcher(b"\x10\x11")
    assert watcher.feed(b"ls\n\x10") == (b"ls\n", False)
    assert watcher.feed(b"\x11rest") == (b"", True)


def test_what_only_looked_like_the_keys_is_passed_on() -> None:
    watcher = detach.Watcher(b"\x10\x11")
    assert watcher.feed(b"a\x10") == (b"a", False)
    assert watcher.feed(b"b") == (b"\x10b", False)
    assert watcher.feed(b"\x10\x10\x11") == (b"\x10", True)


def test_at_the_end_what_was_held_back_is_passed_on() -> None:
    watcher = detach.Watcher(b"\x10\x11")
    watcher.feed(b"\x10")
    assert watcher.rest() == b"\x10"


# -- restart policies


@pytest.mark.parametrize(
    ("name", "limit", "code", "stopped", "restarts", "again", "at_boot"),
    [
        ("", 0, 1, False, 0, False, False),
        ("no", 0, 1, False, 0, False, False),
        ("always", 0, 0, False, 9, True, True),
        ("always", 0, 0, True, 0, False, True),
        ("unless-stopped", 0, 0, False, 9, True, True),
        ("unless-stopped", 0, 137, True, 0, False, False),
        ("on-failure", 0, 0, False, 0, False, False),
        ("on-failure", 0, 1, False, 99, True, True),
        ("on-failure", 3, 1, False, 2, True, True),
        ("on-failure", 3, 1, False, 3, False, False),
        ("on-failure", 0, 137, True, 0, False, False),
    ],
)
def test_which_policy_brings_a_container_back(
    name: str, limit: int, code: int, stopped: bool, restarts: int, again: bool, at_boot: bool
) -> None:
    policy = RestartPolicy(name=name, maximum_retry_count=limit)
    assert restart.wanted(policy, code, stopped, restarts) is again
    assert restart.wanted_at_boot(policy, code, stopped, restarts) is at_boot


def test_delays_double_up_to_a_minute_and_begin_again_after_a_long_run() -> None:
    backoff = restart.Backoff()
    assert [backoff.next(0.1) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff.next(10) == 0.1
    for _ in range(20):
        last = backoff.next(1)
    assert last == restart.LONGEST_DELAY


# -- failed starts


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        ('exec: "x": executable file not found in $PATH: unknown', 127, 400),
        ("exec /x: no such file or directory", 127, 400),
        ('exec: "/etc": permission denied', 126, 400),
        ('exec: "/etc": is a directory', 126, 400),
        ("mount /a:/b: not a directory", 127, 400),
        ("cgroup: device or resource busy", 128, 500),
    ],
)
def test_a_failed_start_has_the_shells_exit_code(words: str, code: int, status: int) -> None:
    error = failures.translate(Error(f"OCI runtime create failed: {words}"))
    assert (failures.code_of(error), HTTPStatus.of(error)) == (code, status)
    assert words in error.message


def test_a_failure_that_is_not_the_commands_is_128() -> None:
    assert failures.code_of(NotFound("no such file or directory, says the network")) == 128


def test_a_wrong_mount_gets_a_hint() -> None:
    error = failures.translate(Error("mounting: not a directory"))
    assert "Are you trying to mount a directory onto a file" in error.message


# -- times


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (1_700_000_000 * times.SECOND, "2023-11-14T22:13:20Z"),
        (1_700_000_000 * times.SECOND + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000 * times.SECOND + 1, "2023-11-14T22:13:20.000000001Z"),
    ],
)
def test_times_are_written_as_go_writes_them(time_ns: int, text: str) -> None:
    assert times.rfc3339(time_ns) == text


def test_log_stamps_have_nine_digits() -> None:
    assert times.fixed(1_700_000_000 * times.SECOND) == "2023-11-14T22:13:20.000000000Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("1700000000", 1_700_000_000 * times.SECOND),
        ("1700000000.000000001", 1_700_000_000 * times.SECOND + 1),
        ("1700000000.5", 1_700_000_000 * times.SECOND + 500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * times.SECOND),
        ("2023-11-14T23:13:20.25+01:00", 1_700_000_000 * times.SECOND + 250_000_000),
        ("2023-11-14", 1_699_920_000 * times.SECOND),
        ("10m", 1_000_000 * times.SECOND - 600 * times.SECOND),
        ("1h1.5s", 1_000_000 * times.SECOND - 3601 * times.SECOND - 500_000_000),
    ],
)
def test_times_are_read_in_all_forms(text: str, expected: int) -> None:
    assert times.parse(text, now_ns=1_000_000 * times.SECOND) == expected


@pytest.mark.parametrize("text", ["yesterday", "2023-13-45", "5 m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        times.parse(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (48 * 3600, "2 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert times.ago(seconds) == words


# -- names and signals


def test_ids_have_64_digits_and_no_number_for_a_short_form() -> None:
    made = names.new_id()
    assert len(made) == 64 and not made[:12].isdigit()


def test_a_generated_name_is_free() -> None:
    taken: set[str] = set()
    for _ in range(50):
        name = names.generate(taken.__contains__)
        assert names.check(name) == name and name not in taken
        taken.add(name)


@pytest.mark.parametrize("name", ["", "/", "a", "-ab", "a b", "a/b", "ä" * 3])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        names.check(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGTERM", 15), ("sighup", 1), ("9", 9), ("RTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_signals_by_name_and_number(text: str, number: int) -> None:
    assert signals.number(text) == number


@pytest.mark.parametrize("text", ["NONSENSE", "0", "65", "TERM+1", "RTMIN+x", ""])
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid signal"):
        signals.number(text)


# -- health


def test_a_health_check_is_a_command_and_four_times() -> None:
    config = ContainerConfig(
        healthcheck=HealthConfig(test=["CMD-SHELL", "exit 1"], interval=2 * times.SECOND)
    )
    found = health.plan(config)
    assert found is not None
    assert found == (("/bin/sh", "-c", "exit 1"), 2.0, 30.0, 0.0, 5.0, 3)
    config.shell = ["/bin/bash", "-ec"]
    again = health.plan(config)
    assert again is not None and again.command == ("/bin/bash", "-ec", "exit 1")


@pytest.mark.parametrize("test", [None, [], ["NONE"], ["CMD"], ["CMD-SHELL"], ["WHAT", "x"]])
def test_no_health_check(test: list[str] | None) -> None:
    assert health.plan(ContainerConfig(healthcheck=HealthConfig(test=test))) is None
    assert health.plan(ContainerConfig()) is None


def _answers(*codes: int, starting: bool = False) -> list[tuple[str, int]]:
    found, states = Health(), []
    for code in codes:
        found = health.judged(found, HealthResult(exit_code=code), 2, starting)
        states.append((found.status, found.failing_streak))
    return states


def test_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() -> None:
    assert _answers(1, 1, 0, 1) == [("starting", 1), ("unhealthy", 2), ("healthy", 0), ("healthy", 1)]


def test_failures_while_starting_do_not_count() -> None:
    assert _answers(1, 1, 1, starting=True) == [("starting", 0)] * 3
    assert _answers(0, 1, 1, starting=True)[-1] == ("unhealthy", 2)


def test_five_answers_are_kept() -> None:
    found = Health()
    for number in range(9):
        found = health.judged(found, HealthResult(exit_code=0, output=str(number)), 3, False)
    assert [result.output for result in found.log] == ["4", "5", "6", "7", "8"]


# -- runtimes


def test_runtimes_by_name() -> None:
    config = Config(runtimes={"crun": Runtime(path="/usr/bin/crun")})
    assert runtimes.find(config, "").name == "io.containerd.runc.v2"
    assert runtimes.find(config, "crun") == ("io.containerd.runc.v2", "/usr/bin/crun")
    assert runtimes.find(config, "io.containerd.kata.v2").name == "io.containerd.kata.v2"
    with pytest.raises(InvalidArgument, match="unknown or invalid runtime name: nope"):
        runtimes.find(config, "nope")

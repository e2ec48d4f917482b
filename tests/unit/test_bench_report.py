"""The bench's pure parts: turns, figures, fits, tables, what a chart shows, the README's markers, h2load's report.

The bench itself is run by hand.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import charts, h2load, publish, report
from bench.fits import fit
from bench.machine import first_version
from bench.measure import Found, Memory, Taken, Turn, cpu_seconds, family, order, take_turns


class Fake:
    """A side whose every look at its CPU is a second later."""

    def __init__(self, name: str) -> None:
        self.name, self._seconds = name, 0.0

    def cpu(self) -> float:
        self._seconds += 1
        return self._seconds

    def memory(self) -> int:
        return 3 << 20


def taken(*turns: Sequence[float]) -> Taken:
    return Taken([list(turn) for turn in turns])


def measured(ours: float, go: float, **options: Any) -> report.Figures:
    return report.measure({"ours": taken([ours] * 2), "go": taken([go] * 2)}, **options)


def run(scenarios: Mapping[str, Mapping[str, report.Figures]]) -> report.Run:
    machine = {
        "date": "2026-01-01 00:00",
        "processor": "Z80",
        "processors": 2,
        "memory_gib": 24.0,
        "kernel": "6.1",
        "cgroup": "v2",
        "filesystem": "ext4 below /tmp",
        "versions": {"runc": "1.1"},
        "load_before": [0.1, 0, 0],
        "load_after": [1.5, 0, 0],
    }
    return {"machine": machine, "quick": False, "options": {}, "seconds": {}, "scenarios": scenarios}


LINE = {f"List of {size}": measured(size * 0.001, 0.5, series="List", size=size) for size in (10, 1000, 100)}


# -- turns ----------------------------------------------------------------------------------------------------


def test_who_is_first_changes() -> None:
    assert "".join(order(["A", "B"], 3)) == "ABBAAB"


def test_a_turn_is_charged_with_time_cpu_and_memory() -> None:
    def work(side: Fake, turn: Turn) -> None:
        assert turn.first
        with turn.timed("work", pieces=4):
            pass
        turn.took("other", 7)
        assert not turn.first

    found = take_turns([Fake("ours"), Fake("go")], 2, work)
    ours = found["work"]["ours"]
    assert (ours.cpu, ours.pieces, ours.memory, [len(turn) for turn in ours.turns]) == (2, 8, 3 << 20, [1, 1])
    assert (found["other"]["go"].turns, found["other"]["go"].memory) == ([[7], [7]], 0)


def test_coroutines_are_work_too() -> None:
    async def work(side: Fake, turn: Turn) -> None:
        turn.took("work", 1)

    found: Found = take_turns([Fake("ours")], 1, work)
    assert found["work"]["ours"].values == [1]


def test_a_slow_machine_has_fewer_rounds_but_two() -> None:
    def work(side: Fake, turn: Turn) -> None:
        turn.took("work", 1)

    found = take_turns([Fake("ours"), Fake("go")], 9, work, within=-1)
    assert [len(taken.turns) for taken in found["work"].values()] == [2, 2]


def test_cpu_by_either_version_of_cgroups(tmp_path: Path) -> None:
    assert cpu_seconds(tmp_path) is None
    (tmp_path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert cpu_seconds(tmp_path) == 2.5
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")
    assert cpu_seconds(tmp_path) == 1.5


def test_memory_and_family_of_this_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert family(os.getpid())[0] == os.getpid() and child.pid in family(os.getpid())
        found = Memory.of(os.getpid())
        assert 0 < found.private < 1 << 34 and 0 < found.pss < 1 << 34 and found.threads >= 1
        child.kill()
    assert Memory.of(child.pid) == Memory() and family(child.pid) == []


# -- figures --------------------------------------------------------------------------------------------------


def test_quantiles_are_measured_values() -> None:
    assert report.quantile([float(number) for number in range(1, 101)], 0.99) == 100
    assert report.quantile([5.0], 0.99) == 5


def test_figures_of_a_side() -> None:
    found = report.figures(Taken([[0.1, 0.2], [0.3]], cpu=0.6, pieces=3, memory=1 << 20), "ms")
    assert found == pytest.approx({"median": 200, "p99": 300, "count": 3, "cpu_ms": 200, "memory_mib": 1})


def test_ratio_and_spread_are_ours_over_gos() -> None:
    found = report.measure({"ours": taken([1], [2], [3]), "go": taken([4], [4], [4])}, aim=0.5)
    assert (found["ratio"], found["spread"]) == (0.5, [0.375, 0.625])
    assert report.reached(found) == "yes"
    assert report.reached(measured(3, 4, aim=0.5)) == "no"
    assert report.reached(measured(3, 4)) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.012"), (0.5, "0.50"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0.000")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert report.number(value) == text


# -- growth ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "exponent", "worst", "linear"),
    [
        ([1, 10, 100], 1, 1, True),
        ([5, 5, 5], 0, 0.1, True),
        ([1, 100, 10_000], 2, 10, False),
        ([1, 1, 20], 0.65, 2, False),  # a last step that the whole line hides
        ([1, 1, 12], 0.54, 1.2, True),
    ],
)
def test_fits(costs: list[float], exponent: float, worst: float, linear: bool) -> None:
    found = fit([10, 100, 1000], costs)
    assert found == pytest.approx((exponent, worst), abs=0.01)
    assert found.linear == linear


def test_a_fit_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="two at least"):
        fit([10], [1])


def test_lines_are_ordered_by_size() -> None:
    (line,) = report.growth(run({"records": LINE}))
    assert (line.name, line.sizes) == ("List", [10, 100, 1000])
    assert line.costs["ours"] == pytest.approx([10, 100, 1000])
    assert line.fits["ours"].exponent == pytest.approx(1)


# -- tables ---------------------------------------------------------------------------------------------------

RUN = run(
    {
        "run": {"ctr run": measured(0.05, 0.1, aim=0.4), "plain": measured(0.2, 0.1)},
        "records": LINE,
    }
)


def test_a_row() -> None:
    cells = report.row("run", "ctr run", RUN["scenarios"]["run"]["ctr run"], None)
    assert cells == ("ctr run", "50.0 ms (50.0)", "100 ms (100)", "", "", "0.50", "", "", "0.40", "no")


def test_others_stand_beside() -> None:
    sides = {"ours": taken([0.01]), "go": taken([0.02]), "crun": taken([0.005])}
    assert report.row("runtimes", "run", report.measure(sides), None)[2] == "20.0 ms; crun 5.00 ms"


def test_tables_name_machine_second_run_and_growth() -> None:
    text = report.markdown(RUN, run({"run": {"ctr run": measured(0.07, 0.1)}}))
    assert "Z80 (2 processors, 24 GiB), kernel 6.1, cgroup v2" in text
    assert "| ctr run | 50.0 ms (50.0) | 100 ms (100) |  |  | 0.50 |  | 0.70 | 0.40 | no |" in text
    assert "| List | 10 / 100 / 1,000 | 10.0 / 100 / 1,000 ms |" in text
    widths = {line.count("|") for line in text.split("| growth")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "second run" not in report.markdown(RUN)


def test_what_is_not_reached_is_said() -> None:
    said: list[str] = []
    report.complain(RUN, said.append)
    assert said == ["not reached: run: ctr run: 0.50 of 0.40"]


def test_scenarios_of_two_runs() -> None:
    found = report.together([RUN, run({"run": {}, "shims": {"start": measured(1, 2)}})])
    assert list(found["scenarios"]) == ["run", "records", "shims"]
    assert found["scenarios"]["run"] == RUN["scenarios"]["run"]


# -- charts ---------------------------------------------------------------------------------------------------


def test_bars() -> None:
    assert [bar.label for bar in charts.bars(RUN, aimed=True)] == ["ctr run"]
    others = charts.bars(RUN, aimed=False)
    assert [bar.label for bar in others] == ["plain", "List of 1000"]
    assert (others[0].ratio, others[0].aim) == (2, None)


# -- the README -----------------------------------------------------------------------------------------------


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n"
    once = publish.between(text, "new\n")
    assert once == f"before\n{publish.BEGIN}\n\nnew\n\n{publish.END}\nafter\n"
    assert publish.between(once, "new") == once


@pytest.mark.parametrize(
    "text", ["", publish.BEGIN, f"{publish.END} {publish.BEGIN}", publish.BEGIN * 2 + publish.END]
)
def test_markers_must_be_there(text: str) -> None:
    with pytest.raises(ValueError, match="once, in this order"):
        publish.between(text, "new")


def test_the_section_shows_charts_and_tables() -> None:
    text = publish.section(RUN, None)
    assert "docs/bench/aims-dark.svg" in text and 'src="docs/bench/growth.svg"' in text
    assert text.index("| ctr run |") < text.index("<details>")


def test_what_is_missed_says_why() -> None:
    assert (
        publish.missed(RUN, {"ctr": "It waits."})
        == "Not reached:\n\n- *ctr run* (0.50, aim 0.40): It waits.\n"
    )
    assert publish.missed(RUN, {}) == "Not reached:\n\n- *ctr run* (0.50, aim 0.40)\n"
    assert publish.missed(run({}), {}) == ""


# -- h2load ---------------------------------------------------------------------------------------------------

SAID = """finished in 12.50ms, 160 req/s, 4.3MB/s
requests: 2 total, 2 started, 2 done, 2 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 316B (316) total, 114B (114) headers (space savings 30.06%), 30B (30) data
"""
LOG = "1700000000000001\t200\t400\n1700000000000002\t200\t600\n"


def test_h2loads_report() -> None:
    found = h2load.parse(SAID, LOG, 2, 15)
    assert (found.elapsed, found.calls) == (0.0125, [0.0004, 0.0006])


@pytest.mark.parametrize(("count", "length"), [(3, 15), (2, 14)])
def test_answers_that_are_short_are_told(count: int, length: int) -> None:
    with pytest.raises(h2load.Wrong, match="2 of"):
        h2load.parse(SAID, LOG, count, length)


def test_frames() -> None:
    assert h2load.framed(b"abc") == b"\0\0\0\0\3abc"


# -- the machine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", "1.6.20~ds1"),
        ("Docker version 20.10.24+dfsg1, build 297e128", "20.10.24+dfsg1"),
        ("runc version 1.1.5+ds1", "1.1.5+ds1"),
        ("nothing", "?"),
    ],
)
def test_versions(text: str, version: str) -> None:
    assert first_version(text) == version

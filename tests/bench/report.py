"""From what was taken to figures, and from figures to tables.

A run is a JSON document: ``{"machine", "options", "seconds", "scenarios": {scenario: {measure: figures}}}``. Figures
of a measure: its unit, for each side median, p99, count, CPU milliseconds and
memory, the ratio ours/Go of the medians with the middle half of the rounds' own
ratios, and the aim. A ratio is a cost: less is better, in every row.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.fits import Fit, fit
from bench.measure import Found, Taken

Run = Mapping[str, Any]
Figures = dict[str, Any]
MEBI = 1 << 20
SCALES = {"s": 1.0, "ms": 1e3, "us": 1e6, "MiB": 1 / MEBI, "": 1.0}  # from seconds, bytes, or a number
SIDES = ("ours", "go")


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them lie: no interpolation, so p99 of few values is the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def figures(taken: Taken, unit: str) -> dict[str, float]:
    values, scale = taken.values, SCALES[unit]
    found = {
        "median": statistics.median(values) * scale,
        "p99": quantile(values, 0.99) * scale,
        "count": len(values),
    }
    if taken.pieces and taken.cpu:
        found["cpu_ms"] = taken.cpu / taken.pieces * 1000
    if taken.memory:
        found["memory_mib"] = taken.memory / MEBI
    return found


def spread(ours: Taken, go: Taken) -> list[float]:
    """Where the middle half of the rounds' own ratios lies: lower and upper quartile."""
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(ours.turns, go.turns, strict=False)]
    if len(ratios) < 2:
        return ratios * 2
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive")
    return [quartiles[0], quartiles[2]]


def measure(
    sides: Mapping[str, Taken], *, unit: str = "ms", aim: float | None = None, series: str = "", size: int = 0
) -> Figures:
    """`series` and `size` say that this is one point of a line that shows growth."""
    found: Figures = {"unit": unit, **{name: figures(taken, unit) for name, taken in sides.items()}}
    found["ratio"] = found["ours"]["median"] / found["go"]["median"]
    found["spread"] = spread(sides["ours"], sides["go"])
    if aim is not None:
        found["aim"] = aim
    if series:
        found["series"], found["size"] = series, size
    return found


def measures(
    found: Found, *, aims: Mapping[str, float] | None = None, units: Mapping[str, str] | None = None
) -> dict[str, Figures]:
    """All that turns have found; `units` are those that aren't "ms"."""
    aims, units = aims or {}, units or {}
    return {
        name: measure(sides, unit=units.get(name, "ms"), aim=aims.get(name)) for name, sides in found.items()
    }


# -- growth ---------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One cost by size, of both sides."""

    name: str
    unit: str
    sizes: list[int]
    costs: dict[str, list[float]]
    fits: dict[str, Fit]
    cpu: dict[str, Fit]  # of the CPU milliseconds, where every size has them


def growth(run: Run) -> list[Line]:
    """The lines of a run; a series with one size only is none."""
    points: dict[str, dict[int, Figures]] = {}
    for _, _, found in each(run):
        if "series" in found:
            points.setdefault(found["series"], {})[found["size"]] = found
    lines = []
    for name, by_size in points.items():
        if len(by_size) < 2:
            continue
        sizes = sorted(by_size)
        costs = {side: [by_size[size][side]["median"] for size in sizes] for side in SIDES}
        fits = {side: fit(sizes, values) for side, values in costs.items()}
        used = {side: [by_size[size][side].get("cpu_ms", 0) for size in sizes] for side in SIDES}
        cpu = {side: fit(sizes, values) for side, values in used.items() if all(values)}
        lines.append(Line(name, by_size[sizes[0]]["unit"], sizes, costs, fits, cpu))
    return lines


# -- tables ---------------------------------------------------------------------------------------------------


def each(run: Run) -> Iterator[tuple[str, str, Figures]]:
    """(scenario, measure, figures) in the order of the run."""
    for scenario, found in run["scenarios"].items():
        for name, one in found.items():
            yield scenario, name, one


def together(runs: Sequence[Run]) -> Run:
    """The first run, with the scenarios that only later ones have."""
    scenarios: dict[str, Any] = {}
    for run in runs:
        scenarios |= {name: found for name, found in run["scenarios"].items() if name not in scenarios}
    return {**runs[0], "scenarios": scenarios}


def reached(found: Figures) -> str:
    """Of a measure with an aim: "yes", "no", or "" without one."""
    if "aim" not in found:
        return ""
    return "yes" if found["ratio"] <= found["aim"] else "no"


def second_ratio(second: Run | None, scenario: str, name: str) -> str:
    """The same measure's ratio in another run, "" when it isn't there."""
    found = (second or {"scenarios": {}})["scenarios"].get(scenario, {}).get(name)
    return number(found["ratio"]) if found else ""


def number(value: float) -> str:
    """Three digits that count, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


COLUMNS = (
    *("measure", "ours", "Go", "CPU ms, ours / Go", "MiB, ours / Go"),
    *("ratio", "spread", "second run", "aim", "reached"),
)


def _pair(found: Figures, key: str) -> str:
    values = [found[side].get(key) for side in SIDES]
    return " / ".join(number(value) if value is not None else "-" for value in values) if any(values) else ""


def _side(found: Figures, side: str) -> str:
    one = found[side]
    text = f"{number(one['median'])} {found['unit']}".strip()
    return f"{text} ({number(one['p99'])})" if one["count"] > 1 else text


def row(scenario: str, name: str, found: Figures, second: Run | None) -> tuple[str, ...]:
    others = [side for side, value in found.items() if isinstance(value, dict) and side not in SIDES]
    beside = "".join(f"; {side} {_side(found, side)}" for side in others)
    low, high = found["spread"]
    return (
        name,
        _side(found, "ours"),
        _side(found, "go") + beside,
        _pair(found, "cpu_ms"),
        _pair(found, "memory_mib"),
        number(found["ratio"]),
        f"{number(low)}-{number(high)}" if low != high else "",
        second_ratio(second, scenario, name),
        number(found["aim"]) if "aim" in found else "",
        reached(found),
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    bars = ["---" if index < left else "---:" for index in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, bars, *rows))


def markdown(run: Run, second: Run | None = None) -> str:
    """Machine, a table of all measures, a table of growth."""
    return f"{machine_line(run, second)}\n\n{tables(run, second)}"


def tables(run: Run, second: Run | None = None) -> str:
    """Of all measures, and of growth."""
    columns = [index for index, name in enumerate(COLUMNS) if second or name != "second run"]
    rows: list[tuple[str, ...]] = []
    before = ""
    for scenario, name, found in each(run):
        if scenario != before:
            rows.append((f"**{scenario}**", *[""] * (len(COLUMNS) - 1)))
            before = scenario
        rows.append(row(scenario, name, found, second))
    table = _table(
        [COLUMNS[index] for index in columns], [[cells[index] for index in columns] for cells in rows]
    )
    return table + growth_table(run)


def summary(run: Run, second: Run | None = None) -> str:
    """What has an aim, shortly."""
    rows = []
    for scenario, name, found in each(run):
        if "aim" in found:
            cells = row(scenario, name, found, second)
            rows.append((*cells[:4], *cells[5:]))
    columns = (*COLUMNS[:4], *COLUMNS[5:])
    kept = [index for index, column in enumerate(columns) if second or column != "second run"]
    legend = (
        "Median (p99) of each side; ratio ours/Go: less is better; spread: the middle half of the rounds."
    )
    return f"{legend}\n\n" + _table(
        [columns[index] for index in kept], [[cells[index] for index in kept] for cells in rows]
    )


def machine_line(run: Run, second: Run | None = None) -> str:
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    quick = (
        " **A quick run: it shows that the scenarios work, its figures say nothing.**" if run["quick"] else ""
    )
    again = f" Second run: {second['machine']['date']}, load {_load(second)}." if second else ""
    return (
        f"{machine['date']}, {machine['processor']} ({machine['processors']} processors,"
        f" {machine['memory_gib']:.0f} GiB), kernel {machine['kernel']}, cgroup {machine['cgroup']},"
        f" {machine['filesystem']}; load {_load(run)}.\n{versions}.{quick}{again}"
    )


def _load(run: Run) -> str:
    before, after = (load[0] for load in (run["machine"]["load_before"], run["machine"]["load_after"]))
    return f"{before:.1f} before, {after:.1f} after"


def growth_table(run: Run) -> str:
    lines = growth(run)
    if not lines:
        return ""
    rows = []
    for line in lines:
        medians = [" / ".join(number(cost) for cost in line.costs[side]) + f" {line.unit}" for side in SIDES]
        fits = [_fit(kind.get(side)) for side in SIDES for kind in (line.fits, line.cpu)]
        verdict = "yes" if line.fits["ours"].linear else "no"
        rows.append((line.name, " / ".join(f"{size:,}" for size in line.sizes), *medians, *fits, verdict))
    columns = (
        *(
            "growth",
            "sizes",
            "ours",
            "Go",
            "exponent (worst step / linear), ours",
            "its CPU",
            "Go",
            "its CPU",
        ),
        "ours linear or better",
    )
    return "\n" + _table(columns, rows, left=2)


def _fit(found: Fit | None) -> str:
    return f"{found.exponent:.2f} ({number(found.worst)})" if found else ""


def show(run: Run, second: Run | None = None) -> None:
    """The tables on a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if _wide() else 200)
    table = Table(title="ours / Go, median (p99); ratios are costs: less is better")
    for index, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for scenario, name, found in each(run):
        table.add_row(*row(scenario, name, found, second))
    console.print(table)
    for line in growth(run):
        ours, go = line.fits["ours"], line.fits["go"]
        console.print(f"growth of {line.name}: exponent {ours.exponent:.2f}, Go's {go.exponent:.2f}")


def _wide() -> bool:
    import sys

    return sys.stdout.isatty()


def complain(run: Run, say: Callable[[str], None]) -> None:
    """One line for each aim that isn't reached, and each cost that grows faster than its number of things."""
    for scenario, name, found in each(run):
        if reached(found) == "no":
            say(f"not reached: {scenario}: {name}: {number(found['ratio'])} of {number(found['aim'])}")
    for line in growth(run):
        if not line.fits["ours"].linear:
            ours = line.fits["ours"]
            cpu = f"; its CPU: {_fit(line.cpu['ours'])}" if "ours" in line.cpu else ""
            say(f"worse than linear: {line.name}: exponent (worst step) {_fit(ours)}{cpu}")

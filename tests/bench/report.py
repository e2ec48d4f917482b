"""From measurements to figures, and from figures to a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them lie: no interpolation, so p99 of few values is the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def figures(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50": statistics.median(seconds) * 1000,
        "p99": quantile(seconds, 0.99) * 1000,
        "rate": len(seconds) / sum(seconds),
        "count": len(seconds),
    }


def summary(times: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Milliseconds of each and ratios ours/Go; `rate` is per second."""
    ours, go = figures(times["ours"]), figures(times["go"])
    ratio = {key: ours[key] / go[key] for key in ("p50", "p99", "rate")}
    return {"unit": "ms", "ours": ours, "go": go, "ratio": ratio}


def lines(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """(scenario, measure, ours, Go, ours/Go), in the order of the results."""
    rows: list[tuple[str, ...]] = []
    for scenario in results.values():
        for name, found in scenario.items():
            for key, ratio in found["ratio"].items():
                unit = "1/s" if key == "rate" else found["unit"]
                rows.append(
                    (
                        name,
                        f"{key} ({unit})",
                        f"{found['ours'][key]:.2f}",
                        f"{found['go'][key]:.2f}",
                        f"{ratio:.2f}",
                    )
                )
    return rows


def markdown(document: Mapping[str, Any]) -> str:
    """The table as it stands in a README, with the machine above it."""
    machine = document["machine"]
    head = (
        f"Kernel {machine['kernel']}, {machine['processors']} processors, Python {machine['python']},"
        f" load {machine['load'][0]:.1f} at the end; against {machine['go']}.\n\n"
        "| scenario | measure | ours | Go | ours/Go |\n|---|---|---:|---:|---:|\n"
    )
    return head + "".join(f"| {' | '.join(row)} |\n" for row in lines(document["results"]))


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ours / Go (times and memory: less is better; rate: more)")
    for column in ("scenario", "measure", "ours", "Go", "ours/Go"):
        table.add_column(column, justify="left" if column in ("scenario", "measure") else "right")
    before = ""
    for name, *cells in lines(results):
        table.add_row(name if name != before else "", *cells)
        before = name
    Console().print(table)

"""Bars: ours/Go of every scenario, SVG and PNG; without matplotlib (`pip install longshore[bench]`) none are drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS, GO = "#3572A5", "#999999"


def bars(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float]]:
    """(scenario, ratio of the medians or means), in the order of the results."""
    found: list[tuple[str, float]] = []
    for scenario in results.values():
        for name, figures in scenario.items():
            ratio = figures["ratio"]
            found.append((name, ratio["p50"] if "p50" in ratio else ratio["mean"]))
    return found


def draw(results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("bench: no charts: matplotlib isn't installed", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = bars(results)[::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.3 * len(found)))
    values = [value for _, value in found]
    colours = [OURS if value <= 1 else "#C44E52" for value in values]
    marks = axes.barh([name for name, _ in found], values, color=colours)
    axes.bar_label(marks, fmt="%.2f", padding=3)
    axes.axvline(1, color=GO, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("ours / Go (left of the line: ours needs less)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"ratios.{suffix}", metadata={"Date": None} if suffix == "svg" else None)
    pyplot.close(figure)

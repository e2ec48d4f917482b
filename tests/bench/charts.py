"""Charts of a run: SVG for a light and for a dark page, and PNG; drawn by matplotlib (`longshore[bench]`)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench import report

# File name -> what it says to who can't see it.
CHARTS: Mapping[str, str] = {
    "aims": "Bars: cost ours/Go of everything that has an aim, with the aim",
    "others": "Bars: cost ours/Go of everything else that was measured",
    "growth": "Lines: costs of ours and Go as the number of things grows",
}


class Colours(NamedTuple):
    page: str
    ink: str
    faint: str
    better: str
    worse: str
    go: str


# Contrast of ink to page above 12, of bars above 3, on both.
COLOURS = {
    "": Colours("#ffffff", "#24292f", "#d0d7de", "#2f6fb5", "#c2571a", "#6e7781"),
    "-dark": Colours("#0d1117", "#e6edf3", "#30363d", "#58a6ff", "#f0883e", "#8b949e"),
}


class Bar(NamedTuple):
    """One measure's ratio, the middle half of its rounds, and its aim if it has one."""

    label: str
    ratio: float
    low: float
    high: float
    aim: float | None


def bars(run: report.Run, *, aimed: bool) -> list[Bar]:
    """Those with an aim, or the others, in the order of the run; of a line of growth the largest size only."""
    largest: dict[str, int] = {}
    for _, _, found in report.each(run):
        if "series" in found:
            largest[found["series"]] = max(found["size"], largest.get(found["series"], 0))
    chosen: list[Bar] = []
    for _, name, found in report.each(run):
        part_of_line = "series" in found and found["size"] != largest[found["series"]]
        if ("aim" in found) == aimed and (aimed or not part_of_line):
            low, high = found["spread"]
            chosen.append(Bar(name, found["ratio"], low, high, found.get("aim")))
    return chosen


def draw(run: report.Run, folder: Path) -> list[Path]:
    """The files written. A chart without anything on it isn't drawn. Raises ImportError without matplotlib."""
    matplotlib = _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Colours], Any]] = {}
    for name, aimed in (("aims", True), ("others", False)):
        if found := bars(run, aimed=aimed):
            drawings[name] = lambda colours, found=found: _bars(found, colours)  # type: ignore[misc]
    if lines := report.growth(run):
        drawings["growth"] = lambda colours: _lines(lines, colours)
    written: list[Path] = []
    for name, drawing in drawings.items():
        for suffix, colours in COLOURS.items():
            with matplotlib.rc_context(_style(colours)):
                written += _save(drawing(colours), folder / f"{name}{suffix}")
    return written


def _matplotlib() -> Any:
    """Untyped, whether it is there or not: it is no dependency of the rest."""
    matplotlib: Any = importlib.import_module("matplotlib")
    importlib.import_module("matplotlib.pyplot")
    return matplotlib


def _style(colours: Colours) -> dict[str, Any]:
    inked = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, colours.ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), colours.page),
        "axes.edgecolor": colours.faint,
        "grid.color": colours.faint,
        "font.size": 10,
        "svg.hashsalt": "longshore",  # the same figures, the same file
    }


def _save(figure: Any, stem: Path) -> list[Path]:
    kinds = ("svg",) if stem.name.endswith("-dark") else ("svg", "png")
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    for file in files:
        metadata = {"Date": None} if file.suffix == ".svg" else {"Software": None}
        figure.savefig(file, dpi=110, metadata=metadata)
    _matplotlib().pyplot.close(figure)
    return files


def _bars(found: list[Bar], colours: Colours) -> Any:
    figure, axes = _matplotlib().pyplot.subplots(figsize=(9.5, 1.3 + 0.28 * len(found)), layout="constrained")
    places = range(len(found))
    axes.set_xscale("log")
    axes.barh(
        places,
        [bar.ratio for bar in found],
        color=[colours.better if bar.ratio <= (bar.aim or 1) else colours.worse for bar in found],
        height=0.62,
    )
    for place, bar in zip(places, found, strict=True):
        axes.plot([bar.low, bar.high], [place, place], color=colours.ink, linewidth=1.2)
        if bar.aim is not None:
            axes.plot([bar.aim] * 2, [place - 0.42, place + 0.42], color=colours.ink, linewidth=2.2)
        axes.annotate(
            report.number(bar.ratio),
            (max(bar.ratio, bar.high, bar.aim or 0), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.axvline(1, color=colours.go, linewidth=1.2)
    axes.set_yticks(places, [bar.label for bar in found])
    axes.invert_yaxis()
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.margins(x=0.12)
    # Bars have no 0 to begin at on this scale: the left edge is a third of the smallest.
    axes.set_xlim(left=min(0.1, min(min(bar.ratio, bar.low, bar.aim or 1) for bar in found) / 2))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    marks = "thick mark: the aim, blue where it is reached; " if found[0].aim is not None else ""
    # Below the figure: below the axes alone there isn't room for it.
    figure.supxlabel(
        f"cost ours / Go, less is better; {marks}thin line: middle half of the rounds", fontsize=10
    )
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _lines(lines: list[report.Line], colours: Colours) -> Any:
    across = 3
    down = -(-len(lines) // across)
    figure, grid = _matplotlib().pyplot.subplots(
        down, across, figsize=(10.5, 2.7 * down), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(lines) :]:
        axes.set_visible(False)
    for line, axes in zip(lines, grid.flat, strict=False):
        for side, colour, title in (("ours", colours.better, "ours"), ("go", colours.go, "Go")):
            axes.plot(line.sizes, line.costs[side], color=colour, marker="o", markersize=4, label=title)
        start = min(line.costs["ours"][0], line.costs["go"][0])
        linear = [start * size / line.sizes[0] for size in line.sizes]
        axes.plot(line.sizes, linear, color=colours.ink, linewidth=0.8, linestyle=":", label="linear")
        axes.set_xscale("log")
        axes.set_yscale("log")
        # What linear growth would leave the picture with isn't needed to see who is below it.
        highest = max(*line.costs["ours"], *line.costs["go"])
        lowest = min(*line.costs["ours"], *line.costs["go"])
        axes.set_ylim(lowest / 2, highest * 3)
        axes.set_xticks(line.sizes, [f"{size:,}" for size in line.sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(f"{line.name} ({line.unit})", fontsize=10)
        axes.grid(linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid.flat[0].legend(frameon=False, fontsize=9)
    return figure

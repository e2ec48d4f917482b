"""A run's tables between the README's markers, and its charts in docs/bench, where the README shows them from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bench import charts, report

BEGIN = "<!-- bench: written by `make bench-readme` -->"
END = "<!-- /bench -->"
FOLDER = Path("docs/bench")
WHY = Path(__file__).with_name("why.toml")


def between(text: str, written: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError unless each is there once, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README.md must have the lines {BEGIN} and {END} once, in this order")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{head}{BEGIN}\n\n{written.strip()}\n\n{END}{tail}"


def picture(name: str, says: str) -> str:
    """A chart as a page shows it: the dark drawing where the reader's page is dark."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{FOLDER}/{name}-dark.svg">\n'
        f'  <img alt="{says}" src="{FOLDER}/{name}.svg">\n</picture>\n'
    )


def missed(run: report.Run, why: Mapping[str, str]) -> str:
    """The aims that aren't reached, each with what `why` has for measures that begin so; "" when there is none."""
    lines = []
    for _, name, found in report.each(run):
        if report.reached(found) == "no":
            said = next((text for start, text in why.items() if name.startswith(start)), "")
            figures = f"{report.number(found['ratio'])}, aim {report.number(found['aim'])}"
            lines.append(f"- *{name}* ({figures}){': ' if said else ''}{said}\n")
    return f"Not reached:\n\n{''.join(lines)}" if lines else ""


def section(run: report.Run, second: report.Run | None) -> str:
    """Charts, then the tables, which are folded: they are long."""
    drawn = {name: picture(name, says) for name, says in charts.CHARTS.items()}
    rest = f"{drawn['others']}\n{report.tables(run, second)}"
    folded = f"<details>\n<summary>All figures</summary>\n\n{rest}\n</details>\n"
    machine = f"{report.machine_line(run, second)}\n"
    why = tomllib.loads(WHY.read_text())
    parts = (machine, drawn["aims"], report.summary(run, second), missed(run, why), drawn["growth"], folded)
    return "\n".join(filter(None, parts))


def write(run: report.Run, second: report.Run | None, project: Path) -> None:
    """Raises ValueError without markers, ImportError without matplotlib; nothing is written then."""
    readme = project / "README.md"
    text = between(readme.read_text(), section(run, second))
    charts.draw(run, project / FOLDER)
    readme.write_text(text)

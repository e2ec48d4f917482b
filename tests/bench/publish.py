"""A run's tables between the README's markers, and its charts in docs/bench, where the README shows them from."""

from __future__ import annotations

from pathlib import Path

from bench import charts, report

BEGIN = "<!-- bench: written by `make bench-readme` -->"
END = "<!-- /bench -->"
FOLDER = Path("docs/bench")


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


def section(run: report.Run, second: report.Run | None) -> str:
    """Charts, then the tables, which are folded: they are long."""
    drawn = {name: picture(name, says) for name, says in charts.CHARTS.items()}
    rest = f"{drawn['others']}\n{report.tables(run, second)}"
    folded = f"<details>\n<summary>All figures</summary>\n\n{rest}\n</details>\n"
    machine = f"{report.machine_line(run, second)}\n"
    return "\n".join((machine, drawn["aims"], report.summary(run, second), drawn["growth"], folded))


def write(run: report.Run, second: report.Run | None, project: Path) -> None:
    """Raises ValueError without markers, ImportError without matplotlib; nothing is written then."""
    readme = project / "README.md"
    text = between(readme.read_text(), section(run, second))
    charts.draw(run, project / FOLDER)
    readme.write_text(text)

"""How things are shown: tables, --format, sizes and durations in the original's words."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from longshore.docker.api import Failure
from longshore.docker.templates import Template, to_json

PADDING = 3
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

Columns = Sequence[tuple[str, str]]
"""(heading, field of a row)."""


class Row:
    """A line of a listing: fields made when asked for."""

    def __init__(self, fields: Mapping[str, Callable[..., Any]]) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            field = self._fields[name]
        except KeyError:
            raise AttributeError(name) from None
        return field

    def document(self) -> dict[str, Any]:
        """For {{json .}}."""
        return {name: str(field()) for name, field in sorted(self._fields.items()) if name != "Label"}


def listing(rows: Iterable[Row], form: str, columns: Columns, quiet: str = "") -> None:
    """Print rows: as a table, by a template, as JSON lines, or one field of them (`quiet`)."""
    if quiet:
        for row in rows:
            click.echo(getattr(row, quiet)())
    elif form in ("", "table"):
        table([heading for heading, _ in columns], [[getattr(r, f)() for _, f in columns] for r in rows])
    elif form == "json":
        for row in rows:
            click.echo(to_json(row))
    elif form.startswith("table "):
        _templated_table(rows, form[6:].strip(), columns)
    else:
        template = Template(unescaped(form))
        for row in rows:
            click.echo(template.render(row))


def _templated_table(rows: Iterable[Row], form: str, columns: Columns) -> None:
    headings = {field: (lambda heading=heading: heading) for heading, field in columns}
    form = unescaped(form)
    template = Template(form)
    head = Template(re.sub(r"\{\{\s*(?:\w+ )*(\.\w+).*?\}\}", r"{{\1}}", form)).render(_Headings(headings))
    table(head.split("\t"), [template.render(row).split("\t") for row in rows])


class _Headings(Row):
    def __getattr__(self, name: str) -> Any:
        return self._fields.get(name) or (lambda: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper())


def unescaped(form: str) -> str:
    return form.replace("\\t", "\t").replace("\\n", "\n")


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need to be, three spaces apart."""
    lines = [list(map(str, headings)), *[list(map(str, row)) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        padded = [word.ljust(width + PADDING) for word, width in zip(line[:-1], widths, strict=False)]
        click.echo("".join(padded) + line[-1])


def inspected(documents: list[Any], form: str) -> None:
    """What inspect prints: JSON, or a template for each."""
    if not form or form == "json":
        click.echo(pretty(documents) if not form else to_json(documents))
        return
    template = Template(unescaped(form))
    for document in documents:
        try:
            click.echo(template.render(document))
        except Failure as failure:
            click.echo()
            raise Failure(f"template parsing error: {failure}") from None


def pretty(document: Any) -> str:
    import json

    return json.dumps(document, indent=4, ensure_ascii=False)


def size(count: float, precision: int = 3) -> str:
    """1234 -> "1.23kB"."""
    return _scaled(count, 1000, _UNITS, precision)


def binary_size(count: float, precision: int = 4) -> str:
    """1024 -> "1KiB"."""
    return _scaled(count, 1024, _BINARY, precision)


def _scaled(count: float, base: int, units: Sequence[str], precision: int) -> str:
    number = 0
    while count >= base and number < len(units) - 1:
        count /= base
        number += 1
    return f"{count:.{precision}g}{units[number]}" if count < 10**precision else f"{count:.0f}{units[number]}"


def duration(seconds: float) -> str:
    """ "5 minutes", "About an hour"."""
    seconds = int(seconds)
    if seconds < 1:
        return "Less than a second"
    steps = (
        (1, "1 second", 2, ""),
        (2, "", 60, "{0} seconds"),
        (60, "About a minute", 120, ""),
        (120, "", 3600, "{1} minutes"),
    )
    for low, words, high, many in steps:
        if low <= seconds < high:
            return words or many.format(seconds, seconds // 60)
    hours = round(seconds / 3600)
    if hours == 1:
        return "About an hour"
    for limit, unit, words in (
        (48, 1, "hours"),
        (336, 24, "days"),
        (1440, 168, "weeks"),
        (17520, 720, "months"),
    ):
        if hours < limit:
            return f"{hours // unit} {words}"
    return f"{hours // 8760} years"


def ago(moment: float) -> str:
    """Since a Unix time."""
    return f"{duration(time.time() - moment)} ago"


def unix(text: str) -> float:
    """RFC 3339 as a Unix time; 0 for none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text or "")
    if not match or match[1].startswith("0001"):
        return 0
    seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) + float(match[2] or 0)
    if match[3] and match[3] != "Z":
        hours, minutes = match[3][1:].split(":")
        seconds -= (int(hours) * 60 + int(minutes)) * (60 if match[3][0] == "+" else -60)
    return seconds


def local(moment: float) -> str:
    """As lists show it with --no-trunc."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment))


def short(id: str, length: int = 12) -> str:
    """An ID as lists show it."""
    return id.removeprefix("sha256:")[:length]


def cut(text: str, length: int) -> str:
    """With an ellipsis where it is too long."""
    return text if len(text) <= length else text[: length - 1] + "…"

"""How ctr prints: tables that scripts cut, sizes, ages, and the same as JSON.

Columns are those of the original: padded to the widest cell, every cell
followed by the padding. ``--format json`` prints a list of objects instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

format_option: Callable[[Any], Any] = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print the list."
)
quiet_option: Callable[[Any], Any] = click.option("-q", "--quiet", is_flag=True, help="Print only the names.")


def render(headers: Sequence[str], rows: Sequence[Sequence[str]], *, padding: int = 1) -> str:
    """Aligned lines."""
    widths = [max(len(line[place]) for line in [headers, *rows]) + padding for place in range(len(headers))]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + "\n"
        for line in [headers, *rows]
    )


def show(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    form: str = "table",
    padding: int = 1,
    objects: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Print a table, or JSON: `objects` if given, else one object a row, keyed by the headers."""
    if form == "json":
        keys = [header.lower().replace(" ", "_") for header in headers]
        show_json(objects if objects is not None else [dict(zip(keys, row, strict=True)) for row in rows])
    else:
        click.echo(render(headers, rows, padding=padding), nl=False)


def show_json(value: Any) -> None:
    """Indented by four, as the original does."""
    click.echo(json.dumps(value, indent=4, ensure_ascii=False))


def labels(values: Mapping[str, str]) -> str:
    """``a=1,b=2``, sorted; "-" for none."""
    return ",".join(f"{key}={values[key]}" for key in sorted(values)) or "-"


def binary_size(count: int) -> str:
    """``7.8 MiB``: powers of 1024."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.1f} {unit}"


def decimal_size(count: int) -> str:
    """``8.223MB``: powers of 1000, four digits."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.4g}{unit}"


def age(seconds: float) -> str:
    """A rough duration in words: ``41 seconds``, ``About an hour``, ``3 weeks``."""
    count = int(seconds)
    if count < 1:
        return "Less than a second"
    if count < 60:
        return f"{count} second{'s' * (count > 1)}"
    minutes = count // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(count / 3600)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for unit, length, limit in (("days", 24, 14), ("weeks", 168, 60 * 24 // 168), ("months", 720, 24)):
        if hours < length * limit:
            return f"{hours // length} {unit}"
    return f"{hours // 8760} years"


def since(stamp: Timestamp) -> str:
    return age(datetime.now(UTC).timestamp() - stamp.seconds)


def rfc3339(stamp: Timestamp) -> str:
    """``2026-11-24T06:19:18.776780774Z``: nanoseconds without trailing zeros."""
    whole = datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{stamp.nanos:09}".rstrip("0").rstrip(".")
    return f"{whole}{fraction}Z"

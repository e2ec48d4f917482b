"""``ctr events``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from longshore.ctr.command import Failure, command

if TYPE_CHECKING:
    from longshore.client.client import AsyncClient
    from longshore.client.events import Event


def body(event: Event) -> dict[str, object]:
    """The event's fields as JSON with the names of the protocol."""
    from longshore.ctr.documents import document

    message = event.message
    return {"type_url": event.payload.type_url} if message is None else document(message)


def line(event: Event) -> str:
    """``2026-11-24 06:19:18.776780774 +0000 UTC default /tasks/exit {...}``."""
    whole = datetime.fromtimestamp(event.time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    fraction = f".{event.time_ns % 1_000_000_000:09}".rstrip("0").rstrip(".")
    fields = json.dumps(body(event), separators=(",", ":"))
    return f"{whole}{fraction} +0000 UTC {event.namespace} {event.topic} {fields}"


def as_json(event: Event) -> str:
    return json.dumps(
        {"time_ns": event.time_ns, "namespace": event.namespace, "topic": event.topic, "event": body(event)}
    )


@command(
    click.option("--since", type=int, help="First the events after this sequence (a Longshore daemon only)."),
    click.option(
        "--since-time", type=float, help="First the events of the last so many seconds (Longshore only)."
    ),
    click.option("--count", type=int, default=0, help="End after so many events."),
    click.option(
        "--format",
        "form",
        type=click.Choice(["text", "json"]),
        default="text",
        help="One line or one object each.",
    ),
    click.argument("filters", nargs=-1),
    name="events",
)
async def events(
    client: AsyncClient,
    since: int | None,
    since_time: float | None,
    count: int,
    form: str,
    filters: tuple[str, ...],
) -> None:
    """Show events as they happen, of all namespaces.

    Filters narrow them, any of several: 'topic~=|^/tasks/|,namespace==default'.
    """
    from time import time_ns

    since_ns = time_ns() - int(since_time * 1e9) if since_time is not None else None
    async with await client.events.subscribe(*filters, since=since, since_time_ns=since_ns) as subscription:
        if (since is not None or since_time is not None) and subscription.head is None:
            raise Failure("this daemon keeps no journal of events", "replay needs Longshore's containerd")
        async for event in subscription:
            click.echo(as_json(event) if form == "json" else line(event))
            count -= 1
            if count == 0:
                return

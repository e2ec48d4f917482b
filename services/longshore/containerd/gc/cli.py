"""``longshore gc plan|explain|run``: what a collection would remove, what keeps an object, and a collection by hand.

It asks the daemon (`service`) and doesn't read the database: only the daemon
knows what running calls need, and the socket's permissions are the right ones.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click
import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from longshore.api.namespaces import GRPC_HEADER
from longshore.api.services.gc.v1.gc_pb2 import (
    CollectRequest,
    ExplainRequest,
    Explanation,
    Garbage,
    Object,
    PlanRequest,
)
from longshore.api.services.gc.v1.gc_pb2_grpc import GCStub

_ADDRESS = "/run/containerd/containerd.sock"
_LIMIT = 1 << 28

# How an object's kind is written before a colon; what has none is looked for among all kinds.
_KINDS = {
    "content": "content",
    "blob": "content",
    "image": "images",
    "container": "containers",
    "ingest": "ingests",
    "lease": "leases",
    "sandbox": "sandboxes",
    "snapshot": "snapshots",
}


class Client:
    """Where to ask, and for which namespace ("" for all)."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._metadata: tuple[tuple[str, str | bytes], ...] = ((GRPC_HEADER, namespace),) if namespace else ()

    def ask(self, method: str, request: Message) -> Any:
        """The answer. Raises ClickException with what the daemon said."""
        target = f"unix:{os.path.abspath(self._address.removeprefix('unix://'))}"
        with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", _LIMIT)]) as channel:
            try:
                return getattr(GCStub(channel), method)(request, metadata=self._metadata)
            except grpc.RpcError as error:
                text = error.details() or error.code().name
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    where = f"namespace {self._namespace}" if self._namespace else "any namespace"
                    text += f"\n  hint: {where} has no such name, whole and as `ctr images ls -q` and the like show it"
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    text = f"the containerd at {self._address} isn't Longshore's, or has no gc service"
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    text = (
                        f"no containerd answers at {self._address}: start it (longshore up), "
                        "or name its socket with --address or CONTAINERD_ADDRESS"
                    )
                raise click.ClickException(text) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-a",
    "--address",
    envvar="CONTAINERD_ADDRESS",
    default=_ADDRESS,
    show_default=True,
    help="containerd's socket.",
)
@click.option(
    "-n", "--namespace", envvar="CONTAINERD_NAMESPACE", default="", help="Only this namespace (default: all)."
)
@click.pass_context
def cli(context: click.Context, address: str, namespace: str) -> None:
    """See what garbage collection does, and why."""
    context.obj = Client(address, namespace)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def plan(client: Client, as_json: bool) -> None:
    """What a collection would remove now, and the bytes that go with it."""
    answer = client.ask("Plan", PlanRequest())
    if as_json:
        _print_json(answer)
        return
    for garbage in answer.garbage:
        click.echo(_line(garbage))
    total = sum(garbage.size for garbage in answer.garbage)
    click.echo(f"{len(answer.garbage)} objects, {_bytes(total)}")


@cli.command()
@click.argument("object")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def explain(client: Client, object: str, as_json: bool) -> None:
    """What keeps OBJECT, or why nothing does.

    OBJECT is a digest, an image's name, a snapshot's key, a container's id, a
    lease's or an upload's; if that is ambiguous with its kind before it:
    image:NAME, snapshot:KEY, lease:ID, ...
    """
    prefix, colon, rest = object.partition(":")
    kind, id = (_KINDS[prefix], rest) if colon and prefix in _KINDS else ("", object)
    answer = client.ask("Explain", ExplainRequest(kind=kind, id=id))
    if as_json:
        _print_json(answer)
        return
    for number, explanation in enumerate(answer.explanations):
        if number:
            click.echo()
        for line in _explained(explanation):
            click.echo(line)


@cli.command()
@click.pass_obj
def run(client: Client) -> None:
    """Collect now, in all namespaces."""
    answer = client.ask("Collect", CollectRequest())
    for removed in answer.removed:
        click.echo(_name(removed))
    click.echo(f"{len(answer.removed)} objects removed, writers waited {answer.pause_seconds * 1000:.0f} ms")


def main() -> int:
    """Run by the launcher; reads sys.argv."""
    try:
        cli.main(prog_name="longshore gc", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    return 0


# -- words --------------------------------------------------------------------------------------------------


def _line(garbage: Garbage) -> str:
    return f"{_bytes(garbage.size):>10}  {_name(garbage.object)}"


def _name(object: Object) -> str:
    return f"{object.namespace}  {object.kind}  {object.id}"


def _explained(explanation: Explanation) -> list[str]:
    head = _name(explanation.object)
    if not explanation.kept:
        return [f"{head}: nothing keeps it", *(f"  {note}" for note in explanation.notes)]
    lines = [f"{head}: kept"]
    for depth, link in enumerate(explanation.chain):
        arrow = "  " * depth + ("-> " if depth else "")
        lines.append(f"  {arrow}{link.object.kind}  {link.object.id}  ({link.why})")
    return lines


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _print_json(answer: Message) -> None:
    json.dump(json_format.MessageToDict(answer), sys.stdout, indent=2)
    sys.stdout.write("\n")

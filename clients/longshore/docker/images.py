"""Images: list, fetch, send, name, remove, and make them from containers."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import click

from longshore.docker import copying, progress, references, show
from longshore.docker.api import Failure
from longshore.docker.app import App, confirmed, filters
from longshore.docker.containers import pruned
from longshore.docker.show import Row

COLUMNS = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)
NONE = "<none>"


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--digests", is_flag=True)
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--no-trunc", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.argument("name", metavar="[REPOSITORY[:TAG]]", required=False)
@click.pass_obj
def ls(
    app: App, /, everything: bool, digests: bool, chosen: tuple[str, ...], form: str, **flags: Any
) -> None:
    """List images."""
    wanted = [*chosen, *([f"reference={flags['name']}"] if flags["name"] else [])]
    found = app.client.get("/images/json", {"all": everything, "filters": filters(wanted)})
    form = form or ("" if flags["quiet"] else app.config.document.get("imagesFormat", ""))
    rows = [row for image in found for row in _rows(image, flags["no_trunc"], digests or ".Digest" in form)]
    columns = (*COLUMNS[:2], ("DIGEST", "Digest"), *COLUMNS[2:]) if digests else COLUMNS
    show.listing(rows, form, columns, "ID" if flags["quiet"] else "")


def _rows(image: Any, whole: bool, digests: bool) -> list[Row]:
    tags = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"]
    by_repository = dict(
        name.split("@") for name in image.get("RepoDigests") or () if not name.startswith(NONE)
    )
    named: list[tuple[str, str]] = [references.split(name) for name in tags]
    if not tags:
        named = [(repository, NONE) for repository in by_repository] or [(NONE, NONE)]
    return [_row(image, whole, *pair, by_repository.get(pair[0], NONE)) for pair in named]


def _row(image: Any, whole: bool, repository: str, tag: str, digest: str) -> Row:
    return Row(
        {
            "ID": lambda: image["Id"] if whole else show.short(image["Id"]),
            "Repository": lambda: repository,
            "Tag": lambda: tag,
            "Digest": lambda: digest,
            "CreatedSince": lambda: show.ago(image["Created"]),
            "CreatedAt": lambda: show.local(image["Created"]),
            "Size": lambda: show.size(image["Size"]),
            "VirtualSize": lambda: show.size(image.get("VirtualSize") or image["Size"]),
            "SharedSize": lambda: "N/A",
            "UniqueSize": lambda: "N/A",
            "Containers": lambda: "N/A",
        }
    )


@click.command()
@click.option("--all-tags", "-a", is_flag=True)
@click.option("--disable-content-trust", is_flag=True)
@click.option("--platform", default=None)
@click.option("--quiet", "-q", is_flag=True)
@click.argument("name")
@click.pass_obj
def pull(app: App, /, name: str, all_tags: bool, platform: str | None, quiet: bool, **_: Any) -> None:
    """Download an image from a registry."""
    repository, tag = references.split(name)
    if all_tags and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not tag and not all_tags and not quiet:
        click.echo("Using default tag: latest")
    tag = tag or ("" if all_tags else "latest")
    query = {"fromImage": repository, "tag": tag or None, "platform": platform}
    answer = app.client.send("POST", "/images/create", query, headers=app.config.header(name))
    progress.display(app.client.lines(answer), quiet=quiet)
    click.echo(full(f"{repository}@{tag}" if ":" in tag else f"{repository}:{tag}" if tag else repository))


def full(name: str) -> str:
    """With its registry, and "library" where it is one of Docker Hub's own."""
    if references.registry_of(name) != "docker.io":
        return name
    name = name.removeprefix("docker.io/")
    return f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"


@click.command()
@click.option("--all-tags", "-a", is_flag=True)
@click.option("--disable-content-trust", is_flag=True)
@click.option("--platform", default=None)
@click.option("--quiet", "-q", is_flag=True)
@click.argument("name")
@click.pass_obj
def push(app: App, /, name: str, all_tags: bool, quiet: bool, **_: Any) -> None:
    """Upload an image to a registry."""
    repository, tag = references.split(name)
    if all_tags and tag:
        raise Failure("tag can't be used with --all-tags/-a")
    if not tag and not all_tags:
        tag = "latest"
        if not quiet:
            click.echo("Using default tag: latest")
    answer = app.client.send(
        "POST", f"/images/{repository}/push", {"tag": tag or None}, headers=app.config.header(name)
    )
    progress.display(app.client.lines(answer), quiet=quiet)
    if quiet:
        click.echo(full(f"{repository}:{tag}"))


@click.command()
@click.argument("source")
@click.argument("target")
@click.pass_obj
def tag(app: App, /, source: str, target: str) -> None:
    """Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE."""
    path = references.split(full(target))[0].removeprefix("docker.io/")
    if path != path.lower():
        raise Failure(
            f'Error parsing reference: "{target}" is not a valid repository/tag: '
            f"invalid reference format: repository name ({path}) must be lowercase"
        )
    repository, name = references.split(target)
    app.client.post(f"/images/{source}/tag", {"repo": repository, "tag": name or None})


@click.command()
@click.option("--force", "-f", is_flag=True)
@click.option("--no-prune", is_flag=True)
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.pass_obj
def rm(app: App, /, names: tuple[str, ...], force: bool, no_prune: bool) -> None:
    """Remove one or more images."""

    def one(name: str) -> None:
        for entry in app.client.delete(f"/images/{name}", {"force": force, "noprune": no_prune}) or ():
            click.echo(
                f"Deleted: {entry['Deleted']}" if entry.get("Deleted") else f"Untagged: {entry['Untagged']}"
            )

    app.each(names, one, echo=False)


@click.command()
@click.option("--format", "form", default="")
@click.option("--human/--no-human", "-H", default=True)
@click.option("--no-trunc", is_flag=True)
@click.option("--quiet", "-q", is_flag=True)
@click.argument("name")
@click.pass_obj
def history(app: App, /, name: str, form: str, human: bool, no_trunc: bool, quiet: bool) -> None:
    """Show the history of an image."""
    columns = (
        *(("IMAGE", "ID"), ("CREATED", "CreatedSince"), ("CREATED BY", "CreatedBy")),
        *(("SIZE", "Size"), ("COMMENT", "Comment")),
    )
    rows = [_step(step, human, no_trunc) for step in app.client.get(f"/images/{name}/history")]
    show.listing(rows, form, columns, "ID" if quiet else "")


def _step(step: Any, human: bool, whole: bool) -> Row:
    words = step["CreatedBy"].replace("\t", " ")
    return Row(
        {
            "ID": lambda: step["Id"] if whole or step["Id"] == "<missing>" else show.short(step["Id"]),
            "CreatedAt": lambda: show.local(step["Created"]),
            "CreatedSince": lambda: show.ago(step["Created"]),
            "CreatedBy": lambda: words if whole else show.cut(words, 45),
            "Size": lambda: show.size(step["Size"]) if human else str(step["Size"]),
            "Comment": lambda: step["Comment"],
            "Tags": lambda: ",".join(step.get("Tags") or ()),
        }
    )


@click.command()
@click.option("--output", "-o", default="")
@click.option("--platform", default=None)
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
@click.pass_obj
def save(app: App, /, names: tuple[str, ...], output: str, platform: str | None) -> None:
    """Save one or more images to a tar archive (streamed to STDOUT by default)."""
    copying.save_to(app.client, "/images/get", {"names": list(names)}, output)


@click.command()
@click.option("--input", "-i", "file", default="")
@click.option("--quiet", "-q", is_flag=True)
@click.option("--platform", default=None)
@click.pass_obj
def load(app: App, /, file: str, quiet: bool, platform: str | None) -> None:
    """Load an image from a tar archive or STDIN."""
    if not file and sys.stdin.isatty():
        raise Failure("requested load from stdin, but stdin is empty")
    with _opened(file) as source:
        answer = app.client.send(
            "POST",
            "/images/load",
            {"quiet": "1" if quiet else "0"},
            source,
            {"Content-Type": "application/x-tar"},
        )
        progress.display(app.client.lines(answer))


def _opened(file: str) -> BinaryIO:
    try:
        return open(file, "rb") if file else sys.stdin.buffer
    except OSError as error:
        raise Failure(f"open {file}: {(error.strerror or '').lower()}") from None


@click.command("import")
@click.option("--change", "-c", multiple=True)
@click.option("--message", "-m", default="")
@click.option("--platform", default=None)
@click.argument("source", metavar="file|URL|-")
@click.argument("name", required=False)
@click.pass_obj
def import_(app: App, /, source: str, name: str | None, **given: Any) -> None:
    """Import the contents from a tarball to create a filesystem image."""
    repository, label = references.split(name) if name else ("", "")
    remote = "://" in source
    query = {
        "fromSrc": source if remote else "-",
        "repo": repository or None,
        "tag": label or None,
        "message": given["message"] or None,
        "changes": list(given["change"]),
        "platform": given["platform"],
    }
    if remote:
        progress.display(app.client.lines(app.client.send("POST", "/images/create", query)))
        return
    with open(source, "rb") if source != "-" else sys.stdin.buffer as file:
        answer = app.client.send("POST", "/images/create", query, file, {"Content-Type": "text/plain"})
        progress.display(app.client.lines(answer))


@click.command()
@click.option("--author", "-a", default="")
@click.option("--change", "-c", multiple=True)
@click.option("--message", "-m", default="")
@click.option("--pause/--no-pause", "-p", default=True)
@click.argument("container")
@click.argument("name", required=False)
@click.pass_obj
def commit(app: App, /, container: str, name: str | None, **given: Any) -> None:
    """Create a new image from a container's changes."""
    repository, label = references.split(name) if name else ("", "")
    query = {
        "container": container,
        "repo": repository or None,
        "tag": label or None,
        "author": given["author"] or None,
        "comment": given["message"] or None,
        "changes": list(given["change"]),
        "pause": "1" if given["pause"] else "0",
    }
    click.echo(app.client.post("/commit", query, {})["Id"])


@click.command()
@click.option("--all", "-a", "everything", is_flag=True)
@click.option("--filter", "chosen", multiple=True)
@click.option("--force", "-f", is_flag=True)
@click.pass_obj
def prune(app: App, /, everything: bool, chosen: tuple[str, ...], force: bool) -> None:
    """Remove unused images."""
    words = (
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )
    if not confirmed(f"This will remove {words}.", force):
        return
    asked = {**(filters(chosen) or {}), "dangling": ["false" if everything else "true"]}
    found = app.client.post("/images/prune", {"filters": asked})
    names = [
        f"deleted: {entry['Deleted']}" if entry.get("Deleted") else f"untagged: {entry['Untagged']}"
        for entry in found.get("ImagesDeleted") or ()
    ]
    pruned("Deleted Images", names, found["SpaceReclaimed"])


@click.command()
@click.option("--filter", "-f", "chosen", multiple=True)
@click.option("--format", "form", default="")
@click.option("--limit", type=int, default=0)
@click.option("--no-trunc", is_flag=True)
@click.argument("term")
@click.pass_obj
def search(app: App, /, term: str, chosen: tuple[str, ...], form: str, limit: int, no_trunc: bool) -> None:
    """Search Docker Hub for images."""
    query = {"term": term, "limit": limit or None, "filters": filters(chosen)}
    headers = app.config.header("library/x")
    found = app.client.call("GET", "/images/search", query, headers=headers)
    columns = (
        ("NAME", "Name"),
        ("DESCRIPTION", "Description"),
        ("STARS", "StarCount"),
        ("OFFICIAL", "IsOfficial"),
    )
    show.listing([_hit(hit, no_trunc) for hit in found], form, columns)


def _hit(hit: Any, whole: bool) -> Row:
    return Row(
        {
            "Name": lambda: hit["name"],
            "Description": lambda: hit["description"] if whole else show.cut(hit["description"], 45),
            "StarCount": lambda: str(hit["star_count"]),
            "IsOfficial": lambda: "[OK]" if hit["is_official"] else "",
        }
    )

"""Registries from the SDK's side: how to reach them, their errors in the closed set, and news of a transfer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from longshore.api import errors
from longshore.api.types.descriptor_pb2 import Descriptor as DescriptorMessage
from longshore.registry import credentials as identities
from longshore.registry import errors as problems
from longshore.registry.documents import Descriptor
from longshore.registry.hosts import HUB_HOST, TLS, Settings
from longshore.registry.options import Options
from longshore.registry.policy import DEFAULT_POLICY, Policy

__all__ = ["Options", "Progress", "Report", "options"]

SOURCE_LABEL = "containerd.io/distribution.source"
LABEL_LIMIT = 4096  # bytes of a label's key and value together


class Progress(NamedTuple):
    """News of one blob. `offset` and `total` are bytes.

    `stage` is "resolved", "waiting", "exists", "downloading", "downloaded", "unpacking",
    "unpacked"; of a push "checking", "exists", "mounted", "uploading", "uploaded".
    """

    stage: str
    name: str
    digest: str
    offset: int
    total: int


Report = Callable[[Progress], None]


def options(
    *,
    user: str = "",
    registry: str = "",
    hosts_dir: str = "",
    plain_http: bool = False,
    skip_verify: bool = False,
    ca: str = "",
    certificate: str = "",
    key: str = "",
    identity_token: str = "",
    headers: Mapping[str, str] | None = None,
    chunk_size: int = 0,
    policy: Policy = DEFAULT_POLICY,
    trace: Callable[[str], None] | None = None,
) -> Options:
    """How to reach registries, in the words of ctr's flags.

    `user` is ``name:password`` or a name; `registry` is the host that it is
    for. Without it, and without `identity_token`, Docker's config.json is
    asked. `hosts_dir` holds a folder per registry with its hosts.toml.
    """
    tls = TLS((ca,) if ca else (), ((certificate, key),) if certificate else (), skip_verify)
    return Options(
        Settings(hosts_dir, plain_http, tls),
        _identity(user, identity_token, registry),
        policy,
        tuple((headers or {}).items()),
        chunk_size,
        trace,
    )


class Access(NamedTuple):
    """How to reach the one registry `domain`, in the words of Docker's daemon.json and its X-Registry-Auth.

    `certificates` is a folder like Docker's certs.d; `mirrors` are addresses
    that are asked first and never get the credentials; `insecure` checks no
    certificate and goes on without TLS; `registry_token` is sent as it is.
    """

    domain: str
    user: str = ""
    secret: str = ""
    identity_token: str = ""
    registry_token: str = ""
    certificates: str = ""
    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    attempts: int = DEFAULT_POLICY.attempts


def access(wanted: Access) -> Options:
    """`wanted` as options. Nobody's config.json is read: without credentials we are anonymous."""
    provider: identities.Provider = identities.anonymous
    if wanted.user or wanted.identity_token:
        name, secret = ("", wanted.identity_token) if wanted.identity_token else (wanted.user, wanted.secret)
        host = HUB_HOST if wanted.domain == "docker.io" else wanted.domain
        provider = identities.static(identities.Credentials(name, secret), frozenset((host,)))
    token = (("Authorization", f"Bearer {wanted.registry_token}"),) if wanted.registry_token else ()
    return Options(
        Settings(wanted.certificates, mirrors=wanted.mirrors, insecure=wanted.insecure),
        provider,
        DEFAULT_POLICY._replace(attempts=max(wanted.attempts, 1)),
        () if wanted.mirrors else token,
    )


def _identity(user: str, token: str, registry: str) -> identities.Provider:
    if not user and not token:
        return identities.docker_config(identities.config_path(os.environ))
    name, _, secret = user.partition(":")
    hosts = frozenset((HUB_HOST if registry == "docker.io" else registry,))
    return identities.static(identities.Credentials("" if token else name, token or secret), hosts)


@contextmanager
def translated(deed: str) -> Iterator[None]:
    """Turn a registry's failure into one of `longshore.api.errors`, after `deed` ("pull busybox")."""
    try:
        yield
    except problems.RegistryError as error:
        raise translate(error, deed) from None


def translate(error: problems.RegistryError, deed: str) -> errors.Error:
    message = f"{deed}: {error.message}" if deed else error.message
    if isinstance(error, problems.NotFound):
        message += ": not found"
    made = errors.from_code(error.code, message)
    made.hint = error.hint or "see the README of longshore.registry for what can be configured"
    return made


def reason(error: BaseException) -> str:
    """What the registry itself said when this error was made by `translated`, in Docker's words; "" if nothing."""
    cause = error.__context__
    return cause.said if isinstance(cause, problems.RegistryError) else ""


def cause(error: BaseException) -> str:
    """The message of the registry's failure without the deed that `translated` put before it; else the error's own."""
    found = error.__context__
    return found.message if isinstance(found, problems.RegistryError) else str(error)


def message_of(blob: Descriptor) -> DescriptorMessage:
    """As containerd's API has it."""
    return DescriptorMessage(
        media_type=blob.media_type, digest=blob.digest, size=blob.size, annotations=blob.annotations
    )


def source_label(domain: str) -> str:
    """The label that says in which repositories of a registry a blob is known; containerd leaves out the port."""
    return f"{SOURCE_LABEL}.{urlsplit(f'//{domain}').hostname or domain}"


def with_source(present: str, repository: str) -> str:
    """The repositories in which a blob is known: sorted, each once."""
    return ",".join(sorted({*filter(None, present.split(",")), repository}))


def sources(labels: Mapping[str, str], domain: str) -> Sequence[str]:
    """The repositories of a registry that a blob came from."""
    return [name for name in labels.get(source_label(domain), "").split(",") if name]

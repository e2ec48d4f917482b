"""Who we are to a registry: Docker's config.json, its credential stores and helpers.

A `Provider` is asked with the address of the host that wants credentials,
never with the name of the registry that a mirror stands for: a mirror must not
get the original's password.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from longshore.registry.errors import BadConfiguration
from longshore.registry.hosts import HUB_HOST

HUB_KEY = (
    "https://index.docker.io/v1/"  # under this name Docker keeps the Hub's credentials, since version 0.x
)
HELPER_TIMEOUT = 60  # seconds: a helper may ask somebody to unlock a key ring
_IDENTITY_USER = "<token>"  # a helper says so when its secret is an identity token
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Credentials(NamedTuple):
    """A user and password; with an empty user the secret is an identity (refresh) token."""

    username: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, secret=...)"


Provider = Callable[[str], Awaitable[Credentials | None]]


async def anonymous(host: str) -> Credentials | None:
    """Nobody."""
    return None


def static(credentials: Credentials, hosts: frozenset[str]) -> Provider:
    """These credentials, for these hosts only."""

    async def provide(host: str) -> Credentials | None:
        return credentials if host in hosts else None

    return provide


def config_path(environ: Mapping[str, str]) -> Path:
    """``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``."""
    folder = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME") or "/", ".docker")
    return Path(folder, "config.json")


def docker_config(file: Path) -> Provider:
    """Credentials as ``docker login`` keeps them. The file is read when first asked; none is no error."""

    async def provide(host: str) -> Credentials | None:
        config = _read(file)
        key = HUB_KEY if host in (HUB_HOST, "docker.io", "index.docker.io") else host
        helper = _helper_for(config, host, key)
        if helper:
            return await _ask_helper(helper, key)
        return _from_auths(file, config.get("auths") or {}, host)

    return provide


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadConfiguration(
            f"{file}: {error}", "repair it, or name another folder in DOCKER_CONFIG"
        ) from None
    if not isinstance(data, dict):
        raise BadConfiguration(
            f"{file}: no JSON object", "repair it, or name another folder in DOCKER_CONFIG"
        )
    return data


def _helper_for(config: Mapping[str, Any], host: str, key: str) -> str:
    helpers = config.get("credHelpers") or {}
    for name in (host, key, "docker.io" if key == HUB_KEY else ""):
        if name and helpers.get(name):
            return str(helpers[name])
    return str(config.get("credsStore") or "")


def _from_auths(file: Path, auths: Mapping[str, Any], host: str) -> Credentials | None:
    wanted = "index.docker.io" if host in (HUB_HOST, "docker.io") else host
    for key, entry in auths.items():
        if _host_of(key) == wanted and isinstance(entry, dict):
            return _entry(file, key, entry)
    return None


def _host_of(key: str) -> str:
    """Old entries are addresses (https://host/v1/), newer ones hosts."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _entry(file: Path, key: str, entry: Mapping[str, Any]) -> Credentials | None:
    if entry.get("identitytoken"):
        return Credentials("", str(entry["identitytoken"]))
    if entry.get("auth"):
        try:
            text = base64.b64decode(entry["auth"], validate=True).decode()
        except (binascii.Error, ValueError, TypeError):
            raise BadConfiguration(f"{file}: auth of {key} is not base64", f"docker login {key}") from None
        user, colon, secret = text.rstrip("\0").partition(":")
        if not colon:
            raise BadConfiguration(f"{file}: auth of {key} has no colon", f"docker login {key}")
        return Credentials(user, secret)
    if entry.get("username"):
        return Credentials(str(entry["username"]), str(entry.get("password") or ""))
    return None


async def _ask_helper(helper: str, key: str) -> Credentials | None:
    """``docker-credential-X get``: the key on stdin, JSON on stdout; status 1 and these words for "none"."""
    if not _HELPER_NAME.fullmatch(helper):
        raise BadConfiguration(f"credential helper {helper!r} has a strange name")
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise BadConfiguration(
            f"{program}: {(error.strerror or str(error)).lower()}",
            "install it on PATH, or remove it from Docker's config.json",
        ) from None
    try:
        async with asyncio.timeout(HELPER_TIMEOUT):
            output, _ = await process.communicate(key.encode())
    except TimeoutError:
        raise BadConfiguration(f"{program} did not answer within {HELPER_TIMEOUT} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _helper_answer(program, process.returncode or 0, output, key)


def _helper_answer(program: str, status: int, output: bytes, key: str) -> Credentials | None:
    text = output.decode(errors="replace").strip()
    if status != 0:
        if "credentials not found" in text:
            return None
        raise BadConfiguration(f"{program} failed for {key}: {text or f'status {status}'}")
    try:
        answer = json.loads(text)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError):
        raise BadConfiguration(f"{program} answered for {key} with what is no credentials") from None
    if not secret:
        return None
    return Credentials("" if user == _IDENTITY_USER else str(user), str(secret))

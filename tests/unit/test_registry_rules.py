"""Proxies, patience, and what a document must look like."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from longshore.registry import documents
from longshore.registry.documents import OCI_INDEX, OCI_MANIFEST, Descriptor, read_document
from longshore.registry.errors import BadConfiguration, BadContent
from longshore.registry.policy import Policy, retry_after
from longshore.registry.proxies import proxy_for

PROXY = {"HTTPS_PROXY": "http://p:3128", "http_proxy": "q:3128"}


@pytest.mark.parametrize(
    ("url", "exceptions", "proxy"),
    [
        ("https://r.example.com/v2/", "", "http://p:3128"),
        ("http://r.example.com/v2/", "", "http://q:3128"),
        ("https://localhost:5000/", "", ""),
        ("https://127.0.0.1/", "", ""),
        ("https://[::1]:5000/", "", ""),
        ("https://r.example.com/", "*", ""),
        ("https://r.example.com/", "example.com", ""),
        ("https://example.com/", "example.com", ""),
        ("https://notexample.com/", "example.com", "http://p:3128"),
        ("https://example.com/", ".example.com", "http://p:3128"),
        ("https://r.example.com/", ".example.com", ""),
        ("https://r.example.com/", "a, *.example.com", ""),
        ("https://r.example.com/", "r.example.com:443", ""),
        ("https://r.example.com:5000/", "r.example.com:443", "http://p:3128"),
        ("https://10.1.2.3/", "10.0.0.0/8", ""),
        ("https://11.1.2.3/", "10.0.0.0/8", "http://p:3128"),
        ("https://10.1.2.3/", "10.1.2.3", ""),
    ],
)
def test_proxies(url: str, exceptions: str, proxy: str) -> None:
    assert proxy_for(url, {**PROXY, "NO_PROXY": exceptions}) == proxy


def test_no_proxy_and_strange_ones() -> None:
    assert proxy_for("https://r.example.com/", {}) == ""
    with pytest.raises(BadConfiguration, match="HTTPS_PROXY=socks5://x"):
        proxy_for("https://r.example.com/", {"HTTPS_PROXY": "socks5://x"})


def test_delays_grow_and_obey() -> None:
    policy = Policy(first_delay=0.2, longest_delay=1, longest_wait=30)
    plain = [policy.delay(n, jitter=lambda low, high: 1.0) for n in range(1, 6)]
    assert plain == [0.2, 0.4, 0.8, 1.0, 1.0]
    assert policy.delay(1, 5) == 5
    assert policy.delay(1, 3600) == 30


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        ("soon", None),
        ("-3", None),
        ("Tue, 24 Nov 2026 07:00:10 GMT", 10),
        ("Tue, 24 Nov 2026 06:00:00 GMT", 0),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 11, 24, 7, 0, 0, tzinfo=UTC)) == seconds


BLOB = {"mediaType": "x", "digest": "sha256:" + "a" * 64, "size": 3}


def read(media_type: str, content: Any) -> documents.Document:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return read_document(Descriptor(media_type, documents.digest_of(data), len(data)), data)


def test_children() -> None:
    found = read(OCI_MANIFEST, {"schemaVersion": 2, "config": BLOB, "layers": [BLOB, BLOB]})
    assert [child.digest for child in found.children] == [BLOB["digest"]] * 3
    index = read(OCI_INDEX, {"manifests": [{**BLOB, "platform": {"os": "linux", "architecture": "arm64"}}]})
    assert str(index.manifests[0].platform) == "linux/arm64"


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        (OCI_MANIFEST, b"\xff"),
        (OCI_MANIFEST, b"[]"),
        (OCI_MANIFEST, {"mediaType": OCI_INDEX, "config": BLOB}),
        (OCI_MANIFEST, {"config": BLOB, "layers": [], "manifests": []}),
        (OCI_INDEX, {"manifests": [], "layers": []}),
        (OCI_INDEX, {"manifests": [], "config": BLOB}),
        (OCI_MANIFEST, {"schemaVersion": 1, "fsLayers": []}),
        (OCI_MANIFEST, {"config": {**BLOB, "digest": "sha256:../../etc"}}),
        (OCI_MANIFEST, {"config": {**BLOB, "size": -1}}),
        (OCI_MANIFEST, {"config": {**BLOB, "size": True}}),
        (OCI_MANIFEST, {"config": {**BLOB, "mediaType": 7}}),
        (OCI_MANIFEST, {"config": BLOB, "layers": ["x"]}),
        (OCI_MANIFEST, {"config": BLOB, "layers": 5}),
        (OCI_INDEX, {"manifests": {"a": BLOB}}),
    ],
)
def test_documents_refused(media_type: str, content: Any) -> None:
    with pytest.raises(BadContent):
        read(media_type, content)

"""hosts.toml and the folders in which it is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.registry.errors import BadConfiguration
from longshore.registry.hosts import TLS, Host, Settings, hosts_for, is_mirror


def write(folder: Path, name: str, text: str) -> Settings:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "hosts.toml").write_text(text)
    return Settings(str(folder))


def test_without_configuration() -> None:
    (host,) = hosts_for("registry.example.com", Settings())
    assert host == Host("https", "registry.example.com")
    assert not is_mirror(host, "registry.example.com")


def test_the_hub_has_another_address() -> None:
    (host,) = hosts_for("docker.io", Settings())
    assert host.url == "https://registry-1.docker.io/v2"
    assert not is_mirror(host, "docker.io")


@pytest.mark.parametrize(
    ("domain", "settings", "scheme", "may_be_plain"),
    [
        ("localhost:5000", Settings(), "https", True),
        ("127.0.0.9:5000", Settings(), "https", True),
        ("[::1]:5000", Settings(), "https", True),
        ("localhost", Settings(), "https", True),
        ("localhost:443", Settings(), "https", False),
        ("localhost:5000", Settings(plain_http=True), "http", False),
        ("localhost:5000", Settings(tls=TLS(skip_verify=True)), "https", False),
        ("localhost:5000", Settings(tls=TLS(("ca.crt",))), "https", False),
        ("registry.example.com", Settings(plain_http=True), "http", False),
        ("localhost.example.com", Settings(), "https", False),
        ("128.0.0.1:5000", Settings(), "https", False),
    ],
)
def test_plain_http_is_for_loopback(domain: str, settings: Settings, scheme: str, may_be_plain: bool) -> None:
    (host,) = hosts_for(domain, settings)
    assert (host.scheme, host.may_be_plain) == (scheme, may_be_plain)


FULL = """
server = "https://origin.example.com"
capabilities = ["pull"]

[host."https://one.example.com"]
  capabilities = ["pull", "resolve"]
  ca = "one.crt"
  client = [["c.cert", "c.key"], ["both.pem"]]
  dial_timeout = "1m1.5s"
  [host."https://one.example.com".header]
    X-One = "1"
    X-Many = ["a", "b"]

[host."http://two.example.com:5000/mirror"]
  skip_verify = true

[host."https://three.example.com/v2/proxy/"]
  override_path = true
  ca = ["/etc/x.crt", "y.crt"]
"""


def test_everything(tmp_path: Path) -> None:
    one, two, three, server = hosts_for("a.example.com", write(tmp_path, "a.example.com", FULL))
    folder = tmp_path / "a.example.com"
    assert one.url == "https://one.example.com/v2"
    assert one.capabilities == {"pull", "resolve"}
    assert one.tls == TLS(
        (str(folder / "one.crt"),),
        ((str(folder / "c.cert"), str(folder / "c.key")), (str(folder / "both.pem"), "")),
    )
    assert one.dial_timeout == 61.5
    assert one.headers == (("X-One", "1"), ("X-Many", "a"), ("X-Many", "b"))
    assert (two.url, two.tls.skip_verify) == ("http://two.example.com:5000/mirror/v2", True)
    assert "push" in two.capabilities
    assert three.url == "https://three.example.com/v2/proxy"
    assert three.tls.ca == ("/etc/x.crt", str(folder / "y.crt"))
    assert (server.url, set(server.capabilities)) == ("https://origin.example.com/v2", {"pull"})
    assert all(is_mirror(host, "a.example.com") for host in (one, two, three, server))


def test_no_server_means_the_registry_itself(tmp_path: Path) -> None:
    settings = write(tmp_path, "docker.io", '[host."https://mirror.example.com"]\n')
    assert [host.address for host in hosts_for("docker.io", settings)] == [
        "mirror.example.com",
        "registry-1.docker.io",
    ]


def test_top_level_keys_are_the_servers(tmp_path: Path) -> None:
    settings = write(tmp_path, "localhost:5000", 'ca = "ca.crt"\n')
    (host,) = hosts_for("localhost:5000", settings)
    assert host.tls.ca == (str(tmp_path / "localhost:5000" / "ca.crt"),)
    assert not host.may_be_plain


def test_order_of_folders(tmp_path: Path) -> None:
    def first() -> str:
        return hosts_for("a.example.com:5000", Settings(str(tmp_path)))[0].address

    assert first() == "a.example.com:5000"
    for name in ("_default", "a.example.com:5000", "a.example.com_5000_"):
        write(tmp_path, name, f'server = "https://{len(name)}.example.com"')
        assert first() == f"{len(name)}.example.com"


def test_dockers_way(tmp_path: Path) -> None:
    folder = tmp_path / "a.example.com"
    folder.mkdir()
    for name in ("b.crt", "a.crt", "c.cert", "c.key", "notes.txt"):
        (folder / name).touch()
    (host,) = hosts_for("a.example.com", Settings(str(tmp_path)))
    assert host.tls == TLS(
        (str(folder / "a.crt"), str(folder / "b.crt")), ((str(folder / "c.cert"), str(folder / "c.key")),)
    )
    (folder / "c.key").unlink()
    with pytest.raises(BadConfiguration, match=r"c\.key"):
        hosts_for("a.example.com", Settings(str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        'host = "x"',
        '[host."ftp://x"]',
        '[host."https://"]',
        '[host."https://x"]\ncapabilities = ["fly"]',
        '[host."https://x"]\ncapabilities = "pull"',
        '[host."https://x"]\nca = 5',
        '[host."https://x"]\nclient = [["a", "b", "c"]]',
        '[host."https://x"]\nskip_verify = "yes"',
        '[host."https://x"]\ndial_timeout = "soon"',
        '[host."https://x"]\nheader = {X = 5}',
        '[host."https://x"]\nheader = {X = "a\\r\\nEvil: b"}',
        '[host]\n"https://x" = 5',
    ],
)
def test_refused_with_the_file_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfiguration, match=r"hosts\.toml"):
        hosts_for("a.example.com", write(tmp_path, "a.example.com", text))

"""The docker command: what flags come to, templates, and how things are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from longshore.docker import containers, options, show, streams
from longshore.docker.api import Failure
from longshore.docker.building import Ignore, walk
from longshore.docker.copying import split as split_path
from longshore.docker.references import Config, registry_of, split
from longshore.docker.templates import Template

DATA = {
    "Name": "/box",
    "State": {"Running": True, "ExitCode": 0, "Error": ""},
    "Env": ["A=1", "B=2"],
    "Labels": {"b": "2", "a": "1"},
    "Cmd": None,
    "Networks": {"net": {"IP": "10.0.0.2"}, "bridge": {"IP": "172.17.0.2"}},
    "Size": 1.5,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "/box"),
        ("{{.State.Running}} {{.State.ExitCode}}", "true 0"),
        ("{{.Env}} {{.Labels}} {{.Cmd}}", "[A=1 B=2] map[a:1 b:2] <no value>"),
        ("{{json .Env}}{{json .Cmd}}", '["A=1","B=2"]null'),
        ("{{.Env | json}}", '["A=1","B=2"]'),
        ("{{range .Env}}<{{.}}>{{end}}", "<A=1><B=2>"),
        ("{{range $i, $e := .Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;"),
        ("{{range $n, $v := .Networks}}{{$n}}:{{$v.IP}} {{end}}", "bridge:172.17.0.2 net:10.0.0.2 "),
        ("{{range .Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ('{{if .State.Error}}bad{{else if eq .Name "/box"}}box{{end}}', "box"),
        ("{{with .State}}{{.ExitCode}}{{end}}", "0"),
        ('{{len .Env}} {{index .Env 1}} {{index .Labels "a"}}', "2 B=2 1"),
        ('{{(index .Networks "net").IP}}', "10.0.0.2"),
        ('{{join .Env ", "}} {{upper .Name}} {{truncate .Name 3}}', "A=1, B=2 /BOX /bo"),
        ('{{printf "%s-%d" .Name 3}}', "/box-3"),
        ("{{println .Name}}", "/box\n"),
        ("a {{- .Name -}} b", "a/boxb"),
        ('{{and .State.Running .Name}} {{or .State.Error "x"}} {{not .Cmd}}', "/box x true"),
        ("{{$x := .Name}}{{$x}}", "/box"),
        ("{{.Size}}", "1.5"),
        ("{{/* nothing */}}x", "x"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert Template(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "words", "status"),
    [
        ("{{.NoSuch}}", 'at <.NoSuch>: map has no entry for key "NoSuch"', 1),
        ("{{nope .Name}}", 'function "nope" not defined', 64),
        ("{{.Name", "unclosed action", 64),
        ("{{range .Env}}", "unexpected EOF", 64),
        ("{{index .Env 9}}", "slice index out of range", 1),
    ],
)
def test_templates_that_fail(template: str, words: str, status: int) -> None:
    with pytest.raises(Failure) as caught:
        Template(template).render(DATA)
    assert words in str(caught.value)
    assert caught.value.status == status


def parsed(*words: str) -> dict[str, Any]:
    command = click.Command("run", params=[*options.all_options(), click.Argument(["image"])])
    command.allow_interspersed_args = False
    context = command.make_context("run", [*words, "img"])
    return options.make(context.params, "img", ["cmd"])


def test_flags_become_a_document() -> None:
    body = parsed(
        *("-it", "--rm", "-h", "host", "-u", "1:2", "-w", "/w", "-e", "A=1", "-l", "x=y", "-m", "64m"),
        *(
            "--cpus",
            "0.5",
            "--restart",
            "on-failure:3",
            "--ulimit",
            "nofile=1:2",
            "--device",
            "/dev/null:/n:r",
        ),
        *("-v", "/a:/b:ro", "-v", "/anonymous", "--tmpfs", "/t:size=1m", "--sysctl", "a.b=1"),
        *("--entrypoint", "sh", "--init", "--log-driver", "local", "--log-opt", "max-size=1m"),
        *("--health-cmd", "true", "--health-interval", "1m30s", "--add-host", "h=1.2.3.4"),
    )
    host = body["HostConfig"]
    assert (body["Hostname"], body["User"], body["WorkingDir"], body["Env"]) == ("host", "1:2", "/w", ["A=1"])
    assert body["Tty"] and body["OpenStdin"] and body["StdinOnce"] and body["AttachStdin"]
    assert (
        body["Entrypoint"] == ["sh"]
        and body["Labels"] == {"x": "y"}
        and body["Volumes"] == {"/anonymous": {}}
    )
    assert body["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Retries": 0, "Interval": 90_000_000_000}
    assert host["Memory"] == 64 << 20 and host["NanoCpus"] == 500_000_000 and host["AutoRemove"]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert host["Devices"] == [{"PathOnHost": "/dev/null", "PathInContainer": "/n", "CgroupPermissions": "r"}]
    assert (
        host["Binds"] == ["/a:/b:ro"]
        and host["Tmpfs"] == {"/t": "size=1m"}
        and host["Sysctls"] == {"a.b": "1"}
    )
    assert host["LogConfig"] == {"Type": "local", "Config": {"max-size": "1m"}}
    assert host["ExtraHosts"] == ["h:1.2.3.4"] and host["Init"] is True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("127.0.0.1:8080:80/udp", [("80/udp", "127.0.0.1", "8080")]),
        ("127.0.0.1::80", [("80/tcp", "127.0.0.1", "")]),
        ("[::1]:8080:80", [("80/tcp", "::1", "8080")]),
        ("9000-9001:80-81", [("80/tcp", "", "9000"), ("81/tcp", "", "9001")]),
        ("9000-9005:80", [("80/tcp", "", "9000-9005")]),
    ],
)
def test_published_ports(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(port, b["HostIp"], b["HostPort"]) for port, b in options.published(text)] == expected


@pytest.mark.parametrize("text", ["nonsense", "80/tcpp", "1-2:3-5", "70000:80"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(Failure):
        options.published(text)


def test_mounts() -> None:
    body = parsed("--mount", "type=bind,src=/a,dst=/b,ro", "--mount", "type=tmpfs,target=/t,tmpfs-mode=700")
    assert body["HostConfig"]["Mounts"] == [
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True},
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 0o700}},
    ]
    with pytest.raises(Failure, match="target is required"):
        parsed("--mount", "type=bind,src=/a")


def test_networks() -> None:
    body = parsed("--network", "net", "--network-alias", "web", "--ip", "10.0.0.5", "--network", "other")
    assert body["HostConfig"]["NetworkMode"] == "net"
    assert body["NetworkingConfig"]["EndpointsConfig"] == {
        "net": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["web"]},
        "other": {},
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *(
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
        ),
        *((3600, "About an hour"), (7200, "2 hours"), (48 * 3600, "2 days"), (15 * 86400, "2 weeks")),
        *((61 * 86400, "2 months"), (800 * 86400, "2 years")),
    ],
)
def test_durations(seconds: int, words: str) -> None:
    assert show.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0B"), (999, "999B"), (1234, "1.23kB"), (4_500_000, "4.5MB"), (123_456_789, "123MB")],
)
def test_sizes(count: int, words: str) -> None:
    assert show.size(count) == words


def test_ports_as_they_are_listed() -> None:
    given = [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8081, "Type": "tcp"},
        {"PrivatePort": 53, "Type": "udp"},
    ]
    assert containers.ports(given) == "53/udp, 0.0.0.0:8080-8081->80-81/tcp"


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [show.Row({"ID": lambda: "1", "Name": lambda: "box"})]
    show.listing(rows, "table {{.ID}}\\t{{.Name}}", (("CONTAINER ID", "ID"), ("NAMES", "Name")))
    show.listing(rows, "{{json .}}", ())
    assert capsys.readouterr().out == 'CONTAINER ID   NAMES\n1              box\n{"ID":"1","Name":"box"}\n'


def test_dockerignore(tmp_path: Path) -> None:
    for name in ("a.log", "keep.log", "sub/b.log", "sub/c.txt", "node/x/y", "src/main.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    ignore = Ignore(["# words", "**/*.log", "!keep.log", "node", "!node/x/y", "s?b/c.txt"])
    found = [inside for path, inside in walk(tmp_path, ignore) if path.is_file()]
    assert found == ["keep.log", "node/x/y", "src/main.py"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("busybox", ("busybox", "")),
        ("busybox:1", ("busybox", "1")),
        ("host:5000/a/b", ("host:5000/a/b", "")),
        ("host:5000/a:t", ("host:5000/a", "t")),
        ("a@sha256:1", ("a", "sha256:1")),
    ],
)
def test_names_of_images(name: str, expected: tuple[str, str]) -> None:
    assert split(name) == expected


def test_registries() -> None:
    names = ("busybox", "me/busybox", "localhost/x", "host:5000/x", "example.org/a/b")
    assert list(map(registry_of, names)) == [
        "docker.io",
        "docker.io",
        "localhost",
        "host:5000",
        "example.org",
    ]


def test_credentials_are_kept_privately(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "d"))
    config.remember("host:5000", "me", "secret:word", "")
    assert config.path.stat().st_mode & 0o777 == 0o600
    found = Config(str(tmp_path / "d")).credentials("host:5000")
    assert (found["username"], found["password"]) == ("me", "secret:word")
    assert config.forget("host:5000") and not config.forget("host:5000")
    assert json.loads(config.path.read_text()) == {"auths": {}}


def test_detach_keys() -> None:
    assert streams.keys("") == b"\x10\x11"
    assert streams.keys("ctrl-a,x") == b"\x01x"
    with pytest.raises(Failure, match="Unknown character: 'nope'"):
        streams.keys("nope")


def test_paths_of_containers() -> None:
    assert split_path("box:/etc") == ("box", "/etc")
    assert split_path("./a:b") == ("", "./a:b")
    assert split_path("-") == ("", "-")

"""JSON as leniently as Go reads it; the route with the most literal text; versions."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.api.errors import InvalidArgument, NotFound
from longshore.dockerd import builtins, decoding, routing
from longshore.dockerd.http import Answer, Call, Route
from longshore.dockerd.records import CreateBody, NetworkingConfig, PortBinding


def decode(document: Any) -> CreateBody:
    return decoding.decode(json.dumps(document).encode(), CreateBody)


def test_null_is_absent_at_every_depth() -> None:
    body = decode(
        {
            "Image": None,
            "Tty": None,
            "Labels": None,
            "Env": ["a", None],
            "ExposedPorts": {"80/tcp": None},
            "HostConfig": {
                "Memory": None,
                "LogConfig": None,
                "RestartPolicy": {"Name": None, "MaximumRetryCount": 3},
                "PortBindings": {"80/tcp": None, "81/tcp": [{"HostIp": None, "HostPort": "81"}, None]},
                "Init": None,
                "Mounts": [{"Type": "bind", "BindOptions": None, "Target": "/x"}],
            },
            "NetworkingConfig": {"EndpointsConfig": {"net": None}},
        }
    )
    host = body.host_config
    assert host is not None and host.mounts is not None
    assert (body.image, body.tty, body.env, body.exposed_ports) == ("", False, ["a", ""], {"80/tcp": {}})
    assert (host.memory, host.log_config.type, host.restart_policy.maximum_retry_count) == (0, "", 3)
    assert host.port_bindings == {
        "80/tcp": None,
        "81/tcp": [PortBinding(host_port="81"), PortBinding()],
    }
    assert (host.init, host.mounts[0].bind_options) == (None, None)
    assert body.networking_config == NetworkingConfig(endpoints_config={"net": None})


def test_names_in_any_case_and_unknown_ones() -> None:
    body = decode({"IMAGE": "x", "hostconfig": {"NANOCPUS": 5, "nonsense": {"a": [1]}}, "More": 1})
    assert body.image == "x"
    assert body.host_config is not None and body.host_config.nano_cpus == 5


def test_either_of_two_kinds() -> None:
    assert (decode({"Cmd": "a b"}).cmd, decode({"Cmd": ["a"]}).cmd, decode({"Cmd": None}).cmd) == (
        "a b",
        ["a"],
        None,
    )


def test_names_in_maps_are_left_alone() -> None:
    assert decode({"Labels": {"Image": "a", "image": "b"}}).labels == {"Image": "a", "image": "b"}


@pytest.mark.parametrize(
    ("data", "words"),
    (
        (b'{"Image": 1}', "Expected `str`, got `int` - at `$.Image`"),
        (b'{"HostConfig": {"Memory": "1"}}', "$.HostConfig.Memory"),
        (b'{"HostConfig": {"Memory": 9223372036854775808}}', "9223372036854775808 is out of range"),
        (b'{"HostConfig": {"OomScoreAdj": -9223372036854775809}}', "is out of range"),
        (b"[1]", "Expected `object`"),
        (b"nonsense", "invalid JSON"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "invalid JSON"),
    ),
)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decoding.decode(data, CreateBody)
    assert words in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("Image", "hostconfig", "Mounts", "Labels", "Cmd", "PortBindings", "x")), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_anything_is_a_body_or_refused(document: Any) -> None:
    try:
        assert isinstance(decode(document), CreateBody)
    except InvalidArgument:
        pass


@pytest.mark.parametrize(
    ("text", "found"),
    (
        ("", {}),
        ('{"name": ["a", "b"]}', {"name": ["a", "b"]}),
        ('{"name": {"a": true}, "label": {}}', {"name": ["a"], "label": []}),
    ),
)
def test_filters(text: str, found: dict[str, list[str]]) -> None:
    assert decoding.filters(text, frozenset(("name", "label"))) == found


@pytest.mark.parametrize("text", ("x", "[]", '{"name": "a"}', '{"other": ["a"]}'))
def test_no_filters(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        decoding.filters(text, frozenset(("name",)))


# -- routes -------------------------------------------------------------------------------------------------


async def nothing(engine: object, call: Call) -> Answer:
    return Answer()


def table(*paths: str) -> routing.Table:
    return routing.Table(Route("GET", path, nothing) for path in paths)


@pytest.mark.parametrize(
    ("path", "route", "fields"),
    (
        ("/images/json", "/images/json", {}),
        ("/images/json/json", "/images/{name}/json", {"name": "json"}),
        ("/images/a%2Fb/json", "/images/{name}/json", {"name": "a/b"}),
        ("/images/a/b/json", "/images/{name}/json", {"name": "a/b"}),
        ("/images/a/json/get", "/images/{name}/get", {"name": "a/json"}),
        ("/images/a%0Ab", "/images/{name}", {"name": "a\nb"}),
    ),
)
def test_the_most_literal_route_is_meant(path: str, route: str, fields: dict[str, str]) -> None:
    routes = table("/images/{name}", "/images/{name}/json", "/images/json", "/images/{name}/get")
    found = routes.find("GET", path, (1, 41))
    assert (found.route.path, found.path) == (route, fields)


def test_no_route() -> None:
    for method, path in (
        ("GET", "/imagesxjson"),
        ("GET", "/images//"),
        ("POST", "/images/json"),
        ("GET", ""),
    ):
        with pytest.raises(NotFound, match="page not found"):
            table("/images/json").find(method, path, (1, 41))


def test_versions() -> None:
    assert routing.split_version("/v1.41/info") == ((1, 41), "/info")
    assert routing.split_version("/info") == (routing.NEWEST, "/info")
    assert routing.split_version("/v1.41") == ((1, 41), "/")
    assert routing.split_version("/version") == (routing.NEWEST, "/version")
    assert routing.split_version("/v1.41.2/info") == ((1, 41), "/info")
    assert routing.split_version("/v1/info") == ((1, 0), "/info")
    routing.check_version((1, 24))
    for path in ("/v1.23/info", "/v0.1/info", "/v1.49/info", "/v2.0/info", "/v1/info"):
        with pytest.raises(InvalidArgument):
            routing.check_version(routing.split_version(path)[0])


def test_a_path_is_cleaned() -> None:
    for path, clean in (
        ("//v1.41//version", "/v1.41/version"),
        ("/v1.41/../version", "/version"),
        ("/a/./b/", "/a/b/"),
        ("/", "/"),
        ("//", "/"),
    ):
        assert routing.cleaned(path) == clean


def test_a_path_may_be_encoded_as_a_whole() -> None:
    assert table("/version").find("GET", "/%76ersion", (1, 41)).route.path == "/version"


def test_no_two_routes_are_one() -> None:
    routes = [(route.method, route.path) for route in builtins.routes()]
    assert len(routes) == len(set(routes)) > 100
    assert cast(Any, routing.Table(builtins.routes())).find("GET", "/_ping", (1, 24)).route.path == "/_ping"

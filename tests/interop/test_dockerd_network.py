"""Networks of our dockerd as containers, the host and the docker CLI see them; and what a killed dockerd leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from support import goparts, host, require
from support.dockerd import PARTS as DEBIANS
from support.dockerd import AnyDockerd, Dockerd
from support.ourdockerd import BUSYBOX, PARTS, OurDockerd
from support.process import eventually

SERVE = "mkdir -p /w; echo {word} > /w/index.html; exec httpd -f -p {port} -h /w"
WGET = ("timeout", "2", "wget", "-q", "-O", "-")  # its own -T crashes where it is linked statically
FETCH = "import sys, urllib.request as web; print(web.urlopen(sys.argv[1], timeout=2).read().decode())"


@pytest.fixture(scope="module")
def shared() -> Iterator[OurDockerd]:
    require.root()
    require.go(*PARTS)
    with OurDockerd() as docker:
        yield docker


@pytest.fixture
def docker(shared: OurDockerd) -> Iterator[OurDockerd]:
    yield shared
    shared.clean()
    shared("network", "prune", "--force")
    assert names_of_networks(shared) == {"bridge", "host", "none"}
    eventually(lambda: not leftovers(shared), what=f"nothing left of: {leftovers(shared)}")


def names_of_networks(docker: OurDockerd) -> set[str]:
    return set(docker("network", "ls", "--format", "{{.Name}}").stdout.split())


def leftovers(docker: OurDockerd) -> list[str]:
    """Links, namespaces, proxies and port rules that no container has any more."""
    links = docker.host.run(["ip", "-o", "link"]).stdout
    found = re.findall(r"(veth\w+|br-\w+)", links)
    found += docker.host.run(["ls", "/run/docker/netns", "/run/docker/network"]).stdout.split()[1:]
    found.remove("/run/docker/network:")
    found += [line for line in processes(docker) if "docker-proxy" in line]
    return found + [line for line in rules(docker, "nat") if "DNAT" in line]


def processes(docker: OurDockerd) -> list[str]:
    return docker.host.run(["ps", "-eo", "pid,comm,args"]).stdout.splitlines()


def rules(docker: AnyDockerd, table: str, tool: str = "iptables") -> list[str]:
    done = docker.host.run([goparts.path(tool), "-t", table, "-S"])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def serve(docker: OurDockerd, name: str, *flags: str, port: int = 80) -> None:
    """A web server that answers with its own name."""
    command = SERVE.format(word=name, port=port)
    docker("run", "--detach", "--name", name, "--stop-timeout", "0", *flags, BUSYBOX, "sh", "-c", command)


def fetched(docker: OurDockerd, url: str, inside: str = "") -> str:
    """By the host, or by a container; "" for no answer."""
    if inside:
        return docker("exec", inside, *WGET, url, check=False).stdout.strip()
    return docker.host.run([sys.executable, "-I", "-c", FETCH, url]).stdout.strip()


def settings(docker: OurDockerd, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker.inspect(name, "json .NetworkSettings"))
    return found


def test_published_port(docker: OurDockerd) -> None:
    serve(docker, "web", "--publish", "8080:80")
    eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
    eventually(lambda: fetched(docker, "http://[::1]:8080/") == "web")
    eventually(lambda: fetched(docker, "http://172.17.0.1:8080/") == "web")
    assert any("--dport 8080" in line and "DNAT" in line for line in rules(docker, "nat"))
    serve(docker, "other")
    eventually(lambda: fetched(docker, "http://172.17.0.1:8080/", inside="other") == "web")
    assert sum("docker-proxy" in line for line in processes(docker)) == 2
    docker("rm", "--force", "web")
    assert fetched(docker, "http://127.0.0.1:8080/") == ""
    assert not any("8080" in line for line in rules(docker, "nat"))


def test_killed_proxies_are_replaced(docker: OurDockerd) -> None:
    """Also those that a dockerd before this one started."""
    serve(docker, "web", "--publish", "8080:80")
    for _ in range(2):
        before = proxies(docker)
        assert len(before) == 2
        docker.host.run(["kill", "-9", *before])
        eventually(lambda before=before: len(proxies(docker) - before) == 2)  # type: ignore[misc]
        eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")  # they aren't there at once
        docker.kill9()
        docker.start()
    docker("rm", "--force", "web")
    eventually(lambda: proxies(docker) == set())


def proxies(docker: OurDockerd) -> set[str]:
    """Their pids."""
    return {line.split()[0] for line in processes(docker) if line.split()[1] == "docker-proxy"}


def test_port_conflicts(docker: OurDockerd) -> None:
    serve(docker, "web", "--publish", "8080:80")
    said = docker("run", "--publish", "8080:80", "--name", "late", BUSYBOX, "true", check=False).stderr
    assert "driver failed programming external connectivity on endpoint late" in said
    assert "Bind for 0.0.0.0:8080 failed: port is already allocated" in said
    assert docker.inspect("late", ".State.Status") == "created"
    serve(docker, "hosted", "--network", "host", port=8081)
    eventually(lambda: fetched(docker, "http://127.0.0.1:8081/") == "hosted")
    said = docker("run", "--rm", "--publish", "8081:80", BUSYBOX, "true", check=False).stderr
    assert "address already in use" in said
    docker("rm", "--force", "web")
    docker("start", "--attach", "late")


def test_ports_nobody_chose_and_ranges(docker: OurDockerd) -> None:
    serve(docker, "one", "--publish", "80", "--publish", "127.0.0.1:9000-9001:90/udp")
    serve(docker, "two", "--publish", "127.0.0.1:9000-9001:90/udp")
    ports = settings(docker, "one")["Ports"]
    assert len({binding["HostPort"] for binding in ports["80/tcp"]}) == 1
    assert ports["90/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "9000"}]
    assert settings(docker, "two")["Ports"]["90/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "9001"}]
    port = ports["80/tcp"][0]["HostPort"]
    eventually(lambda: fetched(docker, f"http://127.0.0.1:{port}/") == "one")


UDP_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 53))
print("ready", flush=True)
while True:
    ask, where = server.recvfrom(4096)
    server.sendto(sys.argv[1].encode(), where)
"""
UDP_CLIENT = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
client.connect(("172.17.0.1", 5353))
for _ in sys.stdin:
    client.send(b"x")
    print(client.recv(4096).decode(), flush=True)
"""


@contextmanager
def udp_server(docker: OurDockerd, name: str) -> Iterator[None]:
    enter = ["nsenter", "-n", "-t", docker.inspect(name, ".State.Pid")]
    words = [*enter, sys.executable, "-I", "-c", UDP_SERVER, name]
    with docker.host.popen(words, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            os.kill(host.innermost(server.pid), signal.SIGKILL)


def test_a_flow_follows_its_port(docker: OurDockerd) -> None:
    """A client of a UDP port that never pauses reaches the next container behind it, not the last one's address."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with docker.host.popen([sys.executable, "-I", "-c", UDP_CLIENT], **pipes) as client:
        assert client.stdin is not None and client.stdout is not None
        for name in ("first", "second"):
            serve(docker, f"beside-{name}")  # so that the next one has another address
            serve(docker, name, "--publish", "5353:53/udp")
            with udp_server(docker, name):
                client.stdin.write(b"\n")
                client.stdin.flush()
                assert client.stdout.readline().decode().strip() == name
            docker("rm", "--force", name)
        client.stdin.close()


def test_names_on_a_network_of_the_user(docker: OurDockerd) -> None:
    docker("network", "create", "--subnet", "10.9.0.0/24", "--ip-range", "10.9.0.128/25", "n1")
    docker("network", "create", "n2")
    serve(docker, "web", "--network", "n1", "--network-alias", "store")
    serve(docker, "far", "--network", "n2")
    serve(docker, "client", "--network", "n1", "--ip", "10.9.0.7", "--link", "web:linked")
    for name in ("web", "store", "web.n1", "linked"):
        eventually(lambda name=name: fetched(docker, f"http://{name}/", inside="client") == "web")  # type: ignore[misc]
    assert settings(docker, "web")["Networks"]["n1"]["IPAddress"].startswith("10.9.0.1")
    reverse = docker("exec", "web", "nslookup", "10.9.0.7").stdout
    assert "client.n1" in reverse
    assert fetched(docker, "http://far/", inside="client") == ""
    docker("network", "connect", "--alias", "near", "n1", "far")
    eventually(lambda: fetched(docker, "http://near/", inside="client") == "far")
    docker("network", "disconnect", "n1", "far")
    assert fetched(docker, "http://near/", inside="client") == ""
    docker("rename", "web", "renamed")
    eventually(lambda: fetched(docker, "http://renamed/", inside="client") == "web")


UPSTREAM = """
import socket, threading
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 53))
tcp = socket.create_server(("127.0.0.1", 53))
answer = lambda ask: ask[:2] + bytes([0x81, 0x80]) + ask[4:6] + bytes([0, 1, 0, 0, 0, 0]) + ask[12:] + bytes(
    [0xC0, 0x0C, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 1, 2, 3])
def stream():
    while True:
        client, _ = tcp.accept()
        ask = client.recv(4096)[2:]
        client.sendall(len(answer(ask)).to_bytes(2, "big") + answer(ask))
        client.close()
threading.Thread(target=stream, daemon=True).start()
print("ready", flush=True)
while True:
    ask, where = udp.recvfrom(4096)
    udp.sendto(answer(ask), where)
"""
ASK_BY_STREAM = """
import socket, struct, sys
name = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split(".")) + bytes(1)
ask = struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
with socket.create_connection(("127.0.0.11", 53), 60) as server:
    server.sendall(struct.pack(">H", len(ask)) + ask)
    print(socket.inet_ntoa(server.recv(4096)[-4:]))
"""


def test_names_of_the_world_outside(docker: OurDockerd) -> None:
    """They are asked of the host's servers, also where those listen on the host's loopback only."""
    docker("network", "create", "n1")
    docker("network", "create", "--internal", "closed")
    serve(docker, "client", "--network", "n1")
    serve(docker, "shut", "--network", "closed")
    enter = ["nsenter", "-n", "-t", docker.inspect("client", ".State.Pid")]
    before = docker.host.run(["cat", "/etc/resolv.conf"]).stdout
    docker.host.run(["sh", "-c", "echo nameserver 127.0.0.1 > /etc/resolv.conf"])
    upstream = docker.host.popen([sys.executable, "-I", "-c", UPSTREAM], stdout=subprocess.PIPE)
    try:
        assert upstream.stdout is not None and upstream.stdout.readline() == b"ready\n"
        assert "10.1.2.3" in docker("exec", "client", "nslookup", "-type=a", "outside.test").stdout
        ask = [*enter, sys.executable, "-I", "-c", ASK_BY_STREAM]
        assert docker.host.run([*ask, "outside.test"]).stdout == "10.1.2.3\n"
        own = settings(docker, "client")["Networks"]["n1"]["IPAddress"]
        assert docker.host.run([*ask, "client"]).stdout == f"{own}\n"
        assert "10.1.2.3" not in docker("exec", "shut", "nslookup", "outside.test", check=False).stdout
    finally:
        os.kill(host.child_of(upstream.pid), signal.SIGKILL)
        upstream.wait()
        upstream.stdout.close()  # type: ignore[union-attr]
        docker.host.run(["sh", "-c", f"printf %s '{before}' > /etc/resolv.conf"])


def test_networks_are_apart(docker: OurDockerd) -> None:
    docker("network", "create", "n1")
    docker("network", "create", "--internal", "closed")
    serve(docker, "one", "--network", "n1")
    serve(docker, "two")
    serve(docker, "shut", "--network", "closed")
    address = settings(docker, "one")["Networks"]["n1"]["IPAddress"]
    eventually(lambda: fetched(docker, f"http://{address}/") == "one")
    assert fetched(docker, f"http://{address}/", inside="two") == ""
    assert "default" not in docker("exec", "shut", "ip", "route").stdout
    serve(docker, "guest", "--network", "container:one", port=81)
    eventually(lambda: fetched(docker, "http://127.0.0.1/", inside="guest") == "one")
    eventually(lambda: fetched(docker, "http://127.0.0.1:81/", inside="one") == "guest")


def test_a_port_follows_the_way_out(docker: OurDockerd) -> None:
    """A container is moved to another network while it runs."""
    docker("network", "create", "n1")
    serve(docker, "web", "--publish", "8080:80")
    docker("network", "connect", "n1", "web")
    docker("network", "disconnect", "bridge", "web")
    eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
    bridge = docker("network", "inspect", "--format", "{{slice .Id 0 12}}", "n1").stdout.strip()
    assert any(f"! -i br-{bridge}" in line and "DNAT" in line for line in rules(docker, "nat"))
    docker("restart", "web")
    eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
    assert list(settings(docker, "web")["Networks"]) == ["n1"]


def test_ipv6(docker: OurDockerd) -> None:
    docker("network", "create", "--ipv6", "--subnet", "fd00:9::/64", "six")
    serve(docker, "web", "--network", "six", "--publish", "8080:80", "--ip6", "fd00:9::7")
    serve(docker, "client", "--network", "six")
    eventually(lambda: fetched(docker, "http://[fd00:9::7]/", inside="client") == "web")
    assert "fd00:9::7" in docker("exec", "client", "nslookup", "-type=aaaa", "web").stdout
    eventually(lambda: fetched(docker, "http://[fd00:9::1]:8080/") == "web")
    assert any("fd00:9::7" in line and "DNAT" in line for line in rules(docker, "nat", "ip6tables"))
    docker("rm", "--force", "web")
    assert not any("DNAT" in line for line in rules(docker, "nat", "ip6tables"))


def test_links_of_the_default_bridge_and_hosts(docker: OurDockerd) -> None:
    serve(docker, "web")
    hosts = ("--add-host", "up:host-gateway", "--add-host", "fixed:10.1.2.3")
    serve(docker, "client", "--link", "web:alias", *hosts)
    eventually(lambda: fetched(docker, "http://alias/", inside="client") == "web")
    listed = docker("exec", "client", "cat", "/etc/hosts").stdout
    assert "172.17.0.1\tup\n" in listed and "10.1.2.3\tfixed\n" in listed


def test_macvlan(docker: OurDockerd) -> None:
    docker.host.run(["ip", "link", "add", "parent0", "type", "veth", "peer", "name", "parent1"])
    for end in ("parent0", "parent1"):
        docker.host.run(["ip", "link", "set", end, "up"])
    try:
        docker("network", "create", "-d", "macvlan", "-o", "parent=parent0", "--subnet", "10.8.0.0/24", "mac")
        serve(docker, "web", "--network", "mac")
        serve(docker, "client", "--network", "mac")
        eventually(lambda: fetched(docker, "http://web/", inside="client") == "web")
        docker("rm", "--force", "web", "client")
        docker("network", "rm", "mac")
    finally:
        docker.host.run(["ip", "link", "delete", "parent0"])


def test_rules_come_back_after_a_flush(docker: OurDockerd) -> None:
    serve(docker, "web", "--publish", "8080:80")
    before = {table: rules(docker, table) for table in ("nat", "filter")}
    for table in ("nat", "filter"):
        docker.host.run([goparts.path("iptables"), "-t", table, "-F"])
    serve(docker, "next", "--publish", "8081:80")
    after = {table: rules(docker, table) for table in ("nat", "filter")}
    for table, lines in before.items():
        assert set(lines) <= set(after[table])
    for chain in ("nat", "filter"):
        docker.host.run([goparts.path("iptables"), "-t", chain, "-F"])
        docker.host.run([goparts.path("iptables"), "-t", chain, "-X"])
    docker("rm", "--force", "next")
    assert rules(docker, "nat") == before["nat"]
    assert sorted(rules(docker, "filter")) == sorted(before["filter"])


def test_killed_dockerd(docker: OurDockerd) -> None:
    """What runs keeps its addresses, ports and names; what has ended meanwhile gives them back."""
    docker("network", "create", "--subnet", "10.9.0.0/24", "n1")
    serve(docker, "web", "--network", "n1", "--publish", "8080:80")
    serve(docker, "doomed", "--network", "n1", "--publish", "8081:80")
    serve(docker, "client", "--network", "n1")
    eventually(lambda: fetched(docker, "http://web/", inside="client") == "web")
    before = rules(docker, "nat")
    pid = docker.inspect("doomed", ".State.Pid")
    docker.kill9()
    eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
    docker.host.run(["kill", "-9", pid])
    docker.start()
    eventually(lambda: docker.running() == {"web", "client"})
    eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
    eventually(lambda: fetched(docker, "http://172.17.0.1:8080/") == "web")
    eventually(lambda: fetched(docker, "http://web/", inside="client") == "web")
    eventually(lambda: rules(docker, "nat") == [line for line in before if "10.9.0.3" not in line])
    serve(docker, "next", "--network", "n1", "--publish", "8081:80")
    assert settings(docker, "next")["Networks"]["n1"]["IPAddress"] == "10.9.0.3"
    eventually(lambda: fetched(docker, "http://127.0.0.1:8081/") == "next")


def test_debians_proxy() -> None:
    """--userland-proxy-path; it is taken over by the next dockerd, too."""
    require.root()
    require.go(*PARTS)
    with OurDockerd(flags=("--userland-proxy-path", goparts.path("docker-proxy"))) as docker:
        serve(docker, "web", "--publish", "8080:80")
        eventually(lambda: fetched(docker, "http://127.0.0.1:8080/") == "web")
        before = [line for line in processes(docker) if " docker-proxy " in line]
        assert len(before) == 2
        docker.kill9()
        docker.start()
        assert [line for line in processes(docker) if " docker-proxy " in line] == before
        docker("rm", "--force", "web")
        eventually(lambda: not any(" docker-proxy " in line for line in processes(docker)))


FLAGS = {
    "userland-proxy": (),
    "hairpin": ("--userland-proxy=false",),
    "icc": ("--icc=false", "--bip=10.4.0.1/24", "--fixed-cidr=10.4.0.128/25", "--ip-masq=false"),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_same_rules_as_debians_dockerd(flags: Sequence[str]) -> None:
    """Rule by rule and in the same order, on the host and in a container."""
    require.root()
    require.go(*PARTS, *DEBIANS)
    with OurDockerd(flags=flags) as docker:
        ours = layout(docker)
    with Dockerd("real", flags=flags) as docker:
        assert ours == layout(docker)


def layout(docker: AnyDockerd) -> dict[str, list[str]]:
    """The tables with some networks and ports; what the kernel chooses is taken out."""
    option, name = "com.docker.network.bridge.enable_icc=false", "com.docker.network.bridge.name"
    docker("network", "create", "--subnet", "10.5.0.0/24", "-o", f"{name}=br-one", "one")
    docker("network", "create", "--subnet", "10.6.0.0/24", "-o", f"{name}=br-in", "--internal", "in")
    docker("network", "create", "--subnet", "10.7.0.0/24", "-o", f"{name}=br-icc", "-o", option, "icc")
    sleep = (BUSYBOX, "sleep", "1000")
    flags = ("run", "--detach", "--stop-timeout", "0")
    docker(*flags, "--publish", "8080:80", "--publish", "127.0.0.1:53:53/udp", *sleep)
    docker(*flags, "--publish", "8081:80", "--network", "one", "--name", "named", *sleep)
    docker(*flags, "--publish", "8082:80", "--network", "in", *sleep)
    docker(*flags, "--name", "short", "--publish", "8083:80", "--network", "one", *sleep)
    docker("rm", "--force", "short")
    docker(*flags, "--name", "server", "--expose", "80", *sleep)
    docker(*flags, "--name", "linked", "--link", "server:alias", *sleep)
    found = {table: rules(docker, table) for table in ("nat", "filter")}
    enter = ["nsenter", "-n", "-t", docker.inspect("named", ".State.Pid")]
    inside = docker.host.run([*enter, goparts.path("iptables"), "-t", "nat", "-S"]).stdout
    return found | {"inside": re.sub(r"(11:|sport )\d+", r"\1PORT", inside).splitlines()}


def plans(docker: OurDockerd) -> bool:
    return bool(docker.host.run(["ls", "/run/docker/network"]).stdout)


MOMENTS: dict[str, Callable[[OurDockerd], bool]] = {
    "planned": plans,
    "proxied": lambda docker: any("docker-proxy" in line for line in processes(docker)),
    "translated": lambda docker: any("DNAT" in line for line in rules(docker, "nat")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_containers_join(docker: OurDockerd, moment: str) -> None:
    flags = ("--detach", "--stop-timeout", "0")
    commands = [
        [str(docker.cli), "run", *flags, "--publish", f"{port}:80", BUSYBOX, "sleep", "1000"]
        for port in range(9000, 9005)
    ]
    runs = [
        subprocess.Popen(
            command, env=docker.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    eventually(lambda: MOMENTS[moment](docker))
    docker.kill9()
    for run in runs:
        run.wait()
    docker.start()

    def counts() -> tuple[int, int, int]:
        """Containers, rules, pairs of proxies."""
        translated = [line for line in rules(docker, "nat") if "DNAT" in line]
        return len(docker.running()), len(translated), len(proxies(docker)) // 2

    eventually(lambda: len(set(counts())) == 1)


def test_events_and_removal(docker: OurDockerd) -> None:
    since = docker("info", "--format", "{{.SystemTime}}").stdout.strip()
    docker("network", "create", "--label", "a=b", "n1")
    serve(docker, "web", "--network", "n1")
    said = docker("network", "rm", "n1", check=False).stderr
    assert "error while removing network: network n1 id" in said and "has active endpoints" in said
    docker("rm", "--force", "web")
    docker("network", "rm", "n1")
    flags = (
        "--since",
        since,
        "--until",
        f"{time.time():.9f}",
        "--filter",
        "type=network",
        "--format",
        "{{.Action}}",
    )
    happened = docker("events", *flags).stdout.split()
    assert happened == ["create", "connect", "disconnect", "destroy"]


def test_a_stopped_dockerd_leaves_no_rules(docker: OurDockerd) -> None:
    """Unless containers live on, which need them."""
    serve(docker, "web", "--publish", "8080:80")
    docker.stop()
    eventually(lambda: fetched(docker, "http://172.17.0.1:8080/") == "web")
    docker.start()
    docker("rm", "--force", "web")
    docker.stop()
    try:
        for table in ("nat", "filter"):
            assert [line for line in rules(docker, table) if not line.startswith("-P")] == []
    finally:
        docker.start()

"""What dockerd's networks decide before they touch anything: addresses, rules, ports, names, files."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import cast

import pytest

from longshore.api import errors
from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import creating, dns, documents, files, ipam, joining, ports, rules
from longshore.dockerd.network.documents import CreateBody, Ipam, IpamPool
from longshore.dockerd.network.drivers import Drivers
from longshore.dockerd.network.kernel import Kernel
from longshore.dockerd.network.netlink import mac_bytes
from longshore.dockerd.network.records import (
    Endpoint,
    Mapping,
    NetworkRecord,
    PoolRecord,
    Sandbox,
    SandboxFiles,
)
from longshore.dockerd.network.registry import Network, Registry
from longshore.dockerd.network.settings import Settings
from longshore.dockerd.records import (
    Container,
    ContainerConfig,
    EndpointSettings,
    HostConfig,
    IPAMEndpoint,
    PortBinding,
)

ID = "a1" * 32


def container(
    host: HostConfig | None = None, config: ContainerConfig | None = None, name: str = "box"
) -> Container:
    return Container(
        id=ID,
        name=name,
        created_ns=1,
        config=config or ContainerConfig(),
        host_config=host or HostConfig(),
        image_id="",
        image_ref="",
    )


def network(name: str = "net", subnet: str = "10.9.0.0/24", **members: object) -> Network:
    pool = PoolRecord(subnet=subnet, gateway=str(ip_network(subnet)[1]), configured=True)
    members = {"id": name[:1] * 64, "driver": "bridge", "pools": [pool]} | members
    return Network(NetworkRecord(name=name, created_ns=1, **members))  # type: ignore[arg-type]


def registry(*networks: Network) -> Registry:
    made = Registry(ipam.Space(ipam.default_blocks()))
    for each in networks:
        made.add(each)
    return made


class TestAddresses:
    def test_lowest_free_address_without_the_ends(self) -> None:
        pool = ipam.Pool(ipam.parse_subnet("10.0.0.0/29"))
        assert [str(pool.allocate()) for _ in range(7)] == [f"10.0.0.{n}" for n in range(1, 7)] + ["None"]
        pool.release(IPv4Address("10.0.0.3"))
        pool.release(IPv4Address("10.0.0.2"))
        assert str(pool.allocate()) == "10.0.0.2"
        assert str(pool.allocate()) == "10.0.0.3"

    def test_range_is_for_those_who_ask_for_nothing(self) -> None:
        pool = ipam.Pool(ipam.parse_subnet("10.0.0.0/24"), ipam.parse_subnet("10.0.0.128/30"))
        assert pool.take(IPv4Address("10.0.0.7"))
        assert not pool.take(IPv4Address("10.0.0.7"))
        assert not pool.take(IPv4Address("10.0.0.255"))
        assert [str(pool.allocate()) for _ in range(5)] == [f"10.0.0.{n}" for n in range(128, 132)] + ["None"]
        with pytest.raises(ValueError):
            pool.take(IPv4Address("10.0.1.1"))

    def test_tiny_and_huge_subnets(self) -> None:
        point = ipam.Pool(ipam.parse_subnet("10.0.0.4/31"))
        assert [str(point.allocate()) for _ in range(3)] == ["10.0.0.4", "10.0.0.5", "None"]
        assert str(ipam.Pool(ipam.parse_subnet("fd00::/64")).allocate()) == "fd00::1"

    def test_subnets_nobody_has(self) -> None:
        space = ipam.Space(ipam.default_blocks())
        space.reserve(ipam.parse_subnet("172.17.0.0/16"))
        assert str(space.cut(4, [ipam.parse_subnet("172.18.0.0/15")])) == "172.20.0.0/16"
        assert str(space.cut(4)) == "172.18.0.0/16"
        with pytest.raises(errors.PermissionDenied, match="Pool overlaps with other one"):
            space.reserve(ipam.parse_subnet("172.18.5.0/24"))
        space.release(ipam.parse_subnet("172.18.0.0/16"))
        assert str(space.cut(4)) == "172.18.0.0/16"

    def test_subnets_run_out(self) -> None:
        space = ipam.Space(ipam.default_blocks([("10.0.0.0/23", 24)]))
        assert [str(space.cut(4)) for _ in range(2)] == ["10.0.0.0/24", "10.0.1.0/24"]
        with pytest.raises(errors.InvalidArgument, match="non-overlapping IPv4 address pool"):
            space.cut(4)

    def test_local_ipv6(self) -> None:
        space = ipam.Space(())
        first, second = space.unique_local("ab" * 32), space.unique_local("ab" * 32)
        assert str(first) == "fdab:abab:abab::/64" and str(second) == "fdab:abab:abac::/64"

    def test_network_keeps_what_is_reserved(self) -> None:
        pool = PoolRecord(subnet="10.9.0.0/29", gateway="10.9.0.1", auxiliary={"router": "10.9.0.2"})
        net = network(pools=[pool])
        assert net.allocate(4) == "10.9.0.3/29"
        with pytest.raises(errors.PermissionDenied, match="Address already in use"):
            net.allocate(4, "10.9.0.2")
        with pytest.raises(errors.InvalidArgument, match="does not belong to any"):
            net.allocate(4, "10.8.0.2")
        assert [net.allocate(4) for _ in range(3)][-1] == "10.9.0.6/29"
        with pytest.raises(errors.PermissionDenied, match="no available IPv4 addresses"):
            net.allocate(4)
        assert net.allocate(6) == ""

    def test_mac_follows_from_the_address(self) -> None:
        assert ipam.mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"
        with pytest.raises(ValueError):
            mac_bytes("02:42:zz")


WEB = Mapping(protocol="tcp", host_ip="0.0.0.0", host_port=8080, container_ip="172.17.0.2", container_port=80)
FACTS = rules.BridgeFacts(link="docker0", subnets=("172.17.0.0/16",))


def saved(wanted: Iterable[rules.Rule], chains: bool = True) -> str:
    """What iptables-save prints when exactly these rules are there, each in front of the last."""
    text = []
    for table in (rules.FILTER, rules.NAT):
        text.append(f"*{table}")
        if chains:
            text += [f":{chain.name} - [0:0]" for chain in rules.CHAINS if chain.table == table]
            text += [
                f"-A {chain.name} {chain.last}"
                for chain in rules.CHAINS
                if chain.table == table and chain.last
            ]
        text += [rule.line("A") for rule in wanted if rule.table == table]
        text.append("COMMIT")
    return "\n".join(text)


class TestRules:
    def test_published_port(self) -> None:
        assert [rule.line("A") for rule in rules.published(WEB, "docker0", hairpin=False)] == [
            "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
            "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT",
            "-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE",
        ]

    def test_published_port_on_ipv6_and_one_address(self) -> None:
        six = Mapping(
            protocol="udp", host_ip="fd00::1", host_port=53, container_ip="fd01::2", container_port=5
        )
        assert rules.is_native(six, 6) and not rules.is_native(six, 4)
        assert rules.published(six, "br", hairpin=True)[0].words == (
            "-d fd00::1/128 -p udp -m udp --dport 53 -j DNAT --to-destination [fd01::2]:5"
        )

    def test_proxy_alone_leads_from_ipv6_to_ipv4(self) -> None:
        mixed = Mapping(protocol="tcp", host_ip="::", host_port=1, container_ip="10.0.0.2", container_port=1)
        assert not rules.is_native(mixed, 4) and not rules.is_native(mixed, 6)

    def test_internal_networks_have_no_way_out(self) -> None:
        words = [rule.words for rule in rules.bridge(FACTS._replace(internal=True))]
        assert not any("MASQUERADE" in each for each in words)
        assert "! -s 172.17.0.0/16 -o docker0 -j DROP" in words

    def test_fresh_filter_gets_everything_in_order(self) -> None:
        text = rules.repair(rules.Listing(""), list(rules.bridge(FACTS)), (), False, 4)
        lines = text.splitlines()
        for chain in rules.CHAINS:
            assert f":{chain.name} - [0:0]" in lines
        forward = [line for line in lines if " FORWARD " in line]
        assert forward[-2:] == ["-I FORWARD -j DOCKER-ISOLATION-STAGE-1", "-I FORWARD -j DOCKER-USER"]
        assert lines.count("COMMIT") == 2

    def test_nothing_to_repair(self) -> None:
        wanted = [*rules.bridge(FACTS)]
        there = [*rules.LEADERS, *rules.base(4, False), *wanted]
        assert rules.repair(rules.Listing(saved(there)), wanted, (), False, 4) == ""

    def test_only_what_was_flushed_is_made_again(self) -> None:
        wanted = [*rules.bridge(FACTS), *rules.published(WEB, "docker0", hairpin=False)]
        there = [rule for rule in (*rules.LEADERS, *rules.base(4, False), *wanted) if rule.table == "filter"]
        text = rules.repair(rules.Listing(saved(there)), wanted, (), False, 4)
        assert "*filter" not in text and text.count("DNAT") == 1

    def test_stale_rules_go_however_often_they_are_there(self) -> None:
        stale = rules.published(WEB, "docker0", hairpin=False)
        there = [*rules.LEADERS, *rules.base(4, False), *stale, *stale]
        text = rules.repair(rules.Listing(saved(there)), (), stale, False, 4)
        assert text.count("-D DOCKER ! -i docker0") == 2

    def test_a_change_names_what_it_relies_on(self) -> None:
        text = rules.quick(rules.published(WEB, "docker0", hairpin=False), (), False, 4)
        assert "-C FORWARD -j DOCKER-USER" in text and "-C PREROUTING" in text
        assert text.index("-C ") < text.index("-A ")

    def test_clearing_spares_the_users_rules(self) -> None:
        own = rules.Rule(rules.FILTER, "DOCKER-USER", "-s 10.0.0.1/32 -j DROP")
        wanted = [*rules.bridge(FACTS)]
        there = [*rules.LEADERS, *rules.base(4, False), *wanted]
        text = rules.clear(rules.Listing(saved([*there, own])), wanted, False, 4)
        assert "-X DOCKER-USER" not in text and "-X DOCKER\n" in text
        assert "-X DOCKER-USER" in rules.clear(rules.Listing(saved(there)), wanted, False, 4)


class TestPorts:
    def test_bindings_ranges_and_all(self) -> None:
        host = HostConfig(
            port_bindings={
                "80/tcp": [PortBinding(host_port="8080"), PortBinding("127.0.0.1", "9000-9002")],
                "53/udp": None,
            }
        )
        box = container(host, ContainerConfig(exposed_ports={"99/tcp": {}}))
        assert ports.requests(box) == [
            ports.Request("tcp", 80, "", 8080, 8080),
            ports.Request("tcp", 80, "127.0.0.1", 9000, 9002),
        ]
        host.publish_all_ports = True
        assert ports.Request("tcp", 99, "", 0, 0) in ports.requests(box)

    @pytest.mark.parametrize("text", ["x/tcp", "80/icmp", "70000", "-1/tcp", ""])
    def test_no_ports(self, text: str) -> None:
        with pytest.raises(errors.InvalidArgument, match="invalid port specification"):
            ports.parse_port(text)

    @pytest.mark.parametrize(
        "binding", [PortBinding("nowhere", "1"), PortBinding("", "2-1"), PortBinding("", "x")]
    )
    def test_no_bindings(self, binding: PortBinding) -> None:
        with pytest.raises(errors.InvalidArgument):
            ports.requests(container(HostConfig(port_bindings={"80/tcp": [binding]})))

    def test_description(self) -> None:
        box = container(config=ContainerConfig(exposed_ports={"99/tcp": {}}))
        assert ports.described(box, [WEB]) == {
            "99/tcp": None,
            "80/tcp": [PortBinding(host_ip="0.0.0.0", host_port="8080")],
        }

    def test_one_port_for_both_families_and_conflicts(self) -> None:
        owner = ports.Ports()
        request = ports.Request("tcp", 80, "127.0.0.1", 0, 0)
        (bound,) = owner.bind(request, {4: "172.17.0.2"}, "0.0.0.0", True)
        taken = request._replace(first=bound.mapping.host_port, last=bound.mapping.host_port)
        with bound.holder:
            with pytest.raises(ServerError, match="failed: port is already allocated"):
                owner.bind(taken, {4: "172.17.0.3"}, "0.0.0.0", True)
            with pytest.raises(ServerError, match="address already in use"):
                ports.Ports().bind(taken, {4: "172.17.0.3"}, "0.0.0.0", True)
        owner.release(bound.mapping)
        (again,) = owner.bind(taken, {4: "172.17.0.3"}, "0.0.0.0", True)
        again.holder.close()

    def test_places_by_family(self) -> None:
        places = list(ports._places("", {4: "172.17.0.2"}, "0.0.0.0", True))
        assert places == [("0.0.0.0", "172.17.0.2"), ("::", "172.17.0.2")]
        assert list(ports._places("", {4: "a", 6: "b"}, "127.0.0.1", True)) == [("127.0.0.1", "a")]
        assert list(ports._places("::1", {4: "a", 6: "b"}, "0.0.0.0", True)) == [("::1", "b")]


def query(name: str, kind: int = dns.A, id: int = 7) -> bytes:
    return (
        struct.pack(">HHHHHH", id, 0x0100, 1, 0, 0, 0) + dns.encode_name(name) + struct.pack(">HH", kind, 1)
    )


class TestNames:
    def test_question(self) -> None:
        asked = dns.parse(query("Web.Example", dns.AAAA))
        assert (asked.id, asked.name, asked.kind) == (7, "web.example", dns.AAAA)

    @pytest.mark.parametrize(
        "packet",
        [
            b"",
            query("a")[:11],
            query("a")[:-1],
            query("a")[:12] + b"\xc0\x0c\0\1\0\1",  # a pointer in a question
            query("a")[:2] + b"\x81\x00" + query("a")[4:],  # an answer
            query("a")[:4] + b"\0\2" + query("a")[6:],  # two questions
        ],
    )
    def test_what_is_no_question(self, packet: bytes) -> None:
        with pytest.raises(ValueError):
            dns.parse(packet)

    def test_answer_has_the_asked_kind_only(self) -> None:
        found: list[ipam.Address] = [IPv4Address("10.0.0.2"), IPv6Address("fd00::2"), IPv4Address("10.0.0.3")]
        answer = dns.addresses(dns.parse(query("web")), found)
        id, flags, questions, answers, *_ = struct.unpack_from(">HHHHHH", answer)
        assert (id, questions, answers) == (7, 1, 2)
        assert flags & 0x8000 and flags & 0x0100 and dns.code_of(answer) == dns.OK
        assert answer.endswith(b"\xc0\x0c\0\1\0\1\0\0\2\x58\0\4" + socket.inet_aton("10.0.0.3"))
        assert struct.unpack_from(">HHHHHH", dns.addresses(dns.parse(query("w", dns.AAAA)), found))[3] == 1

    def test_failure_and_reverse(self) -> None:
        assert dns.code_of(dns.failure(dns.parse(query("x")), dns.SERVFAIL)) == dns.SERVFAIL
        assert dns.reversed_address("2.0.17.172.in-addr.arpa") == IPv4Address("172.17.0.2")
        nibbles = ".".join(reversed("fd00" + "0" * 27 + "2"))
        assert dns.reversed_address(f"{nibbles}.ip6.arpa") == IPv6Address("fd00::2")
        assert dns.reversed_address("x.in-addr.arpa") is None and dns.reversed_address("web") is None
        answer = dns.name(dns.parse(query("2.0.17.172.in-addr.arpa", dns.PTR)), "web.net")
        assert answer.endswith(b"\3web\3net\0")
        with pytest.raises(ValueError):
            dns.encode_name("a..b")


class TestFiles:
    def test_resolv_conf(self) -> None:
        found = files.parse("# x\nnameserver 10.0.0.1 # y\ndomain a\nsearch b c\noptions ndots:2\nnonsense\n")
        assert found == files.Resolver(("10.0.0.1",), ("b", "c"), ("ndots:2",))
        assert files.resolv_conf(found) == "search b c\nnameserver 10.0.0.1\noptions ndots:2\n"
        assert files.resolv_conf(files.Resolver(("1.1.1.1",), (".",))) == "nameserver 1.1.1.1\n"

    def test_servers_that_a_container_can_reach(self) -> None:
        assert files.usable(("127.0.0.53", "fd00::1", "10.0.0.1"), ipv6=False) == ("10.0.0.1",)
        assert files.usable(("127.0.0.53", "junk"), ipv6=True) == ("8.8.8.8", "8.8.4.4")

    def test_hosts_lines_come_and_go(self, tmp_path: object) -> None:
        path = f"{tmp_path}/hosts"
        files.write(path, files.hosts([("10.0.0.2", "box")]))
        files.edit(path, add=[("10.1.0.2", "box")])
        with open(path, "a") as file:
            file.write("1.2.3.4\tmine\n")
        files.edit(path, remove=[("10.0.0.2", "box")])
        with open(path) as file:
            lines = file.read().splitlines()
        assert lines[0] == "127.0.0.1\tlocalhost" and lines[-2:] == ["10.1.0.2\tbox", "1.2.3.4\tmine"]


class TestJoining:
    def test_plan(self) -> None:
        net, sandbox = network(), Sandbox(container=ID, name="box", mode="net")
        box = container(config=ContainerConfig(hostname="host"))
        wanted = EndpointSettings(aliases=["alias"], links=["other:nick"])
        endpoint = joining.plan(sandbox, box, net, wanted)
        assert (endpoint.ipv4, endpoint.gateway4, endpoint.interface) == ("10.9.0.2/24", "10.9.0.1", "eth0")
        assert endpoint.mac == "02:42:0a:09:00:02" and endpoint.links == {"nick": "other"}
        assert endpoint.names == ["box", "alias", ID[:12], "host"]
        got = joining.joined(EndpointSettings(aliases=["alias"]), net, endpoint)
        assert (got.ip_address, got.ip_prefix_len, got.network_id) == ("10.9.0.2", 24, net.id)
        left = joining.left(got, endpoint)
        assert (left.ip_address, left.mac_address, left.aliases) == ("", "", ["alias"])

    def test_mac_address_of_the_user_stays(self) -> None:
        net, sandbox = network(), Sandbox(container=ID, name="box", mode="net")
        endpoint = joining.plan(sandbox, container(), net, EndpointSettings(mac_address="02:00:00:00:00:01"))
        got = joining.joined(EndpointSettings(), net, endpoint)
        assert joining.left(got, endpoint).mac_address == "02:00:00:00:00:01"

    def test_internal_networks_have_no_gateway(self) -> None:
        sandbox = Sandbox(container=ID, name="box", mode="net")
        assert joining.plan(sandbox, container(), network(internal=True), EndpointSettings()).gateway4 == ""

    def test_way_out_is_the_first_by_priority_then_name(self) -> None:
        one, two = network("one"), network("two", "10.8.0.0/24")
        endpoints = [
            Endpoint(id="x", network=two.id, interface="eth0", gateway4="10.8.0.1"),
            Endpoint(id="y", network=one.id, interface="eth1", gateway4="10.9.0.1"),
        ]
        sandbox = Sandbox(container=ID, name="box", mode="two", endpoints=endpoints)
        assert joining.gateways(sandbox, registry(one, two))[0] == ("eth1", "10.9.0.1")
        endpoints[0].priority = 1
        assert joining.gateways(sandbox, registry(one, two)) == (("eth0", "10.8.0.1"), ("", ""))

    @pytest.mark.parametrize(
        ("name", "asked", "said"),
        [
            (
                "bridge",
                {"ipam_config": IPAMEndpoint(ipv4_address="172.17.0.9")},
                "supported on user defined networks only",
            ),
            ("bridge", {"aliases": ["x"]}, "network-scoped alias is supported only"),
            ("net", {"ipam_config": IPAMEndpoint(ipv4_address="10.1.0.9")}, "does not belong to any"),
            ("net", {"ipam_config": IPAMEndpoint(ipv6_address="fd00::1")}, "user configured subnets"),
            ("net", {"ipam_config": IPAMEndpoint(ipv4_address="x")}, "invalid IP address"),
            ("net", {"mac_address": "nonsense"}, "invalid MAC address"),
        ],
    )
    def test_refusals(self, name: str, asked: dict[str, object], said: str) -> None:
        with pytest.raises(errors.InvalidArgument, match=said):
            joining.check(network(name), EndpointSettings(**asked))  # type: ignore[arg-type]

    def test_networks_by_id_stand_under_their_name(self) -> None:
        net = network("bridge")
        asked = {"default": EndpointSettings(mac_address="m")}
        joining.rename(asked, net)
        assert list(asked) == ["bridge"]
        asked = {net.id[:12]: EndpointSettings()}
        joining.rename(asked, net)
        assert list(asked) == ["bridge"]

    def test_hosts_file(self) -> None:
        box = container(
            HostConfig(extra_hosts=["up:host-gateway", "six:[fd00::1]", "eq=10.0.0.1"]),
            ContainerConfig(hostname="box", domainname="example.org"),
        )
        endpoint = Endpoint(id="x", network="n", ipv4="10.9.0.2/24")
        sandbox = Sandbox(container=ID, name="box", mode="net", endpoints=[endpoint])
        text = joining.hosts(box, sandbox, "172.17.0.1", [("10.9.0.3", "alias")])
        for line in ("172.17.0.1\tup", "fd00::1\tsix", "10.0.0.1\teq", "10.9.0.3\talias"):
            assert line in text.splitlines()
        assert text.endswith("10.9.0.2\tbox.example.org box\n")


class TestCreating:
    @staticmethod
    def record(body: CreateBody, known: Registry | None = None) -> NetworkRecord:
        kernel = cast(Kernel, None)  # nothing here gets as far
        settings = Settings(data_root="/d", exec_root="/e")
        return creating.record(body, known or registry(), Drivers(settings, kernel, {}), ())

    def test_defaults(self) -> None:
        made = self.record(CreateBody(name="net"))
        assert (made.driver, made.link) == ("bridge", f"br-{made.id[:12]}")
        assert made.pools == [PoolRecord(subnet="172.17.0.0/16", gateway="172.17.0.1")]

    def test_both_versions(self) -> None:
        body = CreateBody(name="net", ipam=Ipam(config=[IpamPool(subnet="fd00:9::/64")]))
        made = self.record(body)
        assert made.enable_ipv6 and [pool.gateway for pool in made.pools] == ["fd00:9::1", "172.17.0.1"]

    def test_gateway_is_the_first_that_is_free(self) -> None:
        pool = IpamPool(subnet="10.0.0.0/24", auxiliary_addresses={"x": "10.0.0.1"})
        made = self.record(CreateBody(name="net", ipam=Ipam(config=[pool])))
        assert made.pools[0].gateway == "10.0.0.2"

    @pytest.mark.parametrize(
        ("pool", "said"),
        [
            (IpamPool(subnet="nonsense"), "Invalid subnet nonsense : invalid CIDR address: nonsense"),
            (IpamPool(subnet="10.0.0.1/24"), "it should be 10.0.0.0/24"),
            (IpamPool(subnet="10.0.0.0/24", gateway="10.0.1.1"), "doesn't contain this address"),
            (IpamPool(subnet="10.0.0.0/24", ip_range="10.0.0.0/16"), "bigger than its parent subnet"),
            (IpamPool(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"), "doesn't contain ip-range"),
            (IpamPool(gateway="10.0.0.1"), "must have a corresponding subnet"),
        ],
    )
    def test_refusals(self, pool: IpamPool, said: str) -> None:
        known = registry()
        with pytest.raises(errors.InvalidArgument, match=said):
            self.record(CreateBody(name="net", ipam=Ipam(config=[pool])), known)
        assert str(known.space.cut(4)) == "172.17.0.0/16"

    def test_other_kinds(self) -> None:
        with pytest.raises(errors.PermissionDenied, match="not a swarm manager"):
            self.record(CreateBody(name="net", driver="overlay"))
        with pytest.raises(errors.NotFound, match='plugin "nonsense" not found'):
            self.record(CreateBody(name="net", driver="nonsense"))
        with pytest.raises(errors.PermissionDenied, match='only one instance of "host" network'):
            self.record(CreateBody(name="net", driver="host"))
        with pytest.raises(errors.InvalidArgument, match="macvlan mode 'x' is not valid"):
            self.record(CreateBody(name="net", driver="macvlan", options={"macvlan_mode": "x"}))

    def test_configuration_of_another(self) -> None:
        source = network("source", config_only=True, driver="null")
        body = CreateBody(name="net", config_from=documents.ConfigReference("source"))
        made = self.record(body, registry(source))
        assert made.pools[0].subnet == "10.9.0.0/24" and made.config_from == "source"


class TestDocuments:
    def test_filters(self) -> None:
        record = network("net", labels={"a": "b"}).record
        for filters, shown in (
            ({"name": ["ne"]}, True),
            ({"name": ["x"]}, False),
            ({"label": ["a", "a=b"]}, True),
            ({"label": ["a=c"]}, False),
            ({"type": ["custom"]}, True),
            ({"dangling": ["true"]}, True),
            ({"dangling": ["false"]}, False),
            ({"driver": ["macvlan", "bridge"]}, True),
        ):
            assert documents.matches(record, filters, used=False) is shown

    def test_names_and_prefixes(self) -> None:
        one, two = network("one"), network("two", "10.8.0.0/24")
        both = registry(one, two)
        assert both.find("one") is one and both.find("tttt") is two
        with pytest.raises(errors.NotFound, match="network x not found"):
            both.find("x")

    def test_sandbox_files_survive_and_broken_ones_go(self, tmp_path: object) -> None:
        folder = f"{tmp_path}"
        endpoint = Endpoint(id="x", network="n", mappings=[WEB])
        sandbox = Sandbox(container=ID, name="box", mode="net", endpoints=[endpoint], dns_ports=(1, 2))
        kept = SandboxFiles(folder)
        kept.write(sandbox)
        for name in ("broken.json", f"{ID}.new"):
            with open(f"{folder}/{name}", "w") as file:
                file.write("{")
        assert SandboxFiles(folder).load() == [sandbox]
        assert os.listdir(folder) == [f"{ID}.json"]
        kept.remove(ID)
        assert SandboxFiles(folder).load() == []

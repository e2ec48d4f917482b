"""The packet filter's rules as data: Docker's layout of chains, in the words of iptables-save.

Every rule is written exactly as iptables-save would list it, so that what is
there can be compared with what ought to be as text. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from longshore.dockerd.network.records import Mapping

FILTER: Final = "filter"
NAT: Final = "nat"


class Rule(NamedTuple):
    """`first`: in front of what the chain has (iptables -I), else at its end."""

    table: str
    chain: str
    words: str
    first: bool = False

    def line(self, verb: str) -> str:
        return f"-{verb} {self.chain} {self.words}"


class Chain(NamedTuple):
    table: str
    name: str
    last: str = ""
    """The rule that the chain ends with when it is made."""


USER: Final = Rule(FILTER, "FORWARD", "-j DOCKER-USER", first=True)
ISOLATION: Final = Rule(FILTER, "FORWARD", "-j DOCKER-ISOLATION-STAGE-1", first=True)
# On top of FORWARD in this order, whatever networks are added later.
LEADERS: Final = (USER, ISOLATION)

CHAINS: Final = (
    Chain(FILTER, "DOCKER"),
    Chain(FILTER, "DOCKER-ISOLATION-STAGE-1", "-j RETURN"),
    Chain(FILTER, "DOCKER-ISOLATION-STAGE-2", "-j RETURN"),
    Chain(FILTER, "DOCKER-USER", "-j RETURN"),
    Chain(NAT, "DOCKER"),
)


def base(version: int, hairpin: bool) -> tuple[Rule, ...]:
    """What is there once. With `hairpin` (no userland proxy) loopback addresses are translated too."""
    local = "-m addrtype --dst-type LOCAL -j DOCKER"
    loopback = "127.0.0.0/8" if version == 4 else "::1/128"
    output = local if hairpin else f"! -d {loopback} {local}"
    return (Rule(NAT, "PREROUTING", local), Rule(NAT, "OUTPUT", output))


class BridgeFacts(NamedTuple):
    """What the rules of a bridge network follow from."""

    link: str
    subnets: Sequence[str]
    """Of this IP version."""
    internal: bool = False
    masquerade: bool = True
    communicate: bool = True
    """Containers of the network may talk to each other (icc)."""
    hairpin: bool = False
    source: str = ""
    """The address that outgoing packets get instead of the interface's own."""


def bridge(facts: BridgeFacts) -> Iterator[Rule]:
    """In the order in which they are to be made."""
    link = facts.link
    between = Rule(FILTER, "FORWARD", f"-i {link} -o {link} -j ACCEPT", first=True)
    if not facts.communicate:  # behind what lets some of them talk
        between = Rule(FILTER, "FORWARD", f"-i {link} -o {link} -j DROP")
    if facts.internal:
        for subnet in facts.subnets:
            yield Rule(FILTER, "DOCKER-ISOLATION-STAGE-1", f"! -d {subnet} -i {link} -j DROP", first=True)
            yield Rule(FILTER, "DOCKER-ISOLATION-STAGE-1", f"! -s {subnet} -o {link} -j DROP", first=True)
        yield between
        return
    if facts.masquerade:
        target = f"SNAT --to-source {facts.source}" if facts.source else "MASQUERADE"
        for subnet in facts.subnets:
            yield Rule(NAT, "POSTROUTING", f"-s {subnet} ! -o {link} -j {target}", first=True)
        if facts.hairpin:
            words = f"-o {link} -m addrtype --src-type LOCAL -j {target}"
            yield Rule(NAT, "POSTROUTING", words, first=True)
    if facts.masquerade and not facts.hairpin:
        yield Rule(NAT, "DOCKER", f"-i {link} -j RETURN", first=True)
    yield between
    yield Rule(FILTER, "FORWARD", f"-i {link} ! -o {link} -j ACCEPT", first=True)
    yield Rule(FILTER, "FORWARD", f"-o {link} -j DOCKER", first=True)
    established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    yield Rule(FILTER, "FORWARD", f"-o {link} {established}", first=True)
    stage_two = f"-i {link} ! -o {link} -j DOCKER-ISOLATION-STAGE-2"
    yield Rule(FILTER, "DOCKER-ISOLATION-STAGE-1", stage_two, first=True)
    yield Rule(FILTER, "DOCKER-ISOLATION-STAGE-2", f"-o {link} -j DROP", first=True)


def is_native(mapping: Mapping, version: int) -> bool:
    """Whether packets of that version can be translated; from IPv6 to IPv4 only a proxy leads."""
    return ip_address(mapping.host_ip).version == version == ip_address(mapping.container_ip).version


def published(mapping: Mapping, link: str, hairpin: bool) -> tuple[Rule, ...]:
    """A port of the host that leads into a container behind the bridge `link`."""
    address, port = ip_address(mapping.container_ip), mapping.container_port
    own = f"{address}/{address.max_prefixlen}"
    target = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    proto = f"-p {mapping.protocol} -m {mapping.protocol}"
    host = ip_address(mapping.host_ip)
    destination = "" if host.is_unspecified else f"-d {host}/{host.max_prefixlen} "
    outside = "" if hairpin else f"! -i {link} "
    translate = f"{destination}{outside}{proto} --dport {mapping.host_port} -j DNAT --to-destination {target}"
    return (
        Rule(NAT, "DOCKER", translate),
        Rule(FILTER, "DOCKER", f"-d {own} ! -i {link} -o {link} {proto} --dport {port} -j ACCEPT"),
        Rule(NAT, "POSTROUTING", f"-s {own} -d {own} {proto} --dport {port} -j MASQUERADE"),
    )


def linked(link: str, allowed: tuple[str, str, str, int]) -> tuple[Rule, ...]:
    """Between two containers that `--link` joins, where the bridge forbids the rest: (address of who offers the
    port, of who asks, protocol, port)."""
    child, parent, protocol, port = allowed
    ends = (f"-s {parent}/32 -d {child}/32", f"-s {child}/32 -d {parent}/32")
    words = f"-i {link} -o {link} -p {protocol} -m {protocol}"
    return (
        Rule(FILTER, "DOCKER", f"{ends[0]} {words} --dport {port} -j ACCEPT"),
        Rule(FILTER, "DOCKER", f"{ends[1]} {words} --sport {port} -j ACCEPT"),
    )


class Listing:
    """What iptables-save printed."""

    def __init__(self, text: str) -> None:
        self._chains: set[tuple[str, str]] = set()
        self._rules: dict[tuple[str, str], list[str]] = {}
        self._policies: dict[tuple[str, str], str] = {}
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                chain, policy, *_ = line[1:].split()
                self._chains.add((table, chain))
                self._policies[table, chain] = policy
            elif line.startswith("-A "):
                chain, _, words = line[3:].partition(" ")
                self._rules.setdefault((table, chain), []).append(words)

    def has_chain(self, chain: Chain) -> bool:
        return (chain.table, chain.name) in self._chains

    def count(self, rule: Rule) -> int:
        return self._rules.get((rule.table, rule.chain), []).count(rule.words)

    def drops(self) -> bool:
        """Whether what no rule allows isn't forwarded."""
        return self._policies.get((FILTER, "FORWARD")) == "DROP"

    def rest(self, chain: Chain, gone: Iterable[Rule]) -> list[str]:
        """The chain's rules without those that are `gone`."""
        words = {rule.words for rule in gone if (rule.table, rule.chain) == (chain.table, chain.name)}
        return [each for each in self._rules.get((chain.table, chain.name), []) if each not in words]

    def referrers(self, chain: Chain, gone: Iterable[Rule]) -> int:
        """How many rules but those that are `gone` jump to it."""
        target, known = f"-j {chain.name}", {(rule.table, rule.chain, rule.words) for rule in gone}
        return sum(
            words.endswith(target) and (table, name, words) not in known
            for (table, name), found in self._rules.items()
            for words in found
            if table == chain.table
        )

    def leads(self) -> bool:
        """Whether FORWARD begins as it ought to."""
        wanted = [rule.words for rule in LEADERS]
        return self._rules.get((FILTER, "FORWARD"), [])[: len(wanted)] == wanted


def batch(lines: Sequence[tuple[str, str]]) -> str:
    """Input for iptables-restore out of (table, line), each table once and in one transaction."""
    text = []
    for table in (FILTER, NAT):
        own = [line for where, line in lines if where == table]
        if own:
            text += [f"*{table}", *own, "COMMIT"]
    return "\n".join(text) + "\n" if text else ""


def quick(add: Sequence[Rule], remove: Sequence[Rule], hairpin: bool, version: int) -> str:
    """The change alone; iptables-restore refuses it where something of ours was flushed meanwhile."""
    tables = {rule.table for rule in (*add, *remove)}
    checks = [rule for rule in (*LEADERS, *base(version, hairpin)) if rule.table in tables]
    forward = any(rule.chain == "FORWARD" and rule.first for rule in add)
    lines = [(rule.table, rule.line("C")) for rule in checks]
    lines += [(rule.table, rule.line("D")) for rule in remove]
    lines += [(rule.table, rule.line("I" if rule.first else "A")) for rule in add]
    if forward:
        lines += _lead()
    return batch(lines)


def _lead() -> list[tuple[str, str]]:
    again = [(rule.table, rule.line("D")) for rule in LEADERS]
    return again + [(rule.table, rule.line("I")) for rule in reversed(LEADERS)]


def repair(
    listing: Listing, wanted: Sequence[Rule], remove: Sequence[Rule], hairpin: bool, version: int
) -> str:
    """What makes the filter hold all of `wanted` (in the order of their making) and none of `remove`."""
    missing = [chain for chain in CHAINS if not listing.has_chain(chain)]
    lines = [(chain.table, f":{chain.name} - [0:0]") for chain in missing]
    for chain in CHAINS:
        if chain.last and not listing.count(Rule(chain.table, chain.name, chain.last)):
            lines.append((chain.table, f"-A {chain.name} {chain.last}"))
    for rule in dict.fromkeys(remove):
        lines += [(rule.table, rule.line("D"))] * listing.count(rule)
    own = [*base(version, hairpin), *wanted]
    added = [rule for rule in own if not listing.count(rule)]
    lines += [(rule.table, rule.line("I" if rule.first else "A")) for rule in added]
    if not listing.leads():
        for rule in LEADERS:
            lines += [(rule.table, rule.line("D"))] * listing.count(rule)
        lines += [(rule.table, rule.line("I")) for rule in reversed(LEADERS)]
    elif any(rule.chain == "FORWARD" for rule in added):
        lines += _lead()
    return batch(lines)


def clear(listing: Listing, wanted: Sequence[Rule], hairpin: bool, version: int) -> str:
    """What takes all of ours away, the chains too; DOCKER-USER is the user's and stays when it holds rules."""
    lines: list[tuple[str, str]] = []
    gone = list(dict.fromkeys((*wanted, *base(version, hairpin), *LEADERS)))
    for rule in gone:
        lines += [(rule.table, rule.line("D"))] * listing.count(rule)
    for chain in CHAINS:
        rest = [words for words in listing.rest(chain, gone) if words != chain.last]
        if listing.has_chain(chain) and not rest and not listing.referrers(chain, gone):
            lines += [(chain.table, f"-F {chain.name}"), (chain.table, f"-X {chain.name}")]
    return batch(lines)

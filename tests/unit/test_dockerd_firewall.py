"""Changes of the packet filter: in one go, alone where one is refused, and repaired after a flush."""

from __future__ import annotations

import asyncio

import pytest

from longshore.dockerd.errors import ServerError
from longshore.dockerd.network import rules
from longshore.dockerd.network.firewall import Firewall
from longshore.dockerd.network.records import Mapping

REFUSED = 666


def published(port: int) -> tuple[rules.Rule, ...]:
    mapping = Mapping(
        protocol="tcp", host_ip="0.0.0.0", host_port=port, container_ip="172.17.0.2", container_port=80
    )
    return rules.published(mapping, "docker0", hairpin=False)


class Recorder(Firewall):
    """Instead of iptables: what it was given. Refuses port 666, and everything short of a repair once `flushed`."""

    def __init__(self) -> None:
        super().__init__(4, hairpin=False)
        self.given: list[str] = []
        self.saved = 0
        self.flushed = False

    async def _run(self, verb: str, text: str = "") -> str:
        await asyncio.sleep(0)
        if verb == "save":
            self.saved += 1
            return ""
        if f"--dport {REFUSED} " in text or (self.flushed and "-C " in text):
            raise ServerError("iptables-restore failed")
        self.flushed = False
        self.given.append(text)
        return ""


async def test_what_comes_together_goes_in_together() -> None:
    firewall = Recorder()
    await asyncio.gather(*(firewall.change(add=published(port)) for port in range(1, 101)))
    assert len(firewall.given) <= 2
    assert sum(text.count("-j DNAT") for text in firewall.given) == 100
    assert firewall.saved == 0


async def test_only_who_is_refused_fails() -> None:
    firewall = Recorder()
    ports = (1, 2, REFUSED, 3)
    outcomes = await asyncio.gather(
        *(firewall.change(add=published(port)) for port in ports), return_exceptions=True
    )
    assert [isinstance(outcome, ServerError) for outcome in outcomes] == [False, False, True, False]
    await firewall.change(remove=published(1))
    assert "-D DOCKER" in firewall.given[-1]


async def test_a_flush_is_repaired_by_the_next_change() -> None:
    firewall = Recorder()
    await firewall.change(add=published(1))
    firewall.flushed = True
    await firewall.change(add=published(2))
    assert firewall.saved == 1
    assert "--dport 1 " in firewall.given[-1] and "--dport 2 " in firewall.given[-1]
    assert ":DOCKER - [0:0]" in firewall.given[-1]


async def test_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerError, match="iptables-save is not installed: networks need iptables"):
        await Firewall(4, hairpin=False).change(add=published(1))


async def test_what_is_no_error_of_the_tool_reaches_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    firewall = Recorder()

    async def broken(verb: str, text: str = "") -> str:
        raise OSError(11, "no more processes")

    monkeypatch.setattr(firewall, "_run", broken)
    with pytest.raises(OSError, match="no more processes"):
        await firewall.change(add=published(1))

"""Bridges, veths and namespaces as dockerd makes them, in a network namespace that only its thread is in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from longshore.dockerd.network import namespaces, netlink
from longshore.dockerd.network.kernel import Attachment, BridgePlan, Kernel
from longshore.dockerd.network.netlink import Netlink
from longshore.dockerd.network.records import Endpoint
from longshore.linux.namespaces import CLONE_NEWNET, unshare

PLAN = BridgePlan(name="br-test", addresses=("10.9.0.1/24",))


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    """Its thread never sees the machine's own network."""
    kernel = Kernel()
    await kernel.run(unshare, CLONE_NEWNET)
    yield kernel
    kernel.close()


@pytest.fixture
async def namespace(kernel: Kernel, tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "net")
    await kernel.run(kernel.make_namespace, path)
    yield path
    await kernel.run(kernel.remove_namespace, path)
    assert not namespaces.is_held(path)


def endpoint(number: int, **members: str) -> Endpoint:
    members = {
        "ipv4": f"10.9.0.{number}/24",
        "mac": f"02:42:0a:09:00:0{number}",
        "link": f"veth{number}",
    } | members
    return Endpoint(id="e", network="n", interface=f"eth{number}", **members)  # type: ignore[arg-type]


async def links(kernel: Kernel, path: str = "") -> dict[str, netlink.Link]:
    def inside() -> list[netlink.Link]:
        with Netlink() as own:
            return own.links()

    found = await (kernel.run(kernel.inside, path, inside) if path else kernel.run(kernel.links))
    return {link.name: link for link in found}


async def test_bridge_is_made_once_and_mended(kernel: Kernel) -> None:
    assert await kernel.run(kernel.make_bridge, PLAN)
    assert not await kernel.run(kernel.make_bridge, PLAN._replace(addresses=("10.9.0.2/24",)))
    assert await kernel.run(kernel.bridge_addresses, "br-test") == ["10.9.0.2/24"]
    assert [str(network) for network in await kernel.run(kernel.routes)] == ["10.9.0.0/24"]
    await kernel.run(kernel.remove_link, "br-test")
    await kernel.run(kernel.remove_link, "br-test")
    assert "br-test" not in await links(kernel)


async def test_bridge_does_not_take_another_link(kernel: Kernel) -> None:
    with pytest.raises(FileExistsError, match="lo exists and is no bridge"):
        await kernel.run(kernel.make_bridge, PLAN._replace(name="lo"))


async def test_endpoint_comes_and_goes(kernel: Kernel, namespace: str) -> None:
    await kernel.run(kernel.make_bridge, PLAN)
    bridge = (await links(kernel))["br-test"]
    await kernel.run(kernel.attach, Attachment(endpoint(2), namespace, bridge="br-test", mtu=1400))
    own, ours = (await links(kernel, namespace))["eth2"], (await links(kernel))["veth2"]
    assert (own.mac, own.mtu, own.flags & netlink.IFF_UP) == ("02:42:0a:09:00:02", 1400, netlink.IFF_UP)
    assert (ours.master, ours.mtu) == (bridge.number, 1400)
    assert (await links(kernel))["br-test"].mac == bridge.mac  # it keeps its own
    await kernel.run(kernel.detach, namespace, endpoint(2))
    await kernel.run(kernel.detach, namespace, endpoint(2))
    assert set(await links(kernel, namespace)) == {"lo"}


async def test_way_out_changes(kernel: Kernel, namespace: str) -> None:
    await kernel.run(kernel.make_bridge, PLAN)
    for number in (2, 3):
        await kernel.run(kernel.attach, Attachment(endpoint(number), namespace, bridge="br-test"))

    def defaults() -> list[str]:
        lines = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
        return [line.split()[0] for line in lines if line.split()[1] == "00000000"]

    for interface in ("eth2", "eth3"):
        await kernel.run(kernel.set_gateways, namespace, (interface, "10.9.0.1"), ("", ""))
        assert await kernel.run(kernel.inside, namespace, defaults) == [interface]
    await kernel.run(kernel.set_gateways, namespace, ("", ""), ("", ""))
    assert await kernel.run(kernel.inside, namespace, defaults) == []


async def test_ipv6_only_where_asked_for(kernel: Kernel, namespace: str) -> None:
    await kernel.run(kernel.make_bridge, PLAN._replace(ipv6=True, addresses=("10.9.0.1/24", "fd00::1/64")))
    await kernel.run(kernel.attach, Attachment(endpoint(2), namespace, bridge="br-test"))
    six = endpoint(3, ipv6="fd00::3/64")
    await kernel.run(kernel.attach, Attachment(six, namespace, bridge="br-test"))

    def addresses() -> list[str]:
        with Netlink() as own:
            return [address for _, address, _ in own.addresses() if ":" in address and address != "::1"]

    found = await kernel.run(kernel.inside, namespace, addresses)
    assert "fd00::3" in found and all(each.startswith(("fd00::3", "fe80:")) for each in found)
    await kernel.run(kernel.set_gateways, namespace, ("", ""), ("eth3", "fd00::1"))
    await kernel.run(kernel.set_gateways, namespace, ("", ""), ("eth3", "fd00::1"))


async def test_first_of_many_errors_is_told(kernel: Kernel) -> None:
    def doomed() -> None:
        kernel.host.do(
            netlink.add_address(9999, ip_interface("10.9.0.9/24")), netlink.delete_link(name="nothing")
        )

    with pytest.raises(OSError, match=r"address 10\.9\.0\.9/24: No such device"):
        await kernel.run(doomed)
    assert await kernel.run(kernel.host.attempt) == []


async def test_namespaces_are_held_by_their_file(kernel: Kernel, namespace: str) -> None:
    assert namespaces.is_held(namespace)
    await kernel.run(kernel.make_namespace, namespace)  # what a crash left is no obstacle
    assert namespaces.is_held(namespace)
    await kernel.run(kernel.remove_namespace, namespace)
    assert not namespaces.is_held(namespace)
    home = await kernel.run(os.stat, "/proc/thread-self/ns/net")
    assert home.st_ino != os.stat("/proc/self/ns/net").st_ino  # the thread is where it was

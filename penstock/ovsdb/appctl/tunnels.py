"""tnl/... and ovs/route/...: where tunnels lead. Neighbours and routes are the kernel's, and shown and set there."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from penstock.ovsdb.appctl.commands import CommandError, Switch, command

TUNNELS = {"vxlan": "vxlan_sys", "geneve": "genev_sys", "gre": "gre_sys"}
MAIN_TABLE = 254
T = TypeVar("T")


async def _kernel(work: Callable[[Any], T]) -> T:
    """Ask the kernel by netlink. Raises CommandError with what it says."""

    def ask() -> T:
        with IPRoute() as netlink:
            return work(netlink)

    try:
        return await asyncio.to_thread(ask)
    except NetlinkError as error:
        raise CommandError(f"the kernel refuses it: {error.args[-1]}") from error


async def _devices(switch: Switch) -> dict[str, str]:
    """Net devices of the switch's ports, and their bridges."""
    return {state.netdev: name for name, states in (await switch.ports()).items() for state in states if state.netdev}


@command("tnl/ports/show", "[-v]", 0, 1)
async def ports_show(switch: Switch, _words: Sequence[str]) -> str:
    """The UDP ports, or protocols, by which packets for tunnels come, and how many tunnel ports there are for each."""
    counts: dict[tuple[str, int], int] = {}
    for spec in switch.control.desired.ports.values():
        if spec.kind in TUNNELS:
            place = TUNNELS[spec.kind], int(spec.options.get("dst_port", 0))
            counts[place] = counts.get(place, 0) + 1
    lines = [
        f"{name}{f'_{port}' if port else ''} ({port}) ref_cnt={count}" for (name, port), count in sorted(counts.items())
    ]
    return "\n".join(["Listening ports:", *lines])


@command("tnl/neigh/show")
@command("tnl/arp/show")
async def neigh_show(switch: Switch, _words: Sequence[str]) -> str:
    """What the kernel knows of the neighbours of the switch's devices."""
    bridges = await _devices(switch)

    def ask(netlink: Any) -> list[tuple[str, str, str]]:
        names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
        return sorted(
            (row.get("dst"), row.get("lladdr"), bridges[names[row["ifindex"]]])
            for row in netlink.get_neighbours()
            if names.get(row["ifindex"]) in bridges and row.get("lladdr") and row.get("dst")
        )

    lines = ["IP                                            MAC                 Bridge", "=" * 74]
    return "\n".join([*lines, *(f"{ip:46}{mac:20}{bridge}" for ip, mac, bridge in await _kernel(ask))])


@command("tnl/neigh/set", "bridge ip mac", 3)
@command("tnl/arp/set", "bridge ip mac", 3)
async def neigh_set(switch: Switch, words: Sequence[str]) -> str:
    """Tell the kernel of a neighbour."""
    bridge, address = switch.bridge(words[0]).spec.name, _address(words[1])

    def ask(netlink: Any) -> None:
        index = _index(netlink, bridge)
        netlink.neigh("replace", dst=str(address), lladdr=words[2], ifindex=index, state="reachable")

    await _kernel(ask)
    return "OK"


@command("tnl/neigh/flush")
@command("tnl/arp/flush")
async def neigh_flush(switch: Switch, _words: Sequence[str]) -> str:
    """Have the kernel forget the neighbours of the switch's devices; it asks again when they are needed."""
    devices = await _devices(switch)

    def ask(netlink: Any) -> None:
        for name in devices:
            for index in netlink.link_lookup(ifname=name):
                for row in netlink.get_neighbours(ifindex=index):
                    if row.get("dst") and row.get("lladdr"):
                        netlink.neigh("del", dst=row.get("dst"), ifindex=index)

    await _kernel(ask)
    return "OK"


@command("ovs/route/show")
async def route_show(_switch: Switch, _words: Sequence[str]) -> str:
    """The kernel's main table, which tunnels follow."""

    def ask(netlink: Any) -> list[str]:
        names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
        return [_route(row, names) for row in netlink.get_routes(table=MAIN_TABLE) if row.get("oif") in names]

    return "\n".join(["Route Table:", *await _kernel(ask)])


def _route(row: Any, names: dict[int, str]) -> str:
    anything = "::" if row["family"] == 10 else "0.0.0.0"
    text = f"Cached: {row.get('dst') or anything}/{row['dst_len']} dev {names[row.get('oif')]}"
    for key, word in (("gateway", "GW"), ("prefsrc", "SRC")):
        if row.get(key):
            text += f" {word} {row.get(key)}"
    return text


@command("ovs/route/lookup", "ip_addr", 1, 2)
async def route_lookup(_switch: Switch, words: Sequence[str]) -> str:
    """By which device and gateway an address is reached, and from which of its own."""
    address = _address(words[0])

    def ask(netlink: Any) -> str:
        (row,) = netlink.route("get", dst=str(address))
        names = {link["index"]: link.get("ifname") for link in netlink.get_links()}
        gateway = row.get("gateway") or ("::" if address.version == 6 else "0.0.0.0")
        return f"src {row.get('prefsrc')}\ngateway {gateway}\ndev {names[row.get('oif')]}"

    return await _kernel(ask)


@command("ovs/route/add", "ip_addr/prefix_len out_br_name [gw]", 2, 3)
async def route_add(_switch: Switch, words: Sequence[str]) -> str:
    """Add a route to the kernel's table."""
    return await _change_route("add", words)


@command("ovs/route/del", "ip_addr/prefix_len [out_br_name [gw]]", 1, 3)
async def route_del(_switch: Switch, words: Sequence[str]) -> str:
    """Take a route from the kernel's table."""
    return await _change_route("del", words)


async def _change_route(verb: str, words: Sequence[str]) -> str:
    try:
        network = ipaddress.ip_network(words[0])
    except ValueError as error:
        raise CommandError(f"Invalid parameters: {error}") from error
    route: dict[str, Any] = {"dst": str(network)}
    if len(words) > 2:
        route["gateway"] = str(_address(words[2]))

    def ask(netlink: Any) -> None:
        device = {"oif": _index(netlink, words[1])} if len(words) > 1 else {}
        netlink.route(verb, **route, **device)

    await _kernel(ask)
    return "OK"


def _index(netlink: Any, device: str) -> int:
    found = netlink.link_lookup(ifname=device)
    if not found:
        raise CommandError(f"there is no device '{device}'")
    return int(found[0])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise CommandError(str(error)) from error

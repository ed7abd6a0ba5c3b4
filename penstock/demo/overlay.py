"""Two hypervisors with an overlay between them: the scene that shows tenants with the same addresses kept apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.demo import traffic
from penstock.demo.echo import ping
from penstock.demo.hosts import Host, cable
from penstock.demo.launch import RunningSwitch
from penstock.demo.telling import Telling

ENDS = ("10.1.0.1", "10.1.0.2")  # of the hypervisors, on the network between them
TENANTS = {"red": (10, 5010), "blue": (20, 5020)}  # VLAN in the bridge, VNI on the network
ADDRESSES = ("192.168.0.1", "192.168.0.2")  # of every tenant's hosts
MTU = 1450  # a frame, 50 bytes of VXLAN, and the network's 1,500


@dataclass(frozen=True)
class Hypervisor:
    """A host with a switch of its own, and a host of each tenant behind it."""

    switch: RunningSwitch
    tenants: dict[str, Host]


def configuration(here: str, there: str) -> str:
    """The configuration file of a hypervisor: a bridge to the network, and one for tenants."""
    vnis = ", ".join(f'"{vlan}={vni}"' for vlan, vni in TENANTS.values())
    text = f"""\
[bridge.fabric.port.nic]
type = "packet"
netdev = "nic"
[bridge.fabric.port.host0]
type = "internal"
[bridge.tenants.port.overlay]
type = "vxlan"
local_ip = "{here}"
vnis = [{vnis}]
remotes = ["{there}"]
"""
    for name, (vlan, _vni) in TENANTS.items():
        text += f'[bridge.tenants.port.{name}]\ntype = "tap"\ntag = {vlan}\nmtu = {MTU}\n'
    return text


@contextmanager
def hypervisors(directory: Path) -> Iterator[list[Hypervisor]]:
    """Two of them, cabled to each other."""
    with ExitStack() as stack:
        sites = [stack.enter_context(Host(f"hypervisor{number}")) for number in (1, 2)]
        cable(sites[0], "nic", sites[1], "nic")
        found = []
        for number, site in enumerate(sites):
            own = directory / site.name
            own.mkdir()
            switch = stack.enter_context(RunningSwitch(site, own, configuration(ENDS[number], ENDS[1 - number])))
            site.assign("host0", f"{ENDS[number]}/24")
            tenants = {name: stack.enter_context(Host(f"{name}{number + 1}")) for name in TENANTS}
            for name, host in tenants.items():
                host.take(name, site, "eth0")
                host.assign("eth0", f"{ADDRESSES[number]}/24")
            found.append(Hypervisor(switch, tenants))
        yield found


def show(story: Telling, directory: Path) -> None:
    """The scene."""
    story.title("Two hypervisors, each with a switch of its own, and a VXLAN overlay between them")
    with story.console.status("two more switches start"), ExitStack() as stack:
        first, second = stack.enter_context(hypervisors(directory))
        rows = [(name, f"VLAN {vlan}", f"VNI {vni}", *ADDRESSES) for name, (vlan, vni) in TENANTS.items()]
        story.table(("tenant", "in the switch", "on the network", "host on the first", "host on the second"), rows)
        replies = {name: ping(host, ADDRESSES[1]) for name, host in first.tenants.items()}
        story.verdict(
            "hosts of one tenant reach each other over the network",
            all(echoes.received == echoes.sent for echoes in replies.values()),
            ", ".join(f"{name} {echoes.received} of {echoes.sent} replies" for name, echoes in replies.items()),
        )
        reached = {name: link_address(host, ADDRESSES[1]) for name, host in first.tenants.items()}
        own = {name: host.mac("eth0") for name, host in second.tenants.items()}
        story.verdict(
            f"{ADDRESSES[1]} is each tenant's own host: the addresses are the same, the networks are not",
            reached == own and len(set(own.values())) == len(own),
            ", ".join(f"for {name} it is {mac}" for name, mac in reached.items()),
        )
        receiving = traffic.receiver(second.tenants["red"], "tcp", 5001)
        sending = traffic.sender(first.tenants["red"], "tcp", ADDRESSES[1], 5001, "--seconds", "2")
        sent, received = traffic.result(sending), traffic.result(receiving)
        before_cut = first.switch.query("stats")
        frames = before_cut["overlay"]["tx_packets"] / max(1, before_cut["red"]["rx_packets"])
        rate = received["bytes"] * 8 / received["seconds"] / 1e9
        story.verdict(
            "TCP through the overlay: segments of 64 KB, cut once and encapsulated",
            sent["bytes"] == received["bytes"] and frames > 2,
            f"{rate:.1f} Gb/s; {frames:.0f} packets on the network for each from the host",
        )
        (row,) = first.switch.query("tunnels")
        story.line(f"penstock tunnels: {row['remote']} from {row['local']} by {row['mac']}, {row['state']}")


def link_address(host: Host, address: str) -> str:
    """The MAC address that a host's kernel has found for an IP address of its network; "" when it has none."""
    for entry in host.netlink.get_neighbours(dst=address):
        return str(entry.get("lladdr") or "")
    return ""

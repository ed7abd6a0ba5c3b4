"""The switches beside each other with a VM's bridge, a tunnel, and the bridge of a NIC, both ports vhost-user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.vhost_cases import HERE, THERE, UNDERLAY_BITS, VNI
from bench.vhost_switches import OvsDpdk, Penstock, Switch
from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.peers.ovs import start_dpdk

UNDERLAY, NIC, VM = "under", "nic", "vm1"


@contextmanager
def penstock(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Penstock."""
    sockets = (directory / f"{VM}.sock", directory / f"{NIC}.sock")
    config = f"""
[engine]
workers = 1
cpus = [{cpu}]
poll = "busy"
[bridge.{UNDERLAY}.port.{NIC}]
type = "vhost-user"
path = "{sockets[1]}"
[bridge.{UNDERLAY}.port.host0]
type = "internal"
mac = "{HERE.mac}"
[bridge.br0.port.{VM}]
type = "vhost-user"
path = "{sockets[0]}"
[bridge.br0.port.tunnel]
type = "vxlan"
remote_ip = "{THERE.address}"
key = {VNI}
"""
    with RunningSwitch(host, directory, config) as running:
        host.assign("host0", f"{HERE.address}/{UNDERLAY_BITS}")
        index = host.index("host0")
        host.netlink.neigh("replace", dst=THERE.address, lladdr=THERE.mac, ifindex=index, state="permanent")
        yield Penstock(running, sockets)


@contextmanager
def open_vswitch(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Open vSwitch with its native tunnels."""
    ovs = start_dpdk(host, directory, cpu)
    ovs.add_port(VM, "dpdkvhostuser")
    ovs.vsctl(
        *("add-br", UNDERLAY, "--", "set", "bridge", UNDERLAY, "datapath_type=netdev"),
        f"other_config:hwaddr={HERE.mac}",
    )
    ovs.vsctl("add-port", UNDERLAY, NIC, "--", "set", "interface", NIC, "type=dpdkvhostuser")
    host.assign(UNDERLAY, f"{HERE.address}/{UNDERLAY_BITS}")
    ovs.appctl("tnl/neigh/set", UNDERLAY, THERE.address, THERE.mac)
    options = (f"options:remote_ip={THERE.address}", f"options:key={VNI}")
    ovs.vsctl("add-port", "br0", "tunnel", "--", "set", "interface", "tunnel", "type=vxlan", *options)
    yield OvsDpdk(ovs, cpu, (VM, NIC))


TUNNEL_SWITCHES: dict[str, Callable[[Host, Path, int], AbstractContextManager[Switch]]] = {
    "penstock": penstock,
    "open vswitch": open_vswitch,
}

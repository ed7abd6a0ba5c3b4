"""A switch with tunnels, and far ends that nobody here wrote: the kernel's tunnel devices, or Open vSwitch."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.demo.hosts import Host, cable
from penstock.peers.ovs import OpenVSwitch
from tests.system.lab import Lab

UNDERLAY = """
[bridge.under]
[bridge.under.port.nic]
type = "packet"
netdev = "nic"
[bridge.under.port.host0]
type = "internal"
mtu = {mtu}
"""
FAR_MTU = 1370  # of hosts behind Open vSwitch: what fits into any tunnel
HERE, THERE, HERE6, THERE6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"


class Site:
    """The switch's end of a link, 10.0.0.1 and fd00::1, and the far end's: 10.0.0.2 and fd00::2."""

    def __init__(self, lab: Lab, mtu: int = 1500) -> None:
        self.lab, self._mtu = lab, mtu
        self.far = lab.veth("nic", f"{THERE}/24", f"{THERE6}/64", mtu=mtu)

    def begin(self, overlay: str, *options: str) -> None:
        """Start the switch with a bridge "under" and these bridges besides."""
        self.lab.start(UNDERLAY.format(mtu=self._mtu) + overlay, *options)
        self.lab.site.assign("host0", f"{HERE}/24", f"{HERE6}/64")

    def vxlan(self, name: str, vni: int, *addresses: str, mtu: int = 1450, six: bool = False, **more: object) -> None:
        """A VXLAN device of the kernel at the far end."""
        ends = {"vxlan_group": HERE, "vxlan_local": THERE}
        if six:
            ends = {"vxlan_group6": HERE6, "vxlan_local6": THERE6}
        attributes = {"kind": "vxlan", "vxlan_id": vni, "vxlan_port": 4789, **ends, **more}
        self.far.netlink.link("add", ifname=name, **attributes)
        self.far.change(name, mtu=mtu)
        self.far.assign(name, *addresses)

    @contextmanager
    def captured(self, directory: Path) -> Iterator[Path]:
        """Capture what passes the link, as a pcap file that is whole after the block."""
        file = directory / "link.pcap"
        process = self.far.start(
            "tcpdump", "-i", "eth0", "--immediate-mode", "-U", "-w", str(file), stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        while "listening" not in process.stderr.readline():
            pass
        try:
            yield file
            time.sleep(0.3)
        finally:
            process.terminate()
            process.wait(5)


def dissect(file: Path, *fields: str, display: str = "") -> list[list[str]]:
    """What tshark says of the packets of a file: these fields of each."""
    words = ["tshark", "-r", str(file), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run([*words, *(["-Y", display] if display else [])], text=True, capture_output=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


class FarSwitch:
    """Open vSwitch's user-space datapath at the far end: its own underlay bridge, and br0 for tunnels and a host."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.ovs = OpenVSwitch(site.far, directory)
        self._site = site
        self.ovs.vsctl("add-br", "under", "--", "set", "bridge", "under", "datapath_type=netdev")
        self.ovs.vsctl("add-port", "under", "eth0")
        site.far.netlink.flush_addr(index=site.far.index("eth0"))
        site.far.assign("under", f"{THERE}/24", f"{THERE6}/64")

    def tunnel(self, name: str, kind: str, **options: str) -> None:
        words = [f"options:{key}={value}" for key, value in options.items()]
        self.ovs.vsctl("add-port", "br0", name, "--", "set", "interface", name, f"type={kind}", *words)

    def host(self, name: str, *addresses: str) -> Host:
        """A host behind Open vSwitch."""
        host = self._site.lab.host(name)
        cable(self._site.far, name, host, "eth0")
        # Open vSwitch's user-space datapath and a kernel's unfinished checksums do not go together.
        for end, link in ((self._site.far, name), (host, "eth0")):
            end.run("ethtool", "-K", link, "tx", "off", "gso", "off", "tso", "off")
            end.change(link, mtu=FAR_MTU)
        host.assign("eth0", *addresses)
        self.ovs.vsctl("add-port", "br0", name)
        return host

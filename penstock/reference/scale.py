"""The scale, and what it means: who is where, the flow entries that say so, and the frames that VMs send.

Every VM is in a network (VNI) of its own. MAC addresses are spread over all networks, those of the VMs having up to a
thousand each, and over all far ends, which are reached by one router. The bridge of the VMs has three tables: by port
to VNI, an entry for each VNI, and an entry for each MAC address in its VNI, which sends to the far end or to a VM.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.traffic.frames import FCS, Addresses, Frame, FrameKind

VMS_MAX = 6
FLOWS_MAX = 1000
TUNNEL, FIRST_VM = 1, 11  # OpenFlow numbers
HERE, ROUTER = "10.99.0.1", "10.99.0.254"
HERE_MAC, ROUTER_MAC = "02:99:00:00:00:01", "02:99:00:00:00:fe"
UNDERLAY_BITS = 24
FAR_NETWORK = "100.64.0.0/16"
MTU = 1600  # of the underlay: a whole frame and its tunnel
GAP = 20  # bytes between frames on the wire: preamble and gap
SOURCE, DESTINATION = ipaddress.ip_address("192.168.0.1"), ipaddress.ip_address("192.168.0.2")


@dataclass(frozen=True)
class Scale:
    """How many of each."""

    tunnels: int
    vnis: int
    macs: int

    def vni(self, vm: int) -> int:
        """The network of a VM; when there are fewer networks than VMs, they share."""
        return 1 + vm * (self.vnis // VMS_MAX) % self.vnis

    def far_end(self, number: int) -> str:
        """The address of a far end."""
        return str(ipaddress.ip_network(FAR_NETWORK)[1 + number % self.tunnels])

    def stations(self) -> Iterator[tuple[int, bytes, int]]:
        """Every MAC address behind a far end: its VNI, the address, the number of the far end."""
        of_vms = min(self.macs, VMS_MAX * FLOWS_MAX)
        for number in range(self.macs):
            if number < of_vms:
                vni = self.vni(number % VMS_MAX)
            else:
                vni = 1 + number * 7919 % self.vnis
            yield vni, mac(number), number

    def entries(self) -> Iterator[str]:
        """The flow entries of the VMs' bridge."""
        yield f"table=0,in_port={TUNNEL},actions=resubmit(,1)"
        for vm in range(VMS_MAX):
            yield f"table=0,in_port={FIRST_VM + vm},actions=set_field:{self.vni(vm)}->tun_id,resubmit(,1)"
            yield f"table=2,tun_id={self.vni(vm)},dl_dst={text(vm_mac(vm))},actions=output:{FIRST_VM + vm}"
        for vni in range(1, self.vnis + 1):
            yield f"table=1,tun_id={vni},actions=load:{vni}->NXM_NX_REG0[],resubmit(,2)"
        for vni, address, number in self.stations():
            end = self.far_end(number)
            yield f"table=2,tun_id={vni},dl_dst={text(address)},actions=set_field:{end}->tun_dst,output:{TUNNEL}"

    def frames(self, vm: int, flows: int, size: int) -> list[Frame]:
        """UDP frames of ``size`` bytes on the wire, each to another station of the VM's network if it has so many."""
        here = [station for station in range(min(self.macs, VMS_MAX * FLOWS_MAX)) if station % VMS_MAX == vm] or [0]
        source, ends = int.from_bytes(vm_mac(vm), "big"), (int(SOURCE), int(DESTINATION))
        built = [
            FrameKind().build(
                Addresses(int.from_bytes(mac(here[flow % len(here)]), "big"), source, 0, *ends, 1000 + flow, 4000),
                size - FCS,
            )
            for flow in range(flows)
        ]
        return [Frame(each.head, each.length) for each in built]  # without stamps: nobody looks into a tunnel for them


REFERENCE = Scale(10_667, 350_000, 15_000)
ONE = Scale(1, 1, 1)


def mac(number: int) -> bytes:
    """The address of a station behind a far end."""
    return b"\x02\x10" + number.to_bytes(4, "big")


def vm_mac(vm: int) -> bytes:
    """The address of a VM."""
    return b"\x02\x20\0\0\0" + bytes([1 + vm])


def text(address: bytes) -> str:
    return address.hex(":")

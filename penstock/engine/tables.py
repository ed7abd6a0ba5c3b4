"""The tables that workers follow: ports, bridges, members, VLANs, counters. Written by the main thread alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from penstock.datapath.fdb import fdb_bytes, fdb_init
from penstock.datapath.layout import (
    BRIDGE,
    COUNTERS,
    COUNTERS_BYTES,
    MAX_BRIDGES,
    MAX_PORTS,
    MAX_WORKERS,
    MEMBER_PORTS,
    PORT,
    PORT_CONFIG,
    PORT_DOWN,
    PORT_FREE,
    PROTECTED_PORT,
    TXQ,
    TXQ_BYTES,
    VLAN_MODES,
    VLAN_OF_TUNNEL,
)
from penstock.datapath.pipeline.meters import BAND_DROP, BURST_LIMIT
from penstock.datapath.policing import POLICER
from penstock.datapath.tags import PRIORITY, UNTAGGED
from penstock.machine import records, store64
from penstock.memory import Arena
from penstock.packet.protocols import SVLAN_RAW, VLAN_RAW
from penstock.ports.base import TxSpec
from penstock.ports.spec import BridgeSpec, Policing, PortSpec, VlanConfig

NO_PEER = -1
FDB_ALIGN = 128
VLANS = 4096
SERVICE_TYPES = {"802.1ad": SVLAN_RAW, "802.1q": VLAN_RAW}
BURST_KILOBITS, BURST_KPKTS = 8000, 16  # of a policed port that asks for none (ovs-vswitchd.conf.db(5))
OFPORT_MAX, OFPORT_LOCAL, OFPORT_CONTROLLER = 0xFEFF, 0xFFFFFFFE, 0xFFFFFFFD


def vlan_bits(vlans: Collection[int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """One bit for each VLAN, the lowest first."""
    member = np.zeros(VLANS, dtype=np.uint8)
    member[list(vlans)] = 1
    return np.packbits(member, bitorder="little")


class Tables:
    """Ports and bridges as workers see them; rows by number."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.ports_address = arena.allocate(MAX_PORTS * PORT.itemsize)
        self.bridges_address = arena.allocate(MAX_BRIDGES * BRIDGE.itemsize)
        self.ports = records(PORT, self.ports_address, MAX_PORTS)
        self.bridges = records(BRIDGE, self.bridges_address, MAX_BRIDGES)
        self._last_port = 0
        self._add_source()

    def _add_source(self) -> None:
        """Fill place 0: no port, but where frames come from that controllers send. Its bridge is worker 0's to set."""
        row = self.ports[0]
        row["config"] = self.vlan_config(VlanConfig())
        row["counters"] = self._arena.allocate((MAX_WORKERS + 1) * COUNTERS_BYTES)
        self.set_ofport(0, OFPORT_CONTROLLER)

    def free_port_number(self) -> int:
        """A number that no port has, the longest unused first; 0 is none's. Raises LookupError when all are taken."""
        for step in range(1, MAX_PORTS):
            number = (self._last_port + step - 1) % (MAX_PORTS - 1) + 1
            if self.ports[number]["state"] == PORT_FREE and not self.ports[number]["name"]:
                self._last_port = number
                return number
        raise LookupError(f"all {MAX_PORTS - 1} port numbers are taken")

    def free_bridge_number(self) -> int:
        """A number that no bridge has. Raises LookupError when all are taken."""
        for number in range(MAX_BRIDGES):
            if not self.bridges[number]["state"]:
                return number
        raise LookupError(f"all {MAX_BRIDGES} bridges are taken")

    def vlan_config(self, vlan: VlanConfig) -> int:
        """A new PORT_CONFIG; its address."""
        mode = VLAN_MODES.index(vlan.mode)
        members = set(vlan.trunks or range(VLANS))
        if vlan.mode in ("access", "dot1q-tunnel"):
            members = {vlan.tag or 0}
        elif vlan.mode != "trunk" and vlan.tag:
            members = members - {0} | {vlan.tag}  # no frame without a tag is of VLAN 0 here
        address = self._arena.allocate(PORT_CONFIG.itemsize)
        row = records(PORT_CONFIG, address)[0]
        row["mode"], row["tag"] = mode, vlan.tag or 0
        row["members"] = vlan_bits(members)
        row["bare"] = PRIORITY if vlan.priority_tags else UNTAGGED
        row["service_type"] = SERVICE_TYPES[vlan.qinq_ethtype]
        row["selective"] = int(vlan.mode == "dot1q-tunnel" and bool(vlan.cvlans))
        row["customers"] = vlan_bits(vlan.cvlans)
        return address

    def policer(self, policing: Policing, cycles_hz: int) -> int:
        """A new POLICER, its buckets full; its address, 0 when nothing is limited."""
        if not policing.rate and not policing.kpkts_rate:
            return 0
        limits = {
            "kilobits": (policing.rate, policing.burst or BURST_KILOBITS),
            "packets": (policing.kpkts_rate * 1000, (policing.kpkts_burst or BURST_KPKTS) * 1000),
        }
        address = self._arena.allocate(POLICER.itemsize)
        row = records(POLICER, address)[0]
        for name, (rate, burst) in limits.items():
            row[name]["count"] = int(rate > 0)
            band = row[name]["bands"][0]
            band["rate"], band["kind"] = rate, BAND_DROP
            band["limit"] = band["bucket"] = min(burst, BURST_LIMIT) * cycles_hz
        return address

    def carry_vlans(self, number: int, vlans: Sequence[int]) -> None:
        """Have a new port's frames be in one of these VLANs each, as the tunnel tells."""
        row = records(PORT_CONFIG, int(self.ports[number]["config"]))[0]
        row["mode"], row["members"] = VLAN_OF_TUNNEL, vlan_bits(vlans)

    def member_list(self, numbers: Sequence[int]) -> int:
        """A new list of a bridge's ports; its address."""
        address = self._arena.allocate(MEMBER_PORTS + len(numbers) * 4)
        store64(address, len(numbers))
        if numbers:
            records(np.dtype(np.int32), address + MEMBER_PORTS, len(numbers))[:] = numbers
        return address

    @staticmethod
    def protection(spec: PortSpec) -> int:
        """What of a port's ``of_config`` says whether it is protected."""
        return PROTECTED_PORT if spec.protected else 0

    def set_bridge(self, number: int, spec: BridgeSpec, size_changed: bool = True) -> list[int]:
        """Fill a bridge's row; a new, empty FDB when its size changed.

        Returns what is no longer followed, to be freed after a quiet point.
        """
        row = self.bridges[number]
        unused = [int(row["flood_vlans"])]
        if size_changed:
            unused.append(int(row["fdb"]))
            fdb = self._arena.allocate(fdb_bytes(spec.mac_table_size), FDB_ALIGN)
            fdb_init(fdb, spec.mac_table_size)
            row["fdb"] = fdb
        row["ageing"] = spec.mac_ageing
        row["forward_bpdu"] = spec.forward_bpdu
        row["flood_vlans"] = self._flood_vlans(spec.flood_vlans) if spec.flood_vlans else 0
        row["name"] = spec.name.encode()
        row["state"] = 1
        return [address for address in unused if address]

    def _flood_vlans(self, vlans: Sequence[int]) -> int:
        """A new map of VLANs; its address."""
        bits = vlan_bits(vlans)
        address = self._arena.allocate(len(bits))
        records(np.dtype(np.uint8), address, len(bits))[:] = bits
        return address

    def free_ofport(self, bridge: int) -> int:
        """The lowest OpenFlow number that no port of the bridge has. Raises LookupError."""
        taken = set(self.ports["ofport"][(self.ports["bridge"] == bridge) & (self.ports["name"] != b"")].tolist())
        for number in range(1, OFPORT_MAX + 1):
            if number not in taken:
                return number
        raise LookupError(f"all {OFPORT_MAX} OpenFlow port numbers are taken")

    def set_ofport(self, number: int, ofport: int) -> None:
        """Give a port its OpenFlow number."""
        self.ports[number]["ofport"] = ofport if ofport < 1 << 31 else ofport - (1 << 32)
        self.ports[number]["key_word"] = int.from_bytes(ofport.to_bytes(4, "big") * 2, "little", signed=True)

    def add_port(self, number: int, name: str, bridge: int, vlan: VlanConfig, mtu: int, egress: int) -> Any:
        """Fill a port's row, still down; the row. Raises ArenaError, and then ``clear_port`` mends what was begun."""
        row = self.ports[number]
        row["name"] = name.encode()
        row["bridge"], row["mtu"], row["capture"] = bridge, mtu, 0
        row["of_config"] = 0
        row["config"] = self.vlan_config(vlan)
        # One more than there are workers: a tracer is no worker, and has an index.
        row["counters"] = self._arena.allocate((MAX_WORKERS + 1) * COUNTERS_BYTES)
        row["txqs"] = self._arena.allocate((MAX_WORKERS + 1) * TXQ_BYTES)
        row["peer"], row["egress"], row["tunnel"] = NO_PEER, egress, 0
        row["state"] = PORT_DOWN
        return row

    def set_txqs(self, number: int, specs: Sequence[TxSpec], offloads: int, scratch: Sequence[tuple[int, int]]) -> int:
        """Fill the port's transmit queues for workers with these scratch areas and lists; the locks' address, or 0."""
        row = self.ports[number]
        if not specs:
            return 0
        shared = len(specs) < len(scratch)
        locks = self._arena.allocate(len(specs) * 64) if shared else 0
        txqs = records(TXQ, int(row["txqs"]), MAX_WORKERS)
        for worker, (area, after) in enumerate(scratch):
            queue = worker % len(specs)
            spec = specs[queue]
            txqs[worker] = (
                spec.tx,
                spec.ctx,
                locks + queue * 64 if shared else 0,
                int(row["counters"]) + worker * COUNTERS_BYTES,
                spec.fd,
                spec.queue,
                offloads,
                number,
                area,
                after,
            )
        return locks

    def set_offloads(self, number: int, offloads: int) -> None:
        """Change what a port takes in transmit."""
        records(TXQ, int(self.ports[number]["txqs"]), MAX_WORKERS)["offloads"] = offloads

    def clear_port(self, number: int) -> None:
        """Make a port's number free and give its memory back. After a quiet point."""
        row = self.ports[number]
        row["state"] = PORT_FREE
        for field in ("counters", "txqs", "config", "policer"):
            address, row[field] = int(row[field]), 0
            if address:
                self._arena.free(address)
        row["name"] = b""

    def counters(self, number: int) -> np.ndarray[Any, np.dtype[Any]]:
        """The port's counters, one row per worker."""
        return records(COUNTERS, int(self.ports[number]["counters"]), MAX_WORKERS)

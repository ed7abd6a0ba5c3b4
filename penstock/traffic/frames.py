"""The bytes of generated frames: Ethernet, maybe a VLAN tag, IPv4 or IPv6, UDP or TCP, and zeros as payload.

Only headers are made here: HEAD_MAX bytes at most, the rest of a frame being zeros that all frames share.
Sums are those of `penstock.packet.checksum`: of raw little-endian words.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from penstock.datapath.layout import (
    FLAG_CSUM_PARTIAL,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    HEADER_MAX,
    OFFLOAD_CSUM,
    OFFLOAD_TSO4,
    OFFLOAD_TSO6,
    OFFLOAD_USO,
)
from penstock.packet.checksum import words_sum
from penstock.packet.protocols import (
    ETH_HEADER,
    IPV4_HEADER,
    IPV6_HEADER,
    TCP,
    TCP_CHECKSUM,
    TCP_HEADER,
    UDP,
    UDP_CHECKSUM,
    UDP_HEADER,
    VLAN_TAG,
)

FCS = 4  # frame check sequence: counted in sizes, never in memory
ACK = 0x10
HOPS = 64
WINDOW = 65_535


class Addresses(NamedTuple):
    """What tells one flow from another, as numbers."""

    dst_mac: int
    src_mac: int
    vlan: int
    src_ip: int
    dst_ip: int
    src_port: int
    dst_port: int


@dataclass(frozen=True)
class Frame:
    """A frame to be laid out: its first bytes, its length, and what is left for the port or the stamp to do.

    ``csum_at`` 0: the stamp changes no checksum; else ``sum`` is what that covers beside the stamp.
    """

    head: bytes
    length: int
    stamp_at: int = 0
    csum_at: int = 0
    sum: int = 0
    csum_start: int = 0
    csum_offset: int = 0
    gso_size: int = 0
    gso_type: int = GSO_NONE
    flags: int = 0


@dataclass(frozen=True)
class FrameKind:
    """What the frames of a stream have in common."""

    ipv6: bool = False
    tcp: bool = False
    tagged: bool = False
    gso_size: int = 0
    offload: bool = False

    @property
    def l3(self) -> int:
        return ETH_HEADER + (VLAN_TAG if self.tagged else 0)

    @property
    def l4(self) -> int:
        return self.l3 + (IPV6_HEADER if self.ipv6 else IPV4_HEADER)

    @property
    def payload_at(self) -> int:
        return self.l4 + (TCP_HEADER if self.tcp else UDP_HEADER)

    @property
    def gso_type(self) -> int:
        if self.gso_size == 0:
            return GSO_NONE
        if not self.tcp:
            return GSO_UDP_L4
        return GSO_TCPV6 if self.ipv6 else GSO_TCPV4

    @property
    def offloads(self) -> int:
        """OFFLOAD_ bits that the port must have."""
        segmenting = {GSO_NONE: 0, GSO_TCPV4: OFFLOAD_TSO4, GSO_TCPV6: OFFLOAD_TSO6, GSO_UDP_L4: OFFLOAD_USO}
        return segmenting[self.gso_type] | (OFFLOAD_CSUM if self.offload else 0)

    def build(self, flow: Addresses, length: int) -> Frame:
        """A frame of ``length`` bytes of one flow."""
        proto = TCP if self.tcp else UDP
        size = length - self.l4
        tag = struct.pack("!HH", 0x8100, flow.vlan) if self.tagged else b""
        link = flow.dst_mac.to_bytes(6, "big") + flow.src_mac.to_bytes(6, "big") + tag
        if self.ipv6:
            ends = flow.src_ip.to_bytes(16, "big") + flow.dst_ip.to_bytes(16, "big")
            network = b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, size & 0xFFFF, proto, HOPS) + ends
            pseudo = ends + struct.pack("!II", size, proto)
        else:
            ends = flow.src_ip.to_bytes(4, "big") + flow.dst_ip.to_bytes(4, "big")
            ip_length = (size + IPV4_HEADER) & 0xFFFF
            plain = struct.pack("!BBHHHBBH", 0x45, 0, ip_length, 0, 0x4000, HOPS, proto, 0) + ends
            network = b"\x08\x00" + plain[:10] + struct.pack("<H", ~words_sum(plain) & 0xFFFF) + ends
            pseudo = ends + struct.pack("!HH", proto, size & 0xFFFF)
        if self.tcp:
            transport = struct.pack("!HHIIHHHH", flow.src_port, flow.dst_port, 1, 1, 0x5000 | ACK, WINDOW, 0, 0)
            place = TCP_CHECKSUM
        else:
            transport = struct.pack("!HHHH", flow.src_port, flow.dst_port, size & 0xFFFF, 0)
            place = UDP_CHECKSUM
        if self.offload:
            transport = transport[:place] + struct.pack("<H", words_sum(pseudo)) + transport[place + 2 :]
        head = (link + network + transport).ljust(min(length, HEADER_MAX), b"\0")
        if self.offload:
            return Frame(
                head, length, self.payload_at, 0, 0, self.l4, place, self.gso_size, self.gso_type, FLAG_CSUM_PARTIAL
            )
        if not self.ipv6 and not self.tcp:
            return Frame(head, length, self.payload_at)  # UDP over IPv4 may do without a checksum (RFC 768)
        return Frame(head, length, self.payload_at, self.l4 + place, words_sum(pseudo) + words_sum(transport))

"""The finished header of a tunnel's far end: Ethernet, IP, and UDP with VXLAN or Geneve, or GRE.

Lengths, IPv4 checksum, source port, and a key that differs by packet are left to ``datapath.tunnel.push``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from penstock.datapath.tunnel.layout import GENEVE, GRE, VXLAN
from penstock.packet.checksum import words_sum
from penstock.ports.tunnel.routes import IpAddress

ETHERNET = 14
IPV4, IPV6 = 0x0800, 0x86DD
UDP_PROTOCOL, GRE_PROTOCOL = 17, 47
TRANS_ETHER = 0x6558
VNI_FLAG, GPE_FLAG = 0x08, 0x04
GPE_ETHERNET = 3
GRE_CHECKSUM, GRE_KEY = 0x8000, 0x2000
DONT_FRAGMENT = 0x4000


@dataclass(frozen=True)
class Shape:
    """What the headers of a tunnel port's packets have in common."""

    kind: int
    port: int = 0  # UDP destination
    key: int = 0
    keyed: bool = True  # GRE: whether there is a key field
    checksum: bool = False
    tos: int = 0
    ttl: int = 64
    dont_fragment: bool = True
    gpe: bool = False


@dataclass(frozen=True)
class Header:
    """Bytes of a header, offsets of its layers, and the ones' complement sum of its IPv4 header behind byte 4."""

    data: bytes
    l3: int
    l4: int
    key_at: int
    sum: int


def make_header(shape: Shape, destination: bytes, source: bytes, local: IpAddress, remote: IpAddress) -> Header:
    """The header of packets from ``local`` to ``remote`` on a link with these MAC addresses."""
    protocol = GRE_PROTOCOL if shape.kind == GRE else UDP_PROTOCOL
    upper, key_offset = _upper(shape)
    total = 0
    if local.version == 4:
        flags = DONT_FRAGMENT if shape.dont_fragment else 0
        ip = struct.pack("!BBHHHBBH", 0x45, shape.tos, 0, 0, flags, shape.ttl, protocol, 0)
        ip += local.packed + remote.packed
        total = words_sum(ip[4:])
    else:
        ip = struct.pack("!IHBB", 0x60000000 | shape.tos << 20, 0, protocol, shape.ttl) + local.packed + remote.packed
    ethernet = destination + source + (IPV4 if local.version == 4 else IPV6).to_bytes(2, "big")
    l4 = ETHERNET + len(ip)
    return Header(ethernet + ip + upper, ETHERNET, l4, l4 + key_offset, total)


def _upper(shape: Shape) -> tuple[bytes, int]:
    """What follows the IP header, and where in it the key is."""
    if shape.kind == GRE:
        flags = (GRE_CHECKSUM if shape.checksum else 0) | (GRE_KEY if shape.keyed else 0)
        data = struct.pack("!HH", flags, TRANS_ETHER) + (bytes(4) if shape.checksum else b"")
        return data + (shape.key.to_bytes(4, "big") if shape.keyed else b""), len(data)
    udp = struct.pack("!HHHH", 0, shape.port, 0, 0)
    if shape.kind == VXLAN:
        first = (VNI_FLAG | GPE_FLAG) << 24 | GPE_ETHERNET if shape.gpe else VNI_FLAG << 24
    else:
        assert shape.kind == GENEVE
        first = TRANS_ETHER
    return udp + struct.pack("!II", first, shape.key << 8), len(udp) + 4

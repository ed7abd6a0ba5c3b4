"""The headers of VXLAN (RFC 7348), Geneve (RFC 8926) and GRE (RFC 2890) as they arrive: how long, and whether right."""

from __future__ import annotations

from penstock.datapath.tunnel.push import GBP_FLAG, GBP_SHOWN
from penstock.machine import inlined, kernel, load8, load32, load32be, shr
from penstock.packet.protocols import raw16

VXLAN_HEADER, GENEVE_HEADER, GRE_HEADER = 8, 8, 4
VNI_FLAG, GPE_FLAG = 0x08, 0x04  # in the first byte of VXLAN
GPE_ETHERNET = 3
ETHERNET_RAW = raw16(0x6558)  # "trans-Ether bridging": Ethernet in GRE and Geneve
GRE_HAS_CHECKSUM, GRE_HAS_KEY, GRE_HAS_SEQUENCE = 0x80, 0x20, 0x10
GRE_KNOWN_RAW = GRE_HAS_CHECKSUM | GRE_HAS_KEY | GRE_HAS_SEQUENCE  # other flags and version: bytes 0 and 1


@inlined
def vxlan_length(at, left):
    """Bytes of the VXLAN header at ``at``; 0 when it is wrong."""
    if left < VXLAN_HEADER:
        return 0
    first = load32(at)
    if load8(at + 7) != 0:
        return 0
    if first == VNI_FLAG:
        return VXLAN_HEADER
    flags = first & 0xFF
    if flags == VNI_FLAG | GBP_FLAG:
        return VXLAN_HEADER if shr(first, 8) & 0xFF & ~GBP_SHOWN == 0 else 0
    if flags == VNI_FLAG | GPE_FLAG:
        return VXLAN_HEADER if shr(first, 8) == GPE_ETHERNET << 16 else 0
    return 0


@inlined
def geneve_length(at, left):
    """Bytes of the Geneve header at ``at``, options included; 0 when it is wrong."""
    if left < GENEVE_HEADER:
        return 0
    first = load32(at)
    if first & 0xC0 != 0 or shr(first, 16) != ETHERNET_RAW or load8(at + 7) != 0:
        return 0
    length = GENEVE_HEADER + (first & 0x3F) * 4
    return length if length <= left else 0


@inlined
def gre_length(at, left):
    """Bytes of the GRE header at ``at``; 0 when it is wrong."""
    if left < GRE_HEADER:
        return 0
    first = load32(at)
    if first & 0xFFFF & ~GRE_KNOWN_RAW != 0 or shr(first, 16) != ETHERNET_RAW:
        return 0
    length = GRE_HEADER
    for flag in (GRE_HAS_CHECKSUM, GRE_HAS_KEY, GRE_HAS_SEQUENCE):
        if first & flag != 0:
            length += 4
    return length if length <= left else 0


@kernel
def gre_key(at):
    """The key in a GRE header; 0 when there is none."""
    flags = load8(at)
    if flags & GRE_HAS_KEY == 0:
        return 0
    return load32be(at + (8 if flags & GRE_HAS_CHECKSUM != 0 else 4))

"""The VLAN tag of a packet: what else of a PACKET moves when the tag comes or goes."""

from __future__ import annotations

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, packet_at
from penstock.machine import bswap16, kernel
from penstock.packet.edit import pop_vlan, push_vlan, set_vlan_vid
from penstock.packet.protocols import VLAN_RAW

TAG_BYTES = 4
VID_MASK = 0x0FFF
UNTAGGED = 0
AS_IT_IS = -1


@kernel
def shift(packet, octets):
    """Move every position in the packet by the bytes added (or removed: negative) in front of it."""
    p = packet_at(packet)
    p.head_len += octets
    p.headroom -= octets
    if p.l3 != 0:
        p.l3 += octets
    if p.l4 != 0:
        p.l4 += octets
    if p.flags & FLAG_CSUM_PARTIAL != 0:
        p.csum_start += octets
    return 0


@kernel
def set_form(packet, vid):
    """Give the packet the tag of this VLAN, its priority kept; take its tag away (UNTAGGED); or leave it AS_IT_IS."""
    p = packet_at(packet)
    if vid == AS_IT_IS:
        return 0
    if vid == UNTAGGED:
        if p.tagged != 0:
            p.head = pop_vlan(p.head)
            p.tagged = 0
            shift(packet, -TAG_BYTES)
    elif p.tagged == 0:
        p.head = push_vlan(p.head, VLAN_RAW, bswap16(vid))
        p.tagged = 1
        shift(packet, TAG_BYTES)
    else:
        set_vlan_vid(p.head, vid)
    return 0

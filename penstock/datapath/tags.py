"""The VLAN tag of a packet: what else of a PACKET moves when the tag comes or goes."""

from __future__ import annotations

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, packet_at
from penstock.machine import bswap16, inlined, kernel, load8, load16
from penstock.packet.edit import TCI, pop_vlan, push_vlan, set_vlan_vid
from penstock.packet.parse import is_vlan
from penstock.packet.protocols import VLAN_RAW

TAG_BYTES = 4
VID_MASK = 0x0FFF
INNER_TCI = TCI + TAG_BYTES
# How a packet leaves: with the tag of this VLAN, or one of these forms.
UNTAGGED = 0
AS_IT_IS = -1
PRIORITY = -2  # the tag has VLAN 0, and is there only if it tells a priority
PRIORITY_RAW = 0xE0  # of a raw TCI


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
def push_tag(packet, tpid, vid):
    """Put a tag of this type (raw) and VLAN, without priority, before all others."""
    p = packet_at(packet)
    p.head = push_vlan(p.head, tpid, bswap16(vid))
    p.tagged = 1
    return shift(packet, TAG_BYTES)


@kernel
def pop_tag(packet):
    """Take the outermost tag away."""
    p = packet_at(packet)
    p.head = pop_vlan(p.head)
    p.tagged = 0
    return shift(packet, -TAG_BYTES)


@kernel
def set_form(packet, form):
    """Give the packet the tag of this VLAN, its priority kept, or one of the other forms."""
    p = packet_at(packet)
    if form == AS_IT_IS:
        return 0
    if p.tagged == 0:
        if form > 0:
            push_tag(packet, VLAN_RAW, form)
    elif form == UNTAGGED or (form == PRIORITY and load8(p.head + TCI) & PRIORITY_RAW == 0):
        pop_tag(packet)
    else:
        set_vlan_vid(p.head, max(form, 0))
    return 0


@inlined
def customer_vid(packet):
    """The VLAN of the tag behind the outermost one, the VLAN's in the bridge; 0 when there is none."""
    p = packet_at(packet)
    if p.tagged == 0 or p.head_len < INNER_TCI + TAG_BYTES or is_vlan(load16(p.head + INNER_TCI - 2)) == 0:
        return 0
    return bswap16(load16(p.head + INNER_TCI)) & VID_MASK

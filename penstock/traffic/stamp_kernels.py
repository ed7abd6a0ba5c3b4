"""Find the stamp of a generated frame. Pure functions of the memory they are pointed at."""

from __future__ import annotations

from penstock.machine import inlined, kernel, load8, load16
from penstock.packet.parse import is_vlan
from penstock.packet.protocols import (
    ETH_HEADER,
    IPV4_HEADER,
    IPV4_RAW,
    IPV6_HEADER,
    IPV6_RAW,
    TCP,
    TCP_HEADER,
    UDP,
    UDP_HEADER,
    VLAN_TAG,
)
from penstock.traffic.layout import SIGNATURE, SIGNATURE_MASK, STAMP_BYTES

TAGS_MAX = 2
LATER_FRAGMENT = 0xFF1F  # the fragment offset, as a raw word


@kernel
def network_header(head, length):
    """The offset of what follows the Ethernet header and up to two VLAN tags; 0 when the frame ends before that."""
    at = ETH_HEADER
    for _ in range(TAGS_MAX):
        if length < at:
            return 0
        if is_vlan(load16(head + at - 2)) == 0:
            return at
        at += VLAN_TAG
    if length < at:
        return 0
    return at


@kernel
def find_payload(head, length):
    """The offset of the UDP or TCP payload of an unfragmented IP packet; 0 when there is none within ``length``."""
    l3 = network_header(head, length)
    if l3 == 0:
        return 0
    kind = load16(head + l3 - 2)
    if kind == IPV4_RAW:
        if l3 + IPV4_HEADER > length or load16(head + l3 + 6) & LATER_FRAGMENT:
            return 0
        proto = load8(head + l3 + 9)
        l4 = l3 + (load8(head + l3) & 15) * 4
        if l4 < l3 + IPV4_HEADER:
            return 0
    elif kind == IPV6_RAW:
        if l3 + IPV6_HEADER > length:
            return 0
        proto = load8(head + l3 + 6)
        l4 = l3 + IPV6_HEADER
    else:
        return 0
    if proto == UDP:
        payload = l4 + UDP_HEADER
    elif proto == TCP and l4 + TCP_HEADER <= length:
        payload = l4 + (load8(head + l4 + 12) >> 4) * 4
    else:
        return 0
    if payload > length:
        return 0
    return payload


@inlined
def find_stamp(head, length):
    """The address of the stamp in the ``length`` bytes at ``head``; 0 when they carry none."""
    payload = find_payload(head, length)
    if payload == 0 or payload + STAMP_BYTES > length:
        return 0
    if load16(head + payload) & SIGNATURE_MASK != SIGNATURE:
        return 0
    return head + payload

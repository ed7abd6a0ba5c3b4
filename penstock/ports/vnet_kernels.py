"""The virtio-net header: how a frame's unfinished checksum and segment size travel between us and kernels or guests.

Layout (virtio 1.2 section 5.1.6, in the byte order of the machine, 10 bytes): flags u8, gso_type u8, hdr_len u16,
gso_size u16, csum_start u16, csum_offset u16. It precedes each frame of a TAP or a packet socket. All functions run on
the worker that holds the packet. What the other side wrote is checked, never believed: a header that contradicts its
frame is rejected whole, so that nothing behind this module computes with a position outside the frame's headers.
"""

from __future__ import annotations

from penstock.datapath.layout import (
    ETHERNET_HEADER,
    FLAG_CSUM_PARTIAL,
    FLAG_CSUM_VALID,
    FLAG_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    packet_at,
)
from penstock.machine import kernel, load8, load16, store8, store16

VNET_HEADER = 10
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_ECN = 0x80

TCP_HEADER, UDP_HEADER = 20, 8
TCP_CHECKSUM, UDP_CHECKSUM = 16, 6  # where their checksum is, from the transport header's start
TCP_SEGMENT_MIN = 8  # Linux's own lower bound: 48 bytes less 40 of options
UDP_SEGMENTS_MAX = 128  # Linux's own upper bound: what a small size could multiply a frame into

ACCEPTED, REJECTED = 0, 1


@kernel
def transport_header_length(packet, start, gso_type):
    """Bytes of the TCP or UDP header at ``start`` of a frame to be segmented; 0 when it does not fit or lies."""
    p = packet_at(packet)
    length = UDP_HEADER
    if gso_type == GSO_TCPV4 or gso_type == GSO_TCPV6:
        if start + TCP_HEADER > p.head_len:
            return 0
        length = (load8(p.head + start + 12) >> 4) * 4
        if length < TCP_HEADER:
            return 0
    if start + length > p.head_len:
        return 0
    return length


@kernel
def vnet_to_packet(header, packet):
    """Take the offload fields of ``packet`` (whose lengths are set) from the header: ACCEPTED or REJECTED."""
    p = packet_at(packet)
    flags = load8(header)
    kind = load8(header + 1)
    gso_type = kind & ~GSO_ECN
    p.flags = 0
    p.gso_type = GSO_NONE
    p.gso_size = 0
    p.csum_start = 0
    p.csum_offset = 0
    if flags & NEEDS_CSUM == 0:
        if gso_type != GSO_NONE:
            return REJECTED
        if flags & DATA_VALID:
            p.flags = FLAG_CSUM_VALID
        return ACCEPTED
    start = load16(header + 6)
    place = load16(header + 8)
    if start < ETHERNET_HEADER or start + place + 2 > p.head_len:
        return REJECTED
    p.csum_start = start
    p.csum_offset = place
    p.flags = FLAG_CSUM_PARTIAL
    if gso_type == GSO_NONE:
        return ACCEPTED
    size = load16(header + 4)
    if gso_type == GSO_TCPV4 or gso_type == GSO_TCPV6:
        if place != TCP_CHECKSUM or size < TCP_SEGMENT_MIN:
            return REJECTED
    elif gso_type == GSO_UDP_L4 or gso_type == GSO_UDP:
        if place != UDP_CHECKSUM or size == 0:
            return REJECTED
    else:
        return REJECTED
    transport = transport_header_length(packet, start, gso_type)
    if transport == 0:
        return REJECTED
    payload = p.head_len + p.tail_len - start - transport
    if gso_type == GSO_UDP_L4 and payload > size * UDP_SEGMENTS_MAX:
        return REJECTED
    if payload <= size:
        return ACCEPTED  # one segment: nothing to split
    p.gso_type = gso_type
    p.gso_size = size
    if kind & GSO_ECN and gso_type != GSO_UDP_L4 and gso_type != GSO_UDP:
        p.flags = FLAG_CSUM_PARTIAL | FLAG_ECN
    return ACCEPTED


@kernel
def packet_to_vnet(packet, header):
    """Write the 10 bytes of header that say what is left to do for ``packet``."""
    p = packet_at(packet)
    flags = 0
    kind = GSO_NONE
    headers = 0
    size = 0
    start = 0
    place = 0
    if p.flags & FLAG_CSUM_PARTIAL:
        flags = NEEDS_CSUM
        start = p.csum_start
        place = p.csum_offset
        if p.gso_type != GSO_NONE:
            kind = p.gso_type
            size = p.gso_size
            headers = start + transport_header_length(packet, start, kind)
            if p.flags & FLAG_ECN:
                kind |= GSO_ECN
    elif p.flags & FLAG_CSUM_VALID:
        flags = DATA_VALID
    store8(header, flags)
    store8(header + 1, kind)
    store16(header + 2, headers)
    store16(header + 4, size)
    store16(header + 6, start)
    store16(header + 8, place)
    return 0

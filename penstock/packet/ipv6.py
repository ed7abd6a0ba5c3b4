"""The walk over IPv6 extension headers (RFC 8200 section 4) that parsing, edits and segmentation share.

The result is one word: bits 0..15 offset of the upper-layer header from the IPv6 header; 16..23 its protocol; 24..25
the fragment bits of the flow key (1 a fragment, 3 a later one); 32..47 offset of the final destination address when a
routing header still has segments left (the pseudo header takes that address, section 8.1), else 0; 48..63 length of
the unfragmentable part; 26..31 zero. Reads only the headers and writes nothing.
"""

from __future__ import annotations

from penstock.machine import kernel, load8, load16
from penstock.packet.protocols import (
    AUTHENTICATION,
    DESTINATION,
    FRAGMENT,
    FRAGMENT_HEADER,
    HOP_BY_HOP,
    IPV6_HEADER,
    ROUTING,
)

MAX_EXTENSIONS = 8
MOBILE_ROUTE, SEGMENT_ROUTE = 2, 4
MORE_FRAGMENTS_RAW, FRAGMENT_OFFSET_RAW = 0x0100, 0xF8FF


@kernel
def final_destination(header, size):
    """Offset within a routing header at ``header`` of the final destination, or 0 when it has no segments left."""
    if size < 24 or load8(header + 3) == 0:
        return 0
    kind = load8(header + 2)
    if kind == SEGMENT_ROUTE:  # RFC 8754: the segment list is in reverse
        return 8
    if kind == 0 or kind == MOBILE_ROUTE:
        return size - 16
    return 0


@kernel
def upper_layer(l3, left):
    """Find the upper layer of the IPv6 packet at ``l3`` that has ``left`` bytes, at least the fixed 40.

    A header that is cut off, and a ninth one, end the walk: the protocol is then that extension header's own number.
    So it is with the fragment header of a later fragment, behind which no header can be told.
    """
    at = IPV6_HEADER
    proto = load8(l3 + 6)
    fragment = 0
    final = 0
    fixed = IPV6_HEADER
    for _ in range(MAX_EXTENSIONS):
        if proto != HOP_BY_HOP and proto != ROUTING and proto != DESTINATION:
            if proto != FRAGMENT and proto != AUTHENTICATION:
                break
        if at + 8 > left:
            break
        header = l3 + at
        size = (load8(header + 1) + 1) * 8
        if proto == AUTHENTICATION:
            size = (load8(header + 1) + 2) * 4
        if proto == FRAGMENT:
            size = FRAGMENT_HEADER
            if load16(header + 2) & FRAGMENT_OFFSET_RAW:
                fragment = 3
                break
            if load16(header + 2) & MORE_FRAGMENTS_RAW:
                fragment = 1
        if at + size > left:
            break
        if proto == ROUTING:
            where = final_destination(header, size)
            if where:
                final = at + where
            fixed = at + size
        if proto == HOP_BY_HOP:
            fixed = at + size
        proto = load8(header)
        at += size
    return at | proto << 16 | fragment << 24 | final << 32 | fixed << 48


@kernel
def next_header_place(l3, end):
    """Offset of the last next-header field in the first ``end`` bytes of the IPv6 packet at ``l3``: whole headers."""
    place = 6
    at = IPV6_HEADER
    while at < end:
        size = (load8(l3 + at + 1) + 1) * 8
        if load8(l3 + place) == AUTHENTICATION:
            size = (load8(l3 + at + 1) + 2) * 4
        place = at
        at += size
    return place

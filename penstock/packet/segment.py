"""Software segmentation, for ports that cannot: TCP, UDP (USO) and IP fragmentation of UDP (UFO).

One large frame in, many small ones out, without moving the payload: for segment ``i`` the kernel writes new header
bytes into a buffer of the caller and says which slice of the original payload follows them. Bytes in front of layer 3
(Ethernet, VLAN tags) are copied as they are. All checksums come out complete.

Use: fill the first block of a SEGMENTATION struct, call ``segment_count``, then ``segment_header`` for each segment,
in any order. The buffer must have ``room`` bytes. The frame must be Ethernet II and is not written to. The struct,
the frame and the buffers belong to one worker thread.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import (
    bswap16,
    copy,
    kernel,
    load8,
    load16,
    load16be,
    load32be,
    shr,
    store8,
    store16,
    store16be,
    store32be,
    view,
)
from penstock.packet.checksum import fold, ipv4_header_checksum, pseudo_ipv4, pseudo_ipv6, sum_parts
from penstock.packet.edit_ip import drop_first_only_options
from penstock.packet.ipv6 import next_header_place, upper_layer
from penstock.packet.protocols import (
    ETH_HEADER,
    FRAGMENT,
    FRAGMENT_HEADER,
    IPV4_HEADER,
    IPV6_HEADER,
    TCP,
    TCP_CHECKSUM,
    TCP_HEADER,
    UDP,
    UDP_CHECKSUM,
    UDP_HEADER,
)

GSO_TCPV4, GSO_UFO, GSO_TCPV6, GSO_UDP_L4 = 1, 3, 4, 5  # virtio-net's numbers

SEGMENTATION = np.dtype(
    [
        # Set by the caller: the frame in two parts, offsets of its headers as parse found them, what is asked.
        ("head", "i8"),
        ("tail", "i8"),
        ("head_len", "i8"),
        ("tail_len", "i8"),
        ("l3", "i8"),
        ("l4", "i8"),
        ("gso_type", "i8"),
        ("gso_size", "i8"),
        ("ident", "i8"),  # identification of IPv6 fragments, a different one for each frame
        # Set by segment_count.
        ("count", "i8"),
        ("room", "i8"),  # bytes of the longest header buffer
        ("step", "i8"),  # payload bytes of every segment but the last
        ("header_len", "i8"),  # bytes from the frame's start that every segment repeats
        ("payload_len", "i8"),  # bytes behind them
        ("first_copy", "i8"),  # payload bytes that the first segment takes into its buffer: UFO's UDP header
        ("ip6", "i8"),
        ("checksum", "i8"),  # UFO: of the whole datagram; else the sum of the pseudo header for no bytes
        # Set by segment_header: what follows the buffer.
        ("slice", "i8"),
        ("slice_len", "i8"),
        ("header_end", "i8"),  # bytes of the buffer that were filled
    ],
    align=True,
)

segmentation_at = view(SEGMENTATION)

FRAGMENTED_RAW = 0xFF3F
MORE_FRAGMENTS = 0x2000
FIN_PSH, CWR = 0x09, 0x80


@kernel
def locate_ipv4(c, l3, proto):
    """Whether the IPv4 header is whole, unfragmented and leads to ``proto`` at the given layer 4."""
    c.ip6 = 0
    if load8(l3) & 0xF0 != 0x40 or load8(l3 + 9) != proto or load16(l3 + 6) & FRAGMENTED_RAW:
        return 0
    return int(c.l4 - c.l3 == (load8(l3) & 15) * 4)


@kernel
def locate_ipv6(c, l3, proto):
    """Whether the IPv6 headers are whole, unfragmented and lead to ``proto`` at layer 4; 0, or where the walk led."""
    c.ip6 = 1
    if load8(l3) & 0xF0 != 0x60 or c.l4 - c.l3 < IPV6_HEADER:
        return 0
    upper = upper_layer(l3, c.l4 - c.l3)
    if upper & 0xFFFF != c.l4 - c.l3 or shr(upper, 16) & 255 != proto or shr(upper, 24) & 3:
        return 0
    return upper


@kernel
def segment_count(ctx):
    """Check the frame and plan its segments: how many, or 0 when headers and request do not fit together."""
    c = segmentation_at(ctx)
    c.count = 0
    c.first_copy = 0
    kind = c.gso_type
    ufo = int(kind == GSO_UFO)
    proto = UDP
    if kind == GSO_TCPV4 or kind == GSO_TCPV6:
        proto = TCP
    elif kind != GSO_UDP_L4 and not ufo:
        return 0
    l3 = c.head + c.l3
    l4 = c.head + c.l4
    if c.gso_size <= 0 or c.l3 < ETH_HEADER or c.l4 < c.l3 + IPV4_HEADER or c.l4 + UDP_HEADER > c.head_len:
        return 0
    six = int(load8(l3) & 0xF0 == 0x60)
    upper = 0
    if six and kind != GSO_TCPV4:
        upper = locate_ipv6(c, l3, proto)
    elif not six and kind != GSO_TCPV6:
        upper = locate_ipv4(c, l3, proto)
    if upper == 0:
        return 0
    step = c.gso_size
    extra = 0
    if proto == TCP:
        if c.l4 + TCP_HEADER > c.head_len:
            return 0
        c.header_len = c.l4 + (load8(l4 + 12) >> 4) * 4
        if c.header_len < c.l4 + TCP_HEADER:
            return 0
    elif ufo:
        step &= ~7
        c.header_len = c.l4
        if six:
            c.header_len = c.l3 + shr(upper, 48)
            extra = FRAGMENT_HEADER
        c.first_copy = c.l4 + UDP_HEADER - c.header_len
        if step < c.first_copy:
            return 0
    else:
        c.header_len = c.l4 + UDP_HEADER
    if c.header_len > c.head_len or c.header_len - c.l3 + extra + step > 0xFFFF:
        return 0
    c.step = step
    c.payload_len = c.head_len + c.tail_len - c.header_len
    in_head = c.head_len - c.header_len
    count = (c.payload_len + step - 1) // step
    if count == 0:
        count = 1
    copied = c.first_copy
    if in_head < c.payload_len and in_head % step > copied:
        copied = in_head % step
    c.room = c.header_len + extra + copied
    size = 0
    if ufo:
        size = c.head_len - c.l4 + c.tail_len
    if six:
        pseudo = pseudo_ipv6(l3, shr(upper, 32) & 0xFFFF, proto, size)
    else:
        pseudo = pseudo_ipv4(l3, proto, size)
    c.checksum = pseudo
    if ufo:
        c.checksum = datagram_checksum(ctx, l4, pseudo)
    c.count = count
    return count


@kernel
def datagram_checksum(ctx, l4, pseudo):
    """The UDP checksum of the whole frame's datagram; zero stays zero over IPv4 (there is none)."""
    c = segmentation_at(ctx)
    old = load16(l4 + UDP_CHECKSUM)
    if old == 0 and not c.ip6:
        return 0
    total = sum_parts(l4, c.head_len - c.l4, c.tail, c.tail_len)
    checksum = ~fold(total + pseudo + (~old & 0xFFFF)) & 0xFFFF
    if checksum == 0:
        checksum = 0xFFFF
    return checksum


@kernel
def finish_ipv4(ctx, i, l3, size):
    """Length, identification, fragment offset and checksum of segment ``i``'s IPv4 header at ``l3``."""
    c = segmentation_at(ctx)
    store16be(l3 + 2, size)
    if c.gso_type != GSO_UFO:
        store16be(l3 + 4, load16be(l3 + 4) + i)
    elif c.count > 1:
        more = 0
        if i + 1 < c.count:
            more = MORE_FRAGMENTS
        store16be(l3 + 6, (i * c.step) >> 3 | more)
        if i > 0:
            drop_first_only_options(l3, (load8(l3) & 15) * 4)
    store16(l3 + 10, ipv4_header_checksum(l3))
    return 0


@kernel
def add_fragment_header(ctx, i, l3, at):
    """Write the IPv6 fragment header of segment ``i`` at ``at``, the end of the unfragmentable part (RFC 8200, 4.5)."""
    c = segmentation_at(ctx)
    place = next_header_place(l3, at - l3)
    more = int(i + 1 < c.count)
    store8(at, load8(l3 + place))
    store8(at + 1, 0)
    store16be(at + 2, i * c.step | more)
    store32be(at + 4, c.ident)
    store8(l3 + place, FRAGMENT)
    return 0


@kernel
def finish_l4(ctx, i, buffer, size):
    """Sequence number, flags, length, checksum of segment ``i``'s TCP or UDP header; ``size`` counts from layer 4."""
    c = segmentation_at(ctx)
    l4 = buffer + c.l4
    place = l4 + UDP_CHECKSUM
    if c.gso_type == GSO_UDP_L4:
        store16be(l4 + 4, size)
        if load16(place) == 0 and not c.ip6:
            return 0
    else:
        place = l4 + TCP_CHECKSUM
        store32be(l4 + 4, load32be(l4 + 4) + i * c.step)
        flags = load8(l4 + 13)
        if i > 0:
            flags &= ~CWR
        if i + 1 < c.count:
            flags &= ~FIN_PSH
        store8(l4 + 13, flags)
    store16(place, 0)
    total = c.checksum + bswap16(size) + sum_parts(l4, c.header_end - c.l4, c.slice, c.slice_len)
    checksum = ~fold(total) & 0xFFFF
    if checksum == 0 and c.gso_type == GSO_UDP_L4:
        checksum = 0xFFFF
    store16(place, checksum)
    return 0


@kernel
def segment_header(ctx, i, buffer):
    """Write the first bytes of segment ``i`` at ``buffer``: how many; ``slice`` and ``slice_len`` tell what follows.

    The slice lies in the head or in the tail. Of a segment that straddles both, the head's part is copied too.
    """
    c = segmentation_at(ctx)
    ufo = c.gso_type == GSO_UFO
    begin = i * c.step
    size = c.payload_len - begin
    if size > c.step:
        size = c.step
    in_head = c.head_len - c.header_len
    copied = 0
    if i == 0:
        copied = c.first_copy
    if begin + copied < in_head and in_head < begin + size:
        copied = in_head - begin
    copy(buffer, c.head, c.header_len)
    end = buffer + c.header_len
    if ufo and c.ip6 and c.count > 1:
        add_fragment_header(ctx, i, buffer + c.l3, end)
        end += FRAGMENT_HEADER
    copy(end, c.head + c.header_len + begin, copied)
    if ufo and i == 0:
        store16(end + copied_checksum(ctx), c.checksum)
    header_end = end + copied - buffer
    begin += copied
    c.slice = c.head + c.header_len + begin
    if begin >= in_head:
        c.slice = c.tail + begin - in_head
    c.slice_len = size - copied
    c.header_end = header_end
    total = header_end + c.slice_len - c.l3
    if c.ip6:
        store16be(buffer + c.l3 + 4, total - IPV6_HEADER)
    else:
        finish_ipv4(ctx, i, buffer + c.l3, total)
    if not ufo:
        finish_l4(ctx, i, buffer, total - (c.l4 - c.l3))
    return header_end


@kernel
def copied_checksum(ctx):
    """Offset of the UDP checksum in the payload of a UFO frame."""
    c = segmentation_at(ctx)
    return c.l4 - c.header_len + UDP_CHECKSUM

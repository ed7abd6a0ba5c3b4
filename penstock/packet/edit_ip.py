"""Header edits in place, layers 3 and 4: addresses, TOS, TTL, ports, with every checksum mended.

``l3`` and ``l4`` are addresses (not offsets) of the headers that parse found; ``l4`` is 0 when there is no layer 4 (a
later fragment, a truncated one). Values are raw words. ``partial`` is 1 when the layer-4 checksum is still to be
finished and its field holds only the pseudo header's sum: then ports are not in it and addresses are. Mending keeps a
wrong checksum wrong, so that the receiver still sees the damage. Worker thread only.
"""

from __future__ import annotations

from penstock.machine import bswap16, kernel, load8, load16, load32, load64, shr, store8, store16, store32, store64
from penstock.machine.crc import crc32c_8, crc32c_64
from penstock.packet.checksum import fold, update16, update32, update_sum
from penstock.packet.ipv6 import upper_layer
from penstock.packet.protocols import (
    ICMPV6,
    ICMPV6_CHECKSUM,
    IPV4_HEADER,
    IPV6_HEADER,
    SCTP,
    SCTP_CHECKSUM,
    TCP,
    TCP_CHECKSUM,
    UDP,
    UDP_CHECKSUM,
)

FRAGMENT_RAW = 0xFF3F  # more-fragments bit and offset of the IPv4 header
OPTION_END, OPTION_NOP, OPTION_COPIED = 0, 1, 0x80


@kernel
def checksum_place(l4, proto):
    """Address of the layer-4 checksum that is a ones' complement sum over addresses too; 0 when there is none."""
    if l4 == 0:
        return 0
    if proto == TCP:
        return l4 + TCP_CHECKSUM
    if proto == UDP:
        return l4 + UDP_CHECKSUM
    if proto == ICMPV6:
        return l4 + ICMPV6_CHECKSUM
    return 0


@kernel
def mend(place, proto, old, new, partial):
    """Mend the layer-4 checksum at ``place`` for a covered word of up to 32 bits that changed.

    A UDP checksum of zero stays (there is none), and one that becomes zero is written as 0xffff (RFC 768).
    """
    checksum = load16(place)
    if partial:
        store16(place, update_sum(checksum, old, new))
        return 0
    if proto == UDP and checksum == 0:
        return 0
    checksum = update32(checksum, old, new)
    if proto == UDP and checksum == 0:
        checksum = 0xFFFF
    store16(place, checksum)
    return 0


@kernel
def set_ipv4_address(l3, l4, field, address, partial):
    """Set the raw IPv4 address at offset ``field`` (12 source, 16 destination)."""
    old = load32(l3 + field)
    store32(l3 + field, address)
    store16(l3 + 10, update32(load16(l3 + 10), old, address))
    proto = load8(l3 + 9)
    place = checksum_place(l4, proto)
    if place and proto != ICMPV6:
        mend(place, proto, old, address, partial)
    return 0


@kernel
def set_ipv4_src(l3, l4, address, partial):
    """Set the IPv4 source address."""
    return set_ipv4_address(l3, l4, 12, address, partial)


@kernel
def set_ipv4_dst(l3, l4, address, partial):
    """Set the IPv4 destination address."""
    return set_ipv4_address(l3, l4, 16, address, partial)


@kernel
def fold_words(first, second):
    """The sum of 16 bytes given as two raw words."""
    halves = (first & 0xFFFFFFFF) + shr(first, 32) + (second & 0xFFFFFFFF) + shr(second, 32)
    return fold(halves)


@kernel
def set_ipv6_address(at, l4, proto, first, second, partial):
    """Set the 16 bytes at ``at`` to two raw words and mend layer 4, whose protocol parse found to be ``proto``."""
    old = fold_words(load64(at), load64(at + 8))
    store64(at, first)
    store64(at + 8, second)
    place = checksum_place(l4, proto)
    if place:
        mend(place, proto, old, fold_words(first, second), partial)
    return 0


@kernel
def set_ipv6_src(l3, l4, proto, first, second, partial):
    """Set the IPv6 source address: ``first`` and ``second`` are its halves as raw words."""
    return set_ipv6_address(l3 + 8, l4, proto, first, second, partial)


@kernel
def set_ipv6_dst(l3, l4, proto, first, second, partial):
    """Set the IPv6 destination address.

    When a routing header still has segments left, the checksum covers the final destination there and stays.
    """
    if l4 and load8(l3 + 6) != proto and shr(upper_layer(l3, l4 - l3), 32) & 0xFFFF:
        l4 = 0
    return set_ipv6_address(l3 + 24, l4, proto, first, second, partial)


@kernel
def set_tos(l3, tos, mask):
    """Replace the bits of ``mask`` in the TOS byte (IPv4) or the traffic class (IPv6)."""
    old = load16(l3)
    if old & 0xF0 == 0x40:
        new = old & ~(mask << 8) | (tos & mask) << 8
        store16(l3 + 10, update16(load16(l3 + 10), old, new))
        store16(l3, new)
        return 0
    word = bswap16(old)
    store16(l3, bswap16(word & ~(mask << 4) | (tos & mask) << 4))
    return 0


@kernel
def set_dscp(l3, dscp):
    """Set the differentiated services code point (0..63)."""
    return set_tos(l3, dscp << 2, 0xFC)


@kernel
def set_ecn(l3, ecn):
    """Set the explicit congestion notification bits (0..3)."""
    return set_tos(l3, ecn, 0x03)


@kernel
def set_ttl(l3, ttl):
    """Set the time to live (IPv4) or hop limit (IPv6)."""
    if load8(l3) & 0xF0 == 0x40:
        old = load16(l3 + 8)
        new = old & 0xFF00 | ttl & 255
        store16(l3 + 10, update16(load16(l3 + 10), old, new))
        store16(l3 + 8, new)
    else:
        store8(l3 + 7, ttl)
    return 0


@kernel
def dec_ttl(l3):
    """Take one from the time to live or hop limit: 1, or 0 and no change when it would reach 0."""
    ttl = load8(l3 + 7)
    if load8(l3) & 0xF0 == 0x40:
        ttl = load8(l3 + 8)
    if ttl <= 1:
        return 0
    set_ttl(l3, ttl - 1)
    return 1


@kernel
def sctp_size(l3, l4):
    """Bytes of the SCTP packet at ``l4`` by its IP header, or 0 when the packet is only a fragment of it."""
    if load8(l3) & 0xF0 == 0x40:
        if load16(l3 + 6) & FRAGMENT_RAW:
            return 0
        return bswap16(load16(l3 + 2)) - (l4 - l3)
    if shr(upper_layer(l3, l4 - l3), 24) & 3:
        return 0
    return bswap16(load16(l3 + 4)) + IPV6_HEADER - (l4 - l3)


@kernel
def mend_sctp(l4, size, old, new):
    """Mend the CRC-32C of an SCTP packet of ``size`` bytes whose first four bytes changed.

    CRCs are linear: the change of the CRC is that of a message which holds the change of the bytes and zeros behind it.
    So the rest of the packet is not read.
    """
    crc = 0
    for shift in range(0, 32, 8):
        crc = crc32c_8(crc, shr(old ^ new, shift) & 255)
    left = size - 4
    while left >= 8:
        crc = crc32c_64(crc, 0)
        left -= 8
    while left > 0:
        crc = crc32c_8(crc, 0)
        left -= 1
    store32(l4 + SCTP_CHECKSUM, load32(l4 + SCTP_CHECKSUM) ^ crc)
    return 0


@kernel
def set_ports(l3, l4, proto, ports, mask, partial):
    """Replace the bits of ``mask`` in the raw word of both ports of a TCP, UDP or SCTP header.

    1, or 0 and no change for an SCTP fragment: its checksum covers bytes that are elsewhere.
    """
    old = load32(l4)
    new = (old & ~mask | ports & mask) & 0xFFFFFFFF
    if proto == SCTP:
        size = sctp_size(l3, l4)
        if size == 0:
            return 0
        if not partial:
            mend_sctp(l4, size, old, new)
    elif not partial:
        place = checksum_place(l4, proto)
        if place:
            mend(place, proto, old, new, 0)
    store32(l4, new)
    return 1


@kernel
def set_l4_src(l3, l4, proto, port, partial):
    """Set the raw source port; result as of ``set_ports``."""
    return set_ports(l3, l4, proto, port, 0xFFFF, partial)


@kernel
def set_l4_dst(l3, l4, proto, port, partial):
    """Set the raw destination port; result as of ``set_ports``."""
    return set_ports(l3, l4, proto, port << 16, 0xFFFF0000, partial)


@kernel
def drop_first_only_options(l3, header):
    """Overwrite the IPv4 options that only the first fragment carries (RFC 791: copied flag clear) by no-operations."""
    at = l3 + IPV4_HEADER
    end = l3 + header
    while at < end:
        option = load8(at)
        if option == OPTION_END:
            return 0
        size = 1
        if option != OPTION_NOP:
            if at + 1 >= end:
                return 0
            size = load8(at + 1)
            if size < 2 or at + size > end:
                return 0
            if not option & OPTION_COPIED:
                for place in range(at, at + size):
                    store8(place, OPTION_NOP)
        at += size
    return 0

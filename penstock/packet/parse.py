"""Parse the headers of a frame into a flow key.

``parse(head, length, key)`` reads nothing outside ``length`` bytes at ``head`` and believes no length field beyond
them: a header that is cut off or contradicts itself gives a key with fewer layers. It writes all PARSED_SIZE bytes
at ``key`` (``in_port`` as 0: the caller knows it) in words of 8 bytes, so that whoever reads the words next does not
wait for them.

The result is one word: bits 0..15 the offset of layer 3 (what ``eth_type`` tells of), 16..31 the offset of layer 4
(behind an MPLS stack: of the first byte below the last label), each 0 when that layer was not found; above them
PARSED_* bits. Worker thread only; ``head`` and ``key`` belong to the packet.
"""

from __future__ import annotations

from penstock.machine import bswap16, bswap32, fill, inlined, kernel, load8, load16, load32, load64, shr, store64
from penstock.packet.fields import PARSED_SIZE, key_offset
from penstock.packet.ipv6 import upper_layer
from penstock.packet.protocols import (
    ARP_PACKET,
    ARP_RAW,
    ETH_HEADER,
    ICMP,
    ICMP_HEADER,
    ICMPV6,
    ICMPV6_HEADER,
    IPV4_HEADER,
    IPV4_RAW,
    IPV6_HEADER,
    IPV6_RAW,
    LLC_SNAP_RAW,
    MAC_MASK,
    MPLS_ENTRY,
    MPLS_MULTICAST_RAW,
    MPLS_RAW,
    ND_MESSAGE,
    NOT_TYPED_RAW,
    OLD_SVLAN_RAW,
    RARP_RAW,
    SCTP,
    SCTP_HEADER,
    SNAP_HEADER,
    SVLAN_RAW,
    TAG_PRESENT_RAW,
    TCP,
    TCP_HEADER,
    UDP,
    UDP_HEADER,
    VLAN_RAW,
    VLAN_TAG,
)

PARSED_IPV4 = 1 << 32
PARSED_IPV6 = 1 << 33
PARSED_ARP = 1 << 34
PARSED_MPLS = 1 << 35
PARSED_TCP = 1 << 36
PARSED_UDP = 1 << 37
PARSED_SCTP = 1 << 38
PARSED_ICMP = 1 << 39
PARSED_ICMPV6 = 1 << 40
PARSED_FRAGMENT = 1 << 41  # first or later fragment of an IP packet
PARSED_TAG = 1 << 42  # at least one VLAN tag
PARSED_TWO_TAGS = 1 << 43

# Words of the key that are stored whole; each begins with the named field.
DST_WORD, SRC_WORD, IPV4_WORD = map(key_offset, ("eth_dst", "eth_src", "ip_src"))
IP_WORD, L4_WORD = map(key_offset, ("nw_ttl", "tcp_flags"))
IPV6_SRC, IPV6_DST, IPV6_LABEL = map(key_offset, ("ipv6_src", "ipv6_dst", "ipv6_label"))
ND_TARGET, ND_SLL, ND_TLL = map(key_offset, ("nd_target", "nd_sll", "nd_tll"))

ETHERNET_IPV4_ARP = 0x0406_0008_0100  # hardware type 1, protocol 0x0800, address sizes 6 and 4, as the low six bytes
NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT = 135, 136
MAX_ND_OPTIONS = 16
MAX_LABELS = 16


@inlined
def is_vlan(eth_type):
    """Whether a raw Ethernet type announces a VLAN tag."""
    return int(eth_type == VLAN_RAW or eth_type == SVLAN_RAW or eth_type == OLD_SVLAN_RAW)


@kernel
def parse_nd_options(message, size, key):
    """Neighbour discovery in the ``size`` bytes at ``message`` (RFC 4861): what comes before an option that is wrong,
    and nothing when one that the key has comes twice.
    """
    if size < ND_MESSAGE:
        return 0
    at = ND_MESSAGE
    sll = 0
    tll = 0
    seen = 0
    for _ in range(MAX_ND_OPTIONS):
        if at + 8 > size:
            break
        option = load64(message + at)
        length = shr(option, 8) & 255
        if length == 0 or at + length * 8 > size:
            break
        kind = option & 255
        if length == 1 and (kind == 1 or kind == 2):
            if seen & kind:
                return 0
            seen |= kind
            if kind == 1:
                sll = shr(option, 16)
            else:
                tll = shr(option, 16)
        at += length * 8
    store64(key + ND_TARGET, load64(message + 8))
    store64(key + ND_TARGET + 8, load64(message + 16))
    store64(key + ND_SLL, sll)
    store64(key + ND_TLL, tll)
    return 1


@inlined
def parse_l4(head, l4, size, proto, key, ip_word, l4_word):
    """Layer 4 in ``size`` bytes at offset ``l4``: stores the words of the key that hold it, returns its bits."""
    at = head + l4
    found = 0
    if proto == UDP:
        if size >= UDP_HEADER:
            ip_word |= load32(at) << 32
            found = l4 << 16 | PARSED_UDP
    elif proto == TCP:
        if size >= TCP_HEADER:
            flags = load16(at + 12)
            if flags & 0xF0 >= 0x50:
                ip_word |= load32(at) << 32
                store64(key + L4_WORD, l4_word | flags & 0xFF0F)
                found = l4 << 16 | PARSED_TCP
    elif proto == ICMP:
        if size >= ICMP_HEADER:
            ip_word |= load16(at) << 32
            found = l4 << 16 | PARSED_ICMP
    elif proto == SCTP:
        if size >= SCTP_HEADER:
            ip_word |= load32(at) << 32
            found = l4 << 16 | PARSED_SCTP
    store64(key + IP_WORD, ip_word)
    return found


@inlined
def parse_ipv4(head, l3, left, key, l4_word):
    """IPv4 (RFC 791) in ``left`` bytes at offset ``l3``: the bits of what was found, 0 when it is not IPv4."""
    at = head + l3
    if left < IPV4_HEADER:
        return 0
    first = load64(at)
    header = (first & 15) * 4
    total = bswap16(shr(first, 16))
    if first & 0xF0 != 0x40 or header < IPV4_HEADER or left < header or total < header:
        return 0
    if total < left:
        left = total
    second = load32(at + 8)
    store64(key + IPV4_WORD, load64(at + 12))
    ip_word = second & 0xFFFF | (first & 0xFF00) << 8
    fragment = shr(first, 48) & 0xFF3F
    found = l3 | PARSED_IPV4
    if fragment:
        found |= PARSED_FRAGMENT
        ip_word |= 1 << 24
        if fragment & 0xFF1F:
            store64(key + IP_WORD, ip_word | 2 << 24)
            return found
    proto = shr(second, 8) & 255
    return found | parse_l4(head, l3 + header, left - header, proto, key, ip_word, l4_word)


@kernel
def parse_ipv6(head, l3, left, key, l4_word):
    """IPv6 (RFC 8200) in ``left`` bytes at offset ``l3``: the bits of what was found, 0 when it is not IPv6."""
    at = head + l3
    if left < IPV6_HEADER:
        return 0
    first = bswap32(load32(at))
    if shr(first, 28) != 6:
        return 0
    total = IPV6_HEADER + bswap16(load16(at + 4))
    if total < left:
        left = total
    upper = upper_layer(at, left)
    header = upper & 0xFFFF
    proto = shr(upper, 16) & 255
    fragment = shr(upper, 24) & 3
    store64(key + IPV6_SRC, load64(at + 8))
    store64(key + IPV6_SRC + 8, load64(at + 16))
    store64(key + IPV6_DST, load64(at + 24))
    store64(key + IPV6_DST + 8, load64(at + 32))
    store64(key + IPV6_LABEL, bswap32(first & 0xFFFFF))
    found = l3 | PARSED_IPV6
    if fragment:
        found |= PARSED_FRAGMENT
    ip_word = load8(at + 7) | proto << 8 | (shr(first, 20) & 255) << 16 | fragment << 24
    l4 = l3 + header
    size = left - header
    if proto == ICMPV6 and size >= ICMPV6_HEADER:
        kind = load16(head + l4)
        if kind == NEIGHBOUR_SOLICIT or kind == NEIGHBOUR_ADVERT:
            parse_nd_options(head + l4, size, key)
        store64(key + IP_WORD, ip_word | kind << 32)
        return found | l4 << 16 | PARSED_ICMPV6
    if proto == ICMP:  # not defined over IPv6
        proto = -1
    return found | parse_l4(head, l4, size, proto, key, ip_word, l4_word)


@kernel
def parse_arp(head, l3, left, key):
    """ARP or RARP for IPv4 over Ethernet (RFC 826) in ``left`` bytes at offset ``l3``, 0 when it is another kind."""
    at = head + l3
    if left < ARP_PACKET or load64(at) & MAC_MASK != ETHERNET_IPV4_ARP:
        return 0
    store64(key + IPV4_WORD, load32(at + 14) | load32(at + 24) << 32)
    store64(key + IP_WORD, load16(at + 6) << 32)
    store64(key + ND_SLL, load64(at + 8) & MAC_MASK)
    store64(key + ND_TLL, load64(at + 18) & MAC_MASK)
    return l3 | PARSED_ARP


@kernel
def parse_mpls(head, l3, left, key, l4_word):
    """An MPLS label stack (RFC 3032) in ``left`` bytes at offset ``l3``: its first entry, and where it ends."""
    if left < MPLS_ENTRY:
        return 0
    store64(key + L4_WORD, l4_word | load32(head + l3) << 32)
    at = l3
    for _ in range(MAX_LABELS):
        if at - l3 + MPLS_ENTRY > left:
            break
        at += MPLS_ENTRY
        if load8(head + at - 2) & 1:
            return l3 | at << 16 | PARSED_MPLS
    return l3 | PARSED_MPLS


@inlined
def parse_link(head, length, key):
    """Fill the words of a flow key that hold Ethernet's addresses, type and outer tag, and nothing behind them.

    The result is as of ``parse``, but that layer 3 is where Ethernet's type tells of IPv4 or IPv6, and as much is there
    as the shortest header takes; no other layer is looked for.
    """
    if length < ETH_HEADER:
        store64(key + DST_WORD, 0)
        store64(key + SRC_WORD, 0)
        return 0
    second = load64(head + 6)
    destination = load64(head) & MAC_MASK
    source = second & MAC_MASK
    eth_type = shr(second, 48)
    l3 = ETH_HEADER
    found = 0
    if is_vlan(eth_type) and length >= l3 + VLAN_TAG:
        tag = load32(head + l3)
        eth_type = shr(tag, 16)
        source |= (tag & 0xFFFF | TAG_PRESENT_RAW) << 48
        found = PARSED_TAG
        l3 += VLAN_TAG
        if is_vlan(eth_type) and length >= l3 + VLAN_TAG:
            eth_type = load16(head + l3 + 2)
            l3 += VLAN_TAG
    store64(key + DST_WORD, destination | eth_type << 48)
    store64(key + SRC_WORD, source)
    left = length - l3
    if (eth_type == IPV4_RAW and left >= IPV4_HEADER) or (eth_type == IPV6_RAW and left >= IPV6_HEADER):
        found |= l3
    return found


@inlined
def parse(head, length, key):
    """Fill the flow key at ``key`` from the frame's ``length`` bytes at ``head``; see the module for the result."""
    fill(key, 0, PARSED_SIZE)
    if length < ETH_HEADER:
        return 0
    second = load64(head + 6)
    destination = load64(head) & MAC_MASK
    source = second & MAC_MASK
    eth_type = shr(second, 48)
    l3 = ETH_HEADER
    l4_word = 0
    found = 0
    if is_vlan(eth_type) and length >= l3 + VLAN_TAG:
        tag = load32(head + l3)
        eth_type = shr(tag, 16)
        source |= (tag & 0xFFFF | TAG_PRESENT_RAW) << 48
        found = PARSED_TAG
        l3 += VLAN_TAG
        if is_vlan(eth_type) and length >= l3 + VLAN_TAG:
            tag = load32(head + l3)
            eth_type = shr(tag, 16)
            l4_word = (tag & 0xFFFF | TAG_PRESENT_RAW) << 16
            store64(key + L4_WORD, l4_word)
            found = PARSED_TAG | PARSED_TWO_TAGS
            l3 += VLAN_TAG
    if eth_type & 255 < 6:  # an 802.3 length; raw, so the low byte is the more significant one
        eth_type = NOT_TYPED_RAW
        if length >= l3 + SNAP_HEADER:
            snap = load64(head + l3)
            if snap & MAC_MASK == LLC_SNAP_RAW and shr(snap, 48) & 255 >= 6:
                eth_type = shr(snap, 48)
                l3 += SNAP_HEADER
    store64(key + DST_WORD, destination | eth_type << 48)
    store64(key + SRC_WORD, source)
    left = length - l3
    if eth_type == IPV4_RAW:
        layers = parse_ipv4(head, l3, left, key, l4_word)
    elif eth_type == IPV6_RAW:
        layers = parse_ipv6(head, l3, left, key, l4_word)
    elif eth_type == ARP_RAW or eth_type == RARP_RAW:
        layers = parse_arp(head, l3, left, key)
    elif eth_type == MPLS_RAW or eth_type == MPLS_MULTICAST_RAW:
        layers = parse_mpls(head, l3, left, key, l4_word)
    else:
        layers = 0
    return found | layers

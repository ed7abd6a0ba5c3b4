"""Headers that follow the flow key: after a field was written to a packet's key, its packet is brought to it.

``has`` says whether a packet has the header at all: without it neither key nor packet may be written. Checksums are
mended, so a wrong one stays wrong. Offsets are those of RFC 826 (ARP), RFC 4861 (neighbour discovery), RFC 8200 (IPv6)
and RFC 9293 (TCP). By any worker, on packets of its own.
"""

from __future__ import annotations

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, packet_at
from penstock.datapath.pipeline.program import (
    SET_ARP_OP,
    SET_ARP_SHA,
    SET_ARP_SPA,
    SET_ARP_THA,
    SET_ARP_TPA,
    SET_ETH_DST,
    SET_ETH_SRC,
    SET_ICMP,
    SET_IP_DST,
    SET_IP_SRC,
    SET_IPV6_DST,
    SET_IPV6_LABEL,
    SET_IPV6_SRC,
    SET_L4_DST,
    SET_L4_SRC,
    SET_MPLS,
    SET_ND_SLL,
    SET_ND_TARGET,
    SET_ND_TLL,
    SET_NOTHING,
    SET_TCP_FLAGS,
    SET_TOS,
    SET_TTL,
    SET_VLAN,
)
from penstock.datapath.tags import TAG_BYTES, shift
from penstock.machine import (
    kernel,
    load8,
    load16,
    load32,
    load32be,
    load64,
    store16,
    store32,
    store32be,
    store64,
)
from penstock.packet.checksum import update16
from penstock.packet.edit import pop_vlan, push_vlan, set_eth_dst, set_eth_src, set_mpls, set_vlan_tci, store_mac
from penstock.packet.edit_ip import (
    fold_words,
    mend,
    set_ipv4_dst,
    set_ipv4_src,
    set_ipv6_dst,
    set_ipv6_src,
    set_ports,
    set_tos,
    set_ttl,
)
from penstock.packet.fields import key_offset
from penstock.packet.parse import NEIGHBOUR_ADVERT, NEIGHBOUR_SOLICIT
from penstock.packet.protocols import (
    ARP_RAW,
    ICMP,
    ICMPV6,
    ICMPV6_CHECKSUM,
    IPV4_RAW,
    IPV6_RAW,
    MAC_MASK,
    MPLS_MULTICAST_RAW,
    MPLS_RAW,
    ND_MESSAGE,
    RARP_RAW,
    SCTP,
    TAG_PRESENT_RAW,
    TCP,
    TCP_CHECKSUM,
    UDP,
    VLAN_RAW,
)

ETH_DST, ETH_TYPE, ETH_SRC, TCI = map(key_offset, ("eth_dst", "eth_type", "eth_src", "vlan_tci"))
IP_SRC, IP_DST, TTL, PROTO, TOS = map(key_offset, ("ip_src", "ip_dst", "nw_ttl", "nw_proto", "nw_tos"))
PORTS, TCP_FLAGS, MPLS = map(key_offset, ("tcp_src", "tcp_flags", "mpls_label"))
IPV6_SRC, IPV6_DST, IPV6_LABEL = map(key_offset, ("ipv6_src", "ipv6_dst", "ipv6_label"))
ND_TARGET, ND_SLL, ND_TLL = map(key_offset, ("nd_target", "nd_sll", "nd_tll"))
DATA_OFFSET_RAW = 0x00F0
SLL_OPTION, TLL_OPTION = 1, 2
OPTIONS_MAX = 16


@kernel
def is_mpls(eth_type):
    """Whether a raw Ethernet type is that of MPLS."""
    return int(eth_type == MPLS_RAW or eth_type == MPLS_MULTICAST_RAW)


@kernel
def has(packet, kind):
    """Whether a packet has the header that a SET_ kind writes."""
    p = packet_at(packet)
    if kind <= SET_VLAN:
        return 1
    key = p.key
    eth_type = load16(key + ETH_TYPE)
    if kind == SET_MPLS:
        return int(is_mpls(eth_type) == 1 and p.l3 != 0)
    if kind >= SET_ARP_OP and kind <= SET_ARP_THA:
        return int((eth_type == ARP_RAW or eth_type == RARP_RAW) and p.l3 != 0)
    v4 = int(eth_type == IPV4_RAW and p.l3 != 0)
    v6 = int(eth_type == IPV6_RAW and p.l3 != 0)
    if kind == SET_IP_SRC or kind == SET_IP_DST:
        return v4
    if kind == SET_TOS or kind == SET_TTL:
        return v4 | v6
    if kind == SET_IPV6_SRC or kind == SET_IPV6_DST or kind == SET_IPV6_LABEL:
        return v6
    if p.l4 == 0 or v4 | v6 == 0:
        return 0
    proto = load8(key + PROTO)
    if kind == SET_L4_SRC or kind == SET_L4_DST:
        return int(proto == TCP or proto == UDP or proto == SCTP)
    if kind == SET_TCP_FLAGS:
        return int(proto == TCP)
    if kind == SET_ICMP:
        return int((v4 == 1 and proto == ICMP) or (v6 == 1 and proto == ICMPV6))
    if v6 == 0 or proto != ICMPV6 or p.head_len < p.l4 + ND_MESSAGE:
        return 0
    message = load8(key + PORTS)
    if kind == SET_ND_SLL:
        return int(message == NEIGHBOUR_SOLICIT)
    if kind == SET_ND_TLL:
        return int(message == NEIGHBOUR_ADVERT)
    return int(message == NEIGHBOUR_SOLICIT or message == NEIGHBOUR_ADVERT)


@kernel
def is_partial(packet):
    """Whether the layer-4 checksum is still to be finished."""
    p = packet_at(packet)
    return int(p.flags & FLAG_CSUM_PARTIAL != 0 and p.csum_start == p.l4)


@kernel
def follow_vlan(packet):
    """The outer tag: changed, pushed or taken away."""
    p = packet_at(packet)
    tci = load16(p.key + TCI)
    if tci & TAG_PRESENT_RAW == 0:
        if p.tagged != 0:
            p.head = pop_vlan(p.head)
            p.tagged = 0
            shift(packet, -TAG_BYTES)
    elif p.tagged != 0:
        # The bit that says "tagged" in a key is another one on the wire, and stays as it is there.
        set_vlan_tci(p.head, tci, 0xFFFF & ~TAG_PRESENT_RAW)
    else:
        p.head = push_vlan(p.head, VLAN_RAW, tci & ~TAG_PRESENT_RAW)
        p.tagged = 1
        shift(packet, TAG_BYTES)
    return 0


@kernel
def follow_icmp(packet, l4):
    """ICMP type and code."""
    key = packet_at(packet).key
    old = load16(l4)
    new = load16(key + PORTS)
    if load8(key + PROTO) == ICMPV6:
        mend(l4 + ICMPV6_CHECKSUM, ICMPV6, old, new, is_partial(packet))
    else:
        store16(l4 + 2, update16(load16(l4 + 2), old, new))
    return store16(l4, new)


@kernel
def follow_nd_target(packet, l4):
    """The target address of a neighbour discovery message."""
    key = packet_at(packet).key
    old = fold_words(load64(l4 + 8), load64(l4 + 16))
    first = load64(key + ND_TARGET)
    second = load64(key + ND_TARGET + 8)
    mend(l4 + ICMPV6_CHECKSUM, ICMPV6, old, fold_words(first, second), is_partial(packet))
    store64(l4 + 8, first)
    return store64(l4 + 16, second)


@kernel
def follow_nd_option(packet, l4, option, mac):
    """The link-layer address in an option of a neighbour discovery message, if it has that option."""
    p = packet_at(packet)
    end = p.head + p.head_len
    at = l4 + ND_MESSAGE
    for _ in range(OPTIONS_MAX):
        if at + 8 > end or load8(at + 1) == 0:
            return 0
        if load8(at) == option:
            # The address begins two bytes into the option, at an even distance from the start of the checksum.
            partial = is_partial(packet)
            mend(l4 + ICMPV6_CHECKSUM, ICMPV6, load16(at + 2), mac & 0xFFFF, partial)
            mend(l4 + ICMPV6_CHECKSUM, ICMPV6, load32(at + 4), (mac & MAC_MASK) >> 16, partial)
            return store_mac(at + 2, mac)
        at += load8(at + 1) * 8
    return 0


@kernel
def follow_arp(packet, kind):
    """A field of ARP for IPv4 over Ethernet."""
    p = packet_at(packet)
    l3 = p.head + p.l3
    key = p.key
    if kind == SET_ARP_OP:
        store16(l3 + 6, load16(key + PORTS))
    elif kind == SET_ARP_SPA:
        store32(l3 + 14, load32(key + IP_SRC))
    elif kind == SET_ARP_TPA:
        store32(l3 + 24, load32(key + IP_DST))
    elif kind == SET_ARP_SHA:
        store_mac(l3 + 8, load64(key + ND_SLL))
    else:
        store_mac(l3 + 18, load64(key + ND_TLL))
    return 0


@kernel
def follow_l4(packet, kind):
    """A field of a layer-4 header."""
    p = packet_at(packet)
    key = p.key
    l4 = p.head + p.l4
    if kind == SET_L4_SRC or kind == SET_L4_DST:
        mask = 0xFFFF if kind == SET_L4_SRC else 0xFFFF0000
        proto = load8(key + PROTO)
        if set_ports(p.head + p.l3, l4, proto, load32(key + PORTS), mask, is_partial(packet)) == 0:
            store32(key + PORTS, load32(l4))  # a fragment of SCTP stays as it is
    elif kind == SET_TCP_FLAGS:
        old = load16(l4 + 12)
        new = old & DATA_OFFSET_RAW | load16(key + TCP_FLAGS) & ~DATA_OFFSET_RAW
        mend(l4 + TCP_CHECKSUM, TCP, old, new, 0) if is_partial(packet) == 0 else 0
        store16(l4 + 12, new)
    elif kind == SET_ICMP:
        follow_icmp(packet, l4)
    elif kind == SET_ND_TARGET:
        follow_nd_target(packet, l4)
    elif kind == SET_ND_SLL:
        follow_nd_option(packet, l4, SLL_OPTION, load64(key + ND_SLL) & MAC_MASK)
    else:
        follow_nd_option(packet, l4, TLL_OPTION, load64(key + ND_TLL) & MAC_MASK)
    return 0


@kernel
def follow_ip(packet, kind):
    """A field of an IP header."""
    p = packet_at(packet)
    key = p.key
    l3 = p.head + p.l3
    l4 = p.head + p.l4 if p.l4 != 0 else 0
    proto = load8(key + PROTO)
    if kind == SET_IP_SRC:
        set_ipv4_src(l3, l4, load32(key + IP_SRC), is_partial(packet))
    elif kind == SET_IP_DST:
        set_ipv4_dst(l3, l4, load32(key + IP_DST), is_partial(packet))
    elif kind == SET_TOS:
        set_tos(l3, load8(key + TOS), 0xFF)
    elif kind == SET_TTL:
        set_ttl(l3, load8(key + TTL))
    elif kind == SET_IPV6_SRC:
        set_ipv6_src(l3, l4, proto, load64(key + IPV6_SRC), load64(key + IPV6_SRC + 8), is_partial(packet))
    elif kind == SET_IPV6_DST:
        set_ipv6_dst(l3, l4, proto, load64(key + IPV6_DST), load64(key + IPV6_DST + 8), is_partial(packet))
    else:
        store32be(l3, load32be(l3) & 0xFFF00000 | load32be(key + IPV6_LABEL) & 0xFFFFF)
    return 0


@kernel
def follow(packet, kind):
    """Bring the packet to its key in what a SET_ kind names; ``has`` was asked before."""
    p = packet_at(packet)
    if kind == SET_NOTHING:
        return 0
    if kind == SET_ETH_DST:
        return set_eth_dst(p.head, load64(p.key + ETH_DST) & MAC_MASK)
    if kind == SET_ETH_SRC:
        return set_eth_src(p.head, load64(p.key + ETH_SRC) & MAC_MASK)
    if kind == SET_VLAN:
        return follow_vlan(packet)
    if kind == SET_MPLS:
        return set_mpls(p.head, p.l3, load32(p.key + MPLS), 0xFFFFFFFF)
    if kind >= SET_ARP_OP and kind <= SET_ARP_THA:
        return follow_arp(packet, kind)
    if kind <= SET_TTL or (kind >= SET_IPV6_SRC and kind <= SET_IPV6_LABEL):
        return follow_ip(packet, kind)
    return follow_l4(packet, kind)

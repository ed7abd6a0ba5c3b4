"""Puts a tunnel's header in front of a packet: a finished one is copied, and what differs by packet is filled in.

Outer Ethernet, IPv4 (RFC 791) or IPv6 (RFC 8200), then UDP with VXLAN (RFC 7348, its group policy and generic protocol
extensions) or Geneve (RFC 8926), or GRE (RFC 2890). The source port of UDP tells flows apart (RFC 7348 section 5).
Congestion notification is as Linux and Open vSwitch have it: copied outwards, CE as ECT(0) (RFC 3168 section 9.1).
"""

from __future__ import annotations

from penstock.datapath.fragments import frag_at
from penstock.datapath.layout import FRAG_BYTES, packet_at
from penstock.datapath.tunnel.layout import (
    CHECKSUM,
    GRE,
    GROUP_POLICY,
    HEADER,
    KEY_BY_FLOW,
    TOS_INHERIT,
    TTL_INHERIT,
    endpoint_at,
    tunnel_at,
)
from penstock.datapath.tunnel.tlv import tell_options
from penstock.machine import (
    bswap16,
    copy32,
    inlined,
    kernel,
    load8,
    load16,
    load64,
    mulhi_mix,
    shr,
    store8,
    store16,
    store16be,
    store32,
    store64,
)
from penstock.packet.checksum import fold, ipv4_header_checksum, join, pseudo_ipv4, pseudo_ipv6, sum_memory
from penstock.packet.fields import key_offset
from penstock.packet.parse import DST_WORD, IP_WORD, IPV4_WORD, IPV6_DST, IPV6_SRC, SRC_WORD
from penstock.packet.protocols import ETH_HEADER, MAC_MASK, UDP, UDP_CHECKSUM, UDP_HEADER

NW_TTL, NW_TOS, IP_FRAG = map(key_offset, ("nw_ttl", "nw_tos", "ip_frag"))
GBP_ID, GBP_FLAGS = map(key_offset, ("tun_gbp_id", "tun_gbp_flags"))
TUN_ID = key_offset("tun_id")
FLOW_WORDS = 0xFFFFFFFF0000FF00 - (1 << 64)  # of the word with TTL, protocol, TOS, fragment, ports: what tells flows
FRAGMENT_WORDS = 0xFF00
FIRST_SEED, SECOND_SEED = 0x2545F4914F6CDD1D, 0x1B873593CC9E2D51
DYNAMIC_RAW, DYNAMIC_MASK_RAW = 0x00C0, 0xFF3F  # source ports from 49152 on, in memory order
ECN, ECN_CE, ECN_ECT0 = 3, 3, 2
GBP_FLAG = 0x80  # in the first byte of VXLAN: a group policy follows
GBP_SHOWN = 0x48  # "do not learn" and "policy applied"
TTL_DEFAULT = 64
GRE_CHECKSUM = 4  # offset in the GRE header, when there is one


@inlined
def flow_hash(key):
    """A hash of the flow that a key belongs to, the same for all fragments of a packet: 63 bits."""
    words = load64(key + IP_WORD)
    first = load64(key + IPV4_WORD)
    if load8(key + IP_FRAG) != 0:
        words &= FRAGMENT_WORDS
    else:
        words &= FLOW_WORDS
    if first == 0:
        first = load64(key + DST_WORD) ^ load64(key + SRC_WORD)
        first ^= load64(key + IPV6_SRC) ^ load64(key + IPV6_SRC + 8)
        words ^= load64(key + IPV6_DST) ^ load64(key + IPV6_DST + 8)
    return mulhi_mix(first ^ FIRST_SEED, words ^ SECOND_SEED)


@inlined
def outer_tos(tunnel, key):
    """The TOS byte of the outer header: congestion bits from the inner one, the rest set or inherited."""
    t = tunnel_at(tunnel)
    inner = load8(key + NW_TOS)
    ecn = inner & ECN
    if ecn == ECN_CE:
        ecn = ECN_ECT0
    if t.flags & TOS_INHERIT != 0:
        return inner & ~ECN & 0xFF | ecn
    return t.tos | ecn


@inlined
def vni_word(key):
    """A ``tun_id`` as it stands in a key, as the four bytes of VXLAN and Geneve that hold a VNI."""
    return shr(key, 40)


@inlined
def gre_word(key):
    """The same, as the four bytes of GRE's key."""
    return shr(key, 32)


@kernel
def tail_sum(packet):
    """The ones' complement sum of a packet's tail."""
    p = packet_at(packet)
    if p.frags == 0:
        return sum_memory(p.tail, p.tail_len)
    total = 0
    left = p.tail_len
    done = 0
    piece = p.frags
    while left > 0:
        f = frag_at(piece)
        part = f.length if f.length < left else left
        total = join(total, done, sum_memory(f.address, part))
        done += part
        left -= part
        piece += FRAG_BYTES
    return total


@kernel
def sum_from(packet, start):
    """The ones' complement sum of a packet from an offset in its head to its end."""
    p = packet_at(packet)
    return join(sum_memory(p.head + start, p.head_len - start), p.head_len - start, tail_sum(packet))


@kernel
def fill_checksum(packet, l3, l4, kind):
    """Put in the checksum of an outer UDP or GRE header; the whole packet is covered."""
    p = packet_at(packet)
    if kind == GRE:
        at = p.head + l4 + GRE_CHECKSUM
        store32(at, 0)
        store16(at, ~sum_from(packet, l4) & 0xFFFF)
        return 0
    at = p.head + l4 + UDP_CHECKSUM
    size = p.head_len + p.tail_len - l4
    if load8(p.head + l3) & 0xF0 == 0x40:
        pseudo = pseudo_ipv4(p.head + l3, UDP, size)
    else:
        pseudo = pseudo_ipv6(p.head + l3, 0, UDP, size)
    store16(at, 0)
    checksum = ~fold(pseudo + sum_from(packet, l4)) & 0xFFFF
    store16(at, 0xFFFF if checksum == 0 else checksum)
    return 0


@inlined
def push_header(tunnel, endpoint, packet, key, tun_id, flow, told):
    """Encapsulate a packet whose flow key, as far as tunnels look at it, is at ``key``; ``flow`` is its hash, and
    ``told`` what is to be said of options that it begins with (0: it has none).

    The packet becomes one of the underlay: its own key gets the outer Ethernet addresses, which is all that NORMAL
    reads, and its layers' offsets are those of the outer headers. There is room in front of it.
    """
    e = endpoint_at(endpoint)
    t = tunnel_at(tunnel)
    p = packet_at(packet)
    length = e.length
    head = p.head - length
    header = endpoint + HEADER
    copy32(head, header)
    if length > 64:
        copy32(head + 32, header + 32)
    copy32(head + length - 32, header + length - 32)
    l3 = e.l3
    l4 = e.l4
    size = p.head_len + p.tail_len + length
    p.head = head
    p.head_len += length
    p.headroom -= length
    p.l3 = l3
    p.l4 = l4
    p.tagged = 0
    p.flags = 0
    p.whole = 0
    own = p.key
    # From the endpoint, not from the copy: a load of what was just stored in larger pieces waits.
    store64(own + DST_WORD, load64(header) & MAC_MASK | load16(header + ETH_HEADER - 2) << 48)
    store64(own + SRC_WORD, load64(header + 6) & MAC_MASK)
    tos = outer_tos(tunnel, key)
    flags = t.flags
    if e.six == 0:
        word = load8(header + l3) | tos << 8 | bswap16(size - l3) << 16
        store32(head + l3, word)
        store16(head + l3 + 10, ~fold(e.sum + word) & 0xFFFF)
    else:
        store16be(head + l3, 0x6000 | tos << 4)
        store16be(head + l3 + 4, size - l4)
    if flags & TTL_INHERIT != 0:
        inherit_ttl(head + l3, e.six, key)
    if t.kind != GRE:
        store16(head + l4, flow & DYNAMIC_MASK_RAW | DYNAMIC_RAW)
        store16(head + l4 + 4, bswap16(size - l4))
        if flags & KEY_BY_FLOW != 0:
            store32(head + e.key_at, vni_word(tun_id))
        if flags & GROUP_POLICY != 0:
            push_group_policy(head + l4 + UDP_HEADER, key)
        if told != 0:
            tell_options(head + l4 + UDP_HEADER, told)
    elif flags & KEY_BY_FLOW != 0:
        store32(head + e.key_at, gre_word(tun_id))
    if flags & CHECKSUM != 0 or (e.six != 0 and t.kind != GRE):
        fill_checksum(packet, l3, l4, t.kind)
    return 0


@kernel
def inherit_ttl(l3, six, key):
    """Take the time to live from the inner packet, if it has one."""
    ttl = load8(key + NW_TTL)
    if ttl == 0:
        ttl = TTL_DEFAULT
    if six != 0:
        store8(l3 + 7, ttl)
    else:
        store8(l3 + 8, ttl)
        store16(l3 + 10, ipv4_header_checksum(l3))
    return 0


@kernel
def push_group_policy(vxlan, key):
    """The group policy of VXLAN (draft-smith-vxlan-group-policy), when the packet has one."""
    group = load16(key + GBP_ID)
    shown = load8(key + GBP_FLAGS) & GBP_SHOWN
    if group != 0 or shown != 0:
        store8(vxlan, load8(vxlan) | GBP_FLAG)
        store8(vxlan + 1, shown)
        store16(vxlan + 2, group)
    return 0

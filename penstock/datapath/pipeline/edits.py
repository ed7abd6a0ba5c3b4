"""Operations that change a packet: its key and its bytes together. By any worker, on packets of its own."""

from __future__ import annotations

from penstock.datapath.layout import ETHERNET_HEADER, HEADER_MAX, packet_at
from penstock.datapath.pipeline.bits import read_bits, write_bits
from penstock.datapath.pipeline.follow import ETH_TYPE, MPLS, TTL, follow, has
from penstock.datapath.pipeline.program import (
    COPY_TTL_IN,
    COPY_TTL_OUT,
    DEC_MPLS_TTL,
    DEC_TTL,
    MOVE,
    POP_MPLS,
    POP_VLAN,
    PUSH_MPLS,
    PUSH_VLAN,
    SET,
    SET_MPLS_TTL,
    SET_TTL,
)
from penstock.datapath.pipeline.program import SET_MPLS as MPLS_HEADER
from penstock.datapath.tags import TAG_BYTES, shift
from penstock.machine import bswap32, entry, kernel, load8, load16, load32, load64, shr, store8, store32, store64
from penstock.packet.edit import TCI as TCI_PLACE
from penstock.packet.edit import pop_mpls, pop_vlan, push_mpls, push_vlan, set_mpls
from penstock.packet.edit_ip import set_ttl
from penstock.packet.fields import key_offset
from penstock.packet.parse import PARSED_TAG, is_vlan, parse
from penstock.packet.protocols import IPV4_HEADER, IPV4_RAW, IPV6_HEADER, IPV6_RAW, MPLS_ENTRY

EXPIRED, CANNOT = 1, 2
IN_PORT, ACTSET_OUTPUT, PKT_MARK = map(key_offset, ("in_port", "actset_output", "pkt_mark"))
BOS_RAW, TTL_RAW = 0x00010000, 0xFF000000
GROWTH_MAX = 40  # bytes that headers may grow by when the payload is elsewhere: copies have room for so many
DEFAULT_TTL = 64


@kernel
def parse_again(packet):
    """Fill the key's parsed part and the offsets anew, all that is not in the packet kept."""
    p = packet_at(packet)
    key = p.key
    ports = load64(key + IN_PORT)
    marks = load64(key + PKT_MARK)
    output = load32(key + ACTSET_OUTPUT)
    found = parse(p.head, p.head_len, key)
    store64(key + IN_PORT, ports)
    store64(key + PKT_MARK, marks)
    store32(key + ACTSET_OUTPUT, output)
    p.l3 = found & 0xFFFF
    p.l4 = shr(found, 16) & 0xFFFF
    p.tagged = 1 if found & PARSED_TAG != 0 else 0
    return 0


@kernel
def can_grow(packet, octets):
    """Whether a header may be pushed."""
    p = packet_at(packet)
    if p.headroom < octets + TAG_BYTES or p.head_len < ETHERNET_HEADER:
        return 0
    return int(p.tail_len == 0 or p.head_len + octets <= HEADER_MAX + GROWTH_MAX)


@kernel
def layer3(packet):
    """Offset behind the Ethernet header and all VLAN tags."""
    p = packet_at(packet)
    if p.l3 != 0:
        return p.l3
    at = ETHERNET_HEADER
    while p.head_len >= at + TAG_BYTES and is_vlan(load16(p.head + at - 2)) == 1:
        at += TAG_BYTES
    return at


@kernel
def set_words(packet, operation):
    """SET: masked words of the key, and the packet with them."""
    word = load64(operation)
    kind = shr(word, 32)
    if has(packet, kind) == 0:
        return CANNOT
    place = packet_at(packet).key + (shr(word, 16) & 0xFFFF)
    pairs = ((shr(word, 8) & 255) - 1) >> 1
    for i in range(pairs):
        value = load64(operation + 8 + i * 16)
        mask = load64(operation + 16 + i * 16)
        store64(place + i * 8, load64(place + i * 8) & ~mask | value & mask)
    follow(packet, kind)
    return 0


@kernel
def move_bits(packet, operation):
    """MOVE: bits of the key to other places of it, and the packet with them."""
    kind = shr(load64(operation), 16) & 0xFFFF
    if has(packet, kind) == 0:
        return CANNOT
    key = packet_at(packet).key
    source = load64(operation + 8)
    destination = load64(operation + 16)
    count = load64(operation + 24)
    high = count - 64 if count > 64 else 0
    first = read_bits(key, source, high) if high != 0 else 0
    second = read_bits(key, source + high, count - high)
    if high != 0:
        write_bits(key, destination, high, first)
    write_bits(key, destination + high, count - high, second)
    follow(packet, kind)
    return 0


@kernel
def push_tag(packet, tpid):
    """PUSH_VLAN: the new tag has the VLAN and priority of the outer one, if there is one."""
    p = packet_at(packet)
    if can_grow(packet, TAG_BYTES) == 0:
        return CANNOT
    tci = load16(p.head + TCI_PLACE) if p.tagged != 0 else 0
    p.head = push_vlan(p.head, tpid, tci)
    shift(packet, TAG_BYTES)
    return parse_again(packet)


@kernel
def pop_tag(packet):
    """POP_VLAN."""
    p = packet_at(packet)
    if p.tagged == 0:
        return CANNOT
    p.head = pop_vlan(p.head)
    shift(packet, -TAG_BYTES)
    return parse_again(packet)


@kernel
def ip_ttl(packet):
    """The TTL that an MPLS entry takes over; a usual one when the packet is not IP."""
    key = packet_at(packet).key
    eth_type = load16(key + ETH_TYPE)
    if eth_type == IPV4_RAW or eth_type == IPV6_RAW:
        return load8(key + TTL)
    return DEFAULT_TTL


@kernel
def push_label(packet, eth_type):
    """PUSH_MPLS: label, class and TTL are those of the outermost entry, else label 0 and the TTL of IP."""
    p = packet_at(packet)
    if can_grow(packet, MPLS_ENTRY) == 0:
        return CANNOT
    at = layer3(packet)
    if has(packet, MPLS_HEADER) == 1:
        entry = load32(p.head + at) & ~BOS_RAW
    else:
        entry = BOS_RAW | ip_ttl(packet) << 24
    p.head = push_mpls(p.head, at, eth_type, entry)
    shift(packet, MPLS_ENTRY)
    return parse_again(packet)


@kernel
def pop_label(packet, eth_type):
    """POP_MPLS."""
    p = packet_at(packet)
    if has(packet, MPLS_HEADER) == 0:
        return CANNOT
    p.head = pop_mpls(p.head, p.l3, eth_type)
    shift(packet, -MPLS_ENTRY)
    return parse_again(packet)


@kernel
def write_mpls_ttl(packet, ttl):
    """Set the TTL of the outermost entry in key and packet."""
    p = packet_at(packet)
    set_mpls(p.head, p.l3, ttl << 24, TTL_RAW)
    return store8(p.key + MPLS + 3, ttl)


@kernel
def write_ttl(packet, ttl):
    """Set the TTL of IP in key and packet."""
    p = packet_at(packet)
    set_ttl(p.head + p.l3, ttl)
    return store8(p.key + TTL, ttl)


@kernel
def decrement(packet):
    """DEC_TTL."""
    if has(packet, SET_TTL) == 0:
        return CANNOT
    ttl = load8(packet_at(packet).key + TTL)
    if ttl <= 1:
        return EXPIRED
    return write_ttl(packet, ttl - 1)


@kernel
def decrement_mpls(packet):
    """DEC_MPLS_TTL."""
    if has(packet, MPLS_HEADER) == 0:
        return CANNOT
    ttl = load8(packet_at(packet).key + MPLS + 3)
    if ttl <= 1:
        return EXPIRED
    return write_mpls_ttl(packet, ttl - 1)


@kernel
def copy_ttl(packet, inwards):
    """COPY_TTL_IN and COPY_TTL_OUT, between an MPLS entry and what is below it: another entry, or IP."""
    p = packet_at(packet)
    if has(packet, MPLS_HEADER) == 0:
        return CANNOT
    outer = p.head + p.l3
    inner = outer + MPLS_ENTRY
    left = p.head_len - p.l3 - MPLS_ENTRY
    if bswap32(load32(outer)) & 0x100 == 0:
        if left < MPLS_ENTRY:
            return CANNOT
        place = inner + 3
    else:
        if left < IPV4_HEADER:
            return CANNOT
        version = load8(inner) >> 4
        if version == 4:
            place = inner + 8
        elif version == 6 and left >= IPV6_HEADER:
            place = inner + 7
        else:
            return CANNOT
    if inwards == 0:
        return write_mpls_ttl(packet, load8(place))
    ttl = load8(outer + 3)
    if place == inner + 3:
        return store8(place, ttl)
    return set_ttl(inner, ttl)


@entry("int64(int64, int64, int64)")
def edit(worker, packet, operation):
    """Carry out one operation: 0, EXPIRED when a TTL ran out, or CANNOT when the packet has no such header."""
    word = load64(operation)
    code = word & 255
    a = shr(word, 16) & 0xFFFF
    if code == SET:
        return set_words(packet, operation)
    if code == MOVE:
        return move_bits(packet, operation)
    if code == PUSH_VLAN:
        return push_tag(packet, a)
    if code == POP_VLAN:
        return pop_tag(packet)
    if code == PUSH_MPLS:
        return push_label(packet, a)
    if code == POP_MPLS:
        return pop_label(packet, a)
    if code == DEC_TTL:
        return decrement(packet)
    if code == DEC_MPLS_TTL:
        return decrement_mpls(packet)
    if code == SET_MPLS_TTL:
        if has(packet, MPLS_HEADER) == 0:
            return CANNOT
        return write_mpls_ttl(packet, a)
    if code == COPY_TTL_OUT:
        return copy_ttl(packet, 0)
    if code == COPY_TTL_IN:
        return copy_ttl(packet, 1)
    return CANNOT

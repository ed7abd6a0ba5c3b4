"""Takes a tunnel's header off a packet that came to an address of this host; what it said goes into the flow key.

What is no tunnel packet is left to the host: other protocols, fragments, packets to other addresses. A tunnel packet
with an error is dropped and counted, never handed to the host (RFC 7348 section 4: flags; RFC 8926 section 3.5:
options; RFC 6040 section 4.2: congestion).
"""

from __future__ import annotations

from penstock.datapath.clones import drop
from penstock.datapath.drops import (
    TUNNEL_CHECKSUM,
    TUNNEL_CONGESTED,
    TUNNEL_HEADER,
    TUNNEL_UNKNOWN,
)
from penstock.datapath.layout import (
    ETHERNET_HEADER,
    FLAG_CSUM_PARTIAL,
    FLAG_CSUM_VALID,
    PORT_BYTES,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.tunnel.arrivals import find_arrival_again, is_local4, is_local6, service_of
from penstock.datapath.tunnel.formats import (
    GENEVE_HEADER,
    GRE_HAS_CHECKSUM,
    geneve_length,
    gre_key,
    gre_length,
    vxlan_length,
)
from penstock.datapath.tunnel.layout import (
    BY_VLAN,
    GENEVE,
    GRE,
    GROUP_POLICY,
    SERVICES,
    VALID,
    VLAN_SHIFT,
    VXLAN,
    arrivals_at,
    tunnel_at,
)
from penstock.datapath.tunnel.push import ECN, ECN_CE, GBP_FLAG, GBP_FLAGS, GBP_ID, GBP_SHOWN, TUN_ID, sum_from
from penstock.datapath.tunnel.tlv import map_of, read_options
from penstock.machine import (
    bswap16,
    bswap64,
    fill,
    inlined,
    kernel,
    load8,
    load16,
    load32,
    load64,
    shr,
    store8,
    store16,
    store64,
)
from penstock.packet.checksum import fold, pseudo_ipv4, pseudo_ipv6
from penstock.packet.edit_ip import set_ecn
from penstock.packet.fields import TUNNEL_AT, TUNNEL_SIZE, key_offset
from penstock.packet.parse import is_vlan
from penstock.packet.protocols import IPV4_HEADER, IPV4_RAW, IPV6_HEADER, IPV6_RAW, UDP, UDP_CHECKSUM, UDP_HEADER

TUN_SRC, TUN_IPV6_SRC, TUN_FLAGS = map(key_offset, ("tun_src", "tun_ipv6_src", "tun_flags"))
GRE_PROTOCOL = 47
FRAGMENT_RAW = 0xFF3F
GENEVE_OAM = 0x80
TUN_OAM = 1 << 8  # bit 0 of tun_flags, in memory order
NOT_OURS, DROPPED = 0, -1


@kernel
def trim(packet, size):
    """Cut what lies behind ``size`` bytes: padding. What is in pieces stays as it is."""
    p = packet_at(packet)
    extra = p.head_len + p.tail_len - size
    if extra > 0 and p.frags == 0:
        if extra <= p.tail_len:
            p.tail_len -= extra
        else:
            p.head_len -= extra - p.tail_len
            p.tail_len = 0
    return 0


@kernel
def outer_checksum_ok(packet, l3, l4, six, size):
    """Whether the checksum of an outer UDP header, which is there, is right or was seen to be."""
    p = packet_at(packet)
    if p.flags & (FLAG_CSUM_VALID | FLAG_CSUM_PARTIAL) != 0 or p.gso_type != 0:
        return 1
    if six == 0:
        pseudo = pseudo_ipv4(p.head + l3, UDP, size)
    else:
        pseudo = pseudo_ipv6(p.head + l3, 0, UDP, size)
    return int(fold(pseudo + sum_from(packet, l4)) == 0xFFFF)


@kernel
def mark_congestion(packet):
    """Set CE in the inner IP header: 1, or 0 when its transport knows nothing of that."""
    p = packet_at(packet)
    l3 = ETHERNET_HEADER
    while p.head_len >= l3 + 4 and is_vlan(load16(p.head + l3 - 2)) == 1:
        l3 += 4
    if p.head_len < l3:
        return 0
    kind = load16(p.head + l3 - 2)
    at = p.head + l3
    version = load8(at) >> 4
    if kind == IPV4_RAW and version == 4 and p.head_len >= l3 + IPV4_HEADER:
        ecn = load8(at + 1) & ECN
    elif kind == IPV6_RAW and version == 6 and p.head_len >= l3 + IPV6_HEADER:
        ecn = load8(at + 1) >> 4 & ECN
    else:
        return 0
    if ecn == 0:
        return 0
    set_ecn(at, ECN_CE)
    return 1


@inlined
def show_tunnel(key, at, kind, l3, six, tun_id):
    """Put what the tunnel header said into the flow key."""
    fill(key + TUNNEL_AT, 0, TUNNEL_SIZE)
    store64(key + TUN_ID, bswap64(tun_id))
    if six == 0:
        store64(key + TUN_SRC, load64(l3 + 12))
    else:
        for i in range(4):
            store64(key + TUN_IPV6_SRC + i * 8, load64(l3 + 8 + i * 8))
    if kind == VXLAN and load8(at) & GBP_FLAG != 0:
        store16(key + GBP_ID, load16(at + 2))
        store8(key + GBP_FLAGS, load8(at + 1) & GBP_SHOWN)
    if kind == GENEVE and load8(at + 1) & GENEVE_OAM != 0:
        store16(key + TUN_FLAGS, TUN_OAM)
    return 0


@inlined
def strip(packet, octets):
    """Take ``octets`` off the front of a packet, whose offload fields then say what they did of the rest."""
    p = packet_at(packet)
    p.head += octets
    p.head_len -= octets
    p.headroom += octets
    p.flags &= ~FLAG_CSUM_VALID
    if p.flags & FLAG_CSUM_PARTIAL != 0:
        if p.csum_start >= octets + ETHERNET_HEADER:
            p.csum_start -= octets
        else:
            p.flags &= ~FLAG_CSUM_PARTIAL  # the outer checksum, which is gone
    return 0


@inlined
def decapsulate(worker, arrivals, number, packet):
    """Unpack a packet that leaves by port ``number`` for this host, if it came by a tunnel.

    The number of the tunnel port, NOT_OURS when it is for the host to take, or DROPPED.
    """
    a = arrivals_at(arrivals)
    p = packet_at(packet)
    start = p.l3
    if start == 0:
        return NOT_OURS
    l3 = p.head + start
    six = 0
    if load8(l3) & 0xF0 == 0x40:
        if load16(l3 + 6) & FRAGMENT_RAW != 0 or is_local4(arrivals, number, load32(l3 + 16)) == 0:
            return NOT_OURS
        proto = load8(l3 + 9)
        l4 = start + (load8(l3) & 15) * 4
        size = start + bswap16(load16(l3 + 2))
        if l4 < start + IPV4_HEADER or p.head_len < l4 or size < l4:
            return NOT_OURS
        tos = load8(l3 + 1)
    elif load8(l3) & 0xF0 == 0x60:
        if p.head_len < start + IPV6_HEADER or is_local6(arrivals, number, l3 + 24) == 0:
            return NOT_OURS
        six = 1
        proto = load8(l3 + 6)
        l4 = start + IPV6_HEADER
        size = l4 + bswap16(load16(l3 + 4))
        tos = load8(l3 + 1) >> 4
    else:
        return NOT_OURS
    at = p.head + l4
    if proto == UDP and p.head_len >= l4 + UDP_HEADER:
        service = service_of(arrivals, load16(at + 2))
    elif proto == GRE_PROTOCOL:
        service = a.gre
    else:
        return NOT_OURS
    if service < 0:
        return NOT_OURS
    kind = shr(load64(arrivals + SERVICES + service * 8), 32)
    total = p.head_len + p.tail_len
    if kind != GRE and p.gso_type == 0 and size <= total:
        # Like Linux, believe UDP's length when it is the shorter one.
        length = bswap16(load16(at + 4))
        size = l4 + length if UDP_HEADER <= length <= size - l4 else total + 1
    if size > total and p.gso_type == 0:
        drop(worker, number, TUNNEL_HEADER)
        return DROPPED
    limit = p.head_len if p.head_len < size else size
    if kind == GRE:
        header = l4
        length = gre_length(at, limit - header)
        key = gre_key(at) if length != 0 else 0
    else:
        header = l4 + UDP_HEADER
        at += UDP_HEADER
        if kind == VXLAN:
            length = vxlan_length(at, limit - header)
        else:
            length = geneve_length(at, limit - header)
        key = shr(bswap64(load64(at)), 8) & 0xFFFFFF if length != 0 else 0
    octets = header + length
    if length == 0 or (p.gso_type != 0 and p.csum_start < octets + ETHERNET_HEADER):
        drop(worker, number, TUNNEL_HEADER)
        return DROPPED
    if p.gso_type == 0:
        trim(packet, size)
    if kind != GRE:
        if load16(p.head + l4 + UDP_CHECKSUM) != 0 and outer_checksum_ok(packet, start, l4, six, size - l4) == 0:
            drop(worker, number, TUNNEL_CHECKSUM)
            return DROPPED
    elif load8(at) & GRE_HAS_CHECKSUM != 0 and p.gso_type == 0 and sum_from(packet, l4) != 0xFFFF:
        drop(worker, number, TUNNEL_CHECKSUM)
        return DROPPED
    found = find_arrival_again(worker, arrivals, service, key, l3, six)
    if found & VALID == 0:
        drop(worker, number, TUNNEL_UNKNOWN)
        return DROPPED
    target = found & 0xFFFF
    t = tunnel_at(port_at(worker_at(worker).ports + target * PORT_BYTES).tunnel)
    if kind == VXLAN and load8(at) & GBP_FLAG != 0 and t.flags & GROUP_POLICY == 0:
        drop(worker, number, TUNNEL_HEADER)
        return DROPPED
    show_tunnel(p.key, at, kind, l3, six, key)
    if kind == GENEVE and length > GENEVE_HEADER:
        tlvs = map_of(worker, worker_at(worker).ports + target * PORT_BYTES)
        if read_options(tlvs, at + GENEVE_HEADER, length - GENEVE_HEADER, p.key) == 0:
            drop(worker, number, TUNNEL_HEADER)
            return DROPPED
    strip(packet, octets)
    p.remote = 0
    if t.flags & BY_VLAN != 0:
        p.vid = shr(found, VLAN_SHIFT) & 0xFFF
    if tos & ECN == ECN_CE and mark_congestion(packet) == 0:
        drop(worker, target, TUNNEL_CONGESTED)
        return DROPPED
    return target

"""Choices by a hash of the flow: a link's number (MULTIPATH) and a live port (BUNDLE).

Open vSwitch's ovs-actions(7), "multipath" and "bundle": the same fields and algorithms, with hashes of our own.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at
from penstock.datapath.pipeline.bits import write_bits
from penstock.datapath.pipeline.follow import follow
from penstock.datapath.pipeline.groups import port_is_live
from penstock.datapath.pipeline.layout import exec_at
from penstock.datapath.pipeline.outputs import output, settle
from penstock.datapath.pipeline.program import (
    HASH_ETH_SRC,
    HASH_IP_DST,
    HASH_IP_SRC,
    HASH_SYMMETRIC_L4,
    LINK_HIGHEST_RANDOM_WEIGHT,
    LINK_MODULO,
    LINK_THRESHOLD,
    MEMBER_ACTIVE_BACKUP,
    PORT_ANY,
)
from penstock.machine import hash64, kernel, load16, load32, load64, shr
from penstock.machine.crc import crc32c_64
from penstock.packet.fields import key_offset

ETH_DST, ETH_SRC, IP_SRC, IP_DST = map(key_offset, ("eth_dst", "eth_src", "ip_src", "ip_dst"))
L4_SRC, L4_DST = key_offset("tcp_src"), key_offset("tcp_dst")
VLAN, PROTO, TYPE = key_offset("vlan_tci"), key_offset("nw_proto"), key_offset("eth_type")
IPV6_SRC, IPV6_DST = key_offset("ipv6_src"), key_offset("ipv6_dst")
MAC = 0xFFFFFFFFFFFF
PORTS_AT = 6  # words before the ports of a BUNDLE


@kernel
def hash_fields(key, fields, basis):
    """A 32-bit hash of what HASH_ names; the symmetric ones are the same in both directions of a connection."""
    if fields == HASH_ETH_SRC:
        return crc32c_64(basis, load64(key + ETH_SRC) & MAC)
    if fields == HASH_IP_SRC:
        return crc32c_64(crc32c_64(basis, load32(key + IP_SRC)), load64(key + IPV6_SRC) ^ load64(key + IPV6_SRC + 8))
    if fields == HASH_IP_DST:
        return crc32c_64(crc32c_64(basis, load32(key + IP_DST)), load64(key + IPV6_DST) ^ load64(key + IPV6_DST + 8))
    value = crc32c_64(basis, load32(key + IP_SRC) ^ load32(key + IP_DST))
    value = crc32c_64(value, load64(key + IPV6_SRC) ^ load64(key + IPV6_DST))
    value = crc32c_64(value, load64(key + IPV6_SRC + 8) ^ load64(key + IPV6_DST + 8))
    value = crc32c_64(value, load16(key + L4_SRC) ^ load16(key + L4_DST) | load64(key + PROTO) << 56)
    if fields == HASH_SYMMETRIC_L4:
        value = crc32c_64(value, load64(key + ETH_SRC) & MAC ^ load64(key + ETH_DST) & MAC)
        value = crc32c_64(value, load16(key + VLAN) | load16(key + TYPE) << 16)
    return value


@kernel
def choose_link(value, links, algorithm):
    """The number of a link, below ``links``."""
    value = hash64(value)
    if algorithm == LINK_MODULO:
        return shr(value, 1) % links
    if algorithm == LINK_THRESHOLD:
        return shr(shr(value, 31) * links, 32)  # a hash has 63 bits
    best = 0
    highest = -1
    if algorithm == LINK_HIGHEST_RANDOM_WEIGHT:
        for link in range(links):
            own = shr(hash64(value ^ link), 32)
            if own > highest:
                highest = own
                best = link
        return best
    # Iterative: hashes until one is below the number of links, by the power of two above it.
    mask = 1
    while mask < links:
        mask <<= 1
    for _ in range(64):
        best = value & mask - 1
        if best < links:
            return best
        value = hash64(value + 1)
    return 0


@kernel
def put(x, kind, start, bits, value):
    """Write a number to a field of the packet."""
    packet = exec_at(x).packet
    write_bits(packet_at(packet).key, start, bits, value)
    return follow(packet, kind)


@kernel
def run_multipath(x, operation, kind, links):
    """MULTIPATH."""
    value = hash_fields(packet_at(exec_at(x).packet).key, load64(operation + 8), load64(operation + 16))
    link = choose_link(value, links, load64(operation + 24))
    return put(x, kind, load64(operation + 32), load64(operation + 40), link)


@kernel
def choose_member(worker, x, operation):
    """The OpenFlow port that a BUNDLE chooses; PORT_ANY when none is live."""
    e = exec_at(x)
    count = (shr(load64(operation), 8) & 255) - PORTS_AT
    value = hash_fields(packet_at(e.packet).key, load64(operation + 8), load64(operation + 16))
    best = PORT_ANY
    highest = -1
    for i in range(count):
        port = load64(operation + (PORTS_AT + i) * 8)
        if port_is_live(worker, e.pipeline, port) == 0:
            continue
        if load64(operation + 24) == MEMBER_ACTIVE_BACKUP:
            return port
        own = shr(hash64(value ^ port << 32), 32)
        if own > highest:
            highest = own
            best = port
    return best


@kernel
def run_bundle(worker, x, operation, kind, is_written):
    """BUNDLE."""
    port = choose_member(worker, x, operation)
    if is_written != 0:
        settle(worker, x)
        return put(x, kind, load64(operation + 32), load64(operation + 40), port & 0xFFFF)
    if port == PORT_ANY:
        return 0
    return output(worker, x, port)

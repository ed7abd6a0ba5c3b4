"""A slow parser, written from the standards: what a frame's flow key should hold, as numbers by field name.

IEEE 802.3 and 802.1Q, RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 9260 (SCTP), 792 and 4443 (ICMP),
4861 (neighbour discovery), 3032 (MPLS), 1042 (SNAP).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from penstock.packet.fields import BY_NAME, KEY_SIZE

VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
EXTENSIONS = {0: "hop-by-hop", 43: "routing", 60: "destination", 44: "fragment", 51: "authentication"}
SMALLEST = {6: 20, 17: 8, 132: 12, 1: 8, 58: 4}
NAMES = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}


@dataclass
class Parsed:
    """Fields by name, offsets of the layers (0: absent) and the names of what was found."""

    fields: dict[str, int] = field(default_factory=dict)
    l3: int = 0
    l4: int = 0
    found: set[str] = field(default_factory=set)

    def key(self) -> bytes:
        """The flow key that holds these fields and nothing else."""
        key = bytearray(KEY_SIZE)
        for name, value in self.fields.items():
            row = BY_NAME[name]
            old = int.from_bytes(key[row.offset : row.offset + row.size], "big")
            key[row.offset : row.offset + row.size] = (old | value << row.shift).to_bytes(row.size, "big")
        return bytes(key)


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def parse(frame: bytes) -> Parsed:
    """Parse the first bytes of a frame."""
    result = Parsed()
    if len(frame) < 14:
        return result
    fields = result.fields
    fields["eth_dst"], fields["eth_src"] = number(frame[:6]), number(frame[6:12])
    eth_type, rest = number(frame[12:14]), frame[14:]
    for name in ("vlan_tci", "inner_vlan_tci"):
        if eth_type in VLAN_TYPES and len(rest) >= 4:
            fields[name] = number(rest[:2]) | 0x1000
            eth_type, rest = number(rest[2:4]), rest[4:]
            result.found.add("two tags" if "tag" in result.found else "tag")
    if eth_type < 0x600:
        eth_type = 0x05FF
        if rest[:6] == bytes.fromhex("aaaa03000000") and len(rest) >= 8 and number(rest[6:8]) >= 0x600:
            eth_type, rest = number(rest[6:8]), rest[8:]
    fields["eth_type"] = eth_type
    layer = {0x0800: ipv4, 0x86DD: ipv6, 0x0806: arp, 0x8035: arp, 0x8847: mpls, 0x8848: mpls}.get(eth_type)
    if layer:
        layer(result, len(frame) - len(rest), rest)
    return result


def parse_link(frame: bytes) -> Parsed:
    """Only layer 2: addresses, the outer tag, and where Ethernet's type says that IP begins, if a header fits there."""
    result = Parsed()
    if len(frame) < 14:
        return result
    at = 12
    tags = 0
    while tags < 2 and number(frame[at : at + 2]) in VLAN_TYPES and len(frame) >= at + 6:
        at, tags = at + 4, tags + 1
    result.fields = {"eth_dst": number(frame[:6]), "eth_src": number(frame[6:12])}
    result.fields["eth_type"] = number(frame[at : at + 2])
    if tags:
        result.fields["vlan_tci"] = number(frame[14:16]) | 0x1000
        result.found.add("tag")
    if len(frame) - at - 2 >= {0x0800: 20, 0x86DD: 40}.get(result.fields["eth_type"], len(frame)):
        result.l3 = at + 2
    return result


def arp(result: Parsed, l3: int, data: bytes) -> None:
    if len(data) < 28 or data[:6] != bytes.fromhex("000108000604"):
        return
    _, _, _, _, op, sha, spa, tha, tpa = struct.unpack("!HHBBH6s4s6s4s", data[:28])
    result.l3 = l3
    result.found.add("arp")
    result.fields.update(arp_op=op, arp_sha=number(sha), arp_spa=number(spa), arp_tha=number(tha), arp_tpa=number(tpa))


def mpls(result: Parsed, l3: int, data: bytes) -> None:
    if len(data) < 4:
        return
    entry = number(data[:4])
    result.l3 = l3
    result.found.add("mpls")
    result.fields.update(mpls_label=entry >> 12, mpls_tc=entry >> 9 & 7, mpls_bos=entry >> 8 & 1, mpls_ttl=entry & 255)
    for depth in range(min(16, len(data) // 4)):
        if number(data[4 * depth : 4 * depth + 4]) >> 8 & 1:
            result.l4 = l3 + 4 * depth + 4
            return


def ipv4(result: Parsed, l3: int, data: bytes) -> None:
    if len(data) < 20 or data[0] >> 4 != 4:
        return
    header, total = (data[0] & 15) * 4, number(data[2:4])
    if header < 20 or header > len(data) or total < header:
        return
    data = data[:total]
    flags = number(data[6:8])
    fragment = 3 if flags & 0x1FFF else 1 if flags & 0x2000 else 0
    result.l3 = l3
    result.found.add("ipv4")
    result.fields.update(
        ip_src=number(data[12:16]),
        ip_dst=number(data[16:20]),
        nw_ttl=data[8],
        nw_proto=data[9],
        ip_frag=fragment,
    )
    set_tos(result, data[1])
    if fragment:
        result.found.add("fragment")
    if fragment != 3 and data[9] != 58:
        l4(result, l3 + header, data[header:], data[9])


def set_tos(result: Parsed, tos: int) -> None:
    result.fields.update(ip_dscp=tos >> 2, nw_ecn=tos & 3)


@dataclass
class Walk:
    """Where the IPv6 extension headers lead."""

    offset: int = 40
    proto: int = 0
    fragment: int = 0
    final: int = 0  # offset of the final destination in a routing header with segments left
    fixed: int = 40  # length of the unfragmentable part
    place: int = 6  # offset of the last next-header field of the unfragmentable part


def walk_ipv6(data: bytes) -> Walk:
    walk = Walk(proto=data[6])
    last = 6
    for _ in range(8):
        if walk.proto not in EXTENSIONS or len(data) < walk.offset + 8:
            return walk
        header = data[walk.offset :]
        kind = EXTENSIONS[walk.proto]
        size = {"fragment": 8, "authentication": (header[1] + 2) * 4}.get(kind, (header[1] + 1) * 8)
        if kind == "fragment":
            if number(header[2:4]) >> 3:
                walk.fragment = 3
                return walk
            if header[3] & 1:
                walk.fragment = 1
        if size > len(header):
            return walk
        if kind == "routing" and header[3] and size >= 24 and header[2] in (0, 2, 4):
            walk.final = walk.offset + (8 if header[2] == 4 else size - 16)
        last, walk.proto = walk.offset, header[0]
        walk.offset += size
        if kind in ("hop-by-hop", "routing"):
            walk.fixed, walk.place = walk.offset, last
    return walk


def ipv6(result: Parsed, l3: int, data: bytes) -> None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return
    data = data[: 40 + number(data[4:6])]
    first = number(data[:4])
    walk = walk_ipv6(data)
    result.l3 = l3
    result.found.add("ipv6")
    result.fields.update(
        ipv6_src=number(data[8:24]),
        ipv6_dst=number(data[24:40]),
        ipv6_label=first & 0xFFFFF,
        nw_ttl=data[7],
        nw_proto=walk.proto,
        ip_frag=walk.fragment,
    )
    set_tos(result, first >> 20 & 255)
    if walk.fragment:
        result.found.add("fragment")
    if walk.fragment != 3 and walk.proto != 1:
        l4(result, l3 + walk.offset, data[walk.offset :], walk.proto)


def l4(result: Parsed, offset: int, data: bytes, proto: int) -> None:
    if proto not in SMALLEST or len(data) < SMALLEST[proto]:
        return
    name = NAMES[proto]
    if name == "tcp" and data[12] >> 4 < 5:
        return
    result.l4 = offset
    result.found.add(name)
    if name in ("icmp", "icmpv6"):
        result.fields.update({f"{name}_type": data[0], f"{name}_code": data[1]})
        if name == "icmpv6" and data[0] in (135, 136) and data[1] == 0:
            neighbour_discovery(result, data)
        return
    result.fields.update({f"{name}_src": number(data[:2]), f"{name}_dst": number(data[2:4])})
    if name == "tcp":
        result.fields["tcp_flags"] = number(data[12:14]) & 0xFFF


def neighbour_discovery(result: Parsed, data: bytes) -> None:
    if len(data) < 24:
        return
    options, found = data[24:], []
    for _ in range(16):
        if len(options) < 8 or options[1] == 0 or options[1] * 8 > len(options):
            break
        if options[1] == 1 and options[0] in (1, 2):
            found.append((options[0], number(options[2:8])))
        options = options[options[1] * 8 :]
    if len(dict(found)) != len(found):
        return
    addresses = dict(found)
    result.fields.update(nd_target=number(data[8:24]), nd_sll=addresses.get(1, 0), nd_tll=addresses.get(2, 0))

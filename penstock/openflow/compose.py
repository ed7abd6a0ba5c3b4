"""A frame that a match describes: what it says nothing of has plain values, checksums are right."""

from __future__ import annotations

import struct
from collections.abc import Callable

from penstock.openflow.match import VID_PRESENT
from penstock.packet.fields import BY_NAME

IPV4, ARP, RARP, IPV6, MPLS = 0x0800, 0x0806, 0x8035, 0x86DD, (0x8847, 0x8848)
ICMP, TCP, UDP, SCTP, ICMP6 = 1, 6, 17, 132, 58
FRAME_MIN = 60
TYPE_MIN = 0x600
ND = (135, 136)
_SYN_SCTP = bytes(8)


def _reader(key: bytes) -> Callable[[str], int]:
    return lambda name: BY_NAME[name].read(key)


def compose(key: bytes) -> bytes:
    """The frame for a flow key."""
    value = _reader(key)
    kind = value("eth_type")
    tci = value("vlan_tci")
    out = value("eth_dst").to_bytes(6, "big") + value("eth_src").to_bytes(6, "big")
    if tci & VID_PRESENT:
        out += struct.pack("!HH", 0x8100, tci & ~VID_PRESENT & 0xFFFF)
    payload = _payload(kind, key)
    out += struct.pack("!H", kind if kind >= TYPE_MIN else len(payload)) + payload
    return out.ljust(FRAME_MIN, b"\0")


def _payload(kind: int, key: bytes) -> bytes:
    value = _reader(key)
    if kind == IPV4:
        return _ipv4(key)
    if kind == IPV6:
        return _ipv6(key)
    if kind in (ARP, RARP):
        return struct.pack(
            "!HHBBH6s4s6s4s", 1, IPV4, 6, 4, value("arp_op"), value("arp_sha").to_bytes(6, "big"),
            value("arp_spa").to_bytes(4, "big"), value("arp_tha").to_bytes(6, "big"),
            value("arp_tpa").to_bytes(4, "big"),
        )  # fmt: skip
    if kind in MPLS:
        entry = value("mpls_label") << 12 | value("mpls_tc") << 9 | 1 << 8 | (value("mpls_ttl") or 64)
        return struct.pack("!I", entry) + bytes(40)
    return bytes(46)


def _sum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _layer_4(key: bytes, proto: int, pseudo: bytes) -> bytes:
    """The header above IP, with its checksum over ``pseudo`` (addresses) too."""
    value = _reader(key)

    def with_sum(data: bytes, at: int) -> bytes:
        tail = struct.pack("!II", len(data), proto) if len(pseudo) > 8 else struct.pack("!HH", proto, len(data))
        total = _sum(pseudo + tail + data)
        return data[:at] + struct.pack("!H", total or (0xFFFF if proto == UDP else 0)) + data[at + 2 :]

    if proto == TCP:
        flags = value("tcp_flags")
        return with_sum(
            struct.pack("!HHIIHHHH", value("tcp_src"), value("tcp_dst"), 0, 0, 5 << 12 | flags, 65535, 0, 0), 16
        )
    if proto == UDP:
        return with_sum(struct.pack("!HHHH", value("udp_src"), value("udp_dst"), 8, 0), 6)
    if proto == SCTP:
        return struct.pack("!HH", value("sctp_src"), value("sctp_dst")) + _SYN_SCTP
    if proto == ICMP and len(pseudo) == 8:
        data = struct.pack("!BBHHH", value("icmp_type"), value("icmp_code"), 0, 1, 1)
        return data[:2] + struct.pack("!H", _sum(data)) + data[4:]
    if proto == ICMP6 and len(pseudo) > 8:
        return with_sum(_icmp6(key), 2)
    return bytes(8)


def _icmp6(key: bytes) -> bytes:
    value = _reader(key)
    kind = value("icmpv6_type")
    data = struct.pack("!BBHI", kind, value("icmpv6_code"), 0, 0)
    if kind in ND:
        option = (1, value("nd_sll")) if kind == ND[0] else (2, value("nd_tll"))
        data += value("nd_target").to_bytes(16, "big")
        if option[1]:
            data += struct.pack("!BB", option[0], 1) + option[1].to_bytes(6, "big")
    return data


def _ipv4(key: bytes) -> bytes:
    value = _reader(key)
    proto, fragment = value("nw_proto"), value("ip_frag")
    addresses = value("ip_src").to_bytes(4, "big") + value("ip_dst").to_bytes(4, "big")
    above = bytes(8) if fragment & 2 else _layer_4(key, proto, addresses)
    offset = {0: 0, 1: 0x2000}.get(fragment, 0x0010)
    head = struct.pack(
        "!BBHHHBBH8s", 0x45, value("nw_tos") & 0xFC | value("nw_ecn"), 20 + len(above), 0, offset,
        value("nw_ttl") or 64, proto, 0, addresses,
    )  # fmt: skip
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + above


def _ipv6(key: bytes) -> bytes:
    value = _reader(key)
    proto = value("nw_proto") or 59
    addresses = value("ipv6_src").to_bytes(16, "big") + value("ipv6_dst").to_bytes(16, "big")
    above = _layer_4(key, proto, addresses) if proto != 59 else b""
    word = 6 << 28 | (value("nw_tos") & 0xFC | value("nw_ecn")) << 20 | value("ipv6_label")
    return struct.pack("!IHBB", word, len(above), proto, value("nw_ttl") or 64) + addresses + above

"""The fixed match of OpenFlow 1.0 (1.0.2, section 5.2.3): 40 bytes with wildcard bits.

Fields whose packet cannot have them are ignored, as the specification says. ``encode_10`` leaves out what 1.0 has no
place for.
"""

from __future__ import annotations

import struct

from penstock.openflow.match import VID_PRESENT, Builder, Match, fields, port_16, port_32, wire_of
from penstock.openflow.wire import MATCH_BAD_LEN, ErrorType, OpenFlowError

MATCH_10 = struct.Struct("!IH6s6sHBxHBBxxIIHH")
IN_PORT, DL_VLAN, DL_SRC, DL_DST, DL_TYPE, NW_PROTO, TP_SRC, TP_DST = (1 << bit for bit in range(8))
NW_SRC_SHIFT, NW_DST_SHIFT = 8, 14
DL_VLAN_PCP, NW_TOS = 1 << 20, 1 << 21
ALL = (1 << 22) - 1
VLAN_NONE = 0xFFFF
IPV4, ARP, RARP = 0x0800, 0x0806, 0x8035
ICMP = 1
PORTS = {6: ("tcp_src", "tcp_dst"), 17: ("udp_src", "udp_dst"), 132: ("sctp_src", "sctp_dst")}
FULL = 32


def _prefix(wildcards: int, shift: int) -> int:
    """The mask of an address from the number of its low bits that are wildcards."""
    return 0xFFFFFFFF << min(wildcards >> shift & 63, FULL) & 0xFFFFFFFF


def decode_10(data: bytes | memoryview, at: int) -> Match:
    """The match at an offset. Raises OpenFlowError when the message ends before it does."""
    if len(data) < at + MATCH_10.size:
        raise OpenFlowError(ErrorType.BAD_MATCH, MATCH_BAD_LEN, "the message ends before its match")
    wild, in_port, src, dst, vlan, pcp, kind, tos, proto, nw_src, nw_dst, tp_src, tp_dst = MATCH_10.unpack_from(
        data, at
    )
    made = Builder()
    if not wild & IN_PORT:
        made.add("in_port", port_32(in_port))
    if not wild & DL_SRC:
        made.add("eth_src", int.from_bytes(src, "big"))
    if not wild & DL_DST:
        made.add("eth_dst", int.from_bytes(dst, "big"))
    if not wild & DL_VLAN and vlan == VLAN_NONE:
        made.add("vlan_tci", 0, 0xFFFF)
    else:
        if not wild & DL_VLAN:
            made.add("vlan_tci", vlan & 0xFFF | VID_PRESENT, 0x1FFF)
        if not wild & DL_VLAN_PCP:
            made.add("vlan_tci", pcp << 13 | VID_PRESENT, 0xF000)
    if wild & DL_TYPE:
        return made.match()
    made.add("eth_type", kind)
    if kind in (IPV4, ARP, RARP):
        for name, value, shift in (("ip_src", nw_src, NW_SRC_SHIFT), ("ip_dst", nw_dst, NW_DST_SHIFT)):
            if mask := _prefix(wild, shift):
                made.add(name, value, mask)
    if kind in (ARP, RARP) and not wild & NW_PROTO:
        made.add("arp_op", proto)
    if kind != IPV4:
        return made.match()
    if not wild & NW_TOS:
        made.add("nw_tos", tos, 0xFC)
    if wild & NW_PROTO:
        return made.match()
    made.add("nw_proto", proto)
    names = PORTS.get(proto) or (("icmp_type", "icmp_code") if proto == ICMP else ())
    for name, value, bit in zip(names, (tp_src, tp_dst), (TP_SRC, TP_DST), strict=False):
        if not wild & bit:
            made.add(name, value)
    return made.match()


def encode_10(match: Match) -> bytes:
    """The match's 40 bytes."""
    wild = ALL & ~(63 << NW_SRC_SHIFT) & ~(63 << NW_DST_SHIFT) | FULL << NW_SRC_SHIFT | FULL << NW_DST_SHIFT
    values: dict[str, int] = {}
    for row, value, mask in fields(match):
        name = row.name
        values[name] = value
        if name in ("ip_src", "arp_spa", "ip_dst", "arp_tpa"):
            shift = NW_SRC_SHIFT if name in ("ip_src", "arp_spa") else NW_DST_SHIFT
            low = (mask & -mask).bit_length() - 1
            if mask == 0xFFFFFFFF << low & 0xFFFFFFFF:
                wild = wild & ~(63 << shift) | low << shift
            continue
        wire = wire_of(row)
        exact = wire is not None and mask == (1 << wire.bits) - 1
        if exact and name in _BITS:
            wild &= ~_BITS[name]
    vid = values.get("vlan_vid", 0)
    vlan = VLAN_NONE if not wild & DL_VLAN and not vid & VID_PRESENT else vid & 0xFFF
    ports = [next((values[name] for name in names if name in values), 0) for names in (_SOURCES, _DESTINATIONS)]
    return MATCH_10.pack(
        wild,
        port_16(values.get("in_port", 0)),
        values.get("eth_src", 0).to_bytes(6, "big"),
        values.get("eth_dst", 0).to_bytes(6, "big"),
        vlan,
        values.get("vlan_pcp", 0),
        values.get("eth_type", 0),
        values.get("ip_dscp", 0) << 2,
        values.get("nw_proto", values.get("arp_op", 0) & 0xFF),
        values.get("ip_src", values.get("arp_spa", 0)),
        values.get("ip_dst", values.get("arp_tpa", 0)),
        *ports,
    )


_SOURCES, _DESTINATIONS = (
    ("tcp_src", "udp_src", "sctp_src", "icmp_type"),
    ("tcp_dst", "udp_dst", "sctp_dst", "icmp_code"),
)
_BITS = {
    "in_port": IN_PORT, "eth_src": DL_SRC, "eth_dst": DL_DST, "vlan_vid": DL_VLAN, "vlan_pcp": DL_VLAN_PCP,
    "eth_type": DL_TYPE, "ip_dscp": NW_TOS, "nw_proto": NW_PROTO, "arp_op": NW_PROTO,
} | dict.fromkeys(_SOURCES, TP_SRC) | dict.fromkeys(_DESTINATIONS, TP_DST)  # fmt: skip

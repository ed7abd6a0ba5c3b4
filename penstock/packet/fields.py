"""The field table: every match field declared once, one row each, and everything that follows from a row.

A row gives the field's names (those of ovs-fields(7)), its OXM and NXM numbers, width, place in the flow key,
prerequisites, maskability, text form and meaning. The key layout, the text of ``penstock trace`` and the page
docs/fields.md all come from these rows; a new field is one more row.

Key layout: KEY_SIZE bytes, 8-byte aligned, every field in network byte order. The first PARSED_SIZE bytes are what a
received packet has (port, L2, IPv4 and L4, IPv6, neighbour discovery, in the order in which packets tell it apart);
behind them lies what a pipeline keeps beside a packet (``kept`` rows: metadata, tunnel, registers), all zero when a
packet enters it. A row with ``at`` shares the bytes of the field it names (prerequisites keep such fields apart, or
they are bits of one word); a row without it takes the next free bytes; ``word=True`` starts a new 8-byte word. Bytes
that no row claims are always zero. Rows are immutable; any thread or process may read them. A key belongs to the
worker that parsed the packet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from penstock.packet.text import FORMATS

NXM_OF, NXM_NX, OXM_OF, OXM_PKT_REG = 0x0000, 0x0001, 0x8000, 0x8001


@dataclass(frozen=True)
class Field:
    """One match field. ``oxm`` and ``nxm`` are (class, field number) or None; ``offset`` and ``size`` are in bytes.

    The value is the ``size`` bytes at ``offset`` of the key, as a big-endian number, shifted right by ``shift`` and cut
    to ``bits``.
    """

    name: str
    bits: int
    text: str
    needs: str
    oxm: tuple[int, int] | None
    nxm: tuple[int, int] | None
    maskable: bool
    doc: str
    alias: str = ""
    at: str = ""
    shift: int = 0
    word: bool = False
    kept: bool = False
    variable: bool = False  # in TLVs of messages it has as many bytes as its value needs
    offset: int = -1
    size: int = 0

    def read(self, key: bytes) -> int:
        """The field's value in ``key``."""
        raw = int.from_bytes(key[self.offset : self.offset + self.size], "big")
        return raw >> self.shift & ((1 << self.bits) - 1)

    def format(self, value: int) -> str:
        """``value`` in the field's text form, as ovs-ofctl writes it."""
        return FORMATS[self.text](value)


def _of(number: int) -> tuple[int, int]:
    return NXM_OF, number


def _nx(number: int) -> tuple[int, int]:
    return NXM_NX, number


def _oxm(number: int) -> tuple[int, int]:
    return OXM_OF, number


REGISTERS = 16
TUNNEL_OPTIONS = 8  # tun_metadata fields: Open vSwitch has 64, of up to 124 bytes each

# fmt: off
_ROWS = (
    Field("in_port", 32, "decimal", "", _oxm(0), _of(0), False, "Number of the port the packet came in by"),
    Field("in_phy_port", 32, "decimal", "", _oxm(1), None, False, "Number of the physical port below in_port"),
    Field("eth_dst", 48, "mac", "", _oxm(3), _of(1), True, "Ethernet destination address", "dl_dst", word=True),
    Field("eth_type", 16, "hex16", "", _oxm(5), _of(3), False,
          "Type of what follows the VLAN tags; 0x05ff for an 802.3 frame without SNAP", "dl_type"),
    Field("eth_src", 48, "mac", "", _oxm(4), _of(2), True, "Ethernet source address", "dl_src"),
    Field("vlan_tci", 16, "hex16", "", None, _of(4), True, "Outer VLAN tag; bit 0x1000 says that there is one"),
    Field("vlan_vid", 12, "decimal", "vlan", _oxm(6), None, True, "VLAN of the outer tag", at="vlan_tci"),
    Field("vlan_pcp", 3, "decimal", "vlan", _oxm(7), None, False, "Priority of the outer tag", at="vlan_tci", shift=13),
    Field("ip_src", 32, "ipv4", "ip", _oxm(11), _of(7), True, "IPv4 source address", "nw_src"),
    Field("arp_spa", 32, "ipv4", "arp", _oxm(22), _of(16), True, "ARP sender IPv4 address", at="ip_src"),
    Field("ip_dst", 32, "ipv4", "ip", _oxm(12), _of(8), True, "IPv4 destination address", "nw_dst"),
    Field("arp_tpa", 32, "ipv4", "arp", _oxm(23), _of(17), True, "ARP target IPv4 address", at="ip_dst"),
    Field("nw_ttl", 8, "decimal", "ip|ipv6", None, _nx(29), False, "IPv4 time to live or IPv6 hop limit"),
    Field("nw_proto", 8, "decimal", "ip|ipv6", _oxm(10), _of(6), False,
          "Protocol above IP; in IPv6 the last next-header value reached (44 in a later fragment)", "ip_proto"),
    Field("nw_tos", 8, "tos", "ip|ipv6", None, _of(5), False, "DSCP as the upper six bits of the TOS byte"),
    Field("ip_dscp", 6, "decimal", "ip|ipv6", _oxm(8), None, False, "Differentiated services code point",
          at="nw_tos", shift=2),
    Field("nw_ecn", 2, "decimal", "ip|ipv6", _oxm(9), _nx(28), False, "Explicit congestion notification",
          "ip_ecn", at="nw_tos"),
    Field("ip_frag", 2, "frag", "ip|ipv6", None, _nx(26), True, "Bit 0: a fragment; bit 1: not the first", "nw_frag"),
    Field("tcp_src", 16, "decimal", "tcp", _oxm(13), _of(9), True, "TCP source port", "tp_src"),
    Field("udp_src", 16, "decimal", "udp", _oxm(15), _of(11), True, "UDP source port", at="tcp_src"),
    Field("sctp_src", 16, "decimal", "sctp", _oxm(17), None, True, "SCTP source port", at="tcp_src"),
    Field("icmp_type", 8, "decimal", "icmp", _oxm(19), _of(13), False, "ICMP type", at="tcp_src", shift=8),
    Field("icmp_code", 8, "decimal", "icmp", _oxm(20), _of(14), False, "ICMP code", at="tcp_src"),
    Field("icmpv6_type", 8, "decimal", "icmp6", _oxm(29), _nx(21), False, "ICMPv6 type", at="tcp_src", shift=8),
    Field("icmpv6_code", 8, "decimal", "icmp6", _oxm(30), _nx(22), False, "ICMPv6 code", at="tcp_src"),
    Field("arp_op", 16, "decimal", "arp", _oxm(21), _of(15), False, "ARP operation: 1 request, 2 reply", at="tcp_src"),
    Field("tcp_dst", 16, "decimal", "tcp", _oxm(14), _of(10), True, "TCP destination port", "tp_dst"),
    Field("udp_dst", 16, "decimal", "udp", _oxm(16), _of(12), True, "UDP destination port", at="tcp_dst"),
    Field("sctp_dst", 16, "decimal", "sctp", _oxm(18), None, True, "SCTP destination port", at="tcp_dst"),
    Field("tcp_flags", 12, "tcp_flags", "tcp", _oxm(42), _nx(34), True,
          "TCP flags and the three reserved bits above them"),
    Field("inner_vlan_tci", 16, "hex16", "vlan", None, None, True,
          "Inner VLAN tag (QinQ); bit 0x1000 says that there is one"),
    Field("inner_vlan_vid", 12, "decimal", "qinq", None, None, True, "VLAN of the inner tag", at="inner_vlan_tci"),
    Field("inner_vlan_pcp", 3, "decimal", "qinq", None, None, False, "Priority of the inner tag",
          at="inner_vlan_tci", shift=13),
    Field("mpls_label", 20, "decimal", "mpls", _oxm(34), None, False, "Label of the outermost MPLS entry", shift=12),
    Field("mpls_tc", 3, "decimal", "mpls", _oxm(35), None, False, "Traffic class of the outermost MPLS entry",
          at="mpls_label", shift=9),
    Field("mpls_bos", 1, "decimal", "mpls", _oxm(36), None, False, "Whether the outermost MPLS entry is the last",
          at="mpls_label", shift=8),
    Field("mpls_ttl", 8, "decimal", "mpls", None, _nx(30), False, "Time to live of the outermost MPLS entry",
          at="mpls_label"),
    Field("ipv6_src", 128, "ipv6", "ipv6", _oxm(26), _nx(19), True, "IPv6 source address", word=True),
    Field("ipv6_dst", 128, "ipv6", "ipv6", _oxm(27), _nx(20), True, "IPv6 destination address"),
    Field("ipv6_label", 20, "hex20", "ipv6", _oxm(28), _nx(27), True, "IPv6 flow label"),
    Field("actset_output", 32, "decimal", "", _oxm(43), None, False, "Port that the action set outputs to"),
    Field("nd_target", 128, "ipv6", "nd", _oxm(31), _nx(23), True,
          "Address a neighbour-discovery message asks or tells of", word=True),
    Field("nd_sll", 48, "mac", "nd_solicit", _oxm(32), _nx(24), True,
          "Link-layer address of the asking neighbour", word=True),
    Field("arp_sha", 48, "mac", "arp", _oxm(24), _nx(17), True, "ARP sender hardware address", at="nd_sll"),
    Field("nd_tll", 48, "mac", "nd_advert", _oxm(33), _nx(25), True,
          "Link-layer address of the neighbour told of", word=True),
    Field("arp_tha", 48, "mac", "arp", _oxm(25), _nx(18), True, "ARP target hardware address", at="nd_tll"),
    Field("pkt_mark", 32, "hex", "", None, _nx(33), True, "Mark that goes with the packet inside the switch",
          word=True),
    Field("conj_id", 32, "decimal", "", None, _nx(37), False, "Conjunctive match that was met"),
    Field("metadata", 64, "hex", "", _oxm(2), None, True, "Value handed from table to table", word=True, kept=True),
    Field("tun_id", 64, "hex", "", _oxm(38), _nx(16), True, "Tunnel key", "tunnel_id", kept=True),
    Field("tun_src", 32, "ipv4", "", None, _nx(31), True, "IPv4 address that a tunnel packet came from", kept=True),
    Field("tun_dst", 32, "ipv4", "", None, _nx(32), True, "IPv4 address that a tunnel packet came to or goes to",
          kept=True),
    Field("tun_ipv6_src", 128, "ipv6", "", None, _nx(109), True, "IPv6 address that a tunnel packet came from",
          kept=True),
    Field("tun_ipv6_dst", 128, "ipv6", "", None, _nx(110), True,
          "IPv6 address that a tunnel packet came to or goes to", kept=True),
    Field("tun_gbp_id", 16, "hex", "", None, _nx(38), True, "VXLAN group policy", kept=True),
    Field("tun_flags", 16, "hex", "", None, _nx(104), True, "Flags of the tunnel header: bit 0 is oam", kept=True),
    Field("tun_gbp_flags", 8, "hex", "", None, _nx(39), True, "VXLAN group policy flags", kept=True),
    *(Field(f"tun_metadata{n}", 64, "hex", "", None, _nx(40 + n), True,
            f"Value of the tunnel option that the bridge's TLV map binds to number {n}", word=True, kept=True,
            variable=True) for n in range(TUNNEL_OPTIONS)),
    *(Field(f"reg{n}", 32, "hex", "", None, _nx(n), True, f"Register {n}", word=n == 0, kept=True)
      for n in range(REGISTERS)),
    *(Field(f"xreg{n}", 64, "hex", "", (OXM_PKT_REG, n), None, True, f"Registers {2 * n} and {2 * n + 1} as one",
            at=f"reg{2 * n}", kept=True) for n in range(REGISTERS // 2)),
    *(Field(f"xxreg{n}", 128, "hex", "", None, _nx(111 + n), True, f"Registers {4 * n} to {4 * n + 3} as one",
            at=f"reg{4 * n}", kept=True) for n in range(REGISTERS // 4)),
)
# fmt: on


def _place(rows: tuple[Field, ...]) -> tuple[tuple[Field, ...], int, int]:
    """The rows with offset and size filled in, and where the kept rows begin and end: whole cache lines."""
    placed: dict[str, Field] = {}
    parsed = end = 0
    for row in rows:
        size = (row.shift + row.bits + 7) // 8
        size = 4 if size == 3 else size
        if row.at:
            owner = placed[row.at]
            if not row.kept and size > owner.size:
                raise ValueError(f"field {row.name}: bits {row.shift}..{row.shift + row.bits} do not fit in {row.at}")
            # A number in the low bits lies in the last bytes; registers are joined from their first byte on.
            placed[row.name] = replace(row, offset=owner.offset, size=size if row.kept else owner.size)
            continue
        if row.kept and not parsed:
            parsed = end = _lines(end)
        align = 8 if row.word else {1: 1, 4: 4, 8: 8, 16: 8}.get(size, 2)
        start = (end + align - 1) // align * align
        placed[row.name] = replace(row, offset=start, size=size)
        end = start + size
    return tuple(placed.values()), parsed, _lines(end)


def _lines(octets: int) -> int:
    return (octets + 63) // 64 * 64


FIELDS, PARSED_SIZE, KEY_SIZE = _place(_ROWS)
BY_NAME: dict[str, Field] = {row.name: row for row in FIELDS} | {row.alias: row for row in FIELDS if row.alias}


# The part of the key that is the tunnel's.
TUNNEL_AT, TUNNEL_SIZE = BY_NAME["tun_id"].offset, BY_NAME["reg0"].offset - BY_NAME["tun_id"].offset


def key_offset(name: str) -> int:
    """Byte offset in the key of the field called ``name``."""
    return BY_NAME[name].offset


def _key_dtype() -> np.dtype[np.void]:
    """The key as NumPy sees it: one member for each field that owns its bytes."""
    owners = [row for row in FIELDS if not row.at]
    kinds = {1: "u1", 2: ">u2", 4: ">u4", 8: ">u8"}
    formats = [kinds.get(row.size, f"({row.size},)u1") for row in owners]
    names, offsets = [row.name for row in owners], [row.offset for row in owners]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": KEY_SIZE})


KEY = _key_dtype()


def _is_ip(key: bytes) -> bool:
    return BY_NAME["eth_type"].read(key) in (0x0800, 0x86DD)


def _carries(key: bytes, proto: int) -> bool:
    return _is_ip(key) and BY_NAME["nw_proto"].read(key) == proto and not BY_NAME["ip_frag"].read(key) & 2


def _is_nd(key: bytes, *types: int) -> bool:
    return (
        PREREQUISITES["icmp6"](key)
        and BY_NAME["icmpv6_type"].read(key) in types
        and BY_NAME["icmpv6_code"].read(key) == 0
    )


PREREQUISITES: dict[str, Callable[[bytes], bool]] = {
    "": lambda _key: True,
    "vlan": lambda key: bool(BY_NAME["vlan_tci"].read(key) & 0x1000),
    "qinq": lambda key: bool(BY_NAME["inner_vlan_tci"].read(key) & 0x1000),
    "ip": lambda key: BY_NAME["eth_type"].read(key) == 0x0800,
    "ipv6": lambda key: BY_NAME["eth_type"].read(key) == 0x86DD,
    "ip|ipv6": _is_ip,
    "arp": lambda key: BY_NAME["eth_type"].read(key) in (0x0806, 0x8035),
    "mpls": lambda key: BY_NAME["eth_type"].read(key) in (0x8847, 0x8848),
    "tcp": lambda key: _carries(key, 6),
    "udp": lambda key: _carries(key, 17),
    "sctp": lambda key: _carries(key, 132),
    "icmp": lambda key: PREREQUISITES["ip"](key) and _carries(key, 1),
    "icmp6": lambda key: PREREQUISITES["ipv6"](key) and _carries(key, 58),
    "nd": lambda key: _is_nd(key, 135, 136),
    "nd_solicit": lambda key: _is_nd(key, 135),
    "nd_advert": lambda key: _is_nd(key, 136),
}


def describe(key: bytes) -> dict[str, str]:
    """The fields of ``key`` that its packet has (prerequisites met; kept ones: not zero), in key order, as text."""
    if len(key) != KEY_SIZE:
        raise ValueError(f"flow key of {len(key)} bytes: must be {KEY_SIZE} bytes")
    return {row.name: row.format(row.read(key)) for row in FIELDS if _has(row, key)}


# Told only when they are not zero, and not twice: a register alone, not as a part of a longer one.
_SILENT = {"in_phy_port", "actset_output", "pkt_mark", "conj_id"}


def _has(row: Field, key: bytes) -> bool:
    if row.kept or row.name in _SILENT:
        return not (row.kept and row.at) and row.read(key) != 0
    return PREREQUISITES[row.needs](key)


def _number(number: tuple[int, int] | None) -> str:
    return f"{number[0]:#06x}, {number[1]}" if number else "-"


def markdown() -> str:
    """docs/fields.md: the field table as a page."""
    lines = [
        "# Match fields",
        "",
        "Written by `python -m penstock.packet.fields`; edit `penstock/packet/fields.py` instead of this page.",
        "",
        f"The flow key has {KEY_SIZE} bytes. OXM and NXM give class and field number, *key* the bytes (and bits)",
        "of the key, *needs* what the packet must be for the field to exist.",
        "",
        "| field | bits | key | OXM | NXM | needs | maskable | text | meaning |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in FIELDS:
        names = f"`{row.name}`" + (f", `{row.alias}`" if row.alias else "")
        place = f"{row.offset}..{row.offset + row.size - 1}"
        if row.bits != row.size * 8:
            place += f" bits {row.shift}..{row.shift + row.bits - 1}"
        needs = " or ".join(row.needs.split("|")) or "-"
        maskable = "yes" if row.maskable else "no"
        cells = (names, row.bits, place, _number(row.oxm), _number(row.nxm), needs, maskable, row.text, row.doc)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())

"""Matches as text, in the notation of ovs-ofctl(8): ``tcp,in_port=1,nw_dst=10.0.0.0/8,tp_dst=80``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.openflow.match import VID_BITS, VID_PRESENT, Builder, Match, fields
from penstock.packet.fields import BY_NAME, FIELDS, Field
from penstock.packet.text import PARSERS, TCP_FLAGS, parse_number

IPV4, ARP, RARP, IPV6, MPLS, MPLS_MULTICAST = 0x0800, 0x0806, 0x8035, 0x86DD, 0x8847, 0x8848
PROTOCOLS: dict[str, tuple[int, int | None]] = {
    "ip": (IPV4, None), "ipv6": (IPV6, None), "arp": (ARP, None), "rarp": (RARP, None), "mpls": (MPLS, None),
    "mplsm": (MPLS_MULTICAST, None), "icmp": (IPV4, 1), "tcp": (IPV4, 6), "udp": (IPV4, 17), "sctp": (IPV4, 132),
    "icmp6": (IPV6, 58), "tcp6": (IPV6, 6), "udp6": (IPV6, 17), "sctp6": (IPV6, 132),
}  # fmt: skip
PORTS = {
    "in_port": 0xFFFFFFF8, "table": 0xFFFFFFF9, "normal": 0xFFFFFFFA, "flood": 0xFFFFFFFB, "all": 0xFFFFFFFC,
    "controller": 0xFFFFFFFD, "local": 0xFFFFFFFE, "any": 0xFFFFFFFF, "none": 0xFFFFFFFF,
}  # fmt: skip
PORT_NAMES = {number: name for name, number in PORTS.items() if name != "none"}
_PORT_FIELDS = {"in_port", "in_phy_port", "actset_output"}
_LAYER_4 = {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp", 58: "icmpv6"}
_FRAGMENTS = {"no": (0, 3), "yes": (1, 1), "first": (1, 3), "later": (3, 3), "not_later": (0, 2)}
# The order in which ovs-ofctl tells fields that it tells before or after others.
_FIRST = ("conj_id", "pkt_mark", "actset_output")
_SHOWN_AS = {
    "eth_src": "dl_src", "eth_dst": "dl_dst", "eth_type": "dl_type", "ip_src": "nw_src", "ip_dst": "nw_dst",
    "arp_spa": "arp_spa", "arp_tpa": "arp_tpa", "tcp_src": "tp_src", "udp_src": "tp_src", "sctp_src": "tp_src",
    "tcp_dst": "tp_dst", "udp_dst": "tp_dst", "sctp_dst": "tp_dst", "ip_frag": "nw_frag", "vlan_pcp": "dl_vlan_pcp",
    "icmpv6_type": "icmp_type", "icmpv6_code": "icmp_code",
}  # fmt: skip


class TextError(ValueError):
    """Text that says nothing, and what would be right."""


def items(text: str) -> Iterator[str]:
    """The parts of a list; commas and blanks within brackets do not separate. Raises TextError."""
    depth = 0
    part = ""
    for char in text + ",":
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and (char == "," or char.isspace()):
            if part:
                yield part
            part = ""
        else:
            part += char
    if depth:
        raise TextError(f"brackets in '{text}' are not closed")


def split(text: str) -> Iterator[tuple[str, str | None]]:
    """Key and value (None: none was given) of each part of a list. Raises TextError."""
    for part in items(text):
        key, equals, value = part.partition("=")
        yield key, value if equals else None


def parse_port(text: str, names: Mapping[str, int]) -> int:
    """A port's number from that, its name, or a reserved one's. Raises TextError."""
    if text in names:
        return names[text]
    if text.lower() in PORTS:
        return PORTS[text.lower()]
    try:
        number = parse_number(text)
    except ValueError:
        raise TextError(f"'{text}' is no port: neither a number nor one of {', '.join([*names, *PORTS])}") from None
    if not 0 <= number <= 0xFFFFFFFF:
        raise TextError(f"port {number} is out of range")
    return number | 0xFFFF0000 if 0xFF00 <= number <= 0xFFFF else number


def parse_value(row: Field, text: str, names: Mapping[str, int]) -> tuple[int, int]:
    """Value and mask of a field. Raises TextError."""
    full = (1 << row.bits) - 1
    if row.name in _PORT_FIELDS:
        return parse_port(text, names), full
    if row.name == "ip_frag" and text in _FRAGMENTS:
        return _FRAGMENTS[text]
    if row.name == "tcp_flags" and text[:1] in "+-" and text:
        return _signed_flags(text)
    if row.name == "nw_tos" and "/" not in text:
        return parse_number(text) & 0xFC, 0xFC
    value_text, slash, mask_text = text.partition("/")
    parse = PARSERS.get(row.text, parse_number)
    try:
        value = parse(value_text)
        if not slash:
            mask = full
        elif row.text in ("ipv4", "ipv6") and mask_text.isdecimal():
            prefix = int(mask_text)
            if prefix > row.bits:
                raise ValueError(f"a prefix of {prefix} bits is longer than an address")
            mask = full ^ (full >> prefix)
        else:
            mask = parse(mask_text)
    except ValueError as error:
        raise TextError(f"{row.name}={text}: {error}") from None
    if value < 0 or value > full or mask > full or mask < 0:
        raise TextError(f"{row.name}={text} does not fit in {row.bits} bits")
    return value & mask, mask


def _signed_flags(text: str) -> tuple[int, int]:
    value = mask = 0
    at = 0
    while at < len(text):
        end = min((place for sign in "+-" if (place := text.find(sign, at + 1)) > 0), default=len(text))
        bit = PARSERS["tcp_flags"](text[at + 1 : end])
        mask |= bit
        value |= bit if text[at] == "+" else 0
        at = end
    return value, mask


def field_named(key: str, made: Builder) -> Field | None:
    """The field that a key means beside what else is matched; None for what is none."""
    match = made.match()
    proto = BY_NAME["nw_proto"].read(match.key) if BY_NAME["nw_proto"].read(match.mask) else None
    layer = _LAYER_4.get(proto or 0, "tcp")
    if key in ("tp_src", "tp_dst"):
        return BY_NAME[f"{layer}_{key[3:]}"] if layer in ("tcp", "udp", "sctp") else None
    if key in ("icmp_type", "icmp_code") and layer == "icmpv6":
        return BY_NAME[f"icmpv6_{key[5:]}"]
    kind = BY_NAME["eth_type"].read(match.key)
    if key in ("nw_src", "nw_dst") and kind in (ARP, RARP):
        return BY_NAME["arp_spa" if key == "nw_src" else "arp_tpa"]
    if key == "nw_proto" and kind in (ARP, RARP):
        return BY_NAME["arp_op"]
    return BY_NAME.get(key)


def add_field(made: Builder, key: str, text: str | None, names: Mapping[str, int]) -> bool:
    """Add what a key and its value match; False when the key is no field's. Raises TextError."""
    if key in PROTOCOLS and text is None:
        kind, proto = PROTOCOLS[key]
        made.add("eth_type", kind)
        if proto is not None:
            made.add("nw_proto", proto)
        return True
    if key in ("dl_vlan", "dl_vlan_pcp", "vlan_vid"):
        _add_vlan(made, key, text)
        return True
    row = field_named(key, made)
    if row is None:
        return False
    if text is None:
        raise TextError(f"field {key} needs a value, as in {key}=1")
    value, mask = parse_value(row, text, names)
    if row.name == "vlan_pcp":
        made.add("vlan_tci", value << 13 | VID_PRESENT, 0xE000 | VID_PRESENT)
    else:
        made.add(row.name, value, mask)
    return True


def _add_vlan(made: Builder, key: str, text: str | None) -> None:
    try:
        value_text, _, mask_text = (text or "").partition("/")
        value = parse_number(value_text)
        mask = parse_number(mask_text) if mask_text else None
    except ValueError:
        raise TextError(f"{key}={text} is no number") from None
    if key == "dl_vlan_pcp":
        made.add("vlan_tci", value << 13 | VID_PRESENT, 0xE000 | VID_PRESENT)
    elif key == "dl_vlan" and value == 0xFFFF:
        made.add("vlan_tci", 0, VID_BITS)
    elif key == "dl_vlan":
        made.add("vlan_tci", value & 0xFFF | VID_PRESENT, VID_BITS)
    else:
        made.add("vlan_tci", value, VID_BITS if mask is None else mask)


def parse_match(text: str, names: Mapping[str, int]) -> Match:
    """A match from its text. Raises TextError."""
    made = Builder()
    for key, value in split(text):
        if not add_field(made, key, value, names):
            raise TextError(f"'{key}' is no match field")
    return made.match()


def show_value(row: Field, value: int, mask: int, numbers: Mapping[int, str]) -> str:
    """A value and its mask, where that is not all."""
    full = (1 << row.bits) - 1
    if row.name in _PORT_FIELDS:
        return show_port(value, numbers)
    if row.name == "ip_frag":
        return next((name for name, each in _FRAGMENTS.items() if each == (value, mask)), hex(value))
    if row.name == "tcp_flags" and mask != full:
        return "".join(
            ("+" if value >> bit & 1 else "-") + name for bit, name in enumerate(TCP_FLAGS) if mask >> bit & 1
        )
    if mask == full or (row.name == "vlan_vid" and mask == VID_BITS):
        return row.format(value)
    if row.text in ("ipv4", "ipv6"):
        prefix = row.bits - ((mask & -mask).bit_length() - 1)
        if mask == full ^ (full >> prefix):
            return f"{row.format(value)}/{prefix}"
    return f"{row.format(value)}/{row.format(mask)}"


def show_port(number: int, numbers: Mapping[int, str]) -> str:
    """A port by name, else by number."""
    if number in numbers:
        return numbers[number]
    name = PORT_NAMES.get(number)
    return name.upper() if name else str(number)


def show_match(match: Match, numbers: Mapping[int, str]) -> list[str]:
    """The match's parts, in ovs-ofctl's order."""
    found = [(row, value, mask) for row, value, mask in fields(match)]
    by_name = {row.name: value for row, value, _ in found}
    parts: list[str] = []
    hidden = set()
    shorthand = _shorthand(by_name)
    if shorthand:
        hidden = {"eth_type"} | ({"nw_proto"} if PROTOCOLS[shorthand][1] is not None else set())
    order = {row.name: index for index, row in enumerate(FIELDS)}
    found.sort(key=lambda each: (each[0].name not in _FIRST, not each[0].kept, order[each[0].name]))
    for row, value, mask in found:
        if row.name in hidden:
            continue
        if row.name == "vlan_vid":
            parts.append(_show_vid(value, mask))
        elif row.name == "ip_dscp" and mask == 0x3F:
            parts.append(f"nw_tos={value << 2}")
        else:
            parts.append(f"{_SHOWN_AS.get(row.name, row.name)}={show_value(row, value, mask, numbers)}")
    at = sum(1 for row, _, _ in found if row.name in _FIRST)
    return [*parts[:at], *([shorthand] if shorthand else []), *parts[at:]]


def _shorthand(values: Mapping[str, int]) -> str | None:
    kind, proto = values.get("eth_type"), values.get("nw_proto")
    plain = None
    for name, (each_kind, each_proto) in PROTOCOLS.items():
        if each_kind == kind and each_proto == proto and proto is not None:
            return name
        if each_kind == kind and each_proto is None:
            plain = name
    return plain


def _show_vid(value: int, mask: int) -> str:
    if mask == VID_BITS and value & VID_PRESENT:
        return f"dl_vlan={value & 0xFFF}"
    if mask == VID_BITS:
        return "vlan_tci=0x0000/0x1fff"
    return f"vlan_tci={value:#06x}/{mask:#06x}"

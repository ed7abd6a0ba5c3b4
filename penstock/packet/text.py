"""How field values are written as text and read: one function per text kind, in the notation of ovs-ofctl(8).

Values are integers. Pure functions, control side only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[9]", "[10]", "[11]")
FRAGMENTS = ("no", "first", "invalid", "later")


def mac(value: int) -> str:
    """Six colon-separated bytes."""
    return value.to_bytes(6, "big").hex(":")


def ipv4(value: int) -> str:
    """Dotted decimal."""
    return str(ipaddress.IPv4Address(value))


def ipv6(value: int) -> str:
    """RFC 5952 text."""
    return str(ipaddress.IPv6Address(value))


def hexadecimal(bits: int) -> Callable[[int], str]:
    """Lower-case hexadecimal with the digits that a number of ``bits`` needs."""
    digits = (bits + 3) // 4
    return lambda value: f"0x{value:0{digits}x}"


def tos(value: int) -> str:
    """The DSCP bits in place, the ECN bits left out."""
    return str(value & 0xFC)


def fragment(value: int) -> str:
    """no, first or later."""
    return FRAGMENTS[value]


def tcp_flags(value: int) -> str:
    """Names joined by bars, such as syn|ack; 0 when none is set."""
    return "|".join(name for bit, name in enumerate(TCP_FLAGS) if value >> bit & 1) or "0"


def parse_number(text: str) -> int:
    """A number in any of Python's notations, decimal with leading zeros too."""
    try:
        return int(text, 0)
    except ValueError:
        return int(text, 10)


def parse_mac(text: str) -> int:
    """Six colon-separated bytes. Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 6:
        raise ValueError(f"'{text}' is no Ethernet address")
    value = 0
    for part in parts:
        octet = int(part, 16)
        if not 0 <= octet <= 0xFF:
            raise ValueError(f"'{text}' is no Ethernet address")
        value = value << 8 | octet
    return value


def parse_fragment(text: str) -> int:
    """no, first or later, or a number."""
    return FRAGMENTS.index(text) if text in FRAGMENTS else int(text, 0)


def parse_tcp_flags(text: str) -> int:
    """Names joined by bars, or a number."""
    if text[:1].isdigit():
        return int(text, 0)
    return sum(1 << TCP_FLAGS.index(name) for name in text.split("|"))


PARSERS: dict[str, Callable[[str], int]] = {
    "mac": parse_mac,
    "ipv4": lambda text: int(ipaddress.IPv4Address(text)),
    "ipv6": lambda text: int(ipaddress.IPv6Address(text)),
    "frag": parse_fragment,
    "tcp_flags": parse_tcp_flags,
}


FORMATS: dict[str, Callable[[int], str]] = {
    "mac": mac,
    "ipv4": ipv4,
    "ipv6": ipv6,
    "hex16": hexadecimal(16),
    "hex20": hexadecimal(20),
    "hex": hex,
    "decimal": str,
    "tos": tos,
    "frag": fragment,
    "tcp_flags": tcp_flags,
}

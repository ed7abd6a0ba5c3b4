"""How field values are written as text: one function per text kind, in the notation of ovs-ofctl(8).

Each takes the value as an integer. Pure functions, control side only.
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

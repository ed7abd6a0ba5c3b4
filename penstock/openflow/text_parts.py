"""Names of fields and of parts of them, and numbers, in the text of actions: ``NXM_NX_REG0[0..15]``."""

from __future__ import annotations

from penstock.openflow.match import BY_NUMBER, Wire, wire_of
from penstock.openflow.text_match import TextError
from penstock.packet.fields import BY_NAME, FIELDS, NXM_OF, Field
from penstock.packet.text import parse_number

_OTHER_NAMES = {
    "nw_tos": "IP_TOS", "nw_proto": "IP_PROTO", "nw_ecn": "IP_ECN", "nw_ttl": "IP_TTL", "tun_src": "TUN_IPV4_SRC",
    "tun_dst": "TUN_IPV4_DST",
}  # fmt: skip


def nxm_name(row: Field) -> str:
    """NXM_OF_IP_SRC and the like."""
    name = _OTHER_NAMES.get(row.name, row.name.upper())
    if row.nxm is not None:
        return ("NXM_OF_" if row.nxm[0] == NXM_OF else "NXM_NX_") + name
    return "OXM_OF_" + name.replace("XREG", "PKT_REG")


BY_NXM_NAME = {nxm_name(row): row for row in FIELDS if row.oxm or row.nxm} | {
    "OXM_OF_" + row.name.upper(): row for row in FIELDS if row.oxm
}


def parse_part(text: str) -> tuple[Wire, int, int]:
    """Field, first bit and number of bits of ``FIELD[a..b]``. Raises TextError."""
    name, bracket, rest = text.partition("[")
    row = BY_NXM_NAME.get(name) or BY_NAME.get(name)
    wire = wire_of(row, nxm=True) if row is not None else None
    if wire is None:
        raise TextError(f"'{name}' is no field")
    bits = wire.named_bits
    if not bracket or rest == "]":
        return wire, 0, bits
    first, dots, last = rest.rstrip("]").partition("..")
    try:
        start = int(first)
        end = int(last) if dots else start
    except ValueError:
        raise TextError(f"'{text}' is no part of a field: as in {name}[0..7]") from None
    if not 0 <= start <= end < bits:
        raise TextError(f"'{text}': field {wire.field.name} has bits 0 to {bits - 1}")
    return wire, start, end - start + 1


def show_part(field: Wire | int, start: int, count: int) -> str:
    """And back; a field may be named by its header."""
    wire = BY_NUMBER[field >> 9] if isinstance(field, int) else field
    name = nxm_name(wire.field)
    if start == 0 and count == wire.named_bits:
        return f"{name}[]"
    return f"{name}[{start}]" if count == 1 else f"{name}[{start}..{start + count - 1}]"


def inside(text: str) -> str:
    """An operand without the brackets around it."""
    return text.removeprefix("(").removesuffix(")")


def number(text: str, what: str, top: int) -> int:
    """A number from 0 to ``top``. Raises TextError."""
    try:
        value = parse_number(text)
    except ValueError:
        raise TextError(f"{what}: '{text}' is no number") from None
    if not 0 <= value <= top:
        raise TextError(f"{what}: {value} is not in 0 to {top}")
    return value

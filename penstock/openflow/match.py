"""Matches: OpenFlow's and Nicira's TLVs (OXM, NXM) and the fixed match of 1.0, as a flow key and its mask.

OpenFlow 1.3.5, section 7.2.3; 1.0.2, section 5.2.3; Open vSwitch's nicira-ext.h for NXM. The table of fields drives it
all: a new field is one row there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from penstock.openflow.wire import (
    MATCH_BAD_FIELD,
    MATCH_BAD_LEN,
    MATCH_BAD_MASK,
    MATCH_BAD_PREREQ,
    MATCH_BAD_TYPE,
    MATCH_BAD_VALUE,
    MATCH_DUP_FIELD,
    ONF_ID,
    ErrorType,
    OpenFlowError,
)
from penstock.packet.fields import BY_NAME, FIELDS, KEY_SIZE, NXM_OF, PREREQUISITES, Field

OXM_MATCH = 1
OPENFLOW_BASIC, EXPERIMENTER = 0x8000, 0xFFFF
ONF_BYTES = ONF_ID.to_bytes(4, "big")
# Fields of OpenFlow 1.5 that an extension brings to 1.3.
ONF_FIELDS = {OPENFLOW_BASIC << 7 | 42, OPENFLOW_BASIC << 7 | 43}
VID_PRESENT = 0x1000
VID_BITS = 0x1FFF  # of OXM_OF_VLAN_VID, the bit that says "tagged" included
PORT_10_MAX = 0xFF00
NXM_COOKIE = 0x0001 << 7 | 30  # stands before a match, and says which flows are meant beside that


@dataclass(frozen=True, slots=True)
class Wire:
    """How a field is written in TLVs: bytes of its value, and where the value lies in the key as a number."""

    field: Field
    number: int  # class and field: the upper 23 bits of a header
    octets: int
    bits: int
    shift: int  # of the value in the key seen as one number
    short_port: bool = False  # NXM's in_port has 16 bits

    def header(self, masked: bool = False) -> int:
        """The 32 bits before a value, or before a value and a mask."""
        return self.number << 9 | masked << 8 | self.octets << masked

    def takes(self, length: int, masked: int) -> bool:
        """Whether a value (and a mask) may have that many bytes."""
        if self.field.variable:
            return not length & masked  # none at all for 0
        return length == self.octets << masked

    @property
    def named_bits(self) -> int:
        """The bits that actions can name."""
        return 16 if self.short_port else self.bits


def _octets(bits: int) -> int:
    size = (bits + 7) // 8
    return 4 if size == 3 else size


def _wire(row: Field, number: tuple[int, int]) -> Wire:
    bits = 13 if row.name == "vlan_vid" else row.bits
    short_port = row.name == "in_port" and number[0] == NXM_OF
    octets = 2 if short_port else _octets(bits)
    shift = (KEY_SIZE - row.offset - row.size) * 8 + row.shift
    return Wire(row, number[0] << 7 | number[1], octets, bits, shift, short_port)


# A header's upper 23 bits to how the field is written.
BY_NUMBER: dict[int, Wire] = {}
for _row in FIELDS:
    for _number in (_row.oxm, _row.nxm):
        if _number is not None:
            BY_NUMBER[_number[0] << 7 | _number[1]] = _wire(_row, _number)


NXM_TOS = BY_NUMBER[5]  # NXM_OF_IP_TOS, which does not match ECN
DSCP_BITS = 0xFC


def wire_of(row: Field, nxm: bool = False) -> Wire | None:
    """How a field is written: as OXM has it if it does (``nxm``: as NXM has it), None when neither does."""
    number = (row.nxm or row.oxm) if nxm else (row.oxm or row.nxm)
    return BY_NUMBER[number[0] << 7 | number[1]] if number else None


@dataclass(frozen=True, slots=True)
class Match:
    """A flow key and a mask, KEY_SIZE bytes each; no bit of ``key`` is outside ``mask``."""

    key: bytes
    mask: bytes


EMPTY = Match(bytes(KEY_SIZE), bytes(KEY_SIZE))


def in_key(row: Field) -> int:
    """Where a field's lowest bit lies in the key seen as a number."""
    return (KEY_SIZE - row.offset - row.size) * 8 + row.shift


def make(key: int, mask: int) -> Match:
    """A match from key and mask as numbers."""
    return Match(key.to_bytes(KEY_SIZE, "big"), mask.to_bytes(KEY_SIZE, "big"))


class Builder:
    """A match in the making, field by field."""

    def __init__(self) -> None:
        self.key = self.mask = 0

    def add(self, name: str, value: int, mask: int | None = None) -> None:
        """Have a field's bits in ``mask`` (all) be those of ``value``."""
        row = BY_NAME[name]
        bits = (1 << row.bits) - 1 if mask is None else mask
        shift = in_key(row)
        self.key = self.key & ~(bits << shift) | (value & bits) << shift
        self.mask |= bits << shift

    def add_wire(self, wire: Wire, value: int, mask: int) -> None:
        """The same by how a field is written in TLVs."""
        self.key = self.key & ~(mask << wire.shift) | (value & mask) << wire.shift
        self.mask |= mask << wire.shift

    def match(self) -> Match:
        """What was built so far."""
        return make(self.key, self.mask)


def _bad(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.BAD_MATCH, code, why)


def port_32(port: int) -> int:
    """OpenFlow 1.0's port number as that of later versions."""
    return port if port < PORT_10_MAX else 0xFFFF0000 | port


def port_16(port: int) -> int:
    """And back: reserved ports keep their lower half."""
    return port & 0xFFFF


def decode_tlvs(data: bytes | memoryview) -> Match:
    """The match that TLVs, without padding, describe. Raises OpenFlowError."""
    key = mask = 0
    seen = set()
    rows = []
    at = 0
    end = len(data)
    while at < end:
        if end - at < 4:
            raise _bad(MATCH_BAD_LEN, f"{end - at} bytes are left of a match, a field's header has 4")
        header = int.from_bytes(data[at : at + 4], "big")
        length = header & 0xFF
        masked = header >> 8 & 1
        if header >> 16 == EXPERIMENTER and data[at + 4 : at + 8] == ONF_BYTES:
            # The vendor of the field lies between header and value.
            header = OPENFLOW_BASIC << 16 | header & 0xFFFF
            length -= 4
            at += 4
        wire = BY_NUMBER.get(header >> 9)
        if wire is None:
            raise _bad(MATCH_BAD_FIELD, f"match field {header >> 16:#06x}, {header >> 9 & 0x7F} is unknown")
        if not wire.takes(length, masked) or at + 4 + length > end:
            raise _bad(MATCH_BAD_LEN, f"match field {wire.field.name} has {length} bytes, not {wire.octets << masked}")
        octets = length >> masked
        if wire.field.name in seen:
            raise _bad(MATCH_DUP_FIELD, f"match field {wire.field.name} comes twice")
        seen.add(wire.field.name)
        rows.append(wire.field)
        at += 4
        value = int.from_bytes(data[at : at + octets], "big")
        bits = (1 << wire.bits) - 1
        if wire.short_port:
            value = port_32(value)
        if masked:
            bits = int.from_bytes(data[at + octets : at + length], "big")
            if value & ~bits:
                raise _bad(MATCH_BAD_VALUE, f"match field {wire.field.name}: {value:#x} has bits outside {bits:#x}")
            if not wire.field.maskable and bits != (1 << wire.bits) - 1:
                raise _bad(MATCH_BAD_MASK, f"match field {wire.field.name} takes no mask")
        if wire is NXM_TOS:
            bits = DSCP_BITS
            if value & ~bits:
                raise _bad(MATCH_BAD_VALUE, f"match field nw_tos: {value:#x} has bits that are ECN's")
        if value >> wire.bits:
            raise _bad(MATCH_BAD_VALUE, f"match field {wire.field.name}: {value:#x} has more than {wire.bits} bits")
        bits &= (1 << wire.bits) - 1
        key |= value << wire.shift
        mask |= bits << wire.shift
        at += length
    return _checked(key, mask, tuple(rows))


_TCI_SHIFT = (KEY_SIZE - BY_NAME["vlan_tci"].offset - 2) * 8


def _checked(key: int, mask: int, rows: tuple[Field, ...]) -> Match:
    """The match, if each field's prerequisites are met by the others."""
    found = make(key, mask)
    for row in rows:
        if row.name == "vlan_vid":
            continue  # it says itself whether there is a tag
        if row.needs and not PREREQUISITES[row.needs](found.key):
            raise _bad(MATCH_BAD_PREREQ, f"match field {row.name} needs a match on {row.needs.replace('|', ' or ')}")
    return found


def fields(match: Match, nxm: bool = False) -> Iterator[tuple[Field, int, int]]:
    """The fields of a match, each with value and mask, in the order of the table.

    vlan_tci is whole if it must be (``nxm``: always, as there is no field for a part of it).
    """
    left = int.from_bytes(match.mask, "big")
    if not left:
        return
    key = int.from_bytes(match.key, "big")
    for row in FIELDS:
        if row.kept and row.at:
            continue
        shift = (KEY_SIZE - row.offset - row.size) * 8 + row.shift
        bits = (1 << row.bits) - 1
        if row.name == "vlan_tci":
            tci = left >> shift & 0xFFFF
            if tci and (nxm or tci not in (VID_BITS, VID_PRESENT, 0xFFFF, 0xE000 | VID_PRESENT)):
                yield row, key >> shift & 0xFFFF, tci
                left &= ~(0xFFFF << shift)
            continue
        if row.name == "vlan_vid":
            bits = VID_BITS
        elif row.name == "nw_tos":
            continue
        elif row.name == "vlan_pcp" and left >> shift & bits and not key >> _TCI_SHIFT & VID_PRESENT:
            left &= ~(bits << shift)
            continue
        found = left >> shift & bits
        if (
            not found
            or not (row.oxm or row.nxm)
            or (row.name != "vlan_vid" and not PREREQUISITES[row.needs](match.key))
        ):
            continue
        yield row, key >> shift & bits, found
        left &= ~(bits << shift)


@dataclass(frozen=True, slots=True)
class _Part:
    """A field of a match as it is written: what comes before its value and after it, and where the value lies."""

    shift: int
    bits: int
    head: bytes
    octets: int
    tail: bytes
    short_port: bool


# What of a key decides, beside the mask, which fields are told: the rest are values.
_DECIDING = ("eth_type", "vlan_tci", "nw_proto", "ip_frag", "icmpv6_type", "icmpv6_code")


def _deciding() -> int:
    found = 0
    for name in _DECIDING:
        found |= (1 << BY_NAME[name].bits) - 1 << in_key(BY_NAME[name])
    vid = (1 << BY_NAME["vlan_vid"].bits) - 1 << in_key(BY_NAME["vlan_vid"])
    ports = (1 << BY_NAME["tcp_src"].bits) - 1 << in_key(BY_NAME["tcp_src"])
    return found & ~vid & ~ports


_DECIDING_BITS = _deciding()
_ICMP6_BITS = (1 << BY_NAME["tcp_src"].bits) - 1 << in_key(BY_NAME["tcp_src"])
_PROTO_SHIFT, ICMP6 = in_key(BY_NAME["nw_proto"]), 58


@lru_cache(maxsize=4096)
def _plan(key: int, mask: int, nxm: bool) -> tuple[_Part, ...]:
    """How the fields of a match are written; ``key`` has what decides and nothing else."""
    parts = []
    for row, _, bits in fields(make(key, mask), nxm):
        wire = wire_of(row, nxm)
        assert wire is not None
        exact = bits == (1 << wire.bits) - 1
        if nxm and row.name == "ip_dscp" and exact:
            wire, bits = NXM_TOS, DSCP_BITS
        header = wire.header(masked=not exact)
        if wire.number in ONF_FIELDS:
            head = struct.pack("!HH", EXPERIMENTER, header + len(ONF_BYTES) & 0xFFFF) + ONF_BYTES
        else:
            head = struct.pack("!I", header)
        tail = b"" if exact else bits.to_bytes(wire.octets, "big")
        parts.append(_Part(wire.shift, bits, head, wire.octets, tail, wire.short_port))
    return tuple(parts)


def encode_tlvs(match: Match, nxm: bool = False) -> bytes:
    """The TLVs of a match: OXM where a field has such a number (``nxm``: NXM first)."""
    key = int.from_bytes(match.key, "big")
    deciding = _DECIDING_BITS | (_ICMP6_BITS if key >> _PROTO_SHIFT & 0xFF == ICMP6 else 0)
    out = bytearray()
    for part in _plan(key & deciding, int.from_bytes(match.mask, "big"), nxm):
        value = key >> part.shift & part.bits
        if part.short_port:
            value = port_16(value)
        out += part.head + value.to_bytes(part.octets, "big") + part.tail
    return bytes(out)


def split_cookie(tlvs: memoryview) -> tuple[memoryview, tuple[int, int] | None]:
    """A match without NXM_NX_NXM_COOKIE, and value and mask of that."""
    if len(tlvs) >= 4 and int.from_bytes(tlvs[:4], "big") >> 9 == NXM_COOKIE:
        masked = int.from_bytes(tlvs[:4], "big") >> 8 & 1
        size = 8 << masked
        value = int.from_bytes(tlvs[4:12], "big")
        mask = int.from_bytes(tlvs[12:20], "big") if masked else (1 << 64) - 1
        return tlvs[4 + size :], (value, mask)
    return tlvs, None


def decode_13(data: memoryview, at: int) -> tuple[Match, int]:
    """The ofp_match at an offset, and the offset behind its padding."""
    if len(data) < at + 4:
        raise _bad(MATCH_BAD_LEN, "the message ends before its match")
    kind, length = struct.unpack_from("!HH", data, at)
    if kind != OXM_MATCH:
        raise _bad(MATCH_BAD_TYPE, f"match type {kind} is not OXM")
    if length < 4 or at + length > len(data):
        raise _bad(MATCH_BAD_LEN, f"a match of {length} bytes does not fit in the message")
    return decode_tlvs(data[at + 4 : at + length]), at + (length + 7) // 8 * 8


def encode_13(match: Match) -> bytes:
    """The ofp_match, padded."""
    tlvs = encode_tlvs(match)
    length = 4 + len(tlvs)
    return struct.pack("!HH", OXM_MATCH, length) + tlvs + bytes(-length % 8)

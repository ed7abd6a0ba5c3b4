"""Messages about a bridge's TLV map: which options of Geneve the fields tun_metadata are.

NXT_TLV_TABLE_MOD, _REQUEST and _REPLY of Open vSwitch's nicira-ext.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from penstock.engine.tlv_map import Mapping, TlvMap
from penstock.openflow.wire import BAD_LEN, ErrorType, OpenFlowError
from penstock.packet.fields import TUNNEL_OPTIONS

ADD, DELETE, CLEAR = range(3)
_MAPPING = struct.Struct("!HBBH2x")
_COMMAND = struct.Struct("!H6x")
LENGTHS = (4, 8)  # bytes of an option's value, as far as a field takes them


class Refused(IntEnum):
    """Codes of Nicira's errors about the map."""

    BAD_COMMAND = 16
    BAD_OPT_LEN = 17
    BAD_FIELD_IDX = 18
    ALREADY_MAPPED = 20
    DUP_ENTRY = 21
    INVALID_TLV_DEL = 38


def _refusal(code: Refused, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.NICIRA, code, why)


def decode_mappings(data: memoryview) -> list[Mapping]:
    """The mappings of a message. Raises OpenFlowError."""
    if len(data) % _MAPPING.size:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"mappings of {len(data)} bytes: each has {_MAPPING.size}")
    found = [Mapping(*words) for words in _MAPPING.iter_unpack(data)]
    for each in found:
        if each.octets not in LENGTHS:
            why = f"{each.field}: an option of {each.octets} bytes, must have {' or '.join(map(str, LENGTHS))}"
            raise _refusal(Refused.BAD_OPT_LEN, why)
        if each.number >= TUNNEL_OPTIONS:
            raise _refusal(Refused.BAD_FIELD_IDX, f"{each.field}: the last is tun_metadata{TUNNEL_OPTIONS - 1}")
    return found


def encode_map(tlvs: TlvMap) -> bytes:
    """The body of a reply: how much room there is, and the mappings."""
    rows = [_MAPPING.pack(each.option_class, each.option_type, each.octets, each.number) for each in tlvs.mappings()]
    return struct.pack("!IH10x", TUNNEL_OPTIONS * max(LENGTHS), TUNNEL_OPTIONS) + b"".join(rows)


def change_map(tlvs: TlvMap, body: memoryview, used: set[str]) -> None:
    """Carry out a change, whole or not at all; ``used``: fields that flows name. Raises OpenFlowError."""
    if len(body) < _COMMAND.size:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, "a change of the TLV map has no command")
    (command,) = _COMMAND.unpack_from(body)
    asked = decode_mappings(body[_COMMAND.size :])
    now = {each.number: each for each in tlvs.mappings()}
    if command == ADD:
        for each in asked:
            if each.number in now:
                raise _refusal(Refused.ALREADY_MAPPED, f"{each.field} is mapped already")
            for other in now.values():
                if each.kind == other.kind:
                    option = f"option {each.option_class:#x}, {each.option_type:#x}"
                    raise _refusal(Refused.DUP_ENTRY, f"{option} is {other.field} already")
            now[each.number] = each
    elif command in (DELETE, CLEAR):
        for number in now.keys() & {each.number for each in asked} if command == DELETE else set(now):
            if now[number].field in used:
                raise _refusal(Refused.INVALID_TLV_DEL, f"{now[number].field} is named by a flow")
            del now[number]
    else:
        raise _refusal(Refused.BAD_COMMAND, f"command {command} of a change of the TLV map is unknown")
    tlvs.replace([*now.values()])

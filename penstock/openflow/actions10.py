"""Actions of OpenFlow 1.0 as instructions of 1.3, and back. OpenFlow 1.0.2, section 5.2.4.

What 1.0 has no action for goes back as a Nicira action where there is one, and else is left out.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from penstock.datapath.pipeline.program import PORT_CONTROLLER
from penstock.openflow.actions import (
    APPLY_ACTIONS,
    GOTO_TABLE,
    NX_LOAD,
    VENDOR,
    WRITE_METADATA,
    action,
    apply_instruction,
    bad,
    nicira,
    read_tlv,
    split_actions,
    split_instructions,
)
from penstock.openflow.match import VID_PRESENT, port_16, port_32
from penstock.openflow.wire import ACTION_BAD_LEN, ACTION_BAD_TYPE
from penstock.packet.fields import BY_NAME

OUTPUT, VLAN_VID, VLAN_PCP, STRIP_VLAN, DL_SRC, DL_DST, NW_SRC, NW_DST, NW_TOS, TP_SRC, TP_DST, ENQUEUE = range(12)
LENGTHS = {DL_SRC: 16, DL_DST: 16, ENQUEUE: 16}
PORTS = {17: ("udp_src", "udp_dst"), 132: ("sctp_src", "sctp_dst")}
NX_POP_QUEUE, NX_RESUBMIT_TABLE, NX_WRITE_METADATA, NX_DEC_TTL = 5, 14, 22, 18
NX_PUSH_MPLS, NX_POP_MPLS, NX_SET_MPLS_TTL, NX_DEC_MPLS_TTL = 23, 24, 25, 26
IN_PORT_10 = 0xFFF8


def set_field(name: str, value: int) -> bytes:
    """OpenFlow 1.3's set-field for a whole field."""
    row = BY_NAME[name]
    number = row.oxm or row.nxm
    assert number is not None
    size = (13 if name == "vlan_vid" else row.bits) + 7 >> 3
    return action(25, struct.pack("!HBB", number[0], number[1] << 1, size) + value.to_bytes(size, "big"))


def from_10(data: memoryview, proto: int) -> bytes:
    """Instructions of 1.3 for a list of 1.0's actions; ``proto`` tells what the ports are those of."""
    return apply_instruction(actions_from_10(data, proto))


def actions_from_10(data: memoryview, proto: int) -> bytes:
    """Actions of 1.3 for a list of 1.0's."""
    source, destination = PORTS.get(proto, ("tcp_src", "tcp_dst"))
    out = bytearray()
    for kind, body, whole in split_actions(data):
        if kind != VENDOR and len(whole) != LENGTHS.get(kind, 8):
            raise bad(ACTION_BAD_LEN, f"action type {kind} has {len(whole)} bytes, not {LENGTHS.get(kind, 8)}")
        if kind == OUTPUT:
            port, max_len = struct.unpack_from("!HH", body)
            out += action(0, struct.pack("!IH6x", port_32(port), max_len))
        elif kind == VLAN_VID:
            out += set_field("vlan_vid", struct.unpack_from("!H", body)[0] & 0xFFF | VID_PRESENT)
        elif kind == VLAN_PCP:
            out += set_field("vlan_pcp", body[0] & 7)
        elif kind == STRIP_VLAN:
            out += action(18, b"")
        elif kind in (DL_SRC, DL_DST):
            out += set_field("eth_src" if kind == DL_SRC else "eth_dst", int.from_bytes(body[:6], "big"))
        elif kind in (NW_SRC, NW_DST):
            out += set_field("ip_src" if kind == NW_SRC else "ip_dst", int.from_bytes(body[:4], "big"))
        elif kind == NW_TOS:
            out += set_field("ip_dscp", body[0] >> 2)
        elif kind in (TP_SRC, TP_DST):
            out += set_field(source if kind == TP_SRC else destination, struct.unpack_from("!H", body)[0])
        elif kind == ENQUEUE:
            port, queue = struct.unpack_from("!H6xI", body)
            out += action(21, struct.pack("!I", queue)) + action(0, struct.pack("!IH6x", port_32(port), 0))
            out += nicira(NX_POP_QUEUE)
        elif kind == VENDOR:
            out += whole
        else:
            raise bad(ACTION_BAD_TYPE, f"action type {kind} is unknown")
    return bytes(out)


_SETS_10 = {
    "eth_src": DL_SRC, "eth_dst": DL_DST, "ip_src": NW_SRC, "ip_dst": NW_DST, "tcp_src": TP_SRC, "udp_src": TP_SRC,
    "sctp_src": TP_SRC, "tcp_dst": TP_DST, "udp_dst": TP_DST, "sctp_dst": TP_DST,
}  # fmt: skip


def _set_field_10(body: memoryview) -> bytes:
    """A set-field of 1.3."""
    wire, value, mask, _ = read_tlv(body, "set-field")
    name = wire.field.name
    if mask == (1 << wire.bits) - 1:
        if name == "vlan_vid":
            return action(VLAN_VID, struct.pack("!H", value & 0xFFF))
        if name == "vlan_pcp":
            return action(VLAN_PCP, bytes([value]))
        if name == "ip_dscp":
            return action(NW_TOS, bytes([value << 2]))
        if name in _SETS_10:
            size = 12 if wire.octets == 6 else 4
            return action(_SETS_10[name], value.to_bytes(wire.octets, "big").ljust(size, b"\0"))
    number = wire.field.nxm or wire.field.oxm
    if number is None or wire.bits > 64 or not mask:
        return b""
    start = (mask & -mask).bit_length() - 1
    count = mask.bit_length() - start
    header = number[0] << 16 | number[1] << 9 | wire.octets
    return nicira(NX_LOAD, struct.pack("!HIQ", start << 6 | count - 1, header, value >> start))


def actions_to_10(data: memoryview) -> bytes:
    """Actions of 1.0 for a list of 1.3's."""
    out = bytearray()
    for kind, body, whole in split_actions(data):
        if kind == 0:
            port, max_len = struct.unpack_from("!IH", body)
            out += action(OUTPUT, struct.pack("!HH", port_16(port), max_len if port == PORT_CONTROLLER else 0))
        elif kind == 25:
            out += _set_field_10(body)
        elif kind == 18:
            out += action(STRIP_VLAN, b"")
        elif kind == 24:
            out += nicira(NX_DEC_TTL)
        elif kind == 16:
            out += nicira(NX_DEC_MPLS_TTL)
        elif kind == 15:
            out += nicira(NX_SET_MPLS_TTL, bytes(body[:1]))
        elif kind in (19, 20):
            out += nicira(NX_PUSH_MPLS if kind == 19 else NX_POP_MPLS, bytes(body[:2]))
        elif kind == 21:
            out += nicira(4, bytes(2) + bytes(body[:4]))
        elif kind == VENDOR:
            out += whole
    return bytes(out)


@lru_cache(maxsize=4096)
def to_10(data: bytes) -> bytes:
    """Actions of 1.0 for instructions of 1.3."""
    found = split_instructions(memoryview(data))
    out = bytearray()
    if APPLY_ACTIONS in found:
        out += actions_to_10(found[APPLY_ACTIONS][4:])
    if WRITE_METADATA in found:
        out += nicira(NX_WRITE_METADATA, bytes(6) + bytes(found[WRITE_METADATA][4:20]))
    if GOTO_TABLE in found:
        out += nicira(NX_RESUBMIT_TABLE, struct.pack("!HB", IN_PORT_10, found[GOTO_TABLE][0]))
    return bytes(out)

"""Actions of OpenFlow 1.0 as instructions of 1.3, and back. OpenFlow 1.0.2, section 5.2.4.

What 1.0 has no action for goes back as a Nicira action where there is one, and else is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache

from penstock.datapath.pipeline.program import PORT_CONTROLLER
from penstock.openflow.action_wire import (
    IN_PORT_16,
    Instruction,
    Kind,
    Nx,
    action,
    apply_instruction,
    bad_action,
    load_actions,
    nicira,
    output_action,
    set_field,
    split_actions,
    split_instructions,
)
from penstock.openflow.compile import read_tlv
from penstock.openflow.match import VID_PRESENT, port_16, port_32, wire_of
from penstock.openflow.wire import ACTION_BAD_LEN, ACTION_BAD_TYPE, NICIRA_ID

OUTPUT, VLAN_VID, VLAN_PCP, STRIP_VLAN, DL_SRC, DL_DST, NW_SRC, NW_DST, NW_TOS, TP_SRC, TP_DST, ENQUEUE = range(12)
ENQUEUE_ACTIONS = 3  # of 1.3: set-queue, output, pop-queue
LENGTHS = {DL_SRC: 16, DL_DST: 16, ENQUEUE: 16}
CLONE_HEAD = 12  # bytes of a clone before its actions, type and length left out
PORTS = {17: ("udp_src", "udp_dst"), 132: ("sctp_src", "sctp_dst")}


def from_10(data: memoryview, proto: int) -> bytes:
    """Instructions of 1.3 for a list of 1.0's actions; ``proto`` tells what the ports are those of."""
    return apply_instruction(actions_from_10(data, proto))


def _with_inner(body: memoryview, whole: memoryview, translate: Callable[[memoryview], bytes]) -> bytes:
    """An experimenter's action as it is, but for the actions in a clone, which are translated too."""
    if len(body) < CLONE_HEAD or struct.unpack_from("!IH", body) != (NICIRA_ID, Nx.CLONE):
        return bytes(whole)
    return nicira(Nx.CLONE, bytes(6) + translate(body[CLONE_HEAD:]))


def actions_from_10(data: memoryview, proto: int) -> bytes:
    """Actions of 1.3 for a list of 1.0's."""
    source, destination = PORTS.get(proto, ("tcp_src", "tcp_dst"))
    out = bytearray()
    for kind, body, whole in split_actions(data):
        if kind != Kind.EXPERIMENTER and len(whole) != LENGTHS.get(kind, 8):
            raise bad_action(ACTION_BAD_LEN, f"action type {kind} has {len(whole)} bytes, not {LENGTHS.get(kind, 8)}")
        if kind == OUTPUT:
            port, max_len = struct.unpack_from("!HH", body)
            out += output_action(port_32(port), max_len)
        elif kind == VLAN_VID:
            out += set_field("vlan_vid", struct.unpack_from("!H", body)[0] & 0xFFF | VID_PRESENT)
        elif kind == VLAN_PCP:
            out += set_field("vlan_pcp", body[0] & 7)
        elif kind == STRIP_VLAN:
            out += action(Kind.POP_VLAN)
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
            out += action(Kind.SET_QUEUE, struct.pack("!I", queue)) + output_action(port_32(port))
            out += nicira(Nx.POP_QUEUE)
        elif kind == Kind.EXPERIMENTER:
            out += _with_inner(body, whole, lambda inner: actions_from_10(inner, proto))
        else:
            raise bad_action(ACTION_BAD_TYPE, f"action type {kind} is unknown")
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
    named = wire_of(wire.field, nxm=True)
    assert named is not None
    out = b""
    while mask:
        start = (mask & -mask).bit_length() - 1
        run = mask >> start
        count = (run + 1 & ~run).bit_length() - 1
        out += load_actions(named, start, count, value >> start)
        mask &= ~((1 << count) - 1 << start)
    return out


# Nicira's action that does the same as one of 1.3, and the bytes of its operand.
_SAME: dict[int, tuple[Nx, int]] = {
    Kind.DEC_NW_TTL: (Nx.DEC_TTL, 0),
    Kind.DEC_MPLS_TTL: (Nx.DEC_MPLS_TTL, 0),
    Kind.SET_MPLS_TTL: (Nx.SET_MPLS_TTL, 1),
    Kind.PUSH_MPLS: (Nx.PUSH_MPLS, 2),
    Kind.POP_MPLS: (Nx.POP_MPLS, 2),
}


def _enqueue_10(actions: Sequence[tuple[int, memoryview, memoryview]]) -> bytes:
    """1.0's enqueue when these three of 1.3's actions mean one, else nothing."""
    if [kind for kind, _, _ in actions] != [Kind.SET_QUEUE, Kind.OUTPUT, Kind.EXPERIMENTER]:
        return b""
    (_, queue, _), (_, output, _), (_, after, _) = actions
    if struct.unpack_from("!IH", after) != (NICIRA_ID, Nx.POP_QUEUE):
        return b""
    (port,) = struct.unpack_from("!I", output)
    return action(ENQUEUE, struct.pack("!H6xI", port_16(port), *struct.unpack_from("!I", queue)))


def actions_to_10(data: memoryview) -> bytes:
    """Actions of 1.0 for a list of 1.3's."""
    out = bytearray()
    actions = list(split_actions(data))
    at = 0
    while at < len(actions):
        enqueue = _enqueue_10(actions[at : at + ENQUEUE_ACTIONS])
        out += enqueue or _action_10(*actions[at])
        at += ENQUEUE_ACTIONS if enqueue else 1
    return bytes(out)


def _action_10(kind: int, body: memoryview, whole: memoryview) -> bytes:
    """One action of 1.3; nothing where 1.0 has none."""
    if kind == Kind.OUTPUT:
        port, max_len = struct.unpack_from("!IH", body)
        return action(OUTPUT, struct.pack("!HH", port_16(port), max_len if port == PORT_CONTROLLER else 0))
    if kind == Kind.SET_FIELD:
        return _set_field_10(body)
    if kind == Kind.POP_VLAN:
        return action(STRIP_VLAN)
    if kind == Kind.SET_QUEUE:
        return nicira(Nx.SET_QUEUE, bytes(2) + bytes(body[:4]))
    if kind in _SAME:
        subtype, size = _SAME[kind]
        return nicira(subtype, bytes(body[:size]))
    return _with_inner(body, whole, actions_to_10) if kind == Kind.EXPERIMENTER else b""


@lru_cache(maxsize=4096)
def to_10(data: bytes) -> bytes:
    """Actions of 1.0 for instructions of 1.3."""
    found = split_instructions(memoryview(data))
    out = bytearray()
    if Instruction.APPLY_ACTIONS in found:
        out += actions_to_10(found[Instruction.APPLY_ACTIONS][4:])
    if Instruction.WRITE_METADATA in found:
        out += nicira(Nx.WRITE_METADATA, bytes(6) + bytes(found[Instruction.WRITE_METADATA][4:20]))
    if Instruction.GOTO_TABLE in found:
        out += nicira(Nx.RESUBMIT_TABLE, struct.pack("!HB", IN_PORT_16, found[Instruction.GOTO_TABLE][0]))
    return bytes(out)

"""The actions of OpenFlow 1.3: one row each. OpenFlow 1.3.5, section 7.2.5."""

from __future__ import annotations

import struct

import penstock.datapath.pipeline.program as p
from penstock.openflow.action_wire import Kind, bad_action
from penstock.openflow.compile import (
    ACTIONS,
    Program,
    add_output,
    raw16,
    read_tlv,
    retype_mpls,
    set_field,
    set_wire,
    simple,
    with_byte,
)
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_GROUP
from penstock.packet.fields import BY_NAME

VLAN_TYPES = (0x8100, 0x88A8)


def _output(made: Program, body: memoryview) -> None:
    port, max_len = struct.unpack_from("!IH", body)
    add_output(made, port, max_len)


def _group(made: Program, body: memoryview) -> None:
    (number,) = struct.unpack_from("!I", body)
    address = made.targets.group(number) if made.targets else 0
    if not address:
        raise bad_action(ACTION_BAD_GROUP, f"group {number} does not exist")
    made.groups.add(number)
    made.add(p.GROUP, 0, 0, address)


def _set_field(made: Program, body: memoryview) -> None:
    wire, value, mask, _ = read_tlv(body, "set-field")
    set_wire(made, wire, value, mask)


def _push_vlan(made: Program, body: memoryview) -> None:
    (kind,) = struct.unpack_from("!H", body)
    if kind not in VLAN_TYPES:
        raise bad_action(ACTION_BAD_ARG, f"push-vlan: type {kind:#06x} is not that of a VLAN tag (0x8100, 0x88a8)")
    made.add(p.PUSH_VLAN, raw16(kind))


def _set_queue(made: Program, body: memoryview) -> None:
    made.add(p.SET_QUEUE, 0, struct.unpack_from("!I", body)[0])


def _set_nw_ttl(made: Program, body: memoryview) -> None:
    set_field(made, BY_NAME["nw_ttl"], body[0], 0xFF)


ACTIONS |= {
    Kind.OUTPUT: (16, _output),
    Kind.COPY_TTL_OUT: (8, simple(p.COPY_TTL_OUT)),
    Kind.COPY_TTL_IN: (8, simple(p.COPY_TTL_IN)),
    Kind.SET_MPLS_TTL: (8, with_byte(p.SET_MPLS_TTL)),
    Kind.DEC_MPLS_TTL: (8, simple(p.DEC_MPLS_TTL)),
    Kind.PUSH_VLAN: (8, _push_vlan),
    Kind.POP_VLAN: (8, simple(p.POP_VLAN)),
    Kind.PUSH_MPLS: (8, retype_mpls(p.PUSH_MPLS)),
    Kind.POP_MPLS: (8, retype_mpls(p.POP_MPLS)),
    Kind.SET_QUEUE: (8, _set_queue),
    Kind.GROUP: (8, _group),
    Kind.SET_NW_TTL: (8, _set_nw_ttl),
    Kind.DEC_NW_TTL: (8, simple(p.DEC_TTL)),
    Kind.SET_FIELD: (8, _set_field),
}

"""Nicira's actions: one row each, the least number of bytes and what is added to the program.

Layouts as in Open vSwitch's lib/ofp-actions.c; a body begins behind the subtype. Not there yet, and refused with
OFPBAC_BAD_EXP_TYPE: learn, multipath, bundle, conjunction, sample, ct, fin_timeout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import penstock.datapath.pipeline.program as p
from penstock.openflow.actions import (
    CURRENT_TABLE,
    FOLLOWS,
    Program,
    _set_wire,
    bad,
    compile_actions,
    raw16,
    read_tlv,
    set_field,
    subfield,
)
from penstock.openflow.match import port_32
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_LEN
from penstock.packet.fields import BY_NAME

TUN_ID_32 = 0xFFFFFFFF
IN_PORT_10 = 0xFFF8


def _resubmit(made: Program, port: int, table: int) -> None:
    assert made.targets is not None
    number = 0 if port == IN_PORT_10 else port_32(port)
    made.add(p.RESUBMIT, made.targets.table if table == CURRENT_TABLE else table, number)


def _resubmit_port(made: Program, body: memoryview) -> None:
    _resubmit(made, struct.unpack_from("!H", body)[0], CURRENT_TABLE)


def _resubmit_table(made: Program, body: memoryview) -> None:
    port, table = struct.unpack_from("!HB", body)
    _resubmit(made, port, table)


def _move(made: Program, body: memoryview) -> None:
    count, source_start, start, source, destination = struct.unpack_from("!HHHII", body)
    from_wire, source_bit, bits = subfield(source, source_start, count, "move", written=False)
    wire, bit, _ = subfield(destination, start, count, "move", written=True)
    made.need(from_wire.field)
    made.need(wire.field)
    made.reads |= bits
    made.add(p.MOVE, FOLLOWS.get(wire.field.name, p.SET_NOTHING), 0, source_bit, bit, count)


def _load(made: Program, body: memoryview) -> None:
    where, header, value = struct.unpack_from("!HIQ", body)
    start, count = where >> 6, (where & 63) + 1
    wire, _, _ = subfield(header, start, count, "load", written=True)
    if value >> count:
        raise bad(ACTION_BAD_ARG, f"load: {value:#x} does not fit in {count} bits")
    if wire.field.name == "vlan_tci":
        set_field(made, wire.field, value << start, (1 << count) - 1 << start)
    else:
        _set_wire(made, wire, value << start, (1 << count) - 1 << start)


def _load2(made: Program, body: memoryview) -> None:
    wire, value, mask, _ = read_tlv(body[6:], "load")
    _set_wire(made, wire, value, mask)


def _output_reg(made: Program, body: memoryview) -> None:
    where, header, max_len = struct.unpack_from("!HIH", body)
    start, count = where >> 6, (where & 63) + 1
    _, bit, bits = subfield(header, start, count, "output", written=False)
    made.reads |= bits
    made.add(p.OUTPUT_FIELD, bit, max_len, count)


def _set_tunnel(made: Program, body: memoryview) -> None:
    set_field(made, BY_NAME["tun_id"], struct.unpack_from("!I", body, 2)[0], (1 << 64) - 1)


def _set_tunnel_64(made: Program, body: memoryview) -> None:
    set_field(made, BY_NAME["tun_id"], struct.unpack_from("!Q", body, 6)[0], (1 << 64) - 1)


def _set_queue(made: Program, body: memoryview) -> None:
    made.add(p.SET_QUEUE, 0, struct.unpack_from("!I", body, 2)[0])


def _stack(code: int) -> Callable[[Program, memoryview], None]:
    def add(made: Program, body: memoryview) -> None:
        start, header, count = struct.unpack_from("!HIH", body)
        written = code == p.POP
        wire, bit, bits = subfield(header, start, count, "pop" if written else "push", written)
        if written:
            made.add(p.POP, FOLLOWS.get(wire.field.name, p.SET_NOTHING), 0, bit, count, 0)
        else:
            made.reads |= bits
            made.add(p.PUSH, 0, 0, bit, count)

    return add


def _dec_ttl_ids(made: Program, body: memoryview) -> None:
    (count,) = struct.unpack_from("!H", body)
    if len(body) < 6 + 2 * count or not count:
        raise bad(ACTION_BAD_LEN, f"dec_ttl: {count} controllers do not fit")
    made.add(p.DEC_TTL, 0, struct.unpack_from("!H", body, 6)[0])


def _controller(made: Program, body: memoryview) -> None:
    max_len, number, reason = struct.unpack_from("!HHB", body)
    made.add(p.CONTROLLER, max_len, number, reason, 0)


def _write_metadata(made: Program, body: memoryview) -> None:
    value, mask = struct.unpack_from("!QQ", body, 6)
    set_field(made, BY_NAME["metadata"], value & mask, mask)


def _mpls_type(code: int) -> Callable[[Program, memoryview], None]:
    def add(made: Program, body: memoryview) -> None:
        made.add(code, raw16(struct.unpack_from("!H", body)[0]))
        made.retyped = True

    return add


def _clone(made: Program, body: memoryview) -> None:
    inner = Program(targets=made.targets)
    compile_actions(inner, body[6:])
    made.take(inner)
    made.add(p.CLONE, 0, len(inner.operations) + 1)
    made.operations += [*inner.operations, p.END]


def _simple(code: int) -> Callable[[Program, memoryview], None]:
    return lambda made, _body: made.add(code)


NICIRA: dict[int, tuple[int, Callable[[Program, memoryview], None]]] = {
    1: (16, _resubmit_port),
    2: (16, _set_tunnel),
    4: (16, _set_queue),
    5: (16, _simple(p.POP_QUEUE)),
    6: (24, _move),
    7: (24, _load),
    8: (16, lambda _made, _body: None),  # a note
    9: (24, _set_tunnel_64),
    14: (16, _resubmit_table),
    15: (24, _output_reg),
    17: (16, _simple(p.EXIT)),
    18: (16, _simple(p.DEC_TTL)),
    20: (16, _controller),
    21: (16, _dec_ttl_ids),
    22: (32, _write_metadata),
    23: (16, _mpls_type(p.PUSH_MPLS)),
    24: (16, _mpls_type(p.POP_MPLS)),
    25: (16, lambda made, body: made.add(p.SET_MPLS_TTL, body[0])),
    26: (16, _simple(p.DEC_MPLS_TTL)),
    27: (24, _stack(p.PUSH)),
    28: (24, _stack(p.POP)),
    33: (16, _load2),
    42: (16, _clone),
}

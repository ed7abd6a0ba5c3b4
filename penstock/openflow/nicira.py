"""Nicira's actions: one row each, the least number of bytes and what is added to the program.

Layouts as in Open vSwitch's lib/ofp-actions.c; a body begins behind the subtype. Not there, and refused with
OFPBAC_BAD_EXP_TYPE: sample, ct and nat, learn2, and what is for NSH.
"""

from __future__ import annotations

import struct

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_tables import TABLES, mask_words
from penstock.openflow.action_wire import CURRENT_TABLE, IN_PORT_16, REASON_ACTION, WHOLE, Nx, bad_action
from penstock.openflow.compile import (
    FOLLOWS,
    NICIRA,
    Add,
    Program,
    add_meter,
    compile_actions,
    read_tlv,
    retype_mpls,
    set_field,
    set_wire,
    simple,
    subfield,
    with_byte,
)
from penstock.openflow.learn import decode_learn
from penstock.openflow.match import in_key, port_32
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_LEN
from penstock.packet.fields import BY_NAME, KEY_SIZE


def _resubmit(made: Program, port: int, table: int) -> None:
    assert made.targets is not None
    number = 0 if port == IN_PORT_16 else port_32(port)
    table = made.targets.table if table == CURRENT_TABLE else table
    if table >= TABLES:
        raise bad_action(ACTION_BAD_ARG, f"resubmit to table {table}, which there is none of")
    made.add(p.RESUBMIT, table, number)


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
        raise bad_action(ACTION_BAD_ARG, f"load: {value:#x} does not fit in {count} bits")
    if wire.field.name == "vlan_tci":
        set_field(made, wire.field, value << start, (1 << count) - 1 << start)
    else:
        set_wire(made, wire, value << start, (1 << count) - 1 << start)


def _load_2(made: Program, body: memoryview) -> None:
    wire, value, mask, _ = read_tlv(body, "load")
    set_wire(made, wire, value, mask)


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


def _stack(code: int) -> Add:
    def add(made: Program, body: memoryview) -> None:
        start, header, count = struct.unpack_from("!HIH", body)
        written = code == p.POP
        wire, bit, bits = subfield(header, start, count, "pop" if written else "push", written)
        if written:
            made.note_option(wire.field)
            made.add(p.POP, FOLLOWS.get(wire.field.name, p.SET_NOTHING), 0, bit, count, 0)
        else:
            made.reads |= bits
            made.add(p.PUSH, 0, 0, bit, count)

    return add


def _dec_ttl_ids(made: Program, body: memoryview) -> None:
    (count,) = struct.unpack_from("!H", body)
    if len(body) < 6 + 2 * count or not count:
        raise bad_action(ACTION_BAD_LEN, f"dec_ttl: {count} controllers do not fit")
    made.add(p.DEC_TTL, 0, struct.unpack_from("!H", body, 6)[0])


def _controller(made: Program, body: memoryview) -> None:
    max_len, number, reason = struct.unpack_from("!HHB", body)
    made.add(p.CONTROLLER, max_len, number, reason, 0)


def _write_metadata(made: Program, body: memoryview) -> None:
    value, mask = struct.unpack_from("!QQ", body, 6)
    set_field(made, BY_NAME["metadata"], value & mask, mask)


def _clone(made: Program, body: memoryview) -> None:
    inner = made.inside()
    compile_actions(inner, body[6:])
    made.add_inner(p.CLONE, inner)


def _learn(made: Program, body: memoryview) -> None:
    assert made.targets is not None
    reads = decode_learn(body).reads()
    made.reads |= reads
    pairs = [number for pair in mask_words(reads.to_bytes(KEY_SIZE, "big")) for number in pair]
    made.add(p.LEARN, 0, 0, made.targets.blob(bytes(body)), *pairs)


def _multipath(made: Program, body: memoryview) -> None:
    fields, basis, algorithm, last, argument, where, header = struct.unpack_from("!HH2xHHI2xHI", body)
    start, count = where >> 6, (where & 63) + 1
    if fields > p.HASH_IP_DST or algorithm > p.LINK_ITERATIVE:
        raise bad_action(ACTION_BAD_ARG, f"multipath: fields {fields} or algorithm {algorithm} are not there")
    if last >> count:
        raise bad_action(ACTION_BAD_ARG, f"multipath: {last + 1} links have no number each in {count} bits")
    wire, bit, _ = subfield(header, start, count, "multipath", written=True)
    made.reads |= _hashed(fields)
    made.note_option(wire.field)
    kind = FOLLOWS.get(wire.field.name, p.SET_NOTHING)
    made.add(p.MULTIPATH, kind, last + 1, fields, basis ^ argument, algorithm, bit, count)


def _bundle(is_loaded: bool) -> Add:
    def add(made: Program, body: memoryview) -> None:
        algorithm, fields, basis, kind, members, where, header = struct.unpack_from("!HHHIHHI", body)
        if fields > p.HASH_IP_DST or algorithm > p.MEMBER_HIGHEST_RANDOM_WEIGHT or kind != MEMBER_IN_PORT:
            raise bad_action(ACTION_BAD_ARG, f"bundle: fields {fields}, algorithm {algorithm} or members {kind:#x}")
        ports = [port_32(each) for each in struct.unpack_from(f"!{members}H", body, 22)]
        bit = count = 0
        follows = p.SET_NOTHING
        if is_loaded:
            start, count = where >> 6, (where & 63) + 1
            wire, bit, _ = subfield(header, start, count, "bundle", written=True)
            follows = FOLLOWS.get(wire.field.name, p.SET_NOTHING)
            made.note_option(wire.field)
        made.reads |= _hashed(fields)
        made.add(p.BUNDLE, follows, int(is_loaded), fields, basis, algorithm, bit, count, *ports)

    return add


def _hashed(fields: int) -> int:
    """The bits of a key that a hash is of, as a number."""
    found = 0
    for name in _HASHED[fields]:
        row = BY_NAME[name]
        found |= (1 << row.bits) - 1 << in_key(row)
    return found


_L3L4 = ("ip_src", "ip_dst", "ipv6_src", "ipv6_dst", "nw_proto", "tcp_src", "tcp_dst")
_HASHED = {
    p.HASH_ETH_SRC: ("eth_src",),
    p.HASH_SYMMETRIC_L4: (*_L3L4, "eth_src", "eth_dst", "vlan_tci", "eth_type"),
    p.HASH_SYMMETRIC_L3L4: _L3L4,
    p.HASH_SYMMETRIC_L3L4_UDP: _L3L4,
    p.HASH_IP_SRC: ("ip_src", "ipv6_src"),
    p.HASH_IP_DST: ("ip_dst", "ipv6_dst"),
}
MEMBER_IN_PORT = 0x00000002  # NXM_OF_IN_PORT's header: the members are ports


def _fin_timeout(made: Program, body: memoryview) -> None:
    idle, hard = struct.unpack_from("!HH", body)
    made.reads |= (1 << BY_NAME["tcp_flags"].bits) - 1 << in_key(BY_NAME["tcp_flags"])
    made.add(p.FIN_TIMEOUT, 0, 0, idle << 16 | hard)


def _conjunction(made: Program, body: memoryview) -> None:
    clause, clauses, number = struct.unpack_from("!BBI", body)
    if not 2 <= clauses <= 64 or clause >= clauses:
        raise bad_action(ACTION_BAD_ARG, f"conjunction: clause {clause + 1} of {clauses}")
    made.add(p.CONJUNCTION, 0, number, clause | clauses << 8)


MAX_LEN, CONTROLLER_ID, REASON, USERDATA, _PAUSE, METER_ID = range(6)


def _controller_2(made: Program, body: memoryview) -> None:
    assert made.targets is not None
    max_len, number, reason, user_data = WHOLE, 0, REASON_ACTION, 0
    at = 6
    while at + 4 <= len(body):
        kind, length = struct.unpack_from("!HH", body, at)
        if length < 4 or at + length > len(body):
            break
        value = body[at + 4 : at + length]
        if kind == MAX_LEN:
            (max_len,) = struct.unpack_from("!H", value)
        elif kind == CONTROLLER_ID:
            (number,) = struct.unpack_from("!H", value)
        elif kind == REASON:
            reason = value[0]
        elif kind == USERDATA:
            user_data = made.targets.blob(bytes(value))
        elif kind == METER_ID:
            add_meter(made, struct.unpack_from("!I", value)[0])
        elif kind:
            raise bad_action(ACTION_BAD_ARG, f"controller: property {kind} is not there")
        at += (length + 7) // 8 * 8
    made.add(p.CONTROLLER, max_len, number, reason, user_data)


NICIRA |= {
    Nx.RESUBMIT: (16, _resubmit_port),
    Nx.SET_TUNNEL: (16, _set_tunnel),
    Nx.SET_QUEUE: (16, _set_queue),
    Nx.POP_QUEUE: (16, simple(p.POP_QUEUE)),
    Nx.MOVE: (24, _move),
    Nx.LOAD: (24, _load),
    Nx.NOTE: (16, lambda _made, _body: None),
    Nx.SET_TUNNEL_64: (24, _set_tunnel_64),
    Nx.MULTIPATH: (32, _multipath),
    Nx.BUNDLE: (32, _bundle(is_loaded=False)),
    Nx.BUNDLE_LOAD: (32, _bundle(is_loaded=True)),
    Nx.RESUBMIT_TABLE: (16, _resubmit_table),
    Nx.OUTPUT_REG: (24, _output_reg),
    Nx.LEARN: (32, _learn),
    Nx.EXIT: (16, simple(p.EXIT)),
    Nx.DEC_TTL: (16, simple(p.DEC_TTL)),
    Nx.FIN_TIMEOUT: (16, _fin_timeout),
    Nx.CONTROLLER: (16, _controller),
    Nx.DEC_TTL_IDS: (16, _dec_ttl_ids),
    Nx.WRITE_METADATA: (32, _write_metadata),
    Nx.PUSH_MPLS: (16, retype_mpls(p.PUSH_MPLS)),
    Nx.POP_MPLS: (16, retype_mpls(p.POP_MPLS)),
    Nx.SET_MPLS_TTL: (16, with_byte(p.SET_MPLS_TTL)),
    Nx.DEC_MPLS_TTL: (16, simple(p.DEC_MPLS_TTL)),
    Nx.PUSH: (24, _stack(p.PUSH)),
    Nx.POP: (24, _stack(p.POP)),
    Nx.LOAD_2: (16, _load_2),
    Nx.CONJUNCTION: (16, _conjunction),
    Nx.CONTROLLER_2: (16, _controller_2),
    Nx.CLONE: (16, _clone),
}

"""Actions as text, in the notation of ovs-ofctl(8), to OpenFlow 1.3's bytes: ``text_shown`` goes back.

``PARSERS`` has one row for each kind of action. The bytes are those that ``actions`` and ``nicira`` compile.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

from penstock.engine.flow_tables import TABLES
from penstock.openflow.action_wire import (
    CURRENT_TABLE,
    IN_PORT_16,
    REASON_ACTION,
    WHOLE,
    Instruction,
    Kind,
    Nx,
    action,
    apply_instruction,
    instruction,
    load_actions,
    nicira,
    output_action,
    set_field,
    set_field_action,
)
from penstock.openflow.match import VID_PRESENT, port_16, wire_of
from penstock.openflow.text_choices import (
    parse_bundle,
    parse_conjunction,
    parse_fin_timeout,
    parse_learn,
    parse_multipath,
)
from penstock.openflow.text_match import PORTS, TextError, items, parse_port, parse_value, split
from penstock.openflow.text_parts import BY_NXM_NAME, inside, number, parse_part
from penstock.packet.fields import BY_NAME
from penstock.packet.text import PARSERS as VALUES
from penstock.packet.text import parse_number

CONTROLLER = PORTS["controller"]
REASONS = {"no_match": 0, "action": 1, "invalid_ttl": 2, "action_set": 3, "group": 4, "packet_out": 5}
Names = Mapping[str, int]


def _output(text: str, names: Names) -> bytes:
    if "[" in text:
        wire, start, count = parse_part(text)
        return nicira(Nx.OUTPUT_REG, struct.pack("!HIH6x", start << 6 | count - 1, wire.header(), WHOLE))
    port = parse_port(text, names)
    return output_action(port, WHOLE if port == CONTROLLER else 0)


def _controller(text: str, _names: Names) -> bytes:
    max_len, ident, reason = WHOLE, 0, REASON_ACTION
    for key, value in split(text.strip("()")) if text else ():
        if key == "max_len":
            max_len = number(value or "", "controller: max_len", WHOLE)
        elif key == "id":
            ident = number(value or "", "controller: id", 0xFFFF)
        elif key == "reason" and value in REASONS:
            reason = REASONS[value]
        elif value is None:
            max_len = number(key, "controller", WHOLE)
        else:
            raise TextError(f"controller: '{key}' is unknown; known are max_len, id and reason")
    if (ident, reason) == (0, REASON_ACTION):
        return output_action(CONTROLLER, max_len)
    return nicira(Nx.CONTROLLER, struct.pack("!HHBx", max_len, ident, reason))


def _set_field(text: str, names: Names) -> bytes:
    value_text, arrow, name = text.rpartition("->")
    row = BY_NAME.get(name) or BY_NXM_NAME.get(name.removesuffix("[]"))
    if not arrow or row is None:
        raise TextError(f"set_field:{text}: as in set_field:10.0.0.1->ip_dst")
    if row.name == "vlan_vid":
        value, mask = parse_number(value_text) | VID_PRESENT, 0x1FFF
    else:
        value, mask = parse_value(row, value_text, names)
    wire = wire_of(row)
    if wire is None:
        raise TextError(f"set_field: field {row.name} has no number that OpenFlow could name it by")
    return set_field_action(wire, value, None if mask == (1 << wire.bits) - 1 else mask)


def _load(text: str, _names: Names) -> bytes:
    value_text, arrow, part = text.rpartition("->")
    if not arrow:
        raise TextError(f"load:{text}: as in load:5->NXM_NX_REG0[0..7]")
    wire, start, count = parse_part(part)
    return load_actions(wire, start, count, number(value_text, "load", (1 << count) - 1))


def _move(text: str, _names: Names) -> bytes:
    source, arrow, destination = text.partition("->")
    if not arrow:
        raise TextError(f"move:{text}: as in move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]")
    from_wire, from_start, count = parse_part(source)
    to_wire, to_start, to_count = parse_part(destination)
    if count != to_count:
        raise TextError(f"move:{text}: {count} bits do not go where {to_count} are")
    body = struct.pack("!HHHII", count, from_start, to_start, from_wire.header(), to_wire.header())
    return nicira(Nx.MOVE, body)


def _stack(subtype: int) -> Callable[[str, Names], bytes]:
    def parse(text: str, _names: Names) -> bytes:
        wire, start, count = parse_part(text)
        return nicira(subtype, struct.pack("!HIH6x", start, wire.header(), count))

    return parse


def _resubmit(text: str, names: Names) -> bytes:
    if not text.startswith("("):
        return nicira(Nx.RESUBMIT, struct.pack("!H4x", port_16(parse_port(text, names))))
    port_text, _, table_text = text.strip("()").partition(",")
    port = port_16(parse_port(port_text, names)) if port_text else IN_PORT_16
    table = number(table_text, "resubmit: table", TABLES - 1) if table_text else CURRENT_TABLE
    return nicira(Nx.RESUBMIT_TABLE, struct.pack("!HB3x", port, table))


def _dec_ttl(text: str, _names: Names) -> bytes:
    if not text:
        return action(Kind.DEC_NW_TTL)
    ids = [number(each, "dec_ttl", 0xFFFF) for each in text.strip("()").split(",") if each]
    return nicira(Nx.DEC_TTL_IDS, struct.pack(f"!H4x{len(ids)}H", len(ids), *ids))


def _mod(name: str) -> Callable[[str, Names], bytes]:
    def parse(text: str, _names: Names) -> bytes:
        row = BY_NAME[name]
        try:
            value = VALUES.get(row.text, parse_number)(text)
        except ValueError as error:
            raise TextError(f"{name}: {error}") from None
        if name == "ip_dscp":
            value >>= 2
        if value > (1 << row.bits) - 1:
            raise TextError(f"{name}: {text} does not fit in {row.bits} bits")
        return set_field(name, value | VID_PRESENT if name == "vlan_vid" else value)

    return parse


def _plain(kind: int) -> Callable[[str, Names], bytes]:
    return lambda _text, _names: action(kind)


def _typed(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!H2x", number(text, "type", 0xFFFF)))


def _byte(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!B3x", number(text.strip("()"), "TTL", 255)))


def _word(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!I", number(text, "number", 0xFFFFFFFF)))


def _own(subtype: int) -> Callable[[str, Names], bytes]:
    return lambda _text, _names: nicira(subtype)


def _tunnel(text: str, _names: Names) -> bytes:
    return set_field("tun_id", number(text, "set_tunnel", (1 << 64) - 1))


def _note(text: str, _names: Names) -> bytes:
    return nicira(Nx.NOTE, bytes.fromhex(text.replace(".", "")))


def _clone(text: str, names: Names) -> bytes:
    return nicira(Nx.CLONE, bytes(6) + parse_actions(inside(text), names))


def _enqueue(text: str, names: Names) -> bytes:
    port, _, queue = text.strip("()").replace(":", ",").partition(",")
    words = _word(Kind.SET_QUEUE)(queue, names), _output(port, names), _own(Nx.POP_QUEUE)("", names)
    return b"".join(words)


PARSERS: dict[str, Callable[[str, Names], bytes]] = {
    "output": _output,
    "controller": _controller,
    "enqueue": _enqueue,
    "set_field": _set_field,
    "load": _load,
    "move": _move,
    "push": _stack(Nx.PUSH),
    "pop": _stack(Nx.POP),
    "resubmit": _resubmit,
    "group": _word(Kind.GROUP),
    "set_queue": _word(Kind.SET_QUEUE),
    "pop_queue": _own(Nx.POP_QUEUE),
    "strip_vlan": _plain(Kind.POP_VLAN),
    "pop_vlan": _plain(Kind.POP_VLAN),
    "push_vlan": _typed(Kind.PUSH_VLAN),
    "push_mpls": _typed(Kind.PUSH_MPLS),
    "pop_mpls": _typed(Kind.POP_MPLS),
    "mod_vlan_vid": _mod("vlan_vid"),
    "mod_vlan_pcp": _mod("vlan_pcp"),
    "mod_dl_src": _mod("eth_src"),
    "mod_dl_dst": _mod("eth_dst"),
    "mod_nw_src": _mod("ip_src"),
    "mod_nw_dst": _mod("ip_dst"),
    "mod_tp_src": _mod("tcp_src"),
    "mod_tp_dst": _mod("tcp_dst"),
    "mod_nw_tos": _mod("ip_dscp"),
    "mod_nw_ecn": _mod("nw_ecn"),
    "mod_nw_ttl": _byte(Kind.SET_NW_TTL),
    "dec_ttl": _dec_ttl,
    "set_mpls_ttl": _byte(Kind.SET_MPLS_TTL),
    "dec_mpls_ttl": _plain(Kind.DEC_MPLS_TTL),
    "copy_ttl_out": _plain(Kind.COPY_TTL_OUT),
    "copy_ttl_in": _plain(Kind.COPY_TTL_IN),
    "set_tunnel": _tunnel,
    "set_tunnel64": _tunnel,
    "note": _note,
    "exit": _own(Nx.EXIT),
    "clone": _clone,
    "learn": parse_learn,
    "multipath": parse_multipath,
    "bundle": parse_bundle(is_loaded=False),
    "bundle_load": parse_bundle(is_loaded=True),
    "conjunction": parse_conjunction,
    "fin_timeout": parse_fin_timeout,
}
_PORT_WORDS = {"in_port", "normal", "flood", "all", "local", "table"}


def split_words(text: str) -> Iterator[tuple[str, str]]:
    """Name and operand (with its brackets) of each action in a list."""
    for part in items(text):
        cut = min((place for sign in ":(" if (place := part.find(sign)) >= 0), default=len(part))
        yield part[:cut], part[cut + 1 :] if part[cut : cut + 1] == ":" else part[cut:]


def parse_actions(text: str, names: Names) -> bytes:
    """OpenFlow 1.3's actions. Raises TextError."""
    out = bytearray()
    for name, operand in split_words(text):
        if name.lower() == "drop":
            continue
        if name in PARSERS:
            out += PARSERS[name](operand, names)
        elif name.lower() == "controller":
            out += _controller(operand, names)
        elif not operand and (name.lower() in _PORT_WORDS or name in names or name.isdecimal()):
            out += _output(name, names)
        else:
            raise TextError(f"'{name}' is no action; known are {', '.join(sorted(PARSERS))}, and names of ports")
    return bytes(out)


def parse_instructions(text: str, names: Names) -> bytes:
    """OpenFlow 1.3's instructions. Raises TextError."""
    actions = bytearray()
    others = bytearray()
    for name, operand in split_words(text):
        if name == "goto_table":
            others += instruction(
                Instruction.GOTO_TABLE, struct.pack("!B3x", number(operand, "goto_table", TABLES - 1))
            )
        elif name == "meter":
            others += instruction(Instruction.METER, struct.pack("!I", number(operand, "meter", 0xFFFFFFFF)))
        elif name == "clear_actions":
            others += instruction(Instruction.CLEAR_ACTIONS)
        elif name == "write_actions":
            inner = parse_actions(inside(operand), names)
            others += instruction(Instruction.WRITE_ACTIONS, bytes(4) + inner)
        elif name == "write_metadata":
            value, _, mask = operand.partition("/")
            bits = number(mask, "write_metadata", (1 << 64) - 1) if mask else (1 << 64) - 1
            written = number(value, "write_metadata", (1 << 64) - 1)
            others += instruction(Instruction.WRITE_METADATA, struct.pack("!4xQQ", written, bits))
        elif name == "apply_actions":
            actions += parse_actions(inside(operand), names)
        else:
            actions += parse_actions(
                f"{name}:{operand}" if operand and operand[0] not in "(" else name + operand, names
            )
    return apply_instruction(bytes(actions)) + bytes(others)

"""Actions as text, in the notation of ovs-ofctl(8), to OpenFlow 1.3's bytes and back.

``PARSERS`` and ``SHOWERS`` have one row for each kind of action. The bytes are those that ``actions`` compiles.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from penstock.engine.flow_tables import TABLES
from penstock.openflow.actions import (
    APPLY_ACTIONS,
    CLEAR_ACTIONS,
    GOTO_TABLE,
    METER,
    NX_LOAD,
    WRITE_ACTIONS,
    WRITE_METADATA,
    action,
    nicira,
    read_tlv,
    split_actions,
    split_instructions,
)
from penstock.openflow.actions10 import set_field
from penstock.openflow.match import BY_NUMBER, VID_PRESENT, Wire, port_16
from penstock.openflow.text_choices import (
    NX_BUNDLE,
    NX_BUNDLE_LOAD,
    NX_CONJUNCTION,
    NX_FIN_TIMEOUT,
    NX_LEARN,
    NX_MULTIPATH,
    parse_bundle,
    parse_conjunction,
    parse_fin_timeout,
    parse_learn,
    parse_multipath,
    show_bundle,
    show_conjunction,
    show_fin_timeout,
    show_learn,
    show_multipath,
)
from penstock.openflow.text_match import TextError, parse_port, parse_value, show_port, show_value, split
from penstock.openflow.text_parts import BY_NXM_NAME, header_of, number, parse_part, show_part
from penstock.openflow.wire import NICIRA_ID
from penstock.packet.fields import BY_NAME
from penstock.packet.text import PARSERS as VALUES
from penstock.packet.text import parse_number

CONTROLLER = 0xFFFFFFFD
WHOLE = 0xFFFF
NX_RESUBMIT, NX_SET_TUNNEL, NX_POP_QUEUE, NX_MOVE, NX_NOTE, NX_SET_TUNNEL_64, NX_RESUBMIT_TABLE = (
    1, 2, 5, 6, 8, 9, 14,
)  # fmt: skip
NX_OUTPUT_REG, NX_EXIT, NX_CONTROLLER, NX_DEC_TTL_IDS, NX_PUSH, NX_POP, NX_CLONE = 15, 17, 20, 21, 27, 28, 42
IN_PORT_16 = 0xFFF8
CURRENT_TABLE = 0xFF
_REASONS = {"no_match": 0, "action": 1, "invalid_ttl": 2, "action_set": 3, "group": 4, "packet_out": 5}
Names = Mapping[str, int]


def _output(text: str, names: Names) -> bytes:
    if "[" in text:
        row, start, count = parse_part(text)
        return nicira(NX_OUTPUT_REG, struct.pack("!HIH6x", start << 6 | count - 1, header_of(row), WHOLE))
    port = parse_port(text, names)
    return action(0, struct.pack("!IH6x", port, WHOLE if port == CONTROLLER else 0))


def _controller(text: str, _names: Names) -> bytes:
    max_len, ident, reason = WHOLE, 0, 1
    for key, value in split(text.strip("()")) if text else ():
        if key == "max_len":
            max_len = number(value or "", "controller: max_len", WHOLE)
        elif key == "id":
            ident = number(value or "", "controller: id", 0xFFFF)
        elif key == "reason" and value in _REASONS:
            reason = _REASONS[value]
        elif value is None:
            max_len = number(key, "controller", WHOLE)
        else:
            raise TextError(f"controller: '{key}' is unknown; known are max_len, id and reason")
    if (ident, reason) == (0, 1):
        return action(0, struct.pack("!IH6x", CONTROLLER, max_len))
    return nicira(NX_CONTROLLER, struct.pack("!HHBx", max_len, ident, reason))


def _set_field(text: str, names: Names) -> bytes:
    value_text, arrow, name = text.rpartition("->")
    row = BY_NAME.get(name) or BY_NXM_NAME.get(name.removesuffix("[]"))
    if not arrow or row is None:
        raise TextError(f"set_field:{text}: as in set_field:10.0.0.1->ip_dst")
    if row.name == "vlan_vid":
        value, mask = parse_number(value_text) | VID_PRESENT, 0x1FFF
    else:
        value, mask = parse_value(row, value_text, names)
    tlv = row.oxm or row.nxm
    if tlv is None:
        raise TextError(f"set_field: field {row.name} has no number that OpenFlow could name it by")
    wire = BY_NUMBER[tlv[0] << 7 | tlv[1]]
    masked = mask != (1 << wire.bits) - 1
    out = struct.pack("!HBB", tlv[0], tlv[1] << 1 | masked, wire.octets << masked)
    return action(25, out + value.to_bytes(wire.octets, "big") + (mask.to_bytes(wire.octets, "big") if masked else b""))


def _load(text: str, _names: Names) -> bytes:
    value_text, arrow, part = text.rpartition("->")
    if not arrow:
        raise TextError(f"load:{text}: as in load:5->NXM_NX_REG0[0..7]")
    row, start, count = parse_part(part)
    value = number(value_text, "load", (1 << min(count, 64)) - 1)
    return nicira(NX_LOAD, struct.pack("!HIQ", start << 6 | count - 1, header_of(row), value))


def _move(text: str, _names: Names) -> bytes:
    source, arrow, destination = text.partition("->")
    if not arrow:
        raise TextError(f"move:{text}: as in move:NXM_OF_IP_SRC[]->NXM_NX_REG0[]")
    from_row, from_start, count = parse_part(source)
    to_row, to_start, to_count = parse_part(destination)
    if count != to_count:
        raise TextError(f"move:{text}: {count} bits do not go where {to_count} are")
    return nicira(NX_MOVE, struct.pack("!HHHII", count, from_start, to_start, header_of(from_row), header_of(to_row)))


def _stack(subtype: int) -> Callable[[str, Names], bytes]:
    def parse(text: str, _names: Names) -> bytes:
        row, start, count = parse_part(text)
        return nicira(subtype, struct.pack("!HIH6x", start, header_of(row), count))

    return parse


def _resubmit(text: str, names: Names) -> bytes:
    if not text.startswith("("):
        return nicira(NX_RESUBMIT, struct.pack("!H4x", port_16(parse_port(text, names))))
    port_text, _, table_text = text.strip("()").partition(",")
    port = port_16(parse_port(port_text, names)) if port_text else IN_PORT_16
    table = number(table_text, "resubmit: table", TABLES - 1) if table_text else CURRENT_TABLE
    return nicira(NX_RESUBMIT_TABLE, struct.pack("!HB3x", port, table))


def _dec_ttl(text: str, _names: Names) -> bytes:
    if not text:
        return action(24, bytes(4))
    ids = [number(each, "dec_ttl", 0xFFFF) for each in text.strip("()").split(",") if each]
    return nicira(NX_DEC_TTL_IDS, struct.pack(f"!H4x{len(ids)}H", len(ids), *ids))


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
    return lambda _text, _names: action(kind, bytes(4))


def _typed(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!H2x", number(text, "type", 0xFFFF)))


def _byte(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!B3x", number(text.strip("()"), "TTL", 255)))


def _word(kind: int) -> Callable[[str, Names], bytes]:
    return lambda text, _names: action(kind, struct.pack("!I", number(text, "number", 0xFFFFFFFF)))


def _own(subtype: int) -> Callable[[str, Names], bytes]:
    return lambda _text, _names: nicira(subtype, bytes(6))


def _tunnel(text: str, _names: Names) -> bytes:
    return set_field("tun_id", number(text, "set_tunnel", (1 << 64) - 1))


def _note(text: str, _names: Names) -> bytes:
    return nicira(NX_NOTE, bytes.fromhex(text.replace(".", "")))


def _clone(text: str, names: Names) -> bytes:
    return nicira(NX_CLONE, bytes(6) + parse_actions(text.removeprefix("(").removesuffix(")"), names))


def _enqueue(text: str, names: Names) -> bytes:
    port, _, queue = text.strip("()").replace(":", ",").partition(",")
    words = _word(21)(queue, names), _output(port, names), _own(NX_POP_QUEUE)("", names)
    return b"".join(words)


PARSERS: dict[str, Callable[[str, Names], bytes]] = {
    "output": _output,
    "controller": _controller,
    "enqueue": _enqueue,
    "set_field": _set_field,
    "load": _load,
    "move": _move,
    "push": _stack(NX_PUSH),
    "pop": _stack(NX_POP),
    "resubmit": _resubmit,
    "group": _word(22),
    "set_queue": _word(21),
    "pop_queue": _own(NX_POP_QUEUE),
    "strip_vlan": _plain(18),
    "pop_vlan": _plain(18),
    "push_vlan": _typed(17),
    "push_mpls": _typed(19),
    "pop_mpls": _typed(20),
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
    "mod_nw_ttl": _byte(23),
    "dec_ttl": _dec_ttl,
    "set_mpls_ttl": _byte(15),
    "dec_mpls_ttl": _plain(16),
    "copy_ttl_out": _plain(11),
    "copy_ttl_in": _plain(12),
    "set_tunnel": _tunnel,
    "set_tunnel64": _tunnel,
    "note": _note,
    "exit": _own(NX_EXIT),
    "clone": _clone,
    "learn": parse_learn,
    "multipath": parse_multipath,
    "bundle": parse_bundle(is_loaded=False),
    "bundle_load": parse_bundle(is_loaded=True),
    "conjunction": parse_conjunction,
    "fin_timeout": parse_fin_timeout,
}
_PORT_WORDS = {"in_port", "normal", "flood", "all", "local", "table"}


def split_words(text: str) -> list[tuple[str, str]]:
    """Name and operand (with its brackets) of each action in a list."""
    found = []
    depth = 0
    part = ""
    for char in text + ",":
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and (char == "," or char.isspace()):
            if part:
                cut = min((place for sign in ":(" if (place := part.find(sign)) >= 0), default=len(part))
                found.append((part[:cut], part[cut + 1 :] if part[cut : cut + 1] == ":" else part[cut:]))
            part = ""
        else:
            part += char
    if depth:
        raise TextError(f"brackets in '{text}' are not closed")
    return found


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


def _instruction(kind: int, body: bytes) -> bytes:
    return struct.pack("!HH", kind, 4 + len(body)) + body


def parse_instructions(text: str, names: Names) -> bytes:
    """OpenFlow 1.3's instructions. Raises TextError."""
    actions = bytearray()
    others = bytearray()
    for name, operand in split_words(text):
        if name == "goto_table":
            others += _instruction(GOTO_TABLE, struct.pack("!B3x", number(operand, "goto_table", TABLES - 1)))
        elif name == "meter":
            others += _instruction(METER, struct.pack("!I", number(operand, "meter", 0xFFFFFFFF)))
        elif name == "clear_actions":
            others += _instruction(CLEAR_ACTIONS, bytes(4))
        elif name == "write_actions":
            inner = parse_actions(operand.removeprefix("(").removesuffix(")"), names)
            others += _instruction(WRITE_ACTIONS, bytes(4) + inner)
        elif name == "write_metadata":
            value, _, mask = operand.partition("/")
            bits = number(mask, "write_metadata", (1 << 64) - 1) if mask else (1 << 64) - 1
            written = number(value, "write_metadata", (1 << 64) - 1)
            others += _instruction(WRITE_METADATA, struct.pack("!4xQQ", written, bits))
        elif name == "apply_actions":
            actions += parse_actions(operand.removeprefix("(").removesuffix(")"), names)
        else:
            actions += parse_actions(
                f"{name}:{operand}" if operand and operand[0] not in "(" else name + operand, names
            )
    applied = _instruction(APPLY_ACTIONS, bytes(4) + actions) if actions else b""
    return bytes(applied + others)


# And back

Numbers = Mapping[int, str]


def _show_output(body: memoryview, numbers: Numbers) -> str:
    port, max_len = struct.unpack_from("!IH", body)
    if port == CONTROLLER:
        return f"CONTROLLER:{max_len}"
    text = show_port(port, numbers)
    return text if port > 0xFFFFFF00 else f"output:{text}"


def _show_set_field(body: memoryview, numbers: Numbers) -> str:
    wire, value, mask, _ = read_tlv(body, "set_field")
    row = wire.field
    if row.name == "vlan_vid":
        return f"set_field:{value & 0xFFF}->vlan_vid"
    return f"set_field:{show_value(row, value, mask, numbers)}->{row.name}"


SHOWERS: dict[int, Callable[[memoryview, Numbers], str]] = {
    0: _show_output,
    11: lambda _body, _numbers: "copy_ttl_out",
    12: lambda _body, _numbers: "copy_ttl_in",
    15: lambda body, _numbers: f"set_mpls_ttl({body[0]})",
    16: lambda _body, _numbers: "dec_mpls_ttl",
    17: lambda body, _numbers: f"push_vlan:{int.from_bytes(body[:2], 'big'):#06x}",
    18: lambda _body, _numbers: "pop_vlan",
    19: lambda body, _numbers: f"push_mpls:{int.from_bytes(body[:2], 'big'):#06x}",
    20: lambda body, _numbers: f"pop_mpls:{int.from_bytes(body[:2], 'big'):#06x}",
    21: lambda body, _numbers: f"set_queue:{int.from_bytes(body[:4], 'big')}",
    22: lambda body, _numbers: f"group:{int.from_bytes(body[:4], 'big')}",
    23: lambda body, _numbers: f"mod_nw_ttl:{body[0]}",
    24: lambda _body, _numbers: "dec_ttl",
    25: _show_set_field,
}


def _part(header: int) -> Wire:
    return BY_NUMBER[header >> 9]


def _show_resubmit(body: memoryview, numbers: Numbers) -> str:
    port, table = struct.unpack_from("!HB", body)
    shown = "" if port == IN_PORT_16 else show_port(port, numbers)
    return f"resubmit:{shown}" if table == CURRENT_TABLE else f"resubmit({shown},{table})"


def _show_move(body: memoryview, _numbers: Numbers) -> str:
    count, from_start, to_start, source, destination = struct.unpack_from("!HHHII", body)
    return f"move:{show_part(_part(source), from_start, count)}->{show_part(_part(destination), to_start, count)}"


def _show_load(body: memoryview, _numbers: Numbers) -> str:
    where, header, value = struct.unpack_from("!HIQ", body)
    return f"load:{value:#x}->{show_part(_part(header), where >> 6, (where & 63) + 1)}"


def _show_output_reg(body: memoryview, _numbers: Numbers) -> str:
    where, header = struct.unpack_from("!HI", body)
    return f"output:{show_part(_part(header), where >> 6, (where & 63) + 1)}"


def _show_stack(word: str) -> Callable[[memoryview, Numbers], str]:
    def show(body: memoryview, _numbers: Numbers) -> str:
        start, header, count = struct.unpack_from("!HIH", body)
        return f"{word}:{show_part(_part(header), start, count)}"

    return show


def _show_controller(body: memoryview, _numbers: Numbers) -> str:
    max_len, ident, reason = struct.unpack_from("!HHB", body)
    parts = [] if reason == 1 else [f"reason={next(name for name, each in _REASONS.items() if each == reason)}"]
    parts += [f"max_len={max_len}"] if max_len != WHOLE else []
    return f"controller({','.join([*parts, f'id={ident}'])})"


def _show_dec_ttl(body: memoryview, _numbers: Numbers) -> str:
    (count,) = struct.unpack_from("!H", body)
    return f"dec_ttl({','.join(map(str, struct.unpack_from(f'!{count}H', body, 6)))})"


OWN_SHOWERS: dict[int, Callable[[memoryview, Numbers], str]] = {
    NX_RESUBMIT: lambda body, numbers: f"resubmit:{show_port(int.from_bytes(body[:2], 'big'), numbers)}",
    NX_SET_TUNNEL: lambda body, _numbers: f"set_tunnel:{int.from_bytes(body[2:6], 'big'):#x}",
    NX_POP_QUEUE: lambda _body, _numbers: "pop_queue",
    NX_MOVE: _show_move,
    NX_LOAD: _show_load,
    NX_NOTE: lambda body, _numbers: f"note:{body.hex('.')}",
    NX_SET_TUNNEL_64: lambda body, _numbers: f"set_tunnel64:{int.from_bytes(body[6:14], 'big'):#x}",
    NX_RESUBMIT_TABLE: _show_resubmit,
    NX_OUTPUT_REG: _show_output_reg,
    NX_EXIT: lambda _body, _numbers: "exit",
    NX_CONTROLLER: _show_controller,
    NX_DEC_TTL_IDS: _show_dec_ttl,
    NX_PUSH: _show_stack("push"),
    NX_POP: _show_stack("pop"),
    NX_LEARN: show_learn,
    NX_MULTIPATH: show_multipath,
    NX_BUNDLE: show_bundle(is_loaded=False),
    NX_BUNDLE_LOAD: show_bundle(is_loaded=True),
    NX_CONJUNCTION: show_conjunction,
    NX_FIN_TIMEOUT: show_fin_timeout,
    NX_CLONE: lambda body, numbers: f"clone({','.join(show_actions(body[6:], numbers))})",
}


def show_actions(data: memoryview, numbers: Numbers) -> list[str]:
    """The text of each action; what there is no text for is told by its number."""
    found = []
    for kind, body, _ in split_actions(data):
        if kind == 0xFFFF:
            vendor, subtype = struct.unpack_from("!IH", body)
            own = OWN_SHOWERS.get(subtype) if vendor == NICIRA_ID else None
            found.append(own(body[6:], numbers) if own else f"experimenter({vendor:#x},{subtype})")
        elif kind in SHOWERS:
            found.append(SHOWERS[kind](body, numbers))
        else:
            found.append(f"action({kind})")
    return found


def show_instructions(data: bytes, numbers: Numbers) -> str:
    """The text behind ``actions=``."""
    found = split_instructions(memoryview(data))
    parts = []
    if METER in found:
        parts.append(f"meter:{int.from_bytes(found[METER][:4], 'big')}")
    if APPLY_ACTIONS in found:
        parts += show_actions(found[APPLY_ACTIONS][4:], numbers)
    if CLEAR_ACTIONS in found:
        parts.append("clear_actions")
    if WRITE_ACTIONS in found:
        parts.append(f"write_actions({','.join(show_actions(found[WRITE_ACTIONS][4:], numbers))})")
    if WRITE_METADATA in found:
        value, mask = struct.unpack_from("!QQ", found[WRITE_METADATA], 4)
        parts.append(f"write_metadata:{value:#x}" + ("" if mask == (1 << 64) - 1 else f"/{mask:#x}"))
    if GOTO_TABLE in found:
        parts.append(f"goto_table:{found[GOTO_TABLE][0]}")
    return ",".join(parts) or "drop"

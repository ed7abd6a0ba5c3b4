"""Actions and instructions of OpenFlow 1.3 as text, in the notation of ovs-ofctl(8): see ``text_actions``."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from penstock.openflow.action_wire import (
    CURRENT_TABLE,
    IN_PORT_16,
    REASON_ACTION,
    WHOLE,
    Instruction,
    Kind,
    Nx,
    split_actions,
    split_instructions,
)
from penstock.openflow.compile import read_tlv
from penstock.openflow.text_actions import CONTROLLER, REASONS
from penstock.openflow.text_choices import (
    show_bundle,
    show_conjunction,
    show_fin_timeout,
    show_learn,
    show_multipath,
)
from penstock.openflow.text_match import show_port, show_value
from penstock.openflow.text_parts import show_part
from penstock.openflow.wire import NICIRA_ID

Numbers = Mapping[int, str]
Shower = Callable[[memoryview, Numbers], str]


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


def _word(word: str) -> Shower:
    return lambda _body, _numbers: word


def _number(word: str, size: int) -> Shower:
    return lambda body, _numbers: f"{word}:{int.from_bytes(body[:size], 'big')}"


def _hex(word: str, at: int, size: int) -> Shower:
    return lambda body, _numbers: f"{word}:{int.from_bytes(body[at : at + size], 'big'):#x}"


def _type(word: str) -> Shower:
    return lambda body, _numbers: f"{word}:{int.from_bytes(body[:2], 'big'):#06x}"


SHOWERS: dict[int, Shower] = {
    Kind.OUTPUT: _show_output,
    Kind.COPY_TTL_OUT: _word("copy_ttl_out"),
    Kind.COPY_TTL_IN: _word("copy_ttl_in"),
    Kind.SET_MPLS_TTL: lambda body, _numbers: f"set_mpls_ttl({body[0]})",
    Kind.DEC_MPLS_TTL: _word("dec_mpls_ttl"),
    Kind.PUSH_VLAN: _type("push_vlan"),
    Kind.POP_VLAN: _word("pop_vlan"),
    Kind.PUSH_MPLS: _type("push_mpls"),
    Kind.POP_MPLS: _type("pop_mpls"),
    Kind.SET_QUEUE: _number("set_queue", 4),
    Kind.GROUP: _number("group", 4),
    Kind.SET_NW_TTL: _number("mod_nw_ttl", 1),
    Kind.DEC_NW_TTL: _word("dec_ttl"),
    Kind.SET_FIELD: _show_set_field,
}


def _show_resubmit(body: memoryview, numbers: Numbers) -> str:
    port, table = struct.unpack_from("!HB", body)
    shown = "" if port == IN_PORT_16 else show_port(port, numbers)
    return f"resubmit:{shown}" if table == CURRENT_TABLE else f"resubmit({shown},{table})"


def _show_move(body: memoryview, _numbers: Numbers) -> str:
    count, from_start, to_start, source, destination = struct.unpack_from("!HHHII", body)
    return f"move:{show_part(source, from_start, count)}->{show_part(destination, to_start, count)}"


def _show_load(body: memoryview, _numbers: Numbers) -> str:
    where, header, value = struct.unpack_from("!HIQ", body)
    return f"load:{value:#x}->{show_part(header, where >> 6, (where & 63) + 1)}"


def _show_output_reg(body: memoryview, _numbers: Numbers) -> str:
    where, header = struct.unpack_from("!HI", body)
    return f"output:{show_part(header, where >> 6, (where & 63) + 1)}"


def _show_stack(word: str) -> Shower:
    def show(body: memoryview, _numbers: Numbers) -> str:
        start, header, count = struct.unpack_from("!HIH", body)
        return f"{word}:{show_part(header, start, count)}"

    return show


def _show_controller(body: memoryview, _numbers: Numbers) -> str:
    max_len, ident, reason = struct.unpack_from("!HHB", body)
    parts = (
        [] if reason == REASON_ACTION else [f"reason={next(name for name, each in REASONS.items() if each == reason)}"]
    )
    parts += [f"max_len={max_len}"] if max_len != WHOLE else []
    return f"controller({','.join([*parts, f'id={ident}'])})"


def _show_dec_ttl(body: memoryview, _numbers: Numbers) -> str:
    (count,) = struct.unpack_from("!H", body)
    return f"dec_ttl({','.join(map(str, struct.unpack_from(f'!{count}H', body, 6)))})"


OWN_SHOWERS: dict[int, Shower] = {
    Nx.RESUBMIT: lambda body, numbers: f"resubmit:{show_port(int.from_bytes(body[:2], 'big'), numbers)}",
    Nx.SET_TUNNEL: _hex("set_tunnel", 2, 4),
    Nx.POP_QUEUE: _word("pop_queue"),
    Nx.MOVE: _show_move,
    Nx.LOAD: _show_load,
    Nx.NOTE: lambda body, _numbers: f"note:{body.hex('.')}",
    Nx.SET_TUNNEL_64: _hex("set_tunnel64", 6, 8),
    Nx.MULTIPATH: show_multipath,
    Nx.BUNDLE: show_bundle(is_loaded=False),
    Nx.BUNDLE_LOAD: show_bundle(is_loaded=True),
    Nx.RESUBMIT_TABLE: _show_resubmit,
    Nx.OUTPUT_REG: _show_output_reg,
    Nx.LEARN: show_learn,
    Nx.EXIT: _word("exit"),
    Nx.FIN_TIMEOUT: show_fin_timeout,
    Nx.CONTROLLER: _show_controller,
    Nx.DEC_TTL_IDS: _show_dec_ttl,
    Nx.PUSH: _show_stack("push"),
    Nx.POP: _show_stack("pop"),
    Nx.CONJUNCTION: show_conjunction,
    Nx.CLONE: lambda body, numbers: f"clone({','.join(show_actions(body[6:], numbers))})",
}


def show_actions(data: memoryview, numbers: Numbers) -> list[str]:
    """The text of each action; what there is no text for is told by its number."""
    found = []
    for kind, body, _ in split_actions(data):
        if kind == Kind.EXPERIMENTER:
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
    if Instruction.METER in found:
        parts.append(f"meter:{int.from_bytes(found[Instruction.METER][:4], 'big')}")
    if Instruction.APPLY_ACTIONS in found:
        parts += show_actions(found[Instruction.APPLY_ACTIONS][4:], numbers)
    if Instruction.CLEAR_ACTIONS in found:
        parts.append("clear_actions")
    if Instruction.WRITE_ACTIONS in found:
        parts.append(f"write_actions({','.join(show_actions(found[Instruction.WRITE_ACTIONS][4:], numbers))})")
    if Instruction.WRITE_METADATA in found:
        value, mask = struct.unpack_from("!QQ", found[Instruction.WRITE_METADATA], 4)
        parts.append(f"write_metadata:{value:#x}" + ("" if mask == (1 << 64) - 1 else f"/{mask:#x}"))
    if Instruction.GOTO_TABLE in found:
        parts.append(f"goto_table:{found[Instruction.GOTO_TABLE][0]}")
    return ",".join(parts) or "drop"

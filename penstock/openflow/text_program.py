"""Operations of action programs as text, for traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import penstock.datapath.pipeline.program as p
from penstock.openflow.match import in_key
from penstock.openflow.text_match import show_port
from penstock.packet.fields import FIELDS, KEY_SIZE


def _set(a: int, _b: int, words: Sequence[int], _numbers: Mapping[int, str]) -> str:
    value = mask = 0
    for index in range(0, len(words), 2):
        shift = (KEY_SIZE - a - 8 - index * 4) * 8
        value |= int.from_bytes((words[index] & _WORD).to_bytes(8, "little"), "big") << shift
        mask |= int.from_bytes((words[index + 1] & _WORD).to_bytes(8, "little"), "big") << shift
    parts = []
    for row in FIELDS:
        if row.at:
            continue
        full = (1 << row.bits) - 1
        bits = mask >> in_key(row) & full
        if bits:
            found = value >> in_key(row) & full
            parts.append(f"{row.name}={row.format(found)}" + ("" if bits == full else f"/{row.format(bits)}"))
    return "set " + ", ".join(parts)


_WORD = (1 << 64) - 1


def _bits(start: int, count: int) -> str:
    """A part of the key by the field that it lies in."""
    low = KEY_SIZE * 8 - start - count
    for row in FIELDS:
        shift = in_key(row)
        if not row.at and shift <= low and low + count <= shift + row.bits:
            first = low - shift
            whole = count == row.bits
            return row.name if whole else f"{row.name}[{first}..{first + count - 1}]"
    return f"bits {start} to {start + count - 1} of the key"


def _type(a: int) -> str:
    return f"0x{int.from_bytes(a.to_bytes(2, 'little'), 'big'):04x}"


Shower = Callable[[int, int, Sequence[int], Mapping[int, str]], str]
_SHOWERS: dict[int, Shower] = {
    p.OUTPUT: lambda _a, b, _w, numbers: f"output to {show_port(b, numbers)}",
    p.OUTPUT_FIELD: lambda a, _b, w, _n: f"output to the port in {_bits(a, w[0])}",
    p.CONTROLLER: lambda _a, b, _w, _n: f"send to controllers of id {b}",
    p.GROUP: lambda _a, _b, _w, _n: "group",
    p.METER: lambda _a, _b, _w, _n: "meter",
    p.SET: _set,
    p.MOVE: lambda _a, _b, w, _n: f"copy {_bits(w[0], w[2])} to {_bits(w[1], w[2])}",
    p.PUSH_VLAN: lambda a, _b, _w, _n: f"push a VLAN tag of type {_type(a)}",
    p.POP_VLAN: lambda _a, _b, _w, _n: "pop the VLAN tag",
    p.PUSH_MPLS: lambda a, _b, _w, _n: f"push an MPLS entry, type {_type(a)}",
    p.POP_MPLS: lambda a, _b, _w, _n: f"pop the MPLS entry: below is {_type(a)}",
    p.DEC_TTL: lambda _a, _b, _w, _n: "decrement the TTL",
    p.DEC_MPLS_TTL: lambda _a, _b, _w, _n: "decrement the MPLS TTL",
    p.SET_MPLS_TTL: lambda a, _b, _w, _n: f"set the MPLS TTL to {a}",
    p.COPY_TTL_OUT: lambda _a, _b, _w, _n: "copy the TTL outwards",
    p.COPY_TTL_IN: lambda _a, _b, _w, _n: "copy the TTL inwards",
    p.SET_QUEUE: lambda _a, b, _w, _n: f"queue {b}",
    p.POP_QUEUE: lambda _a, _b, _w, _n: "the queue of before",
    p.RESUBMIT: lambda a, b, _w, numbers: f"resubmit to table {a}" + (f" as from {show_port(b, numbers)}" if b else ""),
    p.GOTO: lambda a, _b, _w, _n: f"go to table {a}",
    p.WRITE: lambda _a, _b, _w, _n: "write to the action set",
    p.CLEAR: lambda _a, _b, _w, _n: "clear the action set",
    p.PUSH: lambda _a, _b, w, _n: f"push {_bits(w[0], w[1])}",
    p.POP: lambda _a, _b, w, _n: f"pop {_bits(w[0], w[1])}",
    p.EXIT: lambda _a, _b, _w, _n: "exit",
    p.CLONE: lambda _a, _b, _w, _n: "on a copy",
}


def show_operation(words: Sequence[int], numbers: Mapping[int, str]) -> str:
    """An operation, from its words as unsigned integers."""
    code, a, b = words[0] & 255, words[0] >> 16 & 0xFFFF, words[0] >> 32
    shower = _SHOWERS.get(code)
    return shower(a, b, words[1:], numbers) if shower else p.NAMES[code].lower()

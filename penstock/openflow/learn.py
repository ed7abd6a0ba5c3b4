"""The action "learn": a flow made of what a packet has. Open vSwitch's nicira-ext.h, NXAST_LEARN."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from penstock.engine.flow_tables import TABLES
from penstock.openflow.actions import NX_LOAD, apply_instruction, bad, nicira, output_action, subfield
from penstock.openflow.flow_mod import SEND_FLOW_REM, FlowMod
from penstock.openflow.match import Builder, Wire, port_32
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_LEN

HEAD = struct.Struct("!HHHQHBxHH")
TO_MATCH, TO_LOAD, TO_OUTPUT = range(3)
BITS_MASK, TO_SHIFT, IMMEDIATE = 0x7FF, 11, 1 << 13
KNOWN_FLAGS = 3  # send flow-removed, and delete what was learned with the flow that teaches (which is not done)


@dataclass(frozen=True)
class Spec:
    """A part of the flow: so many bits of ``source`` (or ``value``) go to a field of the match or of the packet."""

    bits: int
    to: int
    source: tuple[Wire, int] | None
    value: int
    destination: tuple[Wire, int] | None

    def read(self, key: int) -> int:
        """The bits, from a key as a number."""
        if self.source is None:
            return self.value
        wire, start = self.source
        return key >> wire.shift + start & (1 << self.bits) - 1


@dataclass(frozen=True)
class Learn:
    """What a learn says."""

    idle: int
    hard: int
    priority: int
    cookie: int
    flags: int
    table: int
    fin_idle: int
    fin_hard: int
    specs: tuple[Spec, ...]

    def reads(self) -> int:
        """The bits of a key that the flow is made of, as a number."""
        found = 0
        for spec in self.specs:
            if spec.source is not None:
                wire, start = spec.source
                found |= (1 << spec.bits) - 1 << wire.shift + start
        return found

    def teach(self, key: bytes) -> FlowMod:
        """The flow that a packet with this key makes."""
        made = Builder()
        actions = bytearray()
        if self.fin_idle or self.fin_hard:
            actions += nicira(19, struct.pack("!HH2x", self.fin_idle, self.fin_hard))
        number = int.from_bytes(key, "big")
        for spec in self.specs:
            value = spec.read(number)
            if spec.to == TO_OUTPUT:
                actions += output_action(port_32(value) if spec.bits == 16 else value)
                continue
            assert spec.destination is not None
            wire, start = spec.destination
            if spec.to == TO_LOAD:
                actions += _load(wire, start, spec.bits, value)
            else:
                mask = (1 << spec.bits) - 1 << start
                made.add_wire(wire, value << start, mask)
        return FlowMod(
            0, self.table, self.priority, made.match(), apply_instruction(bytes(actions)), self.cookie, 0, self.idle,
            self.hard, self.flags & SEND_FLOW_REM,
        )  # fmt: skip


def _load(wire: Wire, start: int, bits: int, value: int) -> bytes:
    """Loads of at most 64 bits each."""
    number = wire.field.nxm or wire.field.oxm
    assert number is not None
    header = number[0] << 16 | number[1] << 9 | wire.octets
    out = b""
    while bits > 0:
        part = min(bits, 64)
        out += nicira(NX_LOAD, struct.pack("!HIQ", start << 6 | part - 1, header, value & (1 << part) - 1))
        start, bits, value = start + part, bits - part, value >> part
    return out


def decode_learn(body: memoryview) -> Learn:
    """From the action's bytes behind its subtype. Raises OpenFlowError."""
    idle, hard, priority, cookie, flags, table, fin_idle, fin_hard = HEAD.unpack_from(body)
    if flags & ~KNOWN_FLAGS or table >= TABLES:
        raise bad(ACTION_BAD_ARG, f"learn: flags {flags:#x} or table {table} are not there")
    specs = []
    at = HEAD.size
    while at + 2 <= len(body):
        (header,) = struct.unpack_from("!H", body, at)
        if header == 0:
            break
        at += 2
        bits, to = header & BITS_MASK, header >> TO_SHIFT & 3
        if bits == 0 or to > TO_OUTPUT or header >> 14:
            raise bad(ACTION_BAD_ARG, f"learn: part {header:#06x} is unknown")
        source = None
        value = 0
        if header & IMMEDIATE:
            size = (bits + 15) // 16 * 2
            if at + size > len(body):
                raise bad(ACTION_BAD_LEN, "learn: the action ends within a value")
            value = int.from_bytes(body[at : at + size], "big")
            at += size
        else:
            source, at = _field(body, at, bits, written=False)
        destination = None
        if to != TO_OUTPUT:
            destination, at = _field(body, at, bits, written=to == TO_LOAD)
        specs.append(Spec(bits, to, source, value, destination))
    return Learn(idle, hard, priority, cookie, flags, table, fin_idle, fin_hard, tuple(specs))


def _field(body: memoryview, at: int, bits: int, written: bool) -> tuple[tuple[Wire, int], int]:
    if at + 6 > len(body):
        raise bad(ACTION_BAD_LEN, "learn: the action ends within a field's name")
    header, start = struct.unpack_from("!IH", body, at)
    wire, _, _ = subfield(header, start, bits, "learn", written)
    return (wire, start), at + 6

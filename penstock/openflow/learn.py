"""The action "learn": a flow made of what a packet has. Open vSwitch's nicira-ext.h, NXAST_LEARN."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from penstock.engine.flow_tables import TABLES
from penstock.openflow.action_wire import Nx, apply_instruction, bad_action, load_actions, nicira, output_action
from penstock.openflow.compile import subfield
from penstock.openflow.flow_mod import SEND_FLOW_REM, FlowMod
from penstock.openflow.match import Builder, Wire, port_32
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_LEN

HEAD = struct.Struct("!HHHQHBxHH")
TO_MATCH, TO_LOAD, TO_OUTPUT = range(3)
BITS_MASK, TO_SHIFT, IMMEDIATE = 0x7FF, 11, 1 << 13
KNOWN_FLAGS = 3  # send flow-removed, and delete what was learned with the flow that teaches (which is not done)


def immediate_size(bits: int) -> int:
    """Bytes of a value that stands in the action: whole 16-bit words."""
    return (bits + 15) // 16 * 2


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
            actions += nicira(Nx.FIN_TIMEOUT, struct.pack("!HH2x", self.fin_idle, self.fin_hard))
        number = int.from_bytes(key, "big")
        for spec in self.specs:
            value = spec.read(number)
            if spec.to == TO_OUTPUT:
                actions += output_action(port_32(value) if spec.bits == 16 else value)
                continue
            assert spec.destination is not None
            wire, start = spec.destination
            if spec.to == TO_LOAD:
                actions += load_actions(wire, start, spec.bits, value)
            else:
                mask = (1 << spec.bits) - 1 << start
                made.add_wire(wire, value << start, mask)
        return FlowMod(
            0, self.table, self.priority, made.match(), apply_instruction(bytes(actions)), self.cookie, 0, self.idle,
            self.hard, self.flags & SEND_FLOW_REM,
        )  # fmt: skip


def decode_learn(body: memoryview) -> Learn:
    """From the action's bytes behind its subtype. Raises OpenFlowError."""
    idle, hard, priority, cookie, flags, table, fin_idle, fin_hard = HEAD.unpack_from(body)
    if flags & ~KNOWN_FLAGS or table >= TABLES:
        raise bad_action(ACTION_BAD_ARG, f"learn: flags {flags:#x} or table {table} are not there")
    specs = []
    at = HEAD.size
    while at + 2 <= len(body):
        (header,) = struct.unpack_from("!H", body, at)
        if header == 0:
            break
        at += 2
        bits, to = header & BITS_MASK, header >> TO_SHIFT & 3
        if bits == 0 or to > TO_OUTPUT or header >> 14:
            raise bad_action(ACTION_BAD_ARG, f"learn: part {header:#06x} is unknown")
        source = None
        value = 0
        if header & IMMEDIATE:
            size = immediate_size(bits)
            if at + size > len(body):
                raise bad_action(ACTION_BAD_LEN, "learn: the action ends within a value")
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
        raise bad_action(ACTION_BAD_LEN, "learn: the action ends within a field's name")
    header, start = struct.unpack_from("!IH", body, at)
    wire, _, _ = subfield(header, start, bits, "learn", written)
    return (wire, start), at + 6

"""The bytes of actions and instructions: their numbers, and how lists of them are put together and taken apart.

What they mean is in ``actions`` and ``nicira``. OpenFlow 1.3.5, sections 7.2.4 and 7.2.5; Open vSwitch's
lib/ofp-actions.c for Nicira's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from penstock.openflow.match import Wire, wire_of
from penstock.openflow.wire import (
    ACTION_BAD_LEN,
    INSTRUCTION_BAD_EXPERIMENTER,
    INSTRUCTION_BAD_LEN,
    INSTRUCTION_DUPLICATE,
    INSTRUCTION_UNKNOWN,
    NICIRA_ID,
    ErrorType,
    OpenFlowError,
)
from penstock.packet.fields import BY_NAME

CURRENT_TABLE = 0xFF  # of a resubmit
IN_PORT_16 = 0xFFF8  # OFPP_IN_PORT in the 16 bits that Nicira's actions have for a port
WHOLE = 0xFFFF  # max_len of all of a packet
REASON_NO_MATCH, REASON_ACTION = 0, 1
LOAD_BITS_MAX = 64


class Instruction(IntEnum):
    """Instructions of OpenFlow 1.3."""

    GOTO_TABLE = 1
    WRITE_METADATA = 2
    WRITE_ACTIONS = 3
    APPLY_ACTIONS = 4
    CLEAR_ACTIONS = 5
    METER = 6


class Kind(IntEnum):
    """Actions of OpenFlow 1.3."""

    OUTPUT = 0
    COPY_TTL_OUT = 11
    COPY_TTL_IN = 12
    SET_MPLS_TTL = 15
    DEC_MPLS_TTL = 16
    PUSH_VLAN = 17
    POP_VLAN = 18
    PUSH_MPLS = 19
    POP_MPLS = 20
    SET_QUEUE = 21
    GROUP = 22
    SET_NW_TTL = 23
    DEC_NW_TTL = 24
    SET_FIELD = 25
    EXPERIMENTER = 0xFFFF  # 1.0's vendor


class Nx(IntEnum):
    """Nicira's actions."""

    RESUBMIT = 1
    SET_TUNNEL = 2
    SET_QUEUE = 4
    POP_QUEUE = 5
    MOVE = 6
    LOAD = 7
    NOTE = 8
    SET_TUNNEL_64 = 9
    MULTIPATH = 10
    BUNDLE = 12
    BUNDLE_LOAD = 13
    RESUBMIT_TABLE = 14
    OUTPUT_REG = 15
    LEARN = 16
    EXIT = 17
    DEC_TTL = 18
    FIN_TIMEOUT = 19
    CONTROLLER = 20
    DEC_TTL_IDS = 21
    WRITE_METADATA = 22
    PUSH_MPLS = 23
    POP_MPLS = 24
    SET_MPLS_TTL = 25
    DEC_MPLS_TTL = 26
    PUSH = 27
    POP = 28
    LOAD_2 = 33
    CONJUNCTION = 34
    CONTROLLER_2 = 37
    CLONE = 42


def bad_action(code: int, why: str) -> OpenFlowError:
    """The error for an action."""
    return OpenFlowError(ErrorType.BAD_ACTION, code, why)


def bad_instruction(code: int, why: str) -> OpenFlowError:
    """The error for an instruction."""
    return OpenFlowError(ErrorType.BAD_INSTRUCTION, code, why)


# To bytes


def action(kind: int, body: bytes = b"") -> bytes:
    """An action, padded."""
    length = 4 + len(body)
    padding = -length % 8
    return struct.pack("!HH", kind, length + padding) + body + bytes(padding)


def nicira(subtype: int, body: bytes = b"") -> bytes:
    """A Nicira action, padded."""
    return action(Kind.EXPERIMENTER, struct.pack("!IH", NICIRA_ID, subtype) + body)


def output_action(port: int, max_len: int = 0) -> bytes:
    """The action that outputs to a port; ``max_len`` has a meaning for controllers alone."""
    return action(Kind.OUTPUT, struct.pack("!IH6x", port, max_len))


def set_field_action(wire: Wire, value: int, mask: int | None = None) -> bytes:
    """The action that sets a field, or its bits in ``mask``."""
    octets = value.to_bytes(wire.octets, "big")
    if mask is not None:
        octets += mask.to_bytes(wire.octets, "big")
    return action(Kind.SET_FIELD, struct.pack("!I", wire.header(masked=mask is not None)) + octets)


def set_field(name: str, value: int) -> bytes:
    """The action that sets a whole field, by its name."""
    wire = wire_of(BY_NAME[name])
    assert wire is not None
    return set_field_action(wire, value)


def load_actions(wire: Wire, start: int, bits: int, value: int) -> bytes:
    """Nicira's loads, of 64 bits at most each, of ``bits`` bits of a field from bit ``start`` on."""
    out = b""
    while bits > 0:
        part = min(bits, LOAD_BITS_MAX)
        body = struct.pack("!HIQ", start << 6 | part - 1, wire.header(), value & (1 << part) - 1)
        out += nicira(Nx.LOAD, body)
        start, bits, value = start + part, bits - part, value >> part
    return out


def instruction(kind: int, body: bytes = bytes(4)) -> bytes:
    """An instruction; ``body`` is of 4 bytes and a multiple of 8."""
    return struct.pack("!HH", kind, 4 + len(body)) + body


def apply_instruction(actions: bytes) -> bytes:
    """The instruction that applies a list of actions; nothing for an empty one, which drops."""
    return instruction(Instruction.APPLY_ACTIONS, bytes(4) + actions) if actions else b""


# From bytes


def split_actions(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Type, body and all of each action. Raises OpenFlowError for lengths that cannot be."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise bad_action(ACTION_BAD_LEN, f"{len(data) - at} bytes are left of the actions, one has 8 at least")
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 8 or length % 8 or at + length > len(data):
            raise bad_action(ACTION_BAD_LEN, f"action type {kind}: {length} bytes are not a multiple of 8 that fits")
        yield kind, data[at + 4 : at + length], data[at : at + length]
        at += length


def split_instructions(data: memoryview) -> dict[int, memoryview]:
    """The body of each instruction by its type. Raises OpenFlowError."""
    found: dict[int, memoryview] = {}
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise bad_instruction(INSTRUCTION_BAD_LEN, f"{len(data) - at} bytes are left, an instruction has 8")
        kind, length = struct.unpack_from("!HH", data, at)
        if length < 8 or length % 8 or at + length > len(data):
            raise bad_instruction(INSTRUCTION_BAD_LEN, f"instruction type {kind}: {length} bytes do not fit")
        if kind == Kind.EXPERIMENTER:
            raise bad_instruction(INSTRUCTION_BAD_EXPERIMENTER, "no experimenter's instruction is known")
        if not Instruction.GOTO_TABLE <= kind <= Instruction.METER:
            raise bad_instruction(INSTRUCTION_UNKNOWN, f"instruction type {kind} is unknown")
        if kind in found:
            raise bad_instruction(INSTRUCTION_DUPLICATE, f"instruction type {kind} comes twice")
        found[kind] = data[at + 4 : at + length]
        at += length
    return found

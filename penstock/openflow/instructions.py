"""A flow's instructions as a program that workers run. OpenFlow 1.3.5, section 7.2.4."""

from __future__ import annotations

import struct

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_tables import TABLES
from penstock.openflow import actions, nicira  # noqa: F401 - their rows register themselves
from penstock.openflow.action_wire import Instruction, bad_action, bad_instruction, split_instructions
from penstock.openflow.compile import IN_ACTION_SET, Program, Targets, add_meter, compile_actions, set_field
from penstock.openflow.wire import ACTION_BAD_ARG, ACTION_BAD_TYPE, INSTRUCTION_BAD_LEN, INSTRUCTION_BAD_TABLE
from penstock.packet.fields import BY_NAME

LENGTHS: dict[int, int] = {Instruction.GOTO_TABLE: 8, Instruction.WRITE_METADATA: 24, Instruction.METER: 8}


def compile_instructions(data: bytes | memoryview, targets: Targets) -> Program:
    """The program for a flow's instructions, in the order in which OpenFlow has them run."""
    made = Program(targets=targets)
    found = split_instructions(memoryview(data))
    for kind, body in found.items():
        if len(body) + 4 != LENGTHS.get(kind, len(body) + 4):
            raise bad_instruction(INSTRUCTION_BAD_LEN, f"instruction type {kind} has {len(body) + 4} bytes")
    if Instruction.METER in found:
        add_meter(made, struct.unpack_from("!I", found[Instruction.METER])[0])
    if Instruction.APPLY_ACTIONS in found:
        compile_actions(made, found[Instruction.APPLY_ACTIONS][4:])
    if Instruction.CLEAR_ACTIONS in found:
        made.add(p.CLEAR)
    if Instruction.WRITE_ACTIONS in found and len(found[Instruction.WRITE_ACTIONS]) > 4:
        inner = made.inside()
        compile_actions(inner, found[Instruction.WRITE_ACTIONS][4:])
        if not inner.codes <= IN_ACTION_SET:
            names = ", ".join(p.NAMES[code].lower() for code in sorted(inner.codes - IN_ACTION_SET))
            raise bad_action(ACTION_BAD_TYPE, f"write-actions: {names} cannot be in an action set")
        made.add_inner(p.WRITE, inner)
    if Instruction.WRITE_METADATA in found:
        value, mask = struct.unpack_from("!QQ", found[Instruction.WRITE_METADATA], 4)
        set_field(made, BY_NAME["metadata"], value & mask, mask)
    if Instruction.GOTO_TABLE in found:
        table = found[Instruction.GOTO_TABLE][0]
        if not targets.table < table < TABLES:
            raise bad_instruction(INSTRUCTION_BAD_TABLE, f"goto table {table} from table {targets.table}")
        made.add(p.GOTO, table)
    if made.is_conjunctive and made.codes != {p.CONJUNCTION}:
        raise bad_action(ACTION_BAD_ARG, "conjunction: a flow that is a part of conjunctive matches does nothing else")
    return made

"""The action set: what write-actions collect on a packet's way, run at its end in the order that OpenFlow gives.

OpenFlow 1.3.5, section 5.10. One action of each kind, the last one written; of set-field one for each field, which
come in the order of writing, so that later ones prevail.
"""

from __future__ import annotations

from penstock.datapath.pipeline.layout import EXEC_PROGRAM, EXEC_SETS, EXEC_SLOTS, SET_WORDS_MAX, exec_at
from penstock.datapath.pipeline.program import (
    CONTROLLER,
    COPY_TTL_IN,
    COPY_TTL_OUT,
    DEC_MPLS_TTL,
    DEC_TTL,
    END,
    GROUP,
    MOVE,
    OUTPUT,
    POP_MPLS,
    POP_VLAN,
    PUSH_MPLS,
    PUSH_VLAN,
    SET,
    SET_MPLS_TTL,
    SET_QUEUE,
)
from penstock.machine import copy, kernel, load64, shr, store64

# Places in the order of execution; field writes come between SLOT_SETS - 1 and SLOT_SETS.
SLOT_SETS, SLOT_GROUP, SLOT_OUTPUT, SLOTS_END = 9, 10, 11, 13
NO_SLOT = -1


@kernel
def slot_of(code):
    """The place of an operation in the action set; NO_SLOT for field writes and for what has no place there."""
    if code == COPY_TTL_IN:
        return 0
    if code == POP_VLAN:
        return 1
    if code == POP_MPLS:
        return 2
    if code == PUSH_MPLS:
        return 3
    if code == PUSH_VLAN:
        return 4
    if code == COPY_TTL_OUT:
        return 5
    if code == DEC_MPLS_TTL:
        return 6
    if code == DEC_TTL:
        return 7
    if code == SET_MPLS_TTL:
        return 8
    if code == SET_QUEUE:
        return SLOT_SETS
    if code == GROUP:
        return SLOT_GROUP
    if code == OUTPUT:
        return SLOT_OUTPUT
    if code == CONTROLLER:
        return SLOT_OUTPUT + 1
    return NO_SLOT


@kernel
def write_set(x, operation):
    """Put operations, an END behind the last, into the action set."""
    e = exec_at(x)
    while True:
        word = load64(operation)
        code = word & 255
        if code == END:
            return 0
        octets = (shr(word, 8) & 255) * 8
        slot = slot_of(code)
        if slot != NO_SLOT:
            if slot >= SLOT_OUTPUT:
                e.slots_used &= ~(3 << SLOT_OUTPUT)
            store64(x + EXEC_SLOTS + slot * 8, operation)
            e.slots_used |= 1 << slot
        elif (code == SET or code == MOVE) and e.set_count * 8 + octets <= SET_WORDS_MAX * 8:
            copy(x + EXEC_SETS + e.set_count * 8, operation, octets)
            e.set_count += octets >> 3
        operation += octets


@kernel
def clear_set(x):
    """Empty the action set."""
    e = exec_at(x)
    e.slots_used = 0
    e.set_count = 0
    return 0


@kernel
def make_set_program(x):
    """Write the action set as a program: its address. The set is empty then."""
    e = exec_at(x)
    program = x + EXEC_PROGRAM
    at = program
    if e.slots_used & 1 << SLOT_GROUP != 0:
        e.slots_used &= ~(3 << SLOT_OUTPUT)
    for slot in range(SLOTS_END):
        if slot == SLOT_SETS:
            copy(at, x + EXEC_SETS, e.set_count * 8)
            at += e.set_count * 8
        if e.slots_used >> slot & 1 != 0:
            operation = load64(x + EXEC_SLOTS + slot * 8)
            octets = (shr(load64(operation), 8) & 255) * 8
            copy(at, operation, octets)
            at += octets
    store64(at, END)
    clear_set(x)
    return program

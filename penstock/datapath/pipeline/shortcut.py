"""The way of a packet in short: what all programs on it come to, for ways that only look up, set fields, and output.

While a new flow's packet is run, each operation is noted; if the way had nothing else, and one output at its end, its
CACHED gets that port and the SETs that still matter: metadata and registers do not, as every lookup that read them is
in the steps. The packets that follow are counted along the steps, and changed and sent without the interpreter.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at, worker_at
from penstock.datapath.pipeline.layout import (
    CACHED_MORE,
    CACHED_SHORT_SETS,
    CACHED_STEPS,
    EXEC_SHORT,
    EXEC_STEPS,
    PORT_MAP,
    SHORT_MAX,
    STEP_TABLE,
    STEPS_IN_LINE,
    cached_at,
    exec_at,
)
from penstock.datapath.pipeline.lookup import count_flow, count_lookup, step_flow, step_id
from penstock.datapath.pipeline.outputs import NONE
from penstock.datapath.pipeline.program import END, GOTO, OUTPUT, PORT_NORMAL, RESUBMIT, SET, SET_NOTHING
from penstock.machine import call3, copy, inlined, kernel, load64, shr, store64
from penstock.packet.fields import PARSED_SIZE, TUNNEL_AT, TUNNEL_SIZE


@kernel
def begin_short(x):
    """Begin to note a way."""
    e = exec_at(x)
    e.short_open = 1
    e.short_port = NONE
    e.short_sets = 0
    return 0


@kernel
def note_operation(x, operation, word):
    """Note an operation that is about to be run."""
    e = exec_at(x)
    if e.short_open == 0:
        return 0
    code = word & 255
    b = shr(word, 32)
    if code == END or code == GOTO or (code == RESUBMIT and b == 0):
        return 0
    if e.short_port == NONE:
        if code == OUTPUT and (b < PORT_MAP or b == PORT_NORMAL):
            e.short_port = b
            return 0
        if code == SET:
            at = shr(word, 16) & 0xFFFF
            if b == SET_NOTHING and at >= PARSED_SIZE and (at < TUNNEL_AT or at >= TUNNEL_AT + TUNNEL_SIZE):
                return 0
            if e.short_sets < SHORT_MAX:
                store64(x + EXEC_SHORT + e.short_sets * 8, operation)
                e.short_sets += 1
                return 0
    e.short_open = 0
    return 0


@kernel
def keep_short(x, entry):
    """Keep in a CACHED what was noted, if the way can be told in short."""
    e = exec_at(x)
    c = cached_at(entry)
    c.short_port = 0
    if e.short_open == 0 or e.short_port == NONE or e.outputs != 1:
        return 0
    for i in range(e.count):
        if step_flow(load64(x + EXEC_STEPS + i * 8)) == 0:
            return 0
    c.short_port = e.short_port + 1
    c.short_sets = e.short_sets
    return copy(entry + CACHED_SHORT_SETS, x + EXEC_SHORT, e.short_sets * 8)


@inlined
def step_at(entry, i):
    """A step of a CACHED."""
    return load64(entry + CACHED_STEPS + i * 8 if i < STEPS_IN_LINE else entry + CACHED_MORE + (i - STEPS_IN_LINE) * 8)


@inlined
def go_short(worker, x, packet, entry):
    """Count a packet along the way that is kept in short, and change it: the OpenFlow port by which it leaves."""
    e = exec_at(x)
    w = worker_at(worker)
    p = packet_at(packet)
    c = cached_at(entry)
    octets = p.head_len + p.tail_len
    for i in range(c.count):
        step = step_at(entry, i)
        count_flow(e.counters, step_id(step), 1, octets, w.now)
        count_lookup(worker, e.pipeline, shr(step, STEP_TABLE), 1)
    for i in range(c.short_sets):
        operation = load64(entry + CACHED_SHORT_SETS + i * 8)
        word = load64(operation)
        if shr(word, 32) != SET_NOTHING:
            call3(w.edit, worker, packet, operation)
            continue
        place = p.key + (shr(word, 16) & 0xFFFF)
        for j in range(((shr(word, 8) & 255) - 1) >> 1):
            mask = load64(operation + 16 + j * 16)
            at = place + j * 8
            store64(at, load64(at) & ~mask | load64(operation + 8 + j * 16) & mask)
    return c.short_port - 1

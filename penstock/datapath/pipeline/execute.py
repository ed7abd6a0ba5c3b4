"""Runs what a packet's flows say: one loop over operations, with a stack of frames for what is come back to.

A frame is a place in a program. RESUBMIT puts a frame on the stack and GOTO goes on in the present one; a group's
bucket or a clone is a frame with a packet of its own, a copy; a group of kind ALL is a frame that puts its buckets on
the stack one after the other. When the stack is empty the action set is run, and then what is left is to send the
packet where the last output told.
"""

from __future__ import annotations

from penstock.datapath.clones import clone, drop
from penstock.datapath.drops import FLOW_DROP, METER_DROP, NO_FLOW, NO_LIVE_BUCKET, PIPELINE_LOOP, TTL_EXPIRED
from penstock.datapath.layout import packet_at, worker_at
from penstock.datapath.pipeline.action_set import clear_set, make_set_program, write_set
from penstock.datapath.pipeline.asking import REASON_FIN_TIMEOUT, REASON_LEARN, ask, ends, learn_hash
from penstock.datapath.pipeline.bits import read_bits, write_bits
from penstock.datapath.pipeline.choices import run_bundle, run_multipath
from penstock.datapath.pipeline.edits import EXPIRED
from penstock.datapath.pipeline.follow import follow
from penstock.datapath.pipeline.groups import choose_bucket
from penstock.datapath.pipeline.layout import (
    BUCKET_ITEM,
    BUCKETS_AT,
    EXEC_FRAMES,
    EXEC_STACK,
    EXEC_ZERO,
    FRAME_BYTES,
    FRAMES_MAX,
    GROUP_ALL,
    MISS_CONTINUE,
    MISS_CONTROLLER,
    PIPELINE_TABLES,
    PROGRAM_OPERATIONS,
    STACK_MAX,
    TABLES,
    exec_at,
    flow_at,
    frame_at,
    group_at,
    group_bucket_at,
    group_buckets_at,
    pipeline_at,
    table_at,
)
from penstock.datapath.pipeline.lookup import RECORD, count_flow, lookup
from penstock.datapath.pipeline.meters import METER_DROP as OVER
from penstock.datapath.pipeline.meters import meter
from penstock.datapath.pipeline.outputs import (
    IN_PORT,
    NONE,
    REASON_INVALID_TTL,
    REASON_NO_MATCH,
    finish_output,
    output,
    packet_in,
    settle,
)
from penstock.datapath.pipeline.program import (
    BUNDLE,
    CLEAR,
    CLONE,
    CONTROLLER,
    END,
    EXIT,
    FIN_TIMEOUT,
    GOTO,
    GROUP,
    LEARN,
    METER,
    MULTIPATH,
    OUTPUT,
    OUTPUT_FIELD,
    POP,
    POP_QUEUE,
    PUSH,
    RESUBMIT,
    SET_QUEUE,
    WRITE,
)
from penstock.datapath.pipeline.shortcut import note_operation
from penstock.datapath.trace import ACTION_SET, GROUP_BUCKET, OPERATION, RESUBMITTED, note
from penstock.machine import call3, entry, kernel, load64, load_acquire, shr, store32be, store64

RESUBMITS_MAX = 4096
FRAME_PROGRAM, FRAME_RESUBMIT, FRAME_COPY, FRAME_ALL = range(4)
KEEP_PORT = 0


@kernel
def push_frame(x, pc, kind, value, flow):
    """Put a frame on the stack: 1, or 0 when it is full."""
    e = exec_at(x)
    if e.depth == FRAMES_MAX:
        e.reason = PIPELINE_LOOP
        return 0
    f = frame_at(x + EXEC_FRAMES + e.depth * FRAME_BYTES)
    f.pc = pc
    f.kind = kind
    f.value = value
    f.packet = 0
    f.flow = flow
    e.depth += 1
    return 1


@kernel
def miss(worker, x, table):
    """What a table does with a packet that no flow of it matches: the table to go on with, or -1."""
    e = exec_at(x)
    found = load_acquire(e.pipeline + PIPELINE_TABLES + table * 8)
    what = table_at(found).miss if found != 0 else 0
    if what == MISS_CONTINUE and table < TABLES - 1:
        return table + 1
    e.reason = NO_FLOW
    if what == MISS_CONTROLLER:
        e.outputs += packet_in(worker, x, 0, table, REASON_NO_MATCH, 0, pipeline_at(e.pipeline).miss_len, 0)
    return -1


@kernel
def flow_in(worker, x, table):
    """The flow for the packet in a table and, where misses continue, in those behind it; 0: none."""
    while table >= 0:
        flow = lookup(worker, x, table)
        if flow != 0:
            return flow
        table = miss(worker, x, table)
    return 0


@kernel
def operations_of(x, flow):
    """Where a flow's program begins; an END for no flow."""
    return x + EXEC_ZERO if flow == 0 else flow_at(flow).program + PROGRAM_OPERATIONS


@kernel
def resubmit(worker, x, table, port):
    """Look the packet up again, as if it had come in by ``port``, and come back afterwards."""
    e = exec_at(x)
    e.resubmits += 1
    if e.resubmits > RESUBMITS_MAX or e.depth == FRAMES_MAX:
        e.reason = PIPELINE_LOOP
        e.depth = 0
        return 0
    key = packet_at(e.packet).key
    before = load64(key + IN_PORT)
    if port != KEEP_PORT:
        store32be(key + IN_PORT, port)
    if worker_at(worker).trace != 0:
        note(worker_at(worker).trace, RESUBMITTED, table, 0)
    flow = lookup(worker, x, table)
    # Open Vswitch's resubmit: the port holds for the lookup alone, and outputs compare with the real one.
    store64(key + IN_PORT, before)
    if flow != 0:
        push_frame(x, operations_of(x, flow), FRAME_RESUBMIT, 0, flow)
    return 0


@kernel
def enter_copy(worker, x, frame):
    """Begin a frame that works on a copy: 1, or 0 when there is no buffer for one."""
    e = exec_at(x)
    settle(worker, x)
    packet = clone(worker, e.number, e.packet)
    if packet == 0:
        return 0
    frame_at(frame).packet = e.packet
    e.packet = packet
    e.isolated += 1
    return 1


@kernel
def leave(worker, x, frame):
    """End a frame."""
    e = exec_at(x)
    f = frame_at(frame)
    if f.packet != 0:
        finish_output(worker, x)
        e.packet = f.packet
        e.isolated -= 1
    e.depth -= 1
    return 0


@kernel
def enter_bucket(worker, x, group, bucket):
    """Count a bucket and put it on the stack."""
    e = exec_at(x)
    w = worker_at(worker)
    b = group_bucket_at(bucket)
    if w.trace != 0:
        note(w.trace, GROUP_BUCKET, group_at(group).number, b.number)
    else:
        count_flow(e.counters, b.id, 1, e.octets, w.now)
    e.outputs += 1
    return push_frame(x, b.program + PROGRAM_OPERATIONS, FRAME_COPY, 0, 0)


@kernel
def run_group(worker, x, group):
    """Send the packet through a group."""
    e = exec_at(x)
    w = worker_at(worker)
    if w.trace == 0:
        count_flow(e.counters, group_at(group).id, 1, e.octets, w.now)
    # The buckets are those of this instant, even if the group is changed meanwhile.
    buckets = load_acquire(group)
    if group_buckets_at(buckets).kind == GROUP_ALL:
        if push_frame(x, group, FRAME_ALL, 0, 0) == 1:
            frame_at(x + EXEC_FRAMES + (e.depth - 1) * FRAME_BYTES).flow = buckets
        return 0
    bucket = choose_bucket(worker, x, buckets)
    if bucket == 0:
        e.reason = NO_LIVE_BUCKET
        return 0
    return enter_bucket(worker, x, group, bucket)


@kernel
def next_of_all(worker, x, frame):
    """Go on with a group of kind ALL: its next bucket, or leave it."""
    f = frame_at(frame)
    buckets = f.flow
    index = f.value
    if index == group_buckets_at(buckets).count:
        return leave(worker, x, frame)
    f.value += 1
    return enter_bucket(worker, x, f.pc, buckets + BUCKETS_AT + index * BUCKET_ITEM)


@kernel
def push_bits(x, operation):
    """PUSH."""
    e = exec_at(x)
    if e.stack_count < STACK_MAX:
        place = x + EXEC_STACK + e.stack_count * 16
        bits = load64(operation + 16)
        key = packet_at(e.packet).key
        start = load64(operation + 8)
        high = bits - 64 if bits > 64 else 0
        store64(place, read_bits(key, start, high) if high != 0 else 0)
        store64(place + 8, read_bits(key, start + high, bits - high))
        e.stack_count += 1
    return 0


@kernel
def pop_bits(x, operation):
    """POP; nothing on an empty stack."""
    e = exec_at(x)
    if e.stack_count > 0:
        e.stack_count -= 1
        place = x + EXEC_STACK + e.stack_count * 16
        bits = load64(operation + 16)
        key = packet_at(e.packet).key
        start = load64(operation + 8)
        high = bits - 64 if bits > 64 else 0
        if high != 0:
            write_bits(key, start, high, load64(place))
        write_bits(key, start + high, bits - high, load64(place + 8))
        follow(e.packet, shr(load64(operation), 16) & 0xFFFF)
    return 0


@kernel
def run_operation(worker, x, frame, operation, word):
    """Carry out one operation of the frame on top of the stack."""
    e = exec_at(x)
    code = word & 255
    a = shr(word, 16) & 0xFFFF
    b = shr(word, 32)
    if code == OUTPUT:
        return output(worker, x, b)
    if code == RESUBMIT:
        settle(worker, x)
        return resubmit(worker, x, a, b)
    if code == GOTO:
        flow = flow_in(worker, x, a)
        frame_at(frame).pc = operations_of(x, flow)
        frame_at(frame).flow = flow
        return 0
    if code == WRITE:
        return write_set(x, operation + 8)
    if code == CLEAR:
        return clear_set(x)
    if code == GROUP:
        return run_group(worker, x, load64(operation + 8))
    if code == CONTROLLER:
        e.outputs += 1
        return packet_in(worker, x, frame_at(frame).flow, 0, load64(operation + 8), b, a, load64(operation + 16))
    if code == OUTPUT_FIELD:
        return output(worker, x, read_bits(packet_at(e.packet).key, a, load64(operation + 8)))
    if code == METER:
        settle(worker, x)
        if meter(worker, load64(operation + 8), e.packet) == OVER:
            e.reason = METER_DROP
            e.depth = 0
        return 0
    if code == SET_QUEUE:
        e.queue = b
        return 0
    if code == POP_QUEUE:
        e.queue = 0
        return 0
    if code == PUSH:
        return push_bits(x, operation)
    if code == EXIT:
        e.depth = 0
        return clear_set(x)
    if code == CLONE:
        return push_frame(x, operation + 8, FRAME_COPY, 0, frame_at(frame).flow)
    if code == BUNDLE:
        return run_bundle(worker, x, operation, a, b)
    settle(worker, x)
    if code == MULTIPATH:
        return run_multipath(x, operation, a, b)
    if code == LEARN:
        return ask(worker, x, REASON_LEARN, load64(operation + 8), learn_hash(packet_at(e.packet).key, operation))
    if code == FIN_TIMEOUT:
        if frame_at(frame).flow != 0 and ends(packet_at(e.packet).key) == 1:
            ask(worker, x, REASON_FIN_TIMEOUT, frame_at(frame).flow, frame_at(frame).flow)
        return 0
    if code == POP:
        return pop_bits(x, operation)
    if call3(worker_at(worker).edit, worker, e.packet, operation) == EXPIRED:
        packet_in(worker, x, frame_at(frame).flow, 0, REASON_INVALID_TTL, b, 0xFFFF, 0)
        e.reason = TTL_EXPIRED
        frame_at(frame).pc = x + EXEC_ZERO
    return 0


@kernel
def run_frames(worker, x):
    """Run until the stack is empty."""
    e = exec_at(x)
    trace = worker_at(worker).trace
    while e.depth > 0:
        frame = x + EXEC_FRAMES + (e.depth - 1) * FRAME_BYTES
        f = frame_at(frame)
        if f.kind == FRAME_ALL:
            next_of_all(worker, x, frame)
            continue
        if f.kind == FRAME_COPY and f.packet == 0 and enter_copy(worker, x, frame) == 0:
            e.depth -= 1
            continue
        operation = f.pc
        word = load64(operation)
        code = word & 255
        if code == END:
            leave(worker, x, frame)
            continue
        words = shr(word, 8) & 255
        if code == WRITE or code == CLONE:
            words += shr(word, 32)
        f.pc = operation + words * 8
        if e.mode == RECORD:
            note_operation(x, operation, word)
        if trace != 0:
            note(trace, OPERATION, code, operation)
        run_operation(worker, x, frame, operation, word)
    return 0


@kernel
def abandon(x, bottom):
    """After the stack was emptied at once: go back to the packet at the bottom of it."""
    e = exec_at(x)
    e.packet = bottom
    e.isolated = 0
    return 0


@kernel
def begin(x, packet, octets):
    """Make ready for a packet."""
    e = exec_at(x)
    e.packet = packet
    e.octets = octets
    e.position = 0
    e.depth = 0
    e.resubmits = 0
    e.pending = NONE
    e.form = 0
    e.outputs = 0
    e.set_count = 0
    e.slots_used = 0
    e.isolated = 0
    e.reason = FLOW_DROP
    e.stack_count = 0
    e.queue = 0
    e.start = 0
    return 0


@kernel
def run_program(worker, x, operations, flow):
    """Run a program for the packet that ``begin`` made ready, and the action set; then send the packet."""
    e = exec_at(x)
    packet = e.packet
    push_frame(x, operations, FRAME_PROGRAM, 0, flow)
    run_frames(worker, x)
    if e.packet != packet:
        finish_output(worker, x)
        abandon(x, packet)
    if e.slots_used != 0 or e.set_count != 0:
        if worker_at(worker).trace != 0:
            note(worker_at(worker).trace, ACTION_SET, 0, 0)
        push_frame(x, make_set_program(x), FRAME_PROGRAM, 0, 0)
        run_frames(worker, x)
        if e.packet != packet:
            finish_output(worker, x)
            abandon(x, packet)
    finish_output(worker, x)
    if e.outputs == 0:
        drop(worker, e.number, e.reason)
    return 0


@entry("int64(int64, int64)")
def run_tables(worker, x):
    """Run the pipeline from table 0, or from ``EXEC.start``, for the packet that ``begin`` made ready."""
    flow = 0
    operations = exec_at(x).start
    if operations == 0:
        flow = flow_in(worker, x, 0)
        operations = operations_of(x, flow)
    return run_program(worker, x, operations, flow)

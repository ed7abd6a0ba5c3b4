"""Frames that others have a worker send: packet-outs of the control process, and what comes back from the main thread.

Both come by a record ring, in the order in which they were written; a packet's bytes stay there until it was sent.
"""

from __future__ import annotations

from penstock.datapath.bridging import forward
from penstock.datapath.clones import drop
from penstock.datapath.drops import TUNNEL_UNRESOLVED
from penstock.datapath.layout import (
    BURST,
    EGRESS_TUNNEL,
    FRAME_RECORD,
    HEADROOM,
    OUT_PORT,
    OUT_PROGRAM,
    PACKET_OFFLOADS,
    PORT_BYTES,
    PORT_FREE,
    PORT_UP,
    frame_record_at,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.output import append
from penstock.datapath.parsing import complete
from penstock.datapath.pipeline.execute import begin
from penstock.datapath.pipeline.layout import PROGRAM_OPERATIONS, exec_at, pipeline_at
from penstock.datapath.pipeline.lookup import SEARCH
from penstock.datapath.stages import reset_depth
from penstock.datapath.tunnel.layout import ASK_BYTES, ASK_TUNNEL, TOO_BIG, ask_at, clear_tunnel
from penstock.machine import call1, call2, call4, copy, fill, kernel, load64, load_acquire, store64
from penstock.memory import record_peek, record_release
from penstock.packet.fields import KEY_SIZE, PARSED_SIZE, TUNNEL_AT, TUNNEL_SIZE

RECORD_BYTES = FRAME_RECORD.itemsize


@kernel
def packet_of(worker, number, head, length, offloads):
    """The packet with these bytes, HEADROOM in front of them, parsed as if it had come in by a port (-1: by none)."""
    w = worker_at(worker)
    packet = load64(w.burst)
    p = packet_at(packet)
    p.head = head
    p.head_len = length
    p.tail = 0
    p.tail_len = 0
    p.frags = 0
    p.headroom = HEADROOM
    store64(packet + PACKET_OFFLOADS, offloads)
    call4(w.parse, worker, number, w.burst, 1)
    clear_tunnel(w.burst, 1)
    return packet


@kernel
def run_packet_program(worker, number, packet, pipeline, program):
    """Do with a packet what a controller said, as if it had come in by a port; by none, it comes in by place 0."""
    w = worker_at(worker)
    p = packet_at(packet)
    e = exec_at(w.exec)
    e.number = number
    if number <= 0:
        e.number = 0
        port_at(w.ports).bridge = pipeline_at(pipeline).bridge
    e.pipeline = pipeline
    e.version = load_acquire(pipeline)
    e.mode = SEARCH
    complete(packet)
    fill(p.key + PARSED_SIZE, 0, KEY_SIZE - PARSED_SIZE)
    begin(w.exec, packet, p.head_len)
    e.start = program + PROGRAM_OPERATIONS
    return call2(w.run_tables, worker, w.exec)


@kernel
def run_packet_out(worker):
    """Send the frames that the control process handed over: how many."""
    w = worker_at(worker)
    ring = w.packet_out
    if ring == 0:
        return 0
    done = 0
    while done < BURST:
        record = record_peek(ring)
        if record == 0:
            break
        r = frame_record_at(record)
        number = r.port
        if number > 0 and port_at(w.ports + number * PORT_BYTES).state != PORT_UP:
            number = -1
        packet = packet_of(worker, number, record + RECORD_BYTES, r.length, 0)
        if r.kind == OUT_PORT:
            # A port that is down counts the drop; the place of a port that is gone has no counters.
            if port_at(w.ports + r.target * PORT_BYTES).state != PORT_FREE:
                append(worker, r.target, packet)
        elif r.kind == OUT_PROGRAM:
            run_packet_program(worker, number, packet, r.pipeline, r.program)
        elif number > 0:
            forward(worker, number, w.burst, 1)
        finish(worker)
        record_release(ring)
        done += 1
    return done


@kernel
def finish(worker):
    """Empty the output bursts, and make the packet's descriptor ready for another."""
    w = worker_at(worker)
    call1(w.flush, worker)
    if w.crossed != 0:
        reset_depth(worker)
    return 0


@kernel
def answer(worker, record):
    """Do with a packet that the main thread gave back what it says; its port is there."""
    w = worker_at(worker)
    a = ask_at(record)
    port = port_at(w.ports + a.port * PORT_BYTES)
    if a.endpoint == TOO_BIG:
        if port.state != PORT_UP:
            return 0
        packet_of(worker, a.port, record + ASK_BYTES, a.length, 0)
        return forward(worker, a.port, w.burst, 1)  # what the host says of one that was too big
    if a.length == 0:
        return drop(worker, a.port, TUNNEL_UNRESOLVED)  # it waited in vain
    if port.egress != EGRESS_TUNNEL:
        return 0  # the number is another port's now
    packet = packet_of(worker, -1, record + ASK_BYTES, a.length, a.offloads)
    p = packet_at(packet)
    copy(p.key + TUNNEL_AT, record + ASK_TUNNEL, TUNNEL_SIZE)
    p.remote = a.remote
    p.vid = a.vid
    return append(worker, a.port, packet)


@kernel
def run_answers(worker):
    """Send the packets whose tunnel's far end has been found, and what the host says of others: how many."""
    w = worker_at(worker)
    ring = w.answers
    if ring == 0:
        return 0
    done = 0
    while done < BURST:
        record = record_peek(ring)
        if record == 0:
            break
        if port_at(w.ports + ask_at(record).port * PORT_BYTES).state != PORT_FREE:
            answer(worker, record)
            finish(worker)
        record_release(ring)
        done += 1
    return done

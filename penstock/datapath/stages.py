"""The stages of one burst: receive, parse, forward, transmit.

All packets of a burst came in by one port. Every 64th burst the cycles of each stage are added to the worker's
statistics.
"""

from __future__ import annotations

from penstock.datapath.bridging import forward
from penstock.datapath.clones import free_clones
from penstock.datapath.counters import count_drop
from penstock.datapath.drops import INGRESS_DOWN
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    BURST,
    COUNTERS_BYTES,
    EGRESS_DEVICE,
    PORT_BYTES,
    PORT_UP,
    RECEIVED,
    WORKER_BURST_SIZES,
    WORKER_STAGES,
    counters_at,
    packet_at,
    port_at,
    rxq_at,
    worker_at,
)
from penstock.datapath.output import next_dirty, take_back, unblock
from penstock.datapath.policing import police
from penstock.machine import call1, call2, call3, call4, cycles, entry, kernel, load64, store64
from penstock.memory import pool_put

SAMPLED = 64  # one burst in so many has its stages timed


@kernel
def free_cut(worker):
    """Give back what tunnels took for segments and copies: everything was sent."""
    w = worker_at(worker)
    for i in range(w.cut_count):
        pool_put(w.cache, load64(w.cut + i * 8))
    w.cut_count = 0
    w.cut_joined_count = 0
    return 0


@entry("int64(int64)")
def flush(worker):
    """Empty every output burst: transmit, or forward where a patch or a tunnel leads."""
    w = worker_at(worker)
    while True:
        number = next_dirty(worker)
        if number >= 0:
            if port_at(w.ports + number * PORT_BYTES).egress == EGRESS_DEVICE:
                call2(w.transmit, worker, number)
            else:
                call2(w.cross, worker, number)
        elif w.aside_count != 0:
            take_back(worker)
        else:
            if w.cut_count != 0:
                free_cut(worker)
            if w.blocked_count == 0:
                break
            unblock(worker)
    if w.clone_count != 0 and w.trace == 0:
        free_clones(worker)
    return 0


@kernel
def reset_depth(worker):
    """Packets that crossed a patch or a tunnel begin anew."""
    w = worker_at(worker)
    for i in range(BURST):
        p = packet_at(load64(w.burst + i * 8))
        p.depth = 0
        p.remote = 0
    w.crossed = 0
    return 0


@kernel
def add_stage(worker, stage, spent):
    """Add cycles to a stage's total."""
    cell = worker + WORKER_STAGES + stage * 8
    store64(cell, load64(cell) + spent)
    return 0


@kernel
def run_burst(worker, rxq):
    """Receive and forward one burst of a queue: the number of packets, negative when the queue is out of service."""
    w = worker_at(worker)
    q = rxq_at(rxq)
    sampled = w.bursts & (SAMPLED - 1) == 0
    t0 = cycles() if sampled else 0
    count = call3(q.rx, rxq, w.packets, BURST)
    if count <= 0:
        return count
    number = q.port
    port = port_at(w.ports + number * PORT_BYTES)
    packets = w.burst
    t1 = cycles() if sampled else 0
    octets = call4(w.parse, worker, number, packets, count)
    counters = port.counters + w.index * COUNTERS_BYTES
    c = counters_at(counters)
    c.rx_packets += count
    c.rx_bytes += octets
    t2 = cycles() if sampled else 0
    if port.capture != 0:
        capture(worker, number, RECEIVED, packets, count, port.capture)
    if port.state == PORT_UP:
        policer = port.policer
        if policer == 0:
            forward(worker, number, packets, count)
        else:
            admitted = police(worker, number, packets, count, policer)
            if admitted > 0:
                forward(worker, number, w.policed, admitted)
    else:
        count_drop(counters, INGRESS_DOWN, count)
    t3 = cycles() if sampled else 0
    call1(w.flush, worker)
    if w.crossed != 0:
        reset_depth(worker)
    if q.release != 0:
        call1(q.release, rxq)
    if sampled:
        add_stage(worker, 0, t1 - t0)
        add_stage(worker, 1, t2 - t1)
        add_stage(worker, 2, t3 - t2)
        add_stage(worker, 3, cycles() - t3)
        w.staged_packets += count
    w.bursts += 1
    w.packets_total += count
    cell = worker + WORKER_BURST_SIZES + count * 8
    store64(cell, load64(cell) + 1)
    return count

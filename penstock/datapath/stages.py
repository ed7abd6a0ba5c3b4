"""The stages of one burst: receive, parse, forward, transmit; and the same for a burst that crosses a patch.

All packets of a burst came in by one port. Every 64th burst the cycles of each stage are added to the worker's
statistics.
"""

from __future__ import annotations

from penstock.datapath.clones import drop, free_clones
from penstock.datapath.counters import count_drop
from penstock.datapath.drops import INGRESS_DOWN, NO_PEER, PATCH_LOOP
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    BRIDGE_BYTES,
    BURST,
    COUNTERS_BYTES,
    PORT_BYTES,
    PORT_UP,
    RECEIVED,
    TRANSMITTED,
    WORKER_BURST_SIZES,
    WORKER_STAGES,
    bridge_at,
    counters_at,
    packet_at,
    port_at,
    rxq_at,
    worker_at,
)
from penstock.datapath.output import next_dirty, take_patch_burst
from penstock.datapath.trace import CROSSES_PATCH, note
from penstock.machine import call1, call2, call3, call4, cycles, entry, inlined, kernel, load64, shr, store64
from penstock.packet.fields import key_offset
from penstock.packet.parse import PARSED_TAG, parse

SAMPLED = 64  # one burst in so many has its stages timed
DEPTH_MAX = 16
IN_PORT = key_offset("in_port")
FROM_CONTROLLER = int.from_bytes(b"\xff\xff\xff\xfd" * 2, "little", signed=True)  # ports of a frame from no port


@entry("int64(int64, int64, int64, int64)")
def parse_burst(worker, number, packets, count):
    """Fill the flow key and layer offsets of each packet; the burst's bytes."""
    octets = 0
    key_word = FROM_CONTROLLER
    if number >= 0:
        key_word = port_at(worker_at(worker).ports + number * PORT_BYTES).key_word
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        found = parse(p.head, p.head_len, p.key)
        store64(p.key + IN_PORT, key_word)
        p.in_port = number
        p.l3 = found & 0xFFFF
        p.l4 = shr(found, 16) & 0xFFFF
        p.tagged = 1 if found & PARSED_TAG != 0 else 0
        octets += p.head_len + p.tail_len
    return octets


@inlined
def forward(worker, number, packets, count):
    """Forward a burst of parsed packets by the pipeline of their bridge, or by NORMAL when it has none."""
    w = worker_at(worker)
    bridge = port_at(w.ports + number * PORT_BYTES).bridge
    if bridge_at(w.bridges + bridge * BRIDGE_BYTES).pipeline == 0:
        return call4(w.normal, worker, number, packets, count)
    return call4(w.pipeline, worker, number, packets, count)


@kernel
def cross_patch(worker, number):
    """Forward what left by a patch port in the bridge of its peer."""
    w = worker_at(worker)
    count = take_patch_burst(worker, number)
    peer = port_at(w.ports + number * PORT_BYTES).peer
    if peer < 0:
        for _ in range(count):
            drop(worker, number, NO_PEER)
        return 0
    out = port_at(w.ports + number * PORT_BYTES)
    into = port_at(w.ports + peer * PORT_BYTES)
    if out.capture != 0 and w.trace == 0:
        capture(worker, number, TRANSMITTED, w.patched, count, out.capture)
    kept = 0
    octets = 0
    for i in range(count):
        packet = load64(w.patched + i * 8)
        p = packet_at(packet)
        octets += p.head_len + p.tail_len
        if p.depth == DEPTH_MAX:
            drop(worker, peer, PATCH_LOOP)
            continue
        p.depth += 1
        w.crossed = 1
        store64(w.patched + kept * 8, packet)
        kept += 1
        if w.trace != 0:
            note(w.trace, CROSSES_PATCH, peer, 0)
    call4(w.parse, worker, peer, w.patched, kept)
    if w.trace == 0:
        left = counters_at(out.counters + w.index * COUNTERS_BYTES)
        left.tx_packets += count
        left.tx_bytes += octets
        entered = counters_at(into.counters + w.index * COUNTERS_BYTES)
        entered.rx_packets += count
        entered.rx_bytes += octets
        if into.capture != 0:
            capture(worker, peer, RECEIVED, w.patched, kept, into.capture)
    if into.state != PORT_UP:
        for _ in range(kept):
            drop(worker, peer, INGRESS_DOWN)
        return 0
    return forward(worker, peer, w.patched, kept)


@entry("int64(int64)")
def flush(worker):
    """Empty every output burst: transmit, or forward on the other side of a patch."""
    w = worker_at(worker)
    while True:
        number = next_dirty(worker)
        if number < 0:
            break
        if port_at(w.ports + number * PORT_BYTES).peer >= -1:
            cross_patch(worker, number)
        else:
            call2(w.transmit, worker, number)
    if w.clone_count != 0 and w.trace == 0:
        free_clones(worker)
    return 0


@kernel
def reset_depth(worker):
    """Packets that crossed a patch begin anew."""
    w = worker_at(worker)
    for i in range(BURST):
        packet_at(load64(w.burst + i * 8)).depth = 0
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
        forward(worker, number, packets, count)
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

"""Transmit: one output burst to its port, with the work done that the port cannot do itself.

Packets go to the port's ``tx_burst`` as they are where it can take them. For the others ``prepare`` checks the MTU,
splits large segments, and finishes checksums. Order within the burst is kept.
"""

from __future__ import annotations

from penstock.datapath.clones import drop, drop_all
from penstock.datapath.drops import CANNOT_FINISH, MTU_EXCEEDED, NO_BUFFERS, PORT_DOWN
from penstock.datapath.fragments import join_tail
from penstock.datapath.handover import capture
from penstock.datapath.layout import (
    BURST,
    ETHERNET_HEADER,
    FLAG_CSUM_PARTIAL,
    FLAG_CSUM_VALID,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    OFFLOAD_CRC,
    OFFLOAD_CSUM,
    OFFLOAD_TSO4,
    OFFLOAD_TSO6,
    OFFLOAD_UFO,
    OFFLOAD_USO,
    OUTPUT_BYTES,
    OUTPUT_PACKETS,
    PORT_BYTES,
    PORT_UP,
    TRANSMITTED,
    TXQ_BYTES,
    output_at,
    packet_at,
    port_at,
    txq_at,
    worker_at,
)
from penstock.datapath.segments import header_length, make_segment, plan_segments
from penstock.datapath.tags import TAG_BYTES
from penstock.datapath.trace import CHECKSUMMED, SEGMENTED, SENT, note
from penstock.machine import call3, cas, entry, kernel, load16, load64, pause, store64, store_release
from penstock.memory import pool_get, pool_put
from penstock.packet.checksum import finish_checksum
from penstock.packet.parse import is_vlan
from penstock.packet.protocols import SCTP_CHECKSUM


@kernel
def send(worker, number, packets, count):
    """Call the port's transmit function for ``count`` packets that it can take as they are."""
    w = worker_at(worker)
    port = port_at(w.ports + number * PORT_BYTES)
    if w.trace != 0:
        for i in range(count):
            note(w.trace, SENT, number, load64(packets + i * 8))
        return 0
    if count == 0:
        return 0
    if port.capture != 0:
        capture(worker, number, TRANSMITTED, packets, count, port.capture)
    txq = port.txqs + w.index * TXQ_BYTES
    q = txq_at(txq)
    lock = q.lock
    if lock == 0:
        return call3(q.tx, txq, packets, count)
    while cas(lock, 0, 1) == 0:
        pause()
    call3(q.tx, txq, packets, count)
    return store_release(lock, 0)


@kernel
def needed_offload(packet):
    """The OFFLOAD_ bits that a port must have to take this packet as it is."""
    p = packet_at(packet)
    need = 0
    if p.flags & FLAG_CSUM_PARTIAL != 0:
        need = OFFLOAD_CRC if p.csum_offset == SCTP_CHECKSUM else OFFLOAD_CSUM
    kind = p.gso_type
    if kind == 0:
        return need
    if kind == GSO_TCPV4:
        return need | OFFLOAD_TSO4
    if kind == GSO_TCPV6:
        return need | OFFLOAD_TSO6
    if kind == GSO_UDP:
        return need | OFFLOAD_UFO
    return need | OFFLOAD_USO


@kernel
def layer3_length(packet):
    """Bytes that count against an MTU: of the frame, or of each segment it will become."""
    p = packet_at(packet)
    start = p.l3
    if start == 0:
        start = ETHERNET_HEADER
        while p.head_len >= start + TAG_BYTES and is_vlan(load16(p.head + start - 2)) == 1:
            start += TAG_BYTES
    if p.gso_type == 0:
        return p.head_len + p.tail_len - start
    if p.gso_type == GSO_UDP:
        return p.gso_size + p.l4 - start
    return p.gso_size + header_length(packet) - start


@kernel
def free_segments(worker, count):
    """Give back the buffers of segments that were sent."""
    w = worker_at(worker)
    for i in range(count):
        pool_put(w.cache, load64(w.segments + i * 8))
    return 0


@kernel
def segment(worker, number, packet):
    """Split a large packet and send its segments: TCP, USO, or the fragments of a UFO datagram."""
    w = worker_at(worker)
    total = plan_segments(worker, packet)
    if total == 0:
        return drop(worker, number, CANNOT_FINISH)
    if w.trace != 0:
        return note(w.trace, SEGMENTED, number, total)
    waiting = 0
    for i in range(total):
        buffer = pool_get(w.cache)
        if buffer == 0:
            drop(worker, number, NO_BUFFERS)
            break
        make_segment(worker, packet, i, buffer)
        store64(w.segments + waiting * 8, buffer)
        waiting += 1
        if waiting == BURST:
            send(worker, number, w.segments, waiting)
            free_segments(worker, waiting)
            waiting = 0
    send(worker, number, w.segments, waiting)
    return free_segments(worker, waiting)


@kernel
def prepare(worker, number, packets, count, offloads, mtu):
    """Send a burst of which some packets need work first. Order is kept."""
    w = worker_at(worker)
    ready = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        if layer3_length(packet) > mtu:
            drop(worker, number, MTU_EXCEEDED)
            continue
        missing = needed_offload(packet) & ~offloads
        joins = int(missing != 0 and p.frags != 0)
        if missing != 0 and (p.gso_type != 0 or joins == 1):
            send(worker, number, w.staged, ready)
            ready = 0
        if joins == 1:
            join_tail(packet, w.joined)
        if p.gso_type != 0 and missing != 0:
            segment(worker, number, packet)
            continue
        if missing != 0:
            if w.trace != 0:
                note(w.trace, CHECKSUMMED, number, 0)
            if finish_checksum(p.head, p.head_len, p.tail, p.tail_len, p.csum_start, p.csum_offset) == 0:
                drop(worker, number, CANNOT_FINISH)
                continue
            p.flags = p.flags & ~FLAG_CSUM_PARTIAL | FLAG_CSUM_VALID
        store64(w.staged + ready * 8, packet)
        ready += 1
        if joins == 1:
            send(worker, number, w.staged, ready)  # before the next one takes the place where its tail was joined
            ready = 0
    return send(worker, number, w.staged, ready)


@entry("int64(int64, int64)")
def transmit(worker, number):
    """Send and empty the output burst of a port."""
    w = worker_at(worker)
    output = w.outputs + number * OUTPUT_BYTES
    o = output_at(output)
    count = o.count
    o.count = 0
    port = port_at(w.ports + number * PORT_BYTES)
    if port.state != PORT_UP:
        return drop_all(worker, number, PORT_DOWN, count)
    packets = output + OUTPUT_PACKETS
    offloads = txq_at(port.txqs + w.index * TXQ_BYTES).offloads
    limit = port.mtu + ETHERNET_HEADER
    longest = 0
    unfinished = 0
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        length = p.head_len + p.tail_len
        longest = length if length > longest else longest
        unfinished |= p.flags & FLAG_CSUM_PARTIAL | p.gso_type
    if longest <= limit and unfinished == 0:
        return send(worker, number, packets, count)
    return prepare(worker, number, packets, count, offloads, port.mtu)

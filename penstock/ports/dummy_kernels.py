"""What workers do at dummy ports: receive injected or replayed frames, keep or discard transmitted ones.

Receiving copies the headers into the worker's private buffer and leaves the rest, as a queue of guest memory would.
Layout in the arena: DUMMY; a single-producer ring of FRAME addresses (the engine's main thread pushes, the worker
pops); a record ring of transmitted frames (workers write under the transmit lock, the main thread reads), each a
FRAME and its bytes.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import TX_RING_FULL
from penstock.datapath.fragments import copy_packet, copy_tail
from penstock.datapath.layout import (
    HEADER_MAX,
    HEADROOM,
    PACKET_BYTES,
    packet_at,
    rxq_at,
    txq_at,
)
from penstock.machine import copy, entry, inlined, kernel, load64, load_acquire, offset, prefetch, view
from penstock.memory import (
    record_commit,
    record_reserve,
    ring_length,
    spsc_pop,
)

SINK_SLOTS, SINK_BYTES = 64, 2048
HEAD_STRIDE = HEADROOM + HEADER_MAX + 64

DUMMY = np.dtype(
    [
        ("ring", "i8"),
        ("replay", "i8"),  # FRAMEs to receive round and round
        ("replay_count", "i8"),
        ("next", "i8"),  # the worker's place among them
        ("kept", "i8"),  # record ring; 0: do not keep
        ("sink", "i8"),
        ("sink_next", "i8"),
        ("pad", "i8"),
    ],
    align=True,
)
FRAME = np.dtype(
    [
        ("address", "i8"),
        ("length", "i4"),
        ("csum_start", "u2"),
        ("csum_offset", "u2"),
        ("gso_size", "u2"),
        ("gso_type", "u1"),
        ("flags", "u1"),
        ("pad", "i4"),
    ],
    align=True,
)
FRAME_BYTES = FRAME.itemsize
OFFLOAD_WORDS = ("csum_start", "csum_offset", "gso_size", "gso_type", "flags")
REPLAY_COUNT, RING_OF = offset(DUMMY, "replay_count"), offset(DUMMY, "ring")

dummy_at = view(DUMMY)
frame_at = view(FRAME)


@inlined
def fill_packet(packet, frame, buffer):
    """Describe one frame to the worker: headers copied to ``buffer``, the rest in place."""
    f = frame_at(frame)
    p = packet_at(packet)
    address = f.address
    length = f.length
    head_len = length if length < HEADER_MAX else HEADER_MAX
    head = buffer + HEADROOM
    copy(head, address, 64)
    if head_len > 64:
        copy(head + 64, address + 64, HEADER_MAX - 64)
    p.head = head
    p.head_len = head_len
    p.tail = address + head_len
    p.tail_len = length - head_len
    p.frags = 0
    p.headroom = HEADROOM
    p.csum_start = f.csum_start
    p.csum_offset = f.csum_offset
    p.gso_size = f.gso_size
    p.gso_type = f.gso_type
    p.flags = f.flags
    return 0


@entry("int64(int64, int64, int64)")
def dummy_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames."""
    q = rxq_at(rxq)
    d = dummy_at(q.ctx)
    count = load_acquire(q.ctx + REPLAY_COUNT)
    buffer = q.scratch
    done = 0
    if count > 0:
        position = d.next
        frames = d.replay
        while done < limit:
            if position >= count:
                position = 0
            frame = frames + position * FRAME_BYTES
            prefetch(load64(frame + 8 * FRAME_BYTES))
            fill_packet(packets + done * PACKET_BYTES, frame, buffer + done * HEAD_STRIDE)
            position += 1
            done += 1
        d.next = position
        return done
    ring = d.ring
    while done < limit:
        frame = spsc_pop(ring)
        if frame == 0:
            break
        fill_packet(packets + done * PACKET_BYTES, frame, buffer + done * HEAD_STRIDE)
        done += 1
    return done


@entry("int64(int64)")
def dummy_pending(rxq):
    """Whether frames wait."""
    ctx = rxq_at(rxq).ctx
    if load_acquire(ctx + REPLAY_COUNT) > 0 or ring_length(load64(ctx + RING_OF)) > 0:
        return 1
    return 0


@kernel
def keep_frame(ring, packet):
    """Copy a transmitted frame and its offload state to the record ring: 1, or 0 when it is full."""
    p = packet_at(packet)
    length = p.head_len + p.tail_len
    record = record_reserve(ring, FRAME_BYTES + length)
    if record == 0:
        return 0
    f = frame_at(record)
    f.address = 0
    f.length = length
    f.csum_start = p.csum_start
    f.csum_offset = p.csum_offset
    f.gso_size = p.gso_size
    f.gso_type = p.gso_type
    f.flags = p.flags
    copy_packet(record + FRAME_BYTES, packet, length)
    record_commit(ring)
    return 1


@inlined
def sink_frame(dummy, packet):
    """Copy the first bytes of a frame to the sink, as a ring of 2 KB buffers would take it."""
    d = dummy_at(dummy)
    p = packet_at(packet)
    slot = d.sink + (d.sink_next & (SINK_SLOTS - 1)) * SINK_BYTES
    d.sink_next += 1
    if p.head_len <= 64:
        copy(slot, p.head, 64)
    else:
        copy(slot, p.head, p.head_len if p.head_len < SINK_BYTES else SINK_BYTES)
        if p.tail_len > 0:
            room = SINK_BYTES - HEADER_MAX
            copy_tail(slot + HEADER_MAX, packet, p.tail_len if p.tail_len < room else room)
    return 0


@entry("int64(int64, int64, int64)")
def dummy_tx(txq, packets, count):
    """Keep or discard a burst."""
    q = txq_at(txq)
    dummy = q.ctx
    kept = dummy_at(dummy).kept
    sent = 0
    octets = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        if kept != 0:
            if keep_frame(kept, packet) == 0:
                continue
        else:
            sink_frame(dummy, packet)
        sent += 1
        octets += p.head_len + p.tail_len
    count_tx(q.counters, sent, octets)
    if sent < count:
        count_drop(q.counters, TX_RING_FULL, count - sent)
    return 0

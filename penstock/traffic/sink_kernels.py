"""What a sink does in its turn: receive, recognise stamped frames, count them by flow, and reply where it is asked to.

Loss, duplicates and reordering are told by sequence number. A flow's SEEN remembers one more than the highest number
seen, and its window has a bit for each of the last ``window`` numbers below that. A frame with one of those is
reordered, in the sense of RFC 4737 section 3, if the bit was not set, and a duplicate if it was. What is below the
window is late: which of both nobody can tell.

SINK and all it points to belong to the thread that runs the loop.
"""

from __future__ import annotations

from penstock.datapath.layout import BURST, PACKET_BYTES, packet_at, rxq_at, txq_at
from penstock.machine import call1, call3, cycles, entry, inlined, kernel, load64, shr, store64
from penstock.traffic.histogram import bucket_of
from penstock.traffic.layout import (
    REPLY_NOT,
    SEEN_BYTES,
    SIGNATURE_BITS,
    TIME_BITS,
    TIME_MASK,
    seen_at,
    sink_at,
)
from penstock.traffic.reply_kernels import reply
from penstock.traffic.stamp_kernels import find_stamp

WORD_BITS = 6
BIT_MASK = 63
IMPLAUSIBLE = 1 << (TIME_BITS - 1)  # a time stamp from the future: counters of two cores that differ


@kernel
def clear_window(window, first, count, size):
    """Clear the bits of ``count`` sequence numbers from ``first`` on, in a window of ``size`` bits."""
    if count >= size:
        for word in range(size >> WORD_BITS):
            store64(window + word * 8, 0)
        return 0
    for number in range(first, first + count):
        bit = number & (size - 1)
        cell = window + (bit >> WORD_BITS) * 8
        store64(cell, load64(cell) & ~(1 << (bit & BIT_MASK)))
    return 0


@inlined
def note_sequence(seen, window, size, sequence):
    """Count a frame of one flow by its sequence number; ``size``, the window's bits, is a power of two from 64 on."""
    s = seen_at(seen)
    following = s.next
    bit = sequence & (size - 1)
    cell = window + (bit >> WORD_BITS) * 8
    mask = 1 << (bit & BIT_MASK)
    if sequence >= following:
        if sequence > following:
            clear_window(window, following, sequence - following, size)
        store64(cell, load64(cell) | mask)
        s.next = sequence + 1
        s.unique += 1
        return 0
    if following - sequence > size:
        s.late += 1
        return 0
    word = load64(cell)
    if word & mask != 0:
        s.duplicates += 1
        return 0
    store64(cell, word | mask)
    s.unique += 1
    s.reordered += 1
    return 0


@inlined
def note_latency(sink, latency):
    """Add a latency in cycles to the histogram."""
    s = sink_at(sink)
    if latency >= IMPLAUSIBLE:
        latency = 0
    cell = s.histogram + bucket_of(latency) * 8
    store64(cell, load64(cell) + 1)
    s.latency_sum += latency
    if latency < s.latency_min:
        s.latency_min = latency
    if latency > s.latency_max:
        s.latency_max = latency
    return 0


@inlined
def take(sink, packet, now):
    """Count one received frame."""
    s = sink_at(sink)
    p = packet_at(packet)
    s.octets += p.head_len + p.tail_len
    at = find_stamp(p.head, p.head_len)
    if at == 0:
        s.foreign += 1
        return 0
    first = load64(at)
    second = load64(at + 8)
    flow = shr(second, TIME_BITS)
    if flow >= s.flow_count:
        s.untracked += 1
        return 0
    s.stamped += 1
    note_latency(sink, (now - second) & TIME_MASK)
    note_sequence(s.seen + flow * SEEN_BYTES, s.windows + flow * (s.window >> 3), s.window, shr(first, SIGNATURE_BITS))
    return 0


@kernel
def send_replies(sink, count):
    """Turn the frames of the burst that are to be answered into their answers and send those."""
    s = sink_at(sink)
    waiting = 0
    for i in range(count):
        packet = s.packets + i * PACKET_BYTES
        if reply(sink, packet) == 1:
            store64(s.replies + waiting * 8, packet)
            waiting += 1
    if waiting > 0:
        call3(txq_at(s.txq).tx, s.txq, s.replies, waiting)
        s.replied += waiting
    return 0


@entry("int64(int64)")
def sink_turn(sink):
    """Receive a burst of each queue: how many frames."""
    s = sink_at(sink)
    total = 0
    for index in range(s.queue_count):
        rxq = load64(s.queues + index * 8)
        q = rxq_at(rxq)
        if q.error != 0:
            continue
        count = call3(q.rx, rxq, s.packets, BURST)
        if count > 0:
            now = cycles()
            for i in range(count):
                take(sink, s.packets + i * PACKET_BYTES, now)
            s.received += count
            total += count
            if s.reply != REPLY_NOT:
                send_replies(sink, count)
        if q.release != 0:
            call1(q.release, rxq)
    return total

"""Frames from and to capture files.

Replay: a table of (address, length) over the file's bytes in private memory. Headers are copied into the worker's
scratch, as the bridge may change them and the file may be replayed again; payloads are taken in place. With a rate, a
timer descriptor wakes the worker and ``due`` says when the next frame may go; without, the queue has no descriptor and
is asked on every turn until it is exhausted. PCAP_READER belongs to the worker that holds the queue.

Writing: a burst is one ``writev`` of record headers and frames. PCAP_WRITER is shared by the port's workers under the
spin lock of its only transmit queue. A write that the disk cuts short is taken back, so the file always ends with a
whole record.
"""

from __future__ import annotations

import errno

import numpy as np

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import NOT_WRITTEN, TX_REJECTED
from penstock.datapath.fragments import tail_pieces, tail_vector
from penstock.datapath.layout import (
    FRAGS_MAX,
    HEADER_MAX,
    HEADROOM,
    PACKET_BYTES,
    SCRATCH_STRIDE,
    TX_SCRATCH,
    packet_at,
    rxq_at,
    txq_at,
)
from penstock.machine import (
    copy,
    entry,
    kernel,
    load64,
    monotonic_ns,
    store32,
    store64,
    sys_ftruncate,
    sys_read,
    sys_writev,
    view,
)

PCAP_READER = np.dtype(
    [
        ("frames", "i8"),  # FRAME_ENTRY each: address, length
        ("count", "i8"),
        ("next", "i8"),
        ("loop", "i8"),
        ("interval", "i8"),  # between frames, in units of 1/64 ns; 0: no rate
        ("due", "i8"),  # of the next frame, in units of 1/64 ns of CLOCK_MONOTONIC
        ("replayed", "i8"),
        ("pad", "i8"),
    ],
    align=True,
)
PCAP_WRITER = np.dtype(
    [
        ("unix_offset", "i8"),  # nanoseconds from CLOCK_MONOTONIC to the Unix epoch
        ("size", "i8"),  # of the file
        ("error", "i8"),  # errno of the last write; 0 when it went well
        ("pad", "i8", 5),
    ],
    align=True,
)
reader_at = view(PCAP_READER)
writer_at = view(PCAP_WRITER)

FRAME_ENTRY = 16
TICKS = 64  # per nanosecond: a rate of 10 million frames a second is exact to 1 in 6,400
LATE_TICKS = 10_000_000 * TICKS  # a worker that was kept away for longer does not make up for it

IOVEC, RECORD = 16, 16
BATCH = 64
RECORDS_AT = 0  # in the scratch of a TXQ; behind them the vector, as long as the batch takes
VECTOR_AT = BATCH * RECORD
VECTOR_MAX = (TX_SCRATCH - VECTOR_AT) // IOVEC
assert VECTOR_MAX > FRAGS_MAX + 2
SECOND = 1_000_000_000
ENOSPC = errno.ENOSPC


@kernel
def replay_frame(packet, frame, buffer):
    """Describe one frame of the file to the worker."""
    p = packet_at(packet)
    address = load64(frame)
    length = load64(frame + 8)
    head_len = length if length < HEADER_MAX else HEADER_MAX
    p.head = buffer + HEADROOM
    p.head_len = head_len
    p.tail = address + head_len
    p.tail_len = length - head_len
    p.frags = 0
    p.headroom = HEADROOM
    p.csum_start = 0
    p.csum_offset = 0
    p.gso_size = 0
    p.gso_type = 0
    p.flags = 0
    copy(p.head, address, head_len)
    return 0


@entry("int64(int64, int64, int64)")
def pcap_rx(rxq, packets, limit):
    """Receive the frames whose time has come, up to ``limit``."""
    q = rxq_at(rxq)
    c = reader_at(q.ctx)
    now = 0
    if c.interval > 0:
        sys_read(q.fd, q.scratch, 8)  # the timer's count of ticks, which nobody needs
        now = monotonic_ns() * TICKS
        if c.due == 0 or now - c.due > LATE_TICKS:
            c.due = now
    done = 0
    while done < limit:
        if c.next >= c.count:
            if c.loop == 0:
                break
            c.next = 0
        if c.interval > 0:
            if c.due > now:
                break
            c.due += c.interval
        replay_frame(packets + done * PACKET_BYTES, c.frames + c.next * FRAME_ENTRY, q.scratch + done * SCRATCH_STRIDE)
        c.next += 1
        done += 1
    c.replayed += done
    return done


@entry("int64(int64)")
def pcap_pending(rxq):
    """Whether the file has frames left."""
    c = reader_at(rxq_at(rxq).ctx)
    if c.next < c.count or c.loop != 0:
        return 1
    return 0


@kernel
def batch_of(packets, count):
    """How many of the packets one ``write_batch`` takes."""
    pieces = 0
    batch = 0
    while batch < count and batch < BATCH:
        pieces += 2 + tail_pieces(load64(packets + batch * 8))
        if pieces > VECTOR_MAX:
            break
        batch += 1
    return batch


@kernel
def write_batch(txq, packets, count, now):
    """Append as many frames as ``batch_of`` says, as records: bytes of frames written, or minus errno."""
    q = txq_at(txq)
    c = writer_at(q.ctx)
    size = 0
    pieces = 0
    for index in range(count):
        packet = load64(packets + index * 8)
        p = packet_at(packet)
        record = q.scratch + RECORDS_AT + index * RECORD
        vector = q.scratch + VECTOR_AT + pieces * IOVEC
        length = p.head_len + p.tail_len
        store32(record, now // SECOND)
        store32(record + 4, now % SECOND)
        store32(record + 8, length)
        store32(record + 12, length)
        store64(vector, record)
        store64(vector + 8, RECORD)
        store64(vector + IOVEC, p.head)
        store64(vector + IOVEC + 8, p.head_len)
        pieces += 2 + tail_vector(packet, vector + 2 * IOVEC)
        size += RECORD + length
    got = sys_writev(q.fd, q.scratch + VECTOR_AT, pieces)
    if got == size:
        c.size += size
        c.error = 0
        return size - count * RECORD
    if got >= 0:
        sys_ftruncate(q.fd, c.size)
        got = -ENOSPC
    c.error = -got
    return got


@entry("int64(int64, int64, int64)")
def pcap_tx(txq, packets, count):
    """Write a burst to the file."""
    q = txq_at(txq)
    now = monotonic_ns() + writer_at(q.ctx).unix_offset
    done = 0
    while done < count:
        batch = batch_of(packets + done * 8, count - done)
        octets = write_batch(txq, packets + done * 8, batch, now)
        if octets >= 0:
            count_tx(q.counters, batch, octets)
        else:
            count_drop(q.counters, TX_REJECTED, batch)
        done += batch
    return done


@entry("int64(int64, int64, int64)")
def pcap_discard(txq, packets, count):
    """Transmit of a port that only reads."""
    count_drop(txq_at(txq).counters, NOT_WRITTEN, count)
    return count

"""Frames handed between workers and the control process: packet-ins, captures, packet-outs.

Each direction is a record ring of FRAME_RECORDs followed by the frame's bytes. A full ring loses the newest frame and
counts it; forwarding never waits for the control process.
"""

from __future__ import annotations

from penstock.datapath.fragments import copy_packet
from penstock.datapath.layout import FRAME_RECORD, frame_record_at, packet_at, worker_at
from penstock.datapath.trace import PUNTED, note
from penstock.machine import kernel, load64, monotonic_ns
from penstock.memory import record_commit, record_reserve

RECORD_BYTES = FRAME_RECORD.itemsize
PUNT_BYTES = 65535


@kernel
def hand_over(worker, ring, number, kind, packet, limit):
    """Copy at most ``limit`` bytes of a packet to a record ring: 1, or 0 when there is no room."""
    p = packet_at(packet)
    length = p.head_len + p.tail_len
    kept = length if length < limit else limit
    record = record_reserve(ring, RECORD_BYTES + kept)
    if record == 0:
        return 0
    r = frame_record_at(record)
    r.time_ns = monotonic_ns() + worker_at(worker).unix_offset
    r.port = number
    r.kind = kind
    r.wire_length = length
    r.length = kept
    r.target = 0
    copy_packet(record + RECORD_BYTES, packet, kept)
    record_commit(ring)
    return 1


@kernel
def capture(worker, number, kind, packets, count, limit):
    """Hand copies of a burst over as captured at a port: ``kind`` is RECEIVED or TRANSMITTED."""
    captures = worker_at(worker).captures
    for i in range(count):
        hand_over(worker, captures, number, kind, load64(packets + i * 8), limit)
    return 0


@kernel
def punt(worker, number, packet):
    """Hand a packet to the control process as a packet-in, if that was asked for."""
    w = worker_at(worker)
    if w.punt == 0:
        return 0
    if w.trace != 0:
        return note(w.trace, PUNTED, number, 0)
    return hand_over(worker, w.packet_in, number, 0, packet, PUNT_BYTES)

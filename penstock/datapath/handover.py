"""Frames handed between workers and the control process: packet-ins, captures, packet-outs.

Each direction is a record ring of FRAME_RECORDs (PACKET_INs) followed by the frame's bytes. A full ring loses the
newest frame and counts it; forwarding never waits for the control process.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.fragments import copy_packet
from penstock.datapath.layout import (
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    FRAME_RECORD,
    frame_record_at,
    packet_at,
    worker_at,
)
from penstock.datapath.parsing import complete
from penstock.datapath.trace import PUNTED, note
from penstock.machine import copy, fence, kernel, load64, load_acquire, monotonic_ns, store64, sys_write, view
from penstock.memory import ASKED, record_commit, record_reserve
from penstock.packet.fields import KEY_SIZE

RECORD_BYTES = FRAME_RECORD.itemsize
# A packet for controllers; ``length`` of its bytes follow.
PACKET_IN = np.dtype(
    [
        ("time_ns", "i8"),  # Unix epoch
        ("pipeline", "i8"),  # 0: a frame for a reserved group address that NORMAL met
        ("port", "i4"),  # engine's number
        ("reason", "i4"),  # ofp_packet_in_reason
        ("table", "i4"),
        ("controller", "i4"),
        ("cookie", "i8"),
        ("user_data", "i8"),  # address of the operation's
        ("max_len", "i4"),
        ("wire_length", "i4"),
        ("length", "i8"),
        ("key", "u1", KEY_SIZE),
    ],
    align=True,
)
packet_in_at = view(PACKET_IN)
PACKET_IN_BYTES = PACKET_IN.itemsize
PACKET_IN_KEY = PACKET_IN_BYTES - KEY_SIZE
PACKET_IN_MAX = 0xFFFF


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
def make_packet_in(worker, packet, number):
    """Begin a packet-in: its record with the packet in it, or 0 when there is no room. ``send_packet_in`` ends it."""
    w = worker_at(worker)
    p = packet_at(packet)
    length = p.head_len + p.tail_len
    kept = length if length < PACKET_IN_MAX else PACKET_IN_MAX
    record = record_reserve(w.packet_in, PACKET_IN_BYTES + kept)
    if record == 0:
        return 0
    r = packet_in_at(record)
    r.time_ns = monotonic_ns() + w.unix_offset
    r.port = number
    r.wire_length = length
    r.length = kept
    complete(packet)
    copy(record + PACKET_IN_KEY, p.key, KEY_SIZE)
    copy_packet(record + PACKET_IN_BYTES, packet, kept)
    return record


@kernel
def send_packet_in(worker):
    """Show the record to its reader, and wake it if it asked for that: 1."""
    w = worker_at(worker)
    record_commit(w.packet_in)
    fence()
    asked = load_acquire(w.packet_in + ASKED)
    if asked != w.woken:
        w.woken = asked
        store64(w.events + EVENTS_MAX * EVENT_BYTES_MAX, 1)
        sys_write(w.packet_in_fd, w.events + EVENTS_MAX * EVENT_BYTES_MAX, 8)
    return 1


@kernel
def punt(worker, number, packet):
    """Hand a packet to the control process as a packet-in of no pipeline, if that was asked for."""
    w = worker_at(worker)
    if w.punt == 0:
        return 0
    if w.trace != 0:
        return note(w.trace, PUNTED, number, 0)
    record = make_packet_in(worker, packet, number)
    if record == 0:
        return 0
    r = packet_in_at(record)
    r.pipeline = 0
    r.reason = 0
    r.table = 0
    r.cookie = -1
    r.controller = 0
    r.user_data = 0
    r.max_len = PACKET_IN_MAX
    return send_packet_in(worker)

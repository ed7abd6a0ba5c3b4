"""The structs of generator, sink and loop, and the stamp that a generated frame carries.

All of them lie in the arena of the traffic process and belong to the one thread that runs their loop; the main thread
fills them before it starts and reads counters meanwhile. GENERATOR and SINK begin with ``wake``: when, by the cycle
counter, the task must run again, whatever arrives.

The stamp is 16 bytes where the UDP or TCP payload begins, so that it fits a frame of 64 bytes (60 without the frame
check sequence). First word: signature (16 bits), sequence number within the flow (48). Second word: time as the low 40
bits of the cycle counter, flow (24). Words are little-endian.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.layout import PACKET
from penstock.machine import offset, view

STAMP_BYTES = 16
SIGNATURE, SIGNATURE_BITS, SIGNATURE_MASK = 0x5E4B, 16, 0xFFFF
TIME_BITS = 40
TIME_MASK = (1 << TIME_BITS) - 1
FLOWS_MAX = 1 << 24

FRACTION_BITS = 10  # rates are kept in 1/1024 of a cycle per frame
NEVER = 1 << 62

# One frame of the schedule: a cache line. The eight bytes from csum_start on are PACKET's.
ENTRY = np.dtype(
    [
        ("head", "i8"),  # at least HEADROOM free bytes lie before it
        ("tail", "i8"),
        ("head_len", "i4"),
        ("tail_len", "i4"),
        ("flow", "i8"),  # FLOW; 0: the frame carries no stamp
        ("gap", "i8"),  # until the frame after it, in 1/1024 cycles: a capture at its own speed
        ("csum_start", "u2"),
        ("csum_offset", "u2"),
        ("gso_size", "u2"),
        ("gso_type", "u1"),
        ("flags", "u1"),
        ("sum", "i4"),  # what the checksum covers but for the stamp
        ("csum_at", "u2"),  # where in the head the checksum is; 0: it is not kept up
        ("stamp_at", "u2"),
        ("pad", "i8"),
    ],
    align=True,
)
ENTRY_BYTES = ENTRY.itemsize
ENTRY_HEAD, ENTRY_OFFLOADS, PACKET_OFFLOADS = (
    offset(ENTRY, "head"),
    offset(ENTRY, "csum_start"),
    offset(PACKET, "csum_start"),
)

FLOW = np.dtype([("sequence", "i8"), ("identity", "i8")], align=True)  # identity: already in its place in the stamp
FLOW_BYTES = FLOW.itemsize

GENERATOR = np.dtype(
    [
        ("wake", "i8"),
        ("done", "i8"),
        ("txq", "i8"),
        ("refusals", "i8"),  # address of the port's count of frames refused because its ring was full
        ("packets", "i8"),  # BURST consecutive PACKET
        ("burst", "i8"),  # their addresses
        ("entries", "i8"),
        ("entry_count", "i8"),
        ("position", "i8"),
        ("interval", "i8"),  # between frames, in 1/1024 cycles; 0: as fast as the port takes them
        ("due", "i8"),  # of the next frame, in 1/1024 cycles after ``started``
        ("patience", "i8"),  # how far behind it may be and still make up for it
        ("insist", "i8"),  # 1: refused frames are sent again; 0: they are lost, their time has gone by
        ("started", "i8"),  # 0: at the first turn
        ("ended", "i8"),
        ("duration", "i8"),  # cycles
        ("remaining", "i8"),  # frames
        ("sent", "i8"),  # frames handed to the port and not refused
        ("refused", "i8"),
        ("skipped", "i8"),  # 1/1024 cycles by which it fell behind for good
        ("pad", "i8", 4),
    ],
    align=True,
)

SEEN = np.dtype(
    [
        ("next", "i8"),  # one more than the highest sequence number seen
        ("unique", "i8"),
        ("duplicates", "i8"),
        ("reordered", "i8"),
        ("late", "i8"),  # too far behind to tell a duplicate from a reordered frame
        ("pad", "i8", 3),
    ],
    align=True,
)
SEEN_BYTES = SEEN.itemsize

REPLY_NOT, REPLY_REFLECT, REPLY_ANSWER = 0, 1, 2

SINK = np.dtype(
    [
        ("wake", "i8"),
        ("queues", "i8"),  # addresses of RXQ
        ("queue_count", "i8"),
        ("packets", "i8"),  # BURST consecutive PACKET
        ("replies", "i8"),  # BURST addresses
        ("txq", "i8"),
        ("reply", "i8"),  # REPLY_ bits
        ("mac", "i8"),  # the answering host: MAC and IPv4 address as raw words, netmask likewise
        ("address", "i8"),
        ("netmask", "i8"),
        ("seen", "i8"),  # flow_count consecutive SEEN
        ("windows", "i8"),  # a bit for each of the last ``window`` sequence numbers of each flow
        ("window", "i8"),
        ("flow_count", "i8"),
        ("histogram", "i8"),
        ("received", "i8"),
        ("octets", "i8"),
        ("stamped", "i8"),
        ("foreign", "i8"),
        ("untracked", "i8"),
        ("replied", "i8"),
        ("latency_sum", "i8"),
        ("latency_min", "i8"),
        ("latency_max", "i8"),
    ],
    align=True,
)

TASK = np.dtype([("turn", "i8"), ("ctx", "i8")], align=True)
TASK_BYTES = TASK.itemsize
POLLFD = np.dtype([("fd", "i4"), ("events", "i2"), ("revents", "i2")], align=True)

LOOP = np.dtype(
    [
        ("stop", "i8"),
        ("tasks", "i8"),  # TASK each
        ("task_count", "i8"),
        ("queues", "i8"),  # addresses of RXQ that are asked before a nap whether frames wait
        ("queue_count", "i8"),
        ("fds", "i8"),  # POLLFD each: what ends a nap
        ("fd_count", "i8"),
        ("spin", "i8"),  # cycles without work before a nap; 0: never one
        ("millisecond", "i8"),  # in cycles
        ("nap", "i8"),  # milliseconds at most
        ("turns", "i8"),
        ("naps", "i8"),
        ("busy_turns", "i8"),
        ("busy_cycles", "i8"),
        ("started", "i8"),
        ("last", "i8"),
    ],
    align=True,
)
LOOP_STOP = offset(LOOP, "stop")

entry_at = view(ENTRY)
flow_at = view(FLOW)
generator_at = view(GENERATOR)
seen_at = view(SEEN)
sink_at = view(SINK)
task_at = view(TASK)
loop_at = view(LOOP)

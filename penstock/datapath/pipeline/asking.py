"""What a packet asks of the control process: to learn a flow from it, or to shorten its flow's time-outs.

The question goes with the packet's key through the ring of packet-ins. The same is asked once in a second, by a table
of hashes, so that a flow which learns costs no more than its first packet while it is in use.
"""

from __future__ import annotations

from penstock.datapath.handover import make_packet_in, packet_in_at, send_packet_in
from penstock.datapath.layout import worker_at
from penstock.datapath.pipeline.layout import ASKED_MAX, EXEC_ASKED, exec_at
from penstock.machine import hash64, kernel, load16be, load64, shr, store64
from penstock.machine.crc import crc32c_64
from penstock.packet.fields import key_offset

REASON_LEARN, REASON_FIN_TIMEOUT = 100, 101  # beside those of ofp_packet_in_reason
TCP_FLAGS = key_offset("tcp_flags")
FIN, RST = 1, 4


@kernel
def learn_hash(key, operation):
    """A hash of what a LEARN reads of a key."""
    count = (shr(load64(operation), 8) & 255) - 2
    value = operation
    for i in range(0, count, 2):
        place = operation + 16 + i * 8
        value = crc32c_64(value, load64(key + load64(place)) & load64(place + 8))
    return value


@kernel
def ends(key):
    """Whether a TCP segment ends its connection."""
    return int(load16be(key + TCP_FLAGS) & (FIN | RST) != 0)


@kernel
def ask(worker, x, reason, subject, value):
    """Ask, unless that was done in this second: 1, or 0."""
    w = worker_at(worker)
    e = exec_at(x)
    if w.trace != 0:
        return 0
    value = hash64(value ^ subject)
    place = x + EXEC_ASKED + (value & ASKED_MAX - 1) * 8
    mark = value & ~0xFFFF | w.now & 0xFFFF
    if load64(place) == mark:
        return 0
    record = make_packet_in(worker, e.packet, e.number)
    if record == 0:
        return 0
    store64(place, mark)
    r = packet_in_at(record)
    r.pipeline = e.pipeline
    r.reason = reason
    r.table = 0
    r.cookie = -1
    r.controller = 0
    r.user_data = subject
    r.max_len = 0
    return send_packet_in(worker)

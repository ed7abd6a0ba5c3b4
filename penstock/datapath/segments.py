"""The segments of one large packet, each in a clone's buffer: headers of its own, a slice of the payload."""

from __future__ import annotations

from penstock.datapath.clones import CLONE_ROOM, copy_descriptor
from penstock.datapath.layout import FLAG_CSUM_VALID, GSO_TCPV4, GSO_TCPV6, packet_at, worker_at
from penstock.machine import kernel, load8
from penstock.packet.segment import segment_count, segment_header, segmentation_at


@kernel
def header_length(packet):
    """Bytes before the payload that each segment of a large TCP or USO packet repeats."""
    p = packet_at(packet)
    if p.gso_type != GSO_TCPV4 and p.gso_type != GSO_TCPV6:
        return p.l4 + 8
    return p.l4 + (load8(p.head + p.l4 + 12) >> 4) * 4


@kernel
def plan_segments(worker, packet):
    """How many segments a large packet makes, its tail being one piece; 0 when it cannot be split."""
    plan = worker_at(worker).segmentation
    p = packet_at(packet)
    s = segmentation_at(plan)
    s.head = p.head
    s.tail = p.tail
    s.head_len = p.head_len
    s.tail_len = p.tail_len
    s.l3 = p.l3
    s.l4 = p.l4
    s.gso_type = p.gso_type
    s.gso_size = p.gso_size
    s.ident += 1
    total = segment_count(plan)
    return total if s.room <= CLONE_ROOM else 0


@kernel
def make_segment(worker, packet, i, buffer):
    """Make segment ``i`` of the packet planned last, in a clone's buffer: its bytes."""
    plan = worker_at(worker).segmentation
    s = segmentation_at(plan)
    c = copy_descriptor(buffer, packet)
    c.head_len = segment_header(plan, i, c.head)
    c.tail = s.slice
    c.tail_len = s.slice_len
    c.gso_type = 0
    c.gso_size = 0
    c.flags = FLAG_CSUM_VALID
    return c.head_len + c.tail_len

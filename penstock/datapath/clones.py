"""Drops, and clones: copies of a packet that leave in another form or into another bridge.

A clone lives in one pool buffer: its PACKET, its flow key, headroom, and a copy of the headers; the payload is
shared. Clones last until the end of the turn.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop
from penstock.datapath.drops import HEADERS_TOO_LONG, NO_BUFFERS
from penstock.datapath.layout import (
    CLONES_MAX,
    COUNTERS_BYTES,
    HEADER_MAX,
    HEADROOM,
    PACKET_BYTES,
    PORT_BYTES,
    packet_at,
    port_at,
    worker_at,
)
from penstock.datapath.trace import DROPPED, note
from penstock.machine import copy, kernel, load64, store64
from penstock.memory import pool_get, pool_put
from penstock.packet.fields import KEY_SIZE

CLONE_KEY = PACKET_BYTES
CLONE_HEAD = CLONE_KEY + KEY_SIZE + HEADROOM
CLONE_ROOM = HEADER_MAX + HEADROOM + 64
CLONE_BYTES = CLONE_HEAD + CLONE_ROOM


@kernel
def drop(worker, number, reason):
    """Count one dropped frame against a port, or say so in a trace."""
    w = worker_at(worker)
    if w.trace != 0:
        return note(w.trace, DROPPED, number, reason)
    port = port_at(w.ports + number * PORT_BYTES)
    return count_drop(port.counters + w.index * COUNTERS_BYTES, reason, 1)


@kernel
def drop_all(worker, number, reason, packets):
    """The same for several."""
    for _ in range(packets):
        drop(worker, number, reason)
    return 0


@kernel
def copy_descriptor(buffer, packet):
    """Make the pool buffer a packet like another, but for the place of its key and headers; the new PACKET."""
    copy(buffer, packet, PACKET_BYTES)
    c = packet_at(buffer)
    c.key = buffer + CLONE_KEY
    c.head = buffer + CLONE_HEAD
    c.headroom = HEADROOM
    return c


@kernel
def clone(worker, number, packet):
    """A copy of a packet with headers of its own and the payload shared; 0 when buffers ran out (counted)."""
    w = worker_at(worker)
    if packet_at(packet).tail_len != 0 and packet_at(packet).head_len > CLONE_ROOM:
        drop(worker, number, HEADERS_TOO_LONG)
        return 0
    buffer = 0
    if w.clone_count < CLONES_MAX:
        buffer = pool_get(w.cache)
    if buffer == 0:
        drop(worker, number, NO_BUFFERS)
        return 0
    store64(w.clones + w.clone_count * 8, buffer)
    w.clone_count += 1
    copy_headers(buffer, packet)
    return buffer


@kernel
def copy_headers(buffer, packet):
    """Make the pool buffer a packet like another, with headers and a key of its own."""
    p = packet_at(packet)
    c = copy_descriptor(buffer, packet)
    if p.head_len > HEADER_MAX and p.tail_len == 0:
        c.head_len = HEADER_MAX
        c.tail = p.head + HEADER_MAX
        c.tail_len = p.head_len - HEADER_MAX
    copy(c.head, p.head, c.head_len)
    copy(c.key, p.key, KEY_SIZE)
    return 0


@kernel
def free_clones(worker):
    """Give back every clone of this turn."""
    w = worker_at(worker)
    for i in range(w.clone_count):
        pool_put(w.cache, load64(w.clones + i * 8))
    w.clone_count = 0
    return 0

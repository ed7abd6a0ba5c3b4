"""A ring of variable-size records between one writer and one reader that may be in different processes.

The writer reserves, fills and commits; the reader peeks and releases. The only shared words are the two byte
counters, each written by one side, and the reader's wish to be woken, so either side may die between any two
instructions and the other goes on: an uncommitted record was never there, an unreleased one is read again. A full ring
costs the writer one addition to ``lost``. A record has at most half the ring's bytes: for a longer one there may never
be room, even in an empty ring.

Layout: RECORD_RING header of three cache lines, then ``size`` bytes. A record is its length (8 bytes), then the payload
padded to 8 bytes, never wrapped: a length of -1 tells the reader to go on at the start.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import kernel, load64, load_acquire, offset, records, store64, store_release, view

RECORD_RING = np.dtype(
    [
        ("size", "i8"),
        ("pad0", "i8", 7),
        ("head", "i8"),  # bytes released so far: the reader's
        ("asked", "i8"),  # times the reader asked to be woken: the reader's
        ("pad1", "i8", 6),
        ("tail", "i8"),  # bytes committed so far: the writer's
        ("reserved", "i8"),  # where tail goes at the next commit
        ("lost", "i8"),  # records that found no room
        ("pad2", "i8", 5),
    ],
    align=True,
)
DATA = RECORD_RING.itemsize
HEAD, ASKED, TAIL = (offset(RECORD_RING, name) for name in ("head", "asked", "tail"))

record_ring_at = view(RECORD_RING)


def record_ring_bytes(size: int) -> int:
    """Memory for a record ring of ``size`` data bytes (a power of two)."""
    if size < 64 or size & (size - 1):
        raise ValueError(f"record ring size {size} must be a power of two of at least 64")
    return DATA + size


def record_ring_init(ring: int, size: int) -> None:
    """Make the zeroed memory at ``ring`` an empty record ring."""
    record_ring_bytes(size)
    records(RECORD_RING, ring)[0]["size"] = size


@kernel
def record_reserve(ring, length):
    """The address of ``length`` payload bytes to fill, or 0 when there is no room (counted in ``lost``)."""
    r = record_ring_at(ring)
    size = r.size
    tail = r.tail
    need = 8 + ((length + 7) & ~7)
    start = tail & (size - 1)
    skip = 0
    if start + need > size:
        skip = size - start
    if tail + skip + need - load_acquire(ring + HEAD) > size:
        r.lost += 1
        return 0
    if skip != 0:
        store64(ring + DATA + start, -1)
        start = 0
    store64(ring + DATA + start, length)
    r.reserved = tail + skip + need
    return ring + DATA + start + 8


@kernel
def record_commit(ring):
    """Show the reserved record to the reader."""
    store_release(ring + TAIL, record_ring_at(ring).reserved)
    return 0


@kernel
def record_peek(ring):
    """The payload address of the oldest record (its length is the word before it), or 0 when there is none."""
    r = record_ring_at(ring)
    head = r.head
    if load_acquire(ring + TAIL) == head:
        return 0
    start = head & (r.size - 1)
    if load64(ring + DATA + start) == -1:
        return ring + DATA + 8
    return ring + DATA + start + 8


@kernel
def record_release(ring):
    """Drop the record that ``record_peek`` shows."""
    r = record_ring_at(ring)
    head = r.head
    start = head & (r.size - 1)
    length = load64(ring + DATA + start)
    if length == -1:
        head += r.size - start
        length = load64(ring + DATA)
    store_release(ring + HEAD, head + 8 + ((length + 7) & ~7))
    return 0

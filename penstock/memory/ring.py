"""Rings of 64-bit words, lock-free. 0 is never an element: it means "empty" or "full" in the results.

Single producer, single consumer (``spsc_*``): a slot that holds 0 is free, so producer and consumer share nothing but
the slots. Many producers, many consumers (``mpmc_*``): each slot has a sequence number that says whose turn it is (D.
Vyukov's bounded queue). A thread that dies inside a push or pop may block its ring, so both kinds stay within one
process; between processes the record ring serves.

Layout: RING header of three cache lines (constants; consumer's index; producer's index), then the slots.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import cas, kernel, load_acquire, offset, records, store64, store_release, view

RING = np.dtype(
    [
        ("capacity", "i8"),
        ("mask", "i8"),
        ("pad0", "i8", 6),
        ("head", "i8"),  # next element to take: the consumer's
        ("pad1", "i8", 7),
        ("tail", "i8"),  # next slot to fill: the producer's
        ("pad2", "i8", 7),
    ],
    align=True,
)
SLOTS = RING.itemsize
HEAD, TAIL, MASK = offset(RING, "head"), offset(RING, "tail"), offset(RING, "mask")

ring_at = view(RING)


def _check(capacity: int) -> None:
    if capacity < 2 or capacity & (capacity - 1):
        raise ValueError(f"ring capacity {capacity} must be a power of two of at least 2")


def spsc_bytes(capacity: int) -> int:
    """Memory that a single-producer ring of ``capacity`` words takes."""
    _check(capacity)
    return SLOTS + capacity * 8


def spsc_init(ring: int, capacity: int) -> None:
    """Make the zeroed memory at ``ring`` an empty single-producer ring."""
    _check(capacity)
    header = records(RING, ring)[0]
    header["capacity"], header["mask"] = capacity, capacity - 1


@kernel
def spsc_push(ring, value):
    """Append ``value`` (not 0): 1, or 0 when the ring is full. One producer only."""
    r = ring_at(ring)
    tail = r.tail
    slot = ring + SLOTS + (tail & r.mask) * 8
    if load_acquire(slot) != 0:
        return 0
    store_release(slot, value)
    store_release(ring + TAIL, tail + 1)
    return 1


@kernel
def spsc_pop(ring):
    """Take the oldest element, or 0 when the ring is empty. One consumer only."""
    r = ring_at(ring)
    head = r.head
    slot = ring + SLOTS + (head & r.mask) * 8
    value = load_acquire(slot)
    if value != 0:
        store_release(ring + HEAD, head + 1)
        store_release(slot, 0)
    return value


def mpmc_bytes(capacity: int) -> int:
    """Memory that a multi-producer ring of ``capacity`` words takes."""
    _check(capacity)
    return SLOTS + capacity * 16


def mpmc_init(ring: int, capacity: int) -> None:
    """Make the zeroed memory at ``ring`` an empty multi-producer ring."""
    spsc_init(ring, capacity)
    for index in range(capacity):
        store64(ring + SLOTS + index * 16, index)


@kernel
def mpmc_push(ring, value):
    """Append ``value`` (not 0): 1, or 0 when the ring is full. Any number of producers."""
    mask = ring_at(ring).mask
    tail = load_acquire(ring + TAIL)
    while True:
        slot = ring + SLOTS + (tail & mask) * 16
        turn = load_acquire(slot) - tail
        if turn == 0:
            if cas(ring + TAIL, tail, tail + 1) == 1:
                store64(slot + 8, value)
                store_release(slot, tail + 1)
                return 1
        elif turn < 0:
            return 0
        tail = load_acquire(ring + TAIL)


@kernel
def mpmc_pop(ring):
    """Take the oldest element, or 0 when the ring is empty. Any number of consumers."""
    mask = ring_at(ring).mask
    head = load_acquire(ring + HEAD)
    while True:
        slot = ring + SLOTS + (head & mask) * 16
        turn = load_acquire(slot) - (head + 1)
        if turn == 0:
            if cas(ring + HEAD, head, head + 1) == 1:
                value = load_acquire(slot + 8)
                store_release(slot, head + mask + 1)
                return value
        elif turn < 0:
            return 0
        head = load_acquire(ring + HEAD)


@kernel
def ring_length(ring):
    """Elements in the ring; a snapshot while others work on it."""
    return load_acquire(ring + TAIL) - load_acquire(ring + HEAD)

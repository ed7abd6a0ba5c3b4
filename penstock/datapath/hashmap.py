"""A map from one word to another that one thread writes and workers read without a lock.

Linear probing over pairs of words, four to a cache line. A key is not 0; a value of 0 is like no entry. Readers see a
key only after its value. The map does not grow by itself: ``map_put`` refuses a key that would fill more than half of
the places, and the writer makes a larger map, copies this one, and shows it to readers by a pointer store.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import entry, hash64, inlined, kernel, load_acquire, prefetch, records, store_release, view

MAP = np.dtype([("slots", "i8"), ("mask", "i8"), ("count", "i8"), ("pad", "i8", 5)], align=True)
SLOT_BYTES = 16

map_at = view(MAP)


def map_bytes(entries: int) -> int:
    """Memory of a map that takes so many entries."""
    return MAP.itemsize + _slots(entries) * SLOT_BYTES


def map_init(address: int, entries: int) -> None:
    """Make the zeroed memory at ``address`` an empty map."""
    records(MAP, address)[0] = (address + MAP.itemsize, _slots(entries) - 1, 0, 0)


def _slots(entries: int) -> int:
    return max(4, 1 << (2 * entries - 1).bit_length())


@inlined
def map_slot(table, key):
    """Where the search for a key begins, on its way into the cache."""
    m = map_at(table)
    slot = m.slots + (hash64(key) & m.mask) * SLOT_BYTES
    prefetch(slot)
    return slot


@inlined
def map_place(table, key):
    """The slot with a key, or the free one where the search for it ends."""
    m = map_at(table)
    place = hash64(key) & m.mask
    while True:
        slot = m.slots + place * SLOT_BYTES
        found = load_acquire(slot)
        if found == key or found == 0:
            return slot
        place = place + 1 & m.mask


@inlined
def map_find(table, key):
    """The value of a key, or 0."""
    slot = map_place(table, key)
    return load_acquire(slot + 8) if load_acquire(slot) == key else 0


@kernel
def put(table, key, value):
    """See ``map_put``."""
    m = map_at(table)
    slot = map_place(table, key)
    if load_acquire(slot) == key:
        store_release(slot + 8, value)
        return 1
    if (m.count + 1) * 2 > m.mask + 1:
        return 0
    m.count += 1
    store_release(slot + 8, value)
    store_release(slot, key)
    return 1


@entry("int64(int64, int64, int64)")
def map_put(table, key, value):
    """Give a key a value (0 takes it out): 1, or 0 when the map has to grow first."""
    return put(table, key, value)


@entry("int64(int64, int64)")
def map_get(table, key):
    """The value of a key, or 0, for the writer."""
    return map_find(table, key)


@entry("int64(int64, int64)")
def map_copy(table, into):
    """Put all entries of a map into another that is large enough: how many."""
    m = map_at(table)
    copied = 0
    for i in range(m.mask + 1):
        slot = m.slots + i * SLOT_BYTES
        value = load_acquire(slot + 8)
        if load_acquire(slot) != 0 and value != 0:
            copied += put(into, load_acquire(slot), value)
    return copied

"""The forwarding database of a bridge: (VLAN, MAC address) to port, with the second when the address was last seen.

A hash table of 64-byte buckets, four entries each. An entry lies in the bucket that its hash names or in that bucket's
neighbour (the other half of the same 128 bytes). An entry is two words:
``key``: MAC address (48 bits, first byte lowest) and VLAN id above it; ``value``: port (16 bits), VALID, STATIC, the
number of the tunnel's far end (14 bits), and the second above bit 32; a value of 0 means free. Places never used have a
key that no address has.

Readers take no lock: they read key, value, key. Workers insert under one of 64 spin locks. Refreshing, moving and
expiring an entry is a compare-and-swap of its value, so the control process expires entries without any lock and may
die at any instant.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.layout import worker_at
from penstock.machine import (
    atomic_add,
    cas,
    entry,
    hash64,
    inlined,
    kernel,
    load64,
    load_acquire,
    offset,
    pause,
    prefetch,
    records,
    store64,
    store_release,
    view,
)

LOCKS = 64
FDB = np.dtype(
    [
        ("buckets", "i8"),
        ("mask", "i8"),  # number of buckets less one
        ("limit", "i8"),  # entries at most
        ("pad0", "i8", 5),
        ("count", "i8"),  # entries now; mended by each expiry scan
        ("evicted", "i8"),  # entries replaced because the table was full
        ("refused", "i8"),  # addresses not learned because the table was full
        ("learned", "i8"),
        ("moved", "i8"),  # seen by another port than before
        ("expired", "i8"),  # of age, that is, and not flushed
        ("pad1", "i8", 2),
        ("locks", "i8", LOCKS),
    ],
    align=True,
)
ENTRY = np.dtype([("key", "i8"), ("value", "i8")])
BUCKET_BYTES = 64
SLOTS = 4
PORT_MASK = 0xFFFF
VALID, STATIC = 1 << 16, 1 << 17
REMOTE_SHIFT, REMOTE_MASK = 18, 0x3FFF
PLACE_MASK = PORT_MASK | REMOTE_MASK << REMOTE_SHIFT
SECOND_SHIFT = 32
MAC_MASK = (1 << 48) - 1
NO_KEY = -1  # not 0: that is the address of zeros in VLAN 0
FOREVER = 1 << 31  # a second that no entry was seen in yet: all were seen before
COUNT, EVICTED, REFUSED = offset(FDB, "count"), offset(FDB, "evicted"), offset(FDB, "refused")
LEARNED, MOVED, EXPIRED = offset(FDB, "learned"), offset(FDB, "moved"), offset(FDB, "expired")
LOCKS_AT = offset(FDB, "locks")

fdb_at = view(FDB)


def fdb_buckets(limit: int) -> int:
    """Number of buckets for ``limit`` entries: at least half of the places stay free."""
    return max(2, 1 << (-(-limit * 2 // SLOTS) - 1).bit_length())


def fdb_bytes(limit: int) -> int:
    """Memory of a database of ``limit`` entries (aligned to 128 bytes)."""
    return FDB.itemsize + fdb_buckets(limit) * BUCKET_BYTES


def fdb_init(fdb: int, limit: int) -> None:
    """Make the zeroed memory at ``fdb`` an empty database."""
    row = records(FDB, fdb)[0]
    row["buckets"], row["mask"], row["limit"] = fdb + FDB.itemsize, fdb_buckets(limit) - 1, limit
    records(ENTRY, fdb + FDB.itemsize, fdb_buckets(limit) * SLOTS)["key"] = NO_KEY


@inlined
def fdb_bucket(fdb, key):
    """The address of the bucket that ``key`` hashes to, on its way into the cache."""
    f = fdb_at(fdb)
    bucket = f.buckets + (hash64(key) & f.mask) * BUCKET_BYTES
    prefetch(bucket)
    return bucket


@inlined
def match_bucket(bucket, key):
    """The address of the entry with ``key`` in one bucket, or 0: with no branch to be mispredicted."""
    first = load_acquire(bucket)
    second = load_acquire(bucket + 16)
    third = load_acquire(bucket + 32)
    fourth = load_acquire(bucket + 48)
    found = 0
    if first == key:
        found = bucket
    if second == key:
        found = bucket + 16
    if third == key:
        found = bucket + 32
    if fourth == key:
        found = bucket + 48
    return found


@inlined
def fdb_find(bucket, key):
    """The address of the entry with ``key``, or 0."""
    found = match_bucket(bucket, key)
    if found == 0:
        found = match_bucket(bucket ^ BUCKET_BYTES, key)
    return found


@inlined
def fdb_lookup(bucket, key):
    """The value of the entry with ``key``, or 0 when there is none."""
    found = fdb_find(bucket, key)
    if found == 0:
        return 0
    value = load_acquire(found + 8)
    if load_acquire(found) != key:
        return 0
    return value


@inlined
def fdb_learn(worker, fdb, bucket, key, place):
    """Note that ``key`` was seen now at a place: a port, and the far end if it is a tunnel's."""
    w = worker_at(worker)
    found = fdb_find(bucket, key)
    if found != 0:
        value = load_acquire(found + 8)
        if value & (VALID | PLACE_MASK) == (VALID | place) and value >> SECOND_SHIFT == w.now:
            return 0
        if value & STATIC != 0:
            return 0
        if value != 0:
            if load_acquire(found) == key and cas(found + 8, value, place | VALID | (w.now << SECOND_SHIFT)) == 1:
                if value & PLACE_MASK != place:
                    w.moved += 1
                    atomic_add(fdb + MOVED, 1)
            return 0
    return fdb_insert(worker, fdb, bucket, key, place)


@kernel
def fdb_lock(fdb, bucket):
    """Take the lock of a bucket and its neighbour; the lock's address. Only the engine's threads do."""
    lock = fdb + LOCKS_AT + ((bucket >> 7) & (LOCKS - 1)) * 8
    while cas(lock, 0, 1) == 0:
        pause()
    return lock


@kernel
def fdb_insert(worker, fdb, bucket, key, place):
    """Add an entry that ``fdb_find`` saw nowhere or expired; in place of the oldest in reach when the table is full."""
    f = fdb_at(fdb)
    w = worker_at(worker)
    lock = fdb_lock(fdb, bucket)
    free = 0
    oldest = 0
    oldest_second = w.now + 1
    for step in range(2 * SLOTS):
        # Its own bucket before the neighbour, so that most lookups touch one line.
        slot = (bucket ^ ((step & SLOTS) << 4)) + (step & (SLOTS - 1)) * 16
        value = load_acquire(slot + 8)
        if load64(slot) == key:
            if value != 0:
                store_release(lock, 0)
                return 0
            # An expired entry of this key is used again, so that a key never stands in two places.
            free = slot
        elif value == 0:
            if free == 0:
                free = slot
        elif value & STATIC == 0 and value >> SECOND_SHIFT < oldest_second:
            oldest_second = value >> SECOND_SHIFT
            oldest = slot
    if free != 0 and load_acquire(fdb + COUNT) < f.limit:
        atomic_add(fdb + COUNT, 1)
    elif oldest != 0:
        # The expired entry of this key, if any, must not stay beside the new one.
        if free != 0 and load64(free) == key:
            store64(free, NO_KEY)
        free = oldest
        store_release(free + 8, 0)
        atomic_add(fdb + EVICTED, 1)
    else:
        store_release(lock, 0)
        atomic_add(fdb + REFUSED, 1)
        return 0
    store_release(free, key)
    store_release(free + 8, place | VALID | (w.now << SECOND_SHIFT))
    store_release(lock, 0)
    w.learned += 1
    atomic_add(fdb + LEARNED, 1)
    return 0


@entry("int64(int64, int64, int64, int64)")
def fdb_expire(fdb, before, port, spared):
    """Forget entries last seen before a second, of one port or (-1) of all, but not those with a bit of ``spared``.

    ``spared`` is STATIC, or 0 when a port is gone for good. Returns how many.
    """
    f = fdb_at(fdb)
    removed = 0
    live = 0
    counted = load_acquire(fdb + COUNT)
    for step in range((f.mask + 1) * SLOTS):
        slot = f.buckets + step * 16
        value = load_acquire(slot + 8)
        if value == 0:
            continue
        live += 1
        if value & spared == 0 and value >> SECOND_SHIFT < before and (port < 0 or value & PORT_MASK == port):
            if cas(slot + 8, value, 0) == 1:
                removed += 1
    atomic_add(fdb + COUNT, live - removed - counted)
    if before != FOREVER:
        atomic_add(fdb + EXPIRED, removed)
    return removed


@entry("int64(int64, int64, int64, int64)")
def fdb_add_static(fdb, key, place, now):
    """Add or replace an entry that neither ages nor moves: 1, or 0 when there is no room. The main thread only."""
    bucket = fdb_bucket(fdb, key)
    lock = fdb_lock(fdb, bucket)
    entry_at = fdb_find(bucket, key)
    for step in range(2 * SLOTS):
        slot = (bucket ^ ((step & SLOTS) << 4)) + (step & (SLOTS - 1)) * 16
        if entry_at == 0 and load_acquire(slot + 8) == 0:
            entry_at = slot
    if entry_at != 0:
        if load_acquire(entry_at + 8) == 0:
            atomic_add(fdb + COUNT, 1)
        store_release(entry_at, key)
        store_release(entry_at + 8, place | VALID | STATIC | (now << SECOND_SHIFT))
    store_release(lock, 0)
    return int(entry_at != 0)


@entry("int64(int64, int64)")
def fdb_remove(fdb, key):
    """Forget an address, static or not: 1, or 0 when it is not there. The main thread only."""
    bucket = fdb_bucket(fdb, key)
    lock = fdb_lock(fdb, bucket)
    entry_at = fdb_find(bucket, key)
    removed = 0
    if entry_at != 0:
        value = load_acquire(entry_at + 8)
        # A worker refreshes the second, without the lock, at any time.
        while value != 0 and cas(entry_at + 8, value, 0) == 0:
            value = load_acquire(entry_at + 8)
        removed = int(value != 0)
        atomic_add(fdb + COUNT, -removed)
    store_release(lock, 0)
    return removed

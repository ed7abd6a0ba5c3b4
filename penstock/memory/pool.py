"""The packet-buffer pool: equal buffers, a shared lock-free ring of the free ones, and a cache per worker before it.

A worker takes and gives buffers from its own cache (no atomics) and moves half a cache at a time from and to the ring.
Layout: POOL header, the ring, then ``count`` buffers of ``buffer_bytes`` each, aligned to cache lines.
"""

from __future__ import annotations

import numpy as np

from penstock.machine import kernel, load64, pause, records, store64, view
from penstock.memory.ring import mpmc_bytes, mpmc_init, mpmc_pop, mpmc_push

CACHE_SLOTS = 64

POOL = np.dtype(
    [("ring", "i8"), ("first", "i8"), ("count", "i8"), ("buffer_bytes", "i8"), ("pad", "i8", 4)],
    align=True,
)
CACHE = np.dtype(
    [("pool", "i8"), ("count", "i8"), ("empty", "i8"), ("pad", "i8", 5), ("slots", "i8", CACHE_SLOTS)], align=True
)
SLOTS = CACHE.itemsize - CACHE_SLOTS * 8

pool_at = view(POOL)
cache_at = view(CACHE)


def pool_bytes(count: int, buffer_bytes: int) -> int:
    """Memory for a pool of ``count`` (a power of two) buffers of ``buffer_bytes`` (a multiple of 64)."""
    if buffer_bytes <= 0 or buffer_bytes % 64:
        raise ValueError(f"pool buffer size {buffer_bytes} must be a positive multiple of 64")
    return POOL.itemsize + mpmc_bytes(count) + count * buffer_bytes


def pool_init(pool: int, count: int, buffer_bytes: int) -> None:
    """Make the zeroed memory at ``pool`` (cache-line aligned) a pool with all buffers free."""
    pool_bytes(count, buffer_bytes)
    header = records(POOL, pool)[0]
    ring = pool + POOL.itemsize
    first = ring + mpmc_bytes(count)
    mpmc_init(ring, count)
    header["ring"], header["first"], header["count"], header["buffer_bytes"] = ring, first, count, buffer_bytes
    for index in range(count):
        mpmc_push.py_func(ring, first + index * buffer_bytes)


def cache_init(cache: int, pool: int) -> None:
    """Make the zeroed memory at ``cache`` an empty per-worker cache of ``pool``."""
    records(CACHE, cache)[0]["pool"] = pool


@kernel
def pool_get(cache):
    """A free buffer's address, or 0 when the pool is exhausted (counted in the cache's ``empty``)."""
    c = cache_at(cache)
    if c.count == 0:
        ring = pool_at(c.pool).ring
        while c.count < CACHE_SLOTS // 2:
            buffer = mpmc_pop(ring)
            if buffer == 0:
                break
            store64(cache + SLOTS + c.count * 8, buffer)
            c.count += 1
        if c.count == 0:
            c.empty += 1
            return 0
    c.count -= 1
    return load64(cache + SLOTS + c.count * 8)


@kernel
def pool_put(cache, buffer):
    """Give a buffer back."""
    c = cache_at(cache)
    if c.count == CACHE_SLOTS:
        cache_drain(cache, CACHE_SLOTS // 2)
    store64(cache + SLOTS + c.count * 8, buffer)
    c.count += 1
    return 0


@kernel
def cache_drain(cache, keep):
    """Move all but ``keep`` buffers of the cache to the shared ring.

    The ring holds all of the pool, so it is full only for the instant that another thread takes to end ``mpmc_pop``.
    """
    c = cache_at(cache)
    ring = pool_at(c.pool).ring
    while c.count > keep:
        c.count -= 1
        while mpmc_push(ring, load64(cache + SLOTS + c.count * 8)) == 0:
            pause()
    return 0

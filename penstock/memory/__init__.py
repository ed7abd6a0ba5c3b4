"""Memory that the engine and control processes share: the arena, its allocator, rings and packet buffers."""

from penstock.memory.arena import ARENA_BASE, HEADER, Arena, ArenaError, free_huge_bytes
from penstock.memory.pool import CACHE, POOL, cache_drain, cache_init, pool_bytes, pool_get, pool_init, pool_put
from penstock.memory.recordring import (
    RECORD_RING,
    record_commit,
    record_peek,
    record_release,
    record_reserve,
    record_ring_bytes,
    record_ring_init,
)
from penstock.memory.ring import (
    RING,
    mpmc_bytes,
    mpmc_init,
    mpmc_pop,
    mpmc_push,
    ring_length,
    spsc_bytes,
    spsc_init,
    spsc_pop,
    spsc_push,
)

__all__ = [
    "ARENA_BASE",
    "CACHE",
    "HEADER",
    "POOL",
    "RECORD_RING",
    "RING",
    "Arena",
    "ArenaError",
    "cache_drain",
    "cache_init",
    "free_huge_bytes",
    "mpmc_bytes",
    "mpmc_init",
    "mpmc_pop",
    "mpmc_push",
    "pool_bytes",
    "pool_get",
    "pool_init",
    "pool_put",
    "record_commit",
    "record_peek",
    "record_release",
    "record_reserve",
    "record_ring_bytes",
    "record_ring_init",
    "ring_length",
    "spsc_bytes",
    "spsc_init",
    "spsc_pop",
    "spsc_push",
]

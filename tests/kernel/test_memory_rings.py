"""Rings of words: against deques, and between threads that push and pop millions of numbered values."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.memory import NaiveRing
from naive.packet_memory import Memory

from penstock.machine import atomic_add, load64, load_acquire, pause, store64
from penstock.memory import (
    CACHE,
    cache_drain,
    cache_init,
    mpmc_bytes,
    mpmc_init,
    mpmc_pop,
    mpmc_push,
    pool_bytes,
    pool_get,
    pool_init,
    pool_put,
    ring_length,
    spsc_bytes,
    spsc_init,
    spsc_pop,
    spsc_push,
)
from penstock.memory.pool import CACHE_SLOTS, POOL
from tests.kernel.compiled import JIT, compiled, in_threads

KINDS = {
    "spsc": (spsc_bytes, spsc_init, spsc_push, spsc_pop),
    "mpmc": (mpmc_bytes, mpmc_init, mpmc_push, mpmc_pop),
}
COUNT = 2_000_000 if JIT else 300  # values per producer
WORDS = st.integers(-(2**63), 2**63 - 1).filter(bool)


def make_ring(kind: str, capacity: int) -> Memory:
    size, init, _push, _pop = KINDS[kind]
    memory = Memory(bytes(size(capacity)))
    init(memory.address, capacity)
    return memory


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80)
@given(st.sampled_from((2, 4, 8)), st.lists(st.lists(WORDS, max_size=12) | st.integers(1, 12), max_size=30))
def test_a_ring_is_a_bounded_queue(kind: str, capacity: int, steps: list[list[int] | int]) -> None:
    memory, twin = make_ring(kind, capacity), NaiveRing(capacity)
    _size, _init, push, pop = KINDS[kind]
    for step in steps:
        if isinstance(step, list):
            for value in step:
                assert push(memory.address, value) == twin.push(value)
        else:
            for _ in range(step):
                assert pop(memory.address) == twin.pop()
        assert ring_length(memory.address) == len(twin.items)
    assert memory.untouched()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [0, 1, 3, 12, -2])
def test_a_capacity_that_is_no_power_of_two_is_refused(kind: str, capacity: int) -> None:
    size, init, _push, _pop = KINDS[kind]
    for make in (size, lambda wrong: init(0, wrong)):
        with pytest.raises(ValueError, match=f"ring capacity {capacity} must be a power of two of at least 2"):
            make(capacity)


def _produce_spsc(ring, first, count):
    for value in range(first, first + count):
        while spsc_push(ring, value) == 0:
            pause()
    return count


def _consume_spsc(ring, first, count):
    """Values that came out of order."""
    wrong = 0
    for expected in range(first, first + count):
        value = spsc_pop(ring)
        while value == 0:
            pause()
            value = spsc_pop(ring)
        wrong += value != expected
    return wrong


def _produce_mpmc(ring, first, count):
    for value in range(first, first + count):
        while mpmc_push(ring, value) == 0:
            pause()
    return count


def _consume_mpmc(ring, seen, total, highest):
    """Count every value popped at its place from ``seen`` on. Values that nobody pushed."""
    wrong = 0
    while load_acquire(total) > 0:
        value = mpmc_pop(ring)
        if value == 0:
            pause()
            continue
        atomic_add(total, -1)
        if value < 1 or value > highest:
            wrong += 1
            continue
        atomic_add(seen + value * 8, 1)
    return wrong


@cache
def threaded(function: Callable[..., int], arity: int) -> Callable[..., int]:
    return compiled(function, arity)


@pytest.mark.parametrize("capacity", [2, 1024])
def test_one_thread_to_another_keeps_order(capacity: int) -> None:
    memory = make_ring("spsc", capacity)
    produce, consume = threaded(_produce_spsc, 3), threaded(_consume_spsc, 3)
    count = COUNT if capacity > 2 else COUNT // 500 + 1
    pushed, wrong = in_threads(lambda: produce(memory.address, 1, count), lambda: consume(memory.address, 1, count))
    assert (pushed, wrong, ring_length(memory.address)) == (count, 0, 0)


@pytest.mark.skipif(not JIT, reason="without the JIT atomics are plain Python, which threads interrupt")
@pytest.mark.parametrize(("capacity", "producers", "consumers"), [(64, 3, 2), (4, 2, 2)])
def test_many_threads_lose_and_double_nothing(capacity: int, producers: int, consumers: int) -> None:
    each = (COUNT if capacity > 4 else COUNT // 100) // producers
    memory = make_ring("mpmc", capacity)
    total = Memory((each * producers).to_bytes(8, "little"))
    seen = Memory(bytes((each * producers + 1) * 8))
    produce, consume = threaded(_produce_mpmc, 3), threaded(_consume_mpmc, 4)
    makers = [lambda index=index: produce(memory.address, 1 + index * each, each) for index in range(producers)]
    takers = [lambda: consume(memory.address, seen.address, total.address, each * producers) for _ in range(consumers)]
    results = in_threads(*makers, *takers)
    assert results == [each] * producers + [0] * consumers
    counts = memoryview(seen.read()).cast("q")
    assert counts[0] == 0
    assert set(counts[1:]) == {1}


def make_pool(count: int, size: int) -> Memory:
    memory = Memory(bytes(pool_bytes(count, size)))
    pool_init(memory.address, count, size)
    return memory


def make_cache(pool: Memory) -> Memory:
    memory = Memory(bytes(CACHE.itemsize))
    cache_init(memory.address, pool.address)
    return memory


def drained(pool: Memory) -> list[int]:
    """Every buffer in the shared ring."""
    ring = load64(pool.address)
    found = []
    while buffer := mpmc_pop(ring):
        found.append(buffer)
    return found


@pytest.mark.parametrize(("count", "size"), [(2, 64), (128, 128), (64, 192)])
def test_a_pool_gives_each_buffer_once(count: int, size: int) -> None:
    pool = make_pool(count, size)
    cache_ = make_cache(pool)
    taken = [pool_get(cache_.address) for _ in range(count)]
    start = pool.address + pool.size - count * size
    assert sorted(taken) == [start + index * size for index in range(count)]
    assert start >= pool.address + POOL.itemsize
    assert pool_get(cache_.address) == 0
    for buffer in taken:
        pool_put(cache_.address, buffer)
    assert load64(cache_.address + 8) <= CACHE_SLOTS
    cache_drain(cache_.address, 0)
    assert sorted(drained(pool)) == sorted(taken)
    assert pool.untouched()
    assert cache_.untouched()


@pytest.mark.parametrize("size", [0, 63, 100, -64])
def test_a_buffer_size_that_is_no_multiple_of_a_line_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"pool buffer size {size} must be a positive multiple of 64"):
        pool_bytes(64, size)


def _use_pool(cache_, held, rounds, burst):
    """Take bursts, sign every buffer, see that nobody else signed it meanwhile, give them back. Conflicts."""
    wrong = 0
    for step in range(rounds):
        taken = 0
        wanted = 1 + (step * 7 + burst) % burst
        for _ in range(wanted):
            buffer = pool_get(cache_)
            if buffer == 0:
                break
            wrong += atomic_add(buffer, 1) != 0
            store64(held + taken * 8, buffer)
            taken += 1
        for index in range(taken):
            buffer = load64(held + index * 8)
            wrong += atomic_add(buffer, -1) != 1
            pool_put(cache_, buffer)
    cache_drain(cache_, 0)
    return wrong


@pytest.mark.skipif(not JIT, reason="without the JIT atomics are plain Python, which threads interrupt")
def test_threads_share_a_pool_and_lose_nothing() -> None:
    count, workers, burst = 256, 5, 100
    pool = make_pool(count, 64)
    caches = [make_cache(pool) for _ in range(workers)]
    held = [Memory(bytes(burst * 8)) for _ in range(workers)]
    use = threaded(_use_pool, 4)
    calls = [
        lambda index=index: use(caches[index].address, held[index].address, 20_000, burst) for index in range(workers)
    ]
    assert in_threads(*calls) == [0] * workers
    found = drained(pool)
    assert len(found) == len(set(found)) == count

"""The FDB against a dictionary, at its limit, and under several threads at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.fdb import NaiveFdb
from naive.packet_memory import Memory

from penstock.datapath.fdb import (
    BUCKET_BYTES,
    ENTRY,
    FDB,
    PORT_MASK,
    SECOND_SHIFT,
    SLOTS,
    STATIC,
    VALID,
    fdb_add_static,
    fdb_bucket,
    fdb_buckets,
    fdb_bytes,
    fdb_expire,
    fdb_init,
    fdb_learn,
    fdb_lookup,
    fdb_remove,
)
from penstock.datapath.layout import WORKER
from penstock.machine import load_acquire, records, store64
from tests.kernel.compiled import JIT, compiled, in_threads

NEVER = 1 << 31


def _learn(worker, fdb, key, port):
    return fdb_learn(worker, fdb, fdb_bucket(fdb, key), key, port)


def _lookup(fdb, key):
    return fdb_lookup(fdb_bucket(fdb, key), key)


def _learn_many(worker, fdb, keys, count, rounds, port):
    """Learn the ``count`` keys at ``keys`` again and again; how many lookups right after found another's value."""
    wrong = 0
    for step in range(rounds * count):
        key = load_acquire(keys + step % count * 8)
        bucket = fdb_bucket(fdb, key)
        fdb_learn(worker, fdb, bucket, key, port)
        value = fdb_lookup(bucket, key)
        if value != 0 and (value & VALID == 0 or value & PORT_MASK > 2):
            wrong += 1
    return wrong


@cache
def threaded(function: Callable[..., int], arity: int) -> Callable[..., int]:
    return compiled(function, arity)


class Table:
    """An FDB and the WORKER structs of those who learn in it, in private memory."""

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.memory = Memory(bytes(fdb_bytes(limit) + 64))
        self.address = -(-self.memory.address // 128) * 128
        fdb_init(self.address, limit)
        self.workers = [Memory(bytes(WORKER.itemsize)) for _ in range(workers)]
        self.header = records(FDB, self.address)[0]

    def at(self, now: int) -> int:
        for worker in self.workers:
            records(WORKER, worker.address)[0]["now"] = now
        return self.workers[0].address

    def learn(self, key: int, port: int, now: int) -> None:
        threaded(_learn, 4)(self.at(now), self.address, key, port)

    def lookup(self, key: int) -> int | None:
        value = threaded(_lookup, 2)(self.address, key)
        return value & PORT_MASK if value else None

    def entries(self) -> dict[int, tuple[int, int, bool]]:
        """Key to port, second and whether it is static; fails when a key stands twice or out of reach."""
        table = records(ENTRY, int(self.header["buckets"]), (int(self.header["mask"]) + 1) * SLOTS)
        found: dict[int, tuple[int, int, bool]] = {}
        for place in np.flatnonzero(table["value"]).tolist():
            key, value = table[place].tolist()
            assert key not in found, f"{key:#x} stands twice"
            assert value & VALID
            home = (threaded(_bucket, 2)(self.address, key) - int(self.header["buckets"])) // BUCKET_BYTES
            assert place // SLOTS in (home, home ^ 1)
            found[key] = value & PORT_MASK, value >> SECOND_SHIFT, bool(value & STATIC)
        return found

    def count(self) -> int:
        return int(self.header["count"])


def _bucket(fdb, key):
    return fdb_bucket(fdb, key)


KEYS = [0, 1, 0xFFFFFFFFFFFF, 4095 << 48, *(vlan << 48 | 0x0200000000 + mac for vlan in (0, 10) for mac in range(8))]
KEY, PORT, SECOND = st.sampled_from(KEYS), st.integers(0, 4095), st.integers(0, 50)


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("learn"), KEY, PORT),
            st.tuples(st.just("learn"), KEY, PORT),
            st.tuples(st.just("static"), KEY, PORT),
            st.tuples(st.just("remove"), KEY, st.just(0)),
            st.tuples(st.just("expire"), SECOND, st.sampled_from((-1, 1, 2))),
        ),
        max_size=60,
    )
)
def test_it_is_a_dictionary_while_there_is_room(steps: list[tuple[str, int, int]]) -> None:
    table, twin = Table(512), NaiveFdb()
    for now, (action, a, b) in enumerate(steps):
        if action == "learn":
            table.learn(a, b, now)
            twin.learn(a, b, now)
        elif action == "static":
            assert fdb_add_static(table.address, a, b, now) == 1
            twin.add_static(a, b, now)
        elif action == "remove":
            assert fdb_remove(table.address, a) == int(twin.entries.pop(a, None) is not None)
        else:
            assert fdb_expire(table.address, a, b, STATIC) == twin.expire(a, b)
            assert table.count() == len(twin.entries)
        assert [table.lookup(key) for key in KEYS] == [twin.lookup(key) for key in KEYS]
    assert table.entries() == {key: (entry.port, entry.second, entry.static) for key, entry in twin.entries.items()}
    assert table.memory.untouched()


def test_moves_and_first_sights_are_counted() -> None:
    table = Table(16)
    table.learn(5, 1, 10)
    table.learn(5, 1, 11)
    table.learn(5, 2, 11)
    table.learn(6, 2, 11)
    row = records(WORKER, table.workers[0].address)[0]
    assert (row["learned"], row["moved"], table.count()) == (2, 1, 2)


@pytest.mark.parametrize("limit", [16, 100, 1000])
def test_a_full_table_replaces_the_oldest_in_reach_and_stays_within_its_limit(limit: int) -> None:
    table = Table(limit)
    for number in range(3 * limit):
        table.learn(number, 1, number)
    assert table.count() == limit == len(table.entries())
    assert table.lookup(3 * limit - 1) == 1
    assert int(table.header["evicted"]) + int(table.header["refused"]) == 2 * limit
    fdb_expire(table.address, 0, -1, STATIC)
    assert table.count() == limit


def neighbours(table: Table, count: int) -> list[int]:
    """Keys of one bucket."""
    home = threaded(_bucket, 2)(table.address, 1)
    found = []
    key = 1
    while len(found) < count:
        if threaded(_bucket, 2)(table.address, key) == home:
            found.append(key)
        key += 1
    return found


def test_more_addresses_than_places_in_reach_replace_the_oldest() -> None:
    table = Table(1000)
    keys = neighbours(table, 12)
    for now, key in enumerate(keys):
        table.learn(key, 3, now)
    assert sorted(table.entries()) == sorted(keys[4:])
    fdb_expire(table.address, 0, -1, STATIC)
    assert table.count() == 8


def test_static_entries_are_not_replaced() -> None:
    table = Table(1000)
    keys = neighbours(table, 11)
    for key in keys[:8]:
        assert fdb_add_static(table.address, key, 7, 0) == 1
    assert fdb_add_static(table.address, keys[8], 7, 0) == 0
    table.learn(keys[9], 1, 100)
    table.learn(keys[0], 1, 100)
    assert set(table.entries()) == set(keys[:8])
    assert table.lookup(keys[0]) == 7
    assert int(table.header["refused"]) == 1


def test_a_forgotten_address_comes_back_into_a_full_table() -> None:
    table = Table(16)
    first, *others = neighbours(table, 4)
    table.learn(first, 1, 0)
    for key in others:
        table.learn(key, 1, 5)
    # Its own place is free again, and the first of the bucket; the table is full nevertheless.
    assert fdb_expire(table.address, 1, -1, STATIC) == 1
    table.header["limit"] = 3
    table.learn(first, 2, 9)
    assert table.lookup(first) == 2
    assert len(table.entries()) == 3


@pytest.mark.parametrize("limit", [1, 16, 17, 8192, 15000])
def test_there_are_places_to_spare(limit: int) -> None:
    buckets = fdb_buckets(limit)
    assert buckets & (buckets - 1) == 0
    assert buckets * SLOTS >= 2 * limit


@pytest.mark.skipif(not JIT, reason="without the JIT atomics are plain Python, which threads interrupt")
@pytest.mark.parametrize("limit", [64, 4096])
def test_threads_that_learn_while_another_forgets(limit: int) -> None:
    table = Table(limit, workers=2)
    table.at(10)
    rng = np.random.default_rng(1)
    shared = rng.integers(0, 1 << 40, 300)
    keys = [Memory(np.concatenate([shared, rng.integers(0, 1 << 40, 300)]).tobytes()) for _ in range(2)]
    learn = threaded(_learn_many, 6)
    scans = 0

    def work(index: int) -> int:
        wrong = 0
        while scans < 50:
            wrong += learn(table.workers[index].address, table.address, keys[index].address, 600, 20, index + 1)
        return wrong

    def forget() -> int:
        nonlocal scans
        while scans < 50:
            fdb_expire(table.address, NEVER, scans % 3 or -1, STATIC)
            scans += 1
            time.sleep(0.0005)
        return 0

    assert in_threads(lambda: work(0), lambda: work(1), forget) == [0, 0, 0]
    entries = table.entries()
    assert {port for port, _, _ in entries.values()} <= {1, 2}
    fdb_expire(table.address, 0, -1, STATIC)
    assert table.count() == len(entries)
    assert not records(FDB, table.address)[0]["locks"].any()
    for key in (5, 6):
        store64(keys[0].address, key)
        table.learn(key, 2, 20)
        fdb_expire(table.address, NEVER, -1, STATIC)
    assert table.entries() == {}
    assert table.count() == 0

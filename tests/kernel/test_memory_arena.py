"""The arena: its fixed address, its allocator, and that another process sees the same memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.machine import load64, store64
from penstock.memory import ARENA_BASE, Arena, ArenaError
from penstock.memory.arena import HUGE_PAGE, MAGIC, free_huge_bytes

SIZE = 4 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(SIZE, huge_pages=False)
    yield made
    made.close()


def test_it_lies_at_its_address_and_is_whole_huge_pages_long() -> None:
    arena = Arena.create(SIZE - 5, huge_pages=False)
    try:
        assert arena.size == SIZE
        assert arena.page_bytes == mmap.PAGESIZE
        assert load64(ARENA_BASE) == MAGIC
        assert load64(ARENA_BASE + SIZE - 8) == 0
    finally:
        arena.close()


@pytest.mark.skipif(free_huge_bytes() < HUGE_PAGE, reason="this machine has no free 2 MB huge page")
def test_huge_pages_are_used_when_there_are_enough() -> None:
    arena = Arena.create(HUGE_PAGE)
    try:
        assert arena.page_bytes == HUGE_PAGE
    finally:
        arena.close()


def test_too_few_huge_pages_are_no_hindrance() -> None:
    arena = Arena.create(free_huge_bytes() + HUGE_PAGE)
    try:
        assert arena.page_bytes == mmap.PAGESIZE
    finally:
        arena.close()


def test_allocations_are_zeroed_aligned_and_apart(arena: Arena) -> None:
    taken: list[tuple[int, int]] = []
    for size, align in ((1, 64), (64, 64), (65, 64), (0, 64), (300, 4096), (8, 128)):
        address = arena.allocate(size, align)
        assert address % align == 0
        assert ctypes.string_at(address, size) == bytes(size)
        ctypes.memset(address, 0xFF, size)
        taken.append((address, address + max(size, 1)))
    for (_, end), (start, _) in zip(sorted(taken), sorted(taken)[1:], strict=False):
        assert end <= start
    assert min(taken)[0] >= ARENA_BASE + 64


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from((64, 128, 4096)), st.booleans()), max_size=40))
def test_what_is_free_is_used_again_and_never_twice(requests: list[tuple[int, int, bool]]) -> None:
    arena = Arena.create(SIZE, huge_pages=False)
    live: dict[int, int] = {}
    try:
        for size, align, free_one in requests:
            address = arena.allocate(size, align)
            assert address % align == 0
            assert all(address + size <= other or other + length <= address for other, length in live.items())
            assert ctypes.string_at(address, size) == bytes(size)
            ctypes.memset(address, 0xEE, size)
            live[address] = max(size, 1)
            if free_one:
                oldest = next(iter(live))
                arena.free(oldest)
                del live[oldest]
    finally:
        arena.close()


def test_freed_memory_comes_back_zeroed_for_its_size_and_alignment(arena: Arena) -> None:
    arena.allocate(64)
    odd = arena.allocate(256)
    assert odd % 4096
    ctypes.memset(odd, 0xFF, 256)
    arena.free(odd)
    used = arena.used
    assert arena.allocate(512) != odd
    assert arena.allocate(256, 4096) != odd
    assert arena.allocate(250) == odd
    assert ctypes.string_at(odd, 256) == bytes(256)
    assert used < arena.used
    used = arena.used
    for _ in range(1000):
        arena.free(arena.allocate(256))
    assert arena.used <= used + 256


def test_freeing_what_is_not_allocated_is_an_error(arena: Arena) -> None:
    address = arena.allocate(64)
    arena.free(address)
    for wrong in (address, address + 64, 0):
        with pytest.raises(KeyError):
            arena.free(wrong)


def test_a_full_arena_says_how_full(arena: Arena) -> None:
    arena.allocate(SIZE - 4096)
    with pytest.raises(ArenaError, match=rf"arena is full: 8192 bytes asked for, \d+ of {SIZE} left"):
        arena.allocate(8192)
    assert arena.allocate(2048)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_one_arena_per_process(arena: Arena) -> None:
    before = descriptors()
    with pytest.raises(ArenaError, match="this process has such memory already"):
        Arena.create(SIZE, huge_pages=False)
    assert descriptors() == before


def test_a_closed_arena_makes_place_for_another() -> None:
    for _ in range(3):
        arena = Arena.create(SIZE, huge_pages=False)
        address = arena.allocate(64)
        assert load64(address) == 0
        store64(address, 1)
        arena.close()


@pytest.mark.parametrize("size", [0, 4096])
def test_what_is_no_arena_is_refused(size: int) -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, size)
    with pytest.raises(ArenaError, match=r"is not a Penstock arena|cannot be mapped"):
        Arena.attach(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    Arena.create(SIZE, huge_pages=False).close()


OTHER = """
import sys
from penstock.machine import load64, store64
from penstock.memory import Arena
arena = Arena.attach(int(sys.argv[1]))
address = int(sys.argv[2])
assert load64(address) == address, load64(address)
assert arena.size == int(sys.argv[3]) and arena.page_bytes == 4096
store64(address + 8, 42)
arena.close()
"""


def test_another_process_sees_the_same_memory_at_the_same_address(arena: Arena) -> None:
    address = arena.allocate(64)
    store64(address, address)
    command = [sys.executable, "-c", OTHER, str(arena.fd), str(address), str(arena.size)]
    done = subprocess.run(command, pass_fds=[arena.fd], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert load64(address + 8) == 42

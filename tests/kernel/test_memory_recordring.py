"""The record ring: against a queue of byte strings, and between processes of which either may be killed at any time."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.memory import NaiveRecordRing
from naive.packet_memory import Memory

from penstock.machine import load64, records, store64
from penstock.memory import (
    RECORD_RING,
    Arena,
    record_commit,
    record_peek,
    record_release,
    record_reserve,
    record_ring_bytes,
    record_ring_init,
)
from tests.kernel.compiled import JIT, compiled, in_threads


def make_ring(size: int) -> Memory:
    memory = Memory(bytes(record_ring_bytes(size)))
    record_ring_init(memory.address, size)
    return memory


def write(ring: int, data: bytes) -> bool:
    record = record_reserve(ring, len(data))
    if not record:
        return False
    ctypes.memmove(record, data, len(data))
    record_commit(ring)
    return True


def peek(ring: int) -> bytes | None:
    record = record_peek(ring)
    return ctypes.string_at(record, load64(record - 8)) if record else None


@settings(max_examples=150)
@given(
    st.sampled_from((64, 128, 256)),
    st.lists(st.integers(0, 130) | st.sampled_from(("read", "look", "abandon")), max_size=60),
)
def test_a_record_ring_is_a_queue_of_byte_strings(size: int, steps: list[int | str]) -> None:
    memory, twin = make_ring(size), NaiveRecordRing(size)
    for number, step in enumerate(steps):
        if isinstance(step, int):
            data = bytes([number]) * step
            assert write(memory.address, data) == twin.write(data)
        elif step == "abandon":
            # A writer that dies before it commits.
            if record := record_reserve(memory.address, 16):
                ctypes.memset(record, 0xFF, 16)
            else:
                twin.lost += 1
        else:
            assert peek(memory.address) == twin.peek()
            if step == "read" and twin.records:
                record_release(memory.address)
                twin.release()
    while twin.records:
        assert peek(memory.address) == twin.peek()
        record_release(memory.address)
        twin.release()
    assert peek(memory.address) is None
    assert records(RECORD_RING, memory.address)[0]["lost"] == twin.lost
    assert memory.untouched()


@pytest.mark.parametrize("size", [0, 32, 100, -64])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"record ring size {size} must be a power of two of at least 64"):
        record_ring_init(0, size)


@pytest.mark.parametrize("taken", range(0, 256, 8))
def test_half_the_ring_always_finds_room_in_an_empty_one(taken: int) -> None:
    memory = make_ring(256)
    for size in (max(0, taken - 8), 120):
        assert write(memory.address, bytes(size))
        record_release(memory.address)
    assert peek(memory.address) is None


def _write_numbers(ring, first, count):
    """Write records; number n has 8 + n % 200 bytes and begins with n."""
    for number in range(first, first + count):
        length = 8 + number % 200
        record = record_reserve(ring, length)
        while record == 0:
            record = record_reserve(ring, length)
        store64(record, number)
        record_commit(ring)
    return count


def _read_numbers(ring, first, count):
    """How many records were not the next one."""
    wrong = 0
    for number in range(first, first + count):
        record = record_peek(ring)
        while record == 0:
            record = record_peek(ring)
        wrong += load64(record) != number or load64(record - 8) != 8 + number % 200
        record_release(ring)
    return wrong


def test_a_writer_and_a_reader_thread() -> None:
    memory = make_ring(1 << 16)
    count = 200_000 if JIT else 500
    writer, reader = compiled(_write_numbers, 3), compiled(_read_numbers, 3)
    assert in_threads(lambda: writer(memory.address, 0, count), lambda: reader(memory.address, 0, count)) == [count, 0]


PROCESS = """
import ctypes
import sys
from penstock.machine import load64, store64
from penstock.memory import Arena, record_commit, record_peek, record_release, record_reserve
from tests.kernel.compiled import compiled

ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: a test that is killed leaves nobody behind

def write(ring, progress):
    number = load64(progress)
    while True:
        length = 8 + number % 200
        record = record_reserve(ring, length)
        if record == 0:
            continue
        store64(record + length - 8, number)
        store64(record, number)
        number += 1
        record_commit(ring)

def read(ring, progress):
    while True:
        record = record_peek(ring)
        if record == 0:
            continue
        number = load64(record)
        length = load64(record - 8)
        expected = load64(progress)
        if number != expected and number + 1 != expected or length != 8 + number % 200:
            return number
        if length >= 16 and load64(record + length - 8) != number:
            return number
        store64(progress, number + 1)
        record_release(ring)

arena = Arena.attach(int(sys.argv[2]))
run = compiled({"write": write, "read": read}[sys.argv[1]], 2)
print("ready", flush=True)
sys.exit(f"{sys.argv[1]} met {run(int(sys.argv[3]), int(sys.argv[4]))}")
"""


class Side:
    """A process that writes or reads without end."""

    def __init__(self, arena: Arena, role: str, ring: int, progress: int) -> None:
        command = [sys.executable, "-c", PROCESS, role, str(arena.fd), str(ring), str(progress)]
        self.process = subprocess.Popen(
            command, pass_fds=[arena.fd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()

    def kill(self) -> None:
        """End the process in the middle of whatever it does; fails when it had ended by itself."""
        assert self.process.poll() is None, self.process.communicate()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(4 << 20, huge_pages=False)
    yield made
    made.close()


@pytest.mark.skipif(not JIT, reason="plain-Python kernels are too slow to be killed in mid-traffic")
def test_either_process_may_be_killed_and_the_other_goes_on(arena: Arena) -> None:
    ring, written, seen = arena.allocate(record_ring_bytes(1 << 15)), arena.allocate(64), arena.allocate(64)
    record_ring_init(ring, 1 << 15)
    sides = {"read": Side(arena, "read", ring, seen), "write": Side(arena, "write", ring, written)}
    places = {"read": seen, "write": written}
    try:
        for victim in ("write", "read"):
            before = load64(seen)
            deadline = time.monotonic() + 10
            while load64(seen) < before + 5_000:
                assert time.monotonic() < deadline
                assert sides["read"].process.poll() is None, sides["read"].process.communicate()
                time.sleep(0.001)
            sides[victim].kill()
            if victim == "write":
                # What was committed is read to the end, and the next writer goes on where the last one stopped.
                while record_peek(ring):
                    time.sleep(0.001)
                store64(written, load64(seen))
            sides[victim] = Side(arena, victim, ring, places[victim])
    finally:
        for side in sides.values():
            side.kill()
    assert load64(seen) > 10_000

"""Every operation as kernels run it and as plain Python does, against unbounded integers and bytes."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import machine as naive
from naive.packet_memory import Memory

import penstock.machine as machine
from penstock.machine import records, view
from penstock.machine.crc import crc32c_8, crc32c_64
from penstock.machine.kernels import Entry
from tests.kernel.compiled import JIT, compiled, in_threads

EDGES = [0, 1, -1, 255, 256, 65535, 1 << 31, 1 << 32, -(1 << 31), 2**63 - 1, -(2**63)]
WORDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EDGES)
DEADLINE = settings(deadline=None, max_examples=60)
BITS = (8, 16, 32, 64)


def find(name: str) -> Callable[..., int]:
    """The operation of this name."""
    return crc32c_8 if name == "crc32c_8" else crc32c_64 if name == "crc32c_64" else getattr(machine, name)


@cache
def in_kernel(name: str, arity: int) -> Callable[..., int]:
    """The operation called from a compiled function."""
    op = find(name)
    functions: dict[int, Callable[..., Any]] = {
        0: lambda: op(),
        1: lambda a: op(a),
        2: lambda a, b: op(a, b),
        3: lambda a, b, c: op(a, b, c),
        4: lambda a, b, c, d: op(a, b, c, d),
        5: lambda a, b, c, d, e: op(a, b, c, d, e),
        6: lambda a, b, c, d, e, f: op(a, b, c, d, e, f),
    }
    return compiled(functions[arity], arity)


def both(name: str, *args: int) -> int:
    """The result in a kernel; fails when plain Python's differs. For operations that change nothing."""
    result = in_kernel(name, len(args))(*args)
    assert find(name)(*args) == result
    return result


@pytest.mark.parametrize("name", naive.VALUES)
@DEADLINE
@given(st.data())
def test_operations_on_words(name: str, data: st.DataObject) -> None:
    arity, twin = naive.VALUES[name]
    args = [data.draw(WORDS) for _ in range(arity)]
    assert both(name, *args) == twin(*args)


@DEADLINE
@given(WORDS, st.integers(0, 63))
def test_shr_fills_with_zeros(value: int, bits: int) -> None:
    assert both("shr", value, bits) == naive.signed((value & naive.WORD) >> bits)


@DEADLINE
@given(st.integers(0, 2**32 - 1), st.integers(0, 255), WORDS)
def test_crc32c(state: int, byte: int, word: int) -> None:
    assert both("crc32c_8", state, byte) == naive.crc(state, bytes([byte]))
    assert both("crc32c_64", state, word) == naive.crc(state, naive.store(word, 64))


@pytest.mark.parametrize("bits", BITS)
@DEADLINE
@given(st.binary(min_size=16, max_size=16), st.integers(0, 8), WORDS)
def test_loads_and_stores_at_any_address(bits: int, data: bytes, at: int, value: int) -> None:
    for name in [str(bits)] + ([f"{bits}be"] if bits > 8 else []):
        big = name.endswith("be")
        memory = Memory(data)
        assert both(f"load{name}", memory.address + at) == naive.load(data[at:], bits, big)
        wanted = data[:at] + naive.store(value, bits, big) + data[at + bits // 8 :]
        for store in (in_kernel(f"store{name}", 2), getattr(machine, f"store{name}")):
            fresh = Memory(data)
            assert store(fresh.address + at, value) == 0
            assert fresh.read() == wanted
            assert fresh.untouched()


@pytest.mark.parametrize(("suffix", "bits"), [("", 64), ("32", 32), ("16", 16)])
@DEADLINE
@given(WORDS, WORDS)
def test_acquire_and_release(suffix: str, bits: int, old: int, new: int) -> None:
    data = naive.store(old, 64) * 2
    memory = Memory(data)
    assert both(f"load_acquire{suffix}", memory.address + 8) == naive.load(data[8:], bits)
    for store in (in_kernel(f"store_release{suffix}", 2), getattr(machine, f"store_release{suffix}")):
        memory = Memory(data)
        store(memory.address + 8, new)
        assert memory.read() == data[:8] + naive.store(new, bits) + data[8 + bits // 8 :]


@DEADLINE
@given(WORDS, WORDS, WORDS)
def test_atomics(old: int, operand: int, other: int) -> None:
    for call in (in_kernel, lambda name, _arity: getattr(machine, name)):
        memory = Memory(naive.store(old, 64))
        assert call("atomic_add", 2)(memory.address, operand) == old
        total = naive.signed(old + operand)
        assert naive.load(memory.read(), 64) == total
        assert call("exchange", 2)(memory.address, other) == total
        assert naive.load(memory.read(), 64) == other
        assert call("cas", 3)(memory.address, operand, old) == int(operand == other)
        held = old if operand == other else other
        assert call("cas", 3)(memory.address, held, operand) == 1
        assert naive.load(memory.read(), 64) == operand
        assert memory.untouched()


def _add_many(address, count):
    for _ in range(count):
        machine.atomic_add(address, 1)
        seen = machine.load_acquire(address + 64)
        while machine.cas(address + 64, seen, seen + 3) == 0:
            seen = machine.load_acquire(address + 64)
    return 0


@pytest.mark.skipif(not JIT, reason="without the JIT atomics are plain Python, which threads interrupt")
def test_atomics_between_threads() -> None:
    memory = Memory(bytes(128))
    add, count = compiled(_add_many, 2), 200_000
    in_threads(*[lambda: add(memory.address, count)] * 3)
    assert machine.load64(memory.address) == 3 * count
    assert machine.load64(memory.address + 64) == 9 * count


@DEADLINE
@given(st.binary(min_size=1, max_size=100), st.integers(0, 120), st.integers(0, 99), WORDS)
def test_blocks(data: bytes, to: int, size: int, byte: int) -> None:
    size = min(size, len(data))
    for call in (in_kernel, lambda name, _arity: getattr(machine, name)):
        source, memory = Memory(data), Memory(bytes(220))
        assert call("copy", 3)(memory.address + to, source.address, size) == 0
        assert memory.read() == bytes(to) + data[:size] + bytes(220 - to - size)
        overlapping = Memory(data + bytes(120))
        call("move", 3)(overlapping.address + to, overlapping.address, size)
        assert overlapping.read(size, to) == data[:size]
        call("fill", 3)(memory.address + to, byte, size)
        assert memory.read(size, to) == bytes([byte & 255]) * size
        assert memory.untouched()
        assert overlapping.untouched()


@DEADLINE
@given(st.binary(min_size=64, max_size=64), st.integers(0, 70), st.sampled_from([16, 64]))
def test_blocks_of_fixed_size(data: bytes, to: int, size: int) -> None:
    for call in (in_kernel, lambda name, _arity: getattr(machine, name)):
        source, memory = Memory(data[:size]), Memory(bytes(140))
        assert call(f"copy{size}", 2)(memory.address + to, source.address) == 0
        assert memory.read() == bytes(to) + data[:size] + bytes(140 - to - size)
        assert source.untouched()
        assert memory.untouched()


def test_hints_do_nothing_one_can_see() -> None:
    memory = Memory(b"12345678")
    for name, args in (("fence", ()), ("pause", ()), ("prefetch", (memory.address,)), ("prefetch_write", (0,))):
        assert both(name, *args) == 0
    assert memory.read() == b"12345678"


def test_clocks_go_on() -> None:
    for read in (in_kernel("monotonic_ns", 0), machine.monotonic_ns):
        before, now, after = time.monotonic_ns(), read(), time.monotonic_ns()
        assert before <= now <= after
    cycles = in_kernel("cycles", 0)
    first = cycles()
    time.sleep(0.01)
    assert cycles() - first > 1_000_000


@pytest.mark.parametrize("arity", [1, 2, 3, 4])
def test_calls_by_address(arity: int) -> None:
    weights = (1, 10, 100, 1000)

    def weigh(*args: int) -> int:
        return sum(weight * arg for weight, arg in zip(weights, args, strict=False)) - (1 << 40)

    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arity)
    target = prototype(weigh)
    address = ctypes.cast(target, ctypes.c_void_p).value or 0
    args = (7, -3, 5, 2**33)[:arity]
    assert both(f"call{arity}", address, *args) == weigh(*args)


THING = np.dtype(
    [("a", "i8"), ("b", "u1"), ("c", "i4"), ("d", "u2"), ("e", "i1"), ("f", "u4"), ("g", "i2")], align=True
)
thing_at = view(THING)


def _change(address, value):
    t = thing_at(address)
    t.a += value
    t.b = value
    t.c = value
    t.d = value
    t.e = value
    t.f = value
    t.g = value
    return t.a + t.b + t.c + t.d + t.e + t.f + t.g


@cache
def changing() -> Callable[..., int]:
    return compiled(_change, 2)


@DEADLINE
@given(WORDS)
def test_views_wrap_values_to_their_fields(value: int) -> None:
    memory = Memory(bytes(THING.itemsize))
    total = changing()(memory.address, value) if JIT else None
    row = records(THING, memory.address)[0]
    fields = {"b": (8, False), "c": (32, True), "d": (16, False), "e": (8, True), "f": (32, False), "g": (16, True)}
    if JIT:
        wanted = {"a": value}
        for name, (bits, is_signed) in fields.items():
            wrapped = value & ((1 << bits) - 1)
            wanted[name] = wrapped - (1 << bits) if is_signed and wrapped >> (bits - 1) else wrapped
        assert {name: int(row[name]) for name in wanted} == wanted
        assert total == naive.signed(sum(wanted.values()))
    small = value & 127
    changing()(memory.address, small)
    assert [int(row[name]) for name in "bcdefg"] == [small] * 6
    assert thing_at(memory.address).c == small
    assert machine.offset(THING, "f") == 20
    assert memory.untouched()


def test_a_struct_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(TypeError, match="must be declared with align=True"):
        view(np.dtype([("a", "i4"), ("b", "i8")]))


def test_an_entry_of_other_types_is_refused() -> None:
    with pytest.raises(TypeError, match=r"entry .*signature float64\(int64\) must be int64 throughout"):
        Entry(lambda x: x, "float64(int64)")


def test_system_calls_move_bytes() -> None:
    read_end, write_end = os.pipe()
    try:
        memory, room = Memory(b"penstock"), Memory(bytes(8))
        vector = Memory(b"".join(naive.store(word, 64) for word in (memory.address, 3, memory.address + 3, 5)))
        into = Memory(b"".join(naive.store(word, 64) for word in (room.address + 4, 4, room.address, 4)))
        for call in (in_kernel, lambda name, _arity: getattr(machine, name)):
            assert call("sys_write", 3)(write_end, memory.address, 8) == 8
            assert call("sys_read", 3)(read_end, room.address, 8) == 8
            assert room.read() == b"penstock"
            assert call("sys_writev", 3)(write_end, vector.address, 2) == 8
            assert call("sys_readv", 3)(read_end, into.address, 2) == 8
            assert room.read() == b"tockpens"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_epoll_and_poll() -> None:
    read_end, write_end = os.pipe()

    with select.epoll() as watcher:
        watcher.register(read_end, select.EPOLLIN)
        events, fds = Memory(bytes(64)), Memory(read_end.to_bytes(4, "little") + b"\x01\x00\x00\x00")
        assert both("sys_epoll_wait", watcher.fileno(), events.address, 4, 0) == 0
        assert both("sys_poll", fds.address, 1, 0) == 0
        os.write(write_end, b"x")
        assert both("sys_epoll_wait", watcher.fileno(), events.address, 4, 1000) == 1
        assert both("sys_poll", fds.address, 1, 1000) == 1
        assert fds.read()[6] & 1
        assert in_kernel("sys_epoll_ctl", 4)(watcher.fileno(), 2, read_end, 0) == 0
        assert both("sys_epoll_wait", watcher.fileno(), events.address, 4, 0) == 0
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("sys_read", (-1, 0, 0), errno.EBADF),
        ("sys_write", (-1, 0, 0), errno.EBADF),
        ("sys_readv", (-1, 0, 0), errno.EBADF),
        ("sys_writev", (-1, 0, 0), errno.EBADF),
        ("sys_sendto", (0, 0, 0, 0, 0, 0), errno.ENOTSOCK),
        ("sys_sendmmsg", (-1, 0, 0, 0), errno.EBADF),
        ("sys_epoll_ctl", (-1, 1, 0, 0), errno.EFAULT),
        ("sys_epoll_wait", (-1, 0, 1, 0), errno.EBADF),
        ("sys_ftruncate", (-1, 0), errno.EBADF),
        ("sys_poll", (0, 1, 0), errno.EFAULT),
        ("sys_write", (1 << 32 | 0xFFFFFFFF, 0, 0), errno.EBADF),
    ],
)
def test_system_calls_return_minus_errno(name: str, args: tuple[int, ...], error: int) -> None:
    with open(os.devnull) as null:
        args = tuple(null.fileno() if name == "sys_sendto" and i == 0 else arg for i, arg in enumerate(args))
        assert both(name, *args) == -error

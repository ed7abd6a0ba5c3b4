"""The region of flow tables as the control process holds it: memory, programs, counters, and waiting for quiet points.

The control process makes the region once; engines map it (``map_region``) and outlive it or are outlived. What is
taken from workers' sight goes to ``defer`` and is done when every worker has begun a turn since. One thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.datapath.layout import RUNNING
from penstock.datapath.pipeline import region as allocator
from penstock.datapath.pipeline.layout import (
    COUNTER_BYTES,
    FLOW,
    FLOWS_MAX,
    PROGRAM,
    PROGRAM_ANY,
    PROGRAM_CONJUNCTION,
    PROGRAM_DROP,
    PROGRAM_NORMAL,
    PROGRAM_OPERATIONS,
    PROGRAM_OUTPUT,
    REGION,
    REGION_BASE,
    REGION_BYTES,
    REGION_MAGIC,
    WORKERS,
)
from penstock.datapath.pipeline.program import (
    CLEAR,
    CLONE,
    CONJUNCTION,
    CONTROLLER,
    END,
    EXIT,
    FIN_TIMEOUT,
    GOTO,
    GROUP,
    LEARN,
    METER,
    OUTPUT,
    OUTPUT_FIELD,
    POP_QUEUE,
    PORT_ANY,
    PORT_MAX,
    PORT_NORMAL,
    PUSH,
    RESUBMIT,
    SET_QUEUE,
    WRITE,
)
from penstock.datapath.pipeline.tables import give_counters, sum_counters, take_counters
from penstock.machine import full_fence, records
from penstock.memory.arena import map_at, unmap_at

ALIGN = 4096
_SUMS = struct.Struct("=3q")
# Programs are made by the hundred thousand, for which records are too slow. The last field is padding.
_PROGRAM = struct.Struct(f"={len(PROGRAM.names or ()) - 1}q")


class RegionError(Exception):
    """The region cannot be mapped, or is full."""


def make_region() -> int:
    """A new, empty region: its descriptor."""
    fd = os.memfd_create("penstock-flows", os.MFD_CLOEXEC)
    os.ftruncate(fd, REGION_BYTES)
    header = np.zeros(1, dtype=REGION)
    start = REGION_BASE + REGION.itemsize
    for name, size in (("flows", FLOWS_MAX * 8), ("counters", WORKERS * FLOWS_MAX * COUNTER_BYTES)):
        start = -(-start // ALIGN) * ALIGN
        header[name] = start
        start += size
    header["next"], header["end"], header["free_id"] = start, REGION_BASE + REGION_BYTES, -1
    header["magic"] = REGION_MAGIC
    os.pwrite(fd, header.tobytes(), 0)
    return fd


def map_region(fd: int) -> None:
    """Map a region where its addresses hold. Raises ArenaError when the place is taken."""
    map_at(REGION_BASE, REGION_BYTES, fd)


def unmap_region() -> None:
    """Let go of the mapping."""
    unmap_at(REGION_BASE, REGION_BYTES)


class FlowRegion:
    """The region, which is mapped already. Raises RegionError when what is mapped is none."""

    def __init__(self) -> None:
        self.header = records(REGION, REGION_BASE)[0]
        if self.header["magic"] != REGION_MAGIC:
            raise RegionError("the memory at the place of flow tables does not hold any: wrong magic number")
        self._flows = records(np.dtype(np.int64), int(self.header["flows"]), FLOWS_MAX)
        self._sums = ctypes.create_string_buffer(_SUMS.size)
        self._sums_address = ctypes.addressof(self._sums)
        self._programs: dict[int, int] = {}  # addresses by the hash of what they are: there may be as many as flows
        self._blobs: dict[bytes, int] = {}
        self._workers: Any = ()
        self._deferred: deque[tuple[list[int], Callable[[], object]]] = deque()

    # Memory

    def allocate(self, size: int) -> int:
        """The address of ``size`` zeroed bytes. Raises RegionError when the region is full."""
        address = int(allocator.allocate_block(REGION_BASE, size))
        if not address:
            raise RegionError(f"the region of flow tables is full: {size} bytes asked for")
        return address

    def release(self, address: int, size: int) -> None:
        """Give a block back; no worker may see it any more."""
        allocator.release_block(REGION_BASE, address, size)

    # Pipelines

    def pipelines(self) -> list[int]:
        """The addresses of all pipelines."""
        return [address for address in self.header["pipelines"].tolist() if address]

    def list_pipeline(self, address: int) -> None:
        """Have whoever comes after this process find a pipeline. Raises RegionError when all places are taken."""
        slots = self.header["pipelines"]
        free = np.flatnonzero(slots == 0)
        if not len(free):
            raise RegionError(f"all {len(slots)} pipelines are taken")
        slots[free[0]] = address

    def unlist_pipeline(self, address: int) -> None:
        """Have it found no more."""
        slots = self.header["pipelines"]
        slots[slots == address] = 0

    def by_pipeline(self, flows: Sequence[int]) -> dict[int, list[int]]:
        """Flows by the pipeline that they belong to."""
        found: dict[int, list[int]] = {}
        for flow in flows:
            found.setdefault(int(records(FLOW, flow)[0]["pipeline"]), []).append(flow)
        return found

    # Quiet points

    def set_workers(self, workers: Any) -> None:
        """The WORKER records of the engine that uses the region; () while there is none."""
        self._workers = workers
        self.header["counting"] = max(int(self.header["counting"]), len(workers))

    def turns(self) -> list[int]:
        """Where the workers are: -1 for one that sleeps, which looks at nothing until its next turn."""
        full_fence()
        return [int(row["turns"]) if row["state"] == RUNNING else -1 for row in self._workers]

    def is_quiet_since(self, turns: Sequence[int]) -> bool:
        """Whether every worker has begun a turn or slept since ``turns`` was taken."""
        return all(
            before < 0 or row["state"] != RUNNING or int(row["turns"]) != before
            for before, row in zip(turns, self._workers, strict=False)
        )

    def defer(self, function: Callable[[], object]) -> None:
        """Have a function called when no worker can see any more what it could see before this call."""
        self._deferred.append((self.turns(), function))

    def run_deferred(self) -> int:
        """Call what has waited long enough; how many still wait."""
        while self._deferred and self.is_quiet_since(self._deferred[0][0]):
            self._deferred.popleft()[1]()
        return len(self._deferred)

    # Programs

    def program(self, operations: Sequence[int], source: bytes) -> int:
        """The program with these operations (without END) and source, made when there is none yet."""
        words = array("q", operations)
        words.append(END)
        key = (words.tobytes(), source)
        number = hash(key)
        address = self._programs.get(number)
        if address is None or self._program_key(address) != key:
            kind, port = _kind(operations)
            head = _PROGRAM.pack(0, len(key[0]), len(source), kind, port, _rewrites(operations))
            data = head.ljust(PROGRAM_OPERATIONS, b"\0") + key[0] + source
            address = self.allocate(len(data))
            ctypes.memmove(address, data, len(data))
            self._programs[number] = address
        return address

    def hold(self, program: int) -> None:
        """Have a program stay until ``drop_reference``."""
        records(PROGRAM, program)[0]["references"] += 1

    def programs(self) -> list[int]:
        """Every program that there is."""
        return list(self._programs.values())

    def adopt_program(self, address: int) -> None:
        """Take note of a program that a control process before this one made."""
        self._programs[hash(self._program_key(address))] = address

    def _program_key(self, address: int) -> tuple[bytes, bytes]:
        row = records(PROGRAM, address)[0]
        operations, source = int(row["operations"]), int(row["source_bytes"])
        data = ctypes.string_at(address + PROGRAM_OPERATIONS, operations + source)
        return data[:operations], data[operations:]

    def source(self, program: int) -> bytes:
        """What a program was made from."""
        return self._program_key(program)[1]

    def operations(self, program: int) -> list[int]:
        """A program's words, END included."""
        return list(np.frombuffer(self._program_key(program)[0], dtype=np.int64).tolist())

    @staticmethod
    def operation(address: int) -> list[int]:
        """The words of the operation at an address, as unsigned integers."""
        first = int.from_bytes(ctypes.string_at(address, 8), "little")
        count = max(1, first >> 8 & 255)
        return list(records(np.dtype(np.uint64), address, count).tolist())

    def drop_reference(self, program: int) -> None:
        """A flow that named a program is gone; after a quiet point."""
        row = records(PROGRAM, program)[0]
        row["references"] -= 1
        if row["references"] == 0:
            key = self._program_key(program)
            if self._programs.get(hash(key)) == program:
                del self._programs[hash(key)]
            self.release(program, PROGRAM_OPERATIONS + len(key[0]) + len(key[1]))

    # Bytes that operations refer to

    def blob(self, data: bytes) -> int:
        """The address of bytes that stay as long as the region; the same for the same bytes."""
        address = self._blobs.get(data)
        if address is None:
            address = self.allocate(8 + len(data))
            ctypes.memmove(address, len(data).to_bytes(8, "little") + data, 8 + len(data))
            self._blobs[data] = address
        return address

    @staticmethod
    def read_blob(address: int) -> bytes:
        """The bytes of a blob."""
        size = int.from_bytes(ctypes.string_at(address, 8), "little")
        return ctypes.string_at(address + 8, size)

    # Counters

    def count(self, number: int) -> tuple[int, int, int]:
        """Packets, bytes and the second of the last use (CLOCK_MONOTONIC, 0: never) of an id."""
        sum_counters(REGION_BASE, number, self._sums_address)
        packets, octets, used = _SUMS.unpack(self._sums)
        return packets, octets, used

    def take_id(self) -> int:
        """An id to count by, for what is no flow."""
        number = int(take_counters(REGION_BASE))
        if number < 0:
            raise RegionError(f"all {FLOWS_MAX} counters are taken")
        return number

    def give_id(self, number: int) -> None:
        """Give an id back, after a quiet point."""
        give_counters(REGION_BASE, number)

    def listed(self, number: int) -> int:
        """The flow that has an id now; 0 or less for none."""
        return int(self._flows[number])

    def flow_addresses(self) -> list[int]:
        """Every flow of every pipeline."""
        rows = self._flows[: int(self.header["ids"])]
        found: list[int] = rows[rows > 0].tolist()
        return found


# What leaves a packet's key as it is, as far as a later lookup sees.
_READING = {
    OUTPUT, OUTPUT_FIELD, CONTROLLER, GROUP, METER, SET_QUEUE, POP_QUEUE, GOTO, WRITE, CLEAR, PUSH, LEARN, FIN_TIMEOUT,
    CONJUNCTION, EXIT, CLONE,
}  # fmt: skip


def _rewrites(operations: Sequence[int]) -> bool:
    """Whether packets may be looked up with another key than before."""
    at = 0
    while at < len(operations):
        first = operations[at] & 0xFFFFFFFFFFFFFFFF
        code, count, inner = first & 255, max(1, first >> 8 & 255), first >> 32
        if code not in _READING and not (code == RESUBMIT and inner == 0):
            return True
        at += count + (inner if code in (WRITE, CLONE) else 0)
    return False


def _kind(operations: Sequence[int]) -> tuple[int, int]:
    """The PROGRAM_ kind and port of operations."""
    if not operations:
        return PROGRAM_DROP, 0
    first = operations[0] & 0xFFFFFFFFFFFFFFFF
    if first & 255 == CONJUNCTION:
        return PROGRAM_CONJUNCTION, 0
    if len(operations) == 1 and first & 255 == OUTPUT:
        port = first >> 32
        if port == PORT_NORMAL:
            return PROGRAM_NORMAL, port
        if port < PORT_MAX and port != PORT_ANY:
            return PROGRAM_OUTPUT, port
    return PROGRAM_ANY, 0

"""A worker's context: its WORKER struct and the memory that the struct points to.

The engine makes one per worker thread in the arena; a tracer makes one in private memory, with the compiled stages of
its own process, and so runs the very code that forwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.datapath.afterwards import AFTERWARDS
from penstock.datapath.clones import CLONE_BYTES
from penstock.datapath.crossing import cross
from penstock.datapath.layout import (
    ASIDE_MAX,
    BURST,
    CLONES_MAX,
    CUT_MAX,
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    FRAME_MAX,
    MAX_PORTS,
    OUTPUT_BYTES,
    PACKET,
    PACKET_BYTES,
    SCRATCH_STRIDE,
    TX_SCRATCH,
    WORKER,
)
from penstock.datapath.normal import normal
from penstock.datapath.parsing import parse_burst
from penstock.datapath.pipeline.edits import edit
from penstock.datapath.pipeline.execute import run_tables
from penstock.datapath.pipeline.layout import CACHE_WAYS, CACHED_BYTES, EXEC, LINE
from penstock.datapath.pipeline.stage import run_pipeline
from penstock.datapath.stages import flush
from penstock.datapath.transmit import transmit
from penstock.machine import records
from penstock.memory import CACHE, CACHE_SLOTS, cache_init, pool_bytes, pool_init
from penstock.packet.fields import KEY_SIZE
from penstock.packet.segment import SEGMENTATION

CLONE_BUFFER = -(-CLONE_BYTES // 64) * 64

Allocate = Callable[[int], int]


def make_clone_pool(allocate: Allocate, workers: int) -> int:
    """The address of a pool of clone buffers that lasts for this many workers."""
    count = 1 << ((CLONES_MAX + CUT_MAX + CACHE_SLOTS + BURST) * workers - 1).bit_length()
    pool = allocate(pool_bytes(count, CLONE_BUFFER))
    pool_init(pool, count, CLONE_BUFFER)
    return pool


def cache_bytes(sets: int) -> int:
    """Memory of a flow cache of so many sets of CACHE_WAYS entries."""
    return sets * (LINE + CACHE_WAYS * CACHED_BYTES)


def make_exec(allocate: Allocate, index: int, cache: int, sets: int) -> int:
    """The address of an EXEC whose flow cache is the zeroed memory at ``cache``; it uses a region once it has one."""
    address = allocate(EXEC.itemsize)
    row = records(EXEC, address)[0]
    row["tags"], row["cached"], row["set_mask"] = cache, cache + sets * LINE, sets - 1
    row["key"], row["single"] = allocate(KEY_SIZE), allocate(8)
    row["index"] = index
    return address


def make_worker(allocate: Allocate, worker: int, index: int, pool: int) -> Any:
    """Fill the zeroed WORKER at ``worker``; its record, for the caller to set ports, bridges and the rest."""
    row = records(WORKER, worker)[0]
    row["index"] = index
    row["parse"], row["normal"], row["pipeline"] = parse_burst.address, normal.address, run_pipeline.address
    row["run_tables"], row["edit"] = run_tables.address, edit.address
    row["transmit"], row["cross"], row["flush"] = transmit.address, cross.address, flush.address
    row["outputs"] = allocate(MAX_PORTS * OUTPUT_BYTES)
    row["dirty"] = allocate(MAX_PORTS * 4)
    row["packets"], row["keys"] = allocate(BURST * PACKET_BYTES), allocate(BURST * KEY_SIZE)
    for name in ("burst", "staged", "patched", "policed", "arrived", "endpoints", "segments"):
        row[name] = allocate(BURST * 8)
    row["clones"], row["cut"] = allocate(CLONES_MAX * 8), allocate(CUT_MAX * 8)
    row["aside"], row["blocked"] = allocate(ASIDE_MAX * 16), allocate(MAX_PORTS * 4)
    row["cut_joined"] = allocate(FRAME_MAX)
    row["cache"] = allocate(CACHE.itemsize)
    cache_init(int(row["cache"]), pool)
    row["packet_in_fd"] = -1
    row["events"] = allocate((EVENTS_MAX + 1) * EVENT_BYTES_MAX)
    row["active"] = allocate(MAX_PORTS * 8)
    row["segmentation"] = allocate(SEGMENTATION.itemsize)
    row["rx_scratch"], row["tx_scratch"] = allocate(BURST * SCRATCH_STRIDE), allocate(TX_SCRATCH)
    row["joined"], row["after"] = allocate(FRAME_MAX), allocate(AFTERWARDS.itemsize)
    row["unix_offset"] = time.time_ns() - time.monotonic_ns()
    bursts = records(np.dtype(np.int64), int(row["burst"]), BURST)
    for i in range(BURST):
        packet = int(row["packets"]) + i * PACKET_BYTES
        bursts[i] = packet
        records(PACKET, packet)[0]["key"] = int(row["keys"]) + i * KEY_SIZE
    return row

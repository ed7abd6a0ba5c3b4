"""The region's allocator: blocks by size class, freed ones linked in lists. The control process's alone.

All its state is in the region, so a control process that takes over goes on allocating. Blocks up to 1 KB come in
multiples of 64 bytes, longer ones in powers of two. A block comes zeroed.
"""

from __future__ import annotations

from penstock.datapath.pipeline.layout import REGION_FREE, region_at
from penstock.machine import clz, entry, fill, kernel, load64, store64

STEP = 64
SMALL_CLASSES = 16  # 64 to 1,024 bytes
SMALL_MAX = STEP * SMALL_CLASSES
SMALL_BITS = 10


@kernel
def size_class(size):
    """The class of blocks that hold ``size`` bytes (at least one)."""
    if size <= SMALL_MAX:
        return (size + STEP - 1) // STEP - 1
    return SMALL_CLASSES + 63 - clz(size - 1) - SMALL_BITS


@kernel
def class_bytes(number):
    """Bytes of a block of this class."""
    if number < SMALL_CLASSES:
        return (number + 1) * STEP
    return SMALL_MAX << (number - SMALL_CLASSES + 1)


@kernel
def allocate(region, size):
    """The address of ``size`` zeroed bytes, aligned to a cache line; 0 when the region is full."""
    r = region_at(region)
    number = size_class(size)
    octets = class_bytes(number)
    cell = region + REGION_FREE + number * 8
    block = load64(cell)
    if block != 0:
        store64(cell, load64(block))
        fill(block, 0, octets)
    else:
        if r.next + octets > r.end:
            return 0
        block = r.next
        r.next += octets
    r.used += octets
    return block


@kernel
def release(region, block, size):
    """Give back a block of ``size`` bytes. No worker may follow anything to it any more."""
    number = size_class(size)
    cell = region + REGION_FREE + number * 8
    store64(block, load64(cell))
    store64(cell, block)
    region_at(region).used -= class_bytes(number)
    return 0


@entry("int64(int64, int64)")
def allocate_block(region, size):
    """``allocate`` for plain Python."""
    return allocate(region, size)


@entry("int64(int64, int64, int64)")
def release_block(region, block, size):
    """``release`` for plain Python."""
    return release(region, block, size)

"""Subtables: the flows of one mask in a table, in buckets. Changed by the control process alone while workers search.

What is replaced stays readable until it is released, after a quiet point.
"""

from __future__ import annotations

from penstock.datapath.pipeline.classifier import bucket_of, other_bucket
from penstock.datapath.pipeline.layout import (
    ADDRESS_MASK,
    BUCKET_BYTES,
    BUCKETS_HEADER,
    SLOTS,
    SUBTABLE_WORDS,
    WORD_BYTES,
    buckets_at,
    flow_at,
    region_at,
    subtable_at,
    word_at,
)
from penstock.datapath.pipeline.region import allocate, release
from penstock.machine import entry, kernel, load64, shr, store_release

NO_MEMORY = -1


@kernel
def buckets_bytes(mask):
    """Bytes of a block with ``mask`` + 1 buckets."""
    return BUCKETS_HEADER + (mask + 1) * BUCKET_BYTES


@kernel
def place(block, flow, value):
    """Put a flow whose match no other in the block has in a free slot: 1, or 0 when there is none."""
    bucket = bucket_of(block, value)
    slot = flow | shr(value, 16) << 48
    for i in range(SLOTS):
        if load64(bucket + i * 8) == 0:
            store_release(bucket + i * 8, slot)
            return 1
    bucket = other_bucket(block, bucket)
    for i in range(SLOTS):
        if load64(bucket + i * 8) == 0:
            buckets_at(block).spilled = 1
            store_release(bucket + i * 8, slot)
            return 1
    return 0


@kernel
def fill_block(block, old):
    """Put the chains of one block of buckets into another: 1, or 0 when one finds no slot."""
    for bucket in range(buckets_at(old).mask + 1):
        for i in range(SLOTS):
            slot = load64(old + BUCKETS_HEADER + bucket * BUCKET_BYTES + i * 8)
            if slot != 0:
                flow = slot & ADDRESS_MASK
                if place(block, flow, flow_at(flow).hash) == 0:
                    return 0
    return 1


@entry("int64(int64, int64)")
def subtable_grow(region, subtable):
    """Double the buckets of a subtable; the old block, to be released after a quiet point; or NO_MEMORY."""
    s = subtable_at(subtable)
    old = s.buckets
    mask = buckets_at(old).mask * 2 + 1
    while True:
        block = allocate(region, buckets_bytes(mask))
        if block == 0:
            return NO_MEMORY
        buckets_at(block).mask = mask
        if fill_block(block, old) == 1:
            break
        release(region, block, buckets_bytes(mask))
        mask = mask * 2 + 1
    store_release(subtable, block)
    return old


@entry("int64(int64, int64, int64)")
def make_subtable(region, words, count):
    """A new, empty subtable for a mask of ``count`` WORDs at ``words``; NO_MEMORY."""
    subtable = allocate(region, SUBTABLE_WORDS + count * WORD_BYTES)
    block = allocate(region, buckets_bytes(1))
    if subtable == 0 or block == 0:
        return NO_MEMORY
    buckets_at(block).mask = 1
    s = subtable_at(subtable)
    s.buckets = block
    s.word_count = count
    s.priority = -1
    for i in range(count):
        word_at(subtable + SUBTABLE_WORDS + i * WORD_BYTES).offset = word_at(words + i * WORD_BYTES).offset
        word_at(subtable + SUBTABLE_WORDS + i * WORD_BYTES).mask = word_at(words + i * WORD_BYTES).mask
    return subtable


@entry("int64(int64, int64)")
def release_subtable(region, subtable):
    """Give back an empty subtable, after a quiet point."""
    s = subtable_at(subtable)
    block = s.buckets
    release(region, block, buckets_bytes(buckets_at(block).mask))
    return release(region, subtable, SUBTABLE_WORDS + s.word_count * WORD_BYTES)


@entry("int64(int64, int64)")
def release_buckets(region, block):
    """Give back a block of buckets, after a quiet point."""
    return release(region, block, buckets_bytes(buckets_at(block).mask))


@entry("int64(int64, int64)")
def sweep_subtable(region, subtable):
    """Unlink flows that are not listed, which a control process that ended at any instant left behind: how many.

    No packet sees them, so their memory is given up and not reused.
    """
    s = subtable_at(subtable)
    block = s.buckets
    flows = region_at(region).flows
    kept = 0
    gone = 0
    for bucket in range(buckets_at(block).mask + 1):
        for i in range(SLOTS):
            cell = block + BUCKETS_HEADER + bucket * BUCKET_BYTES + i * 8
            slot = load64(cell)
            before = 0
            flow = slot & ADDRESS_MASK
            while flow != 0:
                f = flow_at(flow)
                after = f.next
                if load64(flows + f.id * 8) == flow:
                    kept += 1
                    before = flow
                else:
                    gone += 1
                    if before != 0:
                        store_release(before, after)
                    elif after != 0:
                        store_release(cell, after | slot & ~ADDRESS_MASK)
                    else:
                        store_release(cell, 0)
                flow = after
    s.count = kept
    return gone

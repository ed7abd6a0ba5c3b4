"""Tuple-space search: the flow of a table that a packet's key matches, of the highest priority.

A table has a subtable for each mask among its flows, highest priority first, and the search ends when what was found is
at least as high as all that is left. A subtable is a hash table over the masked words of the key, so the operator's
flows bound the work and never the traffic. Flows of one match are a chain, highest priority first. Any worker, without
a lock.
"""

from __future__ import annotations

from penstock.datapath.pipeline.layout import (
    ADDRESS_MASK,
    BUCKET_BYTES,
    BUCKETS_HEADER,
    FLOW_BYTES,
    LIST_ITEM_BYTES,
    LIST_ITEMS,
    SLOTS,
    SUBTABLE_WORDS,
    TABLE_LIST,
    WORD_BYTES,
    buckets_at,
    flow_at,
    subtable_at,
    subtable_list_at,
    word_at,
)
from penstock.machine import inlined, kernel, load64, load_acquire, shr
from penstock.machine.crc import crc32c_64

SEED = 0x9E3779B9


@inlined
def hash_key(words, count, key):
    """A 32-bit hash of the masked words of a key."""
    value = SEED
    for i in range(count):
        w = word_at(words + i * WORD_BYTES)
        value = crc32c_64(value, load64(key + w.offset) & w.mask)
    return value


@inlined
def key_equals(words, count, key, flow):
    """Whether the masked words of a key are those of a flow's match."""
    differs = 0
    for i in range(count):
        w = word_at(words + i * WORD_BYTES)
        differs |= load64(key + w.offset) & w.mask ^ load64(flow + FLOW_BYTES + i * 8)
    return int(differs == 0)


@inlined
def bucket_of(block, value):
    """The bucket that a hash names in a block of buckets."""
    return block + BUCKETS_HEADER + (value & buckets_at(block).mask) * BUCKET_BYTES


@inlined
def other_bucket(block, bucket):
    """The bucket that takes what a full one cannot."""
    start = block + BUCKETS_HEADER
    return start + (bucket - start ^ BUCKET_BYTES)


@kernel
def find_in_bucket(bucket, value, words, count, key):
    """The first flow with the key's match in a bucket; 0 when there is none."""
    signature = shr(value, 16)
    for i in range(SLOTS):
        slot = load_acquire(bucket + i * 8)
        if shr(slot, 48) == signature and slot != 0:
            flow = slot & ADDRESS_MASK
            if key_equals(words, count, key, flow) == 1:
                return flow
    return 0


@kernel
def find_match(subtable, key):
    """The first of the chain of flows with the key's match in a subtable; 0 when there is none."""
    s = subtable_at(subtable)
    count = s.word_count
    words = subtable + SUBTABLE_WORDS
    value = hash_key(words, count, key)
    block = load_acquire(subtable)
    bucket = bucket_of(block, value)
    found = find_in_bucket(bucket, value, words, count, key)
    if found == 0 and buckets_at(block).spilled != 0:
        found = find_in_bucket(other_bucket(block, bucket), value, words, count, key)
    return found


@kernel
def visible(flow, version):
    """The first flow of a chain that packets of this version see; 0 when they see none."""
    while flow != 0:
        f = flow_at(flow)
        if f.added <= version and version < f.removed:
            break
        flow = load_acquire(flow)
    return flow


@kernel
def classify(table, key, version):
    """The flow of a table that a key matches; 0 on a miss. Among equal priorities the choice is not defined."""
    subtables = load_acquire(table + TABLE_LIST)
    best = 0
    priority = -1
    for i in range(subtable_list_at(subtables).count):
        item = subtables + LIST_ITEMS + i * LIST_ITEM_BYTES
        if priority >= load64(item):
            break
        flow = visible(find_match(load64(item + 8), key), version)
        if flow != 0 and flow_at(flow).priority > priority:
            best = flow
            priority = flow_at(flow).priority
    return best

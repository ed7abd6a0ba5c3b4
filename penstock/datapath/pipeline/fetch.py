"""Memory on its way before it is looked at: the first lookups of packets that the flow cache does not know.

In a table of a million flows each lookup waits for memory three times: for the bucket, for the flow, for its
counters. For the packets of a burst together that is done in three passes, each of which asks for what the next one
reads. Nothing is decided here; at most FETCHED_MAX subtables of table 0 are looked at.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at
from penstock.datapath.pipeline.classifier import bucket_of, hash_key
from penstock.datapath.pipeline.layout import (
    ADDRESS_MASK,
    COUNTER_BYTES,
    EXEC_ENTRIES,
    EXEC_FETCHED,
    FETCHED_MAX,
    LINE,
    LIST_ITEM_BYTES,
    LIST_ITEMS,
    PIPELINE_TABLES,
    SLOTS,
    SUBTABLE_WORDS,
    TABLE_LIST,
    exec_at,
    flow_at,
    subtable_at,
    subtable_list_at,
)
from penstock.machine import kernel, load64, load_acquire, prefetch, shr, store64


@kernel
def fetch_flows(x, packets, count):
    """Ask for the buckets, the flows and the counters of the packets without an entry."""
    e = exec_at(x)
    table = load_acquire(e.pipeline + PIPELINE_TABLES)
    if table == 0:
        return 0
    subtables = load_acquire(table + TABLE_LIST)
    number = subtable_list_at(subtables).count
    if number > FETCHED_MAX:
        number = FETCHED_MAX
    for j in range(number):
        subtable = load64(subtables + LIST_ITEMS + j * LIST_ITEM_BYTES + 8)
        block = load_acquire(subtable)
        words = subtable + SUBTABLE_WORDS
        word_count = subtable_at(subtable).word_count
        for i in range(count):
            if load64(x + EXEC_ENTRIES + i * 8) == 0:
                value = hash_key(words, word_count, packet_at(load64(packets + i * 8)).key)
                store64(x + EXEC_FETCHED + (i * FETCHED_MAX + j) * 8, value)
                prefetch(bucket_of(block, value))
    for j in range(number):
        block = load_acquire(load64(subtables + LIST_ITEMS + j * LIST_ITEM_BYTES + 8))
        for i in range(count):
            if load64(x + EXEC_ENTRIES + i * 8) == 0:
                place = x + EXEC_FETCHED + (i * FETCHED_MAX + j) * 8
                value = load64(place)
                bucket = bucket_of(block, value)
                flow = 0
                for k in range(SLOTS):
                    slot = load64(bucket + k * 8)
                    if shr(slot, 48) == shr(value, 16) and slot != 0:
                        flow = slot & ADDRESS_MASK
                if flow != 0:
                    prefetch(flow)
                    prefetch(flow + LINE)
                store64(place, flow)
    for j in range(number):
        for i in range(count):
            if load64(x + EXEC_ENTRIES + i * 8) == 0:
                flow = load64(x + EXEC_FETCHED + (i * FETCHED_MAX + j) * 8)
                if flow != 0:
                    prefetch(e.counters + flow_at(flow).id * COUNTER_BYTES)
                    prefetch(flow_at(flow).program)
    return 0

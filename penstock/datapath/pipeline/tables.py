"""Changes to flow tables, by the control process alone while workers search them.

A flow is complete before anything leads to it, and it is in its subtable before it is listed in ``REGION.flows``, the
one list that says what flows there are once they are visible. What is unlinked stays readable until it is released.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.pipeline.changes import log_change
from penstock.datapath.pipeline.classifier import bucket_of, find_match, hash_key, other_bucket
from penstock.datapath.pipeline.layout import (
    ADDRESS_MASK,
    COUNTER_BYTES,
    FLOW_BYTES,
    FLOWS_MAX,
    FOREVER,
    REGION_BASE,
    SLOTS,
    SUBTABLE_WORDS,
    WORD_BYTES,
    WORKERS,
    buckets_at,
    counter_at,
    flow_at,
    program_at,
    region_at,
    subtable_at,
    word_at,
)
from penstock.datapath.pipeline.region import allocate, release
from penstock.datapath.pipeline.subtables import NO_MEMORY, place
from penstock.machine import entry, fill, kernel, load64, shr, store64, store_release, view

LOAD_SLOTS = 5  # of 8 in a bucket, on average, before a block of buckets is doubled
DONE, GROW, TOO_MANY = 0, 1, -2
NEW_COUNTERS, KEEP_COUNTERS = -1, -2

# What ``add_flow`` is told, and ``flow`` and ``replaced``, which it tells.
ADDITION = np.dtype(
    [(name, "i8") for name in (
        "region", "pipeline", "subtable", "key", "program", "table", "priority", "cookie", "idle", "hard", "flags",
        "importance", "created", "modified", "counted_as", "flow", "replaced",
    )], align=True)  # fmt: skip
addition_at = view(ADDITION)


@kernel
def take_id(region):
    """A free flow id; TOO_MANY."""
    r = region_at(region)
    if r.free_id >= 0:
        number = r.free_id
        r.free_id = -1 - load64(r.flows + number * 8)
        return number
    if r.ids == FLOWS_MAX:
        return TOO_MANY
    r.ids += 1
    return r.ids - 1


@entry("int64(int64)")
def take_counters(region):
    """An id whose counters are zero, for what is no flow; TOO_MANY."""
    number = take_id(region)
    if number >= 0:
        clear_counters(region, number)
    return number


@entry("int64(int64, int64)")
def give_counters(region, number):
    """Give an id back, after a quiet point."""
    r = region_at(region)
    store64(r.flows + number * 8, -1 - r.free_id)
    r.free_id = number
    return 0


@entry("int64(int64, int64, int64)")
def sum_counters(region, number, out):
    """Packets and bytes of an id, and when it was used last, over all workers: to three words at ``out``."""
    r = region_at(region)
    packets = 0
    octets = 0
    used = 0
    for worker in range(r.counting):
        c = counter_at(r.counters + (worker * FLOWS_MAX + number) * COUNTER_BYTES)
        packets += c.packets
        octets += c.bytes
        used = c.used if c.used > used else used
    store64(out, packets)
    store64(out + 8, octets)
    store64(out + 16, used)
    return 0


@kernel
def clear_counters(region, number):
    """Make an id's counters zero, without touching memory that no worker counts in."""
    for worker in range(WORKERS):
        counter = region_at(region).counters + (worker * FLOWS_MAX + number) * COUNTER_BYTES
        if counter_at(counter).packets != 0 or counter_at(counter).used != 0:
            fill(counter, 0, COUNTER_BYTES)
    return 0


@kernel
def make_flow(region, subtable, key, counted_as):
    """A new flow, not linked yet, with the match of ``key`` under the subtable's mask.

    ``counted_as`` is the id of a flow that it takes the place and the counters of, or -1. NO_MEMORY, TOO_MANY.
    """
    s = subtable_at(subtable)
    count = s.word_count
    number = counted_as
    if number < 0:
        number = take_id(region)
        if number < 0:
            return number
        clear_counters(region, number)
        store64(region_at(region).flows + number * 8, 0)
    flow = allocate(region, FLOW_BYTES + count * 8)
    if flow == 0:
        return NO_MEMORY
    f = flow_at(flow)
    f.id = number
    f.subtable = subtable
    f.removed = FOREVER
    f.words = count
    f.hash = hash_key(subtable + SUBTABLE_WORDS, count, key)
    for i in range(count):
        w = word_at(subtable + SUBTABLE_WORDS + i * WORD_BYTES)
        store64(flow + FLOW_BYTES + i * 8, load64(key + w.offset) & w.mask)
    return flow


@kernel
def slot_of(subtable, flow):
    """Address of the slot that leads to the chain with a flow's match; 0 when there is none."""
    s = subtable_at(subtable)
    value = flow_at(flow).hash
    block = s.buckets
    bucket = bucket_of(block, value)
    for _ in range(2):
        for i in range(SLOTS):
            slot = load64(bucket + i * 8)
            if slot != 0 and shr(slot, 48) == shr(value, 16):
                first = slot & ADDRESS_MASK
                differs = 0
                for j in range(s.word_count):
                    differs |= load64(first + FLOW_BYTES + j * 8) ^ load64(flow + FLOW_BYTES + j * 8)
                if differs == 0:
                    return bucket + i * 8
        bucket = other_bucket(block, bucket)
    return 0


@kernel
def link(flow):
    """Put a finished flow in its subtable: DONE, or GROW when that has to grow first.

    Among flows of one match and priority the latest comes first.
    """
    f = flow_at(flow)
    s = subtable_at(f.subtable)
    block = s.buckets
    slot = slot_of(f.subtable, flow)
    if slot == 0:
        if s.count >= (buckets_at(block).mask + 1) * LOAD_SLOTS:
            return GROW
        f.next = 0
        if place(block, flow, f.hash) == 0:
            return GROW
    else:
        head = load64(slot)
        after = head & ADDRESS_MASK
        before = 0
        while after != 0 and flow_at(after).priority > f.priority:
            before = after
            after = flow_at(after).next
        f.next = after
        if before == 0:
            store_release(slot, flow | head & ~ADDRESS_MASK)
        else:
            store_release(before, flow)
    s.count += 1
    return DONE


@entry("int64(int64)")
def link_flow(flow):
    """``link`` for the control process."""
    return link(flow)


@kernel
def find(subtable, key, priority):
    """The flow with exactly this match and priority that was not removed; 0 when there is none."""
    flow = find_match(subtable, key)
    while flow != 0:
        f = flow_at(flow)
        if f.priority == priority and f.removed == FOREVER:
            return flow
        flow = f.next
    return 0


@entry("int64(int64, int64, int64)")
def find_flow(subtable, key, priority):
    """``find`` for the control process."""
    return find(subtable, key, priority)


@entry("int64(int64)")
def add_flow(addition):
    """Make and link the flow that an ADDITION describes: DONE, GROW (made; to be linked), NO_MEMORY or TOO_MANY.

    It is seen by packets of the next version on. ``replaced`` becomes the flow with the same match and priority.
    """
    a = addition_at(addition)
    a.replaced = find(a.subtable, a.key, a.priority)
    counted_as = a.counted_as
    if counted_as == KEEP_COUNTERS:
        counted_as = flow_at(a.replaced).id if a.replaced != 0 else NEW_COUNTERS
    flow = make_flow(a.region, a.subtable, a.key, counted_as)
    if flow < 0:
        return flow
    a.flow = flow
    f = flow_at(flow)
    f.added = load64(a.pipeline) + 1
    f.pipeline = a.pipeline
    f.table = a.table
    f.priority = a.priority
    f.cookie = a.cookie
    f.idle = a.idle
    f.hard = a.hard
    f.flags = a.flags
    f.importance = a.importance
    f.created = a.created
    f.modified = a.modified
    f.program = a.program
    f.kind = program_at(a.program).kind
    f.port = program_at(a.program).port
    program_at(a.program).references += 1
    return link(flow)


@entry("int64(int64)")
def commit_addition(flow):
    """List a flow that becomes visible, and log it: 1 if it is a new one, 0 if it goes on with another's counters."""
    f = flow_at(flow)
    r = region_at(REGION_BASE)
    log_change(flow)
    new = int(load64(r.flows + f.id * 8) <= 0)
    store_release(r.flows + f.id * 8, flow)
    r.flow_count += new
    return new


@entry("int64(int64)")
def commit_removal(flow):
    """Take a flow that is no longer visible off the list: 1, or 0 when another goes on with its id and counters.

    The id is to be given back after a quiet point.
    """
    f = flow_at(flow)
    r = region_at(REGION_BASE)
    if load64(r.flows + f.id * 8) != flow:
        return 0
    store_release(r.flows + f.id * 8, 0)
    r.flow_count -= 1
    return 1


@entry("int64(int64)")
def unlink_flow(flow):
    """Take a flow out of its subtable; it is still readable by who was led to it. DONE, or 1 when it was not there."""
    f = flow_at(flow)
    slot = slot_of(f.subtable, flow)
    if slot == 0:
        return 1
    head = load64(slot)
    at = head & ADDRESS_MASK
    before = 0
    while at != flow:
        if at == 0:
            return 1
        before = at
        at = flow_at(at).next
    if before != 0:
        store_release(before, f.next)
    elif f.next != 0:
        store_release(slot, f.next | head & ~ADDRESS_MASK)
    else:
        store_release(slot, 0)
    subtable_at(f.subtable).count -= 1
    return DONE


@entry("int64(int64, int64)")
def release_flow(region, flow):
    """Give back an unlinked flow, after a quiet point."""
    return release(region, flow, FLOW_BYTES + flow_at(flow).words * 8)

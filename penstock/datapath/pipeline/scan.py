"""Looking through all flows of the region: by a filter, or for those whose time is over. By the control process."""

from __future__ import annotations

import numpy as np

from penstock.datapath.pipeline.layout import (
    COUNTER_BYTES,
    FLOW_BYTES,
    FLOWS_MAX,
    FOREVER,
    SUBTABLE_WORDS,
    WORD_BYTES,
    WORKERS,
    counter_at,
    flow_at,
    region_at,
    word_at,
)
from penstock.machine import entry, kernel, load64, store64, view

ANY = -1
NANOSECONDS = 1_000_000_000
WITHIN, OVERLAPPING, EXACT = range(3)

SCAN = np.dtype(
    [
        ("region", "i8"),
        ("pipeline", "i8"),
        ("table", "i8"),  # or ANY
        ("priority", "i8"),  # or ANY
        ("cookie", "i8"),
        ("cookie_mask", "i8"),
        ("how", "i8"),  # WITHIN: matches that are the filter's or narrower; OVERLAPPING: that a packet may share
        ("words", "i8"),  # WORDs of the filter
        ("word_count", "i8"),
        ("key", "i8"),
        ("next", "i8"),  # id to go on from
        ("pending", "i8"),  # addresses of flows that are not listed yet, which come after those that are
        ("pending_count", "i8"),
        ("pending_next", "i8"),  # index to go on from
        ("found", "i8"),  # addresses of flows
        ("room", "i8"),  # how many fit there
    ],
    align=True,
)
scan_at = view(SCAN)


@kernel
def is_within(flow, words, count, key):
    """Whether a flow's match is the same as a filter's or narrower: WORDs at ``words`` and the values in ``key``."""
    f = flow_at(flow)
    own = f.subtable + SUBTABLE_WORDS
    for i in range(count):
        w = word_at(words + i * WORD_BYTES)
        met = 0
        for j in range(f.words):
            o = word_at(own + j * WORD_BYTES)
            if o.offset == w.offset:
                value = load64(flow + FLOW_BYTES + j * 8)
                if o.mask & w.mask == w.mask and (value ^ load64(key + w.offset)) & w.mask == 0:
                    met = 1
                break
        if met == 0:
            return 0
    return 1


@kernel
def overlaps(flow, words, count, key):
    """Whether a packet may match both a flow and a filter."""
    f = flow_at(flow)
    own = f.subtable + SUBTABLE_WORDS
    for i in range(count):
        w = word_at(words + i * WORD_BYTES)
        for j in range(f.words):
            o = word_at(own + j * WORD_BYTES)
            if o.offset == w.offset:
                value = load64(flow + FLOW_BYTES + j * 8)
                if (value ^ load64(key + w.offset)) & w.mask & o.mask != 0:
                    return 0
    return 1


@kernel
def is_meant(scan, flow):
    """Whether a flow is one that a SCAN describes."""
    s = scan_at(scan)
    f = flow_at(flow)
    if f.pipeline != s.pipeline or f.removed != FOREVER:
        return 0
    if s.table != ANY and f.table != s.table:
        return 0
    if s.priority != ANY and f.priority != s.priority:
        return 0
    if (f.cookie ^ s.cookie) & s.cookie_mask != 0:
        return 0
    if s.how == WITHIN:
        return is_within(flow, s.words, s.word_count, s.key)
    return overlaps(flow, s.words, s.word_count, s.key)


@entry("int64(int64)")
def scan_flows(scan):
    """List the flows that a SCAN describes, from ``next`` on: how many. Fewer than ``room``: those were the last."""
    s = scan_at(scan)
    r = region_at(s.region)
    count = 0
    while s.next < r.ids and count < s.room:
        flow = load64(r.flows + s.next * 8)
        s.next += 1
        if flow > 0 and is_meant(scan, flow) == 1:
            store64(s.found + count * 8, flow)
            count += 1
    while s.pending_next < s.pending_count and count < s.room:
        flow = load64(s.pending + s.pending_next * 8)
        s.pending_next += 1
        if is_meant(scan, flow) == 1:
            store64(s.found + count * 8, flow)
            count += 1
    return count


@kernel
def last_used(region, number):
    """The second in which a flow was last used by any worker; 0: never."""
    r = region_at(region)
    latest = 0
    for worker in range(WORKERS - 1):
        used = counter_at(r.counters + (worker * FLOWS_MAX + number) * COUNTER_BYTES).used
        latest = used if used > latest else latest
    return latest


@entry("int64(int64, int64, int64, int64)")
def expired_flows(region, now, found, room):
    """List flows whose idle or hard time-out has passed at ``now`` (CLOCK_MONOTONIC, nanoseconds): how many."""
    r = region_at(region)
    count = 0
    for number in range(r.ids):
        flow = load64(r.flows + number * 8)
        if flow <= 0:
            continue
        f = flow_at(flow)
        if (f.hard == 0 and f.idle == 0) or f.removed != FOREVER:
            continue
        over = f.hard != 0 and now - f.modified >= f.hard * NANOSECONDS
        if f.idle != 0 and not over:
            used = last_used(region, number) * NANOSECONDS
            since = f.modified if used < f.modified else used
            over = now - since >= f.idle * NANOSECONDS
        if over:
            store64(found + count * 8, flow)
            count += 1
            if count == room:
                break
    return count

"""Conjunctive matches: flows that are each met by one of several clauses, and an id that all clauses together give.

Open vSwitch's ovs-actions(7), "conjunction". Flows with CONJUNCTION match no packet by themselves: of those with the
highest priority above every other flow's, the clauses that they meet are gathered by id, and when an id has all of
its clauses the packet is looked up again with conj_id set to it. At most SOFT_MAX such flows of a packet and
CLAUSES_MAX ids are looked at.
"""

from __future__ import annotations

from penstock.datapath.pipeline.classifier import find_match, visible
from penstock.datapath.pipeline.layout import (
    CLAUSES_MAX,
    EXEC_CLAUSES,
    EXEC_SOFT,
    LIST_ITEM_BYTES,
    LIST_ITEMS,
    PROGRAM_CONJUNCTION,
    PROGRAM_OPERATIONS,
    SOFT_MAX,
    TABLE_LIST,
    flow_at,
    subtable_list_at,
)
from penstock.datapath.pipeline.program import CONJUNCTION
from penstock.machine import kernel, load64, load_acquire, shr, store32be, store64
from penstock.packet.fields import key_offset

CONJ_ID = key_offset("conj_id")
CLAUSE_BYTES = 16
NO_PRIORITY = -1


@kernel
def add_clauses(x, flow, count):
    """Gather the clauses that a flow meets among ``count`` ids: how many ids there are now."""
    operation = flow_at(flow).program + PROGRAM_OPERATIONS
    word = load64(operation)
    while word & 255 == CONJUNCTION:
        number = shr(word, 32)
        which = load64(operation + 8)
        place = x + EXEC_CLAUSES
        end = place + count * CLAUSE_BYTES
        while place < end and load64(place) != number:
            place += CLAUSE_BYTES
        if place == end and count < CLAUSES_MAX:
            store64(place, number)
            store64(place + 8, 0)
            count += 1
            end += CLAUSE_BYTES
        if place < end:
            all_clauses = (1 << (shr(which, 8) & 255)) - 1 if shr(which, 8) & 255 < 64 else -1
            met = load64(place + 8) | 1 << (which & 255)
            store64(place + 8, met)
            if met == all_clauses:
                return -1 - number
        operation += 16
        word = load64(operation)
    return count


@kernel
def gather(x, table, key, version):
    """Collect the flows with CONJUNCTION that a key meets: how many; of the rest the best is found by ``classify``."""
    subtables = load_acquire(table + TABLE_LIST)
    count = 0
    for i in range(subtable_list_at(subtables).count):
        flow = visible(find_match(load64(subtables + LIST_ITEMS + i * LIST_ITEM_BYTES + 8), key), version)
        while flow != 0:
            if flow_at(flow).kind == PROGRAM_CONJUNCTION and count < SOFT_MAX:
                store64(x + EXEC_SOFT + count * 8, flow)
                count += 1
            flow = visible(load_acquire(flow), version)
    return count


@kernel
def hard_match(table, key, version):
    """The best flow without CONJUNCTION; 0 when there is none."""
    subtables = load_acquire(table + TABLE_LIST)
    best = 0
    priority = NO_PRIORITY
    for i in range(subtable_list_at(subtables).count):
        item = subtables + LIST_ITEMS + i * LIST_ITEM_BYTES
        if priority >= load64(item):
            break
        flow = visible(find_match(load64(item + 8), key), version)
        while flow != 0 and flow_at(flow).kind == PROGRAM_CONJUNCTION:
            flow = visible(load_acquire(flow), version)
        if flow != 0 and flow_at(flow).priority > priority:
            best = flow
            priority = flow_at(flow).priority
    return best


@kernel
def classify_conjunctive(x, table, key, version):
    """The flow of a table that a key matches, conjunctive matches taken into account; 0 on a miss."""
    best = hard_match(table, key, version)
    least = flow_at(best).priority if best != 0 else NO_PRIORITY
    count = gather(x, table, key, version)
    above = 1 << 32
    while True:
        # The highest priority below the last one that was looked at.
        priority = least
        for i in range(count):
            own = flow_at(load64(x + EXEC_SOFT + i * 8)).priority
            if own < above and own > priority:
                priority = own
        if priority == least:
            return best
        ids = 0
        for i in range(count):
            flow = load64(x + EXEC_SOFT + i * 8)
            if flow_at(flow).priority == priority and ids >= 0:
                ids = add_clauses(x, flow, ids)
        if ids < 0:
            before = load64(key + CONJ_ID)
            store32be(key + CONJ_ID, -1 - ids)
            found = hard_match(table, key, version)
            store64(key + CONJ_ID, before)
            if found != 0:
                return found
        above = priority

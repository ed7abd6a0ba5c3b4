"""One lookup of a packet in a table: by search, or as it was recorded when a packet of the same flow went this way.

The lookups of a packet, in their order, are its steps. They depend on nothing but the key that it came with, so the
flow cache may keep them. Inside a bucket or a clone they may depend on more (which bucket is live): there they are
always searches and never recorded.
"""

from __future__ import annotations

from penstock.datapath.layout import packet_at, worker_at
from penstock.datapath.pipeline.classifier import classify
from penstock.datapath.pipeline.conjunctions import classify_conjunctive
from penstock.datapath.pipeline.l4_ports import PORTS, hide_ports, hides_ports
from penstock.datapath.pipeline.layout import (
    CACHE_STEPS,
    COUNTER_BYTES,
    EXEC_STEPS,
    PIPELINE_TABLES,
    REGION_BASE,
    STEP_ID,
    STEP_TABLE,
    TABLE_COUNTER_BYTES,
    TABLES,
    counter_at,
    exec_at,
    flow_at,
    pipeline_at,
    table_at,
    table_counter_at,
)
from penstock.datapath.trace import FLOW_MATCH, FLOW_MISS, note
from penstock.machine import inlined, kernel, load64, load_acquire, shr, store32, store64

RECORD, REPLAY, SEARCH = range(3)
LINE_SHIFT = 6
ID_MASK = 0xFFFFFF
UNKNOWN = -1


@inlined
def step_of(flow, table):
    """A step from a flow (0: a miss) and its table."""
    if flow == 0:
        return table << STEP_TABLE
    return (flow - REGION_BASE) >> LINE_SHIFT | flow_at(flow).id << STEP_ID | table << STEP_TABLE


@inlined
def step_flow(step):
    """The flow of a step; 0 when it was a miss."""
    line = step & 0xFFFFFFFF
    return 0 if line == 0 else REGION_BASE + (line << LINE_SHIFT)


@inlined
def step_id(step):
    """The id of a step's flow."""
    return shr(step, STEP_ID) & ID_MASK


@inlined
def count_flow(counters, number, packets, octets, now):
    """Count packets against a flow, a group or a bucket."""
    c = counter_at(counters + number * COUNTER_BYTES)
    c.packets += packets
    c.bytes += octets
    c.used = now
    return 0


@inlined
def count_lookup(worker, pipeline, table, matched):
    """Count a lookup in a table."""
    place = (worker_at(worker).index * TABLES + table) * TABLE_COUNTER_BYTES
    c = table_counter_at(pipeline_at(pipeline).table_counters + place)
    c.lookups += 1
    c.matched += matched
    return 0


@kernel
def search(x, table):
    """The flow that the packet matches in a table now; 0 on a miss."""
    e = exec_at(x)
    found = load_acquire(e.pipeline + PIPELINE_TABLES + table * 8)
    if found == 0:
        return 0
    key = packet_at(e.packet).key
    hidden = hides_ports(key, pipeline_at(e.pipeline).frags)
    ports = hide_ports(key) if hidden else 0
    if table_at(found).conjunctions != 0:
        flow = classify_conjunctive(x, found, key, e.version)
    else:
        flow = classify(found, key, e.version)
    if hidden:
        store32(key + PORTS, ports)
    return flow


@kernel
def lookup(worker, x, table):
    """The flow for the packet in a table, counted; 0 on a miss."""
    e = exec_at(x)
    flow = UNKNOWN
    if e.isolated == 0:
        if e.mode == REPLAY:
            if e.position < e.count:
                step = load64(x + EXEC_STEPS + e.position * 8)
                if shr(step, STEP_TABLE) == table:
                    flow = step_flow(step)
                    e.position += 1
            if flow == UNKNOWN:
                e.mode = SEARCH
        if flow == UNKNOWN:
            flow = search(x, table)
            if e.mode == RECORD:
                if e.count < CACHE_STEPS:
                    store64(x + EXEC_STEPS + e.count * 8, step_of(flow, table))
                e.count += 1
    else:
        flow = search(x, table)
    w = worker_at(worker)
    if w.trace != 0:
        if flow != 0:
            note(w.trace, FLOW_MATCH, table, flow)
        else:
            note(w.trace, FLOW_MISS, table, 0)
        return flow
    count_lookup(worker, e.pipeline, table, int(flow != 0))
    if flow != 0:
        count_flow(e.counters, flow_at(flow).id, 1, e.octets, w.now)
    return flow

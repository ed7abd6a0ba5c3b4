"""A burst through the pipeline of its bridge, most of it by the flow cache.

The cache of a worker is exact match on what the bridge's flows look at of a packet's key (``PIPELINE.words``). An
entry keeps the steps, so counters stay exact and programs run from the flows themselves. It is of one version: after a
change it is brought up to date when that does not concern it, else its packets are looked up again, at the price of a
new flow. Each pass over the burst fetches what the next one reads.
"""

from __future__ import annotations

from penstock.datapath.clones import drop
from penstock.datapath.drops import FLOW_DROP, FRAGMENT_DROP, NOT_RECEIVED
from penstock.datapath.layout import BRIDGE_BYTES, EGRESS_TUNNEL, PORT_BYTES, bridge_at, packet_at, port_at, worker_at
from penstock.datapath.output import append
from penstock.datapath.parsing import complete_all
from penstock.datapath.pipeline.changes import bring_up
from penstock.datapath.pipeline.classifier import hash_key
from penstock.datapath.pipeline.execute import begin
from penstock.datapath.pipeline.fetch import fetch_flows
from penstock.datapath.pipeline.l4_ports import FRAG, hide_ports, hides_ports, show_ports
from penstock.datapath.pipeline.layout import (
    CACHE_STEPS,
    CACHE_WAYS,
    CACHED_BYTES,
    CACHED_MORE,
    CACHED_SHORT,
    CACHED_STEPS,
    CACHED_WORDS,
    COUNTER_BYTES,
    EXEC_ADMITTED,
    EXEC_ENTRIES,
    EXEC_HASHES,
    EXEC_NORMALS,
    EXEC_STEPS,
    FRAG_DROP,
    KEY_WORDS_AT,
    LINE,
    PIPELINE_WORDS,
    PROGRAM_DROP,
    PROGRAM_NORMAL,
    PROGRAM_OUTPUT,
    REGION_BASE,
    STEPS_IN_LINE,
    WORD_BYTES,
    cached_at,
    exec_at,
    flow_at,
    key_words_at,
    pipeline_at,
    program_at,
    word_at,
)
from penstock.datapath.pipeline.lookup import RECORD, REPLAY, SEARCH, count_flow, count_lookup, step_flow, step_id
from penstock.datapath.pipeline.outputs import IN_PORT, NO_RECV, engine_number, leave_vlan, send
from penstock.datapath.pipeline.program import PORT_NORMAL
from penstock.datapath.pipeline.shortcut import begin_short, go_short, keep_short, step_at
from penstock.datapath.tunnel.layout import clear_tunnel
from penstock.machine import (
    call2,
    call4,
    copy,
    entry,
    fill,
    inlined,
    kernel,
    load8,
    load32be,
    load64,
    load_acquire,
    prefetch,
    shr,
    store64,
)
from penstock.packet.fields import KEY_SIZE, PARSED_SIZE, TUNNEL_AT, TUNNEL_SIZE

PORT_MAP_MAX = 0xFFFF


@inlined
def tag_of(x, value):
    """The tag of a hash."""
    return value << 32 | shr(exec_at(x).pipeline - REGION_BASE, 6)


@inlined
def tags_at(x, value):
    """The set of tags that a hash names."""
    e = exec_at(x)
    return e.tags + (value & e.set_mask) * LINE


@inlined
def entry_of(x, tag):
    """The CACHED of a tag, by the tag's place."""
    e = exec_at(x)
    return e.cached + shr(tag - e.tags, 3) * CACHED_BYTES


@inlined
def find_tag(tags, tag):
    """The place of a tag in its set; 0 when it is not there."""
    found = 0
    for i in range(CACHE_WAYS):
        if load64(tags + i * 8) == tag:
            found = tags + i * 8
    return found


@inlined
def is_entry_of(x, entry, key):
    """Whether a CACHED holds the steps of packets with this key."""
    c = cached_at(entry)
    e = exec_at(x)
    words = e.key_words + KEY_WORDS_AT
    differs = (c.pipeline ^ e.pipeline) | (c.serial ^ e.serial)
    for i in range(e.word_count):
        w = word_at(words + i * WORD_BYTES)
        differs |= load64(key + w.offset) & w.mask ^ load64(entry + CACHED_WORDS + i * 8)
    if differs != 0:
        return 0
    if c.version == e.version:
        return 1
    return bring_up(x, entry, key)


@inlined
def victim(x, value):
    """The place in its set that a new tag takes: a free one, or the place that its hash names."""
    tags = tags_at(x, value)
    place = tags + (shr(value, 3) & CACHE_WAYS - 1) * 8
    for i in range(CACHE_WAYS):
        if load64(tags + i * 8) == 0:
            place = tags + i * 8
    return place


@kernel
def keep(x, value, key):
    """Put the recorded steps in the cache."""
    e = exec_at(x)
    words = e.key_words + KEY_WORDS_AT
    tags = tags_at(x, value)
    tag = tag_of(x, value)
    place = find_tag(tags, tag)
    if place == 0:
        place = victim(x, value)
    entry = entry_of(x, place)
    c = cached_at(entry)
    c.version = e.version
    c.pipeline = e.pipeline
    c.serial = e.serial
    c.count = e.count
    c.rewrites = 0
    for i in range(e.count):
        step = load64(x + EXEC_STEPS + i * 8)
        flow = step_flow(step)
        if i < e.count - 1 and flow != 0:
            c.rewrites |= program_at(flow_at(flow).program).rewrites
        store64(entry + (CACHED_STEPS + i * 8 if i < STEPS_IN_LINE else CACHED_MORE + (i - STEPS_IN_LINE) * 8), step)
    for i in range(e.word_count):
        w = word_at(words + i * WORD_BYTES)
        store64(entry + CACHED_WORDS + i * 8, load64(key + w.offset) & w.mask)
    keep_short(x, entry)
    store64(place, tag)
    return 0


@kernel
def run_new(worker, x, packet, value):
    """A packet of a flow that the cache does not know: search, run, and keep the way it went."""
    e = exec_at(x)
    p = packet_at(packet)
    e.misses += 1
    e.mode = RECORD
    e.count = 0
    begin_short(x)
    begin(x, packet, p.head_len + p.tail_len)
    if pipeline_at(e.pipeline).cacheable == 0 or worker_at(worker).trace != 0:
        e.mode = SEARCH
    else:
        # The key changes on the way and is kept as it was.
        copy(e.key, p.key, KEY_SIZE)
    if hides_ports(p.key, pipeline_at(e.pipeline).frags):
        show_ports(packet)
    call2(worker_at(worker).run_tables, worker, x)
    if e.mode == RECORD and e.count <= CACHE_STEPS:
        keep(x, value, e.key)
    return 0


@kernel
def run_known(worker, x, packet, entry):
    """A packet that goes the way of another, by the interpreter."""
    e = exec_at(x)
    p = packet_at(packet)
    c = cached_at(entry)
    e.mode = REPLAY
    e.count = c.count
    copy(x + EXEC_STEPS, entry + CACHED_STEPS, STEPS_IN_LINE * 8)
    if c.count > STEPS_IN_LINE:
        copy(x + EXEC_STEPS + STEPS_IN_LINE * 8, entry + CACHED_MORE, (CACHE_STEPS - STEPS_IN_LINE) * 8)
    begin(x, packet, p.head_len + p.tail_len)
    return call2(worker_at(worker).run_tables, worker, x)


@inlined
def send_simply(worker, x, packet, port):
    """The one output of a flow that does nothing else."""
    e = exec_at(x)
    w = worker_at(worker)
    if port < PORT_MAP_MAX and port != load32be(packet_at(packet).key + IN_PORT):
        number = engine_number(e.pipeline, port)
        to = port_at(w.ports + number * PORT_BYTES)
        if number != 0 and to.of_config == 0 and w.trace == 0:
            if to.egress == EGRESS_TUNNEL:
                leave_vlan(to.config, packet)
            return append(worker, number, packet)
    p = packet_at(packet)
    begin(x, packet, p.head_len + p.tail_len)
    return send(worker, x, port, 1)


@inlined
def run_entry(worker, x, packet, entry):
    """A packet whose CACHED was found."""
    e = exec_at(x)
    step = load64(entry + CACHED_STEPS)
    flow = step_flow(step)
    if cached_at(entry).count == 1 and flow != 0:
        f = flow_at(flow)
        kind = f.kind
        if kind == PROGRAM_OUTPUT or kind == PROGRAM_DROP or kind == PROGRAM_NORMAL:
            p = packet_at(packet)
            count_flow(e.counters, step_id(step), 1, p.head_len + p.tail_len, worker_at(worker).now)
            count_lookup(worker, e.pipeline, f.table, 1)
            if kind == PROGRAM_OUTPUT:
                return send_simply(worker, x, packet, f.port)
            if kind == PROGRAM_DROP:
                return drop(worker, e.number, FLOW_DROP)
            store64(x + EXEC_NORMALS + e.normal_count * 8, packet)
            e.normal_count += 1
            return 0
    if cached_at(entry).short_port != 0 and worker_at(worker).trace == 0:
        port = go_short(worker, x, packet, entry)
        if port != PORT_NORMAL:
            return send_simply(worker, x, packet, port)
        store64(x + EXEC_NORMALS + e.normal_count * 8, packet)
        e.normal_count += 1
        return 0
    return run_known(worker, x, packet, entry)


@kernel
def run_normals(worker, x):
    """Have NORMAL forward what was collected for it."""
    e = exec_at(x)
    count = e.normal_count
    e.normal_count = 0
    if count > 0:
        call4(worker_at(worker).normal, worker, e.number, x + EXEC_NORMALS, count)
    return 0


@kernel
def admit(worker, x, packets, count, config):
    """List at EXEC_ADMITTED the packets of a burst that the port and the handling of fragments let in: how many.

    The burst's own list stays as it is: the queues fill the packets in its order for as long as the worker runs.
    """
    number = exec_at(x).number
    kept = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        if config & NO_RECV != 0:
            drop(worker, number, NOT_RECEIVED)
        elif load8(packet_at(packet).key + FRAG) != 0:
            drop(worker, number, FRAGMENT_DROP)
        else:
            store64(x + EXEC_ADMITTED + kept * 8, packet)
            kept += 1
    return kept


@kernel
def run_all_normal(worker, x, packets, count, number):
    """A bridge whose only flow has everything forwarded by NORMAL."""
    e = exec_at(x)
    w = worker_at(worker)
    octets = 0
    for i in range(count):
        p = packet_at(load64(packets + i * 8))
        octets += p.head_len + p.tail_len
    if w.trace == 0:
        count_flow(e.counters, number, count, octets, w.now)
    return call4(w.normal, worker, e.number, packets, count)


@kernel
def fetch_new(x, packets, count):
    """Have what the packets need that the cache does not know on its way: for one alone it would not be in time."""
    fetch_flows(x, packets, count)
    for i in range(count):
        if load64(x + EXEC_ENTRIES + i * 8) == 0:
            entry = entry_of(x, victim(x, load64(x + EXEC_HASHES + i * 8)))
            for line in range(CACHED_BYTES // LINE):
                prefetch(entry + line * LINE)
    return 0


@entry("int64(int64, int64, int64, int64)")
def run_pipeline(worker, number, packets, count):
    """Run the pipeline for ``count`` parsed packets that came in by one port of a bridge that has one."""
    w = worker_at(worker)
    x = w.exec
    e = exec_at(x)
    port = port_at(w.ports + number * PORT_BYTES)
    bridge = bridge_at(w.bridges + port.bridge * BRIDGE_BYTES)
    pipeline = bridge.pipeline
    tunneled = int(port.egress == EGRESS_TUNNEL)
    q = pipeline_at(pipeline)
    e.pipeline = pipeline
    e.number = number
    e.version = load_acquire(pipeline)
    # What decides how much of a key is read is itself read once.
    frags = q.frags
    normal = q.normal
    if w.links != 0 and (normal == 0 or frags == FRAG_DROP):
        complete_all(worker, number, packets, count)
    if port.of_config & NO_RECV != 0 or frags == FRAG_DROP:
        count = admit(worker, x, packets, count, port.of_config)
        packets = x + EXEC_ADMITTED
    if normal != 0:
        if bridge.tunnels != 0 and tunneled == 0:
            clear_tunnel(packets, count)
        return run_all_normal(worker, x, packets, count, normal - 1)
    e.key_words = load_acquire(pipeline + PIPELINE_WORDS)
    words = e.key_words + KEY_WORDS_AT
    word_count = key_words_at(e.key_words).count
    e.serial = key_words_at(e.key_words).serial
    e.word_count = word_count
    for i in range(count):
        key = packet_at(load64(packets + i * 8)).key
        if tunneled == 0:
            fill(key + PARSED_SIZE, 0, KEY_SIZE - PARSED_SIZE)
        else:
            fill(key + PARSED_SIZE, 0, TUNNEL_AT - PARSED_SIZE)
            fill(key + TUNNEL_AT + TUNNEL_SIZE, 0, KEY_SIZE - TUNNEL_AT - TUNNEL_SIZE)
        if hides_ports(key, frags):
            hide_ports(key)
        value = hash_key(words, word_count, key)
        store64(x + EXEC_HASHES + i * 8, value)
        prefetch(tags_at(x, value))
    fresh = 0
    for i in range(count):
        value = load64(x + EXEC_HASHES + i * 8)
        place = find_tag(tags_at(x, value), tag_of(x, value))
        entry = 0
        if place != 0:
            entry = entry_of(x, place)
            prefetch(entry)
            prefetch(entry + LINE)
            prefetch(entry + CACHED_SHORT)
        else:
            fresh += 1
        store64(x + EXEC_ENTRIES + i * 8, entry)
    for i in range(count):
        entry = load64(x + EXEC_ENTRIES + i * 8)
        if entry != 0:
            step = load64(entry + CACHED_STEPS)
            prefetch(step_flow(step))
            for j in range(cached_at(entry).count):
                prefetch(e.counters + step_id(step_at(entry, j)) * COUNTER_BYTES)
    if fresh > 1:
        fetch_new(x, packets, count)
    for i in range(count):
        packet = load64(packets + i * 8)
        entry = load64(x + EXEC_ENTRIES + i * 8)
        key = packet_at(packet).key
        if entry != 0 and is_entry_of(x, entry, key) == 1:
            if hides_ports(key, frags):
                show_ports(packet)
            run_entry(worker, x, packet, entry)
        else:
            run_new(worker, x, packet, load64(x + EXEC_HASHES + i * 8))
    e.packets += count
    return run_normals(worker, x)

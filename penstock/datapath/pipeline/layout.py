"""The structs of the pipeline: the region that holds flow tables, and what workers read and count in it.

The region is a memfd mapped at REGION_BASE in control and engine alike, so addresses in it mean the same in both.
Who writes: the control process everything but the COUNTERs and TABLE_COUNTERs, each of which belongs to one worker,
the buckets of meters, which workers share under a lock, and what the engine says of its ports: ``PIPELINE.bridge``,
``local`` and the map that ``ports`` leads to.
Workers take no lock. What they follow is published by the store of one pointer or of ``PIPELINE.version``, and is freed
after every worker has begun a turn since (a quiet point).

A FLOW is visible to packets of versions ``added`` <= version < ``removed``. All changes of one flow-mod, or of one
bundle, get the same next version and are seen together when the version is published. FLOW.words, as many as its
SUBTABLE has, are the words of its match, masked.
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.layout import BURST, MAX_BRIDGES, MAX_WORKERS
from penstock.machine import offset, view
from penstock.packet.fields import KEY_SIZE, TUNNEL_OPTIONS

REGION_BASE = 0x28_0000_0000
REGION_BYTES = 24 << 30  # of address space; memory is taken as it is used
REGION_MAGIC = 0x50454E464C4F5753
FLOWS_MAX = 1 << 22
TABLES = 254  # 0 to 253
FOREVER = (1 << 63) - 1
WORDS_MAX = KEY_SIZE // 8  # words of a flow key
PORT_MAP = 0x10000  # OpenFlow ports below are looked up in a map
SIZE_CLASSES = 64
LINE = 64

REGION = np.dtype(
    [
        ("magic", "i8"),
        ("next", "i8"),  # free memory begins here
        ("end", "i8"),
        ("flows", "i8"),  # FLOWS_MAX addresses of FLOWs by id; 0: the id is free. What is not listed here is no flow.
        ("ids", "i8"),  # ids below were in use once
        ("free_id", "i8"),  # list of free ids, linked through ``flows`` (as -1 - next); -1: none
        ("flow_count", "i8"),
        ("counters", "i8"),  # MAX_WORKERS + 1 arrays of FLOWS_MAX COUNTERs
        ("used", "i8"),  # bytes in use
        ("counting", "i8"),  # workers that have ever counted here, at most
        ("serials", "i8"),  # of KEY_WORDS
        ("versions", "i8"),  # no pipeline that is no more had a later version: what flow caches hold of it stays old
        ("pipelines", "i8", MAX_BRIDGES),  # by the control's bridge slot; 0: free
        ("free", "i8", SIZE_CLASSES),  # lists of freed blocks by size class
    ],
    align=True,
)
REGION_FREE, REGION_PIPELINES = offset(REGION, "free"), offset(REGION, "pipelines")

COUNTER = np.dtype(
    [("packets", "i8"), ("bytes", "i8"), ("used", "i8"), ("pad", "i8")], align=True
)  # used: CLOCK_MONOTONIC, s
COUNTER_BYTES = COUNTER.itemsize
TABLE_COUNTER = np.dtype([("lookups", "i8"), ("matched", "i8")], align=True)
TABLE_COUNTER_BYTES = TABLE_COUNTER.itemsize

MISS_DROP, MISS_CONTROLLER, MISS_CONTINUE = range(3)
WORD = np.dtype([("offset", "i8"), ("mask", "i8")], align=True)
WORD_BYTES = WORD.itemsize

PIPELINE = np.dtype(
    [
        ("version", "i8"),
        ("normal", "i8"),  # id + 1 of the flow that has every packet forwarded by NORMAL, when that is all there is
        ("cacheable", "i8"),  # 0 when packets depend on more than the cache can hold
        ("words", "i8"),  # address of KEY_WORDS: what of a key the cache compares
        ("local", "i8"),  # engine's number of the port LOCAL; 0: there is none
        ("ports", "i8"),  # PORT_MAP engine port numbers, u2, by OpenFlow number; 0: no such port
        ("table_counters", "i8"),  # MAX_WORKERS + 1 times TABLES TABLE_COUNTERs
        ("frags", "i8"),  # handling of IP fragments: FRAG_
        ("miss_len", "i8"),  # bytes of a packet sent to controllers on a miss
        ("bridge", "i8"),  # engine's number of the bridge
        ("groups", "i8"),  # the first GROUP
        ("meters", "i8"),  # the first METER
        ("log", "i8"),  # address of CHANGE_LOG
        ("tlvs", "i8"),  # TLV_MAP; 0: no option of tunnels is bound
        ("pad", "i8", 2),
        ("name", "S64"),
        ("tables", "i8", TABLES + 1),  # addresses of TABLEs; 0: empty
    ],
    align=True,
)
PIPELINE_VERSION, PIPELINE_WORDS = offset(PIPELINE, "version"), offset(PIPELINE, "words")
PIPELINE_TABLES, PIPELINE_TLVS = offset(PIPELINE, "tables"), offset(PIPELINE, "tlvs")
# What options of tunnels are shown as fields: class and type as an option begins with them in memory, bytes of the
# value (4 or 8), and where in a key the field is. Replaced as a whole.
TLV = np.dtype([("kind", "i8"), ("octets", "i8"), ("offset", "i8"), ("number", "i8")], align=True)
TLV_BYTES = TLV.itemsize
TLV_MAP = np.dtype([("count", "i8"), ("tlvs", TLV, TUNNEL_OPTIONS)], align=True)
TLVS = offset(TLV_MAP, "tlvs")
# Replaced as a whole: by more words before the version that needs them is published, by fewer a quiet point after.
KEY_WORDS = np.dtype(
    [("count", "i8"), ("serial", "i8"), ("words", WORD, WORDS_MAX)], align=True
)  # serial: no two have the same
KEY_WORDS_AT = offset(KEY_WORDS, "words")

# What each version changed. Published with the version; see ``changes``.
LOG_VERSIONS, LOG_CHANGES, CHANGE_WORDS = 256, 256, 8
CHANGE = np.dtype(
    [
        ("table", "i8"),
        ("count", "i8"),  # words of the match; -1: it is not told
        ("words", [("offset", "i8"), ("mask", "i8"), ("value", "i8")], CHANGE_WORDS),
        ("pad", "i8", 6),
    ],
    align=True,
)
CHANGE_LOG = np.dtype(
    [
        ("next", "i8"),  # changes so far; each has its place by this number
        ("pad", "i8", 7),
        ("ends", "i8", LOG_VERSIONS),  # ``next`` as it was when a version was published
        ("changes", CHANGE, LOG_CHANGES),
    ],
    align=True,
)
CHANGE_BYTES, CHANGE_WORDS_AT = CHANGE.itemsize, offset(CHANGE, "words")
LOG_NEXT, LOG_ENDS, CHANGES_AT = (offset(CHANGE_LOG, name) for name in ("next", "ends", "changes"))

FRAG_NORMAL, FRAG_DROP, FRAG_REASM, FRAG_NX_MATCH = range(4)

TABLE = np.dtype(
    [("list", "i8"), ("miss", "i8"), ("conjunctions", "i8"), ("pad", "i8", 5)], align=True
)  # conjunctions: 1 when flows of it may be parts of conjunctive matches
TABLE_LIST = offset(TABLE, "list")
SUBTABLES_MAX = 1024
# Subtables in the order of their highest priority. Replaced as a whole.
SUBTABLE_LIST = np.dtype(
    [("count", "i8"), ("items", [("priority", "i8"), ("subtable", "i8")], SUBTABLES_MAX)], align=True
)
LIST_ITEMS, LIST_ITEM_BYTES = offset(SUBTABLE_LIST, "items"), 16

SUBTABLE = np.dtype(
    [
        ("buckets", "i8"),  # address of a BUCKETS header with its buckets behind it
        ("word_count", "i8"),
        ("count", "i8"),  # flows
        ("priority", "i8"),  # the highest of its flows, or more
        ("pad", "i8", 4),
        ("words", WORD, WORDS_MAX),
    ],
    align=True,
)
SUBTABLE_WORDS = offset(SUBTABLE, "words")
# A bucket is a cache line of 8 slots. A slot is the address of a FLOW, the first of its match, with 16 bits of the
# match's hash above; 0 is free. A flow whose bucket is full lies in the other half of the same 128 bytes.
BUCKETS = np.dtype([("mask", "i8"), ("spilled", "i8"), ("pad", "i8", 14)], align=True)
BUCKETS_HEADER = BUCKETS.itemsize
SLOTS, BUCKET_BYTES = 8, 64
ADDRESS_MASK = (1 << 48) - 1

FLOW = np.dtype(
    [
        ("next", "i8"),  # same match, same or lower priority
        ("added", "i8"),
        ("removed", "i8"),
        ("program", "i8"),  # address of a PROGRAM
        ("priority", "i4"),
        ("id", "i4"),  # of its counters and of its place in REGION.flows
        ("subtable", "i8"),
        ("hash", "i8"),
        ("cookie", "i8"),
        ("pipeline", "i8"),
        ("created", "i8"),  # CLOCK_MONOTONIC, nanoseconds
        ("modified", "i8"),
        ("idle", "u2"),  # seconds; 0: none
        ("hard", "u2"),
        ("flags", "u2"),
        ("importance", "u2"),
        ("table", "i4"),
        ("words", "i4"),
        ("kind", "i4"),  # PROGRAM_ and port of its program, for those that take no interpreter
        ("reset", "i4"),  # 1: listed anew with counters from zero
        ("port", "i8"),
    ],
    align=True,
)
FLOW_BYTES = FLOW.itemsize
FLOW_ADDED, FLOW_REMOVED, FLOW_TABLE = offset(FLOW, "added"), offset(FLOW, "removed"), offset(FLOW, "table")

# Operations follow, then ``source_bytes`` of the instructions as OpenFlow 1.3 writes them, from which they were made.
PROGRAM = np.dtype(
    [
        ("references", "i8"),  # flows that name it: the control's
        ("operations", "i8"),  # bytes of operations
        ("source_bytes", "i8"),
        ("kind", "i8"),  # PROGRAM_
        ("port", "i8"),  # of PROGRAM_OUTPUT: OpenFlow number
        ("rewrites", "i8"),  # 1: it may write to the key of packets that are looked up again
        ("pad", "i8", 2),
    ],
    align=True,
)
PROGRAM_OPERATIONS = PROGRAM.itemsize
PROGRAM_ANY, PROGRAM_DROP, PROGRAM_OUTPUT, PROGRAM_NORMAL, PROGRAM_CONJUNCTION = range(5)

# The flow cache of a worker: sets of 8 tags, a cache line each, and a CACHED for each tag. A tag is the key's hash in
# the upper half and what tells the pipeline in the lower; 0 is free.
CACHE_WORDS, CACHE_STEPS, CACHE_WAYS = 16, 8, 8
STEPS_IN_LINE = 4  # in the first line of a CACHED
SHORT_MAX = 6  # changes to a packet on a way that is kept in short
CACHED = np.dtype(
    [
        ("version", "i8"),
        ("pipeline", "i8"),
        ("count", "i8"),
        ("serial", "i8"),  # of the KEY_WORDS that ``words`` are of
        ("steps", "i8", STEPS_IN_LINE),
        ("words", "i8", CACHE_WORDS),
        ("more_steps", "i8", CACHE_STEPS - STEPS_IN_LINE),
        ("rewrites", "i8"),  # 1: a flow on the way writes to the key before another lookup
        ("pad1", "i8", 3),
        ("short_port", "i8"),  # the whole way in short, see ``shortcut``: OpenFlow port, plus 1; 0: there is none
        ("short_sets", "i8"),
        ("short", "i8", SHORT_MAX),  # addresses of SETs
    ],
    align=True,
)
CACHED_BYTES = CACHED.itemsize
CACHED_STEPS, CACHED_WORDS, CACHED_MORE = (offset(CACHED, name) for name in ("steps", "words", "more_steps"))
CACHED_SHORT, CACHED_SHORT_SETS = offset(CACHED, "short_port"), offset(CACHED, "short")
assert CACHED_BYTES == 320
assert CACHED_SHORT % LINE == 0

# A step is one lookup of a packet's way: the FLOW (in cache lines from REGION_BASE; 0: a miss) in bits 0..31, its id
# in bits 32..55, the table in bits 56..63.
STEP_ID, STEP_TABLE = 32, 56

GROUP_ALL, GROUP_SELECT, GROUP_INDIRECT, GROUP_FAST_FAILOVER = range(4)
GROUP = np.dtype(
    [
        ("buckets", "i8"),  # address of GROUP_BUCKETS
        ("id", "i8"),  # of its counters
        ("number", "i8"),
        ("created", "i8"),  # CLOCK_MONOTONIC, nanoseconds
        ("next", "i8"),  # in the list of its pipeline's
    ],
    align=True,
)
# What a group is; replaced as a whole. ``count`` BUCKETs follow, then the buckets as OpenFlow 1.3 writes them.
GROUP_BUCKETS = np.dtype([("count", "i8"), ("kind", "i8"), ("source_bytes", "i8"), ("pad", "i8", 5)], align=True)
BUCKET = np.dtype(
    [
        ("program", "i8"),
        ("weight", "i8"),
        ("watch_port", "i8"),  # OpenFlow number; 0xffffffff: none
        ("watch_group", "i8"),  # address of a GROUP; 0: none
        ("id", "i8"),  # of its counters
        ("number", "i8"),
    ],
    align=True,
)
BUCKETS_AT, BUCKET_ITEM = GROUP_BUCKETS.itemsize, BUCKET.itemsize

region_at = view(REGION)
counter_at = view(COUNTER)
table_counter_at = view(TABLE_COUNTER)
word_at = view(WORD)
pipeline_at = view(PIPELINE)
tlv_at = view(TLV)
tlv_map_at = view(TLV_MAP)
key_words_at = view(KEY_WORDS)
table_at = view(TABLE)
subtable_list_at = view(SUBTABLE_LIST)
subtable_at = view(SUBTABLE)
buckets_at = view(BUCKETS)
flow_at = view(FLOW)
program_at = view(PROGRAM)
cached_at = view(CACHED)
change_log_at = view(CHANGE_LOG)
group_at = view(GROUP)
group_buckets_at = view(GROUP_BUCKETS)
group_bucket_at = view(BUCKET)
WORKERS = MAX_WORKERS + 1  # a tracer counts apart

# A worker's own state while it runs a pipeline; see ``execute``.
SOFT_MAX, CLAUSES_MAX, ASKED_MAX, FETCHED_MAX = 64, 64, 4096, 4
FRAMES_MAX, SET_WORDS_MAX, TRAIL_MAX, STACK_MAX = 64, 256, 16, 64
FRAME = np.dtype(
    [
        ("pc", "i8"),  # address of the next operation
        ("kind", "i8"),  # FRAME_
        ("packet", "i8"),  # that is worked on again afterwards
        ("value", "i8"),
        ("flow", "i8"),  # that the program belongs to; 0: a miss, or the action set
    ],
    align=True,
)
FRAME_BYTES = FRAME.itemsize
EXEC = np.dtype(
    [
        ("tags", "i8"),
        ("cached", "i8"),
        ("set_mask", "i8"),  # number of sets less one
        ("index", "i8"),  # of its COUNTERs
        ("counters", "i8"),  # of this worker
        ("pipeline", "i8"),
        ("version", "i8"),
        ("number", "i8"),  # engine's number of the port that the packet came in by
        ("packet", "i8"),
        ("octets", "i8"),
        ("mode", "i8"),  # of lookups
        ("count", "i8"),  # steps recorded, or to be replayed
        ("position", "i8"),
        ("depth", "i8"),  # frames in use
        ("resubmits", "i8"),
        ("pending", "i8"),  # OpenFlow port that waits for the packet as it is; PORT_ANY: none
        ("form", "i8"),  # a copy of the packet as it is
        ("outputs", "i8"),
        ("set_count", "i8"),  # words of the action set's SETs
        ("isolated", "i8"),  # copies within copies that are worked on
        ("slots_used", "i8"),  # bit by place
        ("reason", "i8"),  # why it is dropped when nothing is sent
        ("stack_count", "i8"),
        ("normal_count", "i8"),
        ("packets", "i8"),
        ("misses", "i8"),
        ("single", "i8"),  # address of one packet
        ("queue", "i8"),
        ("zero", "i8"),  # an END to go on at
        ("start", "i8"),  # operations to begin with, of a packet-out; 0: table 0
        ("key", "i8"),  # KEY_SIZE bytes
        ("key_words", "i8"),
        ("serial", "i8"),  # of these
        ("word_count", "i8"),
        ("short_open", "i8"),  # the way can be told in short so far
        ("short_port", "i8"),
        ("short_sets", "i8"),
        ("short", "i8", SHORT_MAX),
        ("steps", "i8", TRAIL_MAX),
        ("slots", "i8", 16),  # the action set: addresses of operations by their place in its order
        ("sets", "i8", SET_WORDS_MAX),
        ("program", "i8", SET_WORDS_MAX + 64),  # of the action set, as it is run
        ("frames", FRAME, FRAMES_MAX),
        ("stack", "i8", 2 * STACK_MAX),
        ("normals", "i8", BURST),  # packets that wait for NORMAL
        ("admitted", "i8", BURST),  # packets that are let in, when not all are
        ("hashes", "i8", BURST),
        ("entries", "i8", BURST),  # addresses of CACHEDs
        ("fetched", "i8", BURST * FETCHED_MAX),  # hashes, then flows, of lookups whose memory is on its way
        ("soft", "i8", SOFT_MAX),  # flows that are parts of conjunctive matches
        ("clauses", "i8", 2 * CLAUSES_MAX),  # ids of conjunctive matches and the clauses that are met
        ("asked", "i8", ASKED_MAX),  # hash and second of what the control process was asked for
    ],
    align=True,
)
exec_at = view(EXEC)
frame_at = view(FRAME)
EXEC_ZERO, EXEC_SHORT, EXEC_ADMITTED = (offset(EXEC, name) for name in ("zero", "short", "admitted"))
EXEC_FETCHED, EXEC_SOFT, EXEC_CLAUSES, EXEC_ASKED = (
    offset(EXEC, name) for name in ("fetched", "soft", "clauses", "asked")
)
EXEC_STEPS, EXEC_SLOTS, EXEC_SETS, EXEC_PROGRAM, EXEC_FRAMES, EXEC_STACK, EXEC_NORMALS, EXEC_HASHES, EXEC_ENTRIES = (
    offset(EXEC, name)
    for name in ("steps", "slots", "sets", "program", "frames", "stack", "normals", "hashes", "entries")
)

"""What changed in the flow tables from one version to the next, so that the flow cache outlives changes.

A CACHED of an older version is brought up to date when no change since concerns its packets: none of a flow, in a table
that they went through, whose match they have. A pipeline's CHANGE_LOG is a ring that the control process writes before
it publishes a version; a change is overwritten while workers may read it, and so they look afterwards whether it was.
"""

from __future__ import annotations

from penstock.datapath.pipeline.layout import (
    CACHED_MORE,
    CACHED_STEPS,
    CHANGE_BYTES,
    CHANGE_WORDS,
    CHANGE_WORDS_AT,
    CHANGES_AT,
    FLOW_BYTES,
    LOG_CHANGES,
    LOG_ENDS,
    LOG_NEXT,
    LOG_VERSIONS,
    PIPELINE_TABLES,
    STEP_TABLE,
    STEPS_IN_LINE,
    SUBTABLE_WORDS,
    WORD_BYTES,
    cached_at,
    change_log_at,
    exec_at,
    flow_at,
    pipeline_at,
    table_at,
    word_at,
)
from penstock.machine import entry, inlined, kernel, load64, load_acquire, shr, store_release
from penstock.packet.fields import KEY_SIZE

ANY_PACKET = -1  # in place of a count of words: the change may concern every packet that was in the table
LAST_WORD = KEY_SIZE - 8
CHECKS_MAX = 32  # changes that are cheaper to look at than to search again


@inlined
def change_of(log, position):
    """The CHANGE at a position of the log."""
    return log + CHANGES_AT + (position & LOG_CHANGES - 1) * CHANGE_BYTES


@inlined
def end_of(log, version):
    """The cell that says how many changes there had been when a version was published."""
    return log + LOG_ENDS + (version & LOG_VERSIONS - 1) * 8


# By the control process


@kernel
def log_change(flow):
    """Tell of a flow that is added, or taken out, by the version that is published next."""
    f = flow_at(flow)
    log = pipeline_at(f.pipeline).log
    position = change_log_at(log).next
    # The position first, then the words, in this order: a reader that sees any of them sees that it is too late.
    store_release(log + LOG_NEXT, position + 1)
    change = change_of(log, position)
    table = load64(f.pipeline + PIPELINE_TABLES + f.table * 8)
    store_release(change, f.table)
    if f.words > CHANGE_WORDS or table_at(table).conjunctions != 0:
        return store_release(change + 8, ANY_PACKET)
    for i in range(f.words):
        w = word_at(f.subtable + SUBTABLE_WORDS + i * WORD_BYTES)
        at = change + CHANGE_WORDS_AT + i * 24
        store_release(at, w.offset)
        store_release(at + 8, w.mask)
        store_release(at + 16, load64(flow + FLOW_BYTES + i * 8))
    return store_release(change + 8, f.words)


@entry("int64(int64)")
def log_removal(flow):
    """``log_change`` for the control process."""
    return log_change(flow)


@entry("int64(int64)")
def publish(pipeline):
    """Have packets see the next version."""
    q = pipeline_at(pipeline)
    following = q.version + 1
    store_release(end_of(q.log, following), change_log_at(q.log).next)
    return store_release(pipeline, following)


@entry("int64(int64, int64)")
def begin_log(pipeline, version):
    """Begin the log anew at a version: nothing is told of what was before."""
    log = pipeline_at(pipeline).log
    store_release(log + LOG_NEXT, change_log_at(log).next + CHECKS_MAX + 1)
    store_release(end_of(log, version), change_log_at(log).next)
    return store_release(pipeline, version)


# By workers


@inlined
def has_match(change, key):
    """Whether packets with a key have the match of a change's flow."""
    count = load_acquire(change + 8)
    differs = 0
    for i in range(count):
        at = change + CHANGE_WORDS_AT + i * 24
        place, mask = load_acquire(at), load_acquire(at + 8)
        # What is read while it is overwritten must not lead anywhere.
        place = place if 0 <= place <= LAST_WORD else 0
        differs |= load64(key + place) & mask ^ load_acquire(at + 16)
    return int(count == ANY_PACKET or differs == 0)


@inlined
def step_table(entry, index):
    """The table of one of a CACHED's steps."""
    at = CACHED_STEPS + index * 8 if index < STEPS_IN_LINE else CACHED_MORE + (index - STEPS_IN_LINE) * 8
    return shr(load64(entry + at), STEP_TABLE)


@inlined
def concerns(entry, change, key):
    """Whether a change may lead the packets of a CACHED another way.

    In the first table they have the key that they came with; in later ones only when no flow wrote to it on the way.
    """
    c = cached_at(entry)
    table = load_acquire(change)
    found = 0
    for i in range(c.count):
        if step_table(entry, i) == table:
            found |= int(i > 0 and c.rewrites != 0) | has_match(change, key)
    return found


@kernel
def bring_up(x, entry, key):
    """Have a CACHED be of the present version if that goes without a search: 1, or 0 when it does not."""
    e = exec_at(x)
    c = cached_at(entry)
    log = pipeline_at(e.pipeline).log
    first = load_acquire(end_of(log, c.version))
    last = load_acquire(end_of(log, e.version))
    if e.version - c.version >= LOG_VERSIONS - 1 or last - first > CHECKS_MAX:
        return 0
    for position in range(first, last):
        if concerns(entry, change_of(log, position), key) == 1:
            return 0
    late = load_acquire(log + LOG_NEXT) - first > LOG_CHANGES
    if late or load_acquire(e.pipeline) - c.version >= LOG_VERSIONS - 1:
        return 0
    c.version = e.version
    return 1

"""What a generator does in its turn: take the frames that are due from the schedule, stamp them, hand them to the port.

The schedule is a cycle of ENTRYs, at least twice a burst long, so that no two frames of a burst share bytes. Only the
stamp and the checksum over it are written per frame. GENERATOR belongs to the thread that runs the loop.

Frames that the port refuses because its ring is full are always the last of a burst. Their sequence numbers are taken
back, so that the receiver finds no gap: they never left.
"""

from __future__ import annotations

from penstock.datapath.layout import BURST, PACKET_BYTES, packet_at, txq_at
from penstock.machine import (
    call3,
    cycles,
    entry,
    inlined,
    kernel,
    load64,
    offset,
    prefetch_write,
    shr,
    store16,
    store64,
    store_release,
)
from penstock.packet.checksum import fold
from penstock.traffic.layout import (
    ENTRY_BYTES,
    ENTRY_HEAD,
    ENTRY_OFFLOADS,
    FRACTION_BITS,
    GENERATOR,
    NEVER,
    PACKET_OFFLOADS,
    SIGNATURE,
    SIGNATURE_BITS,
    TIME_MASK,
    entry_at,
    flow_at,
    generator_at,
)

AHEAD = 6  # entries whose heads are fetched before they are needed
DONE = offset(GENERATOR, "done")


@inlined
def stamp(frame, now):
    """Write the stamp of an entry's next frame."""
    e = entry_at(frame)
    f = flow_at(e.flow)
    at = e.head + e.stamp_at
    first = SIGNATURE | f.sequence << SIGNATURE_BITS
    second = f.identity | now & TIME_MASK
    f.sequence += 1
    store64(at, first)
    store64(at + 8, second)
    if e.csum_at != 0:
        total = e.sum + (first & 0xFFFFFFFF) + shr(first, 32) + (second & 0xFFFFFFFF) + shr(second, 32)
        checksum = ~fold(total) & 0xFFFF
        if checksum == 0:
            checksum = 0xFFFF  # to UDP zero means that there is none; to TCP both are the same
        store16(e.head + e.csum_at, checksum)
    return 0


@inlined
def describe(frame, packet):
    """Describe an entry's frame to the port."""
    e = entry_at(frame)
    p = packet_at(packet)
    p.head = e.head
    p.head_len = e.head_len
    p.tail = e.tail
    p.tail_len = e.tail_len
    store64(packet + PACKET_OFFLOADS, load64(frame + ENTRY_OFFLOADS))
    return 0


@kernel
def take_back(generator, count):
    """Have the ``count`` entries before ``position`` give sequence numbers back; the position of the first."""
    g = generator_at(generator)
    position = g.position
    for _ in range(count):
        if position == 0:
            position = g.entry_count
        position -= 1
        flow = entry_at(g.entries + position * ENTRY_BYTES).flow
        if flow != 0:
            flow_at(flow).sequence -= 1
    return position


@kernel
def fill_burst(generator, horizon, now):
    """Prepare the frames that are due by ``horizon``, at most a burst: how many."""
    g = generator_at(generator)
    limit = BURST
    if g.remaining < limit:
        limit = g.remaining
    if horizon - g.due > g.patience:
        g.skipped += horizon - g.due - g.patience
        g.due = horizon - g.patience
    due = g.due
    position = g.position
    packet = g.packets
    count = 0
    while count < limit and due <= horizon:
        frame = g.entries + position * ENTRY_BYTES
        prefetch_write(load64(frame + AHEAD * ENTRY_BYTES + ENTRY_HEAD))
        e = entry_at(frame)
        due += g.interval + e.gap
        if e.flow != 0:
            stamp(frame, now)
        describe(frame, packet)
        packet += PACKET_BYTES
        count += 1
        position += 1
        if position == g.entry_count:
            position = 0
    g.position = position
    g.due = due
    return count


@entry("int64(int64)")
def generator_turn(generator):
    """Send what is due, at most a burst: how many frames the port was offered."""
    g = generator_at(generator)
    if g.done != 0:
        return 0
    now = cycles()
    if g.started == 0:
        g.started = now
    elapsed = now - g.started
    if g.remaining <= 0 or elapsed >= g.duration:
        g.ended = now
        g.wake = NEVER
        store_release(generator + DONE, 1)
        return 0
    count = fill_burst(generator, elapsed << FRACTION_BITS, now)
    if count == 0:
        g.wake = g.started + (g.due >> FRACTION_BITS)
        return 0
    before = load64(g.refusals)
    call3(txq_at(g.txq).tx, g.txq, g.burst, count)
    refused = load64(g.refusals) - before
    if refused > 0:
        g.refused += refused
        first = take_back(generator, refused)
        if g.insist != 0:
            g.position = first
            g.remaining += refused
    g.sent += count - refused
    g.remaining -= count
    return count - refused * g.insist

"""Giving buffers back to the guest, interrupting it and asking it for kicks when it wants or is to; the dirty log.

``put_used`` prepares one chain, ``put_chains`` a burst of them; ``show_used`` lets the guest see all that were
prepared, ``interrupt`` signals it if it asks for that. Every write to guest memory is noted in the log afterwards,
while there is one: a page noted before it is written could be copied in between. VIRTIO 1.2 sections 2.7.7 to 2.7.10,
2.8.10, 2.8.21.
"""

from __future__ import annotations

from penstock.datapath.afterwards import afterwards
from penstock.datapath.layout import rxq_at
from penstock.machine import (
    atomic_or8,
    cas,
    entry,
    fence,
    inlined,
    kernel,
    load64,
    load_acquire,
    load_acquire16,
    load_acquire32,
    pause,
    shr,
    store16,
    store32,
    store64,
    store_release,
    store_release16,
    store_release32,
    sys_write,
)
from penstock.ports.vhost_user.chains import is_available
from penstock.ports.vhost_user.layout import (
    CALL,
    CHAIN_BYTES,
    CHAINS,
    LOCK,
    LOG_PAGE_BITS,
    ONE,
    RUNNING,
    USED_PLACES,
    USED_WORDS,
    VHOST_LOG,
    chain_at,
    log_at,
    vring_at,
)
from penstock.ports.vhost_user.virtio import (
    AVAIL_ENTRY,
    AVAIL_NO_INTERRUPT,
    DESC_BYTES,
    DESC_WRITE,
    EVENT_DESC,
    EVENT_DISABLE,
    EVENT_ENABLE,
    EVENT_WRAP,
    PACKED_AVAIL,
    PACKED_USED,
    RING_ENTRIES,
    RING_INDEX,
    USED_ENTRY,
    USED_NO_NOTIFY,
)

WRAP_SHIFT = 15
NEVER = -1  # no last look
PROGRESS_KNOWN = 1 << 16


@kernel
def log_pages(log, guest, length):
    """Note the pages of a range of guest memory as written."""
    area = log_at(log)
    if length <= 0:
        return 0
    page = shr(guest, LOG_PAGE_BITS)
    last = shr(guest + length - 1, LOG_PAGE_BITS)
    while page <= last and page < area.pages:
        atomic_or8(area.bits + (page >> 3), 1 << (page & 7))
        page += 1
    return 0


@inlined
def log_write(ring, guest, length):
    """Note a write to guest memory, if writes are logged."""
    log = load_acquire(vring_at(ring).vhost + VHOST_LOG)
    if log != 0:
        log_pages(log, guest, length)
    return 0


@inlined
def put_used(ring, identity, places, length):
    """Prepare one chain to be seen as used, ``length`` bytes written to it."""
    r = vring_at(ring)
    position = r.last_used
    if r.packed == 0:
        place = RING_ENTRIES + (position & (r.size - 1)) * USED_ENTRY
        store64(r.device + place, identity | length << 32)
        r.last_used = (position + 1) & 0xFFFF
        log_write(ring, r.used_guest + place, USED_ENTRY)
        return 0
    flags = DESC_WRITE if length > 0 else 0
    if r.used_wrap != 0:
        flags |= PACKED_AVAIL | PACKED_USED
    word = length | identity << 32 | flags << 48
    store64(ring + USED_PLACES + r.prepared * 8, position)
    store64(ring + USED_WORDS + r.prepared * 8, word)
    r.prepared += 1
    position += places
    if position >= r.size:
        position -= r.size
        r.used_wrap ^= 1
    r.last_used = position
    return 0


@inlined
def put_chains(ring, count, write):
    """Prepare the first ``count`` CHAINs to be seen as used, with what was written to them if ``write`` is not 0."""
    r = vring_at(ring)
    if r.packed != 0:
        for i in range(count):
            c = chain_at(ring + CHAINS + i * CHAIN_BYTES)
            put_used(ring, c.id, c.count, c.written if write != 0 else 0)
        return 0
    mask = r.size - 1
    position = r.last_used
    entries = r.device + RING_ENTRIES
    for i in range(count):
        c = chain_at(ring + CHAINS + i * CHAIN_BYTES)
        store64(entries + ((position + i) & mask) * USED_ENTRY, c.id | (c.written if write != 0 else 0) << 32)
    r.last_used = (position + count) & 0xFFFF
    if load_acquire(r.vhost + VHOST_LOG) != 0:
        for i in range(count):
            log_write(ring, r.used_guest + RING_ENTRIES + ((position + i) & mask) * USED_ENTRY, USED_ENTRY)
    return 0


@kernel
def write_used(ring):
    """Write the prepared descriptors to a packed ring, the first, which the guest waits for, last."""
    r = vring_at(ring)
    index = r.prepared
    while index > 0:
        index -= 1
        place = load64(ring + USED_PLACES + index * 8) * DESC_BYTES
        store_release(r.descriptors + place + 8, load64(ring + USED_WORDS + index * 8))
        log_write(ring, r.used_guest + place, DESC_BYTES)
    r.prepared = 0
    return 0


@inlined
def show_used(ring):
    """Let the guest see what was prepared."""
    r = vring_at(ring)
    if r.packed == 0:
        store_release16(r.device + RING_INDEX, r.last_used)
        log_write(ring, r.used_guest + RING_INDEX, 2)
    else:
        write_used(ring)
    if r.progress != 0:
        store_release(r.progress, r.last_used | r.used_wrap << WRAP_SHIFT | PROGRESS_KNOWN)
    return 0


@kernel
def vring_lock(ring):
    """Take the lock of a ring."""
    while cas(ring + LOCK, 0, 1) == 0:
        pause()
    return 0


@inlined
def passed(event, new, old):
    """Whether an index that went from ``old`` to ``new`` passed ``event`` (2.7.10.1), all of 16 bits."""
    return int((new - event - 1) & 0xFFFF < (new - old) & 0xFFFF)


@inlined
def event_place(ring):
    """Where the guest says when it wants to be interrupted."""
    r = vring_at(ring)
    if r.packed == 0 and r.event_index != 0:
        return r.driver + RING_ENTRIES + r.size * AVAIL_ENTRY
    return r.driver


@kernel
def wants_interrupt(ring):
    """Whether the guest asked to be interrupted for what it can see now as used. After a full fence."""
    r = vring_at(ring)
    old = r.signalled
    new = r.last_used
    r.signalled = new
    if r.packed == 0:
        event = load_acquire16(event_place(ring))
        if r.event_index == 0:
            return int(event & AVAIL_NO_INTERRUPT == 0)
        return int(old == NEVER or passed(event, new, old) != 0)
    word = load_acquire32(event_place(ring))
    flags = shr(word, 16) & 3
    if flags != EVENT_DESC or old == NEVER:
        return int(flags != EVENT_DISABLE)
    event = word & (EVENT_WRAP - 1)
    if new <= old:
        old -= r.size
    if (word >> WRAP_SHIFT) & 1 != r.used_wrap:
        event -= r.size
    return passed(event, new, old)


@entry("int64(int64)")
def vring_signal(ring):
    """Interrupt the guest if it asked for that. After a full fence: either we see that, or it sees what is used."""
    r = vring_at(ring)
    vring_lock(ring)
    r.deferred = 0
    call = load_acquire(ring + CALL)
    if wants_interrupt(ring) != 0 and call >= 0:
        r.calls += 1
        sys_write(call, ring + ONE, 8)
    return store_release(ring + LOCK, 0)


@inlined
def interrupt(ring, after):
    """Have the guest interrupted, if it asked for that, at the end of the turn; to follow ``show_used``."""
    r = vring_at(ring)
    if r.deferred == 0:
        r.deferred = 1
        afterwards(after, r.signal, ring, event_place(ring))
    return 0


@entry("int64(int64)")
def vring_begin(ring):
    """Prepare a ring for service: no kicks, and an interrupt in case one was lost with an earlier back end."""
    r = vring_at(ring)
    stop_kicks(ring)
    if r.call >= 0:
        sys_write(r.call, ring + ONE, 8)
    return 0


@kernel
def stop_kicks(ring):
    """Ask the guest for no more kicks. With the event index of a split ring there is nothing to say."""
    r = vring_at(ring)
    r.armed = 0
    if r.packed != 0:
        store_release32(r.device, EVENT_DISABLE << 16)
        log_write(ring, r.device_guest, 4)
    else:
        store16(r.device, USED_NO_NOTIFY)
        log_write(ring, r.device_guest, 2)
    return 0


@kernel
def something_waits(ring):
    """Whether the guest has made a buffer available."""
    r = vring_at(ring)
    if r.packed != 0:
        return is_available(shr(load_acquire(r.descriptors + r.last_avail * DESC_BYTES + 8), 48), r.avail_wrap)
    return int(load_acquire16(r.driver + RING_INDEX) != r.last_avail)


@entry("int64(int64)")
def vhost_arm(rxq):
    """Ask the guest for a kick: 1 when that must not be waited for, because frames are there or none will come."""
    ring = rxq_at(rxq).ctx
    r = vring_at(ring)
    if load_acquire(ring + RUNNING) == 0:
        return 0
    if r.polled != 0:
        return 1
    if r.packed != 0:
        if r.event_index != 0:
            store32(r.device, r.last_avail | r.avail_wrap << WRAP_SHIFT | EVENT_DESC << 16)
        else:
            store32(r.device, EVENT_ENABLE << 16)
        log_write(ring, r.device_guest, 4)
    else:
        store16(r.device, 0)
        log_write(ring, r.device_guest, 2)
        if r.event_index != 0:
            place = RING_ENTRIES + r.size * USED_ENTRY
            store16(r.device + place, r.last_avail)
            log_write(ring, r.device_guest + place, 2)
    r.armed = 1
    fence()
    if something_waits(ring) != 0:
        stop_kicks(ring)
        return 1
    return 0

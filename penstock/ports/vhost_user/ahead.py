"""Fetching what the next burst of a ring will touch while this one is worked on.

A guest's core wrote the index, the ring's entries, the descriptors and the buffers, and each names the next: without
this a burst begins with four transfers from that core one after the other. Addresses are used unchecked, for a prefetch
has no effect but on caches; everything is read again and checked when its turn comes.
"""

from __future__ import annotations

from penstock.datapath.layout import BURST
from penstock.machine import inlined, kernel, load16, load64, prefetch, prefetch_write, shr
from penstock.ports.vhost_user.chains import LINE, fetch_frame, is_available
from penstock.ports.vhost_user.layout import vring_at
from penstock.ports.vhost_user.virtio import AVAIL_ENTRY, DESC_BYTES, RING_ENTRIES, RING_INDEX, USED_ENTRY

DESCS_IN_LINE = LINE // DESC_BYTES


@inlined
def waiting_ahead(ring, skip):
    """How many chains were seen to be available behind the next ``skip`` of a split ring: a burst at the most."""
    r = vring_at(ring)
    left = ((r.seen - r.last_avail) & 0xFFFF) - skip
    return left if left < BURST else BURST


@kernel
def fetch_descriptors(ring, skip):
    """Fetch the descriptors of the burst behind the next ``skip`` chains."""
    r = vring_at(ring)
    if r.packed != 0:
        for step in range(skip, skip + BURST, DESCS_IN_LINE):
            position = r.last_avail + step
            if position >= r.size:
                position -= r.size
            prefetch_write(r.descriptors + position * DESC_BYTES)  # it is written as used, too
        return 0
    entries = r.driver + RING_ENTRIES
    mask = r.size - 1
    waiting = waiting_ahead(ring, skip)
    if waiting < BURST:
        prefetch(r.driver + RING_INDEX)
    for i in range(waiting):
        head = load16(entries + ((r.last_avail + skip + i) & mask) * AVAIL_ENTRY)
        prefetch(r.descriptors + head * DESC_BYTES)
    return 0


@inlined
def fetch_used(ring, count):
    """Fetch the places of the next ``count`` used buffers of a split ring, to be written."""
    r = vring_at(ring)
    if r.packed == 0:
        place = r.device + RING_ENTRIES + (r.last_used & (r.size - 1)) * USED_ENTRY
        for line in range((count + 7) >> 3):
            prefetch_write(place + line * LINE)
    return 0


@kernel
def fetch_buffers(ring, write):
    """Fetch the beginnings of the next burst's buffers, whose descriptors ``fetch_descriptors`` has fetched."""
    r = vring_at(ring)
    if r.packed != 0:
        position = r.last_avail
        wrap = r.avail_wrap
        for _ in range(BURST):
            descriptor = r.descriptors + position * DESC_BYTES
            if is_available(shr(load64(descriptor + 8), 48), wrap) == 0:
                break
            fetch_frame(load64(descriptor) + r.offset, r.header, write)
            position += 1
            if position == r.size:
                position = 0
                wrap ^= 1
        return 0
    entries = r.driver + RING_ENTRIES
    mask = r.size - 1
    for i in range(waiting_ahead(ring, 0)):
        head = load16(entries + ((r.last_avail + i) & mask) * AVAIL_ENTRY)
        fetch_frame(load64(r.descriptors + (head & mask) * DESC_BYTES) + r.offset, r.header, write)
    return 0

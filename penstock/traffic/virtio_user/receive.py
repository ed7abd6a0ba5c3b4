"""Used buffers of a receive queue to packets, the same for split and packed rings.

The ring's own kernels append what the device has used to the queue ``ids`` (id | length << 32); ``describe`` makes
packets of it, in place. A frame over several buffers (MRG_RXBUF) becomes a head of HEADER_MAX bytes and FRAGs. Runs on
the thread that receives.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop
from penstock.datapath.drops import BAD_OFFLOAD
from penstock.datapath.layout import FRAG_BYTES, FRAGS_MAX, HEADER_MAX, HEADROOM, PACKET_BYTES, packet_at, rxq_at
from penstock.machine import copy, inlined, kernel, load32, load64, prefetch, shr, store32, store64
from penstock.ports.vhost_user.virtio import NET_HEADER_MRG
from penstock.ports.vnet_kernels import REJECTED, vnet_to_packet
from penstock.traffic.virtio_user.layout import (
    BAD_COUNT,
    BAD_ID,
    BAD_LENGTH,
    LINK_BYTES,
    LINK_SINGLE,
    MERGEABLE,
    TAKEN_HEADER,
    virtqueue_at,
)

BUFFERS_MAX = FRAGS_MAX  # of one frame
AHEAD = 4
WORD32 = 0xFFFFFFFF


@inlined
def take_buffer(vq, number, length):
    """Note a buffer that the device returned: 1, or 0 when it cannot be."""
    v = virtqueue_at(vq)
    if number >= v.size or load64(v.links + number * LINK_BYTES) == 0:
        v.error = BAD_ID
        return 0
    if length > v.header + v.room:
        v.error = BAD_LENGTH
        return 0
    store64(v.links + number * LINK_BYTES, 0)
    store64(v.ids + (v.taken & v.ids_mask) * 8, number | length << 32)
    v.taken += 1
    return 1


@inlined
def give_back(vq, number):
    """Note that the device has the buffer again."""
    return store64(virtqueue_at(vq).links + number * LINK_BYTES, LINK_SINGLE)


@kernel
def add_frags(vq, packet, first, count):
    """Describe the rest of a frame that lies in ``count`` buffers from ``first`` on, whose head is set."""
    v = virtqueue_at(vq)
    p = packet_at(packet)
    p.tail = 0
    p.frags = v.frags + v.frag_count * FRAG_BYTES
    frag = p.frags
    total = 0
    if p.head_len > HEADER_MAX:
        total = p.head_len - HEADER_MAX
        store64(frag, p.head + HEADER_MAX)
        store64(frag + 8, total)
        frag += FRAG_BYTES
        p.head_len = HEADER_MAX
    for i in range(first + 1, first + count):
        entry = load64(v.ids + (i & v.ids_mask) * 8)
        length = shr(entry, 32)
        address = v.slots + (entry & WORD32) * v.stride + v.lead - v.header
        if p.head_len < HEADER_MAX:
            part = HEADER_MAX - p.head_len
            if part > length:
                part = length
            copy(p.head + p.head_len, address, part)
            p.head_len += part
            address += part
            length -= part
        if length > 0:
            store64(frag, address)
            store64(frag + 8, length)
            total += length
            frag += FRAG_BYTES
    p.tail_len = total
    p.frag_count = (frag - p.frags) // FRAG_BYTES
    if p.frag_count == 0:
        p.frags = 0
    v.frag_count += p.frag_count
    return 0


@kernel
def describe(rxq, packets, limit):
    """Make up to ``limit`` packets of the buffers taken: how many."""
    q = rxq_at(rxq)
    vq = q.ctx
    v = virtqueue_at(vq)
    if v.described == v.released:
        v.frag_count = 0
    done = 0
    header_bytes = v.header
    merge = v.flags & MERGEABLE
    position = v.described
    taken = v.taken
    while done < limit and position < taken:
        entry = load64(v.ids + (position & v.ids_mask) * 8)
        ahead = load64(v.ids + (position + AHEAD & v.ids_mask) * 8)
        prefetch(v.slots + (ahead & WORD32) * v.stride + HEADROOM)
        prefetch(v.slots + (ahead & WORD32) * v.stride + HEADROOM - NET_HEADER_MRG)
        frame = v.slots + (entry & WORD32) * v.stride + v.lead
        length = shr(entry, 32) - header_bytes
        if length < 0:
            v.error = BAD_LENGTH
            break
        header = frame - header_bytes
        first_word = load64(header)
        last_word = load32(header + 8)
        count = 1
        if merge:
            count = shr(last_word, 16)
            if count == 0 or count > BUFFERS_MAX:
                v.error = BAD_COUNT
                break
            if position + count > taken:
                break  # the device has not returned all of them yet
        packet = packets + done * PACKET_BYTES
        p = packet_at(packet)
        p.head = frame
        p.head_len = length
        p.tail = 0
        p.tail_len = 0
        p.headroom = HEADROOM
        p.frags = 0
        p.frag_count = 0
        if count > 1:
            add_frags(vq, packet, position, count)
        position += count
        if first_word == 0:
            p.csum_start = 0
            p.csum_offset = 0
            p.gso_size = 0
            p.gso_type = 0
            p.flags = 0
        else:
            store64(vq + TAKEN_HEADER, first_word)
            store32(vq + TAKEN_HEADER + 8, last_word)
            if vnet_to_packet(vq + TAKEN_HEADER, packet) == REJECTED:
                count_drop(q.counters, BAD_OFFLOAD, 1)
                continue
        done += 1
    v.described = position
    return done


@inlined
def in_order_length(vq, number, length):
    """The length of the next buffer under IN_ORDER, where one used entry may return all buffers up to ``number``.

    ``number`` and ``length`` are read from the ring only when ``batch`` is 0. Buffers before the last of a batch are
    full. The buffer is always ``oldest``.
    """
    v = virtqueue_at(vq)
    if v.batch == 0:
        ahead = number - v.oldest
        if ahead < 0:
            ahead += v.size
        v.batch = ahead + 1
        v.batch_length = length
    v.batch -= 1
    return v.batch_length if v.batch == 0 else v.header + v.room

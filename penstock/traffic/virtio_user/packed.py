"""The driver of packed virtqueues (virtio 1.2, 2.8): the same as for split ones, on one ring that both sides write.

A burst's first descriptor is published last, so that the device sees all of the burst or nothing. The second word of a
descriptor (length u32, id u16, flags u16) is read and written at once.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import TX_REJECTED, TX_RING_FULL
from penstock.datapath.layout import PACKET_BYTES, packet_at, rxq_at, txq_at
from penstock.machine import (
    entry,
    fence,
    inlined,
    kernel,
    load16,
    load64,
    load_acquire,
    load_acquire32,
    shr,
    store16,
    store32,
    store64,
    store_release,
    sys_read,
    sys_write,
)
from penstock.ports.vhost_user.virtio import (
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    EVENT_DESC,
    EVENT_DISABLE,
    EVENT_ENABLE,
    EVENT_FLAGS,
    EVENT_WRAP,
    PACKED_AVAIL,
    PACKED_USED,
)
from penstock.traffic.virtio_user.layout import (
    BAD_ID,
    EPROTO,
    EVENT_INDEX,
    EXTRA_BUFFERS,
    IN_ORDER,
    LINK_BYTES,
    LINK_SINGLE,
    ONE,
    PIECE_BYTES,
    SLEEPS,
    virtqueue_at,
)
from penstock.traffic.virtio_user.receive import describe, give_back, in_order_length, take_buffer
from penstock.traffic.virtio_user.send import (
    fetch_slot,
    give_id,
    give_ids,
    lay_out,
    take_ids,
    write_frame,
    write_header,
    write_table,
)

WORD16, WORD32 = 0xFFFF, 0xFFFFFFFF
BOTH = PACKED_AVAIL | PACKED_USED


@inlined
def packed_put(vq, address, word, flags):
    """Write the next descriptor; the first since the last ``packed_publish`` is held back."""
    v = virtqueue_at(vq)
    place = v.ring + v.next_avail * DESC_BYTES
    word |= (flags | (PACKED_AVAIL if v.avail_wrap == 1 else PACKED_USED)) << 48
    store64(place, address)
    if v.added == 0:
        v.held_place = place + 8
        v.held_word = word
    else:
        store64(place + 8, word)
    v.added += 1
    v.next_avail += 1
    if v.next_avail == v.size:
        v.next_avail = 0
        v.avail_wrap ^= 1
    return 0


@kernel
def packed_publish(vq):
    """Make the descriptors put since the last time available, and tell the device if it wants to know."""
    v = virtqueue_at(vq)
    added = v.added
    if added == 0:
        return 0
    v.added = 0
    store_release(v.held_place, v.held_word)
    fence()
    event = load_acquire32(v.device)
    flags = shr(event, 8 * EVENT_FLAGS)
    if flags == EVENT_DISABLE:
        return 0
    if flags == EVENT_DESC:
        offset = event & (EVENT_WRAP - 1)
        if shr(event, 15) & 1 != v.avail_wrap:
            offset -= v.size
        if (v.next_avail - offset - 1) & WORD16 >= added:
            return 0
    v.kicks += 1
    return sys_write(v.kick, vq + ONE, 8)


@inlined
def packed_used(vq):
    """The second word of the next descriptor if the device has used it, else -1 (which has an id no ring has)."""
    v = virtqueue_at(vq)
    word = load_acquire(v.ring + v.next_used * DESC_BYTES + 8)
    if shr(word, 48) & BOTH != (BOTH if v.used_wrap == 1 else 0):
        return -1
    return word


@inlined
def packed_advance(vq, descriptors):
    """Step over used descriptors."""
    v = virtqueue_at(vq)
    v.next_used += descriptors
    if v.next_used >= v.size:
        v.next_used -= v.size
        v.used_wrap ^= 1
    return 0


@kernel
def packed_free(vq, number):
    """Take back the ids of a buffer that was sent: how many, or 0 when the device does not have it."""
    v = virtqueue_at(vq)
    link = load64(v.links + number * LINK_BYTES)
    if link & WORD16 == 0:
        v.error = BAD_ID
        return 0
    packed_advance(vq, give_ids(vq, number))
    return link & WORD16


@kernel
def packed_reclaim(vq):
    """Take back the ids of the buffers that the device has sent."""
    v = virtqueue_at(vq)
    while v.error == 0:
        word = packed_used(vq)
        if word == -1:
            break
        number = shr(word, 32) & WORD16
        if number >= v.size:
            v.error = BAD_ID
            break
        if v.flags & IN_ORDER:
            # It stands for all buffers up to its own.
            while v.error == 0:
                current = v.oldest
                v.oldest += packed_free(vq, current)
                if v.oldest >= v.size:
                    v.oldest -= v.size
                if current == number:
                    break
        elif load64(v.links + number * LINK_BYTES) == LINK_SINGLE:
            store64(v.links + number * LINK_BYTES, 0)
            give_id(vq, number)
            packed_advance(vq, 1)
        else:
            packed_free(vq, number)
    return 0


@kernel
def packed_chain(vq, packet):
    """Write the descriptors of a frame longer than a slot: 0; minus the ids it needs when they lack."""
    v = virtqueue_at(vq)
    needed = lay_out(vq, packet)
    if needed <= 0:
        return needed
    count = v.piece_count
    if v.in_table:
        table = write_table(vq, 0)
        first = take_ids(vq, needed, 1)
        return packed_put(vq, table + v.delta, count * DESC_BYTES | first << 32, DESC_INDIRECT)
    first = take_ids(vq, needed, count)
    for i in range(count):
        piece = v.pieces + i * PIECE_BYTES
        flags = DESC_NEXT if i + 1 < count else 0
        packed_put(vq, load64(piece), load64(piece + 8) | first << 32, flags)
    return 0


@entry("int64(int64, int64, int64)")
def packed_tx(txq, packets, count):
    """Send a burst: how many frames found room. From the first on that finds none, the rest is dropped."""
    q = txq_at(txq)
    vq = q.ctx
    v = virtqueue_at(vq)
    if v.free_count < count:
        packed_reclaim(vq)
    single = v.single
    octets = 0
    lost = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        fetch_slot(vq)
        p = packet_at(packet)
        length = p.head_len + p.tail_len
        if length <= single and p.tail_len < v.in_place and p.frags == 0 and v.free_count > 0:
            number = load16(v.ids + (v.free_head & v.ids_mask) * 2)
            v.free_head += 1
            v.free_count -= 1
            frame = v.slots + number * v.stride + v.lead
            header = frame - v.header
            write_header(packet, header)
            write_frame(packet, frame)
            store64(v.links + number * LINK_BYTES, LINK_SINGLE)
            packed_put(vq, header + v.delta, v.header + length | number << 32, 0)
        else:
            needed = -packed_chain(vq, packet)
            if needed > v.size:
                count_drop(q.counters, TX_REJECTED, 1)
                lost += 1
                continue
            if needed > 0:
                packed_reclaim(vq)
                if needed > v.free_count:
                    count_drop(q.counters, TX_RING_FULL, count - i)
                    lost += count - i
                    break
                packed_chain(vq, packet)
        octets += length
    if lost < count:
        packed_publish(vq)
        count_tx(q.counters, count - lost, octets)
    return count - lost


@kernel
def packed_take(vq, most):
    """Take up to ``most`` used buffers: how many."""
    v = virtqueue_at(vq)
    taken = 0
    while taken < most:
        word = 0
        if v.batch == 0:
            word = packed_used(vq)
            if word == -1:
                break
        number = shr(word, 32) & WORD16
        length = word & WORD32
        if v.flags & IN_ORDER:
            if number >= v.size:
                v.error = BAD_ID
                return 0
            length = in_order_length(vq, number, length)
            number = v.oldest
            v.oldest += 1
            if v.oldest == v.size:
                v.oldest = 0
        if take_buffer(vq, number, length) == 0:
            return 0
        packed_advance(vq, 1)
        taken += 1
    return taken


@kernel
def packed_arm(vq):
    """Ask for an interrupt at the next used buffer: 1, then look again; 0 when that was asked for already."""
    v = virtqueue_at(vq)
    place = v.next_used | v.used_wrap << 15
    if v.event == place:
        return 0
    v.event = place
    if v.flags & EVENT_INDEX:
        store32(v.driver, place | EVENT_DESC << 16)
    else:
        store16(v.driver + EVENT_FLAGS, EVENT_ENABLE)
    fence()
    return 1


@entry("int64(int64, int64, int64)")
def packed_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames, in place. A queue that sleeps asks for an interrupt when it has given all."""
    q = rxq_at(rxq)
    vq = q.ctx
    v = virtqueue_at(vq)
    sleeps = v.flags & SLEEPS
    if sleeps and packed_used(vq) == -1 and sys_read(v.call, q.scratch, 8) == 8:
        v.wakes += 1
    done = 0
    while v.error == 0:
        if packed_take(vq, limit + EXTRA_BUFFERS - (v.taken - v.described)) > 0 and sleeps:
            if v.flags & EVENT_INDEX == 0:
                v.event = -1
                store16(v.driver + EVENT_FLAGS, EVENT_DISABLE)
        if v.error != 0:
            break
        done += describe(rxq, packets + done * PACKET_BYTES, limit - done)
        if done == limit or sleeps == 0 or packed_arm(vq) == 0:
            break
    if v.error != 0:
        q.error = EPROTO
    return done


@entry("int64(int64)")
def packed_release(rxq):
    """Make the buffers of the packets received available again."""
    vq = rxq_at(rxq).ctx
    v = virtqueue_at(vq)
    length = v.header + v.room
    for i in range(v.released, v.described):
        number = load64(v.ids + (i & v.ids_mask) * 8) & WORD32
        give_back(vq, number)
        buffer = v.slots + number * v.stride + v.lead - v.header
        packed_put(vq, buffer + v.delta, length | number << 32, DESC_WRITE)
    v.released = v.described
    return packed_publish(vq)


@entry("int64(int64)")
def packed_pending(rxq):
    """Whether frames wait."""
    vq = rxq_at(rxq).ctx
    v = virtqueue_at(vq)
    return 1 if v.taken != v.described or packed_used(vq) != -1 else 0

"""The driver of split virtqueues (virtio 1.2, 2.7): frames to available descriptors, used ones to frames.

Indexes of both rings are read and written once per burst. The device is kicked only when it asks for it, by its flags
or its event index; a full fence lies between publishing buffers and reading that, and between asking for an interrupt
and the last look for used buffers. A queue that does not sleep asks for no interrupts at all.
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
    load_acquire16,
    shr,
    store16,
    store64,
    store_release16,
    sys_read,
    sys_write,
)
from penstock.ports.vhost_user.virtio import (
    AVAIL_ENTRY,
    AVAIL_NO_INTERRUPT,
    DESC_BYTES,
    DESC_INDIRECT,
    DESC_NEXT,
    RING_ENTRIES,
    RING_FLAGS,
    RING_INDEX,
    USED_ENTRY,
    USED_NO_NOTIFY,
)
from penstock.traffic.virtio_user.layout import (
    BAD_ID,
    BAD_INDEX,
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
    update16,
    update64,
    write_frame,
    write_header,
    write_table,
)

WORD16, WORD32 = 0xFFFF, 0xFFFFFFFF
EVENT_LAG = 0x4000  # how far used_event may fall behind before it must be moved, not to be met after a wrap


@kernel
def split_kick(vq, old):
    """Tell the device of the buffers published since index ``old``, if it wants to know."""
    v = virtqueue_at(vq)
    fence()
    if v.flags & EVENT_INDEX:
        event = load_acquire16(v.device + RING_ENTRIES + v.size * USED_ENTRY)
        if (v.next_avail - event - 1) & WORD16 >= (v.next_avail - old) & WORD16:
            return 0
    elif load_acquire16(v.device + RING_FLAGS) & USED_NO_NOTIFY:
        return 0
    v.kicks += 1
    return sys_write(v.kick, vq + ONE, 8)


@inlined
def split_waiting(vq):
    """How many used entries are not read yet; more than there are buffers is a fault, and none."""
    v = virtqueue_at(vq)
    waiting = (load_acquire16(v.device + RING_INDEX) - v.next_used) & WORD16
    if waiting > v.size:
        v.error = BAD_INDEX
        return 0
    return waiting


@inlined
def split_quiet(vq):
    """Keep used_event behind, so that the device finds no reason to interrupt."""
    v = virtqueue_at(vq)
    if v.flags & EVENT_INDEX and (v.next_used - v.event) & WORD16 > EVENT_LAG:
        v.event = (v.next_used - 1) & WORD16
        store16(v.driver + RING_ENTRIES + v.size * AVAIL_ENTRY, v.event)
    return 0


@kernel
def split_reclaim(vq):
    """Take back the ids of the buffers that the device has sent."""
    v = virtqueue_at(vq)
    if v.error != 0:
        return 0
    waiting = split_waiting(vq)
    mask = v.size - 1
    for i in range(waiting):
        if v.flags & IN_ORDER:
            # One entry may stand for several buffers, and the index tells how many: no entry needs to be read.
            number = v.oldest
            link = load64(v.links + number * LINK_BYTES)
            v.oldest = number + (link & WORD16) & mask
        else:
            number = load64(v.device + RING_ENTRIES + (v.next_used + i & mask) * USED_ENTRY) & WORD32
            if number > mask:
                v.error = BAD_ID
                break
            link = load64(v.links + number * LINK_BYTES)
        if link == LINK_SINGLE:
            store64(v.links + number * LINK_BYTES, 0)
            give_id(vq, number)
        elif link & WORD16 == 0:
            v.error = BAD_ID
            break
        else:
            give_ids(vq, number)
    v.next_used = (v.next_used + waiting) & WORD16
    return split_quiet(vq)


@kernel
def split_chain(vq, packet):
    """Write the descriptors of a frame longer than a slot: its first id; minus the ids it needs when they lack."""
    v = virtqueue_at(vq)
    needed = lay_out(vq, packet)
    if needed <= 0:
        return needed - 1
    count = v.piece_count
    if v.in_table:
        table = write_table(vq, 1)
        first = take_ids(vq, needed, 1)
        store64(v.ring + first * DESC_BYTES, table + v.delta)
        store64(v.ring + first * DESC_BYTES + 8, count * DESC_BYTES | DESC_INDIRECT << 32)
        return first
    at = v.free_head
    for i in range(count):
        number = load16(v.ids + (at + i & v.ids_mask) * 2)
        piece = v.pieces + i * PIECE_BYTES
        word = load64(piece + 8)
        if i + 1 < count:
            word |= DESC_NEXT << 32 | load16(v.ids + (at + i + 1 & v.ids_mask) * 2) << 48
        store64(v.ring + number * DESC_BYTES, load64(piece))
        store64(v.ring + number * DESC_BYTES + 8, word)
    return take_ids(vq, needed, count)


@entry("int64(int64, int64, int64)")
def split_tx(txq, packets, count):
    """Send a burst: how many frames found room. From the first on that finds none, the rest is dropped."""
    q = txq_at(txq)
    vq = q.ctx
    v = virtqueue_at(vq)
    if v.free_count < count:
        split_reclaim(vq)
    old = v.next_avail
    mask = v.size - 1
    avail = v.driver + RING_ENTRIES
    single = v.single
    position = old
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
            update64(v.ring + number * DESC_BYTES, header + v.delta)
            update64(v.ring + number * DESC_BYTES + 8, v.header + length)
            store64(v.links + number * LINK_BYTES, LINK_SINGLE)
        else:
            number = split_chain(vq, packet)
            if number < 0:
                needed = -number - 1
                if needed > v.size:
                    count_drop(q.counters, TX_REJECTED, 1)
                    lost += 1
                    continue
                split_reclaim(vq)
                if needed > v.free_count:
                    count_drop(q.counters, TX_RING_FULL, count - i)
                    lost += count - i
                    break
                number = split_chain(vq, packet)
        update16(avail + (position & mask) * AVAIL_ENTRY, number)
        position += 1
        octets += length
    if position != old:
        v.next_avail = position & WORD16
        store_release16(v.driver + RING_INDEX, v.next_avail)
        split_kick(vq, old)
        count_tx(q.counters, count - lost, octets)
    return count - lost


@kernel
def split_take(vq, most):
    """Take up to ``most`` used buffers."""
    v = virtqueue_at(vq)
    waiting = split_waiting(vq)
    if waiting > most:
        waiting = most
    if waiting == 0:
        return 0
    mask = v.size - 1
    at = v.next_used
    for i in range(waiting):
        entry_word = 0
        if v.batch == 0:
            entry_word = load64(v.device + RING_ENTRIES + (at + i & mask) * USED_ENTRY)
        number = entry_word & WORD32
        length = shr(entry_word, 32)
        if v.flags & IN_ORDER:
            if number > mask:
                v.error = BAD_ID
                return 0
            length = in_order_length(vq, number, length)
            number = v.oldest
            v.oldest = number + 1 & mask
        if take_buffer(vq, number, length) == 0:
            return 0
    v.next_used = (at + waiting) & WORD16
    if v.flags & SLEEPS == 0:
        split_quiet(vq)
    elif v.flags & EVENT_INDEX == 0:
        v.event = -1
        store16(v.driver + RING_FLAGS, AVAIL_NO_INTERRUPT)
    return waiting


@kernel
def split_arm(vq):
    """Ask for an interrupt at the next used buffer: 1, then look again; 0 when that was asked for already."""
    v = virtqueue_at(vq)
    if v.event == v.next_used:
        return 0
    v.event = v.next_used
    if v.flags & EVENT_INDEX:
        store16(v.driver + RING_ENTRIES + v.size * AVAIL_ENTRY, v.event)
    else:
        store16(v.driver + RING_FLAGS, 0)
    fence()
    return 1


@entry("int64(int64, int64, int64)")
def split_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames, in place. A queue that sleeps asks for an interrupt when it has given all."""
    q = rxq_at(rxq)
    vq = q.ctx
    v = virtqueue_at(vq)
    sleeps = v.flags & SLEEPS
    if sleeps and split_waiting(vq) == 0 and sys_read(v.call, q.scratch, 8) == 8:
        v.wakes += 1
    done = 0
    while v.error == 0:
        split_take(vq, limit + EXTRA_BUFFERS - (v.taken - v.described))
        if v.error != 0:
            break
        done += describe(rxq, packets + done * PACKET_BYTES, limit - done)
        if done == limit or sleeps == 0 or split_arm(vq) == 0:
            break
    if v.error != 0:
        q.error = EPROTO
    return done


@entry("int64(int64)")
def split_release(rxq):
    """Make the buffers of the packets received available again."""
    vq = rxq_at(rxq).ctx
    v = virtqueue_at(vq)
    if v.released == v.described:
        return 0
    old = v.next_avail
    position = old
    mask = v.size - 1
    for i in range(v.released, v.described):
        number = load64(v.ids + (i & v.ids_mask) * 8) & WORD32
        update16(v.driver + RING_ENTRIES + (position & mask) * AVAIL_ENTRY, number)
        give_back(vq, number)
        position += 1
    v.released = v.described
    v.next_avail = position & WORD16
    store_release16(v.driver + RING_INDEX, v.next_avail)
    return split_kick(vq, old)


@entry("int64(int64)")
def split_pending(rxq):
    """Whether frames wait."""
    vq = rxq_at(rxq).ctx
    v = virtqueue_at(vq)
    return 1 if v.taken != v.described or load_acquire16(v.device + RING_INDEX) != v.next_used else 0

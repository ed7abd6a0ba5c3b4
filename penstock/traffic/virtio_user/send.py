"""A frame to the buffers of a transmit queue, the same for split and packed rings.

A frame that fits a slot is copied there behind its header: one descriptor. A longer one becomes pieces: copied over
the slots of as many ids, or, with ``in_place``, its headers in a slot and the rest where it lies. ``take_ids`` then
gives the ids to the frame. Runs on the thread that sends.
"""

from __future__ import annotations

from penstock.datapath.layout import FRAG_BYTES, packet_at
from penstock.machine import copy, inlined, kernel, load16, load64, prefetch_write, store16, store64
from penstock.ports.vhost_user.virtio import DESC_BYTES, DESC_NEXT
from penstock.ports.vnet_kernels import packet_to_vnet
from penstock.traffic.virtio_user.layout import (
    APART,
    IN_ORDER,
    INDIRECT,
    LINK_BYTES,
    PIECE_BYTES,
    TABLE_BYTES,
    link_at,
    virtqueue_at,
)

AHEAD = 8  # packets whose slot is fetched early: the device has just read it
BLOCK = 64
BLOCKS_MAX = 256  # up to here fixed-size blocks are faster than a call of memcpy


@inlined
def update16(address, value):
    """Store 16 bits, unless they are there already: then the device keeps its copy of the cache line."""
    if load16(address) != value:
        store16(address, value)
    return 0


@inlined
def update64(address, value):
    """Store 64 bits, unless they are there already."""
    if load64(address) != value:
        store64(address, value)
    return 0


@inlined
def write_header(packet, header):
    """Write the virtio-net header. Where it has 12 bytes the last two are zero in every slot and stay so."""
    if packet_at(packet).flags != 0:
        packet_to_vnet(packet, header)
    else:
        update64(header, 0)
        update16(header + 8, 0)
    return 0


@inlined
def write_frame(packet, target):
    """Copy a frame whose tail is one piece, or none, to a slot; up to BLOCK - 1 bytes too many are copied."""
    p = packet_at(packet)
    head_len = p.head_len
    head = p.head
    if head_len <= BLOCK:
        copy(target, head, BLOCK)
    elif head_len <= BLOCKS_MAX:
        for at in range(0, head_len, BLOCK):
            copy(target + at, head + at, BLOCK)
    else:
        copy(target, head, head_len)
    if p.tail_len > 0:
        copy(target + head_len, p.tail, p.tail_len)
    return 0


@inlined
def fetch_slot(vq):
    """Have the cache line where a frame soon to come will begin made ready for writing."""
    v = virtqueue_at(vq)
    number = load16(v.ids + (v.free_head + AHEAD & v.ids_mask) * 2)
    return prefetch_write(v.slots + number * v.stride + v.lead)


@inlined
def free_slot(vq, index):
    """The slot of the ``index``-th free id: where its frame begins."""
    v = virtqueue_at(vq)
    number = load16(v.ids + (v.free_head + index & v.ids_mask) * 2)
    return v.slots + number * v.stride + v.lead


@kernel
def add_piece(vq, address, length):
    """Append a piece to the frame being laid out."""
    v = virtqueue_at(vq)
    piece = v.pieces + v.piece_count * PIECE_BYTES
    store64(piece, address + v.delta)
    store64(piece + 8, length)
    v.piece_count += 1
    return 0


@kernel
def pour(vq, source, length):
    """Copy bytes of a frame to where the last ones ended, going on in the next slot when one is full."""
    v = virtqueue_at(vq)
    while length > 0:
        if v.space == 0:
            v.target = free_slot(vq, v.slot_count)
            v.slot_count += 1
            v.space = v.room
            add_piece(vq, v.target, 0)
        part = length if length < v.space else v.space
        copy(v.target, source, part)
        last = v.pieces + (v.piece_count - 1) * PIECE_BYTES + 8
        store64(last, load64(last) + part)
        v.target += part
        v.space -= part
        source += part
        length -= part
    return 0


@kernel
def known(vq, address, length):
    """1 when the back end can read these bytes in place."""
    v = virtqueue_at(vq)
    return 1 if address >= v.low and address + length <= v.high else 0


@kernel
def may_stay(vq, packet):
    """1 when the frame's tail is long enough to stay in place, and all that would be read in place can be."""
    v = virtqueue_at(vq)
    p = packet_at(packet)
    if p.tail_len < v.in_place:
        return 0
    if p.head_len > v.room and known(vq, p.head, p.head_len) == 0:
        return 0
    if p.frags == 0:
        return known(vq, p.tail, p.tail_len)
    for i in range(p.frag_count):
        frag = p.frags + i * FRAG_BYTES
        if known(vq, load64(frag), load64(frag + 8)) == 0:
            return 0
    return 1


@kernel
def lay_out_in_place(vq, packet):
    """Pieces of a frame of which only the headers are copied."""
    v = virtqueue_at(vq)
    p = packet_at(packet)
    copied = p.head_len if p.head_len < v.room else v.room
    pour(vq, p.head, copied)
    if p.head_len > copied:
        add_piece(vq, p.head + copied, p.head_len - copied)
    if p.frags == 0:
        return add_piece(vq, p.tail, p.tail_len)
    for i in range(p.frag_count):
        frag = p.frags + i * FRAG_BYTES
        if load64(frag + 8) > 0:
            add_piece(vq, load64(frag), load64(frag + 8))
    return 0


@kernel
def lay_out_copied(vq, packet):
    """Pieces of a frame that is copied over as many slots as it needs."""
    p = packet_at(packet)
    pour(vq, p.head, p.head_len)
    if p.frags == 0:
        return pour(vq, p.tail, p.tail_len)
    for i in range(p.frag_count):
        frag = p.frags + i * FRAG_BYTES
        pour(vq, load64(frag), load64(frag + 8))
    return 0


@kernel
def lay_out(vq, packet):
    """Pieces of a frame, its header written: how many ids it takes; minus so many when there are not enough free."""
    v = virtqueue_at(vq)
    p = packet_at(packet)
    stay = may_stay(vq, packet)
    length = p.head_len + p.tail_len
    if stay == 1:
        slots = 1
        pieces = 1 + (p.frag_count if p.frags != 0 else 1)
        if p.head_len > v.room:
            pieces += 1
    else:
        slots = (length + v.room - 1) // v.room
        pieces = slots
    if v.flags & APART:
        pieces += 1
    # Under IN_ORDER no descriptor may be left out, so a table that spares several is not for it.
    v.in_table = 0
    if v.flags & INDIRECT and pieces > 1 and (slots == 1 or v.flags & IN_ORDER == 0):
        v.in_table = 1
    needed = slots if v.in_table else pieces
    if needed > v.free_count:
        return -needed
    frame = free_slot(vq, 0)
    write_header(packet, frame - v.header)
    v.piece_count = 0
    v.slot_count = 1
    v.target = frame
    v.space = v.room
    add_piece(vq, frame - v.header, v.header)
    if v.flags & APART:
        add_piece(vq, frame, 0)
    if stay == 1:
        lay_out_in_place(vq, packet)
    else:
        lay_out_copied(vq, packet)
    return needed


@kernel
def take_ids(vq, count, descriptors):
    """Take ``count`` free ids for one buffer of so many descriptors: the first, which names the buffer."""
    v = virtqueue_at(vq)
    first = load16(v.ids + (v.free_head & v.ids_mask) * 2)
    number = first
    for i in range(1, count):
        following = load16(v.ids + (v.free_head + i & v.ids_mask) * 2)
        link_at(v.links + number * LINK_BYTES).next = following
        number = following
    link = link_at(v.links + first * LINK_BYTES)
    link.ids = count
    link.descriptors = descriptors
    v.free_head += count
    v.free_count -= count
    return first


@inlined
def give_id(vq, number):
    """Append an id to the free ones."""
    v = virtqueue_at(vq)
    store16(v.ids + (v.free_head + v.free_count & v.ids_mask) * 2, number)
    v.free_count += 1
    return 0


@kernel
def give_ids(vq, first):
    """Free the ids of the buffer that ``first`` names: how many descriptors it had."""
    v = virtqueue_at(vq)
    link = link_at(v.links + first * LINK_BYTES)
    count = link.ids
    number = first
    for _ in range(count):
        following = link_at(v.links + number * LINK_BYTES).next
        give_id(vq, number)
        number = following
    link.ids = 0
    return link.descriptors


@kernel
def write_table(vq, chained):
    """Write the pieces as the first free id's indirect table, ``chained`` (split) or in sequence (packed): where."""
    v = virtqueue_at(vq)
    table = v.tables + load16(v.ids + (v.free_head & v.ids_mask) * 2) * TABLE_BYTES
    for i in range(v.piece_count):
        piece = v.pieces + i * PIECE_BYTES
        word = load64(piece + 8)
        if chained == 1 and i + 1 < v.piece_count:
            word |= DESC_NEXT << 32 | (i + 1) << 48
        store64(table + i * DESC_BYTES, load64(piece))
        store64(table + i * DESC_BYTES + 8, word)
    return table

"""Receiving from a guest: the first bytes of each frame are copied to a private buffer, the rest stays where it is.

What a guest sends is described as PACKETs with the headers in the worker's scratch, where the guest cannot change them,
and the payload in guest memory, from where transmit copies it. ``vhost_release`` gives the buffers back after that.
Run by the worker that holds the queue; the VRING's second part is its own.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop
from penstock.datapath.drops import BAD_DESCRIPTOR, BAD_OFFLOAD, OVERSIZED
from penstock.datapath.layout import (
    BURST,
    ETHERNET_HEADER,
    FRAG_BYTES,
    FRAME_MAX,
    HEADER_MAX,
    HEADROOM,
    PACKET,
    PACKET_BYTES,
    packet_at,
    rxq_at,
)
from penstock.machine import (
    copy,
    copy16,
    copy64,
    entry,
    exchange,
    fill,
    inlined,
    kernel,
    load16,
    load64,
    load_acquire,
    offset,
    shr,
    store16,
    store16be,
    store32,
    store32be,
    store64,
)
from penstock.ports.vhost_user.ahead import fetch_buffers, fetch_descriptors, fetch_used
from penstock.ports.vhost_user.chains import advance, peek
from penstock.ports.vhost_user.layout import (
    ANNOUNCE,
    CHAIN_BYTES,
    CHAINS,
    PIECES,
    RUNNING,
    chain_at,
    vring_at,
)
from penstock.ports.vhost_user.used import interrupt, put_chains, show_used, stop_kicks
from penstock.ports.vnet_kernels import REJECTED, vnet_to_packet

STOPPED = -1  # to the worker: ask this queue no more
HEAD_STRIDE = HEADROOM + HEADER_MAX + 64
OFFLOAD_WORDS = offset(PACKET, "csum_start")  # csum_start, csum_offset, gso_size, gso_type, flags: 8 bytes
SHORT_COPY, MEDIUM_COPY = 80, 128  # bytes of a copy of fixed size
RARP_BYTES = 60


@kernel
def copy_first(to, ring, chain, size):
    """Copy the first ``size`` bytes of a chain of pieces, and leave the pieces describing the rest: where they begin.

    Returns the index of the first piece with bytes left.
    """
    c = chain_at(chain)
    index = c.pieces
    while size > 0:
        piece = ring + PIECES + index * FRAG_BYTES
        host = load64(piece)
        length = load64(piece + 8)
        part = length if length < size else size
        copy(to, host, part)
        to += part
        size -= part
        if part == length:
            index += 1
        else:
            store64(piece, host + part)
            store64(piece + 8, length - part)
    return index


@kernel
def take_pieces(ring, chain, packet, head, head_len):
    """Describe a frame that lies in several pieces."""
    c = chain_at(chain)
    p = packet_at(packet)
    header = vring_at(ring).header
    index = copy_first(head - header, ring, chain, header + head_len)
    left = c.pieces + c.piece_count - index
    p.frag_count = left
    p.frags = ring + PIECES + index * FRAG_BYTES
    if left <= 1:
        p.frags = 0
        if left == 1:
            p.tail = load64(ring + PIECES + index * FRAG_BYTES)
    return 0


@inlined
def take_single(ring, chain, packet, head, head_len):
    """Describe a frame that lies in one buffer."""
    c = chain_at(chain)
    p = packet_at(packet)
    header = vring_at(ring).header
    size = header + head_len
    host = c.host
    # A copy of fixed size is a few instructions; it may read past the buffer, but not past the guest's memory.
    if size <= SHORT_COPY and c.room >= SHORT_COPY:
        copy64(head - header, host)
        copy16(head - header + 64, host + 64)
    elif size <= MEDIUM_COPY and c.room >= MEDIUM_COPY:
        copy64(head - header, host)
        copy64(head - header + 64, host + 64)
    else:
        copy(head - header, host, size)
    p.tail = host + size
    p.frags = 0
    return 0


@inlined
def describe(rxq, ring, chain, packet, head):
    """Make a PACKET of a chain: 1, or 0 when it was dropped."""
    c = chain_at(chain)
    p = packet_at(packet)
    header = vring_at(ring).header
    length = c.length - header
    if length < ETHERNET_HEADER or length > FRAME_MAX:
        count_drop(rxq_at(rxq).counters, OVERSIZED if length > FRAME_MAX else BAD_DESCRIPTOR, 1)
        return 0
    head_len = length if length < HEADER_MAX else HEADER_MAX
    if c.host != 0:
        take_single(ring, chain, packet, head, head_len)
    else:
        take_pieces(ring, chain, packet, head, head_len)
    p.head = head
    p.head_len = head_len
    p.tail_len = length - head_len
    p.headroom = HEADROOM
    offload = head - header
    if load64(offload) | load16(offload + 8) == 0:
        store64(packet + OFFLOAD_WORDS, 0)
        return 1
    if vnet_to_packet(offload, packet) == REJECTED:
        count_drop(rxq_at(rxq).counters, BAD_OFFLOAD, 1)
        return 0
    return 1


@kernel
def announce(ring, packet, head):
    """Make a PACKET of the RARP that tells the network where this guest is now: 1, or 0 when there is none to send.

    RFC 903: a request for the guest's own address, as QEMU sends it.
    """
    mac = exchange(ring + ANNOUNCE, 0)
    if mac == 0:
        return 0
    fill(head, 0, RARP_BYTES)
    fill(head, 0xFF, 6)
    for place in (6, 22, 32):
        store32(head + place, mac)
        store16(head + place + 4, shr(mac, 32))
    store16be(head + 12, 0x8035)
    store32be(head + 14, 0x0001_0800)
    store32be(head + 18, 0x0604_0003)
    p = packet_at(packet)
    p.head = head
    p.head_len = RARP_BYTES
    p.tail = 0
    p.tail_len = 0
    p.frags = 0
    p.headroom = HEADROOM
    store64(packet + OFFLOAD_WORDS, 0)
    return 1


@entry("int64(int64, int64, int64)")
def vhost_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames that the guest sends; STOPPED when the ring is not in service."""
    q = rxq_at(rxq)
    ring = q.ctx
    r = vring_at(ring)
    if load_acquire(ring + RUNNING) == 0 or r.broken != 0:
        return STOPPED
    if r.armed != 0:
        stop_kicks(ring)
        r.kicked += 1
    head = q.scratch + HEADROOM
    done = 0
    if r.announce != 0:
        done = announce(ring, packets, head)
        head += done * HEAD_STRIDE
    count = peek(ring, limit - done, 0)
    fetch_used(ring, count)
    places = 0
    for i in range(count):
        chain = ring + CHAINS + i * CHAIN_BYTES
        places += chain_at(chain).count
        if describe(rxq, ring, chain, packets + done * PACKET_BYTES, head) == 1:
            done += 1
            head += HEAD_STRIDE
    advance(ring, places, count)
    r.held = count
    if count == BURST:
        fetch_descriptors(ring, 0)
    if done == 0 and count > 0:
        give_back(ring, q.after)
    return done


@kernel
def give_back(ring, after):
    """Give the burst's buffers back to the guest."""
    r = vring_at(ring)
    if r.held == 0:
        return 0
    put_chains(ring, r.held, 0)
    r.held = 0
    show_used(ring)
    return interrupt(ring, after)


@entry("int64(int64)")
def vhost_release(rxq):
    """Give the burst's buffers back: it was transmitted."""
    q = rxq_at(rxq)
    if vring_at(q.ctx).held == BURST:
        fetch_buffers(q.ctx, 0)
    return give_back(q.ctx, q.after)

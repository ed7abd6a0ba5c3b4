"""Sending to a guest: each frame is copied from where it lies straight into buffers that the guest made available.

``send_singles`` is the common case: frames of which each fits the next single buffer. ``send_one`` does everything
else: buffers in pieces, frames merged over several buffers. Run by any worker, under the ring's lock; a burst is seen
by the guest at its end. When the guest has too few buffers the rest of the burst is dropped: order is kept, nobody
waits.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import BUFFERS_TOO_SMALL, PORT_DOWN, TX_RING_FULL
from penstock.datapath.fragments import copy_tail, frag_at
from penstock.datapath.layout import BURST, FRAG_BYTES, packet_at, txq_at
from penstock.datapath.parsing import complete
from penstock.machine import (
    copy,
    copy32,
    copy64,
    entry,
    fill,
    hash64,
    inlined,
    kernel,
    load16,
    load64,
    load_acquire,
    shr,
    store16,
    store64,
    store_release,
)
from penstock.packet.fields import key_offset
from penstock.ports.vhost_user.ahead import fetch_buffers, fetch_descriptors, fetch_used
from penstock.ports.vhost_user.chains import advance, peek
from penstock.ports.vhost_user.layout import (
    CHAIN_BYTES,
    CHAINS,
    CHAINS_MAX,
    GUESTS,
    LOCK,
    PIECES,
    RUNNING,
    SENDER_RINGS,
    VHOST_SENDERS,
    Broken,
    chain_at,
    senders_at,
    vhost_at,
    vring_at,
)
from penstock.ports.vhost_user.used import interrupt, log_write, put_chains, put_used, show_used, vring_lock
from penstock.ports.vhost_user.virtio import DESC_WRITE, NUM_BUFFERS
from penstock.ports.vnet_kernels import packet_to_vnet

BAD_BUFFER = int(Broken.BAD_BUFFER)
SENT, RING_FULL, TOO_SMALL = range(3)
TOO_MANY = -1
BUFFER_MIN = 1024  # of merged buffers: with smaller ones a large frame would take too many
STAGED_AT = 4096  # in the scratch of a TXQ: packets of one ring; before it the FRAGs of one frame
HEADER_ROOM = 16
HALF, BLOCK = 32, 64
IP_SRC, TCP_SRC, ETH_SRC = map(key_offset, ("ip_src", "tcp_src", "eth_src"))


@inlined
def write_header(ring, packet, to):
    """Write the virtio-net header of a frame, for one buffer."""
    r = vring_at(ring)
    p = packet_at(packet)
    # A line that is not written need not be taken from the guest's core.
    if p.flags == 0 or r.checksums == 0:
        if load64(to) | load16(to + 8) != 0:
            store64(to, 0)
            store16(to + 8, 0)
    else:
        packet_to_vnet(packet, to)
    if r.header > NUM_BUFFERS and load16(to + NUM_BUFFERS) != 1:
        store16(to + NUM_BUFFERS, 1)
    return 0


@inlined
def fill_single(packet, to):
    """Copy a frame to a buffer that has room for it."""
    p = packet_at(packet)
    head_len = p.head_len
    tail_len = p.tail_len
    if tail_len == 0 and head_len >= HALF and head_len <= 2 * BLOCK:
        # Two copies of fixed size, which may overlap: a few instructions, and nothing of what lies behind the frame,
        # which is some other guest's.
        if head_len >= BLOCK:
            copy64(to, p.head)
            copy64(to + head_len - BLOCK, p.head + head_len - BLOCK)
        else:
            copy32(to, p.head)
            copy32(to + head_len - HALF, p.head + head_len - HALF)
        return 0
    copy(to, p.head, head_len)
    if tail_len != 0:
        if p.frags == 0:
            copy(to + head_len, p.tail, tail_len)
        else:
            copy_tail(to + head_len, packet, tail_len)
    return 0


@kernel
def send_singles(ring, counters, packets, count):
    """Send frames one to a buffer as long as that works: how many."""
    r = vring_at(ring)
    found = peek(ring, count, DESC_WRITE)
    fetch_used(ring, found)
    header = r.header
    done = 0
    places = 0
    octets = 0
    while done < found:
        c = chain_at(ring + CHAINS + done * CHAIN_BYTES)
        packet = load64(packets + done * 8)
        p = packet_at(packet)
        length = p.head_len + p.tail_len
        if c.host == 0 or header + length > c.length:
            break
        write_header(ring, packet, c.host)
        fill_single(packet, c.host + header)
        c.written = header + length
        log_write(ring, c.guest, c.written)
        places += c.count
        octets += length
        done += 1
    put_chains(ring, done, DESC_WRITE)
    advance(ring, places, done)
    count_tx(counters, done, octets)
    return done


@kernel
def as_piece(ring, chain):
    """Make a chain of a single buffer one of one piece."""
    c = chain_at(chain)
    r = vring_at(ring)
    if c.host != 0:
        store64(ring + PIECES + r.pieces_used * FRAG_BYTES, c.host)
        store64(ring + PIECES + r.pieces_used * FRAG_BYTES + 8, c.length)
        store64(ring + GUESTS + r.pieces_used * 8, c.guest)
        c.pieces = r.pieces_used
        r.pieces_used += 1
    return 0


@kernel
def fill_pieces(ring, chain, source, limit):
    """Copy what is left of a frame into the pieces of one chain, at most ``limit`` bytes: the bytes written.

    ``source`` are three words: address of the FRAG that is being read, bytes of it already read, bytes left of the
    frame.
    """
    c = chain_at(chain)
    written = 0
    for index in range(c.pieces, c.pieces + c.piece_count):
        to = load64(ring + PIECES + index * FRAG_BYTES)
        room = load64(ring + PIECES + index * FRAG_BYTES + 8)
        begin = to
        while room > 0 and load64(source + 16) > 0:
            f = frag_at(load64(source))
            skip = load64(source + 8)
            part = f.length - skip
            if part > room:
                part = room
            copy(to, f.address + skip, part)
            to += part
            room -= part
            store64(source + 16, load64(source + 16) - part)
            if skip + part == f.length:
                store64(source, load64(source) + FRAG_BYTES)
                store64(source + 8, 0)
            else:
                store64(source + 8, skip + part)
        log_write(ring, load64(ring + GUESTS + index * 8), to - begin)
        written += to - begin
        if written >= limit:
            break
    return written


@kernel
def list_source(packet, header, header_bytes, scratch):
    """Write the FRAGs of a whole frame, header first, at ``scratch``: their number."""
    p = packet_at(packet)
    store64(scratch, header)
    store64(scratch + 8, header_bytes)
    store64(scratch + 16, p.head)
    store64(scratch + 24, p.head_len)
    if p.tail_len == 0:
        return 2
    if p.frags == 0:
        store64(scratch + 32, p.tail)
        store64(scratch + 40, p.tail_len)
        return 3
    copy(scratch + 32, p.frags, p.frag_count * FRAG_BYTES)
    return 2 + p.frag_count


@kernel
def reserve(ring, size):
    """Peek at the chains that ``size`` bytes take: how many, 0 when there are too few, TOO_MANY when no number will do.

    All buffers are looked at before a byte is written, so that a frame that does not fit leaves no trace.
    """
    r = vring_at(ring)
    limit = 1
    if r.mergeable != 0:
        limit = size // BUFFER_MIN + 1
        if limit > CHAINS_MAX:
            limit = CHAINS_MAX
    found = peek(ring, limit, DESC_WRITE)
    room = 0
    for index in range(found):
        chain = ring + CHAINS + index * CHAIN_BYTES
        c = chain_at(chain)
        if c.piece_count == 0:
            r.broken = BAD_BUFFER
            return 0
        as_piece(ring, chain)
        room += c.length
        if room >= size:
            return index + 1
    return TOO_MANY if found == limit else 0


@kernel
def send_one(ring, packet, scratch):
    """Send one frame into as many buffers as it takes: SENT, RING_FULL or TOO_SMALL."""
    r = vring_at(ring)
    p = packet_at(packet)
    size = r.header + p.head_len + p.tail_len
    chains = reserve(ring, size)
    if chains == TOO_MANY:
        return TOO_SMALL
    if chains == 0:
        return RING_FULL
    header = scratch
    fill(header, 0, HEADER_ROOM)
    write_header(ring, packet, header)
    if r.header > NUM_BUFFERS:
        store16(header + NUM_BUFFERS, chains)
    source = scratch + HEADER_ROOM
    frags = source + 32
    list_source(packet, header, r.header, frags)
    store64(source, frags)
    store64(source + 8, 0)
    store64(source + 16, size)
    places = 0
    for index in range(chains):
        chain = ring + CHAINS + index * CHAIN_BYTES
        c = chain_at(chain)
        written = fill_pieces(ring, chain, source, size)
        put_used(ring, c.id, c.count, written)
        places += c.count
    advance(ring, places, chains)
    return SENT


@kernel
def send_to_ring(txq, ring, packets, count):
    """Send a burst by one ring: how many frames were sent; whoever calls holds the lock."""
    q = txq_at(txq)
    r = vring_at(ring)
    if load_acquire(ring + RUNNING) == 0 or r.broken != 0:
        count_drop(q.counters, PORT_DOWN, count)
        return 0
    done = 0
    sent = 0
    full = 0
    while done < count and full == 0:
        singles = send_singles(ring, q.counters, packets + done * 8, count - done)
        done += singles
        sent += singles
        if done == count:
            break
        if r.prepared >= CHAINS_MAX:
            show_used(ring)
        packet = load64(packets + done * 8)
        outcome = send_one(ring, packet, q.scratch)
        if outcome == RING_FULL:
            full = 1
        elif outcome == TOO_SMALL:
            count_drop(q.counters, BUFFERS_TOO_SMALL, 1)
            done += 1
        else:
            p = packet_at(packet)
            count_tx(q.counters, 1, p.head_len + p.tail_len)
            sent += 1
            done += 1
    if sent > 0:
        if count == BURST:
            fetch_buffers(ring, 1)
            fetch_descriptors(ring, BURST)
        show_used(ring)
    if done < count:
        count_drop(q.counters, TX_RING_FULL if r.broken == 0 else PORT_DOWN, count - done)
    return sent


@kernel
def locked_send(txq, ring, packets, count):
    """Send a burst by one ring when no other worker does, and have its guest interrupted."""
    vring_lock(ring)
    sent = send_to_ring(txq, ring, packets, count)
    store_release(ring + LOCK, 0)
    if sent > 0:
        interrupt(ring, txq_at(txq).after)  # takes the lock itself when it cannot wait for the end of the turn
    return 0


@inlined
def flow_of(packet, choices):
    """Which of ``choices`` a packet's flow goes to."""
    key = packet_at(packet).key
    word = load64(key + IP_SRC) ^ load64(key + (TCP_SRC & ~7)) ^ shr(load64(key + ETH_SRC), 16)
    return shr(hash64(word), 33) % choices


@kernel
def spread(txq, senders, first, step, packets, count):
    """Send a burst by rings ``first``, ``first + step`` ... , each flow by one of them: guests with more queues than
    there are workers have their processors loaded evenly.
    """
    rings = senders_at(senders).count
    choices = (rings - first + step - 1) // step
    for i in range(count):
        complete(load64(packets + i * 8))
    staged = txq_at(txq).scratch + STAGED_AT
    for choice in range(choices):
        chosen = 0
        for i in range(count):
            packet = load64(packets + i * 8)
            if flow_of(packet, choices) == choice:
                store64(staged + chosen * 8, packet)
                chosen += 1
        if chosen > 0:
            locked_send(txq, load64(senders + SENDER_RINGS + (first + choice * step) * 8), staged, chosen)
    return 0


@entry("int64(int64, int64, int64)")
def vhost_tx(txq, packets, count):
    """Transmit a burst: by the ring of this worker's turn, or with more rings than workers by several."""
    q = txq_at(txq)
    senders = load_acquire(q.ctx + VHOST_SENDERS)
    rings = senders_at(senders).count
    if rings == 0:
        count_drop(q.counters, PORT_DOWN, count)
        return 0
    workers = vhost_at(q.ctx).workers
    if rings > workers:
        return spread(txq, senders, q.queue, workers, packets, count)
    return locked_send(txq, load64(senders + SENDER_RINGS + (q.queue % rings) * 8), packets, count)

"""Frames through packet sockets: received in place from a memory-mapped ring, sent by one ``sendmmsg`` per burst.

A slot of the ring (linux/if_packet.h, TPACKET_V2) begins with tpacket2_hdr (32 bytes) and sockaddr_ll (20), then free
bytes (PACKET_RESERVE), the virtio-net header, the frame. The kernel fills slots in order and gives each to us by its
status word; ``release`` gives a burst's slots back in the same order. PACKET_QUEUE belongs to the worker that holds the
queue. A VLAN tag that the kernel took out of the frame is put back before anyone else looks.

Sending copies from where the bytes are straight into the kernel's buffers. The kernel's transmit ring would copy them
into the ring first and, for a peer in the same kernel, once more (docs/ports.md has the measurement).
"""

from __future__ import annotations

import numpy as np

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import BAD_OFFLOAD, OVERSIZED, PORT_DOWN
from penstock.datapath.fragments import tail_pieces, tail_vector
from penstock.datapath.layout import (
    BURST,
    FLAG_CSUM_PARTIAL,
    FRAGS_MAX,
    PACKET_BYTES,
    TX_SCRATCH,
    packet_at,
    rxq_at,
    txq_at,
)
from penstock.machine import (
    cycles,
    entry,
    fill,
    kernel,
    load8,
    load16,
    load32,
    load64,
    load_acquire32,
    move,
    store16be,
    store64,
    store_release32,
    sys_read,
    sys_sendmmsg,
    view,
)
from penstock.ports.netdev_kernels import EAGAIN, ENETDOWN, drop_reason
from penstock.ports.vnet_kernels import REJECTED, VNET_HEADER, packet_to_vnet, vnet_to_packet

PACKET_QUEUE = np.dtype(
    [
        ("slots", "i8"),  # addresses of the ring's slots, in order
        ("count", "i8"),
        ("next", "i8"),  # the slot that the kernel fills next
        ("held", "i8"),  # slots before ``next`` that are not given back yet
        ("checked", "i8"),  # cycle counter when the socket was last asked for its error
        ("pad", "i8", 3),
    ],
    align=True,
)
queue_at = view(PACKET_QUEUE)

STATUS_KERNEL, STATUS_USER, STATUS_VLAN, STATUS_VLAN_TPID = 0, 0x1, 0x10, 0x40
SLOT_LENGTH, SLOT_SNAPLEN, SLOT_MAC, SLOT_TCI, SLOT_TPID = 4, 8, 12, 24, 26
SLOT_KIND = 32 + 10  # sll_pkttype
SLOT_HEADERS = 32 + 20
OUTGOING = 4
VLAN_TAG, VLAN_ETHERTYPE, ADDRESSES = 4, 0x8100, 12

# A link that goes down leaves an error on its socket, and epoll reports it again and again until it is read.
CHECK_CYCLES = 1 << 21

MSG_DONTWAIT = 0x40
MMSGHDR, MSG_VECTOR, MSG_PIECES = 64, 16, 24
IOVEC, HEADER_BYTES = 16, 16
HEADERS_AT = BURST * MMSGHDR
VECTOR_AT = HEADERS_AT + BURST * HEADER_BYTES
VECTOR_MAX = (TX_SCRATCH - VECTOR_AT) // IOVEC
assert VECTOR_MAX >= FRAGS_MAX + 2


@kernel
def put_back_tag(packet, slot, status):
    """Insert the VLAN tag that the kernel keeps beside the frame."""
    p = packet_at(packet)
    head = p.head - VLAN_TAG
    move(head, p.head, ADDRESSES)
    ethertype = VLAN_ETHERTYPE
    if status & STATUS_VLAN_TPID:
        ethertype = load16(slot + SLOT_TPID)
    store16be(head + ADDRESSES, ethertype)
    store16be(head + ADDRESSES + 2, load16(slot + SLOT_TCI))
    p.head = head
    p.head_len += VLAN_TAG
    p.headroom -= VLAN_TAG
    if p.flags & FLAG_CSUM_PARTIAL:
        p.csum_start += VLAN_TAG
    return 0


@kernel
def slot_to_packet(rxq, slot, status, packet):
    """Describe the frame in a slot: 1, or 0 when it is not to be forwarded."""
    q = rxq_at(rxq)
    if load8(slot + SLOT_KIND) == OUTGOING:
        return 0  # sent by this host itself, seen where the kernel cannot be told to leave such frames out
    length = load32(slot + SLOT_SNAPLEN)
    if length < load32(slot + SLOT_LENGTH):
        count_drop(q.counters, OVERSIZED, 1)
        return 0
    mac = load16(slot + SLOT_MAC)
    p = packet_at(packet)
    p.head = slot + mac
    p.head_len = length
    p.tail = 0
    p.tail_len = 0
    p.frags = 0
    p.headroom = mac - SLOT_HEADERS
    if vnet_to_packet(slot + mac - VNET_HEADER, packet) == REJECTED:
        count_drop(q.counters, BAD_OFFLOAD, 1)
        return 0
    if status & STATUS_VLAN:
        put_back_tag(packet, slot, status)
    return 1


@entry("int64(int64, int64, int64)")
def packet_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames, in place."""
    q = rxq_at(rxq)
    c = queue_at(q.ctx)
    done = 0
    position = c.next
    held = c.held
    while done < limit and held < c.count:
        slot = load64(c.slots + position * 8)
        status = load_acquire32(slot)
        if status & STATUS_USER == 0:
            break
        done += slot_to_packet(rxq, slot, status, packets + done * PACKET_BYTES)
        held += 1
        position += 1
        if position == c.count:
            position = 0
    if held == c.held:
        now = cycles()
        if now - c.checked > CHECK_CYCLES:
            c.checked = now
            sys_read(q.fd, q.scratch, VNET_HEADER)  # takes the error away: frames only ever come through the ring
    c.next = position
    c.held = held
    return done


@entry("int64(int64)")
def packet_release(rxq):
    """Give the slots of the burst back to the kernel."""
    c = queue_at(rxq_at(rxq).ctx)
    position = c.next - c.held
    if position < 0:
        position += c.count
    for _ in range(c.held):
        store_release32(load64(c.slots + position * 8), STATUS_KERNEL)
        position += 1
        if position == c.count:
            position = 0
    c.held = 0
    return 0


@kernel
def describe_message(packet, scratch, index, vector):
    """Fill the index-th mmsghdr and its vector for one frame behind its virtio-net header: the vector's end."""
    p = packet_at(packet)
    message = scratch + index * MMSGHDR
    pieces = 1
    if p.headroom >= VNET_HEADER:
        packet_to_vnet(packet, p.head - VNET_HEADER)
        store64(vector, p.head - VNET_HEADER)
        store64(vector + 8, VNET_HEADER + p.head_len)
    else:
        header = scratch + HEADERS_AT + index * HEADER_BYTES
        packet_to_vnet(packet, header)
        store64(vector, header)
        store64(vector + 8, VNET_HEADER)
        store64(vector + IOVEC, p.head)
        store64(vector + IOVEC + 8, p.head_len)
        pieces = 2
    pieces += tail_vector(packet, vector + pieces * IOVEC)
    fill(message, 0, MMSGHDR)
    store64(message + MSG_VECTOR, vector)
    store64(message + MSG_PIECES, pieces)
    return vector + pieces * IOVEC


@kernel
def send_burst(txq, packets, count):
    """Send at most BURST frames, counting each as sent or dropped; how many were dealt with."""
    q = txq_at(txq)
    octets = 0
    vector = q.scratch + VECTOR_AT
    described = 0
    while described < count and described < BURST:
        packet = load64(packets + described * 8)
        if vector + (2 + tail_pieces(packet)) * IOVEC > q.scratch + TX_SCRATCH:
            break
        vector = describe_message(packet, q.scratch, described, vector)
        described += 1
    count = described
    position = 0
    sent = 0
    fresh = 1
    while position < count:
        got = sys_sendmmsg(q.fd, q.scratch + position * MMSGHDR, count - position, MSG_DONTWAIT)
        if got > 0:
            for index in range(position, position + got):
                p = packet_at(load64(packets + index * 8))
                octets += p.head_len + p.tail_len
            sent += got
            position += got
            continue
        if got == -ENETDOWN and fresh:
            fresh = 0  # it may be the error of a time when the link was down, which trying has taken away
            continue
        # Only the first frame that was tried is at fault, unless the socket as a whole takes no more.
        reason = drop_reason(-got)
        refused = 1
        if reason == PORT_DOWN or got == -EAGAIN:
            refused = count - position
        count_drop(q.counters, reason, refused)
        position += refused
    count_tx(q.counters, sent, octets)
    return count


@entry("int64(int64, int64, int64)")
def packet_tx(txq, packets, count):
    """Transmit a burst."""
    done = 0
    while done < count:
        done += send_burst(txq, packets + done * 8, count - done)
    return done

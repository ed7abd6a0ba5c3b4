"""Frames through a TAP: each read or write moves one frame behind its virtio-net header.

Receiving reads into the worker's scratch buffers, always from the first on, so that a burst finds them in the cache as
the last one left them. Layout of a buffer: free bytes, virtio-net header right before the frame, frame. Transmitting
writes the header into the headroom before the frame when it can. No state of its own: everything is in RXQ and TXQ, and
a TAP descriptor may be used by several workers at once.
"""

from __future__ import annotations

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import BAD_OFFLOAD, OVERSIZED, PORT_DOWN
from penstock.datapath.fragments import tail_vector
from penstock.datapath.layout import (
    FRAGS_MAX,
    FRAME_MAX,
    HEADROOM,
    PACKET_BYTES,
    SCRATCH_STRIDE,
    TX_SCRATCH,
    packet_at,
    rxq_at,
    txq_at,
)
from penstock.machine import entry, kernel, load64, store64, sys_read, sys_write, sys_writev
from penstock.ports.netdev_kernels import EAGAIN, EINTR, drop_reason
from penstock.ports.vnet_kernels import REJECTED, VNET_HEADER, packet_to_vnet, vnet_to_packet

FRAME_AT = HEADROOM + 64
READ_MAX = VNET_HEADER + FRAME_MAX
assert FRAME_AT + FRAME_MAX <= SCRATCH_STRIDE

# A burst of large segments should still be in the second-level cache when it is written: enough for 32 frames of 1,500
# bytes several times over, and 6 of 64 KB.
BURST_BYTES = 384 * 1024

IOVEC = 16
IOVEC_HEADER, IOVEC_HEAD, IOVEC_TAIL = 0, IOVEC, 2 * IOVEC  # in the scratch of a TXQ, and behind the tail's
HEADER_AT = IOVEC_TAIL + FRAGS_MAX * IOVEC
assert HEADER_AT + VNET_HEADER <= TX_SCRATCH


@entry("int64(int64, int64, int64)")
def tap_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames. An errno other than "nothing there" stops the queue for good (``error``)."""
    q = rxq_at(rxq)
    frame = q.scratch + FRAME_AT
    done = 0
    octets = 0
    for _ in range(limit):
        got = sys_read(q.fd, frame - VNET_HEADER, READ_MAX)
        if got < VNET_HEADER:
            if got < 0 and got != -EAGAIN and got != -EINTR:
                q.error = -got
            break
        packet = packets + done * PACKET_BYTES
        p = packet_at(packet)
        p.head = frame
        p.head_len = got - VNET_HEADER
        p.tail = 0
        p.tail_len = 0
        p.frags = 0
        p.headroom = FRAME_AT
        if got == READ_MAX:
            count_drop(q.counters, OVERSIZED, 1)  # the kernel does not say whether it cut the frame there
            continue
        if vnet_to_packet(frame - VNET_HEADER, packet) == REJECTED:
            count_drop(q.counters, BAD_OFFLOAD, 1)
            continue
        done += 1
        frame += SCRATCH_STRIDE
        octets += got
        if octets > BURST_BYTES:
            break
    return done


@kernel
def write_frame(fd, packet, scratch):
    """Write one frame behind its header: the bytes written, or minus errno."""
    p = packet_at(packet)
    if p.tail_len == 0 and p.headroom >= VNET_HEADER:
        packet_to_vnet(packet, p.head - VNET_HEADER)
        return sys_write(fd, p.head - VNET_HEADER, VNET_HEADER + p.head_len)
    packet_to_vnet(packet, scratch + HEADER_AT)
    store64(scratch + IOVEC_HEADER, scratch + HEADER_AT)
    store64(scratch + IOVEC_HEADER + 8, VNET_HEADER)
    store64(scratch + IOVEC_HEAD, p.head)
    store64(scratch + IOVEC_HEAD + 8, p.head_len)
    return sys_writev(fd, scratch, 2 + tail_vector(packet, scratch + IOVEC_TAIL))


@entry("int64(int64, int64, int64)")
def tap_tx(txq, packets, count):
    """Transmit a burst; a device that is down or gone drops the rest of it at once."""
    q = txq_at(txq)
    sent = 0
    octets = 0
    for index in range(count):
        packet = load64(packets + index * 8)
        got = write_frame(q.fd, packet, q.scratch)
        if got >= 0:
            sent += 1
            octets += got - VNET_HEADER
            continue
        reason = drop_reason(-got)
        if reason == PORT_DOWN:
            count_drop(q.counters, PORT_DOWN, count - index)
            break
        count_drop(q.counters, reason, 1)
    count_tx(q.counters, sent, octets)
    return sent

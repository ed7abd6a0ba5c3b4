"""Tails in pieces: a packet's payload as it lies in a guest's memory, gathered where that is what is needed.

``frags`` of a PACKET names an array of ``frag_count`` FRAGs, which belong to the receive queue until it is released.
"""

from __future__ import annotations

from penstock.datapath.layout import FRAG, FRAG_BYTES, packet_at
from penstock.machine import copy, kernel, store64, view

frag_at = view(FRAG)


@kernel
def copy_tail(to, packet, size):
    """Copy the first ``size`` bytes of a packet's tail."""
    p = packet_at(packet)
    if p.frags == 0:
        copy(to, p.tail, size)
        return 0
    piece = p.frags
    while size > 0:
        f = frag_at(piece)
        part = f.length if f.length < size else size
        copy(to, f.address, part)
        to += part
        size -= part
        piece += FRAG_BYTES
    return 0


@kernel
def copy_packet(to, packet, size):
    """Copy the first ``size`` bytes of a packet."""
    p = packet_at(packet)
    head = p.head_len if p.head_len < size else size
    copy(to, p.head, head)
    return copy_tail(to + head, packet, size - head)


@kernel
def join_tail(packet, buffer):
    """Make the tail one piece by copying it to ``buffer``, which has room for FRAME_MAX bytes."""
    p = packet_at(packet)
    copy_tail(buffer, packet, p.tail_len)
    p.tail = buffer
    p.frags = 0
    return 0


@kernel
def tail_pieces(packet):
    """Of how many pieces the tail is."""
    p = packet_at(packet)
    if p.tail_len == 0:
        return 0
    if p.frags == 0:
        return 1
    return p.frag_count


@kernel
def tail_vector(packet, vector):
    """Describe the tail as ``struct iovec``s from ``vector`` on: how many, as ``tail_pieces`` says."""
    p = packet_at(packet)
    count = tail_pieces(packet)
    if count == 1 and p.frags == 0:
        store64(vector, p.tail)
        store64(vector + 8, p.tail_len)
    else:
        copy(vector, p.frags, count * FRAG_BYTES)  # a FRAG is an iovec
    return count

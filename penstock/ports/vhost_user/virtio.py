"""Virtio as both sides of a virtqueue see it: feature bits, ring layouts, the network header.

Sources: Virtual I/O Device (VIRTIO) 1.2, sections 2.7 (split virtqueues), 2.8 (packed virtqueues), 5.1 (network
device), 6 (reserved feature bits); the vhost-user protocol for the bits that only the two programs agree on.
Everything in guest memory is little-endian, which is also this machine's order.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Feature(IntEnum):
    """Feature bits of a network device and its transport, by number."""

    NET_CSUM = 0  # the guest may send unfinished checksums
    NET_GUEST_CSUM = 1  # the guest takes unfinished checksums
    NET_MTU = 3
    NET_MAC = 5
    NET_GUEST_TSO4 = 7
    NET_GUEST_TSO6 = 8
    NET_GUEST_ECN = 9
    NET_GUEST_UFO = 10
    NET_HOST_TSO4 = 11
    NET_HOST_TSO6 = 12
    NET_HOST_ECN = 13
    NET_HOST_UFO = 14
    NET_MRG_RXBUF = 15
    NET_STATUS = 16
    NET_CTRL_VQ = 17
    NET_CTRL_RX = 18
    NET_CTRL_VLAN = 19
    NET_GUEST_ANNOUNCE = 21
    NET_MQ = 22
    NET_CTRL_MAC_ADDR = 23
    NOTIFY_ON_EMPTY = 24
    LOG_ALL = 26  # vhost: log every write to guest memory
    ANY_LAYOUT = 27
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    PROTOCOL_FEATURES = 30  # vhost-user: protocol features can be asked for
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    NET_GUEST_USO4 = 54
    NET_GUEST_USO6 = 55
    NET_HOST_USO = 56


def mask(*features: Feature) -> int:
    """The feature word with these bits set."""
    word = 0
    for feature in features:
        word |= 1 << feature
    return word


def names(word: int) -> list[str]:
    """The features set in a word, by name; bits without a name by number."""
    known = {feature.value: feature.name.lower() for feature in Feature}
    return [known.get(bit, f"bit_{bit}") for bit in range(64) if word >> bit & 1]


QUEUE_SIZE_MAX = 32768  # 2.7 and 2.8: of either layout; a split ring's size is a power of two

DESC = np.dtype([("address", "i8"), ("length", "u4"), ("flags", "u2"), ("next", "u2")], align=True)
PACKED_DESC = np.dtype([("address", "i8"), ("length", "u4"), ("id", "u2"), ("flags", "u2")], align=True)
DESC_BYTES = DESC.itemsize
DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
PACKED_AVAIL, PACKED_USED = 1 << 7, 1 << 15
INDIRECT_MAX = 1024  # descriptors in an indirect table that we follow at the most: as Linux vhost does

# Split: avail is {flags u16, idx u16, ring u16[n], used_event u16}; used is {flags u16, idx u16, ring {id u32, len
# u32}[n], avail_event u16}.
RING_FLAGS, RING_INDEX, RING_ENTRIES = 0, 2, 4
AVAIL_ENTRY, USED_ENTRY = 2, 8
AVAIL_NO_INTERRUPT, USED_NO_NOTIFY = 1, 1

# Packed: each side's event suppression area is {offset and wrap u16, flags u16}.
EVENT_BYTES = 4
EVENT_OFFSET, EVENT_FLAGS = 0, 2
EVENT_ENABLE, EVENT_DISABLE, EVENT_DESC = 0, 1, 2
EVENT_WRAP = 1 << 15


def avail_bytes(size: int) -> int:
    """Bytes of a split ring's driver area, the event index included."""
    return RING_ENTRIES + size * AVAIL_ENTRY + 2


def used_bytes(size: int) -> int:
    """Bytes of a split ring's device area, the event index included."""
    return RING_ENTRIES + size * USED_ENTRY + 2


# The header before each frame (5.1.6): 10 bytes, and with VERSION_1 or NET_MRG_RXBUF num_buffers u16 behind them.
NET_HEADER, NET_HEADER_MRG, NUM_BUFFERS = 10, 12, 10


def net_header_bytes(features: int) -> int:
    """How long the header is under the negotiated features."""
    long = features & mask(Feature.VERSION_1, Feature.NET_MRG_RXBUF)
    return NET_HEADER_MRG if long else NET_HEADER

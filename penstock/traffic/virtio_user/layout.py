"""The driver's own state of one virtqueue, for kernels and Python.

VIRTQUEUE, and what it points to, lies in the arena. The ring areas (``ring``, ``driver``, ``device``), the slots and
the indirect tables are shared with the back end; all else only this process touches, one thread at a time.

Every descriptor id has a slot, a buffer of its own: ``lead`` free bytes, then ``room`` bytes for (part of) a frame; the
virtio-net header lies right before the frame. Transmit queues keep free ids in a queue (``ids``) and take and return
them in order, so that a back end which uses buffers in order sees them in ring order, as IN_ORDER asks. Receive queues
keep there what the device has used: ``ids`` is then a queue of id | length << 32, of which the first ``described`` -
``released`` entries are lent to the receiver and the rest, up to ``taken``, are not described yet. LINK says for each
id what belongs to the buffer that begins with it; all zero: the device does not have it.
"""

from __future__ import annotations

import errno
from enum import IntEnum

import numpy as np

from penstock.datapath.layout import FRAGS_MAX
from penstock.machine import offset, view
from penstock.ports.vhost_user.virtio import DESC_BYTES

VIRTQUEUE = np.dtype(
    [
        # constant while the queue runs
        ("ring", "i8"),  # descriptors
        ("driver", "i8"),  # split: avail; packed: driver event suppression
        ("device", "i8"),  # split: used; packed: device event suppression
        ("size", "i8"),
        ("flags", "i8"),  # the bits below
        ("delta", "i8"),  # guest address of a byte less its address here
        ("header", "i8"),  # bytes of the virtio-net header
        ("slots", "i8"),
        ("stride", "i8"),
        ("lead", "i8"),
        ("room", "i8"),
        ("single", "i8"),  # transmit: frames up to this length are one descriptor
        ("in_place", "i8"),  # transmit: tails of so many bytes or more stay where they are
        ("low", "i8"),  # the memory that the back end knows
        ("high", "i8"),
        ("ids", "i8"),
        ("ids_mask", "i8"),
        ("links", "i8"),  # LINK of each id
        ("tables", "i8"),  # transmit: indirect table of each id
        ("pieces", "i8"),  # transmit: DESC-like (address, length) of the frame being sent
        ("frags", "i8"),  # receive: FRAGs of the burst
        ("kick", "i8"),  # eventfds
        ("call", "i8"),
        ("one", "i8"),  # what is written to them
        # where the rings stand
        ("next_avail", "i8"),  # split: the index; packed: the position
        ("avail_wrap", "i8"),  # packed
        ("next_used", "i8"),
        ("used_wrap", "i8"),
        ("oldest", "i8"),  # IN_ORDER: the id that the device uses next
        ("batch", "i8"),  # IN_ORDER: buffers left of those that one used entry returned
        ("batch_length", "i8"),
        ("event", "i8"),  # the place that an interrupt was asked for last
        ("free_head", "i8"),  # transmit: place in ``ids`` of the next free id, and how many there are
        ("free_count", "i8"),
        ("taken", "i8"),  # receive
        ("described", "i8"),
        ("released", "i8"),
        ("frag_count", "i8"),
        ("error", "i8"),  # a Fault; the queue stands still
        # statistics
        ("kicks", "i8"),
        ("wakes", "i8"),
        # of the frame being laid out
        ("piece_count", "i8"),
        ("slot_count", "i8"),
        ("target", "i8"),
        ("space", "i8"),
        ("in_table", "i8"),  # whether it goes to an indirect table
        # packed: descriptors put and not published, of which the first is held back
        ("added", "i8"),
        ("held_place", "i8"),
        ("held_word", "i8"),
        ("pad", "i8", 5),
        ("taken_header", "u1", 16),
    ],
    align=True,
)
TAKEN_HEADER, ONE = offset(VIRTQUEUE, "taken_header"), offset(VIRTQUEUE, "one")
virtqueue_at = view(VIRTQUEUE)

EVENT_INDEX, INDIRECT, IN_ORDER, MERGEABLE, APART, SLEEPS = (1 << bit for bit in range(6))

LINK = np.dtype([("ids", "u2"), ("next", "u2"), ("descriptors", "u2"), ("pad", "u2")], align=True)
LINK_BYTES = LINK.itemsize
LINK_SINGLE = 1 | 1 << 32  # one id, one descriptor
link_at = view(LINK)

EPROTO = errno.EPROTO  # an RXQ's error when the device broke the rules
EXTRA_BUFFERS = 48  # taken beyond a burst's packets, so that a 64 KB frame over many buffers is whole

PIECE_BYTES = 16
PIECES_MAX = FRAGS_MAX + 4
TABLE_BYTES = PIECES_MAX * DESC_BYTES
NEVER = 1 << 62
TX_LEAD = 64  # so that a frame begins a cache line


class Fault(IntEnum):
    """What a device did that no device may do."""

    NONE = 0
    USED_INDEX = 1
    USED_ID = 2
    USED_LENGTH = 3
    BUFFER_COUNT = 4


FAULT_TEXTS = {
    Fault.USED_INDEX: "moved its used index further than buffers were available",
    Fault.USED_ID: "returned a buffer that it does not have",
    Fault.USED_LENGTH: "says that it wrote more than a buffer holds, or less than a header",
    Fault.BUFFER_COUNT: "says that a frame lies in no buffer or in too many",
}
BAD_INDEX, BAD_ID, BAD_LENGTH, BAD_COUNT = (int(fault) for fault in list(Fault)[1:])

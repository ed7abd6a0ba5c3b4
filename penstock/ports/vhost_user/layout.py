"""What workers and the engine's main thread share about one vhost-user port.

VHOST is the port: written by the main thread alone, which replaces what is pointed to (REGIONS, LOG, SENDERS) by a
pointer store and frees the old after a quiet point. VRING is one virtqueue: its first part is the main thread's, and
changes only while ``running`` is 0 and every worker has passed a quiet point (but for ``call``, a descriptor that may
be replaced at any time); the second part is the worker's that runs it, or, of a ring that several workers send to,
theirs in turn under ``lock``. The worker takes a ring out of service by setting ``broken``.

CHAIN and the pieces behind it describe the buffers of the present burst as they were read from the ring, once: nothing
in guest memory is looked at a second time.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from penstock.datapath.layout import FRAG_BYTES
from penstock.machine import offset, view

QUEUES_MAX = 16  # queue pairs of one port
REGIONS_MAX = 64
CHAINS_MAX = 64  # looked at together: a burst, or the buffers that one large frame is merged over
PIECES_MAX = 1024  # of those chains together that are in pieces; one packet takes at most FRAGS_MAX
PREPARED_MAX = 3 * CHAINS_MAX  # see ``send_to_ring``: fewer than CHAINS_MAX, one large frame's, a burst of small ones


class Broken(IntEnum):
    """Why a ring was taken out of service: what its guest did."""

    INDEX_JUMPED = 1
    BAD_HEAD = 2
    BAD_BUFFER = 3
    LOST_MEMORY = 4

    @property
    def text(self) -> str:
        return {
            Broken.INDEX_JUMPED: "the index of available buffers jumped by more than the ring's size",
            Broken.BAD_HEAD: "an available buffer has a number outside the descriptor table",
            Broken.BAD_BUFFER: "a receive buffer is not writable, not in the guest's memory, or a chain without an end",
            Broken.LOST_MEMORY: "the file behind the guest's memory was cut off",
        }[self]


# A run of guest memory that is mapped here: host address = guest address + ``offset``.
REGION = np.dtype([("start", "i8"), ("end", "i8"), ("offset", "i8"), ("pad", "i8")], align=True)
REGION_BYTES = REGION.itemsize
REGIONS = np.dtype([("count", "i8"), ("pad", "i8", 7), ("rows", REGION, REGIONS_MAX)], align=True)
REGION_ROWS = offset(REGIONS, "rows")

LOG = np.dtype([("bits", "i8"), ("pages", "i8")], align=True)  # one bit per page of 4 KB
LOG_PAGE_BITS = 12

SENDERS = np.dtype([("count", "i8"), ("rings", "i8", QUEUES_MAX)], align=True)  # rings that the guest receives by
SENDER_RINGS = offset(SENDERS, "rings")

VHOST = np.dtype(
    [
        ("regions", "i8"),
        ("generation", "i8"),  # of ``regions``: what rings remember of an older one is void
        ("log", "i8"),  # 0: no writes are logged
        ("senders", "i8"),
        ("workers", "i8"),
        ("pad", "i8", 3),
    ],
    align=True,
)
VHOST_SENDERS, VHOST_LOG, VHOST_REGIONS = (offset(VHOST, name) for name in ("senders", "log", "regions"))

CHAIN = np.dtype(
    [
        ("guest", "i8"),
        ("host", "i8"),  # of a single buffer; 0: see ``pieces``
        ("length", "i8"),  # of the whole chain
        ("id", "i4"),
        ("count", "i4"),  # places that it takes in the ring
        ("pieces", "i4"),  # index of its first piece
        ("piece_count", "i4"),  # 0 with ``host`` 0: a chain that cannot be used
        ("room", "i8"),  # bytes from ``host`` to the end of the guest's memory there
        ("written", "i8"),  # bytes that we wrote to it
        ("pad", "i8"),
    ],
    align=True,
)
CHAIN_BYTES = CHAIN.itemsize

VRING = np.dtype(
    [
        # the main thread's
        ("running", "i8"),
        ("size", "i8"),
        ("descriptors", "i8"),
        ("driver", "i8"),  # split: available ring; packed: the guest's event suppression area
        ("device", "i8"),  # split: used ring; packed: ours
        ("vhost", "i8"),
        ("call", "i8"),  # eventfd that interrupts the guest; -1: it polls
        ("packed", "i8"),
        ("event_index", "i8"),
        ("header", "i8"),  # bytes before each frame
        ("mergeable", "i8"),
        ("checksums", "i8"),  # whether the guest takes word of checksums
        ("polled", "i8"),  # the guest gave no kick descriptor: never wait for one
        ("used_guest", "i8"),  # guest address of what is written for used buffers, and of ``device``: for the log
        ("device_guest", "i8"),
        ("progress", "i8"),  # where ``last_used`` is noted for a successor; 0: nowhere
        ("one", "i8"),  # the number that an eventfd wants to be written
        ("signal", "i8"),  # address of ``vring_signal``
        ("pad0", "i8", 6),
        # the worker's
        ("lock", "i8"),
        ("last_avail", "i8"),
        ("last_used", "i8"),
        ("seen", "i8"),  # split: the guest's index of available buffers when it was read last
        ("avail_wrap", "i8"),  # packed: the wrap counters
        ("used_wrap", "i8"),
        ("held", "i8"),  # chains of the burst that are not given back yet
        ("armed", "i8"),  # the guest was asked to kick
        ("signalled", "i8"),  # last_used at the last look whether to interrupt; -1 when there was none
        ("generation", "i8"),
        ("start", "i8"),  # the region that was of use last
        ("end", "i8"),
        ("offset", "i8"),
        ("prepared", "i8"),  # packed: number of the used descriptors below, which are not written yet
        ("pieces_used", "i8"),
        ("broken", "i8"),
        ("deferred", "i8"),  # an interrupt is to be thought of at the end of the turn
        ("announce", "i8"),  # MAC address with bit 48 set: send a RARP for it; the main thread sets, the worker clears
        ("calls", "i8"),
        ("bad_chains", "i8"),
        ("kicked", "i8"),
        ("pad1", "i8", 3),
        ("chains", CHAIN, CHAINS_MAX),
        ("used_places", "i8", PREPARED_MAX),
        ("used_words", "i8", PREPARED_MAX),
        # A large frame makes pieces of single buffers, too: one more a chain.
        ("pieces", "i8", (PIECES_MAX + CHAINS_MAX) * FRAG_BYTES // 8),  # FRAGs
        ("guests", "i8", PIECES_MAX + CHAINS_MAX),  # guest address of each piece
    ],
    align=True,
)
RUNNING, CALL, ONE, LOCK = (offset(VRING, name) for name in ("running", "call", "one", "lock"))
CHAINS, PIECES, GUESTS, ANNOUNCE = (offset(VRING, name) for name in ("chains", "pieces", "guests", "announce"))
USED_PLACES, USED_WORDS = (offset(VRING, name) for name in ("used_places", "used_words"))
ANNOUNCED = 1 << 48

regions_at = view(REGIONS)
region_at = view(REGION)
log_at = view(LOG)
senders_at = view(SENDERS)
vhost_at = view(VHOST)
vring_at = view(VRING)
chain_at = view(CHAIN)

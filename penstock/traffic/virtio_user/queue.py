"""One virtqueue of the guest as Python sees it: its memory, its eventfds, what the back end is told of it.

``ring``, ``avail``, ``used`` (split) or ``ring``, ``driver_event``, ``device_event`` (packed) are NumPy views of the
shared areas: a test may write anything there. ``row`` is the driver's own state, VIRTQUEUE. Main thread, while no
kernel uses the queue.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

import numpy as np

from penstock.datapath.layout import FRAG_BYTES, HEADROOM
from penstock.machine import records
from penstock.memory import ARENA_BASE, Arena
from penstock.ports.vhost_user.virtio import (
    AVAIL_NO_INTERRUPT,
    DESC,
    DESC_WRITE,
    EVENT_BYTES,
    EVENT_DISABLE,
    PACKED_AVAIL,
    PACKED_DESC,
    PACKED_USED,
    Feature,
    avail_bytes,
    mask,
    net_header_bytes,
    used_bytes,
)
from penstock.traffic.virtio_user.layout import (
    APART,
    EVENT_INDEX,
    IN_ORDER,
    INDIRECT,
    LINK,
    LINK_BYTES,
    LINK_SINGLE,
    MERGEABLE,
    NEVER,
    PIECE_BYTES,
    PIECES_MAX,
    SLEEPS,
    TABLE_BYTES,
    TX_LEAD,
    VIRTQUEUE,
)

LINE = 64
PACKED_START = 1 << 15 | 1 << 31  # both wrap counters begin as 1
EVENT = np.dtype([("offset", "u2"), ("flags", "u2")], align=True)


@dataclass(frozen=True)
class QueueShape:
    """How a queue is made. ``room``: bytes of frame per buffer; ``delta``: guest address less address here."""

    size: int
    receives: bool
    room: int
    features: int
    delta: int = 0
    sleeps: bool = False
    apart: bool = False
    in_place: int = 0

    @property
    def packed(self) -> bool:
        return bool(self.features & mask(Feature.RING_PACKED))

    def flags(self) -> int:
        """The queue's flags, as kernels read them."""
        found = 0
        for feature, flag in (
            (Feature.RING_EVENT_IDX, EVENT_INDEX),
            (Feature.RING_INDIRECT_DESC, INDIRECT),
            (Feature.IN_ORDER, IN_ORDER),
            (Feature.NET_MRG_RXBUF, MERGEABLE),
        ):
            if self.features & mask(feature):
                found |= flag
        return found | (APART if self.apart else 0) | (SLEEPS if self.sleeps else 0)


def _odd_lines(size: int) -> int:
    """A size in an odd number of cache lines, so that equal slots spread over all of a cache's sets."""
    return (-(-size // LINE) | 1) * LINE


class Virtqueue:
    """A virtqueue in the arena; ``ctx`` is what RxSpec and TxSpec name."""

    def __init__(self, arena: Arena, shape: QueueShape) -> None:
        self.arena = arena
        self.shape = shape
        self._blocks: list[int] = []
        self.kick = self.call = -1
        try:
            self._allocate_all()
        except BaseException:
            self.close()
            raise
        self.reset()

    def _allocate(self, size: int, align: int = LINE) -> int:
        address = self.arena.allocate(size, align)
        self._blocks.append(address)
        return address

    def _allocate_all(self) -> None:
        shape, size = self.shape, self.shape.size
        self.kick, self.call = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self._lead = HEADROOM if shape.receives else TX_LEAD
        self._stride = _odd_lines(self._lead + shape.room + LINE)
        self._ids_count = 1 << (size - 1).bit_length()
        self.ctx = self._allocate(VIRTQUEUE.itemsize)
        self._ring = self._allocate(size * DESC.itemsize)
        self._driver = self._allocate(EVENT_BYTES if shape.packed else avail_bytes(size))
        self._device = self._allocate(EVENT_BYTES if shape.packed else used_bytes(size))
        self._slots = self._allocate(size * self._stride)
        self._ids = self._allocate(self._ids_count * 8)
        self._links = self._allocate(size * LINK_BYTES)
        self._tables = 0 if shape.receives else self._allocate(size * TABLE_BYTES)
        self._pieces = self._allocate(PIECES_MAX * PIECE_BYTES)
        self._frags = self._allocate(size * FRAG_BYTES)
        self.row = records(VIRTQUEUE, self.ctx)[0]
        if shape.packed:
            self.ring = records(PACKED_DESC, self._ring, size)
            self.driver_event = records(EVENT, self._driver)[0]
            self.device_event = records(EVENT, self._device)[0]
        else:
            self.ring = records(DESC, self._ring, size)
            avail = [("flags", "u2"), ("index", "u2"), ("ring", "u2", size), ("used_event", "u2")]
            used = [("flags", "u2"), ("index", "u2"), ("ring", [("id", "u4"), ("length", "u4")], size), ("event", "u2")]
            self.avail = records(np.dtype(avail), self._driver)[0]
            self.used = records(np.dtype(used), self._device)[0]

    def close(self) -> None:
        """Give back memory and descriptors."""
        for fd in (self.kick, self.call):
            if fd >= 0:
                os.close(fd)
        self.kick = self.call = -1
        for block in self._blocks:
            self.arena.free(block)
        self._blocks.clear()

    def reset(self) -> None:
        """Empty the rings and begin anew: all receive buffers available, all transmit ids free."""
        shape, size, row = self.shape, self.shape.size, self.row
        kicks, wakes = int(row["kicks"]), int(row["wakes"])
        for area, area_size in (
            (self.ctx, VIRTQUEUE.itemsize),
            (self._ring, size * DESC.itemsize),
            (self._driver, EVENT_BYTES if shape.packed else avail_bytes(size)),
            (self._device, self.used_bytes),
        ):
            ctypes.memset(area, 0, area_size)
        constants = {
            "ring": self._ring,
            "driver": self._driver,
            "device": self._device,
            "size": size,
            "flags": shape.flags(),
            "delta": shape.delta,
            "header": net_header_bytes(shape.features),
            "slots": self._slots,
            "stride": self._stride,
            "lead": self._lead,
            "room": shape.room,
            "single": 0 if shape.apart else shape.room,
            "in_place": shape.in_place or NEVER,
            "low": ARENA_BASE,
            "high": ARENA_BASE + self.arena.size,
            "ids": self._ids,
            "ids_mask": self._ids_count - 1,
            "links": self._links,
            "tables": self._tables,
            "pieces": self._pieces,
            "frags": self._frags,
            "kick": self.kick,
            "call": self.call,
            "one": 1,
            "kicks": kicks,
            "wakes": wakes,
            "used_wrap": 1,
            "avail_wrap": 1,
            "event": -1,
        }
        for name, value in constants.items():
            row[name] = value
        links = records(np.dtype("i8"), self._links, size)
        links[:] = LINK_SINGLE if shape.receives else 0
        if not shape.receives:
            records(np.dtype("u2"), self._ids, size)[:] = np.arange(size)
            row["free_count"] = size
        self._quiet()
        if shape.receives:
            self._offer_all()

    def _quiet(self) -> None:
        """Ask for no interrupts; a receive queue that sleeps asks when it first finds nothing."""
        if self.shape.packed:
            self.driver_event["flags"] = EVENT_DISABLE
        elif self.row["flags"] & EVENT_INDEX:
            self.row["event"] = self.avail["used_event"] = 0xFFFF
        else:
            self.avail["flags"] = AVAIL_NO_INTERRUPT

    def _offer_all(self) -> None:
        """Make every receive buffer available."""
        size, header = self.shape.size, int(self.row["header"])
        first = self._slots + self._lead - header + self.shape.delta
        self.ring["address"] = first + np.arange(size) * self._stride
        self.ring["length"] = header + self.shape.room
        if self.shape.packed:
            self.ring["id"] = np.arange(size)
            self.ring["flags"] = DESC_WRITE | PACKED_AVAIL
            self.row["avail_wrap"] = 0
        else:
            self.ring["flags"] = DESC_WRITE
            self.avail["ring"] = np.arange(size)
            self.avail["index"] = self.row["next_avail"] = size

    def ring_doorbell(self) -> None:
        """Kick the device whether it asked for it or not."""
        os.eventfd_write(self.kick, 1)

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Descriptors, used ring (device area), available ring (driver area): addresses in this process."""
        return self._ring, self._device, self._driver

    @property
    def used_bytes(self) -> int:
        """Bytes of the area that only the device writes."""
        return EVENT_BYTES if self.shape.packed else used_bytes(self.shape.size)

    @property
    def start(self) -> int:
        """What SET_VRING_BASE says of a queue that was reset."""
        return PACKED_START if self.shape.packed else 0

    @property
    def base_of_used(self) -> int:
        """What SET_VRING_BASE says when the last back end died: to go on behind the last buffer it used."""
        if not self.shape.packed:
            return int(self.used["index"])
        position, wrap, oldest = (int(self.row[name]) for name in ("next_used", "used_wrap", "oldest"))
        links = records(LINK, self._links, self.shape.size)
        while True:
            flags = int(self.ring["flags"][position]) & (PACKED_AVAIL | PACKED_USED)
            if flags != (PACKED_AVAIL | PACKED_USED) * wrap:
                break
            last = int(self.ring["id"][position])
            first = oldest if self.shape.flags() & IN_ORDER else last
            while True:
                position += int(links["descriptors"][first])
                if position >= self.shape.size:
                    position, wrap = position - self.shape.size, 1 - wrap
                oldest = (first + int(links["ids"][first])) % self.shape.size
                if first == last:
                    break
                first = oldest
        place = position | wrap << 15
        return place | place << 16

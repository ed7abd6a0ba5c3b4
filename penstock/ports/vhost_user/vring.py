"""One virtqueue on the control side: what the front end has told of it, and its way into and out of service.

The main thread's alone. While a ring is in service its VRING belongs to a worker; the main thread changes nothing in it
but ``call`` and ``announce``, and takes it back by clearing ``running`` and awaiting a quiet point.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penstock.machine import load16, load64, records, store64, store_release
from penstock.ports.vhost_user.layout import ANNOUNCE, ANNOUNCED, CALL, RUNNING, VRING, Broken
from penstock.ports.vhost_user.memory import GuestMemory, RegionSpec
from penstock.ports.vhost_user.messages import VRING_FLAG_LOG, ProtocolViolation
from penstock.ports.vhost_user.used import PROGRESS_KNOWN, WRAP_SHIFT, vring_begin, vring_signal
from penstock.ports.vhost_user.virtio import (
    DESC_BYTES,
    EVENT_BYTES,
    QUEUE_SIZE_MAX,
    RING_INDEX,
    Feature,
    avail_bytes,
    mask,
    net_header_bytes,
    used_bytes,
)

WRAP = 1 << WRAP_SHIFT


@dataclass
class RingAddress:
    """Where a ring lies, in the front end's addresses (``log``: in the guest's)."""

    flags: int
    descriptors: int
    used: int
    available: int
    log: int


def check_eventfd(fd: int, what: str) -> None:
    """Raise ProtocolViolation unless the descriptor is an eventfd: anything else could make a worker wait for ever."""
    kind = str(Path(f"/proc/self/fd/{fd}").readlink())
    if kind != "anon_inode:[eventfd]":
        raise ProtocolViolation(f"{what} is not an eventfd but {kind}")
    os.set_blocking(fd, False)


@dataclass
class Vring:
    """Virtqueue ``index`` of a port: even ones the guest receives by, odd ones it sends by (5.1.2)."""

    index: int
    address: int
    quiesce: Callable[[], None]
    size: int = 0
    place: RingAddress | None = None
    base: int = 0
    enabled: bool = False
    kick: int = -1
    has_kick: bool = False  # said what wakes us: a descriptor, or that none will
    call: int = -1
    running: bool = False
    record: Any = field(init=False)

    def __post_init__(self) -> None:
        self.record = records(VRING, self.address)[0]

    @property
    def name(self) -> str:
        return f"virtqueue {self.index}"

    @property
    def sends(self) -> bool:
        """Whether the guest sends by it."""
        return self.index % 2 == 1

    @property
    def broken(self) -> Broken | None:
        """What a worker found wrong."""
        found = int(self.record["broken"])
        return Broken(found) if found else None

    @property
    def call_is_full(self) -> bool:
        """Whether no interrupt fits into the guest's eventfd. A write to it blocks if the front end, which shares its
        flags with us, wants that: no front end that reads interrupts lets 2^64 gather.
        """
        if self.call < 0:
            return False
        poller = select.poll()
        poller.register(self.call, select.POLLOUT)
        return not poller.poll(0)

    def free_call(self) -> None:
        """Let whoever waits to write an interrupt go on."""
        os.set_blocking(self.call, False)
        with suppress(BlockingIOError):
            os.eventfd_read(self.call)

    def set_size(self, size: int) -> None:
        if not 0 < size <= QUEUE_SIZE_MAX:
            raise ProtocolViolation(f"{self.name}: size {size} is out of range: 1 to {QUEUE_SIZE_MAX}")
        self.size = size

    def set_call(self, fd: int) -> None:
        """Interrupt the guest by another eventfd from now on; -1: it polls. The old one is closed."""
        old, self.call = self.call, fd
        store_release(self.address + CALL, fd)
        if old >= 0:
            self.quiesce()
            os.close(old)

    def set_kick(self, fd: int) -> None:
        """Be woken by another eventfd; -1: by none. Nobody uses the old one any more, which is closed."""
        if self.kick >= 0:
            os.close(self.kick)
        self.kick, self.has_kick = fd, True

    def ready(self, memory: GuestMemory) -> bool:
        """Whether everything is known that service takes."""
        return bool(self.size and self.place and self.has_kick and self.enabled and memory.regions)

    def start(self, memory: GuestMemory, features: int, progress: int) -> None:
        """Put the ring into service where ``base`` says. Raises ProtocolViolation when it cannot lie where it should.

        ``progress`` is the address of the word that notes what was used, for a successor.
        """
        self._fill(memory, features, progress)
        self._begin_at(self.base)
        if self.call_is_full:
            raise ProtocolViolation(f"{self.name}: no interrupt fits into its eventfd")
        vring_begin(self.address)
        self.running = True
        store_release(self.address + RUNNING, 1)

    def stop(self) -> int:
        """Take the ring out of service; where the next one goes on, as VHOST_USER_SET_VRING_BASE has it."""
        if self.running:
            self.running = False
            store_release(self.address + RUNNING, 0)
            self.quiesce()
            last, wrap = int(self.record["last_avail"]), int(self.record["avail_wrap"])
            self.base = last
            if self.record["packed"]:
                # All that was taken was given back, so both halves are the same.
                half = last | wrap << WRAP_SHIFT
                self.base = half | half << 16
        return self.base

    def forget(self) -> None:
        """Be as before the front end spoke of the ring; it is out of service."""
        assert not self.running
        self.set_call(-1)
        self.set_kick(-1)
        self.size, self.place, self.base, self.enabled, self.has_kick = 0, None, 0, False, False
        self.record["broken"] = 0  # by the guest that was there: the next one is not to blame

    def lies_in(self, region: RegionSpec) -> bool:
        """Whether a part of the ring begins in the region."""
        place = self.place
        parts = (place.descriptors, place.available, place.used) if place else ()
        return any(0 <= part - region.user < region.size for part in parts)

    def to_json(self) -> dict[str, Any]:
        """What a successor needs besides the descriptors."""
        return {
            "size": self.size,
            "place": None if self.place is None else asdict(self.place),
            "base": self.base,
            "enabled": self.enabled,
            "kick": self.kick >= 0,
            "has_kick": self.has_kick,
            "call": self.call >= 0,
            "running": self.running,
        }

    def announce(self, mac: int) -> None:
        """Have a RARP for this address sent as if by the guest."""
        store64(self.address + ANNOUNCE, mac | ANNOUNCED)

    def resume_from(self, progress: int) -> None:
        """Set ``base`` to what an earlier back end, that was killed, had given back last.

        A split ring says it itself; of a packed one it was noted at ``progress``.
        """
        noted = int(load64(progress))
        if noted & PROGRESS_KNOWN:
            half = noted & 0xFFFF
            self.base = half | half << 16

    def _fill(self, memory: GuestMemory, features: int, progress: int) -> None:
        assert self.place is not None
        packed = bool(features & mask(Feature.RING_PACKED))
        if not packed and self.size & (self.size - 1):
            raise ProtocolViolation(f"{self.name}: size {self.size} of a split ring must be a power of two")
        place = self.place
        sizes = (
            (self.size * DESC_BYTES, EVENT_BYTES, EVENT_BYTES)
            if packed
            else (self.size * DESC_BYTES, avail_bytes(self.size), used_bytes(self.size))
        )
        parts = (
            ("descriptors", place.descriptors, 16),
            ("driver area", place.available, 4 if packed else 2),
            ("device area", place.used, 4),
        )
        found = []
        for (what, address, alignment), size in zip(parts, sizes, strict=True):
            if address % alignment:
                raise ProtocolViolation(f"{self.name}: {what} at {address:#x} must be aligned to {alignment} bytes")
            host, guest = memory.find(address, size, f"{self.name}: {what}")
            if host % alignment:
                raise ProtocolViolation(f"{self.name}: {what} at {address:#x} is not aligned in the file behind it")
            found.append((host, guest))
        (descriptors, descriptors_guest), (driver, _), (device, device_guest) = found
        row = self.record
        for name in row.dtype.names:
            if name not in ("chains", "pieces", "guests", "used_places", "used_words", "calls", "bad_chains", "kicked"):
                row[name] = row[name] if name in ("vhost", "call", "announce") else 0
        row["size"], row["descriptors"], row["driver"], row["device"] = self.size, descriptors, driver, device
        row["packed"], row["event_index"] = packed, bool(features & mask(Feature.RING_EVENT_IDX))
        row["header"] = net_header_bytes(features)
        row["mergeable"] = bool(features & mask(Feature.NET_MRG_RXBUF))
        row["checksums"] = bool(features & mask(Feature.NET_GUEST_CSUM))
        row["polled"] = self.kick < 0
        logged = place.log if place.flags & VRING_FLAG_LOG else device_guest
        row["used_guest"] = descriptors_guest if packed else logged
        row["device_guest"] = device_guest if packed else logged
        row["progress"], row["one"], row["signal"] = progress, 1, vring_signal.address
        row["signalled"] = -1

    def _begin_at(self, base: int) -> None:
        row = self.record
        if row["packed"]:
            row["last_avail"], row["avail_wrap"] = base & (WRAP - 1), base >> WRAP_SHIFT & 1
            row["last_used"], row["used_wrap"] = row["last_avail"], row["avail_wrap"]
            if row["last_avail"] >= self.size:
                raise ProtocolViolation(f"{self.name}: base {base:#x} is beyond the ring's {self.size} descriptors")
            return
        # What was taken and not given back by whoever served the ring before is taken again.
        row["last_used"] = load16(int(row["device"]) + RING_INDEX)
        row["last_avail"] = row["seen"] = row["last_used"]

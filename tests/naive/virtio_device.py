"""The device's side of a virtqueue, said slowly: takes available buffers, returns used ones, in both layouts.

Reads and writes the shared areas as bytes, by the tables of virtio 1.2 (2.7.5 to 2.7.10, 2.8.10 to 2.8.21). What no
driver may do fails the test.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
ENABLE, DISABLE, AT_EVENT = 0, 1, 2


@dataclass
class Buffer:
    """What the driver made available at once: its id, how many ring entries it takes, its pieces."""

    number: int
    entries: int
    pieces: list[tuple[int, int]] = field(default_factory=list)
    writable: bool = False

    def read(self) -> bytes:
        assert not self.writable
        return b"".join(ctypes.string_at(address, length) for address, length in self.pieces)

    def write(self, data: bytes) -> int:
        """Fill the buffer with the beginning of ``data``: how much of it there was room for."""
        assert self.writable
        done = 0
        for address, length in self.pieces:
            part = data[done : done + length]
            ctypes.memmove(address, part, len(part))
            done += len(part)
        return done


class NaiveDevice:
    """The device behind one ring; ``ring``, ``used`` and ``avail`` are addresses, as SET_VRING_ADDR has them."""

    def __init__(self, ring: int, used: int, avail: int, size: int, delta: int, event_index: bool) -> None:
        self.ring, self.used, self.avail = ring, used, avail
        self.size, self.delta, self.event_index = size, delta, event_index

    def u16(self, address: int) -> int:
        return int(struct.unpack("<H", ctypes.string_at(address, 2))[0])

    def put(self, address: int, form: str, *values: int) -> None:
        data = struct.pack(form, *values)
        ctypes.memmove(address, data, len(data))

    def table(self, address: int, length: int, chained: bool) -> list[tuple[int, int]]:
        """The pieces of an indirect table."""
        assert length > 0
        assert length % 16 == 0
        pieces = []
        at = 0
        while True:
            place, size, third, fourth = struct.unpack("<QIHH", ctypes.string_at(address + at * 16, 16))
            pieces.append((place - self.delta, size))
            if chained:
                if not third & NEXT:
                    assert len(pieces) == length // 16
                    return pieces
                at = fourth
            else:
                assert fourth & ~WRITE == 0
                at += 1
                if at == length // 16:
                    return pieces


class NaiveSplit(NaiveDevice):
    """A split ring."""

    def __init__(self, *args: int, event_index: bool, start: int = 0) -> None:
        super().__init__(*args, event_index=event_index)
        self.last = start
        self.used_index = start

    def take(self) -> Buffer | None:
        if self.u16(self.avail + 2) == self.last:
            return None
        number = self.u16(self.avail + 4 + self.last % self.size * 2)
        self.last = (self.last + 1) % 65536
        found = Buffer(number, 1)
        at = number
        while True:
            assert at < self.size
            address, length, flags, following = struct.unpack("<QIHH", ctypes.string_at(self.ring + at * 16, 16))
            if flags & INDIRECT:
                assert flags == INDIRECT
                assert not found.pieces
                found.pieces = self.table(address - self.delta, length, chained=True)
                return found
            found.pieces.append((address - self.delta, length))
            found.writable = bool(flags & WRITE)
            if not flags & NEXT:
                return found
            assert len(found.pieces) < self.size
            at = following

    def give(self, buffers: list[tuple[Buffer, int]], as_one: bool = False) -> bool:
        """Return used buffers with the bytes written; ``as_one``: by a single entry. Whether to interrupt."""
        old = self.used_index
        for index, (buffer, length) in enumerate(buffers):
            if not as_one:
                self.put(self.used + 4 + (old + index) % self.size * 8, "<II", buffer.number, length)
        if as_one:
            self.put(self.used + 4 + old % self.size * 8, "<II", buffers[-1][0].number, buffers[-1][1])
        self.used_index = (old + len(buffers)) % 65536
        self.put(self.used + 2, "<H", self.used_index)
        if not self.event_index:
            return not self.u16(self.avail) & 1
        event = self.u16(self.avail + 4 + self.size * 2)
        return any((old + step) % 65536 == event for step in range(len(buffers)))

    def ask_for_kick(self, wanted: bool) -> None:
        """Ask to be told of the next available buffer, or of none."""
        if self.event_index:
            self.put(self.used + 4 + self.size * 8, "<H", self.last if wanted else (self.last - 1) % 65536)
        else:
            self.put(self.used, "<H", 0 if wanted else 1)


class NaivePacked(NaiveDevice):
    """A packed ring."""

    def __init__(self, *args: int, event_index: bool) -> None:
        super().__init__(*args, event_index=event_index)
        self.next_avail, self.avail_wrap = 0, 1
        self.next_used, self.used_wrap = 0, 1

    def take(self) -> Buffer | None:
        pieces: list[tuple[int, int]] = []
        entries = 0
        while True:
            place = self.ring + self.next_avail * 16
            address, length, number, flags = struct.unpack("<QIHH", ctypes.string_at(place, 16))
            if (bool(flags & AVAIL), bool(flags & USED)) != (bool(self.avail_wrap), not self.avail_wrap):
                assert not entries, "a chain was made available in part"
                return None
            entries += 1
            self.next_avail += 1
            if self.next_avail == self.size:
                self.next_avail, self.avail_wrap = 0, 1 - self.avail_wrap
            if flags & INDIRECT:
                assert entries == 1
                assert not flags & NEXT
                return Buffer(number, 1, self.table(address - self.delta, length, chained=False))
            pieces.append((address - self.delta, length))
            if not flags & NEXT:
                return Buffer(number, entries, pieces, bool(flags & WRITE))

    def give(self, buffers: list[tuple[Buffer, int]], as_one: bool = False) -> bool:
        """Return used buffers, as for a split ring."""
        old = self.next_used + self.size * (1 - self.used_wrap)
        moved = 0
        place, wrap = self.next_used, self.used_wrap
        for index, (buffer, length) in enumerate(buffers):
            if not as_one or index == 0:
                number, size = (buffers[-1][0].number, buffers[-1][1]) if as_one else (buffer.number, length)
                flags = (AVAIL | USED) * wrap
                self.put(self.ring + place * 16 + 8, "<IHH", size, number, flags)
            moved += buffer.entries
            place += buffer.entries
            if place >= self.size:
                place, wrap = place - self.size, 1 - wrap
        self.next_used, self.used_wrap = place, wrap
        event, flags = struct.unpack("<HH", ctypes.string_at(self.avail, 4))
        if flags != AT_EVENT:
            return bool(flags == ENABLE)
        wanted = (event & 0x7FFF) + self.size * (1 - (event >> 15))
        return any((old + step) % (2 * self.size) == wanted for step in range(moved))

    def ask_for_kick(self, wanted: bool) -> None:
        """Ask to be told of the next available buffer, or of none."""
        if wanted and self.event_index:
            self.put(self.used, "<HH", self.next_avail | self.avail_wrap << 15, AT_EVENT)
        else:
            self.put(self.used, "<HH", 0, ENABLE if wanted else DISABLE)

"""What a vhost-user back end must do with a ring, whatever its guest wrote there: said slowly, on a copy of its memory.

Nothing of what a guest says is believed: chains are read whole and judged before a byte is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
BURST = 32
PIECES_MAX, PIECES_OF_BURST = 128, 1024
CHAIN_MAX, TABLE_MAX = 256, 1024
FRAME_MAX = 65536 + 128
MERGED_MIN, MERGED_MAX = 1024, 64
JUMPED, BAD_HEAD, BAD_BUFFER = 1, 2, 3

Piece = tuple[int, int]  # where in the memory, bytes


@dataclass
class Chain:
    """One chain as it stands in the ring; ``pieces`` None when it cannot be used."""

    number: int
    places: int
    pieces: list[Piece] | None
    single: bool = False

    @property
    def length(self) -> int:
        return sum(length for _place, length in self.pieces or ())

    @property
    def usable(self) -> bool:
        return self.pieces is not None and (self.single or bool(self.pieces))


@dataclass
class NaiveBackend:
    """One ring. ``regions`` are (guest address, bytes, place in ``data``); ``table``, ``driver``, ``device`` places."""

    data: bytearray
    regions: list[tuple[int, int, int]]
    table: int
    driver: int
    device: int
    size: int
    packed: bool
    header: int
    mergeable: bool = False
    position: int = 0  # split: index of the next available buffer; packed: place of it
    wrap: int = 1
    used_position: int = 0
    used_wrap: int = 1
    broken: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    written: list[tuple[int, int]] = field(default_factory=list)  # (place, bytes)

    def get(self, place: int, form: str) -> tuple[int, ...]:
        return struct.unpack_from(form, self.data, place)

    def put(self, place: int, data: bytes) -> None:
        self.data[place : place + len(data)] = data
        if data:
            self.written.append((place, len(data)))

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.drops[reason] = self.drops.get(reason, 0) + count

    def translate(self, guest: int, length: int) -> int | None:
        for start, size, place in self.regions:
            if start <= guest < start + size and guest + length <= start + size:
                return place + guest - start
        return None

    # Reading chains

    def take_pieces(self, descriptors: list[tuple[int, int, int]], write: int, room: int) -> list[Piece] | None:
        """The pieces that (address, length, flags) name, at most ``room``; None when one of them cannot be used."""
        found: list[Piece] = []
        for address, length, flags in descriptors:
            if flags & INDIRECT or flags & WRITE != write:
                return None
            if length == 0:
                continue
            place = self.translate(address, length)
            if place is None or len(found) == min(PIECES_MAX, room):
                return None
            found.append((place, length))
        return found

    def linked(self, table: int, count: int, at: int, room: int) -> list[tuple[int, int, int]] | None:
        """The descriptors of a split table from ``at`` on; None when they do not end."""
        found = []
        while len(found) < room:
            if at >= count:
                return None
            address, length, flags, following = self.get(table + at * 16, "<QIHH")
            found.append((address, length, flags))
            if not flags & NEXT:
                return found
            at = following
        return None

    def indirect(self, address: int, length: int, write: int, room: int) -> list[Piece] | None:
        count = length // 16
        table = self.translate(address, length)
        if not 0 < count <= TABLE_MAX or length % 16 or address % 8 or table is None or table % 8:
            return None
        if self.packed:
            rows = [self.get(table + n * 16, "<QIHH") for n in range(min(count, CHAIN_MAX + 1))]
            if count > CHAIN_MAX:
                return None
            return self.take_pieces([(row[0], row[1], row[3]) for row in rows], write, room)
        chain = self.linked(table, count, 0, min(count, CHAIN_MAX))
        return None if chain is None else self.take_pieces(chain, write, room)

    def split_chain(self, head: int, write: int, room: int) -> Chain:
        address, length, flags, following = self.get(self.table + head * 16, "<QIHH")
        if flags & (NEXT | WRITE | INDIRECT) == write:
            place = self.translate(address, length)
            if place is not None:
                return Chain(head, 1, [(place, length)], single=True)
        if flags & INDIRECT:
            return Chain(head, 1, None if flags & NEXT else self.indirect(address, length, write, room))
        rest = self.linked(self.table, self.size, following, min(self.size, CHAIN_MAX)) if flags & NEXT else []
        if rest is None:
            return Chain(head, 1, None)
        return Chain(head, 1, self.take_pieces([(address, length, flags), *rest], write, room))

    def available(self, position: int, wrap: int) -> bool:
        flags = self.get(self.table + position * 16 + 14, "<H")[0]
        return (bool(flags & AVAIL), bool(flags & USED)) == (bool(wrap), not wrap)

    def packed_chain(self, position: int, wrap: int, write: int, room: int, left: int) -> Chain:
        """``left``: ring places that chains before it in the burst have not taken."""
        rows = []
        ended = False
        while len(rows) < left and self.available(position, wrap) and not ended:
            rows.append(self.get(self.table + position * 16, "<QIHH"))
            ended = not rows[-1][3] & NEXT
            position = (position + 1) % self.size
            wrap ^= position == 0
        address, length, _number, flags = rows[0]
        number = rows[-1][2]
        if flags & (NEXT | WRITE | INDIRECT) == write:
            place = self.translate(address, length)
            if place is not None:
                return Chain(number, 1, [(place, length)], single=True)
        pieces: list[Piece] | None = None
        if not ended:
            pass
        elif flags & INDIRECT:
            pieces = self.indirect(address, length, write, room) if len(rows) == 1 else None
        else:
            pieces = self.take_pieces([(row[0], row[1], row[3]) for row in rows], write, room)
        return Chain(number, len(rows), pieces)

    def peek(self, limit: int, write: int) -> list[Chain]:
        """Up to ``limit`` available chains, as they are read together."""
        found: list[Chain] = []
        room = PIECES_OF_BURST
        position, wrap = self.position, self.wrap
        if not self.packed:
            waiting = (self.get(self.driver + 2, "<H")[0] - position) % 65536
            if waiting > self.size:
                self.broken = JUMPED
                return []
            limit = min(limit, waiting)
        while len(found) < limit:
            if self.packed:
                left = self.size - sum(chain.places for chain in found)
                if left <= 0 or not self.available(position, wrap):
                    break
                chain = self.packed_chain(position, wrap, write, room, left)
                position += chain.places
                if position >= self.size:
                    position, wrap = position - self.size, 1 - wrap
            else:
                head = self.get(self.driver + 4 + (position + len(found)) % self.size * 2, "<H")[0]
                if head >= self.size:
                    self.broken = BAD_HEAD
                    break
                chain = self.split_chain(head, write, room)
            if not chain.single:
                room -= len(chain.pieces or ())
            found.append(chain)
        return found

    def advance(self, chains: list[Chain]) -> None:
        if not self.packed:
            self.position = (self.position + len(chains)) % 65536
            return
        self.position += sum(chain.places for chain in chains)
        if self.position >= self.size:
            self.position, self.wrap = self.position - self.size, 1 - self.wrap

    def give_back(self, done: list[tuple[Chain, int]]) -> None:
        """Have the guest see chains as used, with the bytes written to each."""
        for chain, length in done:
            if not self.packed:
                place = self.device + 4 + self.used_position % self.size * 8
                self.put(place, struct.pack("<II", chain.number, length))
                self.used_position = (self.used_position + 1) % 65536
                continue
            flags = (WRITE if length else 0) | (AVAIL | USED) * self.used_wrap
            place = self.table + self.used_position * 16
            self.put(place + 8, struct.pack("<IHH", length, chain.number, flags))
            self.used_position += chain.places
            if self.used_position >= self.size:
                self.used_position, self.used_wrap = self.used_position - self.size, 1 - self.used_wrap
        if done and not self.packed:
            self.put(self.device + 2, struct.pack("<H", self.used_position))

    # Frames

    def receive(self) -> list[tuple[bytes, bytes]]:
        """One burst of what the guest sends: (header, frame) of those that can be one. All buffers go back."""
        frames = []
        chains = self.peek(BURST, 0)
        self.advance(chains)
        for chain in chains:
            length = chain.length - self.header
            if length > FRAME_MAX:
                self.drop("oversized")
            elif length < 14:
                self.drop("bad_descriptor")
            else:
                data = b"".join(bytes(self.data[place : place + size]) for place, size in chain.pieces or ())
                frames.append((data[: self.header], data[self.header :]))
        self.give_back([(chain, 0) for chain in chains])
        return frames

    def send(self, frames: list[bytes]) -> int:
        """Send a burst to the guest: how many frames were sent."""
        done: list[tuple[Chain, int]] = []
        sent = 0
        for number, frame in enumerate(frames):
            chains = self.reserve(len(frame) + self.header, len(frames) - number)
            if chains is None:
                self.drop("buffers_too_small")
                continue
            if not chains:
                self.drop("port_down" if self.broken else "tx_ring_full", len(frames) - number)
                break
            header = bytes(10) + struct.pack("<H", len(chains))
            left = header[: self.header] + frame
            for chain in chains:
                written = 0
                for place, size in chain.pieces or ():
                    self.put(place, left[:size])
                    written += len(left[:size])
                    left = left[size:]
                done.append((chain, written))
            self.advance(chains)
            sent += 1
        self.give_back(done)
        return sent

    def look_ahead(self, count: int) -> None:
        """The heads for all ``count`` frames that are left are read before one is sent, and may be wrong."""
        if self.packed:
            return
        waiting = (self.get(self.driver + 2, "<H")[0] - self.position) % 65536
        for ahead in range(min(count, waiting) if waiting <= self.size else 0):
            if self.get(self.driver + 4 + (self.position + ahead) % self.size * 2, "<H")[0] >= self.size:
                self.broken = BAD_HEAD

    def reserve(self, size: int, frames: int) -> list[Chain] | None:
        """The chains that a frame goes into; none when there are too few, None when no number would do."""
        self.look_ahead(frames)
        first = self.peek(1, WRITE)
        if first and first[0].single and first[0].length >= size:
            return first
        limit = min(size // MERGED_MIN + 1, MERGED_MAX) if self.mergeable else 1
        chains = self.peek(limit, WRITE)
        room = 0
        for index, chain in enumerate(chains):
            if not chain.usable:
                self.broken = BAD_BUFFER
                return []
            room += chain.length
            if room >= size:
                return chains[: index + 1]
        return None if len(chains) == limit else []

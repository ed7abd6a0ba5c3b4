"""The rings of a vhost-user port, with whatever a guest may write there, against a back end said slowly in Python."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import port_vnet
from naive.vhost_backend import NaiveBackend

from penstock.datapath.layout import BURST, FRAG, HEADER_MAX
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports.vhost_user.layout import CHAINS_MAX, VRING, Broken
from penstock.ports.vhost_user.memory import RegionSpec
from penstock.ports.vhost_user.port import VhostUser
from penstock.ports.vhost_user.virtio import Feature, mask, net_header_bytes
from penstock.ports.vhost_user.vring import RingAddress
from tests.kernel.compiled import JIT
from tests.kernel.port_support import Queues, open_port

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15
USER = 0x7000_0000_0000
# Guest address, bytes, place in the file. The guest sees the third begin where the second ends; they are apart here.
RINGS = (0x10000, 0x20000, 0x0)
TABLES = (0x100000, 0x10000, 0x20000)
LOW = (0x200000, 0x20000, 0x30000)
HIGH = (0x220000, 0x20000, 0x60000)
REGIONS = [RINGS, TABLES, LOW, HIGH]
FILE_BYTES = 0x90000
TABLE_AT, DRIVER_AT, DEVICE_AT = 0x0, 0x8000, 0x10000
LOG_BYTES = (HIGH[0] + HIGH[1] >> 12) // 8 + 1
SLOT = 2048
LENGTHS = (0, 1, 11, 12, 13, 25, 26, 72, 76, 77, 140, 268, 269, 1024, 1500, 2048, 4096, 65000, 65676, 65677)
HUGE = (70000, 1 << 17, 1 << 31, (1 << 32) - 1)


class Bench:
    """A port without a connection, whose rings are put into service by hand, and its guest's memory."""

    def __init__(self, arena: Arena, path: Path) -> None:
        port = open_port(arena, VhostUser, "vm", path=str(path), mode="client")
        assert isinstance(port, VhostUser)
        self.port = port
        self.queues = Queues(arena, port)
        self.fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, FILE_BYTES)
        specs = [RegionSpec(guest, size, USER + guest, place) for guest, size, place in REGIONS]
        port._memory.replace(specs, [self.fd] * len(specs))
        self.log_fd = os.memfd_create("log", os.MFD_CLOEXEC)
        os.ftruncate(self.log_fd, LOG_BYTES)
        port._log.map(os.dup(self.log_fd), LOG_BYTES, 0)

    def close(self) -> None:
        self.stop()
        self.port._log.close()
        self.port.close()
        os.close(self.fd)
        os.close(self.log_fd)

    def stop(self) -> None:
        for vring in self.port._vrings:
            vring.stop()
            vring.forget()
        self.port._log.enable(False)

    def start(self, index: int, data: bytes, features: int, size: int, base: int) -> NaiveBackend:
        """Put a ring with this content into service, and a naive twin of it; log from then on."""
        os.pwrite(self.fd, data, 0)
        vring = self.port._vrings[index]
        vring.size, vring.base = size, base
        guest = USER + RINGS[0]
        vring.place = RingAddress(0, guest + TABLE_AT, guest + DEVICE_AT, guest + DRIVER_AT, 0)
        vring.start(self.port._memory, features, 0)
        self.port._publish_senders()
        os.pwrite(self.log_fd, bytes(LOG_BYTES), 0)
        self.port._log.enable(True)
        for row in (*self.queues.rxqs, *self.queues.txqs):
            row[1]["counters"] = self.queues.counters_at
        ctypes.memset(self.queues.counters_at, 0, self.queues.counters.nbytes)
        packed = bool(features & mask(Feature.RING_PACKED))
        twin = NaiveBackend(
            bytearray(self.memory),
            REGIONS,
            TABLE_AT,
            DRIVER_AT,
            DEVICE_AT,
            size,
            packed,
            net_header_bytes(features),
            bool(features & mask(Feature.NET_MRG_RXBUF)),
        )
        row = vring.record
        twin.position, twin.used_position = int(row["last_avail"]), int(row["last_used"])
        if packed:
            twin.wrap = twin.used_wrap = int(row["avail_wrap"])
        return twin

    @property
    def memory(self) -> bytes:
        return os.pread(self.fd, FILE_BYTES, 0)

    @property
    def logged(self) -> set[int]:
        """Pages noted as written."""
        log = os.pread(self.log_fd, LOG_BYTES, 0)
        return {page for page in range(LOG_BYTES * 8) if log[page // 8] >> page % 8 & 1}

    def frame(self, index: int) -> bytes:
        """The bytes of a received packet, whose tail may be in pieces."""
        p = self.queues.packets[index]
        if not p["frags"]:
            return self.queues.frame(index)
        frags = records(FRAG, int(p["frags"]), int(p["frag_count"]))
        pieces = [ctypes.string_at(int(each["address"]), int(each["length"])) for each in frags]
        assert sum(map(len, pieces)) == p["tail_len"]
        return ctypes.string_at(int(p["head"]), int(p["head_len"])) + b"".join(pieces)

    def compare(self, index: int, twin: NaiveBackend) -> None:
        """Memory, log, drops and state of the ring, against the twin's."""
        row = self.port._vrings[index].record
        assert int(row["broken"]) == twin.broken
        assert self.queues.drops() == twin.drops
        assert (int(row["last_avail"]), int(row["last_used"])) == (twin.position, twin.used_position)
        memory = self.memory
        if memory != twin.data:
            place = next(i for i in range(FILE_BYTES) if memory[i] != twin.data[i])
            raise AssertionError(f"memory differs at {place:#x}: {memory[place:][:16]!r}, {twin.data[place:][:16]!r}")
        pages = set()
        for place, length in twin.written:
            guest, _size, start = next(r for r in REGIONS if r[2] <= place < r[2] + r[1])
            first = guest + place - start
            pages |= set(range(first >> 12, (first + length - 1 >> 12) + 1))
        assert self.logged == pages


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    arena = Arena.create(64 << 20, huge_pages=False)
    made = Bench(arena, tmp_path_factory.mktemp("vhost") / "none.sock")
    yield made
    made.close()
    made.queues.close()
    arena.close()


class Scribbler:
    """Writes a ring as a guest would that is well-behaved now and then."""

    def __init__(self, chance: random.Random, packed: bool, size: int, write: int) -> None:
        self.chance, self.packed, self.size, self.write = chance, packed, size, write
        self.data = bytearray(FILE_BYTES)
        for region in (LOW, HIGH):
            for place in range(region[2], region[2] + region[1], SLOT):
                header = bytes(12) if chance.random() < 0.8 else self.header()
                self.data[place : place + SLOT] = header + chance.randbytes(SLOT - 12)

    def header(self) -> bytes:
        """An offload header, right or wrong."""
        pick = self.chance.choice
        return port_vnet.HEADER.pack(
            pick((0, 1, 1, 2, 3, 255)),
            pick((0, 0, 1, 3, 4, 5, 0x81, 7)),
            pick((0, 54, 65535)),
            pick((0, 1, 8, 100, 1448)),
            pick((0, 14, 34, 54, 250, 65535)),
            pick((0, 6, 16, 65535)),
        ) + bytes(2)

    def slot(self) -> int:
        region = self.chance.choice((LOW, HIGH))
        return region[0] + self.chance.randrange(region[1] // SLOT) * SLOT

    def wild(self) -> tuple[int, int, int]:
        """(address, length, flags) of anything."""
        chance = self.chance
        address = chance.choice(
            (
                self.slot(),
                HIGH[0] - chance.randrange(3000),  # across two regions that touch in the guest's eyes
                HIGH[0] + HIGH[1] - chance.randrange(3000),
                LOW[0] - chance.randrange(100),
                chance.getrandbits(64),
                (1 << 64) - chance.randrange(1, 3000),
                (1 << 63) - chance.randrange(100),
                0,
            )
        )
        length = chance.choice((*LENGTHS, *HUGE))
        return address, length, chance.choice((self.write, self.write, 0, WRITE, INDIRECT, 0xFF78))

    def good(self) -> tuple[int, int, int]:
        return self.slot(), self.chance.choice(LENGTHS[7:-4]), self.write

    def pieces(self) -> list[tuple[int, int, int]]:
        """The descriptors of one chain."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.5:
            return [self.good()]
        if kind < 0.6:
            return [self.wild()]
        found = [
            (self.slot(), chance.choice((0, 1, 3, 9, 10, 12, 14, 60, 300, 1500)), self.write)
            for _ in range(chance.choice((2, 3, 5, 17, 127, 128, 129, 200)))
        ]
        if kind < 0.7:
            found[chance.randrange(len(found))] = self.wild()
        return found

    def indirect(self, pieces: list[tuple[int, int, int]]) -> tuple[int, int, int]:
        """A descriptor of a table with these pieces, mostly."""
        chance = self.chance
        at = chance.randrange(TABLES[1] // 16 - 300) * 16
        for number, (address, length, flags) in enumerate(pieces):
            place = TABLES[2] + at + number * 16
            if self.packed:
                struct.pack_into("<QIHH", self.data, place, address, length, 0, flags)
            else:
                last = number + 1 == len(pieces)
                following = number + 1 if chance.random() < 0.995 else chance.getrandbits(16)
                struct.pack_into(
                    "<QIHH", self.data, place, address, length, flags | (0 if last else NEXT), 0 if last else following
                )
        bytes_of_table = len(pieces) * 16
        if chance.random() < 0.1:
            bytes_of_table = chance.choice((0, 8, 15, 16 * 1024, 16 * 1025, *HUGE))
            at += chance.choice((0, 4, 8))
        return TABLES[0] + at, bytes_of_table, INDIRECT | (chance.choice((0, 0, 0, NEXT, WRITE)))

    def split(self, start: int) -> bytes:
        """A split ring's content, its used index at ``start``."""
        chance, size = self.chance, self.size
        put = struct.pack_into
        put("<H", self.data, DEVICE_AT + 2, start)
        at, offered = 0, 0
        while at < size and chance.random() < 0.97:
            pieces = self.pieces()
            if len(pieces) > size - at or chance.random() < 0.2:
                pieces = [self.indirect(pieces)]
            for number, (address, length, flags) in enumerate(pieces):
                last = number + 1 == len(pieces)
                following = at + number + 1 if chance.random() < 0.99 else chance.choice((at, 0, size, 65535))
                flags |= 0 if last else NEXT
                put("<QIHH", self.data, TABLE_AT + (at + number) * 16, address, length, flags, following % 65536)
            head = at if chance.random() < 0.99 else chance.choice((size, 65535, 0))
            put("<H", self.data, DRIVER_AT + 4 + (start + offered) % size * 2, head)
            at += len(pieces)
            offered += 1
        jump = chance.choice((size + 1, 32768, 65535)) if chance.random() < 0.05 else offered
        put("<H", self.data, DRIVER_AT + 2, (start + jump) % 65536)
        return bytes(self.data)

    def packed_ring(self, start: int, wrap: int) -> bytes:
        """A packed ring's content, from ``start`` on."""
        chance, size = self.chance, self.size
        for place in range(size):
            flags = USED * wrap if place >= start else USED * (1 - wrap)
            struct.pack_into("<QIHH", self.data, TABLE_AT + place * 16, 0, 0, 0, flags | AVAIL * (flags != 0))
        at = 0
        while at < size and chance.random() < 0.97:
            pieces = self.pieces()
            if len(pieces) > size - at or chance.random() < 0.2:
                pieces = [self.indirect(pieces)]
            for number, (address, length, flags) in enumerate(pieces):
                place = (start + at + number) % size
                turn = wrap ^ (start + at + number >= size)
                flags = flags & ~(AVAIL | USED) | (AVAIL if turn else USED)
                if number + 1 < len(pieces) or chance.random() < 0.01:
                    flags |= NEXT
                if chance.random() < 0.005:
                    flags ^= AVAIL
                number_of = chance.getrandbits(16)
                struct.pack_into("<QIHH", self.data, TABLE_AT + place * 16, address, length, number_of, flags)
            at += len(pieces)
        return bytes(self.data)


def prepared(bench: Bench, seed: int, index: int, packed: bool, legacy: bool, mergeable: bool) -> Any:
    """A ring in service with content from a seed, and its twin."""
    chance = random.Random(seed)
    features = mask(Feature.NET_MRG_RXBUF) if mergeable else 0
    features |= 0 if legacy and not packed else mask(Feature.VERSION_1)
    write = 0 if index else WRITE
    if packed:
        features |= mask(Feature.RING_PACKED)
        size = chance.choice((1, 2, 3, 7, 48, 256, 300))
        start, wrap = chance.randrange(size), chance.randrange(2)
        content = Scribbler(chance, True, size, write).packed_ring(start, wrap)
        base = start | wrap << 15
    else:
        size = 1 << chance.randrange(9)
        start = chance.choice((0, 3, 65535, 65530))
        content = Scribbler(chance, False, size, write).split(start)
        base = 0
    return bench.start(index, content, features, size, base), chance


SEEDS = st.integers(0, (1 << 64) - 1)


@settings(max_examples=300)
@given(SEEDS, st.booleans(), st.booleans())
def test_what_a_guest_sends(bench: Bench, seed: int, packed: bool, legacy: bool) -> None:
    twin, _chance = prepared(bench, seed, 1, packed, legacy, False)
    try:
        for _ in range(6):
            frames = []
            for header, frame in [] if twin.broken else twin.receive():
                offload = port_vnet.parse(header[:10], frame[:HEADER_MAX], frame[HEADER_MAX:])
                if offload is None:
                    twin.drop("bad_offload")
                else:
                    frames.append((frame, offload))
            stopped = bool(twin.broken) and not frames
            count = bench.queues.receive()
            if count < 0:
                assert stopped
                break
            packets = bench.queues.packets[:count]
            found = [
                (bench.frame(n), port_vnet.Offload(*(int(p[name]) for name in port_vnet.Offload._fields)))
                for n, p in enumerate(packets)
            ]
            assert found == frames
            bench.queues.release()
            bench.compare(1, twin)
    finally:
        bench.stop()


@settings(max_examples=300)
@given(SEEDS, st.booleans(), st.booleans(), st.booleans())
def test_what_a_guest_receives(bench: Bench, seed: int, packed: bool, legacy: bool, mergeable: bool) -> None:
    twin, chance = prepared(bench, seed, 0, packed, legacy, mergeable)
    try:
        for _ in range(3):
            frames = [chance.randbytes(chance.choice(SIZES)) for _ in range(chance.choice((1, 2, 8, 31, BURST)))]
            if not twin.broken:
                twin.send(frames)
            else:
                twin.drop("port_down", len(frames))
            transmit(bench, frames)
            bench.compare(0, twin)
    finally:
        bench.stop()


SIZES = (14, 42, 60, 60, 64, 65, 128, 256, 257, 300, 1012, 1500, 1514, 2036, 2037, 9000, 65535)


def transmit(bench: Bench, frames: list[bytes]) -> None:
    """Send frames, heads and tails as a port would describe them."""
    queues = bench.queues
    block = queues.arena.allocate(sum(len(frame) + 512 for frame in frames))
    at = block
    for index, frame in enumerate(frames):
        p = queues.packets[index]
        for name in p.dtype.names or ():
            p[name] = 0
        ctypes.memmove(at, frame, len(frame))
        head_len = min(len(frame), HEADER_MAX)
        p["head"], p["head_len"], p["tail"], p["tail_len"] = at, head_len, at + head_len, len(frame) - head_len
        ctypes.memset(at + len(frame), 0xEE, 256)  # what no guest may see
        at += len(frame) + 256
    queues.transmit([queues.packet_address(index) for index in range(len(frames))])
    queues.arena.free(block)


class TestLimits:
    """Contents that fill what is set aside for a burst to the last place."""

    def fill(self, bench: Bench, chains: list[list[int]], packed: bool) -> NaiveBackend:
        """Receive buffers, each of pieces of these lengths, by indirect tables."""
        size = 256
        data = bytearray(FILE_BYTES)
        at = 0
        for number, lengths in enumerate(chains):
            address, length, flags = HIGH[0], lengths[0], WRITE
            if len(lengths) > 1:
                address, length, flags = TABLES[0] + at, 16 * len(lengths), INDIRECT
                for index, piece in enumerate(lengths):
                    rest = (0, WRITE) if packed else (WRITE | NEXT * (index + 1 < len(lengths)), index + 1)
                    struct.pack_into("<QIHH", data, TABLES[2] + at + index * 16, LOW[0] + index * 64, piece, *rest)
                at += length
            tail = (number, flags | AVAIL) if packed else (flags, 0)
            struct.pack_into("<QIHH", data, TABLE_AT + number * 16, address, length, *tail)
            struct.pack_into("<H", data, DRIVER_AT + 4 + number * 2, number)
        struct.pack_into("<H", data, DRIVER_AT + 2, len(chains))
        features = mask(Feature.VERSION_1, Feature.NET_MRG_RXBUF) | (mask(Feature.RING_PACKED) if packed else 0)
        return bench.start(0, bytes(data), features, size, 1 << 15 if packed else 0)

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_frame_over_many_pieces_and_single_buffers(self, bench: Bench, packed: bool) -> None:
        twin = self.fill(bench, [[1] * 128] * 8 + [[1200]] * 64, packed)
        behind = bench.queues.arena.allocate(0)  # only to say that nothing beyond the ring is touched: see below
        bench.queues.arena.free(behind)
        row = bench.port._vrings[0]
        beyond = ctypes.string_at(row.address + VRING.itemsize, 4096)
        frame = random.Random(1).randbytes(65000)
        try:
            twin.send([frame])
            transmit(bench, [frame])
            bench.compare(0, twin)
            assert ctypes.string_at(row.address + VRING.itemsize, 4096) == beyond
        finally:
            bench.stop()

    @pytest.mark.parametrize("packed", [False, True])
    def test_large_frames_and_a_burst_of_small_ones(self, bench: Bench, packed: bool) -> None:
        twin = self.fill(bench, [[1024]] * 250, packed)
        chance = random.Random(2)
        frames = [chance.randbytes(size) for size in [63 * 1024 - 12, 64 * 1024 - 12, *[60] * 30]]
        try:
            assert twin.send(frames) == BURST
            transmit(bench, frames)
            bench.compare(0, twin)
        finally:
            bench.stop()

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_loop_of_empty_buffers_ends_early(self, bench: Bench, packed: bool) -> None:
        size = 32768 // 16
        data = bytearray(FILE_BYTES)
        for number in range(size):
            tail = (number, AVAIL | NEXT) if packed else (NEXT, (number + 1) % size)
            struct.pack_into("<QIHH", data, TABLE_AT + number * 16, LOW[0], 0, *tail)
        struct.pack_into("<H", data, DRIVER_AT + 2, size)
        features = mask(Feature.VERSION_1) | (mask(Feature.RING_PACKED) if packed else 0)
        twin = bench.start(1, bytes(data), features, size, 1 << 15 if packed else 0)
        try:
            assert twin.receive() == []
            assert bench.queues.receive() == 0
            bench.compare(1, twin)
        finally:
            bench.stop()


@pytest.mark.skipif(not JIT, reason="plain Python would hold the lock that the other thread needs")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_a_guest_that_writes_while_it_is_read(bench: Bench, packed: bool, index: int) -> None:
    """Nothing is certain then but that the back end stays within its own and the guest's memory."""
    chance = random.Random(index)
    stop = threading.Event()
    features = mask(Feature.VERSION_1, Feature.NET_MRG_RXBUF) | (mask(Feature.RING_PACKED) if packed else 0)
    size = 8
    contents = []
    for _ in range(16):
        scribbler = Scribbler(chance, packed, size, 0 if index else WRITE)
        whole = scribbler.packed_ring(0, chance.randrange(2)) if packed else scribbler.split(0)
        contents.append(whole[: TABLES[2]])

    def scribble() -> None:
        order = random.Random(3)
        while not stop.is_set():
            os.pwrite(bench.fd, order.choice(contents), 0)

    before = bench.port._vrings[1 - index].record.tobytes()
    frames = [bytes(60)] * BURST
    thread = threading.Thread(target=scribble)
    thread.start()
    rounds = 0
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            bench.start(index, contents[rounds % 16], features, size, 1 << 15 if packed else 0)
            row = bench.port._vrings[index].record
            for _ in range(50):
                if index == 0:
                    transmit(bench, frames)
                elif bench.queues.receive() >= 0:
                    bench.queues.release()
                assert not packed or 0 <= row["last_avail"] < size
                assert not packed or 0 <= row["last_used"] < size
                assert row["broken"] in (0, *Broken)
                assert row["pieces_used"] <= 1024 + CHAINS_MAX
            bench.stop()
            rounds += 1
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(AssertionError):
            bench.stop()
    assert rounds > 3
    assert bench.port._vrings[1 - index].record.tobytes() == before

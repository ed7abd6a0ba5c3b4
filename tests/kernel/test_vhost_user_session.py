"""The socket of a vhost-user port: what each message does, and that what the protocol does not allow ends the guest's
session, with a reason, and nothing else.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from penstock.engine.engine import Engine
from penstock.engine.open_port import EngineFault
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec
from penstock.ports.vhost_user.messages import (
    DESCRIPTORS_MAX,
    INFLIGHT,
    LOG_AREA,
    MEMORY_HEADER,
    NEED_REPLY,
    SINGLE_REGION,
    U64,
    VRING_NO_FD,
    VRING_STATE,
    ProtocolFeature,
    Request,
    encode,
)
from penstock.ports.vhost_user.port import VhostUser
from penstock.ports.vhost_user.requests import PROTOCOL_FEATURES
from penstock.ports.vhost_user.virtio import Feature, mask
from penstock.traffic.virtio_user.front import Refused, Region, close_inflight
from tests.engine.support import add_dummy, clear, counters, drops, dummy, frame, mac, send, sent, wait_until
from tests.kernel.vhost_support import (
    AREAS,
    BASIC,
    BUFFER_BYTES,
    BUFFERS,
    GUEST,
    MEMORY_BYTES,
    PACKED,
    PACKED_START,
    RING_SIZE,
    USER,
    WRITE,
    Front,
    Guest,
    Memory,
    add_vhost,
    open_descriptors,
    shared_mappings,
    vring_address,
)

ARENA = 256 << 20
ACK = 1 << ProtocolFeature.REPLY_ACK
PLACES = tuple(USER + area for area in (AREAS[0], AREAS[2], AREAS[1]))  # as SET_VRING_ADDR has them
RINGS = pytest.mark.parametrize("features", [BASIC, BASIC | PACKED], ids=["split", "packed"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Engine]:
    warm(lambda _done, _total, _name: None)
    made = Engine(workers=1, arena_bytes=ARENA, huge_pages=False)
    yield made
    made.stop()


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    """An engine with a bridge of two dummy ports."""
    shared.add_bridge(BridgeSpec("br0"))
    for name in ("left", "right"):
        add_dummy(shared, name)
    yield shared
    clear(shared)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vm.sock"


@pytest.fixture
def port(engine: Engine, path: Path) -> VhostUser:
    return add_vhost(engine, path)


@contextmanager
def connected(engine: Engine, path: Path, protocol: int = 0) -> Iterator[Front]:
    """A front end that has agreed on features, and said nothing else."""
    front = Front(engine, path)
    front.set_features(BASIC)
    front.set_protocol_features(protocol)
    front.acknowledged = bool(protocol & ACK)
    yield front
    front.close()
    front.serve()


def allocated(engine: Engine) -> int:
    """Bytes of the arena that somebody holds."""
    return sum(engine.arena._sizes.values())


def forwards(engine: Engine) -> bool:
    """Whether a frame gets from one other port to another."""
    data = frame(b"\xff" * 6, mac(77))
    send(engine, "left", [data])
    return data in sent(engine, "right")


class TestGoodMessages:
    def test_features_are_offered_and_chosen(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path) as front:
            assert front.get_features() & BASIC == BASIC
            assert front.get_features() & PACKED
            assert front.get_protocol_features() == PROTOCOL_FEATURES
            front.set_features(BASIC | mask(Feature.NET_GUEST_CSUM, Feature.NET_GUEST_TSO4))
            assert engine.ports["vm"].port.offloads != 0
            front.set_owner()
            assert not front.lost
            assert port.check() == ("down", "a guest is connected, and its driver is not ready")

    @pytest.mark.parametrize(("options", "absent"), [({"packed": False}, PACKED), ({"offloads": False}, 1)])
    def test_what_settings_deny_is_not_offered(
        self, engine: Engine, path: Path, options: dict[str, bool], absent: int
    ) -> None:
        add_vhost(engine, path, **options)
        with connected(engine, path) as front:
            assert front.get_features() & absent == 0

    def test_queue_pairs_are_told(self, engine: Engine, path: Path) -> None:
        add_vhost(engine, path, queues=4)
        with connected(engine, path) as front:
            assert front.get_queue_num() == 4
            assert front.get_features() & mask(Feature.NET_MQ)

    @RINGS
    def test_frames_come_and_go_and_base_is_exact(
        self, engine: Engine, path: Path, port: VhostUser, features: int
    ) -> None:
        with Guest(engine, path, features) as guest:
            assert port.check() == ("up", "")
            frames = [frame(b"\xff" * 6, mac(1), bytes([n]) * (46 + n)) for n in range(21)]
            for data in frames:
                guest.send(data)
                wait_until(guest.sending.used, "the buffer to come back")
            assert sent(engine, "left") == frames
            place = guest.offer()
            data = frame(mac(1), mac(2))
            send(engine, "left", [data])
            used = guest.receiving.used()
            assert [length for _id, length in used] == [12 + len(data)]
            assert guest.memory.data[place + 12 : place + 12 + len(data)] == data
            for ring in (guest.receiving, guest.sending):
                assert guest.front.get_vring_base(ring.index) == ring.base
                assert guest.front.get_vring_base(ring.index) == ring.base
            assert port.check()[0] == "down"
            for ring in (guest.receiving, guest.sending):
                guest.front.set_vring_base(ring.index, ring.base)
                guest.front.set_vring_kick(ring.index, ring.kick)
            guest.send(frames[5])
            wait_until(guest.sending.used, "the buffer to come back after a stop")
            assert sent(engine, "left") == [frames[5]]

    def test_a_new_memory_table_under_traffic(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path) as guest:
            before = open_descriptors()
            for _ in range(3):
                guest.front.set_mem_table([guest.memory.region], [guest.memory.fd])
                guest.send(frame(b"\xff" * 6, mac(1)))
                wait_until(guest.sending.used, "the buffer to come back")
            halves = [
                Region(GUEST, MEMORY_BYTES // 2, USER, 0),
                Region(GUEST + MEMORY_BYTES // 2, MEMORY_BYTES // 2, USER + MEMORY_BYTES // 2, MEMORY_BYTES // 2),
            ]
            guest.front.set_mem_table(halves, [guest.memory.fd] * 2)
            guest.send(frame(b"\xff" * 6, mac(1)))
            wait_until(guest.sending.used, "the buffer to come back")
            guest.front.set_mem_table([guest.memory.region], [guest.memory.fd])
            assert open_descriptors() == before
            assert port.check() == ("up", "")

    def test_regions_are_added_and_removed(self, engine: Engine, path: Path) -> None:
        add_vhost(engine, path)
        with connected(engine, path, ACK) as front, Memory() as memory:
            assert front.get_max_mem_slots() == 64
            before = shared_mappings()
            whole = [Region(GUEST + n * 4096, 4096, USER + n * 4096, n * 4096) for n in range(64)]
            for region in whole:
                front.add_mem_reg(region, memory.fd)
            front.add_mem_reg(whole[0], memory.fd)  # told twice, removed twice
            assert len(shared_mappings()) == len(before) + 64
            for region in [*whole, whole[0]]:
                front.rem_mem_reg(region)
            assert shared_mappings() == before
            assert not front.lost

    def test_a_ring_stops_with_its_region_and_starts_with_it(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path) as guest:
            guest.front.rem_mem_reg(guest.memory.region)
            assert port.check() == ("down", "a guest is connected, and its driver is not ready")
            guest.send(frame(b"\xff" * 6, mac(1)))
            guest.front.add_mem_reg(guest.memory.region, guest.memory.fd)
            wait_until(guest.sending.used, "the buffer to come back")
            assert len(sent(engine, "left")) == 1

    @RINGS
    def test_the_log_is_exchanged_under_traffic(self, engine: Engine, path: Path, features: int) -> None:
        add_vhost(engine, path)
        pages = (GUEST + MEMORY_BYTES) >> 12
        with Guest(engine, path, features, 1 << ProtocolFeature.LOG_SHMFD) as guest, Memory(pages // 8) as log:
            log_size = pages // 8
            guest.front.set_log_base(log_size, 0, log.fd)
            guest.front.set_features(features | mask(Feature.LOG_ALL))
            for ring in (guest.receiving, guest.sending):
                payload = vring_address(ring.index, ring.places, 1, GUEST + ring.device)
                guest.front.tell(Request.SET_VRING_ADDR, payload)
            place = guest.offer()
            send(engine, "left", [frame(b"\xff" * 6, mac(2))])
            dirty = {(GUEST + place) >> 12, (GUEST + guest.receiving.device) >> 12}
            if features & PACKED:
                dirty |= {(GUEST + guest.receiving.table) >> 12}
            first = bits(log)
            assert first >= dirty
            assert first <= dirty | {(GUEST + r.device) >> 12 for r in (guest.receiving, guest.sending)}
            with Memory(log_size + 4096) as second:
                guest.front.set_log_base(log_size, 4096, second.fd)
                log.data[:] = bytes(log_size)
                place = guest.offer()
                send(engine, "left", [frame(b"\xff" * 6, mac(2))])
                assert bits(log) == set()
                assert bits(second, 4096) >= {(GUEST + place) >> 12}
                guest.front.set_features(features)
                second.data[:] = bytes(log_size + 4096)
                guest.offer()
                send(engine, "left", [frame(b"\xff" * 6, mac(2))])
                assert bits(second) == set()

    def test_mtu_is_taken_over_within_what_the_port_has(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path, ACK | 1 << ProtocolFeature.MTU) as front:
            front.net_set_mtu(9000)
            assert port.mtu == 9000
            for wrong in (0, 67, 65536, 1 << 63):
                with pytest.raises(Refused):
                    front.net_set_mtu(wrong)
            assert port.mtu == 9000
        assert port.mtu == 1500

    def test_an_announcement_is_seen_on_other_ports(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path, protocol=ACK | 1 << ProtocolFeature.RARP) as guest:
            guest.front.send_rarp(mac(9))
            wait_until(lambda: counters(engine, "vm")["rx_packets"] == 1, "the RARP")
            engine.workers.quiesce()
            (seen,) = sent(engine, "left")
            assert seen == (
                b"\xff" * 6 + mac(9) + bytes.fromhex("8035 0001 0800 06 04 0003") + (mac(9) + bytes(4)) * 2 + bytes(18)
            )

    def test_an_announcement_needs_a_ring(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path, ACK | 1 << ProtocolFeature.RARP) as front:
            with pytest.raises(Refused):
                front.send_rarp(mac(9))
            assert not front.lost

    def test_the_inflight_area_outlives_a_session(self, engine: Engine, path: Path, port: VhostUser) -> None:
        protocol = 1 << ProtocolFeature.INFLIGHT_SHMFD
        with connected(engine, path, protocol) as front:
            area = front.get_inflight_fd(2, RING_SIZE)
        try:
            with connected(engine, path, protocol) as front:
                front.set_inflight_fd(area)
                assert not front.lost
            # What a back end that was killed noted of a packed ring is where the next one goes on.
            with mmap.mmap(area.fd, area.size) as words:
                words[64:72] = U64.pack(5 | 1 << 15 | 1 << 16)
            with Guest(engine, path, BASIC | PACKED, protocol) as guest:
                for index in (0, 1):
                    guest.front.get_vring_base(index)
                guest.front.set_inflight_fd(area)
                assert guest.front.get_vring_base(1) == (5 | 1 << 15) * 0x10001
                assert guest.front.get_vring_base(0) == PACKED_START
        finally:
            close_inflight(area)

    def test_status_is_kept_and_zero_resets(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path, protocol=1 << ProtocolFeature.STATUS) as guest:
            guest.front.set_status(15)
            assert guest.front.get_status() == 15
            assert port.check()[0] == "up"
            guest.front.set_status(0)
            assert guest.front.get_status() == 0
            assert port.check()[0] == "down"
            assert not guest.front.lost

    @pytest.mark.parametrize("request_number", [Request.RESET_DEVICE, Request.RESET_OWNER])
    def test_reset_stops_the_device(self, engine: Engine, path: Path, port: VhostUser, request_number: Request) -> None:
        with Guest(engine, path) as guest:
            guest.front.message(request_number)
            assert port.check()[0] == "down"
            guest.front.set_features(BASIC | PACKED)  # which rings in service would forbid
            assert not guest.front.lost

    def test_a_ring_can_be_disabled_and_enabled(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path) as guest:
            guest.front.set_vring_enable(1, False)
            guest.send(frame(b"\xff" * 6, mac(1)))
            engine.workers.quiesce()
            assert guest.sending.used() == []
            guest.front.set_vring_enable(1, True)
            wait_until(guest.sending.used, "the buffer to come back")
            assert len(sent(engine, "left")) == 1

    def test_call_may_be_replaced_and_left_away(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path) as guest:
            call = guest.memory.eventfd()
            guest.front.set_vring_call(1, call)
            guest.front.set_vring_err(1, call)
            guest.send(frame(b"\xff" * 6, mac(1)))
            assert select.select([call], [], [], 5)[0] == [call]
            os.eventfd_read(call)
            guest.front.set_vring_call(1, None)
            guest.front.set_vring_err(1, None)
            guest.send(frame(b"\xff" * 6, mac(1)))
            wait_until(lambda: len(sent(engine, "right")) > 0, "the second frame")
            engine.workers.quiesce()
            assert select.select([call], [], [], 0)[0] == []

    def test_one_guest_at_a_time(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with Guest(engine, path) as guest:
            second = Front(engine, path)
            assert second.lost
            second.close()
            assert not guest.front.lost

    def test_messages_may_come_in_any_pieces(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path) as front, Memory() as memory:
            table = MEMORY_HEADER.pack(1, 0) + memory.region.pack()
            data = encode(Request.SET_MEM_TABLE, table) + encode(Request.GET_FEATURES)
            front.raw(data[:1], [memory.fd])
            for place in range(1, len(data)):
                front.raw(data[place : place + 1])
            assert front._answer(Request.GET_FEATURES).payload
            assert not front.lost

    def test_a_request_without_right_to_an_answer_gets_none(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path) as front:
            front.message(Request.SET_OWNER, flags=NEED_REPLY)
            assert not front.lost
            assert select.select([front.connection], [], [], 0)[0] == []


def bits(log: Memory, offset: int = 0) -> set[int]:
    """The numbers of the bits set in a log."""
    return {
        (place * 8) + bit for place, byte in enumerate(log.data[offset:]) if byte for bit in range(8) if byte >> bit & 1
    }


# What ends a session: what a front end sends, given itself and a guest's memory that nothing was said of yet, and why.

Wrong = Callable[[Front, Memory], None]


def payload(request: int, data: bytes, fds: int = 0) -> Wrong:
    """A message with the memory's descriptor so many times."""
    return lambda front, memory: front.message(request, data, [memory.fd] * fds)


def state(request: int, index: int, number: int = 0) -> Wrong:
    return payload(request, VRING_STATE.pack(index, number))


def table(*regions: Region, fds: int | None = None) -> Wrong:
    data = MEMORY_HEADER.pack(len(regions), 0) + b"".join(region.pack() for region in regions)
    return payload(Request.SET_MEM_TABLE, data, len(regions) if fds is None else fds)


def region(guest: int = GUEST, size: int = MEMORY_BYTES, user: int = USER, offset: int = 0) -> Region:
    return Region(guest, size, user, offset)


def in_order(*steps: Wrong) -> Wrong:
    """Several messages, the last of them the wrong one."""

    def send_all(front: Front, memory: Memory) -> None:
        for step in steps[:-1]:
            step(front, memory)
            assert not front.lost, front.engine.ports["vm"].port.check()
        steps[-1](front, memory)

    return send_all


def ring(
    size: int = RING_SIZE, places: tuple[int, ...] = PLACES, base: int = 0, log: int = 0, features: int = BASIC
) -> Wrong:
    """A ring that is put into service."""

    def start(front: Front, memory: Memory) -> None:
        front.message(Request.SET_FEATURES, U64.pack(features))
        table(region())(front, memory)
        state(Request.SET_VRING_NUM, 1, size)(front, memory)
        state(Request.SET_VRING_BASE, 1, base)(front, memory)
        front.message(Request.SET_VRING_ADDR, vring_address(1, places, int(log > 0), log))  # type: ignore[arg-type]
        front.message(Request.SET_VRING_KICK, U64.pack(1), [memory.eventfd()])
        state(Request.SET_VRING_ENABLE, 1, 1)(front, memory)

    return start


def with_file(request: int, data: bytes, make: Callable[[], int], count: int = 1) -> Wrong:
    """A message with descriptors of some other kind."""

    def send_it(front: Front, _memory: Memory) -> None:
        fd = make()
        front.message(request, data, [fd] * count)
        os.close(fd)

    return send_it


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def directory() -> int:
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY)


def short_file() -> int:
    fd = os.memfd_create("short", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4096)
    return fd


def read_only() -> int:
    return os.open("/proc/self/exe", os.O_RDONLY)


def event() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC)


ONE_REGION = MEMORY_HEADER.pack(1, 0) + region().pack()
ADDED = SINGLE_REGION.pack(0, GUEST, MEMORY_BYTES, USER, 0)
LOG = LOG_AREA.pack(4096, 0)
INFLIGHT_OK = INFLIGHT.pack(128, 0, 2, RING_SIZE)
RUNNING = ring()
OTHERS = (pipe, directory, short_file, read_only, event)

WRONG: dict[str, tuple[Wrong, str]] = {
    "unknown request": (payload(99, b""), "request 99 is not known here"),
    "unknown request with a descriptor": (payload(99, b"", 1), "request 99 is not known here"),
    "request 0": (payload(0, b""), "request 0 is not known here"),
    "largest request": (payload(0xFFFFFFFF, bytes(8)), "request 4294967295 is not known"),
    "version": (lambda front, _: front.raw(b"\1\0\0\0\2\0\0\0\0\0\0\0"), "version 2 is unknown"),
    "long payload": (lambda front, _: front.raw(b"\1\0\0\0\1\0\0\0\xff\xff\xff\xff"), "longer than 4096"),
    "features not offered": (payload(Request.SET_FEATURES, U64.pack(1 << 40)), "bit_40 was not offered"),
    "top feature": (payload(Request.SET_FEATURES, U64.pack(1 << 63)), "bit_63 was not offered"),
    "protocol features": (payload(Request.SET_PROTOCOL_FEATURES, U64.pack(1 << 60)), "was not offered"),
    "features in service": (
        in_order(RUNNING, payload(Request.SET_FEATURES, U64.pack(BASIC | PACKED))),
        "ring_packed cannot change while rings are in service",
    ),
    "too many descriptors": (payload(Request.GET_FEATURES, b"", DESCRIPTORS_MAX + 1), "more than 8 descriptors"),
    "descriptors in parts": (
        lambda front, memory: [front.raw(b"\1", [memory.fd] * 8) for _ in range(2)] and None,
        "more than 8 descriptors",
    ),
    "no regions": (table(), "0 regions are out of range"),
    "nine regions": (
        payload(Request.SET_MEM_TABLE, MEMORY_HEADER.pack(9, 0) + 9 * region().pack(), 8),
        "9 regions are out of range",
    ),
    "most regions": (
        payload(Request.SET_MEM_TABLE, MEMORY_HEADER.pack(0xFFFFFFFF, 0) + region().pack(), 1),
        "4294967295 regions are out of range",
    ),
    "cut table": (payload(Request.SET_MEM_TABLE, ONE_REGION[:-1], 1), "39 bytes are too few|31 bytes are too few"),
    "region without descriptor": (table(region(), fds=0), "0 descriptors came with it instead of 1"),
    "two descriptors for one": (table(region(), fds=2), "2 descriptors came with it instead of 1"),
    "empty region": (table(region(size=0)), "at least one byte"),
    "region beyond its file": (table(region(size=MEMORY_BYTES + 1)), "its file has only 1048576 bytes"),
    "region at a late offset": (table(region(offset=1)), "its file has only"),
    "region wraps": (table(region(guest=(1 << 64) - 4096)), "beyond every guest address"),
    "region wraps in the front end": (table(region(user=(1 << 64) - 1)), "beyond every front end's address"),
    "region wraps in the file": (table(region(offset=(1 << 64) - 4096)), "beyond every file address"),
    "huge region": (table(region(size=(1 << 64) - 1)), "more than 4 TB are too much for one guest"),
    "overlapping regions": (
        table(region(size=8192), region(guest=GUEST + 4096, size=8192)),
        "overlaps the memory region of 8192 bytes",
    ),
    "region twice": (table(region(), region()), "overlaps"),
    "overlapping added region": (
        in_order(
            payload(Request.ADD_MEM_REG, ADDED, 1),
            payload(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, GUEST + 4096, 4096, USER, 0), 1),
        ),
        "overlaps",
    ),
    "added region without descriptor": (payload(Request.ADD_MEM_REG, ADDED), "0 descriptors"),
    "cut region": (payload(Request.ADD_MEM_REG, ADDED[:-1], 1), "39 bytes, 40 are meant"),
    "removed region that is none": (payload(Request.REM_MEM_REG, ADDED), "there is no such region"),
    "removed region of another size": (
        in_order(
            payload(Request.ADD_MEM_REG, ADDED, 1),
            payload(Request.REM_MEM_REG, SINGLE_REGION.pack(0, GUEST, 4096, USER, 0)),
        ),
        "there is no such region",
    ),
    "ring size 0": (state(Request.SET_VRING_NUM, 0, 0), "size 0 is out of range"),
    "ring size 65536": (state(Request.SET_VRING_NUM, 0, 65536), "size 65536 is out of range"),
    "ring size not a power of two": (ring(size=12), "size 12 of a split ring must be a power of two"),
    "ring index": (state(Request.SET_VRING_NUM, 2, 16), "virtqueue 2 is out of range: 0 to 1"),
    "largest ring index": (state(Request.GET_VRING_BASE, 0xFFFFFFFF), "virtqueue 4294967295 is out of range"),
    "kick of no ring": (payload(Request.SET_VRING_KICK, U64.pack(7 | VRING_NO_FD)), "virtqueue 7 is out of range"),
    "address of no ring": (payload(Request.SET_VRING_ADDR, vring_address(9, (0, 0, 0))), "virtqueue 9 is out"),
    "cut ring state": (payload(Request.SET_VRING_NUM, bytes(7)), "payload of 7 bytes, 8 are meant"),
    "cut ring address": (payload(Request.SET_VRING_ADDR, bytes(39)), "payload of 39 bytes, 40 are meant"),
    "misaligned descriptors": (ring(places=(PLACES[0] + 8, *PLACES[1:])), "must be aligned to 16"),
    "misaligned used ring": (ring(places=(PLACES[0], PLACES[1] + 2, PLACES[2])), "must be aligned to 4"),
    "misaligned available ring": (ring(places=(*PLACES[:2], PLACES[2] + 1)), "must be aligned to 2"),
    "ring in no region": (ring(places=(0, *PLACES[1:])), "descriptors of 256 bytes at 0x0 is not in one region"),
    "ring across a region's end": (
        ring(places=(USER + MEMORY_BYTES - 240, *PLACES[1:])),
        "descriptors of 256 bytes at 0x[0-9a-f]+ is not in one region",
    ),
    "ring at the last address": (ring(places=((1 << 64) - 16, *PLACES[1:])), "is not in one region"),
    "ring across two regions": (
        in_order(
            table(region(size=4096), region(guest=GUEST + 4096, size=4096, user=USER + 4096, offset=4096)),
            state(Request.SET_VRING_NUM, 1, 512),
            lambda front, _: front.message(Request.SET_VRING_ADDR, vring_address(1, (USER, USER, USER))),
            lambda front, memory: front.message(Request.SET_VRING_KICK, U64.pack(1), [memory.eventfd()]),
            state(Request.SET_VRING_ENABLE, 1, 1),
        ),
        "descriptors of 8192 bytes at 0x[0-9a-f]+ is not in one region",
    ),
    "ring misaligned in its file": (
        in_order(
            table(region(size=0x8000, offset=1)),
            state(Request.SET_VRING_NUM, 1, 16),
            lambda front, _: front.message(Request.SET_VRING_ADDR, vring_address(1, (USER, USER, USER))),
            lambda front, memory: front.message(Request.SET_VRING_KICK, U64.pack(1), [memory.eventfd()]),
            state(Request.SET_VRING_ENABLE, 1, 1),
        ),
        "is not aligned in the file behind it",
    ),
    "ring not in the new table": (
        in_order(RUNNING, table(region(user=USER + (1 << 30)))),
        "is not in one region of the guest's memory",
    ),
    "packed base beyond the ring": (ring(base=16, features=BASIC | PACKED), "base 0x10 is beyond the ring's 16"),
    "log address": (ring(log=1 << 63), "log address 0x8000000000000000 is beyond every guest address"),
    "largest log address": (ring(log=(1 << 64) - 1), "log address 0xf+ is beyond every guest address"),
    "size in service": (in_order(RUNNING, state(Request.SET_VRING_NUM, 1, 32)), "virtqueue 1 is in service"),
    "base in service": (in_order(RUNNING, state(Request.SET_VRING_BASE, 1, 3)), "virtqueue 1 is in service"),
    "kick without descriptor": (payload(Request.SET_VRING_KICK, U64.pack(0)), "0 descriptors came with it"),
    "call with two": (payload(Request.SET_VRING_CALL, U64.pack(0), 2), "2 descriptors came with it"),
    "call is a memory file": (payload(Request.SET_VRING_CALL, U64.pack(0), 1), "is not an eventfd but /memfd:guest"),
    "log not agreed on": (
        in_order(payload(Request.SET_PROTOCOL_FEATURES, U64.pack(0)), payload(Request.SET_LOG_BASE, LOG, 1)),
        "log_shmfd was not agreed on",
    ),
    "log without descriptor": (payload(Request.SET_LOG_BASE, LOG), "0 descriptors came with it"),
    "empty log": (payload(Request.SET_LOG_BASE, LOG_AREA.pack(0, 0), 1), "0 bytes at offset 0 are not in a file"),
    "log beyond its file": (payload(Request.SET_LOG_BASE, LOG_AREA.pack(4096, MEMORY_BYTES), 1), "are not in a file"),
    "log wraps": (payload(Request.SET_LOG_BASE, LOG_AREA.pack(1 << 63, 1 << 63), 1), "are not in a file"),
    "log descriptor": (payload(Request.SET_LOG_FD, U64.pack(0)), "0 descriptors came with it"),
    "mtu": (payload(Request.NET_SET_MTU, U64.pack(1)), "NET_SET_MTU: 1 is out of range: 68 to 65535"),
    "announcement too early": (payload(Request.SEND_RARP, bytes(8)), "no virtqueue that the guest sends by"),
    "inflight of no queues": (payload(Request.GET_INFLIGHT_FD, INFLIGHT.pack(0, 0, 0, 16)), "0 queues are out"),
    "inflight of many": (payload(Request.GET_INFLIGHT_FD, INFLIGHT.pack(0, 0, 65535, 16)), "65535 queues are out"),
    "inflight too short": (
        payload(Request.SET_INFLIGHT_FD, INFLIGHT.pack(127, 0, 2, 16), 1),
        "inflight area of 127 bytes",
    ),
    "inflight beyond its file": (
        payload(Request.SET_INFLIGHT_FD, INFLIGHT.pack(128, MEMORY_BYTES, 2, 16), 1),
        "is not for 2 queues",
    ),
    "inflight wraps": (
        payload(Request.SET_INFLIGHT_FD, INFLIGHT.pack((1 << 64) - 8, 16, 2, 16), 1),
        "is not for 2 queues",
    ),
    "inflight in service": (
        in_order(RUNNING, payload(Request.SET_INFLIGHT_FD, INFLIGHT_OK, 1)),
        "rings are in service",
    ),
    "inflight base beyond the ring": (
        in_order(
            lambda _, memory: memory.put(64, "<Q", 1 << 16 | 0x7FFF),
            payload(Request.SET_INFLIGHT_FD, INFLIGHT_OK, 1),
            lambda front, _: front.message(Request.SET_FEATURES, U64.pack(BASIC | PACKED)),
            table(region()),
            state(Request.SET_VRING_NUM, 1, RING_SIZE),
            lambda front, _: front.message(Request.SET_VRING_ADDR, vring_address(1, PLACES)),  # type: ignore[arg-type]
            lambda front, memory: front.message(Request.SET_VRING_KICK, U64.pack(1), [memory.eventfd()]),
            state(Request.SET_VRING_ENABLE, 1, 1),
        ),
        "base 0x7fff7fff is beyond the ring's 16 descriptors",
    ),
    **{
        f"memory is {make.__name__}": (with_file(Request.SET_MEM_TABLE, ONE_REGION, make), "only|mapped|Permission")
        for make in OTHERS
    },
    **{
        f"second region is {make.__name__}": (
            lambda front, memory, make=make: with_files(front, memory, make()),  # type: ignore[misc]
            "only|mapped|Permission",
        )
        for make in OTHERS
    },
    **{
        f"added region is {make.__name__}": (with_file(Request.ADD_MEM_REG, ADDED, make), "only|mapped|Permission")
        for make in OTHERS
    },
    **{
        f"log is {make.__name__}": (
            with_file(Request.SET_LOG_BASE, LOG_AREA.pack(8192, 0), make),
            "are not in a file|cannot be mapped",
        )
        for make in OTHERS
    },
    **{
        f"inflight area is {make.__name__}": (
            with_file(Request.SET_INFLIGHT_FD, INFLIGHT.pack(8192, 0, 2, 16), make),
            "is not for 2 queues|cannot be mapped",
        )
        for make in OTHERS
    },
    **{
        f"{request.name} is {make.__name__}": (with_file(request, U64.pack(1), make), "is not an eventfd but")
        for make in OTHERS[:-1]
        for request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
    },
}


def with_files(front: Front, memory: Memory, fd: int) -> None:
    """A table of two regions, the second with a wrong descriptor."""
    data = MEMORY_HEADER.pack(2, 0) + region().pack() + region(guest=1 << 40).pack()
    front.message(Request.SET_MEM_TABLE, data, [memory.fd, fd])
    os.close(fd)


class TestWrongMessages:
    @pytest.mark.parametrize("name", WRONG)
    def test_the_front_end_is_cut_off_and_nothing_is_left(
        self, engine: Engine, path: Path, port: VhostUser, name: str
    ) -> None:
        wrong, reason = WRONG[name]
        with connected(engine, path), Memory():
            pass  # what a first guest leaves for the next one stays
        before = open_descriptors(), shared_mappings(), allocated(engine)
        with connected(engine, path, 1 << ProtocolFeature.LOG_SHMFD) as front, Memory() as memory:
            wrong(front, memory)
            assert front.lost
        health, said = port.check()
        assert health == "down"
        assert said.startswith("the guest was cut off: ")
        assert re.search(reason, said), said
        assert (open_descriptors(), shared_mappings(), allocated(engine)) == before
        assert forwards(engine)
        assert port.driver_stats()["violations"] == 1
        with Guest(engine, path) as guest:  # and the next one is welcome
            guest.send(frame(b"\xff" * 6, mac(1)))
            wait_until(guest.sending.used, "the next guest's buffer to come back")

    def test_a_refusal_that_is_acknowledged_ends_nothing(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path, ACK) as front:
            with pytest.raises(Refused, match="refused NET_SET_MTU: it answered 1"):
                front.net_set_mtu(1)
            front.set_owner()
            assert not front.lost


class TestUntidyEnds:
    @pytest.mark.parametrize("size", [1, 11, 12, 15])
    def test_half_a_message_disturbs_nobody_and_leaves_nothing(
        self, engine: Engine, path: Path, port: VhostUser, size: int
    ) -> None:
        with connected(engine, path):
            pass
        before = open_descriptors(), shared_mappings(), allocated(engine)
        with connected(engine, path) as front, Memory() as memory:
            front.raw(encode(Request.SET_MEM_TABLE, ONE_REGION)[:size], [memory.fd])
            assert not front.lost
        assert port.check() == ("down", "the guest is gone: the other side closed the socket within a message")
        assert (open_descriptors(), shared_mappings(), allocated(engine)) == before
        assert forwards(engine)

    def test_answers_that_nobody_reads(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path) as front:
            front.connection.setblocking(False)
            requests = encode(Request.GET_FEATURES) * 64
            for _ in range(1000):
                try:
                    front.connection.send(requests)
                except BlockingIOError:
                    pass
                except OSError:
                    break
                engine.loop.turn(0.001)
            said = port.check()[1]
        assert "the front end cannot be served" in said
        assert forwards(engine)

    def test_a_flood_of_messages_leaves_turns_to_others(self, engine: Engine, path: Path, port: VhostUser) -> None:
        with connected(engine, path) as front:
            front.connection.send(encode(Request.SET_OWNER) * 1000)
            heard: list[float] = []
            engine.loop.later(0, lambda: heard.append(time.monotonic()))
            began = time.monotonic()
            engine.loop.turn(0.001)
            assert heard[0] - began < 0.5
            for _ in range(30):
                engine.loop.turn(0.001)
            assert front.get_features()

    def test_guests_come_and_go_and_leave_nothing(self, engine: Engine, path: Path, port: VhostUser) -> None:
        before = None
        for round_number in range(20):
            with Guest(engine, path, BASIC | PACKED * (round_number % 2)) as guest:
                guest.send(frame(b"\xff" * 6, mac(1)))
                wait_until(guest.sending.used, "the buffer to come back")
            if round_number == 1:
                before = open_descriptors(), shared_mappings(), allocated(engine)
        assert (open_descriptors(), shared_mappings(), allocated(engine)) == before
        assert port.driver_stats()["connections"] == 20

    def test_a_port_that_cannot_listen_leaves_nothing(self, engine: Engine, path: Path, port: VhostUser) -> None:
        before = open_descriptors(), shared_mappings()
        with pytest.raises(EngineFault, match="cannot listen at path"):
            add_vhost(engine, path, "other")
        with pytest.raises(EngineFault, match="cannot listen at path"):
            add_vhost(engine, path.parent, "other")
        assert (open_descriptors(), shared_mappings()) == before

    def test_too_few_descriptors_are_left_to_let_a_guest_in(
        self, engine: Engine, path: Path, port: VhostUser, caplog: pytest.LogCaptureFixture
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        taken = [connection.fileno()]
        connection.connect(str(path))
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 4, hard)
        )
        try:
            while True:
                try:
                    taken.append(os.dup(connection.fileno()))
                except OSError:
                    break
            engine.loop.turn(0.01)
            assert "a front end cannot be let in: Too many open files" in caplog.text
            assert port.driver_stats()["connections"] == 0
        finally:
            for fd in taken[1:]:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        deadline = time.monotonic() + 5
        while port.driver_stats()["connections"] == 0 and time.monotonic() < deadline:
            engine.loop.turn(0.05)
        assert port.driver_stats()["connections"] == 1
        connection.close()


class TestBrokenGuests:
    @pytest.mark.parametrize(
        ("receives", "spoil", "reason"),
        [
            (False, "jump", "virtqueue 1: the index of available buffers jumped"),
            (False, "head", "virtqueue 1: an available buffer has a number outside the descriptor table"),
            (True, "jump", "virtqueue 0: the index of available buffers jumped"),
            (True, "head", "virtqueue 0: an available buffer has a number outside the descriptor table"),
            (True, "direction", "virtqueue 0: a receive buffer is not writable"),
            (True, "address", "virtqueue 0: a receive buffer is not writable"),
        ],
    )
    def test_a_broken_ring_ends_the_session_alone(
        self, engine: Engine, path: Path, port: VhostUser, receives: bool, spoil: str, reason: str
    ) -> None:
        with Guest(engine, path) as guest:
            ring = guest.receiving if receives else guest.sending
            if spoil == "jump":
                guest.memory.put(ring.driver + 2, "<H", RING_SIZE + 1)
            elif spoil == "head":
                guest.memory.put(ring.driver + 4, "<H", RING_SIZE)
                guest.memory.put(ring.driver + 2, "<H", 1)
            elif spoil == "direction":
                ring.offer((GUEST + BUFFERS, 2048, 0))
            else:
                ring.offer((GUEST + MEMORY_BYTES - 16, 2048, WRITE))
            os.eventfd_write(ring.kick, 1)
            if receives:
                send(engine, "left", [frame(b"\xff" * 6, mac(3))])
            wait_until(lambda: port.check()[0] == "down", "the worker to find out")
            assert port.check()[1].startswith(f"the guest was cut off: {reason}")
            assert guest.front.lost
            assert forwards(engine)
        with connected(engine, path) as front:  # the next guest is not to blame
            assert port.check() == ("down", "a guest is connected, and its driver is not ready")
            assert not front.lost

    @pytest.mark.parametrize("features", [BASIC, BASIC | PACKED], ids=["split", "packed"])
    def test_frames_that_are_none_are_dropped_and_come_back(
        self, engine: Engine, path: Path, port: VhostUser, features: int
    ) -> None:
        with Guest(engine, path, features) as guest:
            good = frame(b"\xff" * 6, mac(1))
            for address, length, flags in (
                (GUEST + BUFFERS, 12 + 13, 0),
                (GUEST + MEMORY_BYTES - 60, 72, 0),
                (GUEST - 60, 72, 0),
                ((1 << 64) - 36, 72, 0),
                (1 << 63, 72, 0),
                (GUEST + BUFFERS, 0, 0),
                (GUEST + BUFFERS, 72, WRITE),
            ):
                guest.sending.offer((address, length, flags))
                wait_until(guest.sending.used, "the bad buffer to come back")
            guest.sending.offer((GUEST + BUFFERS, 0xFFFFFFFF, 0))
            wait_until(guest.sending.used, "the bad buffer to come back")
            guest.send(good)
            wait_until(guest.sending.used, "the good buffer to come back")
            assert drops(engine, "vm") == {"bad_descriptor": 8}
            assert sent(engine, "left") == [good]
            assert port.check() == ("up", "")

    @pytest.mark.parametrize("features", [BASIC, BASIC | PACKED], ids=["split", "packed"])
    def test_the_file_behind_the_memory_is_cut_off_under_traffic(
        self, engine: Engine, tmp_path: Path, path: Path, port: VhostUser, features: int
    ) -> None:
        other = add_vhost(engine, tmp_path / "other.sock", "other")
        with Guest(engine, tmp_path / "other.sock") as second, Guest(engine, path, features) as guest:
            for _ in range(3):
                guest.send(frame(b"\xff" * 6, mac(1)))
                second.offer()
            wait_until(lambda: len(second.receiving.used()) > 0, "a frame from guest to guest")
            # Where the driver's own mapping ends with the file, only the back end can touch what is gone.
            os.ftruncate(guest.memory.fd, 0)
            os.eventfd_write(guest.sending.kick, 1)
            send(engine, "left", [frame(b"\xff" * 6, mac(3))] * 40)
            wait_until(lambda: port.check()[0] == "down", "the loss to be seen")
            assert port.check()[1].startswith("the guest was cut off: ")
            assert forwards(engine)
            second.send(frame(b"\xff" * 6, mac(4)))
            wait_until(second.sending.used, "the other guest to go on")
            assert other.check() == ("up", "")
            os.ftruncate(guest.memory.fd, MEMORY_BYTES)  # for its own mapping's sake

    def test_regions_come_and_go_under_traffic(self, engine: Engine, path: Path, port: VhostUser) -> None:
        dummy(engine, "left").replay([frame(b"\xff" * 6, mac(2), bytes(500))] * 8)
        with Guest(engine, path) as guest, Memory() as extra:
            far = Region(GUEST << 1, MEMORY_BYTES, USER << 1, 0)
            for _ in range(30):
                guest.front.add_mem_reg(far, extra.fd)
                while guest.receiving.offered - guest.receiving.taken < RING_SIZE // 2:
                    guest.receiving.offer((far.guest + BUFFERS, BUFFER_BYTES, WRITE))
                wait_until(lambda: guest.receiving.used() or port.check()[0] == "down", "a frame into the region")
                if guest.front.lost:  # a frame came while the region of the buffers left over was away
                    break
                guest.front.rem_mem_reg(far)
            # Buffers in a region that is gone are the guest's own fault, and end its session alone.
            guest.receiving.offer((far.guest + BUFFERS, BUFFER_BYTES, WRITE))
            wait_until(lambda: port.check()[0] == "down", "the guest to be cut off")
            assert "a receive buffer is not writable, not in the guest's memory" in port.check()[1]
        dummy(engine, "left").stop_replay()
        assert forwards(engine)

    @pytest.mark.parametrize("running", [False, True], ids=["main thread", "worker"])
    def test_an_eventfd_that_makes_writers_wait(
        self, engine: Engine, path: Path, port: VhostUser, running: bool
    ) -> None:
        with Guest(engine, path) as guest:
            if not running:
                guest.front.get_vring_base(1)
            with suppress(BlockingIOError):
                os.eventfd_read(guest.sending.call)
            os.eventfd_write(guest.sending.call, (1 << 64) - 2)
            os.set_blocking(guest.sending.call, True)  # a flag of the file, which both sides share
            if running:
                guest.send(frame(b"\xff" * 6, mac(1)))
                wait_until(guest.sending.used, "the buffer to come back")
            else:
                guest.front.set_vring_kick(1, guest.sending.kick)
            wait_until(lambda: port.check()[0] == "down", "the guest to be cut off")
            assert port.check()[1] == "the guest was cut off: virtqueue 1: no interrupt fits into its eventfd"
            assert forwards(engine)

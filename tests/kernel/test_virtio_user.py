"""The guest's virtqueues against a device said slowly in Python, for all layouts and options."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive.virtio_device import Buffer, NaivePacked, NaiveSplit

from penstock.datapath.layout import BURST, FLAG_CSUM_PARTIAL, FRAG, GSO_TCPV4, HEADER_MAX, PACKET
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports.base import PortError, RxSpec, TxSpec
from penstock.ports.vhost_user.messages import (
    NEED_REPLY,
    REPLY,
    U64,
    VERSION,
    ProtocolViolation,
    Receiver,
    Request,
    encode,
)
from penstock.ports.vhost_user.virtio import Feature, mask, net_header_bytes
from penstock.traffic.virtio_user import packed, split
from penstock.traffic.virtio_user.features import VirtioUserOptions, negotiate, transmit_offloads
from penstock.traffic.virtio_user.front import FrontEnd, Refused
from penstock.traffic.virtio_user.layout import Fault
from penstock.traffic.virtio_user.log import DirtyLog
from penstock.traffic.virtio_user.queue import QueueShape, Virtqueue
from tests.kernel.port_support import Queues

DELTA = 0x7000_0000_0000
OPTIONAL = (Feature.RING_EVENT_IDX, Feature.RING_INDIRECT_DESC, Feature.IN_ORDER, Feature.NET_MRG_RXBUF)
FRAMES = st.lists(st.sampled_from((60, 64, 65, 200, 256, 300, 511, 512, 513, 1000, 1500, 2600)), max_size=8)
FEATURES = st.tuples(
    st.sampled_from((0, mask(Feature.VERSION_1), mask(Feature.VERSION_1, Feature.RING_PACKED))),
    st.sets(st.sampled_from(OPTIONAL)),
).map(lambda both: both[0] | mask(*both[1]))


@contextmanager
def memory() -> Iterator[Arena]:
    """A guest's memory."""
    arena = Arena.create(16 << 20, huge_pages=False)
    try:
        yield arena
    finally:
        arena.close()


class Side:
    """One virtqueue between the driver's kernels and a naive device."""

    def __init__(self, arena: Arena, receives: bool, features: int, size: int, late: bool = False, **more: Any) -> None:
        self.arena = arena
        self.features = features
        self.header = net_header_bytes(features)
        self.queue = Virtqueue(arena, QueueShape(size, receives, 512, features, DELTA, **more))
        self.is_packed = bool(features & mask(Feature.RING_PACKED))
        kernels: Any = packed if self.is_packed else split
        kind = "packed" if self.is_packed else "split"
        rx, release, pending, tx = (getattr(kernels, f"{kind}_{name}") for name in ("rx", "release", "pending", "tx"))
        specs = [RxSpec(rx.address, self.queue.ctx, release=release.address, pending=pending.address)]
        port: Any = SimpleNamespace(rx=specs, tx=[TxSpec(tx.address, self.queue.ctx)], offloads=0)
        self.queues = Queues(arena, port)
        event_index = bool(features & mask(Feature.RING_EVENT_IDX))
        arguments = (*self.queue.addresses, size, DELTA)
        if self.is_packed:
            self.device: Any = NaivePacked(*arguments, event_index=event_index)
        else:
            start = 65536 - size if late else 0
            self._begin_at(start, receives)
            self.device = NaiveSplit(*arguments, event_index=event_index, start=start)
        self.device.ask_for_kick(False)

    def _begin_at(self, start: int, receives: bool) -> None:
        """Have a split ring's indexes begin shortly before they wrap."""
        queue = self.queue
        queue.row["next_used"] = queue.used["index"] = start
        available = (start + (queue.shape.size if receives else 0)) % 65536
        queue.row["next_avail"] = queue.avail["index"] = available
        if queue.shape.features & mask(Feature.RING_EVENT_IDX):
            queue.row["event"] = queue.avail["used_event"] = (start - 1) % 65536

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.queue.close()

    @property
    def fault(self) -> Fault:
        return Fault(int(self.queue.row["error"]))

    def kicked(self) -> bool:
        """Whether the device was kicked since the last time."""
        try:
            return bool(os.eventfd_read(self.queue.kick))
        except BlockingIOError:
            return False

    def lay_out(self, frames: list[bytes], pieces: int) -> None:
        """Packets of a burst in the arena, with heads of up to HEADER_MAX bytes and tails in pieces."""
        room = sum(len(frame) + 128 for frame in frames) + 64 * (2 + len(frames))
        block = self.arena.allocate(room)
        frags = self.arena.allocate(16 * 16 * BURST)
        at = block
        for index, frame in enumerate(frames):
            ctypes.memmove(at, frame, len(frame))
            p = self.queues.packets[index]
            for name in PACKET.names or ():
                p[name] = 0
            p["head"], p["head_len"] = at, min(len(frame), HEADER_MAX)
            rest, tail = len(frame) - int(p["head_len"]), at + int(p["head_len"])
            p["tail"], p["tail_len"] = tail, rest
            if rest and pieces:
                cuts = [rest * i // pieces for i in range(pieces + 1)]
                rows = records(FRAG, frags + index * 256, pieces)
                rows["address"] = [tail + cut for cut in cuts[:-1]]
                rows["length"] = np.diff(cuts)
                p["tail"], p["frags"], p["frag_count"] = 0, frags + index * 256, pieces
            at += (len(frame) + 127) // 64 * 64

    def send(self, frames: list[bytes], pieces: int = 0) -> list[bytes]:
        """Send a burst: as many of its frames, from the end, as there was no room for."""
        self.lay_out(frames, pieces)
        before = sum(self.queues.drops().values())
        self.queues.transmit([self.queues.packet_address(i) for i in range(len(frames))])
        return frames[len(frames) - (sum(self.queues.drops().values()) - before) :]

    def received(self) -> list[tuple[np.void, bytes]]:
        """The packets and frames of a burst, not yet released."""
        count = self.queues.receive()
        found = []
        for index in range(count):
            p = self.queues.packets[index]
            data = ctypes.string_at(int(p["head"]), int(p["head_len"]))
            pieces = records(FRAG, int(p["frags"]), int(p["frag_count"])) if p["frags"] else []
            tail = b"".join(ctypes.string_at(int(piece["address"]), int(piece["length"])) for piece in pieces)
            assert len(tail) == p["tail_len"]
            assert not tail or len(data) == HEADER_MAX
            found.append((p.copy(), data + tail))
        return found

    def offer(self, frame: bytes, header: bytes = b"") -> list[tuple[Buffer, int]] | None:
        """Have the device write a frame to as many buffers as it needs, not yet returned: None when they lack."""
        data = header or bytes(self.header)
        whole = data + frame
        taken: list[tuple[Buffer, int]] = []
        while len(whole):
            buffer = self.device.take()
            if buffer is None:
                return None
            done = buffer.write(whole)
            taken.append((buffer, done))
            whole = whole[done:]
        if self.features & mask(Feature.NET_MRG_RXBUF):
            address, _length = taken[0][0].pieces[0]
            ctypes.memmove(address + 10, struct.pack("<H", len(taken)), 2)
        return taken


def numbered(sizes: list[int], first: int) -> list[bytes]:
    """Frames that differ from each other."""
    return [bytes([(first + i) % 251] * 14) + bytes(j % 256 for j in range(size - 14)) for i, size in enumerate(sizes)]


STEPS = st.lists(
    st.tuples(st.just("send"), FRAMES, st.integers(0, 3))
    | st.tuples(st.just("take"), st.integers(1, 12), st.none())
    | st.tuples(st.just("give"), st.integers(1, 12), st.randoms(use_true_random=False)),
    max_size=30,
)


@settings(max_examples=150)
@given(FEATURES, st.sampled_from((4, 8, 16)), st.booleans(), st.sampled_from((0, 100)), st.booleans(), STEPS)
def test_frames_are_sent_in_order_and_whole(
    features: int, size: int, apart: bool, in_place: int, late: bool, steps: list[Any]
) -> None:
    with memory() as arena, Side(arena, False, features, size, late, apart=apart, in_place=in_place) as side:
        in_order = bool(features & mask(Feature.IN_ORDER))
        waiting: list[bytes] = []
        held: list[tuple[Buffer, int]] = []
        number = 0

        def take() -> bool:
            buffer = side.device.take()
            if buffer is None:
                return False
            assert buffer.read() == bytes(side.header) + waiting.pop(0)
            held.append((buffer, 0))
            return True

        for verb, argument, extra in steps:
            if verb == "send":
                frames = numbered(argument, number)
                number += len(frames)
                waiting += [frame for frame in frames if not side.send([frame], extra)]
            elif verb == "take":
                for _ in range(argument):
                    take()
            elif held:
                if not in_order:
                    extra.shuffle(held)
                done, held = held[:argument], held[argument:]
                assert not side.device.give(done, as_one=in_order)
        while take():
            pass
        assert not waiting
        if held:
            side.device.give(held, as_one=in_order)
        # All came back, so the ring holds as many frames as it has descriptors again.
        descriptors = 2 if apart and not features & mask(Feature.RING_INDIRECT_DESC) else 1
        full = numbered([60] * (size // descriptors), 0)
        assert not side.send(full)
        assert len(side.send(full[:1])) == 1
        for frame in full:
            buffer = side.device.take()
            assert buffer is not None
            assert buffer.read() == bytes(side.header) + frame
        assert side.device.take() is None
        assert set(side.queues.drops()) <= {"tx_ring_full", "tx_rejected"}
        assert side.fault == Fault.NONE


RECEIVE_STEPS = st.lists(
    st.tuples(st.just("offer"), FRAMES)
    | st.tuples(st.just("return"), st.integers(1, 12))
    | st.tuples(st.just("receive"), st.none())
    | st.tuples(st.just("release"), st.none()),
    max_size=30,
)


@settings(max_examples=150)
@given(FEATURES, st.sampled_from((8, 16)), st.booleans(), RECEIVE_STEPS)
def test_frames_are_received_in_order_and_whole(features: int, size: int, late: bool, steps: list[Any]) -> None:
    with memory() as arena, Side(arena, True, features, size, late) as side:
        in_order = bool(features & mask(Feature.IN_ORDER))
        merges = bool(features & mask(Feature.NET_MRG_RXBUF))
        expected: list[bytes] = []
        written: list[tuple[bytes, list[tuple[Buffer, int]]]] = []  # by the device, not returned yet
        number = 0

        def give_back(count: int) -> None:
            done, written[:] = written[:count], written[count:]
            if not done:
                return
            expected.extend(frame for frame, _ in done)
            buffers = [each for _, frame_buffers in done for each in frame_buffers]
            full = all(length == side.header + 512 for _, length in buffers[:-1])
            assert not side.device.give(buffers, as_one=in_order and full)

        def receive() -> None:
            for _packet, frame in side.received():
                assert frame == expected.pop(0)

        offering = True
        for verb, argument in steps:
            if verb == "offer" and offering:
                for frame in numbered(argument if merges else [min(length, 512) for length in argument], number):
                    number += 1
                    buffers = side.offer(frame)
                    if buffers is None:
                        offering = False  # those taken for half a frame are lost to this simple device
                        break
                    written.append((frame, buffers))
            elif verb == "return":
                give_back(argument)
            elif verb == "receive":
                receive()
            elif verb == "release":
                side.queues.release()
        give_back(len(written))
        assert side.queues.pending() == bool(expected)
        while expected:
            receive()
        assert not side.queues.pending()
        side.queues.release()
        assert side.fault == Fault.NONE
        assert side.queues.rxqs[0][1]["error"] == 0
        if offering:
            assert sum(side.device.take() is not None for _ in range(size)) == size
            assert side.device.take() is None


LAYOUTS = [0, mask(Feature.VERSION_1), mask(Feature.VERSION_1, Feature.RING_PACKED)]
EVENTS = [0, mask(Feature.RING_EVENT_IDX)]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_device_is_kicked_when_it_asks(layout: int, event: int) -> None:
    with memory() as arena, Side(arena, False, layout | event, 8) as side:
        frames = numbered([60, 60], 0)
        for _ in range(9):
            assert not side.send(frames)
            assert not side.kicked()
            side.device.give([(side.device.take(), 0), (side.device.take(), 0)])
            side.device.ask_for_kick(True)
            assert not side.send(frames[:1])
            assert side.kicked()
            if event:
                assert not side.send(frames[:1])
                assert not side.kicked(), "the event was passed already"
                side.device.give([(side.device.take(), 0)])
            side.device.ask_for_kick(False)
            side.device.give([(side.device.take(), 0)])


@settings(max_examples=60)
@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from(EVENTS),
    st.booleans(),
    st.lists(st.integers(1, 3) | st.just("receive"), max_size=40),
)
def test_a_sleeping_queue_is_always_woken(layout: int, event: int, late: bool, steps: list[int | str]) -> None:
    """When the receiver was given all there was, the device must be asked for an interrupt at the next frame."""
    with memory() as arena, Side(arena, True, layout | event, 8, late, sleeps=True) as side:
        asleep = False
        sent = got = 0
        for step in [*steps, "receive", "receive"]:
            if isinstance(step, int):
                buffers = [side.offer(frame) for frame in numbered([60] * step, 0) if sent - got + step <= 8]
                if not buffers:
                    continue
                interrupt = side.device.give([each for some in buffers if some for each in some])
                sent += len(buffers)
                assert interrupt or not asleep
                if interrupt:
                    os.eventfd_write(side.queue.call, 1)
                asleep = False
            else:
                got += len(side.received())
                side.queues.release()
                asleep = True
        assert got == sent
        with pytest.raises(BlockingIOError):
            os.eventfd_read(side.queue.call)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_offloads_pass_in_the_header(layout: int) -> None:
    tcp = numbered([300], 0)[0][:46] + b"\x50" + bytes(253)
    with memory() as arena, Side(arena, True, layout, 8) as side:
        header = struct.pack("<BBHHHH", 1, 1, 54, 100, 34, 16).ljust(side.header, b"\0")
        buffers = side.offer(tcp, header)
        side.device.give(buffers)
        ((packet, frame),) = side.received()
        assert frame == tcp
        fields = ("flags", "gso_type", "gso_size", "csum_start", "csum_offset")
        assert [int(packet[name]) for name in fields] == [FLAG_CSUM_PARTIAL, GSO_TCPV4, 100, 34, 16]
        side.queues.release()
        # And a plain frame after it leaves nothing of them.
        side.device.give(side.offer(tcp))
        ((packet, frame),) = side.received()
        assert [int(packet[name]) for name in fields] == [0] * 5
        # A header that contradicts its frame.
        side.device.give(side.offer(tcp, struct.pack("<BBHHHH", 1, 1, 54, 100, 600, 16).ljust(side.header, b"\0")))
        assert side.received() == []
        assert side.queues.drops() == {"bad_offload": 1}

    with memory() as arena, Side(arena, False, layout, 8) as side:
        for _ in range(2):
            side.lay_out([tcp, tcp], 0)
            for name, value in zip(fields, (FLAG_CSUM_PARTIAL, GSO_TCPV4, 100, 34, 16), strict=True):
                side.queues.packets[0][name] = value
            side.queues.transmit([side.queues.packet_address(i) for i in range(2)])
        for _ in range(2):
            assert side.device.take().read() == header + tcp
            assert side.device.take().read() == bytes(side.header) + tcp


def lie_index(side: Side) -> None:
    side.queue.used["index"] = 200


def lie_id(side: Side) -> None:
    side.device.give([(Buffer(8, 1), 100)])


def lie_twice(side: Side) -> None:
    buffer = side.device.take()
    side.device.give([(buffer, 100), (buffer, 100)])


def lie_length(side: Side) -> None:
    side.device.give([(side.device.take(), side.header + 513)])


def lie_short(side: Side) -> None:
    side.device.give([(side.device.take(), side.header - 1)])


def lie_count(side: Side) -> None:
    side.device.give([(side.device.take(), 100)])  # whose header says 0 buffers


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        (lie_index, Fault.USED_INDEX),
        (lie_id, Fault.USED_ID),
        (lie_twice, Fault.USED_ID),
        (lie_length, Fault.USED_LENGTH),
        (lie_short, Fault.USED_LENGTH),
        (lie_count, Fault.BUFFER_COUNT),
    ],
)
def test_a_device_that_breaks_the_rules_stops_the_queue(layout: int, lie: Any, fault: Fault) -> None:
    if lie is lie_index and layout & mask(Feature.RING_PACKED):
        pytest.skip("packed rings have no index")
    with memory() as arena, Side(arena, True, layout | mask(Feature.NET_MRG_RXBUF), 8) as side:
        lie(side)
        side.received()
        assert side.fault == fault
        assert side.received() == []
        assert side.queues.rxqs[0][1]["error"] != 0
        side.queue.reset()
        assert side.fault == Fault.NONE


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("in_order", [0, mask(Feature.IN_ORDER)])
def test_where_a_ring_goes_on_after_its_device_died(layout: int, in_order: int) -> None:
    """What the device used and the driver has not looked at is not available any more."""
    with memory() as arena, Side(arena, False, layout | in_order, 8) as side:
        for sizes in ([60] * 7, [60, 1400], [60] * 5):
            assert not side.send(numbered(sizes, 0))
            while (buffer := side.device.take()) is not None:
                side.device.give([(buffer, 0)])
        if layout & mask(Feature.RING_PACKED):
            place = side.device.next_used | side.device.used_wrap << 15
            assert side.queue.base_of_used == place | place << 16
        else:
            assert side.queue.base_of_used == side.device.used_index


@pytest.mark.parametrize("size", [5, 7, 12])
def test_packed_rings_of_any_size(size: int) -> None:
    features = LAYOUTS[2]
    with (
        memory() as arena,
        Side(arena, False, features, size) as sending,
        Side(arena, True, features, size) as receiving,
    ):
        for count in range(1, size + 1):
            frames = numbered([60 + count] * count, count)
            assert not sending.send(frames)
            buffers = [sending.device.take() for _ in frames]
            assert [buffer.read()[sending.header :] for buffer in buffers] == frames
            sending.device.give([(buffer, 0) for buffer in buffers])
            offered = [receiving.offer(frame) for frame in frames]
            receiving.device.give([each for some in offered if some for each in some])
            assert [frame for _, frame in receiving.received()] == frames
            receiving.queues.release()


OFFERED = mask(*Feature)


def options(**changes: Any) -> VirtioUserOptions:
    return VirtioUserOptions(path="/nowhere", **changes)


def test_features_that_are_nothing_without_others_go_with_them() -> None:
    assert negotiate("g", options(), OFFERED) & mask(Feature.NET_HOST_ECN)
    without = negotiate("g", options(), OFFERED & ~mask(Feature.NET_CSUM))
    assert transmit_offloads(without) == 0
    assert not without & mask(Feature.NET_HOST_ECN, Feature.NET_HOST_USO)
    assert without & mask(Feature.NET_GUEST_TSO4)


@pytest.mark.parametrize(
    ("changes", "missing", "text"),
    [
        ({"packed": True}, Feature.RING_PACKED, "does not offer ring_packed"),
        ({"in_order": True}, Feature.IN_ORDER, "does not offer in_order"),
        ({"ring": 100}, Feature.NET_MQ, "ring 100 must be a power of two"),
        ({"offloads": ("tso4",)}, Feature.NET_MQ, r"offloads \['tso4'\] cannot be without csum"),
        ({"mergeable": False, "version_1": False}, Feature.ANY_LAYOUT, "does not offer any_layout"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(changes: dict[str, Any], missing: Feature, text: str) -> None:
    with pytest.raises(PortError, match=text):
        negotiate("g", options(**changes), OFFERED & ~mask(missing))


def test_the_dirty_log_names_pages() -> None:
    log = DirtyLog(1 << 30)
    os.pwrite(log.fd, b"\x81", 5)
    os.pwrite(log.fd, b"\x02", log.size - 1)
    assert log.pages() == [40, 47, log.size * 8 - 7]
    assert log.size * 8 * 4096 >= 1 << 30
    log.close()


@contextmanager
def front_end(*replies: bytes) -> Iterator[tuple[FrontEnd, socket.socket]]:
    """A front end and the other end of its socket, which has said all its replies already."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.1)
    with ours, theirs:
        theirs.sendall(b"".join(replies))
        yield FrontEnd(ours), theirs


def reply(request: Request, payload: bytes) -> bytes:
    return encode(request, payload, REPLY)


def test_a_request_is_acknowledged_if_that_was_agreed() -> None:
    with front_end(reply(Request.SET_OWNER, U64.pack(0)), reply(Request.SET_VRING_NUM, U64.pack(7))) as (front, other):
        front.set_features(5)
        front.acknowledged = True
        front.set_owner()
        with pytest.raises(Refused, match="refused SET_VRING_NUM: it answered 7, 0 means done"):
            front.set_vring_num(1, 256)
        receiver = Receiver(other)
        sent = [receiver.receive() for _ in range(3)]
        assert [(m.request, m.flags, m.payload) for m in sent if m] == [
            (Request.SET_FEATURES, VERSION, U64.pack(5)),
            (Request.SET_OWNER, VERSION | NEED_REPLY, b""),
            (Request.SET_VRING_NUM, VERSION | NEED_REPLY, struct.pack("=II", 1, 256)),
        ]


@pytest.mark.parametrize(
    ("answer", "ask", "text"),
    [
        (
            reply(Request.GET_STATUS, U64.pack(0)),
            lambda front: front.get_features(),
            "GET_STATUS with flags 0x5 came, a reply to GET_FEATURES is due",
        ),
        (
            reply(Request.GET_FEATURES, b"1234"),
            lambda front: front.get_features(),
            "reply to GET_FEATURES has 4 bytes of payload, 8 are due",
        ),
        (
            reply(Request.GET_VRING_BASE, struct.pack("=II", 2, 5)),
            lambda front: front.get_vring_base(1),
            "reply to GET_VRING_BASE is of ring 2, ring 1 was asked for",
        ),
        (
            reply(Request.GET_INFLIGHT_FD, bytes(24)),
            lambda front: front.get_inflight_fd(2, 256),
            "reply to GET_INFLIGHT_FD has 24 bytes and 0 descriptors, 24 and 1 are due",
        ),
    ],
)
def test_replies_that_are_wrong_are_named(answer: bytes, ask: Callable[[FrontEnd], object], text: str) -> None:
    with front_end(answer) as (front, _other), pytest.raises(ProtocolViolation, match=text):
        ask(front)


def test_a_back_end_that_goes_is_noticed() -> None:
    with front_end() as (front, other):
        assert not front.lost
        with pytest.raises(TimeoutError):
            front.get_features()
        other.close()
        assert front.lost

"""Dummy ports: frames in and out under a program's control, without any device. For tests, benchmarks and examples.

``inject`` queues frames to be received once, ``replay`` has a set of frames received round and round as fast as the
worker asks. Transmitted frames are kept for ``transmitted`` when the option ``keep`` says so; else they are copied to
a sink that is overwritten, as a real ring would be. Receiving copies the headers into the worker's private buffer and
leaves the rest.

Layout in the arena: DUMMY; a single-producer ring of FRAME addresses (the engine's main thread pushes, the worker
pops); a record ring of transmitted frames (workers write under the transmit lock, the main thread reads), each a
FRAME and its bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval

from penstock.datapath.counters import count_drop, count_tx
from penstock.datapath.drops import TX_RING_FULL
from penstock.datapath.layout import (
    FRAME_MAX,
    HEADER_MAX,
    HEADROOM,
    PACKET_BYTES,
    packet_at,
    rxq_at,
    txq_at,
)
from penstock.machine import copy, entry, inlined, kernel, load64, load_acquire, offset, prefetch, records, view
from penstock.memory import (
    RECORD_RING,
    record_commit,
    record_peek,
    record_release,
    record_reserve,
    record_ring_bytes,
    record_ring_init,
    ring_length,
    spsc_bytes,
    spsc_init,
    spsc_pop,
    spsc_push,
)
from penstock.ports.base import Port, PortError, RxSpec, TxSpec
from penstock.ports.spec import Doc

RING_FRAMES = 4096
KEEP_BYTES = 1 << 22
SINK_SLOTS, SINK_BYTES = 64, 2048
HEAD_STRIDE = HEADROOM + HEADER_MAX + 64
SLACK = HEADER_MAX  # headers are copied in whole blocks, so a frame's memory is readable this far past its end

DUMMY = np.dtype(
    [
        ("ring", "i8"),
        ("replay", "i8"),  # FRAMEs to receive round and round
        ("replay_count", "i8"),
        ("next", "i8"),  # the worker's place among them
        ("kept", "i8"),  # record ring; 0: do not keep
        ("sink", "i8"),
        ("sink_next", "i8"),
        ("pad", "i8"),
    ],
    align=True,
)
FRAME = np.dtype(
    [
        ("address", "i8"),
        ("length", "i4"),
        ("csum_start", "u2"),
        ("csum_offset", "u2"),
        ("gso_size", "u2"),
        ("gso_type", "u1"),
        ("flags", "u1"),
        ("pad", "i4"),
    ],
    align=True,
)
FRAME_BYTES = FRAME.itemsize
OFFLOAD_WORDS = ("csum_start", "csum_offset", "gso_size", "gso_type", "flags")
REPLAY_COUNT, RING_OF = offset(DUMMY, "replay_count"), offset(DUMMY, "ring")

dummy_at = view(DUMMY)
frame_at = view(FRAME)


@inlined
def fill_packet(packet, frame, buffer):
    """Describe one frame to the worker: headers copied to ``buffer``, the rest in place."""
    f = frame_at(frame)
    p = packet_at(packet)
    address = f.address
    length = f.length
    head_len = length if length < HEADER_MAX else HEADER_MAX
    head = buffer + HEADROOM
    copy(head, address, 64)
    if head_len > 64:
        copy(head + 64, address + 64, HEADER_MAX - 64)
    p.head = head
    p.head_len = head_len
    p.tail = address + head_len
    p.tail_len = length - head_len
    p.headroom = HEADROOM
    p.csum_start = f.csum_start
    p.csum_offset = f.csum_offset
    p.gso_size = f.gso_size
    p.gso_type = f.gso_type
    p.flags = f.flags
    return 0


@entry("int64(int64, int64, int64)")
def dummy_rx(rxq, packets, limit):
    """Receive up to ``limit`` frames."""
    q = rxq_at(rxq)
    d = dummy_at(q.ctx)
    count = load_acquire(q.ctx + REPLAY_COUNT)
    buffer = q.scratch
    done = 0
    if count > 0:
        position = d.next
        frames = d.replay
        while done < limit:
            if position >= count:
                position = 0
            frame = frames + position * FRAME_BYTES
            prefetch(load64(frame + 8 * FRAME_BYTES))
            fill_packet(packets + done * PACKET_BYTES, frame, buffer + done * HEAD_STRIDE)
            position += 1
            done += 1
        d.next = position
        return done
    ring = d.ring
    while done < limit:
        frame = spsc_pop(ring)
        if frame == 0:
            break
        fill_packet(packets + done * PACKET_BYTES, frame, buffer + done * HEAD_STRIDE)
        done += 1
    return done


@entry("int64(int64)")
def dummy_pending(rxq):
    """Whether frames wait."""
    ctx = rxq_at(rxq).ctx
    if load_acquire(ctx + REPLAY_COUNT) > 0 or ring_length(load64(ctx + RING_OF)) > 0:
        return 1
    return 0


@kernel
def keep_frame(ring, packet):
    """Copy a transmitted frame and its offload state to the record ring: 1, or 0 when it is full."""
    p = packet_at(packet)
    length = p.head_len + p.tail_len
    record = record_reserve(ring, FRAME_BYTES + length)
    if record == 0:
        return 0
    f = frame_at(record)
    f.address = 0
    f.length = length
    f.csum_start = p.csum_start
    f.csum_offset = p.csum_offset
    f.gso_size = p.gso_size
    f.gso_type = p.gso_type
    f.flags = p.flags
    copy(record + FRAME_BYTES, p.head, p.head_len)
    copy(record + FRAME_BYTES + p.head_len, p.tail, p.tail_len)
    record_commit(ring)
    return 1


@inlined
def sink_frame(dummy, packet):
    """Copy the first bytes of a frame to the sink, as a ring of 2 KB buffers would take it."""
    d = dummy_at(dummy)
    p = packet_at(packet)
    slot = d.sink + (d.sink_next & (SINK_SLOTS - 1)) * SINK_BYTES
    d.sink_next += 1
    if p.head_len <= 64:
        copy(slot, p.head, 64)
    else:
        copy(slot, p.head, p.head_len if p.head_len < SINK_BYTES else SINK_BYTES)
        if p.tail_len > 0:
            copy(
                slot + HEADER_MAX,
                p.tail,
                p.tail_len if p.tail_len < SINK_BYTES - HEADER_MAX else SINK_BYTES - HEADER_MAX,
            )
    return 0


@entry("int64(int64, int64, int64)")
def dummy_tx(txq, packets, count):
    """Keep or discard a burst."""
    q = txq_at(txq)
    dummy = q.ctx
    kept = dummy_at(dummy).kept
    sent = 0
    octets = 0
    for i in range(count):
        packet = load64(packets + i * 8)
        p = packet_at(packet)
        if kept != 0:
            if keep_frame(kept, packet) == 0:
                continue
        else:
            sink_frame(dummy, packet)
        sent += 1
        octets += p.head_len + p.tail_len
    count_tx(q.counters, sent, octets)
    if sent < count:
        count_drop(q.counters, TX_RING_FULL, count - sent)
    return 0


@dataclass(frozen=True)
class Frame:
    """One frame and its offload state: virtio-net's words, flags as in datapath.layout."""

    data: bytes
    csum_start: int = 0
    csum_offset: int = 0
    gso_size: int = 0
    gso_type: int = 0
    flags: int = 0


@dataclass(frozen=True)
class DummyOptions:
    """Settings of a dummy port."""

    keep: Annotated[bool, Doc("Keep transmitted frames for the program that controls the port to read.")] = False
    offloads: Annotated[
        int, Interval(ge=0, le=31), Doc("Offload bits that the port claims to take: see datapath.layout.")
    ] = 0


class Dummy(Port):
    """A port without a device."""

    kind = "dummy"
    Options = DummyOptions

    def open(self) -> None:
        arena = self.context.arena
        self.offloads = self.options.offloads
        self.mtu = self.context.mtu or 1500
        self._ctx = arena.allocate(DUMMY.itemsize)
        self._blocks = [self._ctx]
        ctx = records(DUMMY, self._ctx)[0]
        ctx["ring"] = self._allocate(spsc_bytes(RING_FRAMES))
        spsc_init(int(ctx["ring"]), RING_FRAMES)
        ctx["sink"] = self._allocate(SINK_SLOTS * SINK_BYTES)
        if self.options.keep:
            ctx["kept"] = self._allocate(record_ring_bytes(KEEP_BYTES))
            record_ring_init(int(ctx["kept"]), KEEP_BYTES)
        self._record = ctx
        self._replayed: list[int] = []
        self.rx = [RxSpec(dummy_rx.address, self._ctx, pending=dummy_pending.address)]
        self.tx = [TxSpec(dummy_tx.address, self._ctx)]

    def close(self) -> None:
        for block in [*self._blocks, *self._replayed]:
            self.context.arena.free(block)

    def _allocate(self, size: int) -> int:
        address = self.context.arena.allocate(size)
        self._blocks.append(address)
        return address

    def _lay_out(self, frames: Sequence[Frame | bytes], spare: int = 0) -> list[int]:
        """Write frames to the arena: [address of the FRAME array, addresses of the bytes ...] as blocks to free."""
        table = self.context.arena.allocate((len(frames) + spare) * FRAME_BYTES)
        rows = records(FRAME, table, len(frames) + spare)
        sizes = [-(-len(f if isinstance(f, bytes) else f.data) // 64) * 64 for f in frames]
        block = self.context.arena.allocate(sum(sizes) + SLACK)
        address = block
        for index, each in enumerate(frames):
            frame = Frame(each) if isinstance(each, bytes) else each
            if len(frame.data) > FRAME_MAX:
                raise PortError(f"port '{self.name}': frame of {len(frame.data)} bytes is longer than {FRAME_MAX}")
            ctypes.memmove(address, frame.data, len(frame.data))
            rows[index] = (
                address,
                len(frame.data),
                frame.csum_start,
                frame.csum_offset,
                frame.gso_size,
                frame.gso_type,
                frame.flags,
                0,
            )
            address += sizes[index]
        rows["address"][len(frames) :] = block
        return [table, block]

    def inject(self, frames: Sequence[Frame | bytes]) -> None:
        """Have the frames received, in order. Raises PortError when more than RING_FRAMES wait."""
        table, block = self._lay_out(frames)
        self._blocks += [table, block]
        for index in range(len(frames)):
            if not spsc_push.py_func(int(self._record["ring"]), table + index * FRAME_BYTES):
                raise PortError(f"port '{self.name}': more than {RING_FRAMES} injected frames wait")
        self.context.kick()

    def replay(self, frames: Sequence[Frame | bytes]) -> None:
        """Have the frames received round and round, until ``stop_replay``."""
        self._replayed = self._lay_out(frames, spare=8)
        self._record["replay"], self._record["next"] = self._replayed[0], 0
        self._record["replay_count"] = len(frames)
        self.context.kick()

    def stop_replay(self) -> None:
        """Receive no more replayed frames (the worker may still hold a last burst)."""
        self._record["replay_count"] = 0
        self._blocks += self._replayed
        self._replayed = []

    def transmitted(self) -> list[Frame]:
        """The frames transmitted since the last call; needs the option ``keep``."""
        ring = int(self._record["kept"])
        if not ring:
            raise PortError(f"port '{self.name}': option keep is off, transmitted frames were not kept")
        found = []
        while record := int(record_peek.py_func(ring)):
            row = records(FRAME, record)[0]
            data = ctypes.string_at(record + FRAME_BYTES, int(row["length"]))
            found.append(Frame(data, *(int(row[name]) for name in OFFLOAD_WORDS)))
            record_release.py_func(ring)
        return found

    def driver_stats(self) -> dict[str, int]:
        if not self.options.keep:
            return {}
        return {"kept_lost": int(records(RECORD_RING, int(self._record["kept"]))[0]["lost"])}

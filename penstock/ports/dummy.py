"""Dummy ports: frames in and out under a program's control, without any device. For tests, benchmarks and examples.

``inject`` queues frames to be received once, ``replay`` has a set of frames received round and round as fast as the
worker asks. Transmitted frames are kept for ``transmitted`` when the option ``keep`` says so; else they are copied to a
sink that is overwritten, as a real ring would be. Main thread only; ``dummy_kernels`` moves the frames.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from penstock.datapath.layout import FRAME_MAX, HEADER_MAX
from penstock.machine import records
from penstock.memory import (
    RECORD_RING,
    ArenaError,
    record_peek,
    record_release,
    record_ring_bytes,
    record_ring_init,
    spsc_bytes,
    spsc_init,
    spsc_push,
)
from penstock.ports.base import Port, PortError, RxSpec, TxSpec
from penstock.ports.dummy_kernels import (
    DUMMY,
    FRAME,
    FRAME_BYTES,
    OFFLOAD_WORDS,
    SINK_BYTES,
    SINK_SLOTS,
    dummy_pending,
    dummy_rx,
    dummy_tx,
)
from penstock.ports.spec import Doc

RING_FRAMES = 4096
KEEP_BYTES = 1 << 22
SLACK = HEADER_MAX  # headers are copied in whole blocks, so a frame's memory is readable this far past its end


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
        self.offloads = self.options.offloads
        self.mtu = self.context.mtu or 1500
        self._blocks: list[int] = []
        self._replayed: list[int] = []
        try:
            self._allocate_all()
        except ArenaError:
            self.close()
            raise
        self.rx = [RxSpec(dummy_rx.address, self._ctx, pending=dummy_pending.address)]
        self.tx = [TxSpec(dummy_tx.address, self._ctx)]

    def _allocate_all(self) -> None:
        self._ctx = self._allocate(DUMMY.itemsize)
        ctx = records(DUMMY, self._ctx)[0]
        ctx["ring"] = self._allocate(spsc_bytes(RING_FRAMES))
        spsc_init(int(ctx["ring"]), RING_FRAMES)
        ctx["sink"] = self._allocate(SINK_SLOTS * SINK_BYTES)
        if self.options.keep:
            ctx["kept"] = self._allocate(record_ring_bytes(KEEP_BYTES))
            record_ring_init(int(ctx["kept"]), KEEP_BYTES)
        self._record = ctx

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

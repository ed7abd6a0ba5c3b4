"""A generator on an endpoint: its schedule laid out in the arena, a share per transmit queue, and how far it is.

A flow keeps to one queue, so that it stays in order. Main thread only; ``generator_kernels`` sends.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.datapath.layout import BURST, HEADER_MAX, HEADROOM, OFFLOAD_NAMES, PACKET
from penstock.machine import records
from penstock.traffic.endpoint import Endpoint, Queue
from penstock.traffic.frames import Frame
from penstock.traffic.generator_kernels import AHEAD, generator_turn
from penstock.traffic.layout import ENTRY, FLOW, FRACTION_BITS, GENERATOR, NEVER, TIME_BITS
from penstock.traffic.stream import Scheduled, Stream, StreamError

ENTRIES_MIN = 2 * BURST
PATIENCE_SECONDS = 0.001  # how far behind a generator may be and still make up for it
ETHERNET_HEADER = 14


@dataclass(frozen=True)
class Timed:
    """A frame to be sent as it is, and seconds from it to the next."""

    frame: Frame
    gap: float = 0.0


class Generator:
    """What sends one schedule by one endpoint. ``tasks`` are for the loop."""

    def __init__(self, endpoint: Endpoint, hz: int) -> None:
        if not endpoint.tx:
            raise StreamError(f"port '{endpoint.port.name}' of kind {endpoint.port.kind} has no transmit queue")
        self.endpoint = endpoint
        self.hz = hz
        self.rows: list[Any] = []
        self.tasks: list[tuple[int, int]] = []
        self._blocks: list[int] = []
        self._zeros = self._flows = 0
        self._flow_count = 0

    @classmethod
    def of_stream(cls, endpoint: Endpoint, stream: Stream, hz: int) -> Generator:
        """A generator of a stream. Raises StreamError when the port cannot send its frames."""
        made = cls(endpoint, hz)
        made._check(stream)
        made._zeros = made._allocate(max(stream.sizes))
        shares: list[list[Scheduled]] = [[] for _ in endpoint.tx]
        for each in stream.schedule():
            shares[each.flow % len(shares)].append(each)
        shares = [share for share in shares if share]
        flows = made._number_flows(stream)
        for queue, share in zip(endpoint.tx, shares, strict=False):
            entries = made._lay_out([(each.frame, flows[each.flow], 0.0) for each in share])
            made._add(queue, *entries)
        made.pace(stream.frames_per_second)
        made.limit(stream.count, stream.seconds)
        return made

    @classmethod
    def of_frames(
        cls, endpoint: Endpoint, frames: Sequence[Timed], hz: int, rate: float | None = None, rounds: int = 1
    ) -> Generator:
        """A generator of frames as they are, without stamps, by the first queue: at a rate, or spaced by their gaps.

        What of a frame is not in its head is zeros.
        """
        made = cls(endpoint, hz)
        made._zeros = made._allocate(max(each.frame.length for each in frames))
        entries = made._lay_out([(each.frame, 0, 0.0 if rate else each.gap) for each in frames])
        made._add(endpoint.tx[0], *entries)
        made.pace(rate)
        if any(each.gap for each in frames):
            made.rows[0]["insist"] = 0
        made.limit(len(frames) * rounds, None)
        return made

    def close(self) -> None:
        """Free the memory. The loop has ended."""
        for block in self._blocks:
            self.endpoint.arena.free(block)
        self._blocks = []

    def pace(self, frames_per_second: float | None) -> None:
        """Send at a rate, or as fast as the port takes frames (None)."""
        for row in self.rows:
            row["interval"] = 0
            if frames_per_second:
                row["interval"] = round((self.hz << FRACTION_BITS) * len(self.rows) / frames_per_second)
            row["insist"] = frames_per_second is None

    def limit(self, count: int | None, seconds: float | None) -> None:
        """Begin anew with sequence number 0, and end after so many frames or seconds."""
        shares = len(self.rows)
        for number, row in enumerate(self.rows):
            row["remaining"] = NEVER if count is None else count // shares + (number < count % shares)
            row["duration"] = NEVER if seconds is None else int(seconds * self.hz)
            for name in ("wake", "due", "started", "ended", "sent", "refused", "skipped", "done"):
                row[name] = 0
        if self._flow_count:
            records(FLOW, self._flows, self._flow_count)["sequence"] = 0

    @property
    def done(self) -> bool:
        return all(row["done"] for row in self.rows)

    @property
    def sent(self) -> int:
        """Frames that the port took."""
        return sum(int(row["sent"]) for row in self.rows)

    @property
    def refused(self) -> int:
        """Times that the port's ring was full for a frame."""
        return sum(int(row["refused"]) for row in self.rows)

    @property
    def seconds(self) -> float:
        """From the first frame to the end."""
        began = min(int(row["started"]) for row in self.rows)
        return (max(int(row["ended"]) for row in self.rows) - began) / self.hz

    @property
    def fell_behind(self) -> float:
        """Seconds that the generator lost, being too slow for its rate."""
        if not any(row["interval"] for row in self.rows):
            return 0.0
        return max(int(row["skipped"]) for row in self.rows) / (self.hz << FRACTION_BITS)

    def _check(self, stream: Stream) -> None:
        port = self.endpoint.port
        missing = stream.kind.offloads & ~port.offloads
        if missing:
            names = ", ".join(name for bit, name in OFFLOAD_NAMES.items() if missing & bit)
            raise StreamError(f"port '{port.name}' of kind {port.kind} lacks offload {names}, which the stream needs")
        packet = max(stream.sizes) - 4 - stream.kind.l3
        if stream.gso_size == 0 and packet > port.mtu:
            raise StreamError(f"size {max(stream.sizes)} does not fit port '{port.name}': its MTU is {port.mtu}")

    def _number_flows(self, stream: Stream) -> list[int]:
        """The addresses of a FLOW for each flow of the stream."""
        count = self._flow_count = stream.flow_count
        table = self._flows = self._allocate(count * FLOW.itemsize)
        identities = np.arange(stream.first_flow, stream.first_flow + count, dtype=np.int64)
        records(FLOW, table, count)["identity"] = identities << TIME_BITS
        return [table + number * FLOW.itemsize for number in range(count)]

    def _lay_out(self, frames: Sequence[tuple[Frame, int, float]]) -> tuple[int, int]:
        """Write a schedule of (frame, address of its FLOW, gap); its address and length."""
        rounds = -(-ENTRIES_MIN // len(frames))
        count = rounds * len(frames)
        table = self._allocate((count + AHEAD) * ENTRY.itemsize)
        stride = [HEADROOM + -(-len(frame.head) // 64) * 64 for frame, _flow, _gap in frames]
        at = self._allocate(rounds * sum(stride) + HEADER_MAX)
        rows = records(ENTRY, table, count)
        for index in range(count):
            frame, flow, gap = frames[index % len(frames)]
            head = at + HEADROOM
            at += stride[index % len(frames)]
            ctypes.memmove(head, frame.head, len(frame.head))
            head_len = min(frame.length, HEADER_MAX)
            row = rows[index]
            row["head"], row["head_len"], row["tail_len"] = head, head_len, frame.length - head_len
            if frame.length > head_len:
                row["tail"] = self._zeros if len(frame.head) == head_len else head + head_len
            row["flow"], row["stamp_at"], row["gap"] = flow, frame.stamp_at, int(gap * self.hz * (1 << FRACTION_BITS))
            row["sum"], row["csum_at"] = frame.sum, frame.csum_at
            row["csum_start"], row["csum_offset"] = frame.csum_start, frame.csum_offset
            row["gso_size"], row["gso_type"], row["flags"] = frame.gso_size, frame.gso_type, frame.flags
        return table, count

    def _add(self, queue: Queue, entries: int, count: int) -> None:
        """A GENERATOR for one queue."""
        address = self._allocate(GENERATOR.itemsize)
        row = records(GENERATOR, address)[0]
        row["txq"], row["refusals"] = queue.address, queue.refusals_at
        row["entries"], row["entry_count"] = entries, count
        row["packets"], row["burst"] = self._packets()
        row["patience"] = int(PATIENCE_SECONDS * self.hz) << FRACTION_BITS
        self.rows.append(row)
        self.tasks.append((generator_turn.address, address))

    def _packets(self) -> tuple[int, int]:
        """BURST PACKETs and the list of their addresses."""
        packets, burst = self._allocate(BURST * PACKET.itemsize), self._allocate(BURST * 8)
        records(PACKET, packets, BURST)["headroom"] = HEADROOM
        records(np.dtype(np.int64), burst, BURST)[:] = [packets + i * PACKET.itemsize for i in range(BURST)]
        return packets, burst

    def _allocate(self, size: int) -> int:
        address = self.endpoint.arena.allocate(size)
        self._blocks.append(address)
        return address


def frames_to_learn(stream: Stream) -> Iterable[Timed]:
    """Frames that make a switch learn the stream's destinations: one from each of them, to everybody."""
    seen = set()
    for flow in stream.addresses():
        if (flow.dst_mac, flow.vlan) not in seen:
            seen.add((flow.dst_mac, flow.vlan))
            tag = b"\x81\x00" + flow.vlan.to_bytes(2, "big") if stream.kind.tagged else b""
            data = b"\xff" * 6 + flow.dst_mac.to_bytes(6, "big") + tag + b"\x88\xb5"  # for local experiments
            yield Timed(Frame(data.ljust(60, b"\0"), 60))

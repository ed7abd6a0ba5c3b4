"""A sink on an endpoint: all its receive queues, what came by them, and maybe replies.

Main thread only; ``sink_kernels`` receives and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

import numpy as np

from penstock.datapath.layout import BURST, PACKET
from penstock.machine import records
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.histogram import BUCKETS, Latency, summary
from penstock.traffic.layout import FLOWS_MAX, NEVER, REPLY_ANSWER, REPLY_REFLECT, SEEN, SINK
from penstock.traffic.sink_kernels import sink_turn
from penstock.traffic.stream import StreamError

FLOWS = 16_384
WINDOW = 1024


@dataclass(frozen=True)
class Counts:
    """What a sink received. ``expected``: frames with numbers from 0 to the highest seen, over all flows."""

    received: int
    octets: int
    stamped: int
    expected: int
    unique: int
    duplicates: int
    reordered: int
    late: int
    foreign: int
    untracked: int
    replied: int
    latency: Latency | None

    @property
    def missing(self) -> int:
        """Frames that did not come before the last of their flow that did."""
        return self.expected - self.unique - self.late


class Sink:
    """What receives by one endpoint. ``tasks`` are for the loop."""

    def __init__(self, endpoint: Endpoint, hz: int, flows: int = FLOWS, window: int = WINDOW) -> None:
        if not endpoint.rx:
            raise StreamError(f"port '{endpoint.port.name}' of kind {endpoint.port.kind} has no receive queue")
        if not 1 <= flows <= FLOWS_MAX:
            raise StreamError(f"{flows} flows cannot be tracked: must be 1 to {FLOWS_MAX}")
        if window < 64 or window & (window - 1):
            raise StreamError(f"window {window} is wrong: must be a power of two of at least 64")
        self.endpoint = endpoint
        self.hz = hz
        self._blocks: list[int] = []
        address = self._allocate(SINK.itemsize)
        self.row: Any = records(SINK, address)[0]
        self.row["wake"], self.row["latency_min"] = NEVER, NEVER
        self.row["queue_count"] = len(endpoint.rx)
        self.row["queues"] = self._allocate(len(endpoint.rx) * 8)
        addresses = [queue.address for queue in endpoint.rx]
        records(np.dtype(np.int64), int(self.row["queues"]), len(addresses))[:] = addresses
        self.row["packets"], self.row["replies"] = self._allocate(BURST * PACKET.itemsize), self._allocate(BURST * 8)
        self.row["seen"], self.row["flow_count"] = self._allocate(flows * SEEN.itemsize), flows
        self.row["windows"], self.row["window"] = self._allocate(flows * window // 8), window
        self.row["histogram"] = self._allocate(BUCKETS * 8)
        self.flows = flows
        self.tasks = [(sink_turn.address, address)]

    def close(self) -> None:
        """Free the memory. The loop has ended."""
        for block in self._blocks:
            self.endpoint.arena.free(block)
        self._blocks = []

    def reset(self) -> None:
        """Forget what was received. The loop does not run."""
        for name in SINK.names[SINK.names.index("received") :]:  # type: ignore[union-attr,index]
            self.row[name] = 0
        self.row["latency_min"] = NEVER
        self.seen[:] = np.zeros((), SEEN)
        self.histogram[:] = 0
        records(np.dtype(np.int64), int(self.row["windows"]), self.flows * int(self.row["window"]) // 64)[:] = 0

    def reflect(self) -> None:
        """Send every frame back, addresses and ports exchanged."""
        self._reply(REPLY_REFLECT)

    def answer(self, mac: int, address: IPv4Interface) -> None:
        """Be a host that answers ARP and ping."""
        self._reply(REPLY_ANSWER)
        self.row["mac"] = int.from_bytes(mac.to_bytes(6, "big"), "little")
        self.row["address"] = int.from_bytes(address.ip.packed, "little")
        self.row["netmask"] = int.from_bytes(address.netmask.packed, "little")

    def _reply(self, kind: int) -> None:
        if not self.endpoint.tx:
            raise StreamError(f"port '{self.endpoint.port.name}' has no transmit queue to reply by")
        self.row["txq"] = self.endpoint.tx[0].address
        self.row["reply"] |= kind

    @property
    def seen(self) -> np.ndarray[Any, np.dtype[Any]]:
        """SEEN of each flow."""
        return records(SEEN, int(self.row["seen"]), self.flows)

    @property
    def histogram(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return records(np.dtype(np.int64), int(self.row["histogram"]), BUCKETS)

    def counts(self) -> Counts:
        """All counts as they are now."""
        row, seen = self.row, self.seen
        latency = summary(
            self.histogram.copy(),
            int(row["latency_sum"]),
            int(row["latency_min"]),
            int(row["latency_max"]),
            self.hz,
        )
        return Counts(
            received=int(row["received"]),
            octets=int(row["octets"]),
            stamped=int(row["stamped"]),
            expected=int(seen["next"].sum()),
            unique=int(seen["unique"].sum()),
            duplicates=int(seen["duplicates"].sum()),
            reordered=int(seen["reordered"].sum()),
            late=int(seen["late"].sum()),
            foreign=int(row["foreign"]),
            untracked=int(row["untracked"]),
            replied=int(row["replied"]),
            latency=latency,
        )

    def _allocate(self, size: int) -> int:
        address = self.endpoint.arena.allocate(size)
        self._blocks.append(address)
        return address

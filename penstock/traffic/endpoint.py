"""A port opened by this process for itself: without an engine, with the queues' records that its kernels need.

Each queue has COUNTERS of its own, so that queues may be driven by different threads. The arena is this process's; to a
`virtio-user` port it is the guest's memory. Main thread only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.datapath.drops import REASONS, TX_RING_FULL
from penstock.datapath.layout import BURST, COUNTER_DROPS, COUNTERS, RXQ, SCRATCH_STRIDE, TX_SCRATCH, TXQ
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports import KINDS as SWITCH_KINDS
from penstock.ports.base import Port, PortContext, PortError
from penstock.traffic.virtio_user.port import VirtioUser

# A patch port has no queues, and a vhost-user port needs an engine's main loop: here a guest is the other end of one.
KINDS: dict[str, type[Port]] = {
    **{name: kind for name, kind in SWITCH_KINDS.items() if name not in ("patch", "vhost-user")},
    "virtio-user": VirtioUser,
}


@dataclass(frozen=True)
class Queue:
    """An RXQ or TXQ record: where it lies, as an array row, and the COUNTERS that belong to it."""

    address: int
    row: Any
    counters_at: int
    counters: Any

    @property
    def refusals_at(self) -> int:
        """Where frames are counted that a full ring refused."""
        return self.counters_at + COUNTER_DROPS + TX_RING_FULL * 8

    def drops(self) -> dict[str, int]:
        """Frames dropped at this queue, by reason."""
        found = {reason.name: int(self.counters["drops"][i]) for i, reason in enumerate(REASONS)}
        return {name: count for name, count in found.items() if count}


class Queues:
    """The RXQ and TXQ records of one open port, as an engine would build them."""

    def __init__(self, arena: Arena, port: Port) -> None:
        self.arena = arena
        self.port = port
        self._blocks: list[int] = []
        scratch = self._allocate(SCRATCH_STRIDE * BURST) if port.rx else 0
        self.rx = [self._rx(spec, scratch) for spec in port.rx]
        self.tx = [self._tx(spec) for spec in port.tx]

    def close(self) -> None:
        """Free the records. No thread uses the queues any more."""
        for block in self._blocks:
            self.arena.free(block)
        self._blocks = []

    def _allocate(self, size: int) -> int:
        address = self.arena.allocate(size)
        self._blocks.append(address)
        return address

    def _counters(self) -> tuple[int, Any]:
        address = self._allocate(COUNTERS.itemsize)
        return address, records(COUNTERS, address)[0]

    def _rx(self, spec: Any, scratch: int) -> Queue:
        address = self._allocate(RXQ.itemsize)
        row = records(RXQ, address)[0]
        counters_at, counters = self._counters()
        row["rx"], row["release"], row["pending"], row["ctx"] = spec.rx, spec.release, spec.pending, spec.ctx
        row["fd"], row["scratch"], row["counters"] = spec.fd, scratch, counters_at
        return Queue(address, row, counters_at, counters)

    def _tx(self, spec: Any) -> Queue:
        address = self._allocate(TXQ.itemsize)
        row = records(TXQ, address)[0]
        counters_at, counters = self._counters()
        row["tx"], row["ctx"], row["fd"], row["queue"] = spec.tx, spec.ctx, spec.fd, spec.queue
        row["counters"], row["scratch"], row["offloads"] = counters_at, self._allocate(TX_SCRATCH), self.port.offloads
        return Queue(address, row, counters_at, counters)

    def drops(self) -> dict[str, int]:
        """Frames dropped at the port, by reason."""
        total: dict[str, int] = {}
        for queue in [*self.rx, *self.tx]:
            for name, count in queue.drops().items():
                total[name] = total.get(name, 0) + count
        return total


class Endpoint(Queues):
    """A port of some kind, open, with its queues. Use as a context manager."""

    def __init__(self, arena: Arena, kind: str, name: str, options: dict[str, Any], mtu: int | None = None) -> None:
        port = KINDS[kind](name, KINDS[kind].Options(**options), PortContext(arena, mtu=mtu))
        port.open()
        super().__init__(arena, port)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        super().close()
        self.port.close()

    def check(self) -> None:
        """Raise PortError when the port is broken for good."""
        state, reason = self.port.check()
        if state == "error":
            raise PortError(f"port '{self.port.name}' broke: {reason}")

"""A switch in this process, busy polling, with flow tables between two dummy ports: for benchmarks of the tables."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from penstock.engine.engine import Engine
from penstock.engine.flow_region import FlowRegion, make_region
from penstock.engine.flow_tables import FlowTables
from penstock.openflow.bridge import OpenFlowBridge
from penstock.ports.dummy import Dummy
from penstock.ports.spec import BridgeSpec, PortSpec


@dataclass(frozen=True)
class Switch:
    """An engine with one worker and bridge br0, whose ports a and b are OpenFlow's 1 and 2."""

    engine: Engine
    region: FlowRegion
    bridge: OpenFlowBridge

    @property
    def worker(self) -> Any:
        """The worker's row."""
        return self.engine.workers.all[0].row

    @property
    def source(self) -> Dummy:
        """Port a, which receives what is replayed."""
        port = self.engine.ports["a"].port
        assert isinstance(port, Dummy)
        return port


@contextmanager
def switch(cpu: int) -> Iterator[Switch]:
    """Run one on a CPU."""
    engine = Engine(workers=1, cpus=[cpu], poll="busy")
    try:
        fd = make_region()
        engine.use_flow_region(f"/proc/{os.getpid()}/fd/{fd}")
        os.close(fd)
        region = FlowRegion()
        region.set_workers([worker.row for worker in engine.workers.all])
        engine.add_bridge(BridgeSpec("br0"))
        for name in ("a", "b"):
            engine.add_port(PortSpec("br0", name, "dummy", {}))
        tables = FlowTables.create(region, "br0")
        engine.set_pipeline("br0", tables.address)
        yield Switch(
            engine, region, OpenFlowBridge(region, tables, engine.workers.cycles_hz, lambda _entry, _reason: None)
        )
        region.set_workers(())
    finally:
        engine.stop()


def sample(worker: Any, rounds: int) -> tuple[list[float], float]:
    """Of so many seconds the busy cycles per packet of each, and the median of a million packets a second."""
    cycles, rates = [], []
    for _ in range(rounds):
        busy, packets, started = int(worker["busy_cycles"]), int(worker["packets_total"]), time.perf_counter()
        time.sleep(1.0)
        done = int(worker["packets_total"]) - packets
        cycles.append((int(worker["busy_cycles"]) - busy) / done)
        rates.append(done / (time.perf_counter() - started) / 1e6)
    return cycles, statistics.median(rates)

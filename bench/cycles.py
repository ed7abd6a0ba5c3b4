"""Busy cycles per packet from dummy port to dummy port: 64-byte UDP frames, learned MAC addresses, one worker.

``python -m bench [--rounds N] [--json]``. Each case replays frames both ways between two ports of one bridge;
a round is one second; the figure is the worker's busy cycles divided by its packets, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.frames import udp_frame
from bench.in_process import sample
from penstock.datapath.layout import STAGES
from penstock.engine.engine import Engine
from penstock.engine.warm import warm
from penstock.ports.dummy import Dummy
from penstock.ports.spec import BridgeSpec, PortSpec

CASES = {2: 80, 15000: 120}  # number of MAC addresses: busy cycles per packet at most


@dataclass(frozen=True)
class Result:
    """One case: medians over the rounds."""

    macs: int
    cycles: float
    worst: float
    million_packets_per_second: float
    limit: int
    stages: dict[str, float]


def traffic(macs: int) -> tuple[list[bytes], list[bytes]]:
    """Frames for either port: every address sends, to a random address of the other side."""
    half = macs // 2
    left, right = list(range(half)), list(range(half, macs))
    rng = random.Random(1)
    rng.shuffle(left)
    rng.shuffle(right)
    return (
        [udp_frame(source, rng.choice(right)) for source in left],
        [udp_frame(source, rng.choice(left)) for source in right],
    )


def measure(macs: int, limit: int, rounds: int, cpu: int) -> Result:
    """Run one case."""
    engine = Engine(workers=1, cpus=[cpu], poll="busy")
    try:
        engine.add_bridge(BridgeSpec("br0", mac_table_size=max(8192, macs + macs // 4)))
        for name in ("a", "b"):
            engine.add_port(PortSpec("br0", name, "dummy", {}))
        for name, frames in zip(("a", "b"), traffic(macs), strict=True):
            port = engine.ports[name].port
            assert isinstance(port, Dummy)
            port.replay(frames)
        row = engine.workers.all[0].row
        time.sleep(0.5)
        staged = row["stage_cycles"].copy()
        staged_packets = int(row["staged_packets"])
        cycles, rate = sample(row, rounds)
        spent = (row["stage_cycles"] - staged) / (int(row["staged_packets"]) - staged_packets)
        for name in ("a", "b"):
            counters = engine.tables.counters(engine.ports[name].number)[0]
            if counters["drops"].any():
                raise RuntimeError(f"port {name} dropped frames: {counters['drops'].tolist()}")
        stages = dict(zip(STAGES, (round(float(each), 1) for each in spent), strict=True))
        return Result(macs, statistics.median(cycles), max(cycles), rate, limit, stages)
    finally:
        engine.stop()


def main() -> int:
    """Run all cases; 1 when one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warm(lambda _done, _total, _name: None)
    cpu = max(os.sched_getaffinity(0))
    results = [measure(macs, limit, options.rounds, cpu) for macs, limit in CASES.items()]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        table = Table(title="dummy port to dummy port, 64-byte frames, one worker, median of rounds of 1 s")
        for column in ("MACs", "busy cycles/packet", "worst round", "limit", "Mpps", *STAGES):
            table.add_column(column, justify="right")
        for r in results:
            figures = (f"{r.cycles:.1f}", f"{r.worst:.1f}", str(r.limit), f"{r.million_packets_per_second:.1f}")
            table.add_row(str(r.macs), *figures, *(f"{r.stages[stage]:.1f}" for stage in STAGES))
        Console().print(table)
    return int(any(result.cycles > result.limit for result in results))


if __name__ == "__main__":
    raise SystemExit(main())

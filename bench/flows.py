"""Busy cycles per packet through flow tables, from dummy port to dummy port: ``python -m bench.flows [--rounds N]``.

64-byte UDP frames, one worker, in this process: nothing but the tables is measured. The case of a million entries is
demanded to take at most twice the cycles of a thousand, and 400 bytes an entry.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.flow_rules import (
    attacked_frames,
    few_allowed,
    five_tuples,
    flow_frame,
    frames_of,
    many_masks,
    random_frames,
    victims_frames,
)
from bench.in_process import sample, switch
from penstock.datapath.pipeline.layout import EXEC
from penstock.engine.flow_region import FlowRegion
from penstock.engine.warm import warm
from penstock.machine import records
from penstock.openflow.action_wire import apply_instruction, output_action
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import FlowMod
from penstock.openflow.match import Builder
from penstock.openflow.text_flow import parse_flow

REPLAYED_MAX = 1_000_000  # frames: several times what a flow cache has entries
CHANGES = 1000  # flow-mods in one transaction


@dataclass(frozen=True)
class Case:
    """Entries, and frames; ``like`` names a case whose cycles are compared with these."""

    name: str
    entries: Callable[[], Iterator[FlowMod]]
    frames: Callable[[], Iterator[bytes]]
    like: str | None = None
    within: float = 1.0


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; set-up and memory of an entry."""

    name: str
    cycles: float
    million_packets_per_second: float
    hit_rate: float
    entries: int
    microseconds_per_entry: float
    bytes_per_entry: float


def _texts(lines: Sequence[str]) -> Iterator[FlowMod]:
    return (parse_flow(line, {}) for line in lines)


def _exact(count: int) -> Iterator[FlowMod]:
    """Entries of one mask: addresses and ports, all of them output to port 2."""
    instructions = apply_instruction(output_action(2))
    for index in range(count):
        source, destination, ports = _tuple(index)
        made = Builder()
        for name, value in (("eth_type", 0x0800), ("nw_proto", 17), ("ip_src", source), ("ip_dst", destination),
                            ("udp_src", ports >> 16), ("udp_dst", ports & 0xFFFF)):  # fmt: skip
            made.add(name, value)
        yield FlowMod(0, 0, 100, made.match(), instructions)


def _tuple(index: int) -> tuple[int, int, int]:
    rng = random.Random(index)
    return rng.getrandbits(32), rng.getrandbits(32), rng.getrandbits(32)


def _exact_frames(entries: int) -> Iterator[bytes]:
    """Of that many entries as many as are replayed, in no order."""
    for index in random.Random(9).sample(range(entries), min(entries, REPLAYED_MAX)):
        source, destination, ports = _tuple(index)
        yield flow_frame(source, destination, ports >> 16, ports & 0xFFFF)


RULES = 1000
CASES = (
    Case("1,000 rules on 24 masks, 1,000 flows", lambda: _texts([r.text("output:2") for r in many_masks(RULES)]),
         lambda: frames_of(many_masks(RULES), 1000)),
    Case("1,000 rules on 24 masks, 100,000 flows", lambda: _texts([r.text("output:2") for r in many_masks(RULES)]),
         lambda: frames_of(many_masks(RULES), 100_000)),
    Case("5-tuple rules, a new flow in each packet", lambda: _texts(five_tuples(RULES)),
         lambda: random_frames(REPLAYED_MAX)),
    Case("1,000 entries, 1,000 flows", lambda: _exact(1000), lambda: _exact_frames(1000)),
    Case("1,000,000 entries, 1,000 flows", lambda: _exact(1_000_000),
         lambda: (frame for frame, _ in zip(_exact_frames(1_000_000), range(1000), strict=False)),
         "1,000 entries, 1,000 flows", 2),
    Case("1,000,000 entries, each packet another", lambda: _exact(1_000_000), lambda: _exact_frames(1_000_000)),
    Case("a few allowed by 4 fields, the rest dropped", lambda: _texts(few_allowed()),
         lambda: victims_frames(REPLAYED_MAX)),
    Case("the same, 1 frame in 32 an attacker's", lambda: _texts(few_allowed()),
         lambda: attacked_frames(REPLAYED_MAX), "a few allowed by 4 fields, the rest dropped", 31 / 32 / 0.8),
)  # fmt: skip


def measure(case: Case, rounds: int, cpu: int) -> Result:
    """Run one case."""
    with switch(cpu) as made:
        count, seconds, size = _fill(made.bridge, made.region, case)
        made.source.replay(list(case.frames()))
        time.sleep(1.0)
        cache = records(EXEC, int(made.worker["exec"]))[0]
        looked, missed = int(cache["packets"]), int(cache["misses"])
        cycles, rate = sample(made.worker, rounds)
        hits = 1 - (int(cache["misses"]) - missed) / (int(cache["packets"]) - looked)
        return Result(case.name, statistics.median(cycles), rate, hits, count, seconds * 1e6 / count, size / count)


def _fill(bridge: OpenFlowBridge, region: FlowRegion, case: Case) -> tuple[int, float, int]:
    """Entries, seconds and bytes that they took."""
    used = int(region.header["used"])
    mods: list[FlowMod] = []
    count = 0
    spent = 0.0
    for mod in case.entries():
        mods.append(mod)
        count += 1
        if len(mods) == CHANGES:
            spent += _commit(bridge, mods)
    spent += _commit(bridge, mods)
    return count, spent, int(region.header["used"]) - used


def _commit(bridge: OpenFlowBridge, mods: list[FlowMod]) -> float:
    started = time.perf_counter()
    bridge.flow_mods(mods)
    mods.clear()
    return time.perf_counter() - started


def main() -> int:
    """Run all cases; 1 when a demand is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warm(lambda _done, _total, _name: None)
    cpu = max(os.sched_getaffinity(0))
    results = {case.name: measure(case, options.rounds, cpu) for case in CASES}
    if options.json:
        print(json.dumps([asdict(result) for result in results.values()], indent=2))
    else:
        table = Table(title="through flow tables, dummy port to dummy port, 64-byte frames, one worker, medians")
        for column in ("case", "cycles/packet", "Mpps", "cache hits", "µs/entry", "bytes/entry"):
            table.add_column(column, justify="left" if column == "case" else "right")
        for r in results.values():
            figures = (f"{r.cycles:.0f}", f"{r.million_packets_per_second:.2f}", f"{100 * r.hit_rate:.0f} %")
            table.add_row(r.name, *figures, f"{r.microseconds_per_entry:.1f}", f"{r.bytes_per_entry:.0f}")
        Console(width=120).print(table)
    unmet = [
        f"{case.name}: {results[case.name].cycles / results[case.like].cycles:.2f} times the cycles of {case.like}"
        for case in CASES
        if case.like and results[case.name].cycles > case.within * results[case.like].cycles
    ]
    for sentence in unmet:
        print(f"not met: {sentence}")
    return int(bool(unmet))


if __name__ == "__main__":
    raise SystemExit(main())

"""What changing flow tables does to traffic: ``python -m bench.churn [--seconds S] [--json]``.

The worker forwards 1,000 flows by 1,000 rules on 24 masks, from dummy port to dummy port, while the control process's
code adds and deletes entries on the other CPU as fast as it can: one by one, a thousand at once, and each with a mask
of its own. Told are changes in a second, what a packet costs, frames lost, and the longest turn of the worker. A turn
is a burst of 32 frames; what the kernel takes the CPU for is in it too, so the same is told without any change.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.flow_rules import frames_of, many_masks
from bench.in_process import Switch, switch
from penstock.engine.warm import warm
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import Command, FlowMod
from penstock.openflow.text_flow import parse_flow

RULES = 1000
ENTRIES = 100_000  # that come and go
STALL_MILLISECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """One kind of change. Turns are known by powers of two of cycles: the longest, in microseconds, was shorter."""

    name: str
    changes_per_second: float
    cycles: float
    lost: int
    longest_turn: float
    long_turns: int  # of a millisecond or more


def _others() -> list[FlowMod]:
    """Entries that no frame matches."""
    return [
        parse_flow(
            f"priority={10 + index % 20},tcp,nw_src=10.{index >> 16}.{index >> 8 & 255}.{index & 255},"
            f"tp_dst={index % 5000},actions=output:2",
            {},
        )
        for index in range(ENTRIES)
    ]


def _deletion(mod: FlowMod) -> FlowMod:
    return FlowMod(Command.DELETE_STRICT, mod.table, mod.priority, mod.match)


def one_by_one(bridge: OpenFlowBridge) -> Iterator[int]:
    """Each entry in a transaction of its own, then each taken out."""
    entries = _others()
    while True:
        for mod in entries:
            bridge.flow_mod(mod)
            yield 1
        for mod in entries:
            bridge.flow_mod(_deletion(mod))
            yield 1


def a_thousand_at_once(bridge: OpenFlowBridge) -> Iterator[int]:
    """Transactions of a thousand entries."""
    entries = _others()
    while True:
        for at in range(0, ENTRIES, 1000):
            bridge.flow_mods(entries[at : at + 1000])
            yield 1000
        for at in range(0, ENTRIES, 1000):
            bridge.flow_mods([_deletion(mod) for mod in entries[at : at + 1000]])
            yield 1000


def masks(bridge: OpenFlowBridge) -> Iterator[int]:
    """Entries of a mask of their own each: the last takes the subtable away again."""
    entries = [
        parse_flow(f"priority=50000,tcp,nw_src=10.0.0.0/{length},tp_src={bits:#x}/{bits:#x},actions=drop", {})
        for length in range(8, 33)
        for bits in (1, 3, 7, 0xF)
    ]
    while True:
        for mod in entries:
            bridge.flow_mod(mod)
            yield 1
        for mod in entries:
            bridge.flow_mod(_deletion(mod))
            yield 1


def none(_bridge: OpenFlowBridge) -> Iterator[int]:
    """Nothing changes."""
    while True:
        time.sleep(0.001)
        yield 0


CHANGES: dict[str, Callable[[OpenFlowBridge], Iterator[int]]] = {
    "none": none,
    "entries, one by one": one_by_one,
    "entries, a thousand at once": a_thousand_at_once,
    "masks, one by one": masks,
}


def measure(name: str, seconds: float, cpu: int) -> Result:
    """Run one kind of change."""
    with switch(cpu) as made:
        made.bridge.flow_mods([parse_flow(rule.text("output:2"), {}) for rule in many_masks(RULES)])
        made.source.replay(list(frames_of(many_masks(RULES), 1000)))
        steps = CHANGES[name](made.bridge)
        next(steps)
        time.sleep(0.5)
        worker = made.worker
        turns = worker["turn_cycles"].copy()
        busy, packets = int(worker["busy_cycles"]), int(worker["packets_total"])
        changes, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            changes += next(steps)
        spent = time.perf_counter() - started
        done = int(worker["packets_total"]) - packets
        classes = worker["turn_cycles"] - turns
        cycles = (int(worker["busy_cycles"]) - busy) / done
        bounds = [2.0 ** (index + 1) / made.engine.workers.cycles_hz for index in range(len(classes))]
        longest = max(bound for bound, count in zip(bounds, classes, strict=True) if count)
        long_turns = sum(
            int(count) for bound, count in zip(bounds, classes, strict=True) if bound * 500 >= STALL_MILLISECONDS
        )
        return Result(name, changes / spent, cycles, _lost(made), longest * 1e6, long_turns)


def _lost(made: Switch) -> int:
    """Frames that came in and did not leave."""
    made.source.stop_replay()
    time.sleep(0.2)
    received, sent = (made.engine.tables.counters(made.engine.ports[name].number)[0] for name in ("a", "b"))
    return int(received["rx_packets"]) - int(sent["tx_packets"])


def main() -> int:
    """Run all; 1 when frames were lost, or turns were long only while something changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warm(lambda _done, _total, _name: None)
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {cpu})
    results = [measure(name, options.seconds, cpu) for name in CHANGES]
    if options.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        table = Table(title=f"1,000 flows by 1,000 rules while flow tables change, {options.seconds:g} s each")
        for column in ("changes", "changes/s", "cycles/packet", "lost", "longest turn below", "turns over 1 ms"):
            table.add_column(column, justify="left" if column == "changes" else "right")
        for r in results:
            figures = (f"{r.changes_per_second:,.0f}", f"{r.cycles:.0f}", str(r.lost))
            table.add_row(r.name, *figures, f"{r.longest_turn:,.0f} µs", str(r.long_turns))
        Console(width=120).print(table)
    unmet = [f"{r.name}: {r.lost} frames lost" for r in results if r.lost]
    for sentence in unmet:
        print(f"not met: {sentence}")
    return int(bool(unmet))


if __name__ == "__main__":
    raise SystemExit(main())

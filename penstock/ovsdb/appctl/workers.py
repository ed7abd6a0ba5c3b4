"""dpif-netdev/pmd-...: what the workers, Open vSwitch's PMD threads, spend their cycles on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.ovsdb.appctl.commands import DATAPATH, CommandError, Switch, command

Stats = Mapping[str, Any]


async def _counted(switch: Switch) -> list[dict[str, Any]]:
    """Statistics of each worker, with its part of the flow cache's."""
    workers, caches = await switch.call(lambda client: (client.worker_stats(), client.cache_stats()))
    return [
        worker | {"looked_up": cache["packets"], "misses": cache["misses"]}
        for worker, cache in zip(workers, caches, strict=True)
    ]


async def _since_cleared(switch: Switch) -> list[dict[str, Any]]:
    """Statistics of each worker, less those when they were cleared."""
    found = []
    for now in await _counted(switch):
        before = switch.cleared.get(now["index"])
        if before is not None and before["total_cycles"] > now["total_cycles"]:
            before = None  # of an engine that ended
        found.append(_less(now, before) if before else now)
    return found


KEPT = ("index", "cpu", "cycles_hz")


def _less(now: Stats, before: Stats) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in now.items():
        if isinstance(value, dict):
            result[key] = {each: count - before[key][each] for each, count in value.items()}
        elif isinstance(value, int) and key not in KEPT:
            result[key] = value - before[key]
        else:
            result[key] = value
    return result


def _title(row: Stats) -> str:
    if row["cpu"] is None:
        return f"worker thread {row['index']} (on any core):"
    return f"pmd thread numa_id 0 core_id {row['cpu']}:"


def _part(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 0:.2f}%"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@command("dpif-netdev/pmd-stats-show", "[-pmd core] [dp]", 0, 3)
async def stats_show(switch: Switch, words: Sequence[str]) -> str:
    """Packets, how they were found, and cycles, of each worker since they were cleared."""
    lines = []
    for row in _chosen(await _since_cleared(switch), words):
        packets, busy, total = row["packets"], row["busy_cycles"], row["total_cycles"]
        lines += [
            _title(row),
            f"  packets received: {packets}",
            f"  flow cache hits: {row['looked_up'] - row['misses']}",
            f"  flow cache misses: {row['misses']}",
            f"  avg. packets per input batch: {_ratio(packets, row['bursts']):.2f}",
            f"  idle cycles: {total - busy} ({_part(total - busy, total)})",
            f"  processing cycles: {busy} ({_part(busy, total)})",
        ]
        if packets:
            lines += [
                f"  avg cycles per packet: {total / packets:.2f} ({total}/{packets})",
                f"  avg processing cycles per packet: {busy / packets:.2f} ({busy}/{packets})",
            ]
    return "\n".join(lines)


@command("dpif-netdev/pmd-perf-show", "[-nh] [-pmd core] [dp]", 0, 4)
async def perf_show(switch: Switch, words: Sequence[str]) -> str:
    """Turns, cycles and packets, and the cycles per packet of each stage."""
    now = time.time()
    rows = _chosen(await _since_cleared(switch), words, "-nh")  # no histograms: there are none
    clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03}"
    seconds = max((_ratio(row["total_cycles"], row["cycles_hz"]) for row in rows), default=0.0)
    lines = [f"Time: {clock}", f"Measurement duration: {seconds:.3f} s"]
    for row in rows:
        turns, busy_turns, busy, total = (row[key] for key in ("turns", "busy_turns", "busy_cycles", "total_cycles"))
        hz, packets = row["cycles_hz"], row["packets"]
        elapsed = _ratio(total, hz)
        lines += [
            "",
            _title(row),
            "",
            f"  Iterations:         {turns:12}  ({1e6 * _ratio(elapsed, turns):.2f} us/it)",  # type: ignore[arg-type]
            f"  - Used TSC cycles:  {total:12}",
            f"  - idle iterations:  {turns - busy_turns:12}  ({_part(total - busy, total)} of used cycles)",
            f"  - busy iterations:  {busy_turns:12}  ({_part(busy, total)} of used cycles)",
            f"  - sleep iterations: {row['sleeps']:12}",
            f"  Rx packets:         {packets:12}  ({packets / elapsed / 1000 if elapsed else 0:.0f} Kpps, "
            f"{_ratio(busy, packets):.0f} cycles/pkt)",
            f"  - Flow cache hits:  {row['looked_up'] - row['misses']:12}  "
            f"({_part(row['looked_up'] - row['misses'], row['looked_up'])})",
            f"  - Tables looked up: {row['misses']:12}  ({_part(row['misses'], row['looked_up'])})",
            f"  Rx batches:         {row['bursts']:12}  ({_ratio(packets, row['bursts']):.2f} pkts/batch)",
        ]
        lines += [
            f"  - {stage + ':':18}{_ratio(cycles, row['stage_packets']):12.0f}  cycles/pkt"
            for stage, cycles in row["stage_cycles"].items()
            if row["stage_packets"]
        ]
    return "\n".join(lines)


@command("dpif-netdev/pmd-stats-clear", "[dp]", 0, 1)
async def stats_clear(switch: Switch, words: Sequence[str]) -> str:
    """Have statistics count from now on."""
    _chosen([], words)
    switch.cleared = {row["index"]: row for row in await _counted(switch)}
    return ""


@command("dpif-netdev/pmd-rxq-show", "[-pmd core] [dp]", 0, 3)
async def rxq_show(switch: Switch, words: Sequence[str]) -> str:
    """The receive queues that each worker polls, and how busy it is with all of them."""
    rows, queues = await switch.call(lambda client: (client.worker_stats(), client.rx_queues()))
    lines = []
    for row in _chosen(rows, words):
        lines.append(_title(row))
        lines += [
            f"  port: {port:16}  queue-id: {queue:2} (enabled)" for port, queue in sorted(queues.get(row["index"], []))
        ]
        lines.append(f"  worker usage: {_part(row['busy_cycles'], row['total_cycles'])}")
    return "\n".join(lines)


def _chosen(rows: list[dict[str, Any]], words: Sequence[str], *flags: str) -> list[dict[str, Any]]:
    """The worker on the core that -pmd names, else all. Raises CommandError for words that are not known."""
    left = [word for word in words if word not in flags]
    if "-pmd" in left[:-1]:
        at = left.index("-pmd")
        core = left[at + 1]
        del left[at : at + 2]
        rows = [row for row in rows if str(row["cpu"]) == core]
    if left and left not in ([DATAPATH], [DATAPATH.partition("@")[2]]):
        raise CommandError(f"'{' '.join(left)}' is neither an option nor a datapath: there is {DATAPATH}")
    return rows

"""Rates from two samples of the switch's counters: what passes per port, what each worker spends its cycles on.

A sample is what the control process's verb `sample` answers: {"time": s, "cycles_hz", "ports": {name: counters},
"drops": {name: {reason: n}}, "workers": [statistics]}. Pure functions on those dicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PortRate:
    """Per second: packets, bits (of frames without preamble, gap and checksum), frames dropped for whatever reason."""

    port: str
    rx_pps: float
    rx_bps: float
    tx_pps: float
    tx_bps: float
    drops_ps: float


@dataclass(frozen=True)
class WorkerRate:
    """What a worker did: `load` is the share of its time (0 to 1) in which it had frames to move.

    `cycles_per_packet` counts busy turns only; `stages` is the same by stage, None where nothing was measured.
    `longest_turn` is the time in seconds that its longest busy turn stayed below: cycles are known to a power of two.
    """

    index: int
    cpu: int | None
    load: float
    pps: float
    cycles_per_packet: float | None
    mean_burst: float | None
    stages: dict[str, float | None]
    sleeps_ps: float
    longest_turn: float | None


@dataclass(frozen=True)
class Rates:
    seconds: float
    ports: list[PortRate]
    workers: list[WorkerRate]


def rates(before: Mapping[str, Any], after: Mapping[str, Any]) -> Rates:
    """What happened per second between two samples."""
    seconds = after["time"] - before["time"]
    old_workers = {worker["index"]: worker for worker in before["workers"]}
    return Rates(
        seconds=seconds,
        ports=[
            _port_rate(name, before["ports"].get(name, {}), counters, before["drops"], after["drops"], seconds)
            for name, counters in after["ports"].items()
        ],
        workers=[_worker_rate(old_workers.get(worker["index"], {}), worker, seconds) for worker in after["workers"]],
    )


def grown(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> int:
    """By how much a counter grew; one that shrank began anew meanwhile (the engine was restarted)."""
    old, new = before.get(key, 0), after[key]
    return int(new - old if new >= old else new)


def _port_rate(
    name: str,
    old: Mapping[str, int],
    new: Mapping[str, int],
    old_drops: Mapping[str, Mapping[str, int]],
    new_drops: Mapping[str, Mapping[str, int]],
    seconds: float,
) -> PortRate:
    reasons = new_drops.get(name, {})
    dropped = sum(grown(old_drops.get(name, {}), reasons, reason) for reason in reasons)
    return PortRate(
        port=name,
        rx_pps=grown(old, new, "rx_packets") / seconds,
        rx_bps=grown(old, new, "rx_bytes") * 8 / seconds,
        tx_pps=grown(old, new, "tx_packets") / seconds,
        tx_bps=grown(old, new, "tx_bytes") * 8 / seconds,
        drops_ps=dropped / seconds,
    )


def _worker_rate(old: Mapping[str, Any], new: Mapping[str, Any], seconds: float) -> WorkerRate:
    packets = grown(old, new, "packets")
    busy, total = grown(old, new, "busy_cycles"), grown(old, new, "total_cycles")
    return WorkerRate(
        index=new["index"],
        cpu=new["cpu"],
        load=busy / total if total else 0.0,
        pps=packets / seconds,
        cycles_per_packet=_ratio(busy, packets),
        mean_burst=_ratio(packets, grown(old, new, "bursts")),
        stages={
            stage: _ratio(
                grown(old.get("stage_cycles", {}), new["stage_cycles"], stage), grown(old, new, "stage_packets")
            )
            for stage in new["stage_cycles"]
        },
        sleeps_ps=grown(old, new, "sleeps") / seconds,
        longest_turn=_longest_turn(old.get("turn_cycles", []), new["turn_cycles"], new["cycles_hz"]),
    )


def _longest_turn(old: Sequence[int], new: Sequence[int], hz: int) -> float | None:
    began_anew = sum(new) < sum(old)
    before = [0] * len(new) if began_anew or not old else old
    classes = [index for index, (was, now) in enumerate(zip(before, new, strict=True)) if now > was]
    return 2 ** (classes[-1] + 1) / hz if classes else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

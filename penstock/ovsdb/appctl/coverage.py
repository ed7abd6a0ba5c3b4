"""How often events happened of late: totals of the switch's counters, looked at every few seconds for an hour."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.datapath.drops import REASONS
from penstock.engine.client import EngineClient, EngineError
from penstock.observe.rates import grown
from penstock.switch.control import Control

LOG = logging.getLogger(__name__)
Sample = tuple[float, dict[str, int]]  # time.monotonic(), events by name
SAMPLE_SECONDS = 5.0
SPANS = (5.0, 60.0, 3600.0)  # seconds


def totals(client: EngineClient) -> dict[str, int]:
    """Every event that was counted, by name: drops by their reason, and what the workers and caches count."""
    found = {f"drop_{reason.name}": 0 for reason in REASONS}
    for reasons in client.drops().values():
        for reason, count in reasons.items():
            found[f"drop_{reason}"] += count
    for row in client.worker_stats():
        for name, key in (("mac_learned", "learned"), ("mac_moved", "moved"), ("worker_sleep", "sleeps")):
            found[name] = found.get(name, 0) + int(row[key])
    for cache in client.cache_stats():
        for name in ("packets", "misses"):
            found[f"flow_cache_{name}"] = found.get(f"flow_cache_{name}", 0) + cache[name]
    return found


@dataclass(frozen=True)
class Row:
    """An event that happened: how often a second over each of the SPANS, or for as long as it is known, and in all."""

    name: str
    rates: tuple[float, ...]
    total: int


def rows_of(samples: Sequence[Sample], now: Sample) -> list[Row]:
    """The events of ``now`` that happened; ``samples`` are those before it, the oldest first."""
    at, latest = now
    before = [_older(samples, at - span) or now for span in SPANS]
    rows = []
    for name, total in sorted(latest.items()):
        if total:
            rates = (grown(old, latest, name) / (at - when) if at > when else 0.0 for when, old in before)
            rows.append(Row(name, tuple(rates), total))
    return rows


def _older(samples: Sequence[Sample], time: float) -> Sample | None:
    """The latest sample that is not younger than a time, else the oldest there is."""
    return next((each for each in reversed(samples) if each[0] <= time), samples[0] if samples else None)


class Coverage:
    """Keeps samples of an hour. The loop of the control process alone."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._samples: deque[Sample] = deque(maxlen=int(SPANS[-1] / SAMPLE_SECONDS) + 1)

    async def run(self) -> None:
        """Take samples until cancelled. While the engine is away there are none."""
        while True:
            if self._control.link.connected:
                try:
                    self._samples.append(await self._now())
                except EngineError as error:
                    LOG.debug("no sample of the events: %s", error)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _now(self) -> Sample:
        return time.monotonic(), await self._control.link.call(totals)

    async def show(self) -> tuple[list[Row], int]:
        """Events that happened, and how many never did."""
        now = await self._now()
        rows = rows_of(self._samples, now)
        return rows, len(now[1]) - len(rows)

    async def total(self, name: str) -> int | None:
        """One event's total; None if there is no such event."""
        _, latest = await self._now()
        return latest.get(name)

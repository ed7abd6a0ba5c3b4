"""A run of a generator and maybe a sink, and its result: what was sent, what arrived, how late, and what is missing.

With both in one process loss is exact to the frame: the port tells how many frames it took. A sink alone knows only
what the sequence numbers tell, so it misses losses behind the last frame of a flow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.memory import Arena
from penstock.traffic.driver import Driver
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.generator import Generator
from penstock.traffic.sink import Counts, Sink

POLL_SECONDS = 0.02
LIVE_SECONDS = 1.0
SETTLE_SECONDS = 2.0  # RFC 2544 section 24: residual frames
QUIET_SECONDS = 0.2  # or no frame for so long


@dataclass(frozen=True)
class Sent:
    """What a generator sent. ``refused``: how often the port's ring was full for a frame; not in ``frames``."""

    frames: int
    octets: int
    refused: int
    seconds: float
    frames_per_second: float
    bits_per_second: float
    fell_behind: float
    dropped: dict[str, int]


@dataclass(frozen=True)
class Result:
    """What a run found. ``lost`` is exact when both ends are here, else what the sequence numbers tell."""

    sent: Sent | None
    received: Counts | None
    lost: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Moment:
    """Totals at one instant, for the live line."""

    at: float
    sent: int
    received: int
    octets: int
    missing: int


Live = Callable[[Moment, Moment], None]


class Trial:
    """Generators, a sink or both, to be run once or again. ``live`` is called each second with the last two moments."""

    def __init__(
        self,
        arena: Arena,
        generators: Sequence[Generator],
        sink: Sink | None,
        hz: int,
        cpus: Sequence[int] = (),
        busy: bool = False,
    ) -> None:
        self.arena, self.generators, self.sink, self.hz = arena, generators, sink, hz
        self.cpus, self.busy = cpus, busy
        self.stopped = False

    def stop(self) -> None:
        """End the run early; it still has its result."""
        self.stopped = True

    def run(self, seconds: float | None = None, frames: int | None = None, live: Live | None = None) -> Result:
        """Run until the generators are done, or a sink alone for a time or a number of frames, or ``stop``."""
        parts: list[Generator | Sink] = [*self.generators]
        parts += [self.sink] if self.sink else []
        before = self._port_octets()
        with Driver(self.arena, parts, self.hz, self.cpus, self.busy):
            began = last = time.monotonic()
            earlier = self._moment()
            while not self.stopped and not self._over(began, seconds, frames):
                time.sleep(POLL_SECONDS)
                if live and time.monotonic() - last >= LIVE_SECONDS:
                    last += LIVE_SECONDS
                    now = self._moment()
                    live(earlier, now)
                    earlier = now
                for part in parts:
                    part.endpoint.check()
            if self.generators and self.sink:
                self._settle()
        return self._result(before)

    def _over(self, began: float, seconds: float | None, frames: int | None) -> bool:
        if self.generators:
            return all(each.done for each in self.generators)
        assert self.sink
        late = seconds is not None and time.monotonic() - began >= seconds
        return late or (frames is not None and int(self.sink.row["stamped"]) >= frames)

    def _settle(self) -> None:
        """Wait for frames on their way."""
        assert self.sink
        deadline = time.monotonic() + SETTLE_SECONDS
        received, quiet_at = -1, 0.0
        while (now := time.monotonic()) < deadline:
            present = int(self.sink.row["stamped"])
            if present != received:
                received, quiet_at = present, now + QUIET_SECONDS
            elif now >= quiet_at:
                return
            time.sleep(POLL_SECONDS)

    def _moment(self) -> Moment:
        sent = sum(each.sent for each in self.generators)
        if self.sink is None:
            return Moment(time.monotonic(), sent, 0, self._port_octets(), 0)
        seen = self.sink.seen
        missing = int((seen["next"] - seen["unique"] - seen["late"]).sum())
        return Moment(time.monotonic(), sent, int(self.sink.row["received"]), int(self.sink.row["octets"]), missing)

    def _endpoints(self) -> list[Endpoint]:
        return list({id(each.endpoint): each.endpoint for each in self.generators}.values())

    def _port_octets(self) -> int:
        return sum(int(queue.counters["tx_bytes"]) for each in self._endpoints() for queue in each.tx)

    def _result(self, octets_before: int) -> Result:
        received = self.sink.counts() if self.sink else None
        if not self.generators:
            return Result(None, received, received.missing if received else None)
        frames = sum(each.sent for each in self.generators)
        seconds = max((each.seconds for each in self.generators if each.done), default=0.0)
        octets = self._port_octets() - octets_before
        dropped: dict[str, int] = {}
        for endpoint in self._endpoints():
            for queue in endpoint.tx:
                for name, count in queue.drops().items():
                    dropped[name] = dropped.get(name, 0) + count
        sent = Sent(
            frames,
            octets,
            sum(each.refused for each in self.generators),
            seconds,
            frames / seconds if seconds else 0.0,
            8 * octets / seconds if seconds else 0.0,
            max(each.fell_behind for each in self.generators),
            dropped,
        )
        return Result(sent, received, frames - received.unique - received.late if received else None)

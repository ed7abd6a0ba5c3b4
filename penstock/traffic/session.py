"""What one process of traffic does, from open ports to results: a run, a replay, a receiver, a throughput search.

Main thread only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from penstock.machine import measure_cycles_hz
from penstock.memory import Arena, ArenaError
from penstock.ports.base import PortError
from penstock.ports.pcap_file import CaptureError, frames
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.frames import Frame
from penstock.traffic.generator import Generator, Timed, frames_to_learn
from penstock.traffic.rfc2544 import KEPT_UP, Outcome, Search, Throughput, search
from penstock.traffic.sink import Sink
from penstock.traffic.stream import Stream, StreamError
from penstock.traffic.trial import Live, Result, Trial

ERRORS = (PortError, ArenaError, StreamError, OSError)  # what a wrong port or stream, or too little memory, gives
LEARN_FRAMES_PER_SECOND = 100_000
PROBE_SECONDS = 0.5  # to see what the port takes
REPLAY_BYTES_MAX = 1 << 28


class Session:
    """Ports of this process, and what is run on them. Use as a context manager."""

    def __init__(self, megabytes: int, cpus: Sequence[int] = (), busy: bool = False) -> None:
        self.arena = Arena.create(megabytes << 20)
        self.hz = measure_cycles_hz()
        self.cpus, self.busy = cpus, busy
        self._endpoints: list[Endpoint] = []
        self._trial: Trial | None = None
        self.stopped = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception: object) -> None:
        for endpoint in self._endpoints:
            endpoint.close()
        self.arena.close()

    def open(self, name: str, kind: str, options: dict[str, Any], mtu: int | None = None) -> Endpoint:
        """Open a port. Raises PortError."""
        self._endpoints.append(Endpoint(self.arena, kind, name, options, mtu))
        return self._endpoints[-1]

    def stop(self) -> None:
        """End what runs, and run nothing more; what ran has its result. May be called from a signal handler."""
        self.stopped = True
        if self._trial:
            self._trial.stop()

    def run(
        self,
        generators: Sequence[Generator],
        sink: Sink | None,
        live: Live | None = None,
        seconds: float | None = None,
        frames: int | None = None,
    ) -> Result:
        """Run until the generators are done (a sink alone: for a time or a number of frames), or `stop`."""
        self._trial = Trial(self.arena, generators, sink, self.hz, self.cpus, self.busy)
        if self.stopped:
            self._trial.stop()
        return self._trial.run(seconds, frames, live)

    def learn(self, stream: Stream, endpoint: Endpoint) -> None:
        """Make the switch learn the stream's destinations behind this port."""
        frames = list(frames_to_learn(stream))
        generator = Generator.of_frames(endpoint, frames, self.hz, LEARN_FRAMES_PER_SECOND)
        self.run([generator], None)
        generator.close()

    def replay(self, endpoint: Endpoint, file: Path, rate: float | None, rounds: int, own_speed: bool) -> Generator:
        """A generator of a capture file's frames. Raises StreamError."""
        try:
            if file.stat().st_size > REPLAY_BYTES_MAX:
                raise StreamError(f"file '{file}' has more than the {REPLAY_BYTES_MAX} bytes that can be replayed")
            data = file.read_bytes()
            captured = list(frames(data))
        except (OSError, CaptureError) as error:
            raise StreamError(f"file '{file}' cannot be replayed: {error}") from error
        if not captured:
            raise StreamError(f"file '{file}' has no frames to replay")
        times = [each.time_ns for each in captured] + [captured[-1].time_ns]
        gaps = [max(0, after - before) / 1e9 if own_speed else 0.0 for before, after in pairwise(times)]
        timed = [
            Timed(Frame(data[each.offset : each.offset + each.length], each.length), gap)
            for each, gap in zip(captured, gaps, strict=True)
        ]
        return Generator.of_frames(endpoint, timed, self.hz, rate, rounds)

    def throughput(self, tx: Endpoint, rx: Endpoint, stream: Stream, how: Search) -> Throughput:
        """RFC 2544's throughput for a stream of one size."""
        generator, sink = Generator.of_stream(tx, stream, self.hz), Sink(rx, self.hz, stream.flow_count)

        def trial(frames_per_second: float) -> Outcome:
            count = max(1, round(frames_per_second * how.trial_seconds))
            generator.pace(frames_per_second)
            generator.limit(count, None)
            sink.reset()
            result = self.run([generator], sink)
            assert result.sent
            assert result.received
            lost = count - result.received.unique - result.received.late
            kept_up = result.sent.seconds * KEPT_UP <= count / frames_per_second and not self.stopped
            return Outcome(count, lost, kept_up, result.received.latency)

        highest = how.max_rate
        if highest is None:
            generator.pace(None)
            generator.limit(None, PROBE_SECONDS)
            sink.reset()
            sent = self.run([generator], sink).sent
            assert sent
            highest = sent.frames_per_second
        try:
            return search(trial, highest, stream.sizes[0], how)
        finally:
            generator.close()
            sink.close()

"""Between two guests of our own, which are `penstock generate`: latency of a lone frame, and large segments.

The switches take turns, each worker polling on the first CPU; one thread on the second drives both guests.
With segmentation offload a guest sends frames of 64 KB; through Open vSwitch, which does not offer it unless told
otherwise, it sends frames of 1,500 bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.outcome import Outcome, Spread, ratios, spread
from bench.vhost_switches import SWITCHES, Switch
from penstock.demo.hosts import Host
from penstock.peers.huge_pages import huge_pages
from penstock.peers.ovs import GROWTH_MB, SWITCH_MB
from penstock.peers.ovsdb import wait_for
from penstock.peers.turns import pause, resume, turn

SUBJECTS = ("penstock", "open vswitch")
LATENCY_MAX = 20.0  # microseconds, the median of Penstock's lone frames
FASTER = 5  # than Open vSwitch with large segments, at least
HEADERS = 14 + 20 + 20  # Ethernet, IPv4, TCP
ALONE = ("--size", "64", "--rate", "10000")
SMALL = ("--protocol", "tcp", "--size", "1518")
LARGE = ("--protocol", "tcp", "--size", "65000", "--gso-size", "1448")
GUEST = "ring=1024,in_place=1024"  # what it sends is sent from where it lies, as by sendfile
SEGMENTS = {"penstock": LARGE, "open vswitch": SMALL}


def measure(rounds: int, seconds: float, progress: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """By figure and switch, for each round: median and 99th percentile in microseconds, Gb/s of TCP payload."""
    found: dict[str, dict[str, list[float]]]
    found = {figure: {name: [] for name in SUBJECTS} for figure in ("median", "p99", "gbps", "cycles")}
    with huge_pages((SWITCH_MB + GROWTH_MB) * len(SUBJECTS)), ExitStack() as stack:
        subjects = {name: stack.enter_context(_subject(name)) for name in SUBJECTS}
        for number in range(rounds):
            progress(f"guests: round {number + 1} of {rounds}")
            for name, subject in subjects.items():
                with turn(subject.host):
                    timed = ("--seconds", str(seconds))
                    alone = subject.generate(*timed, *ALONE)
                    subject.switch.mark()
                    bulk = subject.generate(*timed, *SEGMENTS[name])
                    cycles = subject.switch.measured().cycles
                latency = alone["received"]["latency"]
                found["median"][name].append(latency["median"] / 1e3)
                found["p99"][name].append(latency["p99"] / 1e3)
                got = bulk["received"]
                payload = got["octets"] - HEADERS * got["received"]
                rate = payload / bulk["sent"]["seconds"]
                found["gbps"][name].append(rate * 8 / 1e9)
                found["cycles"][name].append(cycles * got["received"] / payload * 1000)
    return found


@dataclass(frozen=True)
class Subject:
    """A switch in a host of its own, and what guests on its two ports find."""

    host: Host
    switch: Switch
    command: list[str]

    def generate(self, *what: str) -> dict[str, Any]:
        """What `penstock generate` tells. Raises CalledProcessError."""
        result: dict[str, Any] = json.loads(self.host.run(*self.command, *what).stdout)
        return result

    def passes(self) -> bool:
        """Whether frames go from guest to guest: a switch just started may not listen yet."""
        try:
            return bool(self.generate("--count", "100", "--rate", "1000")["lost"] == 0)
        except subprocess.CalledProcessError:
            return False


@contextmanager
def _subject(name: str) -> Iterator[Subject]:
    """A switch that forwards; paused but for its turns."""
    worker_cpu, guest_cpu = sorted(os.sched_getaffinity(0))[:2]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-guests-")))
        host = stack.enter_context(Host("guests"))
        switch = stack.enter_context(SWITCHES[name](host, directory, worker_cpu))
        one, two = (f"virtio-user:path={socket},{GUEST}" for socket in switch.sockets)
        command = [sys.executable, "-m", "penstock.cli", "generate", "--port", one, "--rx", two, "--json"]
        subject = Subject(host, switch, [*command, "--cpus", str(guest_cpu), "--busy"])
        wait_for(subject.passes, "frames from guest to guest", 60)
        pause(host)
        try:
            yield subject
        finally:
            resume(host)


def run(rounds: int, seconds: float, progress: Callable[[str], None]) -> Outcome:
    """Measure and judge."""
    found = measure(rounds, seconds, progress)
    faster = ratios(*(found["gbps"][name] for name in SUBJECTS))
    unmet = []
    latency = spread(found["median"]["penstock"]).median
    if latency >= LATENCY_MAX:
        unmet.append(f"a lone frame takes {latency:.1f} µs, must be less than {LATENCY_MAX:g}")
    if faster.median < FASTER:
        unmet.append(f"large segments: {faster.median:.2f} times Open vSwitch's payload, must be at least {FASTER}")
    return Outcome({**found, "faster": asdict(faster)}, [table(found, faster, rounds, seconds)], unmet)


def table(found: dict[str, dict[str, list[float]]], faster: Spread, rounds: int, seconds: float) -> Table:
    title = f"between two guests in Python, one worker: medians (least..most) of {rounds} rounds of {seconds:g} s"
    made = Table(title=title)
    for column in ("switch", "lone frame, µs", "99 %, µs", "TCP payload, Gb/s", "cycles/KB", "Penstock over it"):
        made.add_column(column, justify="left" if column == "switch" else "right")
    for name in SUBJECTS:
        figures = [_cell(found[figure][name]) for figure in found]
        made.add_row(name, *figures, "" if name == "penstock" else f"{faster.median:.1f}")
    return made


def _cell(figures: Sequence[float]) -> str:
    of = spread(figures)
    return f"{of.median:.1f} ({of.least:.1f}..{of.most:.1f})"

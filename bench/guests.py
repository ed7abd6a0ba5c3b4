"""Between two guests of our own, which are `penstock generate`: latency of a lone frame, and large segments.

Each round starts the switch anew, its worker polling on the first CPU; one thread on the second drives both guests.
With segmentation offload a guest sends frames of 64 KB; through Open vSwitch, which does not offer it unless told
otherwise, it sends frames of 1,500 bytes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.dpdk import huge_pages
from bench.outcome import Outcome, Spread, ratios, spread
from bench.ovs import wait_for
from bench.vhost_switches import SWITCH_MB, SWITCHES
from penstock.demo.hosts import Host

SUBJECTS = ("penstock", "open vswitch")
LATENCY_MAX = 20.0  # microseconds, the median of Penstock's lone frames
FASTER = 5  # than Open vSwitch with large segments, at least
HEADERS = 14 + 20 + 20  # Ethernet, IPv4, TCP
ALONE = ("--size", "64", "--rate", "10000")
SMALL = ("--protocol", "tcp", "--size", "1518")
LARGE = ("--protocol", "tcp", "--size", "65000", "--gso-size", "1448")
SEGMENTS = {"penstock": LARGE, "open vswitch": SMALL}


def measure(rounds: int, seconds: float, progress: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """By figure and switch, for each round: median and 99th percentile in microseconds, Gb/s of TCP payload."""
    found: dict[str, dict[str, list[float]]]
    found = {figure: {name: [] for name in SUBJECTS} for figure in ("median", "p99", "gbps")}
    with huge_pages(SWITCH_MB):
        for number in range(rounds):
            for name in SUBJECTS:
                progress(f"guests: round {number + 1} of {rounds}, {name}")
                alone, bulk = _round(name, seconds)
                latency = alone["received"]["latency"]
                found["median"][name].append(latency["median"] / 1e3)
                found["p99"][name].append(latency["p99"] / 1e3)
                got = bulk["received"]
                payload = got["octets"] - HEADERS * got["received"]
                found["gbps"][name].append(payload * 8 / bulk["sent"]["seconds"] / 1e9)
    return found


def _round(name: str, seconds: float) -> list[dict[str, Any]]:
    """What the guests found: a lone frame at a time, and as much as passes."""
    worker_cpu, guest_cpu = sorted(os.sched_getaffinity(0))[:2]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-guests-")))
        host = stack.enter_context(Host("guests"))
        switch = stack.enter_context(SWITCHES[name](host, directory, worker_cpu))
        one, two = (f"virtio-user:path={socket}" for socket in switch.sockets)
        command = [sys.executable, "-m", "penstock.cli", "generate", "--port", one, "--rx", two, "--json"]
        command += ["--cpus", str(guest_cpu), "--busy"]

        def found(*what: str) -> dict[str, Any]:
            result: dict[str, Any] = json.loads(host.run(*command, *what).stdout)
            return result

        wait_for(lambda: found("--count", "100", "--rate", "1000")["lost"] == 0, "frames from guest to guest")
        timed = ("--seconds", str(seconds))
        return [found(*timed, *ALONE), found(*timed, *SEGMENTS[name])]


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
    for column in ("switch", "lone frame, µs", "99 %, µs", "TCP payload, Gb/s", "Penstock over it"):
        made.add_column(column, justify="left" if column == "switch" else "right")
    for name in SUBJECTS:
        figures = [_cell(found[figure][name]) for figure in found]
        made.add_row(name, *figures, "" if name == "penstock" else f"{faster.median:.1f}")
    return made


def _cell(figures: Sequence[float]) -> str:
    of = spread(figures)
    return f"{of.median:.1f} ({of.least:.1f}..{of.most:.1f})"

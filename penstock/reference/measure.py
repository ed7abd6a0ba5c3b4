"""Measure the cells of the reference table, all subjects by turns."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from penstock.peers.huge_pages import huge_pages
from penstock.peers.ovs import GROWTH_MB, OVS_DPDK, PROGRAMS, SWITCH_MB
from penstock.peers.turns import pause, resume, turn
from penstock.reference.scale import ONE, REFERENCE, Scale
from penstock.reference.subjects import SetUp, Subject, open_vswitch, penstock

WARM_SECONDS = 0.1
SATURATED = 0.9
SUBJECTS: dict[str, tuple[Any, Scale]] = {
    "penstock": (penstock, REFERENCE),
    "one": (penstock, ONE),
    "open vswitch": (open_vswitch, REFERENCE),
}


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    sizes: tuple[int, ...] = (128, 512, 1024, 1518)
    vms: tuple[int, ...] = (1, 4, 6)
    flows: tuple[int, ...] = (1, 1000)
    rounds: int = 5
    seconds: float = 0.5
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """Which figure of the table: frames of a size, VMs, flows of each."""

    size: int
    vms: int
    flows: int


@dataclass(frozen=True)
class Sample:
    """One run: frames that the network received in a second, the worker's cycles for one, the share of its time."""

    pps: float
    cycles: float
    load: float


@dataclass(frozen=True)
class Figures:
    """All runs, by subject and cell, and what setting up took."""

    samples: dict[str, dict[Cell, list[Sample]]]
    set_up: dict[str, SetUp]

    def median(self, subject: str, cell: Cell) -> Sample:
        """The median of each figure."""
        of = self.samples[subject][cell]
        return Sample(*(statistics.median(getattr(each, name) for each in of) for name in ("pps", "cycles", "load")))

    def ratio(self, over: str, cell: Cell, figure: str = "pps", subject: str = "penstock") -> float:
        """The median of Penstock's figure over that of another subject, round by round."""
        pairs = zip(self.samples[subject][cell], self.samples[over][cell], strict=True)
        return float(statistics.median(getattr(mine, figure) / getattr(other, figure) for mine, other in pairs))

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": {
                subject: [{**asdict(cell), "runs": [asdict(each) for each in runs]} for cell, runs in cells.items()]
                for subject, cells in self.samples.items()
            },
            "set_up": {subject: asdict(each) for subject, each in self.set_up.items()},
        }


def missing() -> list[str]:
    """What this machine lacks for the measurement."""
    found = [] if os.geteuid() == 0 else ["root"]
    if shutil.which("ovs-ofctl") is None:
        found.append("ovs-ofctl (Debian package openvswitch-common)")
    if len(os.sched_getaffinity(0)) < 2:
        found.append("a second CPU")
    return found


def has_peer() -> bool:
    """Whether Open vSwitch with DPDK is installed."""
    return all(shutil.which(program) for program in (OVS_DPDK, *PROGRAMS))


def measure(plan: Plan, progress: Callable[[str], None]) -> Figures:
    """Set all subjects up, then measure each cell in every round."""
    names = [name for name in SUBJECTS if name in (plan.only or SUBJECTS) and (name != "open vswitch" or has_peer())]
    if "open vswitch" not in names:
        progress("without Open vSwitch: not asked for, or Debian's package openvswitch-switch-dpdk is not installed")
    worker_cpu, guest_cpu = sorted(os.sched_getaffinity(0))[:2]
    cells = [Cell(size, vms, flows) for flows in plan.flows for vms in plan.vms for size in plan.sizes]
    with ExitStack() as stack:
        stack.enter_context(huge_pages((SWITCH_MB + GROWTH_MB) * len(names)))  # Penstock takes some too when it can
        subjects: dict[str, Subject] = {}
        for name in names:
            start, scale = SUBJECTS[name]
            progress(f"{name}: {scale.tunnels} far ends, {scale.vnis} VNIs, {scale.macs} MAC addresses")
            subjects[name] = stack.enter_context(start(scale, worker_cpu, guest_cpu))
            steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in subjects[name].set_up.seconds.items())
            progress(f"{name}: {steps}; {subjects[name].set_up.memory_bytes >> 20} MB")
            pause(subjects[name].host)
            stack.callback(resume, subjects[name].host)
        samples: dict[str, dict[Cell, list[Sample]]] = {name: {cell: [] for cell in cells} for name in names}
        for number in range(plan.rounds):
            progress(f"round {number + 1} of {plan.rounds}")
            for cell in cells:
                for name, subject in subjects.items():
                    with turn(subject.host):
                        samples[name][cell].append(_sample(subject, cell, plan.seconds))
        return Figures(samples, {name: subject.set_up for name, subject in subjects.items()})


def _sample(subject: Subject, cell: Cell, seconds: float) -> Sample:
    subject.run(cell.vms, cell.flows, cell.size, WARM_SECONDS)
    guests, load = subject.run(cell.vms, cell.flows, cell.size, seconds)
    if guests["frames"] == 0:
        raise RuntimeError(f"{subject.name}: nothing came of {guests['sent']} frames ({cell})")
    return Sample(guests["frames"] / guests["seconds"], load.cycles, load.load)

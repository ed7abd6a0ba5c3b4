"""What a switch's worker did while it was measured, and flow entries by ovs-ofctl: the same words for both switches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.observe.rates import rates
from penstock.peers.ovs import OpenVSwitch
from penstock.switch.client import ControlClient


@dataclass(frozen=True)
class Load:
    """What the worker did: busy cycles per packet received, and the share of its time (0 to 1) in which it was busy."""

    cycles: float
    load: float


class PenstockLoad:
    """A Penstock's first worker."""

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self.control = ControlClient(rundir)
        self._before: dict[str, Any] = {}

    def mark(self) -> None:
        """Begin to measure."""
        self._before = self.control.call("sample")

    def measured(self) -> Load:
        """What happened since `mark`."""
        worker = rates(self._before, self.control.call("sample")).workers[0]
        if worker.cycles_per_packet is None:
            raise RuntimeError("Penstock's worker forwarded nothing while it was measured")
        return Load(worker.cycles_per_packet, worker.load)


class OvsLoad:
    """The worker of an Open vSwitch with DPDK on a CPU."""

    def __init__(self, ovs: OpenVSwitch, cpu: int) -> None:
        self.ovs = ovs
        self._worker = f"core_id {cpu}:"

    def mark(self) -> None:
        """Begin to measure."""
        self.ovs.appctl("dpif-netdev/pmd-stats-clear")

    def measured(self) -> Load:
        """What happened since `mark`."""
        text = self.ovs.appctl("dpif-netdev/pmd-stats-show").partition(self._worker)[2]
        packets, idle = figure(r"packets received: (\d+)", text), figure(r"idle cycles: (\d+)", text)
        if packets == 0:
            raise RuntimeError("Open vSwitch's worker received nothing while it was measured")
        busy = figure(r"processing cycles: (\d+)", text)
        return Load(busy / packets, busy / (busy + idle))


def load_flows(ofctl: Callable[..., object], bridge: str, entries: Sequence[str]) -> None:
    """Have a bridge do what these flow entries say, and nothing else."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n".join(entries))
        file.flush()
        ofctl("replace-flows", bridge, file.name)


def figure(pattern: str, text: str) -> int:
    """The number in what Open vSwitch says. Raises RuntimeError."""
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"Open vSwitch's statistics have no '{pattern}':\n{text}")
    return int(found[1])

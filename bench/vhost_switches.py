"""The switches beside each other with two vhost-user ports: Penstock, and Open vSwitch with DPDK.

Each has one worker that polls on the CPU it is given, two server sockets for guests, and room for MAC_TABLE addresses.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.ovs import OpenVSwitch
from bench.vhost_cases import MAC_TABLE
from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.observe.rates import rates
from penstock.switch.client import ControlClient

OVS_DPDK = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SWITCH_MB = 512  # huge pages for a switch's own memory
GROWTH_MB = 512  # what Open vSwitch takes besides when it can
PORTS = ("vm1", "vm2")


@dataclass(frozen=True)
class Load:
    """What the worker did: busy cycles per packet received, and the share of its time (0 to 1) in which it was busy."""

    cycles: float
    load: float


class Switch(Protocol):
    sockets: tuple[Path, Path]

    def learned(self) -> int:
        """How many addresses the bridge knows."""

    def add_flows(self, entries: list[str]) -> None:
        """Have the bridge do what these flow entries say, and nothing else."""

    def mark(self) -> None:
        """Begin to measure."""

    def measured(self) -> Load:
        """What happened since `mark`."""


class Penstock:
    def __init__(self, running: RunningSwitch, sockets: tuple[Path, Path]) -> None:
        self.sockets = sockets
        self._rundir = running.rundir
        self._control = ControlClient(running.rundir)
        self._before: dict[str, Any] = {}

    def learned(self) -> int:
        return len(self._control.call("fdb", bridge="br0"))

    def add_flows(self, entries: list[str]) -> None:
        environment = {**os.environ, "OVS_RUNDIR": str(self._rundir)}
        _load_flows(lambda *words: subprocess.run(["ovs-ofctl", *words], env=environment, check=True), "br0", entries)

    def mark(self) -> None:
        self._before = self._control.call("sample")

    def measured(self) -> Load:
        worker = rates(self._before, self._control.call("sample")).workers[0]
        if worker.cycles_per_packet is None:
            raise RuntimeError("Penstock's worker forwarded nothing while it was measured")
        return Load(worker.cycles_per_packet, worker.load)


class OvsDpdk:
    def __init__(self, ovs: OpenVSwitch, cpu: int, ports: tuple[str, str] = PORTS) -> None:
        self.sockets = (ovs.directory / ports[0], ovs.directory / ports[1])
        self._ovs = ovs
        self._worker = f"core_id {cpu}:"

    def learned(self) -> int:
        return _figure(r"MAC entries in the table: (\d+)/", self._ovs.appctl("fdb/stats-show", "br0"))

    def add_flows(self, entries: list[str]) -> None:
        bridge = f"unix:{self._ovs.directory / 'br0.mgmt'}"
        _load_flows(lambda *words: self._ovs.host.run("ovs-ofctl", *words), bridge, entries)

    def mark(self) -> None:
        self._ovs.appctl("dpif-netdev/pmd-stats-clear")

    def measured(self) -> Load:
        text = self._ovs.appctl("dpif-netdev/pmd-stats-show").partition(self._worker)[2]
        packets, idle = _figure(r"packets received: (\d+)", text), _figure(r"idle cycles: (\d+)", text)
        if packets == 0:
            raise RuntimeError("Open vSwitch's worker received nothing while it was measured")
        busy = _figure(r"processing cycles: (\d+)", text)
        return Load(busy / packets, busy / (busy + idle))


def _load_flows(ofctl: Callable[..., object], bridge: str, entries: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("\n".join(entries))
        file.flush()
        ofctl("replace-flows", bridge, file.name)


def _figure(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"Open vSwitch's statistics have no '{pattern}':\n{text}")
    return int(found[1])


@contextmanager
def penstock(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Penstock that learns."""
    sockets = (directory / f"{PORTS[0]}.sock", directory / f"{PORTS[1]}.sock")
    config = f'[engine]\nworkers = 1\ncpus = [{cpu}]\npoll = "busy"\n[bridge.br0]\nmac_table_size = {MAC_TABLE}\n'
    for name, socket in zip(PORTS, sockets, strict=True):
        config += f'[bridge.br0.port.{name}]\ntype = "vhost-user"\npath = "{socket}"\n'
    with RunningSwitch(host, directory, config) as running:
        yield Penstock(running, sockets)


@contextmanager
def open_vswitch(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Open vSwitch that learns: its NORMAL action, as it comes."""
    yield OvsDpdk(start_ovs(host, directory, cpu), cpu)


@contextmanager
def open_vswitch_rules(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Open vSwitch with a rule for each port in place of learning."""
    ovs = start_ovs(host, directory, cpu)
    ovs.ofctl("del-flows")
    for source, destination in (PORTS, PORTS[::-1]):
        numbers = [ovs.vsctl("get", "interface", name, "ofport").strip() for name in (source, destination)]
        ovs.ofctl("add-flow", f"in_port={numbers[0]},actions=output:{numbers[1]}")
    yield OvsDpdk(ovs, cpu)


def start_ovs(host: Host, directory: Path, cpu: int, ports: Sequence[str] = PORTS) -> OpenVSwitch:
    """Open vSwitch with DPDK, one worker on a CPU, and bridge br0 with these vhost-user ports."""
    others = sum(1 << each for each in os.sched_getaffinity(0) if each != cpu)
    settings = {
        "dpdk-init": "true",
        "dpdk-socket-mem": str(SWITCH_MB),
        "dpdk-extra": "--in-memory --no-pci",
        "pmd-cpu-mask": f"{1 << cpu:#x}",
        "dpdk-lcore-mask": f"{others:#x}",
    }
    ovs = OpenVSwitch(host, directory, OVS_DPDK, settings, bridge={"mac-table-size": str(MAC_TABLE)})
    for name in ports:
        ovs.add_port(name, "dpdkvhostuser")
    return ovs


SWITCHES: dict[str, Callable[[Host, Path, int], AbstractContextManager[Switch]]] = {
    "penstock": penstock,
    "open vswitch": open_vswitch,
    "open vswitch, rules": open_vswitch_rules,
}

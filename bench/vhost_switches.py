"""The switches beside each other with two vhost-user ports: Penstock, and Open vSwitch with DPDK.

Each has one worker that polls on the CPU it is given, two server sockets for guests, and room for MAC_TABLE addresses.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from bench.vhost_cases import MAC_TABLE
from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.peers.load import Load, OvsLoad, PenstockLoad, figure, load_flows
from penstock.peers.ovs import OpenVSwitch, start_dpdk

PORTS = ("vm1", "vm2")


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


class Penstock(PenstockLoad):
    def __init__(self, running: RunningSwitch, sockets: tuple[Path, Path]) -> None:
        super().__init__(running.rundir)
        self.sockets = sockets

    def learned(self) -> int:
        return len(self.control.call("fdb", bridge="br0"))

    def add_flows(self, entries: list[str]) -> None:
        environment = {**os.environ, "OVS_RUNDIR": str(self.rundir)}
        load_flows(lambda *words: subprocess.run(["ovs-ofctl", *words], env=environment, check=True), "br0", entries)


class OvsDpdk(OvsLoad):
    def __init__(self, ovs: OpenVSwitch, cpu: int, ports: tuple[str, str] = PORTS) -> None:
        super().__init__(ovs, cpu)
        self.sockets = (ovs.directory / ports[0], ovs.directory / ports[1])

    def learned(self) -> int:
        return figure(r"MAC entries in the table: (\d+)/", self.ovs.appctl("fdb/stats-show", "br0"))

    def add_flows(self, entries: list[str]) -> None:
        bridge = f"unix:{self.ovs.directory / 'br0.mgmt'}"
        load_flows(lambda *words: self.ovs.host.run("ovs-ofctl", *words), bridge, entries)


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
    yield OvsDpdk(_start_ovs(host, directory, cpu), cpu)


@contextmanager
def open_vswitch_rules(host: Host, directory: Path, cpu: int) -> Iterator[Switch]:
    """Open vSwitch with a rule for each port in place of learning."""
    ovs = _start_ovs(host, directory, cpu)
    ovs.ofctl("del-flows")
    for source, destination in (PORTS, PORTS[::-1]):
        numbers = [ovs.vsctl("get", "interface", name, "ofport").strip() for name in (source, destination)]
        ovs.ofctl("add-flow", f"in_port={numbers[0]},actions=output:{numbers[1]}")
    yield OvsDpdk(ovs, cpu)


def _start_ovs(host: Host, directory: Path, cpu: int) -> OpenVSwitch:
    ovs = start_dpdk(host, directory, cpu, {"mac-table-size": str(MAC_TABLE)})
    for name in PORTS:
        ovs.add_port(name, "dpdkvhostuser")
    return ovs


SWITCHES: dict[str, Callable[[Host, Path, int], AbstractContextManager[Switch]]] = {
    "penstock": penstock,
    "open vswitch": open_vswitch,
    "open vswitch, rules": open_vswitch_rules,
}

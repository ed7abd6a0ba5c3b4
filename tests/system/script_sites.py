"""Two switches with the same four hosts: penstock-vswitchd, and Open vSwitch's user-space datapath. Each runs a script
of ovs-vsctl and ovs-ofctl commands, and tells what comes out of it, frame by frame.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from penstock.demo.hosts import Host, cable
from penstock.peers.ovs import OpenVSwitch
from tests.system.frames import Wire
from tests.system.ofctl import Ofctl
from tests.system.script_frames import (
    LOCAL,
    MARKER_TYPE,
    STATIONS,
    as_compared,
    frames,
    mac,
    marker,
    marker_of,
    token_of,
)
from tests.system.vswitchd import Daemon

BOTH = ("-O", "OpenFlow10,OpenFlow13")
MARKER_SECONDS = 0.5  # at most, until a marker is back
QUIET_SECONDS = 0.03  # at the end, without another frame
Sent = tuple[str, str]  # port and name of a frame


@dataclass
class Outcome:
    """What a switch did under a script: what came out where for each frame, and what it says of its flows."""

    frames: dict[Sent, Counter[tuple[str, bytes]]] = field(default_factory=dict)
    strangers: Counter[tuple[str, bytes]] = field(default_factory=Counter)  # that nobody sent
    flows: dict[str, list[str]] = field(default_factory=dict)  # by bridge


class Site:
    """A switch with its hosts. `host` is its namespace, `directory` has its sockets; `appctl` runs ovs-appctl on it."""

    def __init__(self, name: str, host: Host, directory: Path, appctl: Sequence[str]) -> None:
        self.name, self.host, self.directory = name, host, directory
        self.ofctl = Ofctl(directory)
        self._environment = os.environ | {
            "OVS_RUNDIR": str(directory),
            "IN": " ".join(host.command()),  # before a command that is for the switch's host
            "APPCTL": " ".join(appctl),
        }
        self._stations: list[Host] = []
        self._wires: dict[str, Wire] = {}
        self._marker = 0
        _silence(host)
        for port in STATIONS:
            station = Host(port)
            self._stations.append(station)
            _silence(station)
            cable(host, port, station, "eth0")
            station.change("eth0", address=mac(port))
            host.change(port, address=f"06:00:00:00:00:{mac(port)[-2:]}")
            self._wires[port] = Wire(station)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        for station in self._stations:
            station.close()

    def vsctl(self, *words: str) -> str:
        return self._run("ovs-vsctl", "--timeout=20", *words)

    def forget(self) -> None:
        """Drop what is remembered of the ways that packets went."""

    def settle(self) -> None:
        """Wait until what packets taught holds for packets to come."""
        time.sleep(0.1)

    def run(self, script: Path, warm_up: int, pause: float) -> Outcome:
        """What the switch does with the frames of all ports when a script has set it up, and they have been sent some
        times before.
        """
        # Penstock sees through two VLAN tags at any time.
        make = ["set", "Open_vSwitch", ".", "other_config:vlan-limit=0"]
        make += ["--", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]
        for number, port in enumerate(STATIONS, start=1):
            make += ["--", "add-port", "br0", port, "--", "set", "interface", port, f"ofport_request={number}"]
        for port in STATIONS:
            self.host.up(port)
        self.vsctl(*make)
        outcome = Outcome()
        try:
            self._run("sh", "-e", str(script))
            bridges = self.vsctl("--real", "list-br").split()
            self._begin(bridges)
            for _ in range(warm_up):
                self._send_all(Outcome(), pause)
                self.settle()
                self.forget()
            self._send_all(outcome, pause)
            self._collect(outcome, QUIET_SECONDS)
            for bridge in bridges:
                self.ofctl(*BOTH, "--strict", "del-flows", bridge, MARKER_FLOW)
                version = "OpenFlow13" if "OpenFlow13" in script.read_text() else "OpenFlow10"
                told = self.ofctl("-O", version, "--no-stats", "dump-flows", bridge).splitlines()
                outcome.flows[bridge] = sorted(line.strip() for line in told if "actions=" in line)
        finally:
            if LOCAL in self._wires:
                self._wires.pop(LOCAL).close()
            for bridge in self.vsctl("--real", "list-br").split():
                self.vsctl("del-br", bridge)
        return outcome

    def _begin(self, bridges: list[str]) -> None:
        """Bring bridges up, have markers come out of all their ports, and forget what came in so far."""
        for bridge in bridges:
            self.host.up(bridge)
            self.ofctl(*BOTH, "add-flow", bridge, f"{MARKER_FLOW},actions=ALL,IN_PORT")
        if "br0" in bridges:
            self._wires[LOCAL] = Wire(self.host, "br0")
        self.forget()
        self._collect(Outcome(), QUIET_SECONDS)

    def _send_all(self, outcome: Outcome, pause: float) -> None:
        """Send all ports' frames, one port after the other."""
        for port in self._wires:
            self._send(port, outcome)
            time.sleep(pause)

    def _send(self, port: str, outcome: Outcome) -> None:
        """Send a port's frames, and two markers after them: a switch that has sent the second is through with all."""
        mine = frames(port)
        for name in mine:
            outcome.frames.setdefault((port, name), Counter())
        self._wires[port].send(*mine.values())
        for _ in range(2):
            self._marker += 1
            self._wires[port].send(marker(port, self._marker))
            deadline = time.monotonic() + MARKER_SECONDS
            while self._marker not in self._collect(outcome, 0.001) and time.monotonic() < deadline:
                pass

    def _collect(self, outcome: Outcome, quiet: float) -> set[int]:
        """Take what has come in, until nothing does for some seconds; the markers among it."""
        markers = set()
        while ready := select.select(list(self._wires.values()), [], [], quiet)[0]:
            for port, wire in self._wires.items():
                for frame in wire.waiting() if wire in ready else ():
                    if (number := marker_of(frame)) is not None:
                        markers.add(number)
                    else:
                        sent = token_of(frame)
                        outcome.frames.get(sent, outcome.strangers)[port, as_compared(frame)] += 1  # type: ignore[arg-type]
        return markers

    def _run(self, *words: str) -> str:
        done = subprocess.run(words, env=self._environment, text=True, capture_output=True, timeout=60)
        assert done.returncode == 0, f"{self.name}: {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout


class PenstockSite(Site):
    def __init__(self, directory: Path) -> None:
        self._daemon = Daemon(directory)
        super().__init__("Penstock", self._daemon.host, directory, ["ovs-appctl"])

    def close(self) -> None:
        super().close()
        self._daemon.close()


class OvsSite(Site):
    def __init__(self, directory: Path) -> None:
        host = Host("openvswitch")
        self._ovs = OpenVSwitch(host, directory)
        self._ovs.vsctl("del-br", "br0")
        super().__init__("Open vSwitch", host, directory, self._ovs.appctl_command)

    def forget(self) -> None:
        self._ovs.appctl("revalidator/purge")

    def settle(self) -> None:
        super().settle()
        self._ovs.appctl("revalidator/wait")

    def close(self) -> None:
        super().close()
        self.host.close()


MARKER_FLOW = f"priority=65535,dl_type={MARKER_TYPE:#x}"


def _silence(host: Host) -> None:
    """Keep a kernel from saying anything by itself."""
    for name in ("all", "default"):
        host.run("sysctl", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1")

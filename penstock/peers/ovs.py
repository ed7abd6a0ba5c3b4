"""Open vSwitch as a peer: a database and a switch of its own, started in a directory, no service touched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from penstock.demo.hosts import Host
from penstock.peers.ovsdb import OvsdbServer

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "nsenter", "setpriv")


OVS_DPDK = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SWITCH_MB = 512  # huge pages for a switch's own memory
GROWTH_MB = 512  # what it takes besides when it can


class OvsError(Exception):
    """Open vSwitch did not do what it was asked; the text holds what it said."""


class OpenVSwitch:
    """One Open vSwitch with a user-space bridge `br0`, its files in `directory`; it ends with its host.

    `program` is the ovs-vswitchd to run, `settings` its other_config, `bridge` the bridge's.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        program: str = "ovs-vswitchd",
        settings: Mapping[str, str] | None = None,
        bridge: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.directory = directory
        self._control = directory / "vswitchd.ctl"
        with (directory / "log").open("w") as log:
            self._database = OvsdbServer(host, directory, log)
            self.vsctl("--no-wait", "init", *_set("Open_vSwitch", ".", settings or {}))
            arguments = (f"unix:{self._database.socket}", f"--unixctl={self._control}")
            host.start(program, *arguments, env=self._database.environment, stderr=log)
            make = ("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
            self.vsctl(*make, *_set("bridge", "br0", bridge or {}))

    def add_port(self, name: str, kind: str) -> None:
        self.vsctl("add-port", "br0", name, "--", "set", "interface", name, f"type={kind}")

    def vsctl(self, *arguments: str) -> str:
        return self._ask("ovs-vsctl", f"--db=unix:{self._database.socket}", "--timeout=20", *arguments)

    def appctl(self, *arguments: str) -> str:
        return self._ask(*self.appctl_command, *arguments)

    @property
    def appctl_command(self) -> tuple[str, ...]:
        """How ovs-appctl is run on it."""
        return ("ovs-appctl", "-t", str(self._control))

    def ofctl(self, command: str, *arguments: str) -> str:
        return self._ask("ovs-ofctl", command, f"unix:{self.directory / 'br0.mgmt'}", *arguments)

    def _ask(self, *command: str) -> str:
        """What a command prints. Raises OvsError with the end of the switch's log, where the cause mostly is."""
        done = self.host.run(*command, check=False)
        if done.returncode != 0:
            said = (self.directory / "log").read_text().splitlines()[-10:]
            raise OvsError("\n".join([f"{' '.join(command)} failed: {done.stderr.strip()}; Open vSwitch said:", *said]))
        return done.stdout


def start_dpdk(host: Host, directory: Path, cpu: int, bridge: Mapping[str, str] | None = None) -> OpenVSwitch:
    """Open vSwitch with DPDK, with one worker on a CPU and the rest on the others; needs huge pages."""
    others = sum(1 << each for each in os.sched_getaffinity(0) if each != cpu)
    settings = {
        "dpdk-init": "true",
        "dpdk-socket-mem": str(SWITCH_MB),
        "dpdk-extra": "--in-memory --no-pci",
        "pmd-cpu-mask": f"{1 << cpu:#x}",
        "dpdk-lcore-mask": f"{others:#x}",
    }
    return OpenVSwitch(host, directory, OVS_DPDK, settings, bridge)


def _set(table: str, record: str, settings: Mapping[str, str]) -> list[str]:
    """The part of an ovs-vsctl command line that sets a record's other_config."""
    if not settings:
        return []
    return ["--", "set", table, record, *(f'other_config:{key}="{value}"' for key, value in settings.items())]

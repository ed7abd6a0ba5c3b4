"""penstock-vswitchd for system tests, with hosts at its bridge br0."""

from __future__ import annotations

import subprocess
from pathlib import Path

from penstock.demo.hosts import Host, cable
from penstock.peers.ovsdb import Vswitchd
from tests.system.ofctl import Ofctl


class Daemon(Vswitchd):
    """The daemon in a host of its own; ``hosts`` are that and those at its bridge."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Host("vswitchd"), directory)
        self.hosts = [self.host]
        self.ofctl = Ofctl(directory)

    @property
    def log(self) -> str:
        return (self.directory / "ovs-vswitchd.log").read_text()

    def child(self, module: str) -> int:
        """The number of one of its processes."""
        words = ["pgrep", "-o", "-P", str(self.supervisor), "-f", f"{module} --rundir"]
        return int(subprocess.run(words, text=True, capture_output=True, check=True).stdout)

    def behind(self, name: str, address: str) -> Host:
        """A host whose link is a port of br0."""
        host = Host(name)
        self.hosts.append(host)
        cable(self.host, name, host, "eth0")
        host.assign("eth0", address)
        self.vsctl("add-port", "br0", name)
        return host

    def close(self) -> None:
        super().close()
        for host in self.hosts:
            host.close()

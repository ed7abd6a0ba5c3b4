"""A laboratory for system tests: one switch in a namespace of its own, and hosts plugged into its ports.

Hosts and switch are `penstock.demo`'s. Leaving the laboratory stops the switch and checks that nothing stays behind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock.demo.echo import ping
from penstock.demo.hosts import Host, cable
from penstock.demo.launch import RunningSwitch


class Lab:
    """A switch to be started and hosts around it; use as a context manager. ``spare``: with a spare engine, which no
    test needs that kills none, and which takes a second of a CPU.
    """

    def __init__(self, directory: Path, *, spare: bool = False) -> None:
        self.directory, self.spare = directory, spare
        self.site = Host("switch")
        self.hosts: dict[str, Host] = {}
        self.running: RunningSwitch | None = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self.running is not None:
                code = self.running.stop()
                if kind is None:
                    self._check_left(code)
                else:
                    print(f"the switch said:\n{self.running.log.read_text()}")
        finally:
            for host in [*self.hosts.values(), self.site]:
                host.close()

    def _check_left(self, code: int) -> None:
        assert self.running is not None
        assert code == 0, f"the switch ended with {code}:\n{self.running.log.read_text()}"
        left = [name for name in ("engine.sock", "control.sock") if (self.running.rundir / name).exists()]
        assert not left, f"the switch left sockets behind: {left}"
        assert not processes_of(self.running.rundir)

    @property
    def switch(self) -> RunningSwitch:
        assert self.running is not None, "the laboratory's switch was not started"
        return self.running

    def host(self, name: str) -> Host:
        """The host of that name, made when first asked for."""
        if name not in self.hosts:
            self.hosts[name] = Host(name)
        return self.hosts[name]

    def veth(self, name: str, *addresses: str, mtu: int = 1500) -> Host:
        """A host with a veth pair "eth0" whose other end, named after the host, is at the switch."""
        host = self.host(name)
        cable(self.site, name, host, "eth0")
        for end, link in ((self.site, name), (host, "eth0")):
            end.change(link, mtu=mtu)
        host.assign("eth0", *addresses)
        return host

    def start(self, config: str, *options: str) -> RunningSwitch:
        spare = () if self.spare else ("--no-spare",)
        self.running = RunningSwitch(self.site, self.directory, config, *options, *spare)
        self.running.start()
        return self.running

    def plug(self, port: str, *addresses: str) -> Host:
        """Move the TAP of a port into the host of the port's name, as its "eth0"."""
        host = self.host(port)
        host.take(port, self.site, "eth0")
        host.assign("eth0", *addresses)
        return host

    def reload(self, config: str | None = None) -> str:
        """Write the configuration file, reload, and return what the command says. Fails the test when it fails."""
        if config is not None:
            self.switch.config.write_text(config)
        done = self.switch.command("reload")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def counters(self, port: str) -> dict[str, int]:
        found: dict[str, int] = self.switch.query("stats", port)[port]
        return found

    def drops(self, port: str) -> dict[str, int]:
        """Drop reason to count."""
        return {row["reason"]: row["count"] for row in self.switch.query("drops", port)}

    def fdb(self, bridge: str = "br0") -> dict[tuple[str, int], str]:
        """(MAC, VLAN) to port."""
        return {(entry["mac"], entry["vlan"]): entry["port"] for entry in self.switch.query("fdb", bridge)}

    def state(self, port: str) -> dict[str, Any]:
        found: dict[str, Any] = next(row for row in self.switch.query("ports") if row["name"] == port)
        return found


def processes_of(rundir: Path) -> list[str]:
    """Command lines of processes that were started with this run directory."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if re.search(rf"{re.escape(str(rundir))}(\s|$)", line):
            found.append(line)
    return found


def unanswered(host: Host, address: str, **options: Any) -> bool:
    """Whether an echo request gets no reply. The host then forgets its neighbours: the kernel holds a later packet for
    an address that it is still asking for, and drops it when that question, asked in vain here, ends.
    """
    silent = ping(host, address, count=1, **options).received == 0
    host.run("ip", "neigh", "flush", "all")
    return silent


def eventually(what: str, holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `holds()` is true; fails the test when it is not within the time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)

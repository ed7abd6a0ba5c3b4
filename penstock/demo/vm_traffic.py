"""TCP streams with a checked content from and to virtual machines, by the programs that busybox brings along.

What a guest sends is a file of numbered lines, so that no piece of it is like another. The other end may be a guest, or
a host with `traffic.receiver` and `traffic.sender`, whose digests are of the same kind.
"""

from __future__ import annotations

import re

from penstock.demo.initramfs import GuestError
from penstock.demo.vm import Machine

LINES = 1_500_000
DATA = "/tmp/data"


def prepare(machine: Machine, lines: int = LINES) -> str:
    """Write the file that the guest will send; returns its SHA-256."""
    return _digest(machine.run(f"seq 1 {lines} >{DATA}; sha256sum {DATA}", timeout=60).output)


def receive(machine: Machine, port: int) -> None:
    """Start a receiver of one connection in the guest, and wait until it listens."""
    # Its input never ends: this nc would take the end of it for the end of the connection's sending half.
    machine.background(f"nc -l -p {port} 0<>/tmp/never | sha256sum >/tmp/sum.{port}")
    machine.run(f"until netstat -ltn | grep -q ':{port} '; do usleep 10000; done", timeout=10)


def received(machine: Machine, port: int, timeout: float = 60) -> str:
    """Wait for the end of what `receive` started; returns the SHA-256 of what came."""
    command = f"until [ -s /tmp/sum.{port} ]; do usleep 20000; done; cat /tmp/sum.{port}; rm /tmp/sum.{port}"
    return _digest(machine.run(command, timeout).output)


def send(machine: Machine, address: str, port: int, timeout: float = 60) -> float:
    """Send the prepared file; returns after how many seconds the receiver had all of it."""
    told = machine.run(f"time -p nc {address} {port} <{DATA}", timeout).output
    found = re.search(r"real (\d+\.\d+)", told)
    if found is None:
        raise GuestError(f"{machine.name}: no time in what nc said: {told}")
    return float(found[1])


def _digest(text: str) -> str:
    return text.split()[0]

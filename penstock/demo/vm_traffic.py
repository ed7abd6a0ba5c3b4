"""TCP streams with a checked content from and to virtual machines, by the programs that busybox brings along.

What a guest sends is the file DATA. The other end may be a guest, or a host with `traffic.receiver` and
`traffic.sender`, whose digests are of the same kind.
"""

from __future__ import annotations

import hashlib
import re

from penstock.demo.initramfs import GuestError
from penstock.demo.vm import DATA, Machine, data


def sent_digest() -> str:
    """SHA-256 of what every guest sends."""
    return hashlib.sha256(data()).hexdigest()


def receive(machine: Machine, port: int) -> None:
    """Start a receiver of one connection in the guest, and wait until it listens."""
    # Its input never ends: this nc would take the end of it for the end of the connection's sending half.
    machine.background(f"nc -l -p {port} 0<>/tmp/never | sha256sum >/tmp/sum.{port}")
    machine.run(f"until netstat -ltn | grep -q ':{port} '; do usleep 10000; done", timeout=10)


def received(machine: Machine, port: int, timeout: float = 60) -> str:
    """Wait for the end of what `receive` started; returns the SHA-256 of what came."""
    command = f"until [ -s /tmp/sum.{port} ]; do usleep 20000; done; cat /tmp/sum.{port}; rm /tmp/sum.{port}"
    return machine.run(command, timeout).output.split()[0]


def send(machine: Machine, address: str, port: int, timeout: float = 60) -> float:
    """Send the file; returns after how many seconds the receiver had all of it."""
    told = machine.run(f"time -p nc {address} {port} <{DATA}", timeout).output
    found = re.search(r"real (\d+\.\d+)", told)
    if found is None:
        raise GuestError(f"{machine.name}: no time in what nc said: {told}")
    return float(found[1])


def start_sending(machine: Machine, address: str, port: int) -> None:
    """Send the file in the background."""
    machine.background(f"nc {address} {port} <{DATA}")


def start_pinging(machine: Machine, address: str, count: int, interval: float) -> None:
    """Send echo requests in the background."""
    machine.background(f"ping -i {interval} -c {count} {address} >/tmp/pings; touch /tmp/pinged")


def pinged(machine: Machine, timeout: float = 60) -> str:
    """Wait for the end of what `start_pinging` started; returns what the program printed."""
    command = "until [ -e /tmp/pinged ]; do usleep 20000; done; cat /tmp/pings; rm /tmp/pinged"
    return machine.run(command, timeout).output

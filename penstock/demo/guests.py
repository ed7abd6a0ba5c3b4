"""Virtual machines without a hypervisor: programs that are the guest's side of a vhost-user port.

They are the traffic verbs of the command line on a `virtio-user` port: memory, rings and descriptors of their own, as a
guest's driver has.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penstock.demo.launch import PENSTOCK, LaunchError, RunningSwitch

RING = 1024  # places in a guest's rings


def word(path: str) -> str:
    """A guest's network device on the socket of a vhost-user port, as the traffic verbs name it."""
    return f"virtio-user:path={path},ring={RING}"


def generate(sender: str, receiver: str, *options: str) -> dict[str, Any]:
    """Send from one guest to another by the sockets of their ports; what both counted. Raises LaunchError."""
    done = subprocess.run(
        [*PENSTOCK, "generate", "--port", word(sender), "--rx", word(receiver), *options, "--json"],
        text=True,
        capture_output=True,
        timeout=120,
    )
    if done.returncode != 0:
        raise LaunchError(f"penstock generate ended with exit code {done.returncode}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def answering(switch: RunningSwitch, path: str, address: str) -> Iterator[None]:
    """A guest that answers ARP and ping at an address, such as 10.0.0.9/24, as long as the context lasts."""
    process = switch.host.start(
        *PENSTOCK,
        "receive",
        "--port",
        word(path),
        "--answer",
        address,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)

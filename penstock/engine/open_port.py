"""A port that the engine runs: its device's state, and words for what went wrong with it. The main thread's alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from penstock.datapath.layout import OFFLOAD_NAMES, PORT, PORT_DOWN, PORT_UP, RXQ
from penstock.machine import records
from penstock.ports import Port
from penstock.ports.base import Health
from penstock.ports.spec import PortSpec, PortState

NAME_BYTES = PORT["name"].itemsize


class EngineFault(Exception):
    """A request that cannot be carried out; the text names the object, the value and what would be right."""


@dataclass
class OpenPort:
    """A port, its number, the addresses of its receive queues and of its transmit locks, and how it is."""

    number: int
    spec: PortSpec
    port: Port
    ofport: int = 0
    rxqs: list[int] = field(default_factory=list)
    locks: int = 0
    state: Health = "up"
    error: str = ""

    @property
    def is_patch(self) -> bool:
        return self.spec.kind == "patch"

    def check(self, row: Any) -> None:
        """Take over the device's state and MTU into the PORT ``row``.

        Workers go on to use a device that is merely down: it counts its own drops, and is in use again the instant
        that it is up. One that is broken is left alone.
        """
        if self.is_patch:
            return
        self.state, self.error = self.port.check()
        for rxq in self.rxqs:
            errno = int(records(RXQ, rxq)[0]["error"])
            if errno and self.state != "error":
                self.state, self.error = "error", f"receiving failed: {os.strerror(errno)}"
        row["state"] = PORT_DOWN if self.state == "error" else PORT_UP
        row["mtu"] = self.port.mtu

    def to_state(self) -> PortState:
        """The port as it is now, for others to read."""
        return PortState(
            spec=self.spec,
            number=self.number,
            ofport=self.ofport,
            state=self.state,
            error=self.error,
            mac=self.port.mac,
            mtu=self.port.mtu,
            netdev=self.port.netdev,
            queues=len(self.port.rx),
            offloads=tuple(name for bit, name in OFFLOAD_NAMES.items() if self.port.offloads & bit),
        )


def check_name(what: str, name: str) -> None:
    """Raise EngineFault unless a name fits the tables."""
    if not 0 < len(name.encode()) <= NAME_BYTES:
        raise EngineFault(f"{what} '{name}': a name has 1 to {NAME_BYTES} bytes, not {len(name.encode())}")


def naming(name: str, error: Exception) -> str:
    """The text of an error, with the port's name before it unless it is there already."""
    text = str(error)
    return text if f"'{name}'" in text else f"port '{name}': {text}"

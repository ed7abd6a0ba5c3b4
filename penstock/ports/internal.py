"""Internal ports: a TAP device that the host itself uses, as the local port of a bridge.

The only difference from ``tap`` is what it is for, and that it is never left behind or handed to others: the operator
gives it addresses with ``ip address add``, and the host takes part in the bridge's network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from penstock.datapath.layout import EGRESS_LOCAL
from penstock.ports.spec import Doc
from penstock.ports.tap import Tap


@dataclass(frozen=True)
class InternalOptions:
    """Settings of an internal port."""

    device: Annotated[str | None, Doc("Name of the net device; the port's own name if not given.")] = None
    queues: Annotated[int, Interval(ge=1, le=8), Doc("Queues of the device.")] = 1
    mac: Annotated[str | None, Doc("MAC address of the device; the kernel's choice if not given.")] = None


class Internal(Tap):
    """A port to the host's own network stack."""

    kind: ClassVar[str] = "internal"
    Options: ClassVar[type] = InternalOptions
    egress: ClassVar[int] = EGRESS_LOCAL

    def _share(self, fd: int) -> None:
        """Nobody else opens the device, and it goes with the port."""

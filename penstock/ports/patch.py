"""Patch ports: two of them, each naming the other, join two bridges of one engine.

No device and no queue: the worker forwards a burst that leaves by a patch port at once in the peer's bridge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from penstock.datapath.layout import EGRESS_PATCH
from penstock.ports.base import Port
from penstock.ports.spec import Doc

PATCH_MTU = 65535  # a patch port limits nothing: the port by which a frame really leaves does


@dataclass(frozen=True)
class PatchOptions:
    """Settings of a patch port."""

    peer: Annotated[str, MinLen(1), Doc("Name of the patch port at the other end, which must name this one.")]


class Patch(Port):
    """One end of a link between two bridges."""

    kind = "patch"
    Options = PatchOptions
    egress = EGRESS_PATCH

    def open(self) -> None:
        self.mtu = PATCH_MTU

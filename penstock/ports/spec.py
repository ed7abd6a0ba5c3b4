"""What bridges and ports are asked to be (specs), and what a port has become (state).

These are the words that desired state, the engine's message socket, the reconciler and the command line share. They are
plain frozen dataclasses, and each goes to JSON and back with `to_json` and `from_json`. Each field that an operator may
set is declared once, here or in a port kind's `Options`: its type and bounds (annotated-types), its default and a
sentence (`Doc`) together make the parser, its error messages and the reference in docs/configuration.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from annotated_types import Ge, Interval

__all__ = ["BridgeSpec", "Doc", "PortSpec", "PortState", "VlanConfig", "VlanId", "VlanMode"]

VlanMode = Literal["access", "trunk", "native-tagged", "native-untagged"]
VlanId = Annotated[int, Interval(ge=1, le=4094)]


@dataclass(frozen=True)
class VlanConfig:
    """How a port takes part in VLANs, with the modes' meaning as in Open vSwitch; `trunks` () means every VLAN."""

    mode: VlanMode = "trunk"
    tag: int | None = None
    trunks: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "tag": self.tag, "trunks": list(self.trunks)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VlanConfig:
        return cls(mode=data["mode"], tag=data["tag"], trunks=tuple(data["trunks"]))


@dataclass(frozen=True)
class BridgeSpec:
    """A bridge: its name, and what holds for its table of learned MAC addresses (the FDB)."""

    name: str
    mac_ageing: Annotated[
        int,
        Interval(ge=0, le=1_000_000),
        Doc("Seconds after which a learned MAC address that sent nothing is forgotten; 0 means never."),
    ] = 300
    mac_table_size: Annotated[
        int,
        Interval(ge=16, le=4_194_304),
        Doc("How many MAC addresses the bridge can learn; beyond that, frames to unknown ones are flooded."),
    ] = 8192

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BridgeSpec:
        return cls(**data)


@dataclass(frozen=True)
class PortSpec:
    """A port as it is wanted. `options` are its kind's: validated, defaults filled in, made of JSON's types only."""

    bridge: str
    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    vlan: VlanConfig = VlanConfig()
    mtu: Annotated[int, Ge(68)] | None = None
    ofport: Annotated[int, Interval(ge=1, le=0xFEFF)] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "bridge": self.bridge,
            "name": self.name,
            "kind": self.kind,
            "options": dict(self.options),
            "vlan": self.vlan.to_json(),
            "mtu": self.mtu,
            "ofport": self.ofport,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PortSpec:
        return cls(**{**data, "options": dict(data["options"]), "vlan": VlanConfig.from_json(data["vlan"])})


@dataclass(frozen=True)
class PortState:
    """A port as it is in the engine. `state` "error" means it passes no frames, for the reason in `error`."""

    spec: PortSpec
    number: int
    ofport: int
    state: Literal["up", "down", "error"]
    error: str
    mac: str
    mtu: int
    netdev: str
    queues: int
    offloads: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "spec": self.spec.to_json(), "offloads": list(self.offloads)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PortState:
        return cls(**{**data, "spec": PortSpec.from_json(data["spec"]), "offloads": tuple(data["offloads"])})

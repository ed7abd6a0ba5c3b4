"""What bridges and ports are asked to be (specs), and what a port has become (state).

These are the words that desired state, the engine's message socket, the reconciler and the command line share. They are
plain frozen dataclasses, and each goes to JSON and back with `to_json` and `from_json`. Each field that an operator may
set is declared once, here or in a port kind's `Options`: its type and bounds (annotated-types), its default and a
sentence (`Doc`) together make the parser, its error messages and the reference in docs/configuration.md.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_doc import Doc
from annotated_types import Ge, Interval, Len, Predicate

__all__ = [
    "BridgeSpec",
    "Doc",
    "Policing",
    "PortSpec",
    "PortState",
    "QinqType",
    "TableSpec",
    "TrunkId",
    "VlanConfig",
    "VlanId",
    "VlanMode",
]

VlanMode = Literal["access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel"]
QinqType = Literal["802.1ad", "802.1q"]
VlanId = Annotated[int, Interval(ge=1, le=4094)]
TrunkId = Annotated[int, Interval(ge=0, le=4094)]
_TARGET = re.compile(r"(tcp|ssl):(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+)(:\d{1,5})?|p?unix:\S+|(ptcp|pssl):(\d{1,5})?(:\S+)?")


def is_target(text: str) -> bool:
    """names a controller, as in tcp:127.0.0.1:6653 or ptcp:6653"""
    return bool(_TARGET.fullmatch(text))


def is_datapath_id(text: str) -> bool:
    """has 16 hexadecimal digits, not all 0"""
    return bool(re.fullmatch(r"[0-9a-fA-F]{16}", text)) and int(text, 16) != 0


_LISTS = ("controllers", "protocols", "flows", "flood_vlans")
Target = Annotated[str, Predicate(is_target)]
DatapathId = Annotated[str, Predicate(is_datapath_id)]


@dataclass(frozen=True)
class VlanConfig:
    """How a port takes part in VLANs, with the modes' meaning as in Open vSwitch; `trunks` () means every VLAN, and
    `cvlans` () every customer's VLAN.
    """

    mode: VlanMode = "trunk"
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    cvlans: tuple[int, ...] = ()
    qinq_ethtype: QinqType = "802.1ad"
    priority_tags: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "trunks": list(self.trunks), "cvlans": list(self.cvlans)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> VlanConfig:
        return cls(**{**data, "trunks": tuple(data["trunks"]), "cvlans": tuple(data["cvlans"])})


POLICING_PREFIX, POLICING_MAX = "ingress_policing_", 1 << 31
_PolicingNumber = Annotated[int, Interval(ge=0, le=POLICING_MAX)]


@dataclass(frozen=True)
class Policing:
    """How much a port may receive; the names are those of Open vSwitch's Interface table, behind POLICING_PREFIX."""

    rate: Annotated[
        _PolicingNumber, Doc("Kilobits a second that the port may receive; what is more is dropped. 0: any number.")
    ] = 0
    burst: Annotated[_PolicingNumber, Doc("Kilobits that may come at once, however short the time; 0: 8000.")] = 0
    kpkts_rate: Annotated[
        _PolicingNumber, Doc("Thousands of packets a second that the port may receive. 0: any number.")
    ] = 0
    kpkts_burst: Annotated[_PolicingNumber, Doc("Thousands of packets that may come at once; 0: 16.")] = 0

    def to_json(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(frozen=True)
class TableSpec:
    """What an operator sets of one flow table of a bridge."""

    number: int
    flow_limit: Annotated[int, Interval(ge=1, le=4_194_304), Doc("Flow entries that the table holds at most.")] = (
        4_194_304
    )
    overflow_policy: Annotated[
        Literal["refuse", "evict"],
        Doc(
            "What becomes of another one: it is refused, or an entry with a time-out makes room for it: the one of the "
            "least importance and, among equals, the one that would end soonest."
        ),
    ] = "refuse"
    groups: Annotated[
        tuple[str, ...],
        Doc(
            "Match fields, as in `in_port`. Room is made in the largest group of entries that agree in these, so that "
            "nobody crowds out the others."
        ),
    ] = ()


@dataclass(frozen=True)
class BridgeSpec:
    """A bridge: its name, and what holds for its table of learned MAC addresses (the FDB) and its flow tables."""

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
    forward_bpdu: Annotated[
        bool,
        Doc(
            "Whether NORMAL forwards frames to 01:80:c2:00:00:00 to :0f (spanning tree, LLDP, pause and the like), "
            "which a bridge keeps to itself."
        ),
    ] = False
    flood_vlans: Annotated[
        tuple[TrunkId, ...],
        Doc("VLANs in which NORMAL learns no addresses and sends every frame to all ports, as for monitoring."),
    ] = ()
    controllers: Annotated[
        tuple[Target, ...],
        Doc(
            "OpenFlow controllers to connect to (`tcp:HOST[:PORT]`, `ssl:HOST[:PORT]`, `unix:PATH`) or to wait for "
            "(`ptcp:[PORT][:HOST]`, `pssl:[PORT][:HOST]`, `punix:PATH`). The port is 6653 when none is given."
        ),
    ] = ()
    protocols: Annotated[
        tuple[Literal["OpenFlow10", "OpenFlow13"], ...], Len(1), Doc("The versions of OpenFlow that are spoken.")
    ] = ("OpenFlow10", "OpenFlow13")
    fail_mode: Annotated[
        Literal["standalone", "secure"],
        Doc(
            "What the bridge does without a controller. `standalone`: forwards as a learning switch when none is "
            "configured, or when none was heard of for three probes. `secure`: goes on with the flows it has."
        ),
    ] = "standalone"
    datapath_id: Annotated[
        DatapathId | None, Doc("The bridge's id in OpenFlow, 16 hexadecimal digits; else one is made of its name.")
    ] = None
    inactivity_probe: Annotated[
        int,
        Interval(ge=0, le=86400),
        Doc("Seconds of silence after which a controller is asked for a sign of life; 0: never."),
    ] = 5
    max_backoff: Annotated[
        int, Interval(ge=1, le=3600), Doc("The longest pause, in seconds, between attempts to reach a controller.")
    ] = 8
    controller_rate_limit: Annotated[
        int, Interval(ge=0, le=10_000_000), Doc("Packets in a second that a controller is sent at most; 0: any number.")
    ] = 0
    controller_burst_limit: Annotated[
        int, Interval(ge=0, le=10_000_000), Doc("Packets of that at once; 0: as many as in a second.")
    ] = 0
    auxiliary_connections: Annotated[
        int,
        Interval(ge=0, le=16),
        Doc(
            "Connections to each controller besides the main one, with OpenFlow 1.3, over which it is sent packets. A "
            "controller must know of such."
        ),
    ] = 0
    flows: Annotated[
        tuple[str, ...],
        Doc(
            "Flow entries that the bridge begins with, in the notation of ovs-ofctl: "
            "`priority=10,in_port=vm1,tcp,tp_dst=80,actions=output:vm2`. A reload adds new ones and removes those that "
            "are gone; others, from controllers, stay. With any, the bridge has no flow of its own that does NORMAL."
        ),
    ] = ()
    private_key: Annotated[str | None, Doc("File with the private key for `ssl:` and `pssl:`, PEM.")] = None
    certificate: Annotated[str | None, Doc("File with the certificate of that key, PEM.")] = None
    ca_cert: Annotated[str | None, Doc("File with the certificate of who signs controllers' certificates, PEM.")] = None

    tables: tuple[TableSpec, ...] = ()

    def to_json(self) -> dict[str, Any]:
        tables = [{**asdict(each), "groups": list(each.groups)} for each in self.tables]
        return {**asdict(self), **{key: list(getattr(self, key)) for key in _LISTS}, "tables": tables}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BridgeSpec:
        tables = tuple(TableSpec(**{**each, "groups": tuple(each["groups"])}) for each in data["tables"])
        return cls(**{**data, **{key: tuple(data[key]) for key in _LISTS}, "tables": tables})


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
    policing: Policing = Policing()
    protected: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "bridge": self.bridge,
            "name": self.name,
            "kind": self.kind,
            "options": dict(self.options),
            "vlan": self.vlan.to_json(),
            "mtu": self.mtu,
            "ofport": self.ofport,
            "policing": self.policing.to_json(),
            "protected": self.protected,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PortSpec:
        parts = {"vlan": VlanConfig.from_json(data["vlan"]), "policing": Policing(**data["policing"])}
        return cls(**{**data, "options": dict(data["options"]), **parts})


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
        return {**vars(self), "spec": self.spec.to_json(), "offloads": list(self.offloads)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PortState:
        return cls(**{**data, "spec": PortSpec.from_json(data["spec"]), "offloads": tuple(data["offloads"])})

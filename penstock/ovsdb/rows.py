"""What is read of the Open_vSwitch database: its rows at one moment, as plain values (ovs-vswitchd.conf.db(5))."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


@dataclass(frozen=True)
class InterfaceRow:
    """A row of Interface. Numbers are None where the column is empty."""

    uuid: UUID
    name: str
    type: str = ""
    options: dict[str, str] = field(default_factory=dict)
    ofport: int | None = None
    ofport_request: int | None = None
    mtu_request: int | None = None
    mac: str | None = None
    policing: tuple[int, ...] = ()  # rate, burst, kpkts_rate, kpkts_burst
    unbuilt: tuple[str, ...] = ()  # columns that are set, and mean what is not built yet


@dataclass(frozen=True)
class PortRow:
    """A row of Port."""

    uuid: UUID
    name: str
    interfaces: tuple[InterfaceRow, ...] = ()
    tag: int | None = None
    trunks: tuple[int, ...] = ()
    vlan_mode: str | None = None
    protected: bool = False
    cvlans: tuple[int, ...] = ()
    other_config: dict[str, str] = field(default_factory=dict)
    unbuilt: tuple[str, ...] = ()


@dataclass(frozen=True)
class ControllerRow:
    """A row of Controller. Times are in milliseconds, as the database has them."""

    uuid: UUID
    target: str
    max_backoff: int | None = None
    inactivity_probe: int | None = None
    rate_limit: int | None = None
    burst_limit: int | None = None
    connection_mode: str | None = None


@dataclass(frozen=True)
class FlowTableRow:
    """A row of Flow_Table, and the number of the table that a bridge has it for."""

    number: int
    flow_limit: int | None = None
    overflow_policy: str | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class SslRow:
    """A row of SSL: names of files."""

    private_key: str = ""
    certificate: str = ""
    ca_cert: str = ""
    bootstrap: bool = False


@dataclass(frozen=True)
class BridgeRow:
    """A row of Bridge."""

    uuid: UUID
    name: str
    ports: tuple[PortRow, ...] = ()
    controllers: tuple[ControllerRow, ...] = ()
    protocols: tuple[str, ...] = ()
    fail_mode: str | None = None
    other_config: dict[str, str] = field(default_factory=dict)
    tables: tuple[FlowTableRow, ...] = ()
    flood_vlans: tuple[int, ...] = ()
    unbuilt: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """The database; ``uuid`` is that of the row of Open_vSwitch, ``datapaths`` are those of rows of Datapath."""

    uuid: UUID
    next_cfg: int = 0
    bridges: tuple[BridgeRow, ...] = ()
    ssl: SslRow | None = None
    datapaths: tuple[UUID, ...] = ()

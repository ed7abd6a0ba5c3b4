"""The database as ovs's replica (IDL) holds it, read into plain values. The database's thread alone.

Of thousands of ports few change at a time, and reading a row is slow: what was read is kept until its row changes.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

from ovs.db.idl import ROW_DELETE, Idl, SchemaHelper

from penstock.ovsdb.rows import (
    BridgeRow,
    ControllerRow,
    FlowTableRow,
    InterfaceRow,
    PortRow,
    Snapshot,
    SslRow,
)
from penstock.ports.spec import POLICING_PREFIX, Policing

# Columns that mean what is not built yet: where one is set, that is said.
UNBUILT = {
    "Bridge": [
        "mirrors", "netflow", "sflow", "ipfix", "stp_enable", "rstp_enable", "mcast_snooping_enable",
    ],
    "Port": ["qos", "lacp"],
    "Interface": ["cfm_mpid"],
}  # fmt: skip
POLICING = [POLICING_PREFIX + each.name for each in fields(Policing)]
# Columns that are read or written, by table.
COLUMNS = {
    "Open_vSwitch": [
        "bridges", "next_cfg", "cur_cfg", "ovs_version", "iface_types", "datapath_types", "ssl", "datapaths",
    ],
    "Datapath": ["capabilities"],
    "Bridge": [
        "name", "ports", "controller", "protocols", "fail_mode", "other_config", "datapath_id", "datapath_version",
        "flow_tables", "flood_vlans", *UNBUILT["Bridge"],
    ],
    "Port": [
        "name", "interfaces", "tag", "trunks", "vlan_mode", "protected", "cvlans", "other_config", *UNBUILT["Port"],
    ],
    "Flow_Table": ["flow_limit", "overflow_policy", "groups"],
    "SSL": ["private_key", "certificate", "ca_cert", "bootstrap_ca_cert"],
    "Interface": [
        "name", "type", "options", "ofport", "ofport_request", "mtu_request", "mac", "mac_in_use", "mtu", "admin_state",
        "link_state", "link_speed", "duplex", "status", "error", "statistics", "ifindex", *POLICING,
        *UNBUILT["Interface"],
    ],
    "Controller": [
        "target", "max_backoff", "inactivity_probe", "controller_rate_limit", "controller_burst_limit",
        "connection_mode", "is_connected", "role", "status",
    ],
}  # fmt: skip

# Schemas differ: an older one may lack these.
_MAY_LACK = {
    "protected",
    "cvlans",
    "datapaths",
    "capabilities",
    *POLICING,
    *(name for columns in UNBUILT.values() for name in columns),
}


class Replica(Idl):  # type: ignore[misc]
    """Follows a database with this schema; ``snapshot`` reads it."""

    def __init__(self, remote: str, schema: Any) -> None:
        self._touched: set[UUID] = set()
        self._read: dict[UUID, tuple[Any, tuple[UUID, ...], Any]] = {}  # row, others that count, what was read
        helper = SchemaHelper(schema_json=schema)
        for table, columns in COLUMNS.items():
            known = schema["tables"].get(table, {"columns": {}})["columns"]
            helper.register_columns(table, [name for name in columns if name in known or name not in _MAY_LACK])
        super().__init__(remote, helper)

    def notify(self, event: str, row: Any, _updates: Any = None) -> None:
        """A row has come, changed or gone (called by Idl)."""
        self._touched.add(row.uuid)
        if event == ROW_DELETE:
            self._read.pop(row.uuid, None)

    def snapshot(self) -> Snapshot | None:
        """The database as plain values; None when it has no row of Open_vSwitch (ovs-vsctl init makes one)."""
        for row in self.tables["Open_vSwitch"].rows.values():
            bridges = tuple(self._bridge(each) for each in sorted(row.bridges, key=lambda each: str(each.name)))
            found = _one(row.ssl)
            ssl = None
            if found is not None:
                ssl = SslRow(found.private_key, found.certificate, found.ca_cert, found.bootstrap_ca_cert)
            self._touched.clear()
            datapaths = tuple(sorted(each.uuid for each in getattr(row, "datapaths", {}).values()))
            return Snapshot(row.uuid, int(row.next_cfg), bridges, ssl, datapaths)
        return None

    def _known(self, row: Any) -> Any:
        """What was read of a row that is as it was, and those that count with it; else None."""
        known = self._read.get(row.uuid)
        if known is None or known[0] is not row or not self._touched.isdisjoint((row.uuid, *known[1])):
            return None
        return known[2]

    def _bridge(self, row: Any) -> BridgeRow:
        rows = self._known(row)
        if rows is None:
            rows = list(row.ports)
            self._read[row.uuid] = row, (), rows
        ports = sorted((self._port(each) for each in rows), key=lambda each: each.name)
        controllers = tuple(_controller(each) for each in sorted(row.controller, key=lambda each: str(each.target)))
        tables = tuple(
            FlowTableRow(number, _one(each.flow_limit), _one(each.overflow_policy), tuple(each.groups))
            for number, each in sorted(row.flow_tables.items())
        )
        return BridgeRow(
            row.uuid, row.name, tuple(ports), controllers, tuple(row.protocols), _one(row.fail_mode),
            dict(row.other_config), tables, tuple(row.flood_vlans), _unbuilt("Bridge", row),
        )  # fmt: skip

    def _port(self, row: Any) -> PortRow:
        known: PortRow | None = self._known(row)
        if known is not None:
            return known
        interfaces = tuple(_interface(each) for each in row.interfaces)
        port = PortRow(
            row.uuid, row.name, interfaces, _one(row.tag), tuple(row.trunks), _one(row.vlan_mode),
            getattr(row, "protected", False), tuple(getattr(row, "cvlans", ())), dict(row.other_config),
            _unbuilt("Port", row),
        )  # fmt: skip
        self._read[row.uuid] = row, tuple(each.uuid for each in interfaces), port
        return port


def _one(values: Any) -> Any:
    """What a column holds that may be empty."""
    return values[0] if values else None


def _unbuilt(table: str, row: Any) -> tuple[str, ...]:
    """The columns of UNBUILT that are set: to something, that is, and not to [0], [False] or ["off"]."""
    values = {name: getattr(row, name, None) for name in UNBUILT[table]}
    return tuple(name for name, value in values.items() if value not in (None, [], [False], [0], ["off"], False, 0))


def _interface(row: Any) -> InterfaceRow:
    return InterfaceRow(
        row.uuid, row.name, row.type, dict(row.options), _one(row.ofport), _one(row.ofport_request),
        _one(row.mtu_request), _one(row.mac), tuple(getattr(row, name, 0) for name in POLICING),
        _unbuilt("Interface", row),
    )  # fmt: skip


def _controller(row: Any) -> ControllerRow:
    return ControllerRow(
        row.uuid, row.target, _one(row.max_backoff), _one(row.inactivity_probe), _one(row.controller_rate_limit),
        _one(row.controller_burst_limit), _one(row.connection_mode),
    )  # fmt: skip

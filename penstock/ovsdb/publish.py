"""What has become of the database's rows, as columns: a pure function from the switch's state to cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.ovsdb.database import Cell
from penstock.ovsdb.rows import InterfaceRow, Snapshot
from penstock.ovsdb.translate import TYPES
from penstock.ports.spec import PortState

VERSION = "3.1.0"  # of Open vSwitch, whose database and tools these are
NO_OFPORT = -1
LOCAL, LOCAL_16 = 0xFFFFFFFE, 0xFFFE  # the bridge's own port, and how the database writes it
STATISTICS = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped")
ROLES = {"equal": "other", "master": "master", "slave": "slave"}


def ofport_of(state: PortState) -> int:
    """A port's OpenFlow number as the database and tools write it, with 16 bits."""
    return LOCAL_16 if state.ofport == LOCAL else state.ofport


def describe(snapshot: Snapshot) -> dict[Cell, Any]:
    """What the switch says of itself once."""
    row = ("Open_vSwitch", snapshot.uuid)
    return {
        (*row, "ovs_version"): VERSION,
        (*row, "iface_types"): sorted(TYPES),
        (*row, "datapath_types"): ["netdev", "system"],
    }


def applied(snapshot: Snapshot) -> dict[Cell, Any]:
    """That all the database asked for has been done: what ovs-vsctl waits for."""
    return {("Open_vSwitch", snapshot.uuid, "cur_cfg"): snapshot.next_cfg}


def publish(
    snapshot: Snapshot,
    states: Mapping[str, PortState],
    errors: Mapping[str, str],
    counters: Mapping[str, Mapping[str, int]],
    datapath_ids: Mapping[str, int],
    indices: Mapping[str, int],
) -> dict[Cell, Any]:
    """The columns of bridges and interfaces; ``errors`` by the interface's name, ``indices`` by the net device's."""
    cells: dict[Cell, Any] = {}
    for bridge in snapshot.bridges:
        if bridge.name in datapath_ids:
            cells["Bridge", bridge.uuid, "datapath_id"] = [f"{datapath_ids[bridge.name]:016x}"]
            cells["Bridge", bridge.uuid, "datapath_version"] = "<built-in>"
        for port in bridge.ports:
            for interface in port.interfaces:
                state = states.get(interface.name)
                if state is not None and state.spec.bridge != bridge.name:
                    state = None
                columns = _interface(interface, state, errors.get(interface.name, ""), counters)
                columns["ifindex"] = [indices[state.netdev]] if state is not None and state.netdev in indices else []
                cells |= {("Interface", interface.uuid, column): value for column, value in columns.items()}
    return cells


def controllers(snapshot: Snapshot, connections: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[Cell, Any]:
    """The columns of controllers; ``connections`` are those of each bridge, as it describes them."""
    cells: dict[Cell, Any] = {}
    for bridge in snapshot.bridges:
        rows = {row["target"]: row for row in connections.get(bridge.name, ())}
        for controller in bridge.controllers:
            row = rows.get(controller.target)
            if row is None:
                continue
            at = ("Controller", controller.uuid)
            connected = row["role"] != ""
            status = {}
            if not row["passive"]:  # of those that are waited for there may be many
                status["state"] = "ACTIVE" if connected else "BACKOFF"
                status["sec_since_connect" if connected else "sec_since_disconnect"] = str(int(row["seconds"]))
            if row["error"]:
                status["last_error"] = row["error"]
            cells[(*at, "is_connected")] = connected
            cells[(*at, "role")] = [ROLES[row["role"]]] if connected else []
            cells[(*at, "status")] = status
    return cells


def _interface(
    row: InterfaceRow, state: PortState | None, error: str, counters: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    if state is None:
        empty: dict[str, Any] = {key: [] for key in ("mac_in_use", "mtu", "admin_state", "link_state")}
        return {**empty, "ofport": [NO_OFPORT], "error": [error] if error else [], "statistics": {}}
    error = error or (state.error if state.state == "error" else "")
    counted = counters.get(row.name, {})
    return {
        "ofport": [ofport_of(state)],
        "mac_in_use": [state.mac] if state.mac else [],
        "mtu": [state.mtu] if state.netdev else [],
        "admin_state": ["down" if state.state == "error" else "up"],
        "link_state": [state.state if state.state == "up" else "down"],
        "error": [error] if error else [],
        "statistics": {key: counted[key] for key in STATISTICS if key in counted},
    }

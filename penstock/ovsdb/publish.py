"""What has become of the database's rows, as columns: a pure function from the switch's state to cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.ovsdb.database import Cell
from penstock.ovsdb.devices import Detail
from penstock.ovsdb.rows import Snapshot
from penstock.ovsdb.translate import TYPES
from penstock.ports.spec import PortState

VERSION = "3.1.0"  # of Open vSwitch, whose database and tools these are
NO_OFPORT = -1
LOCAL, LOCAL_16 = 0xFFFFFFFE, 0xFFFE  # the bridge's own port, and how the database writes it
STATISTICS = ("rx_packets", "rx_bytes", "rx_dropped", "tx_packets", "tx_bytes", "tx_dropped")
# What the datapath can do, in the words of ovs-vswitchd.conf.db(5), Datapath: what it has no need of it cannot either.
_ABLE = ("masked_set_action", "tnl_push_pop", "clone")
_UNABLE = (
    "recirc", "ufid", "trunc", "nd_ext", "check_pkt_len", "explicit_drop_action", "lb_output_action", "ct_state",
    "ct_state_nat", "ct_zone", "ct_mark", "ct_label", "ct_orig_tuple", "ct_orig_tuple6", "ct_eventmask", "ct_clear",
    "ct_timeout", "ct_zero_snat",
)  # fmt: skip
CAPABILITIES = (
    {"max_vlan_headers": "2", "max_mpls_depth": "1", "sample_nesting": "0", "max_hash_alg": "0"}
    | dict.fromkeys(_ABLE, "true")
    | dict.fromkeys(_UNABLE, "false")
)
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
    } | {("Datapath", uuid, "capabilities"): CAPABILITIES for uuid in snapshot.datapaths}


def applied(snapshot: Snapshot) -> dict[Cell, Any]:
    """That all the database asked for has been done: what ovs-vsctl waits for."""
    return {("Open_vSwitch", snapshot.uuid, "cur_cfg"): snapshot.next_cfg}


def publish(
    snapshot: Snapshot,
    states: Mapping[str, PortState],
    errors: Mapping[str, str],
    counters: Mapping[str, Mapping[str, int]],
    datapath_ids: Mapping[str, int],
    details: Mapping[str, Detail],
) -> dict[Cell, Any]:
    """The columns of bridges and interfaces; errors, counters and details are by the interface's name."""
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
                error = errors.get(interface.name, "")
                if state is None:
                    columns = _missing(error)
                else:
                    detail = details.get(interface.name, Detail())
                    columns = _interface(state, error, counters.get(interface.name, {}), detail)
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


def _missing(error: str) -> dict[str, Any]:
    """The columns of an interface of which there is no port."""
    names = ("mac_in_use", "mtu", "ifindex", "admin_state", "link_state", "link_speed", "duplex")
    empty: dict[str, Any] = {name: [] for name in names}
    return {**empty, "ofport": [NO_OFPORT], "error": [error] if error else [], "statistics": {}, "status": {}}


def _interface(state: PortState, error: str, counted: Mapping[str, int], detail: Detail) -> dict[str, Any]:
    error = error or (state.error if state.state == "error" else "")
    device = detail.device
    up = device.up if device is not None else state.state != "error"
    return {
        "ofport": [ofport_of(state)],
        "mac_in_use": [state.mac] if state.mac else [],
        "mtu": [state.mtu] if state.netdev else [],
        "ifindex": [detail.ifindex] if detail.ifindex else [],
        "admin_state": ["up" if up else "down"],
        "link_state": [state.state if state.state == "up" else "down"],
        "link_speed": [device.speed] if device is not None and device.speed is not None else [],
        "duplex": [device.duplex] if device is not None and device.duplex else [],
        "status": dict(detail.status),
        "error": [error] if error else [],
        "statistics": {key: counted[key] for key in STATISTICS if key in counted},
    }

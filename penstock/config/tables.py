"""Tables of a bridge: the keys of every port's beside those of its kind, what VLAN keys mean together, flow tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_doc import Doc
from annotated_types import Interval

from penstock.config.errors import Problem, join_key
from penstock.config.schema import check_table, settings_of
from penstock.engine.flow_tables import TABLES
from penstock.packet.fields import BY_NAME
from penstock.ports.spec import (
    POLICING_PREFIX,
    Policing,
    QinqType,
    TableSpec,
    TrunkId,
    VlanConfig,
    VlanId,
    VlanMode,
)
from penstock.switch.errors import unknown


@dataclass(frozen=True)
class PortKeys:
    """The keys of `[bridge.BRIDGE.port.PORT]` that do not depend on `type`."""

    type: Annotated[str, Doc("The kind of port.")]
    vlan_mode: Annotated[
        VlanMode | None,
        Doc(
            "`access`: untagged frames of VLAN `tag` only. `trunk`: tagged frames of the VLANs in `trunks`. "
            "`native-tagged`, `native-untagged`: a trunk on which untagged frames belong to VLAN `tag`, and frames of "
            "that VLAN leave tagged or untagged. `dot1q-tunnel`: a customer's port, of which all frames belong to VLAN "
            "`tag`, behind whose tag those that they have are kept. When absent: `access` if only `tag` is given, else "
            "`trunk`."
        ),
    ] = None
    tag: Annotated[
        VlanId | None, Doc("The VLAN of an access or dot1q-tunnel port, or the native VLAN of a native one.")
    ] = None
    trunks: Annotated[
        tuple[TrunkId, ...],
        Doc(
            "The VLANs that a trunk or native port carries; every VLAN when absent. 0 stands for untagged frames of a "
            "trunk. The native VLAN is always carried."
        ),
    ] = ()
    cvlans: Annotated[
        tuple[TrunkId, ...],
        Doc("The customer's VLANs that a dot1q-tunnel port carries, 0 for untagged frames; all when absent."),
    ] = ()
    qinq_ethtype: Annotated[
        QinqType, Doc("The type of the tag that a dot1q-tunnel port puts before a customer's: 0x88a8 or 0x8100.")
    ] = "802.1ad"
    priority_tags: Annotated[
        bool,
        Doc("Whether a frame that leaves without its VLAN's tag keeps one of VLAN 0 when that tells a priority."),
    ] = False
    mtu: Annotated[
        Annotated[int, Interval(ge=68, le=65535)] | None,
        Doc(
            "The largest frame to send, in bytes after the Ethernet header and VLAN tags; "
            "when absent, as the net device has it."
        ),
    ] = None
    ofport: Annotated[
        Annotated[int, Interval(ge=1, le=0xFEFF)] | None,
        Doc("The port's OpenFlow number; when absent, the lowest that is free in its bridge."),
    ] = None
    protected: Annotated[
        bool, Doc("Whether the port exchanges no frames with other protected ports of its bridge, as tenants of one.")
    ] = False


PORT_SETTINGS = settings_of(PortKeys) | {
    POLICING_PREFIX + key: replace(setting, key=POLICING_PREFIX + key) for key, setting in settings_of(Policing).items()
}


def policing(values: Mapping[str, Any]) -> Policing:
    """What the keys `ingress_policing_...` ask for."""
    return Policing(**{key: values[POLICING_PREFIX + key] for key in settings_of(Policing)})


def vlan_config(values: Mapping[str, Any], path: str, problems: list[Problem]) -> VlanConfig:
    """The VLAN configuration that the keys of a port ask for, as Open vSwitch reads them."""
    tag, trunks, cvlans = values["tag"], values["trunks"], values["cvlans"]
    mode: VlanMode = values["vlan_mode"] or ("access" if tag is not None and not trunks else "trunk")
    if mode == "trunk" and tag is not None:
        remedy = 'use vlan_mode = "native-tagged" or "native-untagged" to give a trunk a native VLAN'
        why = "a trunk port has no tag" if values["vlan_mode"] else "tag and trunks need a vlan_mode that uses both"
        problems.append(Problem(join_key(path, "tag"), f"{tag} is wrong: {why}; {remedy}"))
    elif mode != "trunk" and tag is None:
        problems.append(
            Problem(join_key(path, "tag"), f'is missing: vlan_mode = "{mode}" needs it (an integer from 1 to 4094)')
        )
    if mode in ("access", "dot1q-tunnel") and trunks:
        message = f"{list(trunks)} is wrong: such a port carries only its tag; leave trunks out or change vlan_mode"
        problems.append(Problem(join_key(path, "trunks"), message))
    if mode != "dot1q-tunnel" and cvlans:
        message = f'{list(cvlans)} is wrong: only vlan_mode = "dot1q-tunnel" has VLANs of a customer'
        problems.append(Problem(join_key(path, "cvlans"), message))
    kept = {"qinq_ethtype": values["qinq_ethtype"], "priority_tags": values["priority_tags"]}
    return VlanConfig(mode, tag, tuple(sorted(set(trunks))), tuple(sorted(set(cvlans))), **kept)


def flow_table(number: str, path: str, table: Mapping[str, Any], problems: list[Problem]) -> TableSpec | None:
    """What an operator sets of a flow table; None when any of it is wrong, which is added to ``problems``."""
    if not number.isdecimal() or int(number) >= TABLES:
        problems.append(Problem(path, f"{number!r} is no flow table: they are numbered from 0 to {TABLES - 1}"))
        return None
    before = len(problems)
    values = check_table(table, settings_of(TableSpec), path, problems)
    for field in values.get("groups", ()):
        if field not in BY_NAME:
            problems.append(Problem(join_key(path, "groups"), unknown("match field", field, BY_NAME)))
    return TableSpec(int(number), **values) if len(problems) == before else None

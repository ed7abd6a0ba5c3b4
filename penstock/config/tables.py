"""The keys that every port's table may hold beside those of its kind, and what its VLAN keys mean together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_doc import Doc
from annotated_types import Interval

from penstock.config.errors import Problem, join_key
from penstock.ports.spec import VlanConfig, VlanId, VlanMode


@dataclass(frozen=True)
class PortKeys:
    """The keys of `[bridge.BRIDGE.port.PORT]` that do not depend on `type`."""

    type: Annotated[str, Doc("The kind of port.")]
    vlan_mode: Annotated[
        VlanMode | None,
        Doc(
            "`access`: untagged frames of VLAN `tag` only. `trunk`: tagged frames of the VLANs in `trunks`. "
            "`native-tagged`, `native-untagged`: a trunk on which untagged frames belong to VLAN `tag`, and frames of "
            "that VLAN leave tagged or untagged. When absent: `access` if only `tag` is given, else `trunk`."
        ),
    ] = None
    tag: Annotated[VlanId | None, Doc("The VLAN of an access port, or the native VLAN of a native one.")] = None
    trunks: Annotated[
        tuple[VlanId, ...],
        Doc(
            "The VLANs that a trunk or native port carries; every VLAN when absent. The native VLAN is always carried."
        ),
    ] = ()
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


def vlan_config(values: Mapping[str, Any], path: str, problems: list[Problem]) -> VlanConfig:
    """The VLAN configuration that the keys `vlan_mode`, `tag` and `trunks` ask for, as Open vSwitch reads them."""
    tag, trunks = values["tag"], values["trunks"]
    mode: VlanMode = values["vlan_mode"] or ("access" if tag is not None and not trunks else "trunk")
    if mode == "trunk" and tag is not None:
        remedy = 'use vlan_mode = "native-tagged" or "native-untagged" to give a trunk a native VLAN'
        why = "a trunk port has no tag" if values["vlan_mode"] else "tag and trunks need a vlan_mode that uses both"
        problems.append(Problem(join_key(path, "tag"), f"{tag} is wrong: {why}; {remedy}"))
    elif mode != "trunk" and tag is None:
        problems.append(
            Problem(join_key(path, "tag"), f'is missing: vlan_mode = "{mode}" needs it (an integer from 1 to 4094)')
        )
    if mode == "access" and trunks:
        message = f"{list(trunks)} is wrong: an access port carries only its tag; leave trunks out or change vlan_mode"
        problems.append(Problem(join_key(path, "trunks"), message))
    return VlanConfig(mode=mode, tag=tag, trunks=tuple(sorted(set(trunks))))

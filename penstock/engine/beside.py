"""What ports are to one another: patch ports and their peers, and the host's own ports. The main thread's alone."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.datapath.layout import EGRESS_LOCAL
from penstock.engine.open_port import OpenPort
from penstock.engine.tables import NO_PEER, Tables


def link_patches(ports: Mapping[str, OpenPort], tables: Tables) -> None:
    """Join patch ports that name each other; one whose peer is missing or names another drops what it gets."""
    for opened in ports.values():
        if not opened.is_patch:
            continue
        row = tables.ports[opened.number]
        wanted = opened.spec.options["peer"]
        peer = ports.get(wanted)
        joined = peer is not None and peer.spec.options.get("peer") == opened.spec.name
        row["peer"] = peer.number if peer is not None and joined else NO_PEER
        opened.state, opened.error = "up", ""
        if not joined:
            opened.state = "error"
            opened.error = f"peer '{wanted}' " + ("does not exist" if peer is None else "does not name this port")


def host_devices(ports: Mapping[str, OpenPort]) -> dict[str, int]:
    """The devices that the host's own addresses may be on: the number of the internal port by device."""
    return {each.port.netdev: each.number for each in ports.values() if each.port.egress == EGRESS_LOCAL}


def hosts_beside(ports: Mapping[str, OpenPort], name: str) -> list[int]:
    """The numbers of the internal ports in the bridge of a port."""
    bridge = ports[name].spec.bridge
    return [each.number for each in ports.values() if each.port.egress == EGRESS_LOCAL and each.spec.bridge == bridge]

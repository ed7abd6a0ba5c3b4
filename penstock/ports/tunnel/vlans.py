"""Networks by VLAN: the tables of a tunnel port from VLANs to VNIs, far ends that are flooded to, and learned ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.datapath.fdb import REMOTE_MASK
from penstock.datapath.tunnel.layout import NO_VNI, VLANS
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports.tunnel.memory import make_flood
from penstock.ports.tunnel.plan import TunnelPlan
from penstock.ports.tunnel.routes import IpAddress

REMOTES = REMOTE_MASK + 1


def fill_vlans(
    arena: Arena, blocks: list[int], row: Any, plan: TunnelPlan, endpoint_of: Callable[[IpAddress], int]
) -> None:
    """Give the TUNNEL ``row`` its tables; their memory is noted in ``blocks``. ``endpoint_of`` makes far ends."""
    vnis, floods, remotes = (arena.allocate(size) for size in (VLANS * 4, VLANS * 8, REMOTES * 8))
    blocks += [vnis, floods, remotes]
    row["vnis"], row["floods"], row["remotes"] = vnis, floods, remotes
    table = records(np.dtype(np.int32), vnis, VLANS)
    table[:] = NO_VNI
    for vlan, vni in plan.vnis.items():
        table[vlan] = vni
    everywhere: list[IpAddress] = []
    by_vni: dict[int, list[IpAddress]] = {}
    for text in plan.floods:
        only, _at, address = text.rpartition("@")
        (by_vni.setdefault(int(only), []) if only else everywhere).append(ipaddress.ip_address(address))
    made: dict[tuple[IpAddress, ...], int] = {(): 0}
    lists = records(np.dtype(np.int64), floods, VLANS)
    for vlan, vni in plan.vnis.items():
        ends = tuple(dict.fromkeys(everywhere + by_vni.get(vni, [])))
        if ends not in made:
            made[ends] = make_flood(arena, [endpoint_of(end) for end in ends])
            blocks.append(made[ends])
        lists[vlan] = made[ends]


def number_remote(row: Any, number: int, endpoint: int) -> None:
    """Have the FDB know a far end by a number."""
    records(np.dtype(np.int64), int(row["remotes"]), REMOTES)[number] = endpoint

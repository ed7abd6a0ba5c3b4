"""Addresses of a bridge's FDB that are told to the engine, rather than learned. The main thread's alone."""

from __future__ import annotations

import time

from penstock.datapath.fdb import REMOTE_SHIFT, fdb_add_static, fdb_remove
from penstock.engine.engine import Engine
from penstock.engine.open_port import EngineFault
from penstock.ports import PortError
from penstock.ports.netdev import parse_mac

VLAN_MAX = 4094


def add_fdb(engine: Engine, bridge: str, port: str, vlan: int, mac: str, remote: str | None = None) -> None:
    """Add an address of a port, or of a tunnel port's far end, that neither ages nor moves, until it is removed."""
    number, _ = engine.bridge(bridge)
    opened = engine.port(port)
    if opened.spec.bridge != bridge:
        raise EngineFault(f"port '{port}' is on bridge '{opened.spec.bridge}', not on '{bridge}'")
    key = _key(bridge, vlan, mac)
    place = opened.number
    try:
        if remote is not None:
            place |= engine.underlay.remote_number(port, remote) << REMOTE_SHIFT
    except PortError as error:
        raise EngineFault(str(error)) from error
    if not fdb_add_static(int(engine.tables.bridges[number]["fdb"]), key, place, int(time.monotonic())):
        raise EngineFault(f"bridge '{bridge}': no room for MAC address {mac} beside other static ones")


def remove_fdb(engine: Engine, bridge: str, vlan: int, mac: str) -> None:
    """Forget an address, static or not."""
    number, _ = engine.bridge(bridge)
    if not fdb_remove(int(engine.tables.bridges[number]["fdb"]), _key(bridge, vlan, mac)):
        raise EngineFault(f"bridge '{bridge}': MAC address {mac} in VLAN {vlan} is not known")


def _key(bridge: str, vlan: int, mac: str) -> int:
    """The key of an address. Raises EngineFault."""
    if not 0 <= vlan <= VLAN_MAX:
        raise EngineFault(f"bridge '{bridge}': VLAN {vlan} is out of range: 0 (untagged) to {VLAN_MAX}")
    try:
        return int.from_bytes(parse_mac(bridge, mac), "little") | vlan << 48
    except PortError as error:
        raise EngineFault(str(error)) from error

"""What tests of a running engine share: dummy ports driven from here, and waiting until a worker has done its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.datapath.drops import REASONS
from penstock.datapath.fdb import FDB, MAC_MASK, PORT_MASK, SLOTS
from penstock.engine.engine import Engine
from penstock.machine import records
from penstock.ports.dummy import Dummy, Frame
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig

SECONDS = 10.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> None:
    """Return when the condition holds; fails, saying what was awaited, after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(50e-6)


def mac(number: int) -> bytes:
    """A locally administered unicast address."""
    return b"\x02" + number.to_bytes(5, "big")


def frame(destination: bytes, source: bytes, payload: bytes = bytes(46), eth_type: int = 0x88B5) -> bytes:
    """An untagged frame, of an Ethernet type for experiments unless told."""
    return destination + source + eth_type.to_bytes(2, "big") + payload


def tagged(data: bytes, vlan: int, priority: int = 0, tpid: int = 0x8100) -> bytes:
    """The frame with one more tag outside."""
    return data[:12] + tpid.to_bytes(2, "big") + (priority << 13 | vlan).to_bytes(2, "big") + data[12:]


def add_dummy(
    engine: Engine,
    name: str,
    vlan: VlanConfig | None = None,
    bridge: str = "br0",
    mtu: int | None = None,
    **options: Any,
) -> Dummy:
    """Add a dummy port that keeps what is transmitted."""
    engine.add_port(PortSpec(bridge, name, "dummy", {"keep": True, **options}, vlan or VlanConfig(), mtu))
    return dummy(engine, name)


def add_bridge(engine: Engine, *ports: str, name: str = "br0") -> list[Dummy]:
    """Add a bridge with dummy ports of these names, all trunks."""
    engine.add_bridge(BridgeSpec(name))
    return [add_dummy(engine, port, bridge=name) for port in ports]


def dummy(engine: Engine, name: str) -> Dummy:
    """The dummy port of this name."""
    port = engine.ports[name].port
    assert isinstance(port, Dummy)
    return port


def counters(engine: Engine, name: str) -> dict[str, int]:
    """A port's counters, summed over workers."""
    rows = engine.tables.counters(engine.ports[name].number)
    return {column: int(rows[column].sum()) for column in ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes")}


def drops(engine: Engine, name: str) -> dict[str, int]:
    """A port's drops by reason, zeros left out."""
    dropped = engine.tables.counters(engine.ports[name].number)["drops"].sum(axis=0)
    return {reason.name: int(dropped[index]) for index, reason in enumerate(REASONS) if dropped[index]}


def fdb(engine: Engine, bridge: str) -> dict[tuple[int, bytes], str]:
    """The addresses a bridge knows: (VLAN, MAC address) to the port's name; a key that stands twice is a failure."""
    number, _ = engine.bridges[bridge]
    header = records(FDB, int(engine.tables.bridges[number]["fdb"]))[0]
    entries = np.dtype([("key", "i8"), ("value", "i8")])
    table = records(entries, int(header["buckets"]), (int(header["mask"]) + 1) * SLOTS).copy()
    names = {port.number: name for name, port in engine.ports.items()}
    found: dict[tuple[int, bytes], str] = {}
    for key, value in table[table["value"] != 0].tolist():
        place = key >> 48 & 0xFFF, (key & MAC_MASK).to_bytes(6, "little")
        assert place not in found, f"{place} stands twice in the FDB"
        found[place] = names.get(value & PORT_MASK, str(value & PORT_MASK))
    return found


def send(engine: Engine, name: str, frames: Sequence[Frame | bytes]) -> None:
    """Have a port receive the frames, and return when they have been forwarded."""
    done = counters(engine, name)["rx_packets"] + len(frames)
    dummy(engine, name).inject(frames)
    wait_until(lambda: counters(engine, name)["rx_packets"] >= done, f"port '{name}' to receive {len(frames)} frames")
    engine.workers.quiesce()


def sent(engine: Engine, name: str) -> list[bytes]:
    """The frames that left by a port since the last call."""
    return [each.data for each in dummy(engine, name).transmitted()]


def clear(engine: Engine) -> None:
    """Remove all ports and bridges."""
    for name in list(engine.ports):
        engine.remove_port(name)
    for name in list(engine.bridges):
        engine.remove_bridge(name)

"""Ports as controllers see them: descriptions, status, statistics, and port-mods.

OpenFlow 1.0.2, sections 5.2.1, 5.3.3 and 5.3.5; 1.3.5, sections 7.2.1, 7.3.4.3, 7.3.5.4 and 7.4.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from penstock.openflow.match import port_16, port_32
from penstock.openflow.wire import BAD_LEN, OF10, ErrorType, OpenFlowError, Type, duration, message

PORT_DOWN, NO_RECV, NO_FWD, NO_PACKET_IN = 1 << 0, 1 << 2, 1 << 5, 1 << 6
CONFIG_10, CONFIG_13 = 0x7F, PORT_DOWN | NO_RECV | NO_FWD | NO_PACKET_IN
LINK_DOWN, LIVE = 1, 4
ADDED, DELETED, MODIFIED = range(3)
BAD_PORT, BAD_HW_ADDR, BAD_CONFIG = 0, 1, 2
UNKNOWN = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class OfPort:
    """A port as OpenFlow tells of it; ``up`` is its link, ``config`` what was forbidden it."""

    number: int
    name: str
    mac: str
    up: bool
    config: int = 0
    counters: dict[str, int] = field(default_factory=dict, compare=False)
    since: int = field(default=0, compare=False)  # CLOCK_MONOTONIC, nanoseconds


def _mac(port: OfPort) -> bytes:
    return bytes.fromhex(port.mac.replace(":", "")) if port.mac else bytes(6)


def _name(port: OfPort) -> bytes:
    return port.name.encode()[:15].ljust(16, b"\0")


def describe(version: int, port: OfPort) -> bytes:
    """ofp_phy_port (1.0) or ofp_port."""
    state = 0 if port.up else LINK_DOWN
    if version == OF10:
        return struct.pack("!H6s16sIII12x", port_16(port.number), _mac(port), _name(port), port.config, state, 0)
    state |= LIVE if port.up else 0
    config = port.config & CONFIG_13
    return struct.pack("!I4x6s2x16sII24x", port.number, _mac(port), _name(port), config, state)


def status(version: int, reason: int, port: OfPort) -> bytes:
    """The message that a port has come, gone or changed."""
    return message(version, Type.PORT_STATUS, 0, struct.pack("!B7x", reason) + describe(version, port))


def statistics(version: int, port: OfPort, now: int) -> bytes:
    """ofp_port_stats; what the switch does not count is all ones."""
    c = port.counters
    counts = (
        c.get("rx_packets", 0), c.get("tx_packets", 0), c.get("rx_bytes", 0), c.get("tx_bytes", 0),
        c.get("rx_dropped", 0), c.get("tx_dropped", 0), *([UNKNOWN] * 6),
    )  # fmt: skip
    if version == OF10:
        return struct.pack("!H6x12Q", port_16(port.number), *counts)
    return struct.pack("!I4x12QII", port.number, *counts, *duration(now - port.since))


@dataclass(frozen=True, slots=True)
class PortMod:
    """A port-mod: bits of ``config`` in ``mask`` change."""

    number: int
    mac: bytes
    config: int
    mask: int


def decode_port_mod(version: int, body: memoryview) -> PortMod:
    """From a message's body. Raises OpenFlowError."""
    if version == OF10:
        if len(body) != 24:
            raise OpenFlowError(
                ErrorType.BAD_REQUEST, BAD_LEN, f"a port-mod has 24 bytes behind its header: {len(body)}"
            )
        number, mac, config, mask = struct.unpack_from("!H6sII", body)
        number, known = port_32(number), CONFIG_10
    else:
        if len(body) != 32:
            raise OpenFlowError(
                ErrorType.BAD_REQUEST, BAD_LEN, f"a port-mod has 32 bytes behind its header: {len(body)}"
            )
        number, mac, config, mask = struct.unpack_from("!I4x6s2xII", body)
        known = CONFIG_13
    if mask & ~known:
        raise OpenFlowError(ErrorType.PORT_MOD_FAILED, BAD_CONFIG, f"port config bits {mask & ~known:#x} are unknown")
    return PortMod(number, mac, config & mask, mask)


def changed(port: OfPort, mod: PortMod) -> int:
    """The port's config after a port-mod. Raises OpenFlowError when the address is another's."""
    if mod.mac != _mac(port):
        raise OpenFlowError(
            ErrorType.PORT_MOD_FAILED, BAD_HW_ADDR, f"port {port.name} has address {port.mac}, not {mod.mac.hex(':')}"
        )
    return port.config & ~mod.mask | mod.config


def of_datapath(config: int) -> int:
    """The bits as workers look at them: a port that is down neither receives nor forwards."""
    return config | NO_RECV | NO_FWD if config & PORT_DOWN else config


def from_datapath(config: int) -> int:
    """And back, as far as they tell."""
    return config & ~(NO_RECV | NO_FWD) if config & PORT_DOWN else config

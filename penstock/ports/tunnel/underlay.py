"""Tunnel ports over the arena: what each sends to, and which arriving packets are for it.

Nothing here is open until there is a tunnel port. The engine's main thread only.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.datapath.fdb import REMOTE_MASK
from penstock.datapath.tunnel.find import endpoint_key6
from penstock.datapath.tunnel.layout import (
    ADDRESS,
    ASK_BYTES,
    ASKED,
    ENDPOINT,
    TOO_BIG,
    TUNNEL,
)
from penstock.datapath.tunnel.waiting import end_waiting
from penstock.machine import records
from penstock.memory import Arena
from penstock.ports.base import PortError
from penstock.ports.loop import Loop
from penstock.ports.tunnel import too_big
from penstock.ports.tunnel.arrivals import Arrivals, check_beside
from penstock.ports.tunnel.exchange import Asked, Exchange, asked, ends_of
from penstock.ports.tunnel.groups import Groups
from penstock.ports.tunnel.memory import (
    Endpoints,
    GrowingMap,
    address_bytes,
    write_asked,
)
from penstock.ports.tunnel.options import address_of
from penstock.ports.tunnel.plan import TunnelPlan
from penstock.ports.tunnel.resolver import FarEnd, Resolver
from penstock.ports.tunnel.routes import IpAddress
from penstock.ports.tunnel.vlans import fill_vlans, number_remote

LOG = logging.getLogger(__name__)

FAR_ENDS_MAX = 1 << 16
REFRESH_SECONDS = 1.0


@dataclass(frozen=True)
class UnderlayContext:
    """What the engine lends: its memory, its loop, ways to workers, and the numbers and devices of its ports."""

    arena: Arena
    loop: Loop
    quiesce: Callable[[], None]
    kick: Callable[[], None]
    asks: Sequence[int]
    asks_fd: int
    answers: int
    publish_arrivals: Callable[[int], None]
    number_of: Callable[[str], int]
    beside: Callable[[str], Sequence[int]]  # numbers of the internal ports in the bridge of a port


@dataclass
class TunnelPort:
    """A tunnel port in the arena."""

    plan: TunnelPlan
    address: int
    maps: tuple[GrowingMap, GrowingMap]
    ends: dict[tuple[IpAddress | None, IpAddress], FarEnd] = field(default_factory=dict)
    blocks: list[int] = field(default_factory=list)

    @property
    def row(self) -> Any:
        return records(TUNNEL, self.address)[0]


class Underlay:
    """All tunnel ports of an engine."""

    def __init__(self, context: UnderlayContext) -> None:
        self._context = context
        self._ports: dict[str, TunnelPort] = {}
        self._by_endpoint: dict[int, FarEnd] = {}
        self._internal: dict[str, int] = {}
        self._endpoints = Endpoints(context.arena)
        self._resolver: Resolver | None = None
        self._arrivals: Arrivals | None = None
        self._groups = Groups()
        rings = context.asks, context.asks_fd, context.answers
        self._exchange = Exchange(rings, context.loop, context.kick, self._take)
        self._answers = too_big.Allowance()

    def close(self) -> None:
        """Let go of the kernel's notifications."""
        if self._resolver is not None:
            self._context.loop.unwatch(self._resolver.events)
            self._exchange.end()
            self._resolver.close()
            self._resolver = None

    def set_internal(self, ports: Mapping[str, int]) -> None:
        """Say what internal ports there are: number by device."""
        if dict(ports) == self._internal:
            return
        self._internal = dict(ports)
        if self._resolver is not None:
            self._resolver.set_devices(self._internal)
            self._show_addresses()

    # Tunnel ports

    def add(self, plan: TunnelPlan) -> int:
        """Make a tunnel port, which nobody uses yet; the address of its TUNNEL. Raises PortError."""
        check_beside(plan, [each.plan for each in self._ports.values()])
        self._open()
        arena = self._context.arena
        address = arena.allocate(TUNNEL.itemsize)
        row = records(TUNNEL, address)[0]

        def publisher(column: str) -> Callable[[int], None]:
            return lambda table: row.__setitem__(column, table)

        maps = [GrowingMap(arena, publisher(name), self._context.quiesce) for name in ("endpoints4", "endpoints6")]
        port = self._ports[plan.name] = TunnelPort(plan, address, (maps[0], maps[1]))
        row["kind"], row["flags"] = plan.shape.kind, plan.flags
        row["tos"] = plan.shape.tos
        row["key"] = int.from_bytes(plan.shape.key.to_bytes(8, "big"), "little", signed=True)
        row["remote"] = np.frombuffer(address_bytes(plan.remote), np.uint8)
        row["local"] = np.frombuffer(address_bytes(plan.local), np.uint8)
        if plan.local is not None and plan.local.version == 4:
            row["local4"] = int.from_bytes(plan.local.packed, "little")
        try:
            if plan.remote is not None:
                row["endpoint"] = self._far_end(port, plan.local, plan.remote).endpoint
            if plan.vnis:
                fill_vlans(arena, port.blocks, row, plan, lambda end: self._far_end(port, plan.local, end).endpoint)
            else:
                for text in plan.floods:
                    self._far_end(port, plan.local, ipaddress.ip_address(text))  # known ahead
        except BaseException:
            self.remove(plan.name)
            raise
        return address

    def begin(self, name: str) -> None:
        """Let packets arrive for a tunnel port, which has a number now."""
        assert self._arrivals is not None
        self._arrivals.begin(self._ports[name].plan, self._context.number_of(name))

    def end(self, name: str) -> None:
        """Let no more packets arrive for a tunnel port."""
        assert self._arrivals is not None
        self._arrivals.end(name)

    def remove(self, name: str) -> None:
        """Give back a tunnel port's memory. No worker uses it any more."""
        port = self._ports.pop(name, None)
        if port is None:
            return
        self._exchange.read_all()  # while its endpoints are its own
        for end in list(port.ends.values()):
            self._forget(end)
        self._groups.leave(name)
        self._show_addresses()
        for table in port.maps:
            table.free()
        for block in (port.address, *port.blocks):
            self._context.arena.free(block)

    def remote_number(self, name: str, remote: str) -> int:
        """The number of a far end of a tunnel port with ``vnis``, as the FDB has it. Raises PortError."""
        port = self._ports.get(name)
        if port is None or not port.plan.vnis:
            raise PortError(f"port '{name}': only a tunnel port with 'vnis' has addresses behind far ends")
        address = address_of(remote)
        if address is None:
            raise PortError(f"port '{name}': remote '{remote}' is not an IP address")
        return int(records(ENDPOINT, self._far_end(port, port.plan.local, address).endpoint)[0]["number"])

    def trouble(self, name: str) -> str:
        """Why a tunnel port's one far end is not reached; "" when it is, or when there are several."""
        port = self._ports[name]
        end = port.ends.get((port.plan.local, port.plan.remote)) if port.plan.remote is not None else None
        if end is None or end.next_hop is not None:
            return ""
        return end.trouble

    def tunnels(self) -> list[dict[str, Any]]:
        """Every far end, for operators."""
        return [
            {
                "port": end.port,
                "remote": str(end.remote),
                "local": str(end.local or (end.way.source if end.way else "")),
                "next_hop": str(end.way.hop[1]) if end.way else "",
                "device": end.way.hop[0] if end.way else 0,
                "mac": ":".join(f"{octet:02x}" for octet in end.next_hop or b""),
                "mtu": end.way.mtu if end.way else None,
                "waiting": len(end.waiting),
                "state": "ready" if end.next_hop else "error" if end.trouble else "resolving",
                "error": end.trouble,
            }
            for port in self._ports.values()
            for end in port.ends.values()
        ]

    def _open(self) -> None:
        if self._resolver is not None:
            return
        context = self._context
        self._resolver = Resolver(context.quiesce, context.loop.later, self._is_ready, self._exchange.give_up)
        self._resolver.set_devices(self._internal)
        self._arrivals = Arrivals(context.arena, context.publish_arrivals, context.quiesce)
        self._show_addresses()
        context.loop.watch(self._resolver.events, self._follow)
        self._exchange.begin()
        context.loop.later(REFRESH_SECONDS, self._refresh)

    def _show_addresses(self) -> None:
        """Tell workers to what addresses packets for tunnels may come."""
        if self._resolver is not None and self._arrivals is not None:
            self._arrivals.set_locals(self._resolver.addresses(self._groups.joined()))

    def _join(self, end: FarEnd) -> None:
        """Have the host be a member of a multicast group, on the link that leads to it."""
        assert end.way is not None
        try:
            joined = self._groups.join(end.port, end.remote, end.way.hop[0])
        except OSError as error:
            end.trouble = f"cannot join the group {end.remote}: {error.strerror}"
            LOG.warning("port '%s': %s", end.port, end.trouble)
            return
        if joined:
            self._show_addresses()

    # Far ends

    def _far_end(self, port: TunnelPort, local: IpAddress | None, remote: IpAddress) -> FarEnd:
        """The far end of a tunnel port with these addresses, made when there is none. Raises PortError: too many."""
        end = port.ends.get((local, remote))
        if end is not None:
            return end
        assert self._resolver is not None
        number = len(port.ends) + 1
        if len(self._resolver) >= FAR_ENDS_MAX or (port.plan.vnis and number > REMOTE_MASK):
            raise PortError(f"port '{port.plan.name}': no room for another far end of tunnels, {remote}")
        endpoint = self._endpoints.take()
        write_asked(endpoint, local, remote, number)
        if port.plan.vnis:
            number_remote(port.row, number, endpoint)
        end = FarEnd(port.plan.name, endpoint, port.plan.shape, remote, local, port.plan.mark)
        port.ends[local, remote] = self._by_endpoint[endpoint] = end
        if remote.version == 4:
            low = int.from_bytes(local.packed, "little") if local is not None else 0
            port.maps[0].put(int.from_bytes(remote.packed, "little") << 32 | low, endpoint)
        else:
            asked = endpoint + ASKED
            port.maps[1].put(endpoint_key6.py_func(asked, asked + ADDRESS), endpoint)
        self._resolver.add([end])
        return end

    def _forget(self, end: FarEnd) -> None:
        assert self._resolver is not None
        self._resolver.remove(end)
        self._by_endpoint.pop(end.endpoint, None)
        self._endpoints.give(end.endpoint)

    # What the kernel and workers tell

    def _follow(self) -> None:
        assert self._resolver is not None
        if self._resolver.follow():
            self._show_addresses()

    def _refresh(self) -> None:
        if self._resolver is not None:
            self._resolver.refresh()
            self._context.loop.later(REFRESH_SECONDS, self._refresh)

    def _take(self, record: bytes) -> None:
        """A packet that a worker does not know where to send, or news of a far end."""
        ask = asked(record)
        if ask.endpoint not in (0, TOO_BIG):
            end_waiting(ask.endpoint, 1)
        port = next((each for name, each in self._ports.items() if self._context.number_of(name) == ask.port), None)
        if port is None or self._resolver is None:
            return  # it was removed meanwhile
        if ask.endpoint == TOO_BIG:
            self._tell_too_big(port, record[ASK_BYTES:], ask.vid)
            return
        end = self._by_endpoint.get(ask.endpoint) if ask.endpoint else self._asked_end(port, record, ask)
        if not ask.length:
            return
        if end is not None and end.next_hop is not None:
            end.waiting.append(record)
            self._exchange.give_back(end)
        elif end is None or not self._resolver.hold(end, record):
            self._exchange.drop(record)

    def _tell_too_big(self, port: TunnelPort, frame: bytes, room: int) -> None:
        """Answer a packet that was too long, if the overlay's bridge has an address of the host for that."""
        assert self._resolver is not None
        version = too_big.family_of(frame)
        host = self._resolver.host_of(self._context.beside(port.plan.name), version) if version else None
        if host is not None and self._answers.take():
            number, address, mac = host
            self._exchange.send(number, too_big.answer(frame, room - too_big.ETHERNET, address, mac))

    def _asked_end(self, port: TunnelPort, record: bytes, ask: Asked) -> FarEnd | None:
        """The far end that a packet's key names, or that it came from."""
        source, destination = ends_of(record)
        local, remote = (source if int(source) else port.plan.local, destination)
        if not ask.length:
            local, remote = port.plan.local, source
        if local is not None and local.version != remote.version:
            return None
        try:
            return self._far_end(port, local, remote)
        except PortError as error:
            LOG.warning("%s", error)
            return None

    def _is_ready(self, end: FarEnd) -> None:
        """A far end is reached: send what waited for it."""
        if end.remote.is_multicast:
            self._join(end)
        self._exchange.give_back(end)

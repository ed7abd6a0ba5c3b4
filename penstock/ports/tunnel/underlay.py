"""Tunnel ports over the arena: what each sends to, which arriving packets are for it, and packets that have to wait.

Packets for far ends that are not known (yet) come from workers by a ring each, wait with the resolver, and go back by
the ring of answers; one that waited in vain goes back without its bytes, for a worker to count the drop. Nothing here
is open until there is a tunnel port. The engine's main thread only.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.datapath.fdb import REMOTE_MASK
from penstock.datapath.tunnel.find import endpoint_key6
from penstock.datapath.tunnel.layout import (
    ADDRESS,
    ASK,
    ASK_BYTES,
    ASKED,
    CLASSES_MAX,
    ENDPOINT,
    NO_VNI,
    SERVICES_MAX,
    TOO_BIG,
    TUNNEL,
    VALID,
    VLAN_SHIFT,
    VLANS,
)
from penstock.datapath.tunnel.waiting import end_waiting
from penstock.machine import records
from penstock.memory import Arena, record_commit, record_peek, record_release, record_reserve
from penstock.packet.fields import BY_NAME, TUNNEL_AT
from penstock.ports.base import PortError
from penstock.ports.loop import Loop
from penstock.ports.tunnel import too_big
from penstock.ports.tunnel.memory import (
    Endpoints,
    GrowingMap,
    address_bytes,
    make_arrivals,
    make_flood,
    write_asked,
)
from penstock.ports.tunnel.options import address_of
from penstock.ports.tunnel.plan import TunnelPlan
from penstock.ports.tunnel.resolver import FarEnd, Resolver
from penstock.ports.tunnel.routes import IpAddress

LOG = logging.getLogger(__name__)

FAR_ENDS_MAX = 1 << 16
REFRESH_SECONDS = 1.0
ANSWER_AGAIN_SECONDS = 0.005
READ_MAX = 1024
TOLD_IN_A_SECOND, TOLD_AT_ONCE = 100, 50  # answers to packets that are too big
ENDS = [(BY_NAME[name].offset - TUNNEL_AT, BY_NAME[name].size) for name in ("tun_src", "tun_dst")]
ENDS6 = [(BY_NAME[name].offset - TUNNEL_AT, BY_NAME[name].size) for name in ("tun_ipv6_src", "tun_ipv6_dst")]
_ASK_HEAD = struct.Struct("=iiqiiq")
_ASK_TUNNEL = int(ASK.fields["tunnel"][1])  # type: ignore[index]


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
    set_local: Callable[[int, bool], None]  # whether what leaves by an internal port may end a tunnel
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
    arrivals: list[int] = field(default_factory=list)
    groups: list[socket.socket] = field(default_factory=list)
    joined: list[IpAddress] = field(default_factory=list)

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
        self._map: GrowingMap | None = None
        self._services: list[int] = []
        self._arrivals = 0
        self._locals: list[IpAddress] = []
        self._unsent: list[FarEnd] = []
        self._tokens, self._told = 0.0, 0.0

    def close(self) -> None:
        """Let go of the kernel's notifications."""
        if self._resolver is not None:
            self._context.loop.unwatch(self._resolver.events)
            self._context.loop.unwatch(self._context.asks_fd)
            self._resolver.close()
            self._resolver = None

    def set_internal(self, ports: Mapping[str, int]) -> None:
        """Say what internal ports there are: number by device."""
        if dict(ports) == self._internal:
            return
        for number in set(self._internal.values()) - set(ports.values()):
            self._context.set_local(number, False)
        self._internal = dict(ports)
        if self._resolver is not None:
            self._resolver.set_devices(self._internal)
            self._publish()

    # Tunnel ports

    def add(self, plan: TunnelPlan) -> int:
        """Make a tunnel port, which nobody uses yet; the address of its TUNNEL. Raises PortError."""
        self._check(plan)
        self._open()
        arena = self._context.arena
        address = arena.allocate(TUNNEL.itemsize)
        row = records(TUNNEL, address)[0]

        def publisher(column: str) -> Callable[[int], None]:
            return lambda table: row.__setitem__(column, table)

        maps = [GrowingMap(arena, publisher(name), self._context.quiesce) for name in ("endpoints4", "endpoints6")]
        port = self._ports[plan.name] = TunnelPort(plan, address, (maps[0], maps[1]))
        row["kind"], row["flags"] = plan.shape.kind, plan.flags
        row["tos"], row["ttl"] = plan.shape.tos, plan.shape.ttl
        row["in_key"] = -1 if plan.in_key is None else plan.in_key
        row["key"] = int.from_bytes(plan.shape.key.to_bytes(8, "big"), "little", signed=True)
        row["remote"] = np.frombuffer(address_bytes(plan.remote), np.uint8)
        row["local"] = np.frombuffer(address_bytes(plan.local), np.uint8)
        if plan.local is not None and plan.local.version == 4:
            row["local4"] = int.from_bytes(plan.local.packed, "little")
        try:
            if plan.remote is not None:
                row["endpoint"] = self._far_end(port, plan.local, plan.remote).endpoint
            if plan.vnis:
                self._fill_vlans(port)
            elif plan.floods:
                self._far_ends(port, [ipaddress.ip_address(text) for text in plan.floods])
        except BaseException:
            self.remove(plan.name)
            raise
        return address

    def begin(self, name: str) -> None:
        """Let packets arrive for a tunnel port, which has a number now."""
        port = self._ports[name]
        number = self._context.number_of(name)
        assert self._map is not None
        if port.plan.service not in self._services:
            free = self._services.index(-1) if -1 in self._services else len(self._services)
            self._services[free : free + 1] = [port.plan.service]
        for key, vlan in port.plan.arrivals(self._services.index(port.plan.service)):
            self._map.put(key, number | vlan << VLAN_SHIFT | VALID)
            port.arrivals.append(key)
        self._publish()

    def end(self, name: str) -> None:
        """Let no more packets arrive for a tunnel port."""
        port = self._ports[name]
        assert self._map is not None
        for key in port.arrivals:
            self._map.put(key, 0)
        port.arrivals.clear()
        used = {each.plan.service for each in self._ports.values() if each.arrivals}
        self._services = [service if service in used else -1 for service in self._services]
        self._publish()

    def remove(self, name: str) -> None:
        """Give back a tunnel port's memory. No worker uses it any more."""
        port = self._ports.pop(name, None)
        if port is None:
            return
        for end in list(port.ends.values()):
            self._forget(end)
        for group in port.groups:
            group.close()
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
                "mac": ":".join(f"{octet:02x}" for octet in end.next_hop or b""),
                "mtu": end.way.mtu if end.way else None,
                "waiting": len(end.waiting),
                "state": "ready" if end.next_hop else "error" if end.trouble else "resolving",
                "error": end.trouble,
            }
            for port in self._ports.values()
            for end in port.ends.values()
        ]

    def _check(self, plan: TunnelPlan) -> None:
        for other in self._ports.values():
            if plan.service != other.plan.service or plan.arrival_class != other.plan.arrival_class:
                continue
            same = plan.remote == other.plan.remote and plan.local == other.plan.local
            keys = set(plan.vnis.values()) & set(other.plan.vnis.values())
            if same and (keys or (not plan.vnis and not other.plan.vnis and plan.in_key == other.plan.in_key)):
                raise PortError(
                    f"port '{plan.name}': port '{other.plan.name}' is for the same packets already (key, addresses)"
                )
        classes = {each.plan.arrival_class for each in self._ports.values()} | {plan.arrival_class}
        services = {each.plan.service for each in self._ports.values()} | {plan.service}
        if len(services) > SERVICES_MAX:
            raise PortError(f"port '{plan.name}': more than {SERVICES_MAX} kinds and UDP ports of tunnels")
        assert len(classes) <= CLASSES_MAX

    def _open(self) -> None:
        if self._resolver is not None:
            return
        context = self._context
        self._resolver = Resolver(context.quiesce, self._give_back, self._give_up)
        self._resolver.set_devices(self._internal)
        self._map = GrowingMap(context.arena, lambda _table: self._publish(), context.quiesce)
        context.loop.watch(self._resolver.events, self._follow)
        context.loop.watch(context.asks_fd, self._read_asks)
        context.loop.later(REFRESH_SECONDS, self._refresh)

    def _fill_vlans(self, port: TunnelPort) -> None:
        arena = self._context.arena
        vnis, floods, remotes = (arena.allocate(size) for size in (VLANS * 4, VLANS * 8, (REMOTE_MASK + 1) * 8))
        port.blocks += [vnis, floods, remotes]
        row = port.row
        row["vnis"], row["floods"], row["remotes"] = vnis, floods, remotes
        table = records(np.dtype(np.int32), vnis, VLANS)
        table[:] = NO_VNI
        for vlan, vni in port.plan.vnis.items():
            table[vlan] = vni
        everywhere: list[IpAddress] = []
        by_vni: dict[int, list[IpAddress]] = {}
        for text in port.plan.floods:
            only, _at, address = text.rpartition("@")
            (by_vni.setdefault(int(only), []) if only else everywhere).append(ipaddress.ip_address(address))
        made: dict[tuple[IpAddress, ...], int] = {}
        lists = records(np.dtype(np.int64), floods, VLANS)
        for vlan, vni in port.plan.vnis.items():
            ends = tuple(dict.fromkeys(everywhere + by_vni.get(vni, [])))
            if ends and ends not in made:
                addresses = [self._far_end(port, port.plan.local, end).endpoint for end in ends]
                made[ends] = make_flood(arena, addresses)
                port.blocks.append(made[ends])
            lists[vlan] = made.get(ends, 0)

    def _join(self, port: TunnelPort, end: FarEnd) -> None:
        """Have the host be a member of a multicast group, on the link that leads to it."""
        group = end.remote
        if group in port.joined or end.way is None:
            return
        index = end.way.hop[0]
        kind = socket.AF_INET if group.version == 4 else socket.AF_INET6
        member = socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        port.groups.append(member)
        port.joined.append(group)
        try:
            if group.version == 4:
                request = struct.pack("=4s4si", group.packed, bytes(4), index)
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            else:
                request = struct.pack("=16si", group.packed, index)
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        except OSError as error:
            end.trouble = f"cannot join the group {group}: {error.strerror}"
            LOG.warning("port '%s': %s", port.plan.name, end.trouble)
        self._publish()

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
            records(np.dtype(np.int64), int(port.row["remotes"]), REMOTE_MASK + 1)[number] = endpoint
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

    def _far_ends(self, port: TunnelPort, remotes: Sequence[IpAddress]) -> None:
        """Far ends that are known ahead."""
        for remote in remotes:
            self._far_end(port, port.plan.local, remote)

    def _forget(self, end: FarEnd) -> None:
        assert self._resolver is not None
        self._resolver.remove(end)
        self._by_endpoint.pop(end.endpoint, None)
        self._endpoints.give(end.endpoint)

    def _publish(self) -> None:
        """Show workers what may arrive now."""
        if self._map is None or self._resolver is None:
            return
        context = self._context
        begun = [port for port in self._ports.values() if port.arrivals]
        classes = {port.plan.arrival_class for port in begun}
        # The one that says most comes first, and the key says more than addresses do.
        order = sorted(classes, key=lambda kind: [not kind & bit for bit in (1, 2, 4)])
        gre = next((i for i, service in enumerate(self._services) if service == 1 << 16 | 2 << 32), -1)
        self._locals = self._resolver.addresses() + [group for port in begun for group in port.joined]
        old = self._arrivals
        self._arrivals = make_arrivals(context.arena, self._map.address, self._services, gre, order, self._locals)
        context.publish_arrivals(self._arrivals)
        for number in self._internal.values():
            context.set_local(number, bool(begun))
        context.quiesce()
        if old:
            context.arena.free(old)

    # What the kernel and workers tell

    def _follow(self) -> None:
        assert self._resolver is not None
        if self._resolver.follow():
            wanted = self._resolver.addresses() + [
                group for port in self._ports.values() if port.arrivals for group in port.joined
            ]
            if wanted != self._locals:
                self._publish()

    def _refresh(self) -> None:
        if self._resolver is not None:
            self._resolver.refresh()
            self._context.loop.later(REFRESH_SECONDS, self._refresh)

    def _read_asks(self) -> None:
        """Take over the packets that workers do not know where to send."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._context.asks_fd)
        left = READ_MAX
        for ring in self._context.asks:
            while left and (record := record_peek.py_func(ring)):
                left -= 1
                _port, length, *_rest = _ASK_HEAD.unpack(ctypes.string_at(record, _ASK_HEAD.size))
                data = ctypes.string_at(record, ASK_BYTES + length)
                record_release.py_func(ring)
                self._take(data)
        self._context.kick()
        if not left:
            os.eventfd_write(self._context.asks_fd, 1)

    def _take(self, record: bytes) -> None:
        number, length, endpoint, *_rest = _ASK_HEAD.unpack_from(record)
        end = self._by_endpoint.get(endpoint)
        if endpoint and endpoint != TOO_BIG:
            end_waiting(endpoint, 1)
        port = next((each for name, each in self._ports.items() if self._context.number_of(name) == number), None)
        if port is None:
            return  # it was removed meanwhile
        if endpoint == TOO_BIG:
            self._tell_too_big(port, record)
            return
        if end is None and not endpoint:
            end = self._asked_end(port, record, arrived=not length)
        if not length:
            return
        assert self._resolver is not None
        if end is not None and end.next_hop is not None:
            end.waiting.append(record)
            self._give_back(end)
        elif end is None or not self._resolver.hold(end, record):
            self._answer(record[:ASK_BYTES], 0)

    def _tell_too_big(self, port: TunnelPort, record: bytes) -> None:
        """Answer a packet that was too long, if the overlay's bridge has an address of the host for that."""
        assert self._resolver is not None
        now = time.monotonic()
        self._tokens = min(TOLD_AT_ONCE, self._tokens + (now - self._told) * TOLD_IN_A_SECOND)
        self._told = now
        frame = record[ASK_BYTES:]
        version = too_big.family_of(frame)
        host = self._resolver.host_of(self._context.beside(port.plan.name), version) if version else None
        if host is None or self._tokens < 1:
            return
        self._tokens -= 1
        number, address, mac = host
        room = _ASK_HEAD.unpack_from(record)[4]
        said = too_big.answer(frame, room - too_big.ETHERNET, address, mac)
        head = _ASK_HEAD.pack(number, len(said), TOO_BIG, 0, 0, 0)
        self._answer(head + bytes(ASK_BYTES - len(head)) + said, len(said))

    def _asked_end(self, port: TunnelPort, record: bytes, *, arrived: bool) -> FarEnd | None:
        """The far end that a packet's key names, or that it came from."""
        key = record[_ASK_TUNNEL:]
        fours = [key[at : at + size] for at, size in ENDS]
        sixes = [key[at : at + size] for at, size in ENDS6]
        first, second = (ipaddress.ip_address(each) for each in (fours if any(fours[0] + fours[1]) else sixes))
        local: IpAddress | None = first
        remote: IpAddress = second
        if arrived:
            local, remote = port.plan.local, first
        elif not int(first):
            local = port.plan.local
        if local is not None and local.version != remote.version:
            return None
        try:
            return self._far_end(port, local, remote)
        except PortError as error:
            LOG.warning("%s", error)
            return None

    def _give_back(self, end: FarEnd) -> None:
        """A far end is ready: send the packets that waited for it; what finds no room in the ring is tried again."""
        if end.remote.is_multicast:
            self._join(self._ports[end.port], end)
        while end.waiting:
            record = end.waiting[0]
            if not self._answer(record, len(record) - ASK_BYTES):
                self._unsent.append(end)
                self._context.loop.later(ANSWER_AGAIN_SECONDS, self._give_rest)
                return
            end.waiting.popleft()
        self._context.kick()

    def _give_rest(self) -> None:
        ends, self._unsent = self._unsent, []
        for end in ends:
            if end.next_hop is not None:
                self._give_back(end)

    def _give_up(self, end: FarEnd) -> None:
        """Drop what waits for a far end."""
        while end.waiting:
            self._answer(end.waiting.popleft()[:ASK_BYTES], 0)
        self._context.kick()

    def _answer(self, record: bytes, length: int) -> bool:
        """Put a record in the ring of answers, with ``length`` bytes of packet; False when there is no room."""
        place = record_reserve.py_func(self._context.answers, len(record))
        if not place:
            return False
        head = list(_ASK_HEAD.unpack_from(record))
        head[1] = length
        ctypes.memmove(place, _ASK_HEAD.pack(*head) + record[_ASK_HEAD.size :], len(record))
        record_commit.py_func(self._context.answers)
        return True

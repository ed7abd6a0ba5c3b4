"""How far ends of tunnels are reached, followed as the kernel's routes and neighbours change.

The host's addresses are on internal ports. A far end is resolved by asking the kernel for the route to it; if that
leads over an internal port, the next hop's MAC address is in the kernel's neighbour table, and the endpoint gets a
finished header. A next hop that does not answer any more makes its far ends UNRESOLVED; one that is merely forgotten
does not. The engine's main thread only.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock.datapath.tunnel.layout import ENDPOINT, WAITING_MAX
from penstock.machine import records
from penstock.ports.netdev import Link, Links
from penstock.ports.tunnel.header import Shape, make_header
from penstock.ports.tunnel.memory import set_unresolved, write_header, write_next_hop
from penstock.ports.tunnel.routes import NUD_FAILED, NUD_STALE, IpAddress, Local, Routes

ASK_AGAIN_SECONDS = 1.0  # between requests to resolve one next hop
USED_SECONDS = 30  # far ends that were sent to within so long are kept resolved

Hop = tuple[int, IpAddress]  # index of a device, address on its link


class Way(NamedTuple):
    """All that a header is made of, but for the next hop's MAC address."""

    port: int
    mac: str
    mtu: int
    source: IpAddress
    hop: Hop


@dataclass(eq=False)
class FarEnd:
    """One far end of one tunnel port, and the packets that wait for it."""

    port: str
    endpoint: int
    shape: Shape
    remote: IpAddress
    local: IpAddress | None
    mark: int = 0
    way: Way | None = None
    next_hop: bytes | None = None  # MAC address in the header of an endpoint that is READY
    trouble: str = ""
    waiting: deque[bytes] = field(default_factory=deque)

    @property
    def used(self) -> int:
        """The second of CLOCK_MONOTONIC in which it was last sent to."""
        return int(records(ENDPOINT, self.endpoint)[0]["used"])


class Resolver:
    """Far ends, and what the kernel says of the way to each."""

    def __init__(
        self,
        quiesce: Callable[[], None],
        later: Callable[[float, Callable[[], None]], None],
        ready: Callable[[FarEnd], None],
        failed: Callable[[FarEnd], None],
    ) -> None:
        self._routes = Routes()
        self._links = Links()
        self._quiesce, self._later, self._ready, self._failed = quiesce, later, ready, failed
        self._ends: set[FarEnd] = set()
        self._by_hop: defaultdict[Hop, set[FarEnd]] = defaultdict(set)
        self._asked: dict[Hop, float] = {}
        self._all_due = False
        self._all_from = 0.0  # when all far ends may be looked at again
        self._devices: dict[int, tuple[int, Link]] = {}  # by index: number of the internal port, device

    @property
    def events(self) -> int:
        """The descriptor to watch; ``follow`` reads it."""
        return self._routes.events.fileno()

    def close(self) -> None:
        self._ends.clear()
        self._routes.close()
        self._links.close()

    def set_devices(self, ports: Mapping[str, int]) -> None:
        """Say what internal ports there are: number by device. Looks at all far ends anew, at once."""
        found = {name: self._links.get(name) for name in ports}
        self._devices = {link.index: (ports[name], link) for name, link in found.items() if link is not None}
        self.resolve(self._ends)

    def addresses(self, groups: Iterable[tuple[int, IpAddress]]) -> list[Local]:
        """The host's addresses on internal ports, and of these pairs of device and group those on such."""
        found = [*self._routes.addresses(), *groups]
        return [(self._devices[index][0], address) for index, address in found if index in self._devices]

    def host_of(self, ports: Collection[int], version: int) -> tuple[int, IpAddress, bytes] | None:
        """Number, address and MAC address of an internal port of these that has an address of an IP version."""
        found = [
            (address.is_link_local, number, address, bytes.fromhex(link.mac.replace(":", "")))
            for index, address in self._routes.addresses()
            if address.version == version and index in self._devices
            for number, link in (self._devices[index],)
            if number in ports
        ]
        return min(found, key=lambda each: each[:2])[1:] if found else None

    # Far ends

    def add(self, ends: Collection[FarEnd]) -> None:
        """Take these in and resolve them."""
        self._ends.update(ends)
        self.resolve(ends)

    def remove(self, end: FarEnd) -> None:
        """Forget one."""
        self._ends.discard(end)
        if end.way is not None:
            self._by_hop[end.way.hop].discard(end)

    def __len__(self) -> int:
        return len(self._ends)

    def follow(self) -> bool:
        """Take in what the kernel tells; whether addresses may have changed."""
        hops, others = self._routes.follow()
        if others:
            for index, (number, _link) in list(self._devices.items()):
                now = self._links.get(index)
                if now is None:
                    del self._devices[index]
                else:
                    self._devices[index] = number, now
            self._resolve_all()
        else:
            self.resolve({end for hop in hops for end in self._by_hop.get(hop, ())})
        return others

    def refresh(self) -> None:
        """Have the kernel make sure of next hops that are in use. Called each second."""
        since = int(time.monotonic()) - USED_SECONDS
        for hop, ends in self._by_hop.items():
            known = self._routes.neighbours.get(hop)
            if known is not None and known.mac is not None and known.state != NUD_STALE:
                continue
            if any(end.waiting or end.used >= since for end in ends):
                self._ask(hop)

    def hold(self, end: FarEnd, record: bytes) -> bool:
        """Have a packet wait for a far end that is not ready; False when it must be dropped."""
        if end.way is None:
            self.resolve([end])
        if end.way is None or len(end.waiting) >= WAITING_MAX:
            return False
        end.waiting.append(record)
        self._ask(end.way.hop)
        return True

    # Resolution

    def _resolve_all(self) -> None:
        """Look at all far ends anew, now or a little later: changes of routes come in crowds."""
        if not self._all_due:
            self._all_due = True
            self._later(max(0.0, self._all_from - time.monotonic()), self._resolve_due)

    def _resolve_due(self) -> None:
        begun = time.monotonic()
        self._all_due = False
        self.resolve(self._ends)
        ended = time.monotonic()
        self._all_from = ended + (ended - begun)  # the main thread has other work too

    def resolve(self, ends: Iterable[FarEnd]) -> None:
        """Bring endpoints to what the kernel says now. What is READY and has to change otherwise waits for workers."""
        rewritten: list[tuple[FarEnd, Way, bytes]] = []
        disturbed = False
        for end in list(ends):
            was_ready = end.next_hop is not None
            way = self._way(end)
            mac = self._mac(way, end.remote) if way is not None else None
            if way is not None and mac is None and way == end.way and was_ready and not self._has_failed(way.hop):
                continue  # forgotten, not gone: it is asked for again
            if way == end.way and mac == end.next_hop:
                if way is None or mac is not None:
                    continue
            elif way is not None and way == end.way and mac is not None and was_ready:
                write_next_hop(end.endpoint, mac)
                end.next_hop = mac
                continue
            self._move(end, way)
            if was_ready:
                set_unresolved(end.endpoint)
                end.next_hop = None
                disturbed = True
            if way is not None and mac is not None:
                rewritten.append((end, way, mac))
            elif way is None or self._has_failed(way.hop):
                if way is not None:
                    end.trouble = f"{way.hop[1]}, by which {end.remote} is reached, does not answer"
                self._failed(end)
        if disturbed:
            self._quiesce()
        for end, way, mac in rewritten:
            source = bytes.fromhex(way.mac.replace(":", ""))
            header = make_header(end.shape, mac, source, way.source, end.remote)
            write_header(end.endpoint, header, way.port, way.mtu)
            end.next_hop, end.trouble = mac, ""
            self._ready(end)

    def _way(self, end: FarEnd) -> Way | None:
        try:
            index = self._multicast_device(end.local) if end.remote.is_multicast else 0
            route = self._routes.route(end.remote, end.local, end.mark, index)
        except OSError as error:
            end.trouble = f"no route to {end.remote}: {error.strerror}"
            return None
        if route.index not in self._devices:
            device = self._links.get(route.index)
            name = device.name if device is not None else str(route.index)
            end.trouble = f"the route to {end.remote} leads to device '{name}', which is no internal port of a bridge"
            return None
        port, link = self._devices[route.index]
        mtu = min(route.mtu or link.mtu, link.mtu)
        return Way(port, link.mac, mtu, end.local or route.source, (route.index, route.next_hop))

    def _multicast_device(self, local: IpAddress | None) -> int:
        """The device with the local address, or the only one: groups need no route."""
        with_it = [index for index, address in self._routes.addresses() if address == local and index in self._devices]
        return with_it[0] if with_it else next(iter(self._devices)) if len(self._devices) == 1 else 0

    def _mac(self, way: Way, remote: IpAddress) -> bytes | None:
        if remote.is_multicast:
            if remote.version == 4:
                return b"\x01\x00\x5e" + (int(remote) & 0x7FFFFF).to_bytes(3, "big")
            return b"\x33\x33" + remote.packed[-4:]
        known = self._routes.neighbours.get(way.hop)
        return known.mac if known is not None else None

    def _has_failed(self, hop: Hop) -> bool:
        known = self._routes.neighbours.get(hop)
        return known is not None and known.state == NUD_FAILED

    def _move(self, end: FarEnd, way: Way | None) -> None:
        if end.way is not None:
            self._by_hop[end.way.hop].discard(end)
        end.way = way
        if way is not None:
            self._by_hop[way.hop].add(end)

    def _ask(self, hop: Hop) -> None:
        now = time.monotonic()
        if now - self._asked.get(hop, 0.0) < ASK_AGAIN_SECONDS:
            return
        self._asked[hop] = now
        try:
            self._routes.use(*hop)
        except OSError as error:
            for end in self._by_hop[hop]:
                end.trouble = f"{hop[1]} cannot be resolved: {error.strerror}"

"""The kernel's routes, neighbours and addresses, asked and followed by rtnetlink(7). The engine's main thread only.

Routes are asked for one destination at a time, so that policy routing and all else that the kernel knows holds.
Neighbours are mirrored. Resolving an address (ARP, neighbour discovery) and keeping it fresh stays the kernel's work:
``use`` (NTF_USE) has it do so as if it had a packet to send.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from penstock.ports.rtnetlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    Channel,
    Events,
    attribute,
    attributes,
    open_netlink,
)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Local = tuple[int, IpAddress]  # number of an internal port, address that its device has

RTM_GETADDR, RTM_GETROUTE = 22, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
GROUPS = (
    0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400
)  # links, neighbours, addresses, routes and rules of both families
RULE6_GROUP = 1 << 18  # RTNLGRP_IPV6_RULE
RTMSG = struct.Struct("=8BI")
IFADDRMSG = struct.Struct("=4BI")
NDMSG = struct.Struct("=B3xiHBB")
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_METRICS, RTA_MARK, RTA_VIA = 1, 2, 4, 5, 7, 8, 16, 18
RTAX_MTU = 2
NDA_DST, NDA_LLADDR = 1, 2
NUD_FAILED, NUD_NONE = 0x20, 0x00
NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # reachable, stale, delay, probe, no ARP, permanent
NUD_STALE = 0x04
NTF_USE = 0x01


@dataclass(frozen=True)
class Route:
    """How an address is reached: by a device, from an address, by a next hop (the address itself when on the link)."""

    index: int
    source: IpAddress
    next_hop: IpAddress
    mtu: int  # of the route; 0: the device's


@dataclass(frozen=True)
class Neighbour:
    """Whom the kernel knows on a link. ``mac`` is None while it is being resolved or when that failed."""

    mac: bytes | None
    state: int


def family(address: IpAddress) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Routes:
    """What the kernel of this network namespace knows. Raises OSError where the kernel refuses."""

    def __init__(self) -> None:
        self._channel = Channel(open_netlink())
        self.events = Events(GROUPS | RULE6_GROUP)
        self.neighbours: dict[tuple[int, IpAddress], Neighbour] = {}
        self.resync()

    def close(self) -> None:
        self.events.close()
        self._channel.close()

    def resync(self) -> None:
        """Read all neighbours anew."""
        self.neighbours.clear()
        for kind in (socket.AF_INET, socket.AF_INET6):
            for payload in self._channel.ask(RTM_GETNEIGH, NLM_F_DUMP, NDMSG.pack(kind, 0, 0, 0, 0)):
                self._note_neighbour(RTM_NEWNEIGH, payload)

    def follow(self) -> tuple[set[tuple[int, IpAddress]], bool]:
        """Take in what has changed: neighbours that did, and whether routes, addresses or devices did too."""
        events = self.events.read()
        if events is None:
            before = set(self.neighbours)
            self.resync()
            return before | set(self.neighbours), True
        changed: set[tuple[int, IpAddress]] = set()
        others = False
        for kind, payload in events:
            if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
                key = self._note_neighbour(kind, payload)
                if key is not None:
                    changed.add(key)
            else:
                others = True
        return changed, others

    def _note_neighbour(self, kind: int, payload: bytes) -> tuple[int, IpAddress] | None:
        version, index, state, _flags, _type = NDMSG.unpack_from(payload)
        fields = dict(attributes(payload[NDMSG.size :]))
        if NDA_DST not in fields or version not in (socket.AF_INET, socket.AF_INET6):
            return None
        key = index, ipaddress.ip_address(fields[NDA_DST])
        if kind == RTM_DELNEIGH:
            return key if self.neighbours.pop(key, None) is not None else None
        mac = fields.get(NDA_LLADDR)
        known = Neighbour(mac if state & NUD_VALID and mac is not None and len(mac) == 6 else None, state)
        if self.neighbours.get(key) == known:
            return None
        self.neighbours[key] = known
        return key

    def addresses(self) -> Iterator[tuple[int, IpAddress]]:
        """The host's addresses: index of the device, address."""
        for payload in self._channel.ask(RTM_GETADDR, NLM_F_DUMP, IFADDRMSG.pack(0, 0, 0, 0, 0)):
            version, _length, _flags, _scope, index = IFADDRMSG.unpack_from(payload)
            fields = dict(attributes(payload[IFADDRMSG.size :]))
            raw = fields.get(IFA_LOCAL, fields.get(IFA_ADDRESS))
            if raw is not None and version in (socket.AF_INET, socket.AF_INET6):
                yield index, ipaddress.ip_address(raw)

    def route(self, remote: IpAddress, local: IpAddress | None = None, mark: int = 0, index: int = 0) -> Route:
        """The route that a packet with these addresses takes; multicast by the device of that index, if any."""
        kind = family(remote)
        bits = remote.max_prefixlen
        body = RTMSG.pack(kind, bits, bits if local is not None else 0, 0, 0, 0, 0, 0, 0) + attribute(
            RTA_DST, remote.packed
        )
        if local is not None:
            body += attribute(RTA_SRC, local.packed)
        if mark:
            body += attribute(RTA_MARK, struct.pack("=I", mark))
        if index:
            body += attribute(RTA_OIF, struct.pack("=I", index))
        (payload,) = self._channel.ask(RTM_GETROUTE, 0, body)
        fields = dict(attributes(payload[RTMSG.size :]))
        (found,) = struct.unpack("=I", fields.get(RTA_OIF, bytes(4)))
        next_hop = remote
        if RTA_GATEWAY in fields:
            next_hop = ipaddress.ip_address(fields[RTA_GATEWAY])
        elif RTA_VIA in fields:
            next_hop = ipaddress.ip_address(fields[RTA_VIA][2:])
        metrics = dict(attributes(fields.get(RTA_METRICS, b"")))
        (mtu,) = struct.unpack("=I", metrics.get(RTAX_MTU, bytes(4)))
        source = ipaddress.ip_address(fields[RTA_PREFSRC]) if RTA_PREFSRC in fields else local
        if source is None:
            raise OSError(0, f"the route to {remote} tells no source address")
        return Route(found, source, next_hop, mtu)

    def use(self, index: int, address: IpAddress) -> None:
        """Have the kernel resolve a neighbour, or make sure that it is still there."""
        body = NDMSG.pack(family(address), index, NUD_NONE, NTF_USE, 0) + attribute(NDA_DST, address.packed)
        self._channel.ask(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)

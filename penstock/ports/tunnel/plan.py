"""What a tunnel port shall do, in plain values, and how arriving packets are told to be for it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from penstock.datapath.tunnel.arrivals import arrival_key
from penstock.datapath.tunnel.layout import (
    BY_KEY,
    BY_LOCAL,
    BY_REMOTE,
    BY_VLAN,
    CHECKSUM,
    GRE,
    GRE_PORT,
    GROUP_POLICY,
    KEY_BY_FLOW,
    REMOTE_BY_FLOW,
    TOS_INHERIT,
    TTL_INHERIT,
)
from penstock.packet.protocols import raw16
from penstock.ports.tunnel.header import Shape
from penstock.ports.tunnel.memory import address_words
from penstock.ports.tunnel.routes import IpAddress

GRE_SERVICE = GRE_PORT | GRE << 32


@dataclass(frozen=True)
class TunnelPlan:
    """A tunnel port. ``remote`` None: packets tell it (or, with ``vnis``, VLANs by VNI do); ``in_key`` None: any."""

    name: str
    shape: Shape
    remote: IpAddress | None
    local: IpAddress | None
    in_key: int | None
    key_by_flow: bool
    tos_inherit: bool
    ttl_inherit: bool
    group_policy: bool
    mark: int
    vnis: Mapping[int, int]
    floods: tuple[str, ...]

    @property
    def flags(self) -> int:
        """TUNNEL.flags."""
        chosen = (
            (REMOTE_BY_FLOW, self.remote is None and not self.vnis),
            (KEY_BY_FLOW, self.key_by_flow or bool(self.vnis)),
            (CHECKSUM, self.shape.checksum),
            (TOS_INHERIT, self.tos_inherit),
            (TTL_INHERIT, self.ttl_inherit),
            (GROUP_POLICY, self.group_policy),
            (BY_VLAN, bool(self.vnis)),
        )
        return sum(flag for flag, on in chosen if on)

    @property
    def udp_port(self) -> int:
        """To which its packets come; 0: they have none."""
        return 0 if self.shape.kind == GRE else self.shape.port

    @property
    def service(self) -> int:
        """What ARRIVALS.services has for it."""
        if self.shape.kind == GRE:
            return GRE_SERVICE
        return raw16(self.udp_port) | self.shape.kind << 32

    @property
    def arrival_class(self) -> int:
        """By what arriving packets are told to be for it. What is sent to a group comes to no local address."""
        grouped = any(ipaddress.ip_address(text.rpartition("@")[2]).is_multicast for text in self.floods)
        return (
            (BY_KEY if self.in_key is not None or self.vnis else 0)
            | (BY_REMOTE if self.remote is not None else 0)
            | (BY_LOCAL if self.local is not None and not grouped else 0)
        )

    def arrivals(self, service: int) -> Iterator[tuple[int, int]]:
        """Keys in the map of arrivals, with the VLAN of each."""
        keys = [(vni, vlan) for vlan, vni in self.vnis.items()] or [(self.in_key or 0, 0)]
        kind = self.arrival_class
        words = (*address_words(self.remote), *address_words(self.local if kind & BY_LOCAL else None))
        for key, vlan in keys:
            yield arrival_key.py_func(kind | 8, service, key, *words), vlan

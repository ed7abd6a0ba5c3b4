"""Settings of tunnel ports, by the names that Open vSwitch gives them where it has them (ovs-vswitchd.conf.db(5))."""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, Predicate

from penstock.ports.spec import Doc
from penstock.ports.tunnel.routes import IpAddress

VNI_MAX = (1 << 24) - 1


def address_of(text: str) -> IpAddress | None:
    """An address, or None when the text is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_end(text: str) -> bool:
    """is an IPv4 or IPv6 address, or flow"""
    return text == "flow" or address_of(text) is not None


def is_mapping(text: str) -> bool:
    """pairs a VLAN with a VNI, as in 10=5010, or several with VNIs from one on, as in 10-19=5010"""
    try:
        vlans = mapped(text)
    except ValueError:
        return False
    return bool(vlans)


def is_far_end(text: str) -> bool:
    """is an address, for all VNIs, or VNI@ADDRESS for one, as in 5010@10.0.0.2"""
    vni, at, address = text.rpartition("@")
    return address_of(address) is not None and (not at or (vni.isdecimal() and int(vni) <= VNI_MAX))


def mapped(text: str) -> dict[int, int]:
    """VLANs and VNIs of one mapping. Raises ValueError when it is none."""
    vlans, _, vni = text.partition("=")
    first, _, last = vlans.partition("-")
    low, high, start = int(first), int(last or first), int(vni)
    if not 0 <= low <= high <= 4094 or not 0 <= start <= VNI_MAX - (high - low):
        raise ValueError(text)
    return {vlan: start + vlan - low for vlan in range(low, high + 1)}


End = Annotated[str, Predicate(is_end)]
Inherit = Literal["inherit"]
Byte = Annotated[int, Interval(ge=0, le=255)]
Key = Annotated[int, Interval(ge=0, le=VNI_MAX)] | Literal["flow"]
GreKey = Annotated[int, Interval(ge=0, le=0xFFFFFFFF)] | Literal["flow"]
_DST_PORT = Doc("UDP port that packets go to, and come to.")


@dataclass(frozen=True, kw_only=True)
class TunnelOptions:
    """Settings that every kind of tunnel port has."""

    remote_ip: Annotated[
        End | None, Doc("Address of the far end; `flow`: each packet's flow says it, as `tun_dst` or `tun_ipv6_dst`.")
    ]
    local_ip: Annotated[
        End | None,
        Doc(
            "Address of this end, which packets must come to. Not given, the route tells it and packets may come to "
            "any of the host's; `flow`: each packet's flow may say it, as `tun_src` or `tun_ipv6_src`."
        ),
    ] = None
    key: Annotated[
        Key | None, Doc("Key (VNI) of packets in both directions; `flow`: `tun_id` has it, and any comes in.")
    ] = None
    in_key: Annotated[Key | None, Doc("Key that packets must come with, where it differs from `key`.")] = None
    out_key: Annotated[Key | None, Doc("Key that packets are sent with, where it differs from `key`.")] = None
    tos: Annotated[
        Byte | Inherit,
        Doc("TOS byte of outer packets, but for the congestion bits, which follow the inner ones; `inherit`: all do."),
    ] = 0
    ttl: Annotated[Byte | Inherit, Doc("Time to live of outer packets; `inherit`: the inner one's.")] = 64
    df_default: Annotated[bool, Doc("Whether outer IPv4 packets say that they must not be fragmented.")] = True
    csum: Annotated[
        bool, Doc("Whether outer packets have a checksum over all of them. Over IPv6, UDP always has one.")
    ] = False
    egress_pkt_mark: Annotated[
        int,
        Interval(ge=0, le=0xFFFFFFFF),
        Doc("Mark by which the host's routing policy sees outer packets, when it is asked for their route."),
    ] = 0

    def __post_init__(self) -> None:
        if self.remote_ip is None:
            raise ValueError("remote_ip is missing: must be an address or flow")


@dataclass(frozen=True, kw_only=True)
class GreOptions(TunnelOptions):
    """Settings of a GRE port (`gre`: Ethernet in GRE, RFC 2784 and 2890)."""

    key: Annotated[
        GreKey | None, Doc("Key in both directions; `flow`: `tun_id` has it, and any comes in; not given: none.")
    ] = None
    in_key: Annotated[GreKey | None, Doc("Key that packets must come with, where it differs from `key`.")] = None
    out_key: Annotated[GreKey | None, Doc("Key that packets are sent with, where it differs from `key`.")] = None


@dataclass(frozen=True, kw_only=True)
class GeneveOptions(TunnelOptions):
    """Settings of a Geneve port (RFC 8926)."""

    dst_port: Annotated[int, Interval(ge=1, le=65535), _DST_PORT] = 6081


@dataclass(frozen=True, kw_only=True)
class VxlanOptions(TunnelOptions):
    """Settings of a VXLAN port (RFC 7348)."""

    remote_ip: Annotated[
        End | None,
        Doc(
            "Address of the far end; `flow`: each packet's flow says it, as `tun_dst` or `tun_ipv6_dst`. Not given "
            "with `vnis`."
        ),
    ] = None
    dst_port: Annotated[int, Interval(ge=1, le=65535), _DST_PORT] = 4789
    exts: Annotated[
        tuple[Literal["gbp", "gpe"], ...],
        Doc(
            "Extensions: `gbp`, group policy, as `tun_gbp_id` and `tun_gbp_flags`; `gpe`, the generic protocol header."
        ),
    ] = ()
    vnis: Annotated[
        tuple[Annotated[str, Predicate(is_mapping)], ...],
        Doc(
            "An overlay without a controller: the VLANs that the tunnel carries, and the VNI of each: `10=5010`, or "
            "`10-19=5010` for VLANs 10 to 19 and VNIs from 5010 on; VLAN 0 is that of untagged frames. Far ends are "
            "learned with the MAC addresses behind them."
        ),
    ] = ()
    remotes: Annotated[
        tuple[Annotated[str, Predicate(is_far_end)], ...],
        Doc(
            "With `vnis`: where frames go that are flooded, one copy to each: `10.0.0.2` for all VNIs, `5010@10.0.0.2` "
            "for one. A multicast address is a group, which the host joins. Where `remote_ip` is `flow`: far ends that "
            "are resolved ahead, so that no packet waits."
        ),
    ] = ()

    def __post_init__(self) -> None:
        if not self.vnis:
            super().__post_init__()
        if self.vnis and (self.remote_ip is not None or self.key is not None):
            raise ValueError("vnis is wrong: not together with remote_ip or key, which it stands for")
        if self.remotes and not self.vnis and self.remote_ip != "flow":
            raise ValueError("remotes is wrong: only with vnis, or where remote_ip is flow")
        if not self.vnis and any("@" in text for text in self.remotes):
            raise ValueError("remotes is wrong: VNI@ADDRESS only with vnis")
        pairs = [pair for text in self.vnis for pair in mapped(text).items()]
        for what, numbers in (("VLAN", [vlan for vlan, _ in pairs]), ("VNI", [vni for _, vni in pairs])):
            twice = [number for number, times in Counter(numbers).items() if times > 1]
            if twice:
                raise ValueError(f"vnis is wrong: {what} {twice[0]} is there twice")

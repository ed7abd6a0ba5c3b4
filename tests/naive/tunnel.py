"""Tunnels the obvious way: one packet at a time, from the standards' pictures."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from tests.naive.packet_checksum import checksum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
ETHERNET = 14


@dataclass(frozen=True)
class Link:
    """Who sends outer packets to whom."""

    source_mac: bytes
    destination_mac: bytes
    source: IpAddress
    destination: IpAddress


@dataclass(frozen=True)
class Form:
    """How packets of a tunnel look."""

    kind: str = "vxlan"
    port: int = 4789
    key: int | None = 0
    tos: int = 0
    ttl: int = 64
    dont_fragment: bool = True
    checksum: bool = False
    gpe: bool = False
    group: int = 0
    group_flags: int = 0
    oam: bool = False
    critical: bool = False
    options: bytes = b""
    sequence: int | None = None
    source_port: int = 50000


def pseudo(link: Link, protocol: int, size: int) -> bytes:
    if link.source.version == 4:
        return link.source.packed + link.destination.packed + struct.pack("!BBH", 0, protocol, size)
    return link.source.packed + link.destination.packed + struct.pack("!II", size, protocol)


def encapsulate(inner: bytes, link: Link, form: Form) -> bytes:
    """The outer frame."""
    key = form.key or 0
    if form.kind == "gre":
        flags = (0x8000 if form.checksum else 0) | (0x2000 if form.key is not None else 0)
        flags |= 0x1000 if form.sequence is not None else 0
        rest = struct.pack("!I", key) if form.key is not None else b""
        rest += struct.pack("!I", form.sequence) if form.sequence is not None else b""
        head = struct.pack("!HH", flags, 0x6558)
        if form.checksum:
            total = checksum(head + bytes(4) + rest + inner)
            head += struct.pack("!HH", total, 0)
        return _ip(head + rest + inner, link, form, 47)
    if form.kind == "vxlan":
        first = 0x08 | (0x04 if form.gpe else 0) | (0x80 if form.group or form.group_flags else 0)
        head = struct.pack("!BBHI", first, form.group_flags, 3 if form.gpe else form.group, key << 8)
    else:
        flags = (0x80 if form.oam else 0) | (0x40 if form.critical else 0)
        head = struct.pack("!BBHI", len(form.options) // 4, flags, 0x6558, key << 8) + form.options
    payload = head + inner
    udp = struct.pack("!HHHH", form.source_port, form.port, 8 + len(payload), 0) + payload
    if form.checksum or link.source.version == 6:
        total = checksum(pseudo(link, 17, len(udp)) + udp) or 0xFFFF
        udp = udp[:6] + total.to_bytes(2, "big") + udp[8:]
    return _ip(udp, link, form, 17)


def _ip(payload: bytes, link: Link, form: Form, protocol: int) -> bytes:
    if link.source.version == 4:
        flags = 0x4000 if form.dont_fragment else 0
        head = struct.pack("!BBHHHBBH", 0x45, form.tos, 20 + len(payload), 0, flags, form.ttl, protocol, 0)
        head += link.source.packed + link.destination.packed
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        return link.destination_mac + link.source_mac + b"\x08\x00" + head + payload
    head = struct.pack("!IHBB", 6 << 28 | form.tos << 20, len(payload), protocol, form.ttl)
    head += link.source.packed + link.destination.packed
    return link.destination_mac + link.source_mac + b"\x86\xdd" + head + payload


@dataclass(frozen=True)
class Tunnel:
    """A tunnel port, as far as arriving packets are told to be for it; None: any."""

    name: str
    kind: str
    port: int
    key: int | None
    remote: IpAddress | None = None
    local: IpAddress | None = None
    group_policy: bool = False


@dataclass(frozen=True)
class Arrived:
    """What becomes of a packet to this host: ``host``, a drop reason, or the tunnel's name and the frame in it."""

    what: str
    inner: bytes = b""


def arrive(frame: bytes, tunnels: list[Tunnel], addresses: set[IpAddress]) -> Arrived:
    """What becomes of an outer frame whose Ethernet header is whole and which came to the host's MAC address."""
    ip = frame[ETHERNET:]
    if frame[12:14] == b"\x08\x00" and len(ip) >= 20 and ip[0] >> 4 == 4:
        header, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
        if header < 20 or header > len(ip) or total < header or ip[6] & 0x3F or ip[7]:
            return Arrived("host")
        source, destination = (ipaddress.ip_address(ip[at : at + 4]) for at in (12, 16))
        protocol, congested = ip[9], ip[1] & 3 == 3
    elif frame[12:14] == b"\x86\xdd" and len(ip) >= 40 and ip[0] >> 4 == 6:
        header, total = 40, 40 + int.from_bytes(ip[4:6], "big")
        source, destination = (ipaddress.ip_address(ip[at : at + 16]) for at in (8, 24))
        protocol, congested = ip[6], ip[1] >> 4 & 3 == 3
    else:
        return Arrived("host")
    if destination not in addresses or protocol not in (17, 47):
        return Arrived("host")
    link = Link(b"", b"", source, destination)
    upper = ip[header:]
    if protocol == 17:
        if len(upper) < 8:
            return Arrived("host")
        port = int.from_bytes(upper[2:4], "big")
        kinds = {tunnel.kind for tunnel in tunnels if tunnel.kind != "gre" and tunnel.port == port}
    else:
        port, kinds = 0, {tunnel.kind for tunnel in tunnels if tunnel.kind == "gre"}
    if not kinds:
        return Arrived("host")
    (kind,) = kinds
    if total > len(ip):
        return Arrived("tunnel_header")
    upper = ip[header:total]
    if protocol == 17:
        length = int.from_bytes(upper[4:6], "big") if len(upper) >= 8 else 0
        if not 8 <= length <= len(upper):
            return Arrived("tunnel_header")
        upper = upper[:length]
    read = _gre(upper) if kind == "gre" else _vxlan(upper[8:]) if kind == "vxlan" else _geneve(upper[8:])
    if read is None:
        return Arrived("tunnel_header")
    key, inner, refused = read  # by a port without group policy, or with options that nobody knows
    if protocol == 17 and upper[6:8] != b"\0\0" and checksum(pseudo(link, 17, len(upper)) + upper) != 0:
        return Arrived("tunnel_checksum")
    if protocol == 47 and upper[0] & 0x80 and checksum(upper) != 0:
        return Arrived("tunnel_checksum")
    for by_key, by_remote, by_local in (
        (1, 1, 1),
        (1, 1, 0),
        (1, 0, 1),
        (1, 0, 0),
        (0, 1, 1),
        (0, 1, 0),
        (0, 0, 1),
        (0, 0, 0),
    ):
        for tunnel in tunnels:
            names = (tunnel.key is not None, tunnel.remote is not None, tunnel.local is not None)
            if names != (bool(by_key), bool(by_remote), bool(by_local)) or (tunnel.kind, tunnel.port) != (kind, port):
                continue
            wanted = (tunnel.key in (None, key), tunnel.remote in (None, source), tunnel.local in (None, destination))
            if all(wanted):
                if refused and not tunnel.group_policy:
                    return Arrived("tunnel_header")
                return _congestion(tunnel.name, inner) if congested else Arrived(tunnel.name, inner)
    return Arrived("tunnel_unknown")


def _vxlan(data: bytes) -> tuple[int, bytes, bool] | None:
    if len(data) < 8 or data[7]:
        return None
    key, inner = int.from_bytes(data[4:7], "big"), data[8:]
    if data[:4] == b"\x08\0\0\0" or data[:4] == b"\x0c\0\0\x03":
        return key, inner, False
    if data[0] == 0x88 and not data[1] & ~0x48:
        return key, inner, True
    return None


def _geneve(data: bytes) -> tuple[int, bytes, bool] | None:
    if len(data) < 8 or data[0] >> 6 or data[2:4] != b"\x65\x58" or data[7]:
        return None
    end = 8 + (data[0] & 63) * 4
    if end > len(data):
        return None
    return int.from_bytes(data[4:7], "big"), data[end:], not are_right(data[8:end])


def are_right(options: bytes) -> bool:
    """Whether options of Geneve are whole, and none of them is critical: nobody knows them here."""
    while options:
        if len(options) < 4:
            return False
        size = (options[3] & 31) * 4
        if size > len(options) - 4 or options[2] & 0x80:
            return False
        options = options[4 + size :]
    return True


def _gre(data: bytes) -> tuple[int, bytes, bool] | None:
    if len(data) < 4 or data[0] & ~0xB0 or data[1] or data[2:4] != b"\x65\x58":
        return None
    at, key = 4 + (4 if data[0] & 0x80 else 0), 0
    if data[0] & 0x20:
        key = int.from_bytes(data[at : at + 4], "big")
        at += 4
    at += 4 if data[0] & 0x10 else 0
    return (key, data[at:], False) if at <= len(data) else None


def _congestion(name: str, inner: bytes) -> Arrived:
    """RFC 6040 section 4.2: what was congested on the way is marked, or dropped when it cannot be."""
    at = ETHERNET
    while inner[at - 2 : at] in (b"\x81\x00", b"\x88\xa8", b"\x91\x00") and len(inner) >= at + 4:
        at += 4
    ip = inner[at:]
    if inner[at - 2 : at] == b"\x08\x00" and len(ip) >= 20 and ip[0] >> 4 == 4:
        if not ip[1] & 3:
            return Arrived("tunnel_congested")
        old, new = int.from_bytes(ip[:2], "big"), int.from_bytes(ip[:2], "big") | 3
        # RFC 1624, so that a wrong checksum stays wrong by as much.
        total = (~int.from_bytes(ip[10:12], "big") & 0xFFFF) + (~old & 0xFFFF) + new
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        ip = new.to_bytes(2, "big") + ip[2:10] + (~total & 0xFFFF).to_bytes(2, "big") + ip[12:]
        return Arrived(name, inner[:at] + ip)
    if inner[at - 2 : at] == b"\x86\xdd" and len(ip) >= 40 and ip[0] >> 4 == 6:
        if not ip[1] >> 4 & 3:
            return Arrived("tunnel_congested")
        return Arrived(name, inner[:at] + ip[:1] + bytes([ip[1] | 0x30]) + ip[2:])
    return Arrived("tunnel_congested")

"""The frames that are sent into every port of a switch that a script has set up, each with a name that it carries.

Ports are "p1" to "p4" and "local", the bridge's own; MAC and IP addresses end in the port's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from scapy.compat import raw
from scapy.contrib.geneve import GENEVE
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

STATIONS = ("p1", "p2", "p3", "p4")
LOCAL = "local"
PORTS = (*STATIONS, LOCAL)
MARKER_TYPE = 0x88B6  # for local experiments (IEEE 802)
MARKER = re.compile(rb"\xff{6}.{6}" + MARKER_TYPE.to_bytes(2, "big") + rb"(\d+)\0", re.DOTALL)
IPV4, UDP_PROTOCOL = b"\x08\x00", 17
TUNNEL_PORTS = {port.to_bytes(2, "big") for port in (4789, 6081)}
# For scripts with a tunnel whose far end is behind p4: addresses of the bridge that its packets leave by and of the
# far end, and the tunnel's key.
NEAR_MAC, FAR_MAC = "06:00:00:00:00:aa", "06:00:00:00:00:bb"
NEAR, FAR, KEY = "10.1.0.1", "10.1.0.2", 7


def mac(port: str) -> str:
    return f"02:00:00:00:00:0{PORTS.index(port) + 1}"


@cache
def frames(port: str) -> dict[str, bytes]:
    """By name: the frames that a host at this port sends."""
    return {name: _finished(packet, token(port, name)) for name, packet in _packets(port)}


def token(port: str, name: str) -> bytes:
    """What a frame carries, wherever it comes out."""
    return f"<{port} {name}>".encode()


def token_of(frame: bytes) -> tuple[str, str] | None:
    """Port and name of the frame that this one was."""
    begin, end = frame.find(b"<p"), frame.rfind(b">")
    if begin < 0:
        begin = frame.find(f"<{LOCAL}".encode())
    if begin < 0 or end < begin:
        return None
    port, _, name = frame[begin + 1 : end].decode(errors="replace").partition(" ")
    return port, name


def marker(port: str, number: int) -> bytes:
    """A frame that is sent after others, to see when they are through."""
    packet = Ether(src=mac(port), dst="ff:ff:ff:ff:ff:ff", type=MARKER_TYPE) / Raw(b"%d" % number)
    return bytes(raw(packet).ljust(60, b"\0"))


def marker_of(frame: bytes) -> int | None:
    """The number of a marker, also of one that a tunnel carries."""
    found = MARKER.search(frame)
    return int(found.group(1)) if found else None


def as_compared(frame: bytes) -> bytes:
    """A frame without what a tunnel's sender is free to choose: the UDP source port (RFC 7348, 5)."""
    if frame[12:14] == IPV4 and frame[23] == UDP_PROTOCOL and frame[36:38] in TUNNEL_PORTS:
        return frame[:34] + bytes(2) + frame[36:]
    return frame


def _finished(packet: Packet, text: bytes) -> bytes:
    """The packet with its text, lengths and checksums."""
    return bytes(raw(packet / Raw(text)).ljust(60, b"\0"))


def _packets(port: str) -> Iterator[tuple[str, Packet]]:
    """Names say what is special of a packet: else it is UDP over IPv4, untagged, to the next port's host."""
    here = PORTS.index(port) + 1
    peer = here % len(STATIONS) + 1
    ip, ip6 = _ip(here, peer), IPv6(src=f"fd00::{here}", dst=f"fd00::{peer}")
    udp = UDP(sport=1000 + here, dport=53)

    def ether(destination: int | str = peer, **fields: Any) -> Ether:
        address = destination if isinstance(destination, str) else f"02:00:00:00:00:0{destination}"
        return Ether(src=mac(port), dst=address, **fields)

    everyone = "ff:ff:ff:ff:ff:ff"
    ask = ARP(op=1, hwsrc=mac(port), psrc=f"10.0.0.{here}", hwdst="00:00:00:00:00:00", pdst=f"10.0.0.{peer}")
    for other in range(1, len(STATIONS) + 1):
        yield f"udp to p{other}", ether(other) / _ip(here, other) / udp
    yield "broadcast", ether(everyone) / IP(src=ip.src, dst="255.255.255.255") / UDP(sport=68, dport=67)
    yield "unknown", ether("02:00:00:00:00:99") / IP(src=ip.src, dst="10.0.0.99") / udp
    yield (
        "multicast",
        ether("01:00:5e:00:00:fb") / IP(src=ip.src, dst="224.0.0.251", ttl=1) / UDP(sport=5353, dport=5353),
    )
    yield "tcp syn", ether() / ip / TCP(sport=2000, dport=80, flags="S", seq=1)
    yield "tcp ack", ether() / ip / TCP(sport=80, dport=2000, flags="A", seq=2, ack=3)
    yield "tcp far", ether() / IP(src=ip.src, dst="192.168.7.9") / TCP(sport=2001, dport=443, flags="PA")
    yield "icmp echo", ether() / ip / ICMP(id=1, seq=2)
    yield "icmp unreachable", ether() / ip / ICMP(type=3, code=1) / _ip(peer, here) / udp
    yield "sctp", ether() / ip / SCTP(sport=3000, dport=3001)
    yield "gre", ether() / IP(src=ip.src, dst=ip.dst, proto=47)
    yield "ttl 1", ether() / IP(src=ip.src, dst=ip.dst, ttl=1) / udp
    yield "dscp 46", ether() / IP(src=ip.src, dst=ip.dst, tos=46 << 2 | 1) / udp
    yield "udp no checksum", ether() / ip / UDP(sport=1, dport=2, chksum=0)
    yield "ip options", ether() / IP(src=ip.src, dst=ip.dst, options=[IPOption_Router_Alert()]) / udp
    yield "first fragment", ether() / IP(src=ip.src, dst=ip.dst, flags="MF", id=7) / udp
    # Open vSwitch changes what would be the UDP checksum, were this no later fragment; the text is behind it.
    yield "later fragment", ether() / IP(src=ip.src, dst=ip.dst, frag=8, id=7, proto=17) / Raw(bytes(8))
    yield "arp request", ether(everyone) / ask
    yield "arp reply", ether() / ARP(op=2, hwsrc=mac(port), psrc=ip.src, hwdst=mac(f"p{peer}"), pdst=ip.dst)
    yield "vlan 10", ether() / Dot1Q(vlan=10) / ip / udp
    yield "vlan 10 broadcast", ether(everyone) / Dot1Q(vlan=10) / IP(src=ip.src, dst="255.255.255.255") / udp
    yield "vlan 10 arp", ether(everyone) / Dot1Q(vlan=10) / ask
    yield "vlan 10 priority 5", ether() / Dot1Q(vlan=10, prio=5) / ip / TCP(sport=2000, dport=80, flags="S")
    yield "vlan 20", ether() / Dot1Q(vlan=20) / ip / udp
    yield "vlan 20 ipv6", ether() / Dot1Q(vlan=20) / ip6 / udp
    yield "vlan 30 broadcast", ether(everyone) / Dot1Q(vlan=30) / ask
    yield "priority tag", ether(everyone) / Dot1Q(vlan=0, prio=3) / ask
    yield "qinq 10 20", ether() / Dot1Q(vlan=10) / Dot1Q(vlan=20) / ip / udp
    yield "qinq 88a8 10 20", ether(type=0x88A8) / Dot1AD(vlan=10) / Dot1Q(vlan=20) / ip / udp
    yield "ipv6 udp", ether() / ip6 / udp
    yield "ipv6 tcp", ether() / ip6 / TCP(sport=2000, dport=80, flags="S")
    yield "ipv6 hop limit 1", ether() / IPv6(src=ip6.src, dst=ip6.dst, hlim=1, tc=46 << 2) / udp
    yield "ipv6 echo", ether() / ip6 / ICMPv6EchoRequest(id=1, seq=2)
    yield "ipv6 hop by hop", ether() / ip6 / IPv6ExtHdrHopByHop() / udp
    yield "ipv6 fragment", ether() / ip6 / IPv6ExtHdrFragment(id=9, offset=4, nh=17)
    solicit = ICMPv6ND_NS(tgt=f"fd00::{peer}") / ICMPv6NDOptSrcLLAddr(lladdr=mac(port))
    yield "neighbour solicitation", ether(f"33:33:ff:00:00:0{peer}") / IPv6(src=ip6.src, dst="ff02::1:ff00:2") / solicit
    inner = ether("02:00:00:00:00:99") / ip / udp
    outer = Ether(src=FAR_MAC if port == "p4" else f"06:00:00:00:01:0{here}", dst=NEAR_MAC) / IP(
        src=FAR, dst=NEAR, id=0, flags="DF"
    )
    yield "from gre", outer / GRE(proto=0x6558, key_present=1, key=KEY) / inner
    yield "from gre without key", outer / GRE(proto=0x6558) / inner
    yield "from vxlan", outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=KEY, flags=8) / inner
    yield "from vxlan of another key", outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=8, flags=8) / inner
    yield "from geneve", outer / UDP(sport=50000, dport=6081, chksum=0) / GENEVE(vni=KEY) / inner
    yield "mpls", ether(type=0x8847) / MPLS(label=100, s=1, ttl=64) / ip / udp
    yield "mpls 2", ether(type=0x8847) / MPLS(label=100, s=0, ttl=9) / MPLS(label=200, s=1, ttl=8) / ip / udp
    yield "lldp", ether("01:80:c2:00:00:0e", type=0x88CC)
    yield "bpdu", ether("01:80:c2:00:00:00", type=60) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP()
    yield "experiment", ether(type=0x88B5)


def _ip(source: int, destination: int) -> IP:
    return IP(src=f"10.0.0.{source}", dst=f"10.0.0.{destination}")

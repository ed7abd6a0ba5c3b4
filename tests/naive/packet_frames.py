"""Frames for Hypothesis: valid ones of every kind the parser knows (made by scapy), and damaged ones."""

from __future__ import annotations

from hypothesis import strategies as st
from scapy.all import (
    AH,
    ARP,
    IP,
    LLC,
    SCTP,
    SNAP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPOption,
    IPOption_RR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    Packet,
    PadN,
    Raw,
    SCTPChunkData,
)
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP

macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
ipv4s = st.binary(min_size=4, max_size=4).map(lambda raw: ".".join(map(str, raw)))
ipv6s = st.binary(min_size=16, max_size=16).map(lambda raw: ":".join(raw.hex()[at : at + 4] for at in range(0, 32, 4)))
ports = st.integers(0, 0xFFFF)
payloads = st.binary(max_size=80)
bytes8 = st.integers(0, 255)
numbers32 = st.integers(0, 2**32 - 1)
room_for_tags = st.integers(0, 3)
ROUTER_ALERT = IPOption(b"\x94\x04\x00\x00")


@st.composite
def transports(draw: st.DrawFn, kinds: tuple[str, ...] = ("tcp", "udp", "sctp")) -> Packet:
    """A transport header with some payload."""
    kind = draw(st.sampled_from(kinds))
    src, dst, payload = draw(ports), draw(ports), draw(payloads)
    if kind == "tcp":
        options = draw(st.sampled_from([[], [("MSS", 1460)], [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]]))
        flags = draw(st.integers(0, 0x1FF))
        header = TCP(sport=src, dport=dst, flags=flags, options=options, seq=draw(numbers32))
        return header / Raw(payload)
    if kind == "udp":
        return UDP(sport=src, dport=dst) / Raw(payload)
    return SCTP(sport=src, dport=dst, tag=draw(numbers32)) / SCTPChunkData(data=payload)


@st.composite
def ipv4_packets(draw: st.DrawFn) -> Packet:
    """IPv4, maybe with options, maybe a fragment."""
    options = draw(st.sampled_from([[], [ROUTER_ALERT], [IPOption_RR(routers=["0.0.0.0"]), ROUTER_ALERT]]))
    header = IP(
        src=draw(ipv4s), dst=draw(ipv4s), tos=draw(bytes8), ttl=draw(bytes8), id=draw(ports), options=options,
        flags=draw(st.sampled_from(["", "DF", "MF"])), frag=draw(st.sampled_from([0, 0, 0, 1, 185, 8191])),
    )  # fmt: skip
    icmps = st.builds(lambda kind, code: ICMP(type=kind, code=code), bytes8, bytes8)
    return header / draw(st.one_of(transports(), icmps, st.builds(Raw, payloads)))


@st.composite
def extensions(draw: st.DrawFn) -> list[Packet]:
    """Extension headers, in any order."""
    pad = PadN(optdata=bytes(draw(st.integers(0, 20))))
    choices = st.sampled_from(
        [
            IPv6ExtHdrHopByHop(options=[pad]),
            IPv6ExtHdrDestOpt(options=[pad]),
            IPv6ExtHdrRouting(addresses=["2001:db8::1", "2001:db8::2"], segleft=draw(st.integers(0, 2))),
            IPv6ExtHdrSegmentRouting(addresses=["2001:db8::3", "2001:db8::4"], segleft=draw(st.integers(0, 1))),
            IPv6ExtHdrFragment(m=draw(st.integers(0, 1)), offset=draw(st.sampled_from([0, 0, 0, 1, 8191])), id=5),
            AH(spi=1, seq=2, icv=bytes(12)),
        ]
    )
    return draw(st.lists(choices, max_size=draw(st.sampled_from([0, 0, 1, 3, 10]))))


@st.composite
def neighbours(draw: st.DrawFn) -> Packet:
    """A neighbour solicitation or advertisement."""
    message = draw(st.sampled_from([ICMPv6ND_NS, ICMPv6ND_NA]))(tgt=draw(ipv6s))
    source, target = ICMPv6NDOptSrcLLAddr(lladdr=draw(macs)), ICMPv6NDOptDstLLAddr(lladdr=draw(macs))
    for option in draw(st.lists(st.sampled_from([source, target, ICMPv6NDOptMTU(mtu=1500)]), max_size=4)):
        message /= option
    return message


@st.composite
def ipv6_packets(draw: st.DrawFn) -> Packet:
    """IPv6, maybe with extension headers."""
    packet = IPv6(
        src=draw(ipv6s), dst=draw(ipv6s), tc=draw(bytes8), fl=draw(st.integers(0, 0xFFFFF)), hlim=draw(bytes8)
    )  # fmt: skip
    for extension in draw(extensions()):
        packet /= extension
    echos = st.builds(ICMPv6EchoRequest, id=ports)
    return packet / draw(st.one_of(transports(), neighbours(), echos, st.builds(Raw, payloads)))


@st.composite
def ethernet(draw: st.DrawFn, tags: st.SearchStrategy[int] = room_for_tags) -> Packet:
    """An Ethernet header with that many VLAN tags."""
    frame = Ether(src=draw(macs), dst=draw(macs))
    for _ in range(draw(tags)):
        frame /= draw(st.sampled_from([Dot1Q, Dot1AD]))(vlan=draw(st.integers(0, 4095)), prio=draw(st.integers(0, 7)))
    return frame


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A whole frame of some kind, as bytes."""
    arp = st.builds(ARP, op=ports, hwsrc=macs, psrc=ipv4s, hwdst=macs, pdst=ipv4s)
    label = st.builds(MPLS, label=st.integers(0, 2**20 - 1), cos=st.integers(0, 7), ttl=bytes8, s=st.integers(0, 1))
    stack = st.lists(label, min_size=1, max_size=18)
    others = st.one_of(arp, st.builds(Raw, payloads), stack)
    above = draw(st.one_of(ipv4_packets(), ipv6_packets(), ipv4_packets(), ipv6_packets(), others))
    if isinstance(above, list):
        below = draw(ethernet())
        below.lastlayer().type = draw(st.sampled_from([0x8847, 0x8848]))
        return bytes(below) + b"".join(bytes(label) for label in above) + draw(payloads)
    if draw(st.sampled_from([False] * 9 + [True])):
        return bytes(Dot3(src=draw(macs), dst=draw(macs)) / LLC() / SNAP() / above)
    return bytes(draw(ethernet()) / above)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame with some bytes changed, maybe cut off, maybe followed by padding."""
    frame = bytearray(draw(frames()))
    for _ in range(draw(st.integers(0, 4))):
        frame[draw(st.integers(0, min(len(frame), 90) - 1))] = draw(bytes8)
    cut = draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))
    return bytes(frame[:cut]) + bytes(draw(st.integers(0, 6)))

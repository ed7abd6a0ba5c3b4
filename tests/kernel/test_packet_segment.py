"""Segmentation against its naive twin; scapy agrees on every checksum, and re-assembly gives the payload back."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import packet_segment as naive
from naive.packet import parse, walk_ipv6
from naive.packet_edit import repair
from naive.packet_frames import ROUTER_ALERT, numbers32
from naive.packet_memory import Memory
from scapy.all import (
    IP,
    TCP,
    UDP,
    Dot1AD,
    Dot1Q,
    Ether,
    IPOption_RR,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Packet,
    Raw,
    defragment,
    defragment6,
)

from penstock.machine import records
from penstock.packet import segment as kernels

DEADLINE = settings(deadline=None, max_examples=150)
LINKS = [
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"),
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=5),
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1AD(vlan=5) / Dot1Q(vlan=6),
]
NETWORKS = [
    IP(src="10.0.0.1", dst="10.0.0.2", id=65534),
    IP(src="10.0.0.1", dst="10.0.0.2", flags="DF", options=[ROUTER_ALERT, IPOption_RR(routers=["0.0.0.0"])]),
    IPv6(src="2001:db8::1", dst="2001:db8::2"),
    IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
    IPv6(src="2001:db8::1", dst="2001:db8::2")
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrRouting(addresses=["2001:db8::7"], segleft=1)
    / IPv6ExtHdrDestOpt(),
]


@dataclass
class Large:
    """A frame to segment, and how: in two parts of which the first has ``head_len`` bytes."""

    frame: bytes
    l3: int
    l4: int
    kind: int
    size: int
    head_len: int
    ident: int = 7

    def segments(self) -> list[bytes] | None:
        """What the kernels make of it: the frames, or None when they refuse."""
        head, tail = Memory(self.frame[: self.head_len], align=2), Memory(self.frame[self.head_len :])
        room = Memory(bytes(kernels.SEGMENTATION.itemsize))
        ctx = room.address
        request = records(kernels.SEGMENTATION, ctx)[0]
        request["head"], request["head_len"] = head.address, head.size
        request["tail"], request["tail_len"] = tail.address, tail.size
        request["l3"], request["l4"] = self.l3, self.l4
        request["gso_type"], request["gso_size"], request["ident"] = self.kind, self.size, self.ident
        count = kernels.segment_count(ctx)
        assert count == request["count"]
        result = []
        for number in reversed(range(count)):
            buffer = Memory(b"", size=int(request["room"]))
            filled = kernels.segment_header(ctx, number, buffer.address)
            assert filled == request["header_end"]
            assert buffer.untouched()
            part, at, size = (
                (head, int(request["slice"]) - head.address, int(request["slice_len"]))
                if head.address <= request["slice"] <= head.address + head.size and request["slice"] != tail.address
                else (tail, int(request["slice"]) - tail.address, int(request["slice_len"]))
            )
            assert size >= 0
            assert 0 <= at <= at + size <= part.size
            result.append(buffer.read(filled) + part.read(size, at))
        assert head.read() + tail.read() == self.frame
        assert room.untouched()
        return result[::-1] if count else None


@st.composite
def large_frames(draw: st.DrawFn, kinds: tuple[int, ...] = (1, 3, 4, 5)) -> Large:
    """A well-formed large frame whose checksum is partial or full, cut anywhere behind its headers."""
    kind = draw(st.sampled_from(kinds))
    six = {1: (0, 1), 4: (2, 3, 4)}.get(kind, (0, 1, 2, 3, 4))
    network = draw(st.sampled_from(six))
    payload = draw(st.binary(max_size=40)) * draw(st.integers(1, 90))
    if kind in (1, 4):
        options = draw(st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]]))
        transport = TCP(sport=1, dport=2, seq=draw(numbers32), flags=draw(st.integers(0, 0xFF)), options=options)
    else:
        transport = UDP(sport=1, dport=2)
    packet: Packet = (
        copy.deepcopy(draw(st.sampled_from(LINKS))) / copy.deepcopy(NETWORKS[network]) / transport / Raw(payload)
    )
    frame = bytes(packet)
    expected = parse(frame)
    l3, l4 = expected.l3, expected.l4
    if draw(st.booleans()):
        frame = frame[:l3] + repair(frame[l3:], partial=True)
    needed = l4 + (len(bytes(transport)) if kind in (1, 4) else 8)
    head_len = draw(st.one_of(st.integers(needed, len(frame)), st.just(needed), st.just(len(frame))))
    size = draw(st.integers(24 if kind == 3 else 1, 400))
    return Large(frame, l3, l4, kind, max(size, len(payload) // 60), head_len)


@settings(max_examples=400)
@given(large_frames())
def test_segments(large: Large) -> None:
    expected = naive.segment(large.frame, large.l3, large.l4, large.kind, large.size, large.ident)
    result = large.segments()
    assert result is not None
    assert [each.hex() for each in result] == [each.hex() for each in expected]


def remade(frame: bytes) -> bytes:
    """The frame with every checksum computed by scapy."""
    packet = Ether(frame)
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    return bytes(packet)


@DEADLINE
@given(large_frames(kinds=(1, 4)))
def test_tcp_segments_are_right_by_scapy(large: Large) -> None:
    original = Ether(large.frame)[TCP]
    segments = large.segments() or []
    payload = b""
    for number, frame in enumerate(segments):
        assert remade(frame) == frame
        tcp = Ether(frame)[TCP]
        assert tcp.seq == (original.seq + len(payload)) % 2**32
        first, last = number == 0, number == len(segments) - 1
        kept = (0x80 if first else 0) | (0x09 if last else 0)
        assert int(tcp.flags) == int(original.flags) & (0xFF & ~0x89 | kept)
        payload += bytes(tcp.payload)
    assert payload == bytes(original.payload)


@DEADLINE
@given(large_frames(kinds=(5,)))
def test_udp_segments_are_right_by_scapy(large: Large) -> None:
    segments = large.segments() or []
    for frame in segments:
        assert remade(frame) == frame
        assert Ether(frame)[UDP].len == 8 + len(Ether(frame)[UDP].payload)
    assert b"".join(bytes(Ether(frame)[UDP].payload) for frame in segments) == bytes(Ether(large.frame)[UDP].payload)


@DEADLINE
@given(large_frames(kinds=(3,)))
def test_fragments_reassemble_by_scapy(large: Large) -> None:
    segments = large.segments() or []
    packets = [Ether(frame) for frame in segments]
    six = IPv6 in packets[0]
    if len(packets) == 1:
        whole = packets[0]
    else:
        assert all((IPv6ExtHdrFragment if six else IP) in packet for packet in packets)
        whole = IPv6(bytes(defragment6([packet[IPv6] for packet in packets]))) if six else defragment(packets)[0]
    assert bytes(whole[UDP].payload) == bytes(Ether(large.frame)[UDP].payload)
    if not six:
        for frame in segments:
            packet = Ether(frame)
            del packet[IP].chksum
            assert bytes(packet) == frame
    wire = bytes(whole[IPv6 if six else IP])
    walk_or_header = walk_ipv6(wire).offset if six else (wire[0] & 15) * 4
    udp = wire[walk_or_header:]
    expected = large.frame[: large.l3] + repair(naive.with_lengths(large.frame[large.l3 :]), partial=False)
    assert udp == expected[large.l4 :]


def large_tcp(**changes: int) -> Large:
    frame = bytes(LINKS[0] / NETWORKS[0] / TCP() / bytes(3000))
    values = {"l3": 14, "l4": 34, "kind": 1, "size": 1000, "head_len": 128} | changes
    return Large(frame, **values)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0}, {"size": -5}, {"size": 65500}, {"kind": 0}, {"kind": 2}, {"kind": 4}, {"kind": 5}, {"kind": 3},
        {"l3": 13}, {"l3": 0}, {"l4": 33}, {"l4": 38}, {"l4": 0}, {"l4": 14}, {"head_len": 53}, {"head_len": 20},
    ],
    ids=str,
)  # fmt: skip
def test_requests_that_do_not_fit_the_frame_are_refused(changes: dict[str, int]) -> None:
    assert large_tcp().segments() is not None
    assert large_tcp(**changes).segments() is None


@pytest.mark.parametrize(
    "packet",
    [
        IP(flags="MF") / UDP() / bytes(100),
        IP(frag=5) / UDP() / bytes(100),
        IPv6() / IPv6ExtHdrFragment(m=1) / UDP() / bytes(100),
        IP() / TCP(dataofs=4) / bytes(100),
        IP(proto=17) / TCP() / bytes(100),
    ],
    ids=lambda packet: packet.summary(),
)
def test_frames_that_cannot_be_segmented_are_refused(packet: Packet) -> None:
    frame = bytes(LINKS[0] / packet)
    l4 = 34 if IP in packet else 14 + 48
    kinds = (1,) if TCP in packet else (3, 5)
    for kind in kinds:
        assert Large(frame, 14, l4, kind, 64, len(frame)).segments() is None


def test_udp_over_ipv4_without_checksum_stays_without() -> None:
    frame = bytes(LINKS[0] / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(chksum=0) / bytes(300))
    for kind in (3, 5):
        segments = Large(frame, 14, 34, kind, 104, 60).segments() or []
        assert len(segments) == 3
        assert Ether(segments[0])[UDP].chksum == 0


def test_64_kilobytes() -> None:
    frame = bytes(LINKS[0] / NETWORKS[0] / TCP(flags="PA") / (bytes(range(256)) * 255))
    large = Large(frame, 14, 34, 1, 1448, 256)
    segments = large.segments() or []
    assert len(segments) == -(-(len(frame) - 54) // 1448)
    assert all(remade(each) == each for each in segments)
    assert b"".join(each[54:] for each in segments) == frame[54:]

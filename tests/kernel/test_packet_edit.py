"""Header edits against slow twins that compute every checksum afresh; the packets and their checksums are scapy's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive import packet_edit as naive
from naive.packet_frames import (
    ROUTER_ALERT,
    bytes8,
    ethernet,
    ipv4s,
    ipv6s,
    numbers32,
    payloads,
    ports,
    transports,
)
from naive.packet_memory import Memory, word
from scapy.all import (
    IP,
    LLC,
    SCTP,
    SNAP,
    UDP,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    IPv6ExtHdrSegmentRouting,
    Packet,
)

from penstock.packet import edit, edit_ip

DEADLINE = settings(deadline=None, max_examples=150)
EXTENSIONS = [
    [],
    [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()],
    [IPv6ExtHdrRouting(addresses=["2001:db8::1", "2001:db8::2"], segleft=1)],
    [IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0)],
    [IPv6ExtHdrSegmentRouting(addresses=["2001:db8::3", "2001:db8::4"], segleft=1)],
    [IPv6ExtHdrFragment(m=1, id=9)],
    [IPv6ExtHdrFragment(m=0, id=9)],
]


def raw16(value: int) -> int:
    return word(value.to_bytes(2, "big"))


def raw32(value: int) -> int:
    return word(value.to_bytes(4, "big"))


@st.composite
def ipv4_with_l4(draw: st.DrawFn) -> bytes:
    header = IP(
        src=draw(ipv4s), dst=draw(ipv4s), tos=draw(bytes8), ttl=draw(bytes8), flags=draw(st.sampled_from(["", "DF"]))
    )
    header.options = draw(st.sampled_from([[], [ROUTER_ALERT]]))
    return bytes(header / draw(transports()))


@st.composite
def ipv6_with_l4(draw: st.DrawFn) -> bytes:
    packet: Packet = IPv6(src=draw(ipv6s), dst=draw(ipv6s), tc=draw(bytes8), fl=draw(st.integers(0, 2**20 - 1)))
    packet.hlim = draw(bytes8)
    for extension in draw(st.sampled_from(EXTENSIONS)):
        packet /= extension
    return bytes(packet / draw(st.one_of(transports(), st.builds(ICMPv6EchoRequest, data=payloads))))


packets = st.one_of(ipv4_with_l4(), ipv6_with_l4())


def check(
    packet: bytes,
    change: Callable[[bytes], bytes],
    run: Callable[[int, int, int], int],
    *,
    partial: bool = False,
) -> None:
    """``run(l3, l4, proto)`` on the packet in memory must do what ``change`` and fresh checksums do to its bytes."""
    assert naive.repair(packet, partial=False) == packet, "scapy and the twin disagree on the packet's checksums"
    before = naive.repair(packet, partial)
    layers, memory = naive.Layers.of(packet), Memory(before)
    run(memory.address, memory.address + layers.l4, layers.proto)
    assert memory.read().hex() == naive.repair(change(before), partial).hex()
    assert memory.untouched()


def replaced(at: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda packet: packet[:at] + new + packet[at + len(new) :]


@DEADLINE
@given(ipv4_with_l4(), st.binary(min_size=4, max_size=4), st.booleans(), st.booleans())
def test_ipv4_addresses(packet: bytes, address: bytes, source: bool, partial: bool) -> None:
    setter, at = (edit_ip.set_ipv4_src, 12) if source else (edit_ip.set_ipv4_dst, 16)
    check(
        packet,
        replaced(at, address),
        lambda l3, l4, _proto: setter(l3, l4, word(address), int(partial)),
        partial=partial,
    )


@DEADLINE
@given(ipv6_with_l4(), st.binary(min_size=16, max_size=16), st.booleans(), st.booleans())
def test_ipv6_addresses(packet: bytes, address: bytes, source: bool, partial: bool) -> None:
    setter, at = (edit_ip.set_ipv6_src, 8) if source else (edit_ip.set_ipv6_dst, 24)
    halves = word(address[:8]), word(address[8:])
    check(
        packet,
        replaced(at, address),
        lambda l3, l4, proto: setter(l3, l4, proto, *halves, int(partial)),
        partial=partial,
    )


@given(st.binary(min_size=16, max_size=16))
def test_fold_words(data: bytes) -> None:
    expected = raw16(naive.ones_sum(data))
    assert edit_ip.fold_words(word(data[:8]), word(data[8:])) == expected


@DEADLINE
@given(ipv4_with_l4(), st.binary(min_size=4, max_size=4))
def test_address_without_layer_4(packet: bytes, address: bytes) -> None:
    """A later fragment: only the IP header changes."""
    memory = Memory(packet)
    edit_ip.set_ipv4_src(memory.address, 0, word(address), 0)
    header = (packet[0] & 15) * 4
    assert memory.read()[header:] == packet[header:]
    assert memory.read()[:header] == naive.repair(packet[:12] + address + packet[16:], partial=False)[:header]


@DEADLINE
@given(packets, bytes8, bytes8)
def test_tos(packet: bytes, tos: int, mask: int) -> None:
    wanted = naive.get_tos(packet) & ~mask & 255 | tos & mask
    check(packet, lambda old: naive.set_tos(old, wanted), lambda l3, _l4, _proto: edit_ip.set_tos(l3, tos, mask))


@DEADLINE
@given(packets, st.integers(0, 63), st.integers(0, 3))
def test_dscp_and_ecn(packet: bytes, dscp: int, ecn: int) -> None:
    old = naive.get_tos(packet)
    check(
        packet,
        lambda before: naive.set_tos(before, old & 3 | dscp << 2),
        lambda l3, _l4, _proto: edit_ip.set_dscp(l3, dscp),
    )
    check(packet, lambda before: naive.set_tos(before, old & 252 | ecn), lambda l3, _l4, _: edit_ip.set_ecn(l3, ecn))


@DEADLINE
@given(packets, bytes8)
def test_ttl(packet: bytes, ttl: int) -> None:
    at = naive.ttl_place(packet)
    check(packet, replaced(at, bytes([ttl])), lambda l3, _l4, _proto: edit_ip.set_ttl(l3, ttl))
    old = packet[at]
    results: list[int] = []
    after = bytes([old - 1 if old > 1 else old])
    check(packet, replaced(at, after), lambda l3, _l4, _proto: results.append(edit_ip.dec_ttl(l3)) or 0)
    assert results == [int(old > 1)]


@DEADLINE
@given(packets, st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4), st.booleans())
def test_ports(packet: bytes, new: bytes, mask: bytes, partial: bool) -> None:
    layers = naive.Layers.of(packet)
    assume(layers.proto in (6, 17, 132))
    at, results = layers.l4, []
    fragment = packet[0] >> 4 == 6 and packet[6] == 44 and packet[43] & 1
    after = naive.masked(packet[at : at + 4], new, mask)
    if layers.proto == 132 and fragment:
        after = packet[at : at + 4]
    check(
        packet,
        replaced(at, after),
        lambda l3, l4, proto: (
            results.append(edit_ip.set_ports(l3, l4, proto, word(new), word(mask), int(partial))) or 0
        ),
        partial=partial,
    )
    assert results == [int(not (layers.proto == 132 and fragment))]


@DEADLINE
@given(ipv4_with_l4(), ports, ports)
def test_one_port(packet: bytes, src: int, dst: int) -> None:
    at = naive.Layers.of(packet).l4

    def run(l3: int, l4: int, proto: int) -> int:
        assert edit_ip.set_l4_src(l3, l4, proto, raw16(src), 0) == 1
        return int(edit_ip.set_l4_dst(l3, l4, proto, raw16(dst), 0))

    check(packet, replaced(at, src.to_bytes(2, "big") + dst.to_bytes(2, "big")), run)


def test_ports_of_an_ipv4_sctp_fragment_stay() -> None:
    packet = bytes(IP(flags="MF") / SCTP(sport=1, dport=2) / b"data")
    memory = Memory(packet)
    assert edit_ip.set_ports(memory.address, memory.address + 20, 132, 0, 0xFFFFFFFF, 0) == 0
    assert memory.read() == packet
    assert edit_ip.sctp_size(memory.address, memory.address + 20) == 0


@DEADLINE
@given(packets)
def test_sctp_size(packet: bytes) -> None:
    layers = naive.Layers.of(packet)
    assume(not (packet[0] >> 4 == 6 and packet[6] == 44 and packet[43] & 1))
    memory = Memory(packet)
    assert edit_ip.sctp_size(memory.address, memory.address + layers.l4) == len(packet) - layers.l4


def test_checksum_place() -> None:
    places = {proto: edit_ip.checksum_place(1000, proto) for proto in (1, 2, 6, 17, 58, 132)}
    assert places == {1: 0, 2: 0, 6: 1016, 17: 1006, 58: 1002, 132: 0}
    assert edit_ip.checksum_place(0, 6) == 0


def test_udp_without_checksum_stays_without() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2, chksum=0) / b"data")
    check(
        packet, replaced(12, b"\x0a\1\2\3"), lambda l3, l4, _proto: edit_ip.set_ipv4_src(l3, l4, word(b"\x0a\1\2\3"), 0)
    )
    check(packet, replaced(20, b"\1\2"), lambda l3, l4, proto: edit_ip.set_l4_src(l3, l4, proto, word(b"\1\2"), 0))


def test_udp_checksum_that_becomes_zero_is_stored_as_ones() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=0, dport=2) / b"data")
    left = int.from_bytes(packet[26:28], "big")
    after: list[bytes] = []

    def run(l3: int, l4: int, proto: int) -> int:
        return int(edit_ip.set_l4_src(l3, l4, proto, raw16(left), 0))

    check(packet, lambda old: after.append(replaced(20, left.to_bytes(2, "big"))(old)) or after[0], run)
    assert naive.repair(after[0], partial=False)[26:28] == b"\xff\xff"


@DEADLINE
@given(packets, st.integers(1, 0xFFFE), st.binary(min_size=4, max_size=4))
def test_a_wrong_checksum_stays_wrong(packet: bytes, error: int, new: bytes) -> None:
    layers = naive.Layers.of(packet)
    assume(layers.proto in (6, 17, 132))
    assume(not (packet[0] >> 4 == 6 and packet[6] == 44 and packet[43] & 1))
    at = layers.l4 + naive.PLACES[layers.proto]
    wrong = ((int.from_bytes(packet[at : at + 2], "big") + error) % 0xFFFF or 0xFFFF).to_bytes(2, "big")
    memory = Memory(packet[:at] + wrong + packet[at + 2 :])
    edit_ip.set_ports(memory.address, memory.address + layers.l4, layers.proto, word(new), 0xFFFFFFFF, 0)
    after = memory.read()
    right = naive.repair(after, partial=False)
    assert after[at : at + 2] != right[at : at + 2]


@DEADLINE
@given(ethernet().map(bytes), st.sampled_from([0x8100, 0x88A8]), ports)
def test_push_and_pop_vlan(frame: bytes, tpid: int, tci: int) -> None:
    memory = Memory(frame)
    head = edit.push_vlan(memory.address, raw16(tpid), raw16(tci))
    assert head == memory.address - 4
    assert memory.read(offset=-4) == naive.push_vlan(frame, tpid, tci)
    assert memory.untouched(before=4)
    assert edit.pop_vlan(head) == memory.address
    assert memory.read() == frame == naive.pop_vlan(naive.push_vlan(frame, tpid, tci))


@DEADLINE
@given(ethernet(tags=st.integers(1, 2)).map(bytes), st.integers(0, 4095), st.integers(0, 7), ports, ports)
def test_set_vlan(frame: bytes, vid: int, pcp: int, tci: int, mask: int) -> None:
    old = int.from_bytes(frame[14:16], "big")
    for run, wanted in (
        (lambda head: edit.set_vlan_vid(head, vid), old & 0xF000 | vid),
        (lambda head: edit.set_vlan_pcp(head, pcp), old & 0x1FFF | pcp << 13),
        (lambda head: edit.set_vlan_tci(head, raw16(tci), raw16(mask)), old & ~mask | tci & mask),
    ):
        memory = Memory(frame)
        run(memory.address)
        assert memory.read() == frame[:14] + wanted.to_bytes(2, "big") + frame[16:]
        assert memory.untouched()


@given(st.binary(min_size=14, max_size=30), st.binary(min_size=6, max_size=6))
def test_set_ethernet_addresses(frame: bytes, mac: bytes) -> None:
    memory = Memory(frame)
    edit.set_eth_dst(memory.address, word(mac + frame[6:8]))
    assert memory.read() == mac + frame[6:]
    edit.set_eth_src(memory.address, word(mac))
    assert memory.read() == mac + mac + frame[12:]
    assert memory.untouched()


ANY_ETHERNET = st.one_of(
    ethernet().map(bytes),
    st.just(bytes(Dot3(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / LLC() / SNAP(code=0x800) / bytes(40))[:22]),
)


@DEADLINE
@given(ANY_ETHERNET, payloads, st.sampled_from([0x8847, 0x8848]), numbers32, numbers32, numbers32)
def test_mpls(below: bytes, above: bytes, eth_type: int, entry: int, other: int, mask: int) -> None:
    frame, l3 = below + above, len(below)
    memory = Memory(frame)
    head = edit.push_mpls(memory.address, l3, raw16(eth_type), raw32(entry))
    pushed = naive.push_mpls(frame, l3, eth_type, entry)
    assert (head, memory.read(offset=-4)) == (memory.address - 4, pushed)
    edit.set_mpls(head, l3, raw32(other), raw32(mask))
    changed = (entry & ~mask | other & mask).to_bytes(4, "big")
    assert memory.read(offset=-4) == pushed[:l3] + changed + pushed[l3 + 4 :]
    assert edit.dec_mpls_ttl(head, l3) == int(changed[3] > 1)
    last = changed[:3] + bytes([changed[3] - (changed[3] > 1)])
    assert memory.read(offset=-4) == pushed[:l3] + last + pushed[l3 + 4 :]
    assert edit.pop_mpls(head, l3, raw16(0x86DD)) == memory.address
    assert memory.read() == naive.pop_mpls(pushed, l3, 0x86DD)
    assert memory.untouched(before=4)


@pytest.mark.parametrize("size", [10, 300])
def test_mpls_keeps_the_length_of_a_snap_frame_true(size: int) -> None:
    frame = bytes(Dot3(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / LLC() / SNAP(code=0x800) / bytes(size))
    memory = Memory(frame)
    edit.push_mpls(memory.address, 22, raw16(0x8847), 0)
    assert Dot3(memory.read(offset=-4)).len == Dot3(frame).len + 4 == size + 12


def test_pushed_tag_is_what_scapy_reads() -> None:
    memory = Memory(bytes(Ether(type=0x0800) / IP() / UDP()))
    edit.push_vlan(memory.address, raw16(0x8100), raw16(0x600A))
    tag = Ether(memory.read(offset=-4))[Dot1Q]
    assert (tag.prio, tag.vlan, tag.type) == (3, 10, 0x0800)

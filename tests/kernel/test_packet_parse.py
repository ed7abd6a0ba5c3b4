"""The parser against its naive twin, against scapy, and on bytes that end at an unmapped page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import packet as naive
from naive.packet_frames import damaged, frames, ipv6_packets
from naive.packet_memory import Memory, word
from scapy.all import (
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
    ICMPv6ND_NA,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Packet,
)
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP

from penstock.datapath import parsing
from penstock.datapath.layout import PACKET
from penstock.machine import records
from penstock.packet import parse as kernels
from penstock.packet.fields import KEY_SIZE, PARSED_SIZE, describe
from penstock.packet.ipv6 import final_destination, next_header_place, upper_layer

BITS = {
    "ipv4": kernels.PARSED_IPV4,
    "ipv6": kernels.PARSED_IPV6,
    "arp": kernels.PARSED_ARP,
    "mpls": kernels.PARSED_MPLS,
    "tcp": kernels.PARSED_TCP,
    "udp": kernels.PARSED_UDP,
    "sctp": kernels.PARSED_SCTP,
    "icmp": kernels.PARSED_ICMP,
    "icmpv6": kernels.PARSED_ICMPV6,
    "fragment": kernels.PARSED_FRAGMENT,
    "tag": kernels.PARSED_TAG,
    "two tags": kernels.PARSED_TWO_TAGS,
}


def run_parse(frame: bytes, align: int = 2) -> tuple[int, bytes]:
    memory, key = Memory(frame, align=align), Memory(b"", size=PARSED_SIZE)
    result = kernels.parse(memory.address, len(frame), key.address)
    assert memory.untouched()
    assert memory.read() == frame
    assert key.untouched()
    return result, key.read() + bytes(KEY_SIZE - PARSED_SIZE)


LINK = slice(kernels.DST_WORD, kernels.SRC_WORD + 8)  # the words of the key that layer 2 is in


def compare_link(frame: bytes) -> None:
    """What is parsed of a frame for a bridge that looks at layer 2 alone."""
    expected = naive.parse_link(frame)
    memory, key = Memory(frame, align=2), Memory(bytes(PARSED_SIZE))
    result = kernels.parse_link(memory.address, len(frame), key.address)
    assert memory.untouched()
    assert key.read()[LINK] == expected.key()[LINK]
    assert not any(key.read()[: LINK.start] + key.read()[LINK.stop :])
    assert (result & 0xFFFF, result >> 16) == (expected.l3, kernels.PARSED_TAG >> 16 if expected.found else 0)


def compare(frame: bytes, align: int = 2) -> None:
    compare_link(frame)
    expected = naive.parse(frame)
    result, key = run_parse(frame, align)
    assert describe(key) == describe(expected.key())
    assert key == expected.key()
    assert (result & 0xFFFF, result >> 16 & 0xFFFF) == (expected.l3, expected.l4)
    assert {name for name, bit in BITS.items() if result & bit} == expected.found


@settings(max_examples=400)
@given(frames(), st.integers(0, 15))
def test_valid_frames(frame: bytes, align: int) -> None:
    compare(frame, align)


@settings(max_examples=600)
@given(damaged())
def test_damaged_frames(frame: bytes) -> None:
    compare(frame)


@settings(max_examples=200)
@given(st.one_of(frames(), damaged()), st.integers(0, 0xFFFF))
def test_a_key_of_layer_2_is_completed_to_the_whole(frame: bytes, in_port: int) -> None:
    """Whoever needs all of a key that has layer 2 alone gets what parsing all would have given."""
    memory, key = Memory(frame, align=2), Memory(bytes(KEY_SIZE))
    packet, burst = Memory(bytes(PACKET.itemsize)), Memory(bytes(8))
    row = records(PACKET, packet.address)[0]
    row["head"], row["head_len"], row["key"] = memory.address, len(frame), key.address
    records(np.dtype("i8"), burst.address)[0] = packet.address
    assert parsing.parse_links(3, in_port, burst.address, 1) == len(frame)
    assert row["whole"] == 0
    parsing.complete(packet.address)
    result, expected = run_parse(frame)
    assert key.read(PARSED_SIZE) == in_port.to_bytes(8, "little") + expected[8:PARSED_SIZE]
    assert (row["l3"], row["l4"], row["in_port"], row["whole"]) == (result & 0xFFFF, result >> 16 & 0xFFFF, 3, 1)
    assert row["tagged"] == int(result & kernels.PARSED_TAG != 0)


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_random_bytes(frame: bytes) -> None:
    compare(frame)


@pytest.mark.parametrize("size", range(75))
def test_every_cut_of_a_tagged_tcp_frame(size: int) -> None:
    compare(bytes(Ether() / Dot1AD(vlan=7) / Dot1Q(vlan=9) / IP(src="10.0.0.1") / TCP() / b"1234567890123")[:size])


L2 = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
QINQ = Ether(**L2) / Dot1AD(vlan=100, prio=5) / Dot1Q(vlan=7, prio=1)
ADVERT = ICMPv6ND_NA(tgt="fe80::1") / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:07")
KNOWN: list[tuple[Packet, dict[str, str]]] = [
    (
        Ether(**L2) / IP(src="10.0.0.1", dst="10.0.0.2", tos=0xB9, ttl=9) / UDP(sport=1, dport=2),
        {
            "eth_dst": "02:00:00:00:00:02", "eth_type": "0x0800", "eth_src": "02:00:00:00:00:01", "ip_src": "10.0.0.1",
            "ip_dst": "10.0.0.2", "nw_ttl": "9", "nw_proto": "17", "nw_tos": "184", "ip_dscp": "46", "nw_ecn": "1",
            "ip_frag": "no", "udp_src": "1", "udp_dst": "2",
        },
    ),
    (
        QINQ / IPv6(src="::1", dst="2001:db8::2", fl=5) / TCP(flags="SA"),
        {
            "vlan_tci": "0xb064", "vlan_vid": "100", "vlan_pcp": "5", "inner_vlan_vid": "7", "inner_vlan_pcp": "1",
            "eth_type": "0x86dd", "ipv6_src": "::1", "ipv6_dst": "2001:db8::2", "ipv6_label": "0x00005",
            "tcp_flags": "syn|ack", "tcp_src": "20", "tcp_dst": "80",
        },
    ),
    (
        Ether(**L2) / ARP(op=2, hwsrc="02:00:00:00:00:01", psrc="10.0.0.1", hwdst="02:00:00:00:00:02", pdst="10.0.0.2"),
        {
            "arp_op": "2", "arp_spa": "10.0.0.1", "arp_tpa": "10.0.0.2", "arp_sha": "02:00:00:00:00:01",
            "arp_tha": "02:00:00:00:00:02",
        },
    ),
    (
        Ether(**L2) / IPv6() / IPv6ExtHdrHopByHop() / ADVERT,
        {"icmpv6_type": "136", "icmpv6_code": "0", "nd_target": "fe80::1", "nd_tll": "02:00:00:00:00:07"},
    ),
    (
        Ether(**L2) / MPLS(label=16, cos=3, s=0, ttl=64) / MPLS(label=17, s=1) / IP(),
        {"eth_type": "0x8847", "mpls_label": "16", "mpls_tc": "3", "mpls_bos": "0", "mpls_ttl": "64"},
    ),
    (Ether(**L2) / IP(src="1.2.3.4") / ICMP(type=3, code=4), {"icmp_type": "3", "icmp_code": "4"}),
    (Ether(**L2) / IP() / SCTP(sport=7, dport=8), {"sctp_src": "7", "sctp_dst": "8", "nw_proto": "132"}),
    (Ether(**L2) / IP(frag=3, flags="MF") / UDP(), {"ip_frag": "later", "nw_proto": "17"}),
    (
        Ether(**L2) / IPv6() / IPv6ExtHdrFragment(m=1) / UDP(sport=5),
        {"ip_frag": "first", "nw_proto": "17", "udp_src": "5"},
    ),
    (Dot3(**L2) / LLC() / SNAP() / IP(dst="10.9.8.7") / UDP(), {"eth_type": "0x0800", "ip_dst": "10.9.8.7"}),
    (Dot3(**L2) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / bytes(35), {"eth_type": "0x05ff"}),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "expected"), KNOWN, ids=[packet.summary() for packet, _ in KNOWN])
def test_known_answers(packet: Packet, expected: dict[str, str]) -> None:
    compare(bytes(packet))
    _, key = run_parse(bytes(packet))
    assert expected.items() <= describe(key).items()


def test_offsets_lead_to_scapys_headers() -> None:
    packet = Ether() / Dot1Q(vlan=5) / IP(options=[]) / TCP() / b"data"
    result, _ = run_parse(bytes(packet))
    assert bytes(packet)[result & 0xFFFF :] == bytes(packet[IP])
    assert bytes(packet)[result >> 16 & 0xFFFF :] == bytes(packet[TCP])


@settings(max_examples=300)
@given(ipv6_packets().map(bytes), st.data())
def test_ipv6_walk(packet: bytes, data: st.DataObject) -> None:
    packet = packet[: data.draw(st.one_of(st.just(len(packet)), st.integers(40, len(packet))))]
    memory, walk = Memory(packet), naive.walk_ipv6(packet)
    result = upper_layer(memory.address, len(packet))
    parts = (result & 0xFFFF, result >> 16 & 255, result >> 24 & 3, result >> 32 & 0xFFFF, result >> 48)
    assert parts == (walk.offset, walk.proto, walk.fragment, walk.final, walk.fixed)
    assert next_header_place(memory.address, walk.fixed) == walk.place


@given(st.sampled_from([0, 1, 2, 3, 4]), st.integers(0, 3), st.integers(0, 4))
def test_final_destination(kind: int, segments_left: int, words: int) -> None:
    header = Memory(bytes([17, words, kind, segments_left]) + bytes(4 + words * 8))
    size = 8 + words * 8
    expected = {0: size - 16, 2: size - 16, 4: 8}.get(kind, 0) if segments_left and size >= 24 else 0
    assert final_destination(header.address, size) == expected


@given(st.integers(0, 0xFFFF))
def test_is_vlan(eth_type: int) -> None:
    assert kernels.is_vlan(word(eth_type.to_bytes(2, "big"))) == (eth_type in naive.VLAN_TYPES)


@pytest.mark.parametrize("eth_type", naive.VLAN_TYPES)
def test_vlan_types(eth_type: int) -> None:
    assert kernels.is_vlan(word(eth_type.to_bytes(2, "big"))) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_no_read_outside_the_frame(seed: int, tmp_path: Path) -> None:
    """A frame between two unmapped pages, flush with one or the other: a read outside kills the child."""
    last = tmp_path / "last-frame"
    command = [sys.executable, "-m", "naive.packet_guard", str(seed), "20000", str(last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[1])
    report = json.loads(last.read_text()) if last.exists() else {}
    assert done.returncode == 0, f"child ended with {done.returncode} on {report}\n{done.stderr}"
    assert int(done.stdout) >= 20000

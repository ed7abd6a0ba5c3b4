"""virtio-net headers: the kernels against their naive twins, on headers that lie and headers that do not."""

from __future__ import annotations

import ctypes

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.datapath.layout import PACKET
from penstock.machine import records
from penstock.ports.vnet_kernels import ACCEPTED, REJECTED, packet_to_vnet, vnet_to_packet
from tests.naive import port_vnet as naive
from tests.naive.port_vnet import HEADER, Offload

SIZES = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 80), st.sampled_from([7, 8, 536, 1448, 65535]))
HEADERS = st.builds(
    HEADER.pack,
    st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 3])),
    st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84, 0x85])),
    SIZES,
    SIZES,
    st.one_of(SIZES, st.integers(12, 60)),
    st.one_of(SIZES, st.sampled_from([6, 16])),
)
HEADS = st.one_of(
    st.binary(max_size=120),
    st.integers(54, 120).map(lambda size: bytes(46) + b"\x50" + bytes(size - 47)),  # a plain TCP header at 34
)


class Described:
    """A PACKET over bytes of its own, behind room for a header."""

    def __init__(self, head: bytes, tail_len: int) -> None:
        self.memory = ctypes.create_string_buffer(bytes(10) + head + b"\xee" * 8)
        self.record = ctypes.create_string_buffer(PACKET.itemsize + 64)
        self.packet = -(-ctypes.addressof(self.record) // 64) * 64
        self.header = ctypes.addressof(self.memory)
        p = self.fields = records(PACKET, self.packet)[0]
        p["head"], p["head_len"], p["tail_len"] = self.header + 10, len(head), tail_len

    def offload(self) -> Offload:
        return Offload(*(int(self.fields[name]) for name in Offload._fields))


@settings(max_examples=600)
@given(HEADERS, HEADS, st.one_of(st.just(0), st.integers(0, 65000)))
def test_vnet_to_packet(header: bytes, head: bytes, tail_len: int) -> None:
    described = Described(head, tail_len)
    ctypes.memmove(described.header, header, 10)
    described.fields["gso_type"], described.fields["flags"] = 9, 0xFF  # what an earlier frame left there
    expected = naive.parse(header, head, bytes(tail_len))
    result = vnet_to_packet(described.header, described.packet)
    assert result == (REJECTED if expected is None else ACCEPTED)
    if expected is not None:
        assert described.offload() == expected


@settings(max_examples=600)
@given(HEADERS, HEADS, st.integers(0, 65000))
def test_packet_to_vnet_says_the_same_again(header: bytes, head: bytes, tail_len: int) -> None:
    offload = naive.parse(header, head, bytes(tail_len))
    if offload is None:
        return
    described = Described(head, tail_len)
    for name, value in offload._asdict().items():
        described.fields[name] = value
    packet_to_vnet(described.packet, described.header)
    written = ctypes.string_at(described.header, 10)
    assert written == naive.build(offload, head)
    assert naive.parse(written, head, bytes(tail_len)) == offload


def test_known_header_of_a_tcp_segment() -> None:
    """What Linux 6.18 put before a 64 KB segment over IPv4 with timestamps: 66 bytes of headers, 1448 a segment."""
    head = bytes(46) + b"\x80" + bytes(209)
    described = Described(head, 65226 - 256)
    ctypes.memmove(described.header, bytes.fromhex("01014200a80522001000"), 10)
    assert vnet_to_packet(described.header, described.packet) == ACCEPTED
    assert described.offload() == Offload(flags=1, gso_type=1, gso_size=1448, csum_start=34, csum_offset=16)
    ctypes.memset(described.header, 0, 10)
    packet_to_vnet(described.packet, described.header)
    assert ctypes.string_at(described.header, 10).hex() == "01014200a80522001000"

"""Checksum kernels against the definitions, and against the packets scapy makes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from naive import packet_checksum as naive
from naive.packet_frames import ipv4_packets, ipv4s, ipv6s, payloads, transports
from naive.packet_memory import Memory, word
from scapy.all import IP, SCTP, TCP, UDP, Ether, IPv6, IPv6ExtHdrRouting, Packet, SCTPChunkData

from penstock.packet import checksum as kernels

BLOCKS = st.one_of(st.binary(max_size=200), st.integers(0, 300).map(lambda size: b"\xff" * size))
WORDS = st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 0xFFFF]))
DEADLINE = settings(deadline=None, max_examples=200)


def raw(value: int) -> int:
    """A 16-bit number of the standards as the kernels see it in memory."""
    return word(value.to_bytes(2, "big"))


@DEADLINE
@given(BLOCKS, st.integers(0, 9))
def test_sum_memory(data: bytes, align: int) -> None:
    assert kernels.sum_memory(Memory(data, align=align).address, len(data)) == raw(naive.ones_sum(data))


def test_sum_of_a_large_block() -> None:
    for data in (b"\xff" * 70001, bytes(range(256)) * 256):
        assert kernels.sum_memory(Memory(data).address, len(data)) == raw(naive.ones_sum(data))


@given(st.integers(0, 2**62))
def test_fold(total: int) -> None:
    expected = total
    while expected >> 16:
        expected = (expected & 0xFFFF) + (expected >> 16)
    assert kernels.fold(total) == expected


@DEADLINE
@given(BLOCKS, BLOCKS)
def test_two_parts(head: bytes, tail: bytes) -> None:
    whole = raw(naive.ones_sum(head + tail))
    assert kernels.sum_parts(Memory(head).address, len(head), Memory(tail).address, len(tail)) == whole
    first, second = raw(naive.ones_sum(head)), raw(naive.ones_sum(tail))
    assert kernels.join(first, len(head), second) == whole


@DEADLINE
@given(ipv4s, ipv4s, st.integers(0, 255), st.integers(0, 0xFFFF))
def test_pseudo_ipv4(src: str, dst: str, proto: int, size: int) -> None:
    header = bytes(IP(src=src, dst=dst))
    expected = raw(naive.ones_sum(naive.pseudo(header[12:16], header[16:20], proto, size)))
    assert kernels.pseudo_ipv4(Memory(header).address, proto, size) == expected


@DEADLINE
@given(ipv6s, ipv6s, st.integers(0, 255), st.integers(0, 0x1FFFF), st.booleans())
def test_pseudo_ipv6(src: str, dst: str, proto: int, size: int, routed: bool) -> None:
    header = bytes(IPv6(src=src, dst=dst) / IPv6ExtHdrRouting(addresses=["2001:db8::7"]))
    final = 48 if routed else 0
    target = header[48:64] if routed else header[24:40]
    expected = raw(naive.ones_sum(naive.pseudo(header[8:24], target, proto, size)))
    assert kernels.pseudo_ipv6(Memory(header).address, final, proto, size) == expected


@DEADLINE
@given(st.binary(min_size=4, max_size=40).filter(any), st.integers(0, 9), WORDS)
def test_update16(data: bytes, place: int, new: int) -> None:
    data = data + bytes(len(data) & 1)
    place = place * 2 % len(data)
    changed = data[:place] + new.to_bytes(2, "big") + data[place + 2 :]
    old = raw(int.from_bytes(data[place : place + 2], "big"))
    before, after = raw(naive.checksum(data)), raw(naive.checksum(changed))
    if any(changed):
        assert kernels.update16(before, old, raw(new)) == after
        assert kernels.update_sum(before ^ 0xFFFF, old, raw(new)) == after ^ 0xFFFF


@DEADLINE
@given(st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4).filter(any))
def test_update32(data: bytes, new: bytes) -> None:
    before, after = raw(naive.checksum(data)), raw(naive.checksum(new + data[4:]))
    assert kernels.update32(before, word(data[:4]), word(new)) == after


def test_update_keeps_rfc_1624s_corner_case() -> None:
    """RFC 1624 section 4: 0x5555 changes to 0x3285 under the checksum 0xdd2f; the answer is 0x0000, not 0xffff."""
    assert kernels.update16(raw(0xDD2F), raw(0x5555), raw(0x3285)) == 0x0000


@DEADLINE
@given(ipv4_packets().map(bytes))
def test_ipv4_header(packet: bytes) -> None:
    memory = Memory(packet)
    assert kernels.ipv4_header_checksum(memory.address) == word(packet[10:12])
    assert kernels.ipv4_header_ok(memory.address) == 1
    damaged = Memory(packet[:8] + bytes([packet[8] ^ 1]) + packet[9:])
    assert kernels.ipv4_header_ok(damaged.address) == 0


def test_crc_known_answer() -> None:
    """RFC 3720 appendix B.4, and the check value of the CRC catalogues."""
    for data, expected in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        assert naive.crc32c(data) == expected
        assert kernels.crc_memory(kernels.CRC_START, Memory(data).address, len(data)) ^ 0xFFFFFFFF == expected


@DEADLINE
@given(BLOCKS)
def test_crc_memory(data: bytes) -> None:
    assert kernels.crc_memory(kernels.CRC_START, Memory(data).address, len(data)) ^ 0xFFFFFFFF == naive.crc32c(data)


@DEADLINE
@given(payloads, st.integers(0, 200))
def test_sctp(payload: bytes, cut: int) -> None:
    packet = bytes(SCTP(sport=1, dport=2, tag=3) / SCTPChunkData(data=payload))
    cut = 12 + cut % (len(packet) - 11)
    head, tail = Memory(packet[:cut]), Memory(packet[cut:])
    assert packet[8:12] == naive.sctp(packet)
    assert kernels.sctp_checksum(head.address, cut, tail.address, len(packet) - cut) == word(packet[8:12])
    assert kernels.sctp_ok(head.address, cut, tail.address, len(packet) - cut) == 1
    head = Memory(packet[:8] + b"\0\1\2\3" + packet[12:cut])
    assert kernels.sctp_ok(head.address, cut, tail.address, len(packet) - cut) == 0


def partial(packet: Packet) -> tuple[bytes, bytes, int, int]:
    """A frame with a partial checksum, the frame scapy makes of it, and where the checksum starts and lies."""
    frame = bytes(packet)
    kind = next(layer for layer in (TCP, UDP, SCTP) if layer in packet)
    start = len(frame) - len(bytes(packet[kind]))
    offset = {TCP: 16, UDP: 6, SCTP: 8}[kind]
    place = start + offset
    if kind is SCTP:
        return frame[:place] + b"\x12\x34\x56\x78" + frame[place + 4 :], frame, start, offset
    header = packet[IP] if IP in packet else packet[IPv6]
    addresses = bytes(header)[12:20] if IP in packet else bytes(header)[8:40]
    half = len(addresses) // 2
    proto = 6 if kind is TCP else 17
    seed = naive.ones_sum(naive.pseudo(addresses[:half], addresses[half:], proto, len(frame) - start))
    return frame[:place] + seed.to_bytes(2, "big") + frame[place + 2 :], frame, start, offset


ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


@DEADLINE
@given(st.booleans(), ipv4s, ipv6s, transports(), st.integers(0, 300))
def test_finish_checksum(six: bool, four: str, address: str, transport: Packet, cut: int) -> None:
    packet = ETHERNET / (IPv6(src=address, dst="2001:db8::1") if six else IP(src=four, dst="10.0.0.1")) / transport
    begun, finished, start, offset = partial(packet)
    head_len = min(len(begun), start + offset + 4 + cut)
    head, tail = Memory(begun[:head_len]), Memory(begun[head_len:])
    done = kernels.finish_checksum(head.address, head_len, tail.address, len(begun) - head_len, start, offset)
    assert done == 1
    result = head.read() + tail.read()
    if UDP not in packet and offset == 16 and finished[start + 16 : start + 18] == b"\0\0":
        finished = finished[: start + 16] + b"\xff\xff" + finished[start + 18 :]
    assert result == finished
    assert head.untouched()
    assert tail.untouched()
    size = head_len - start
    if offset == 8:
        assert kernels.sctp_ok(head.address + start, size, tail.address, len(begun) - head_len) == 1
    else:
        seed = word(begun[start + offset : start + offset + 2])
        assert kernels.checksum_ok(seed, head.address + start, size, tail.address, len(begun) - head_len) == 1
        wrong = kernels.checksum_ok(seed ^ 0x5A5A, head.address + start, size, tail.address, len(begun) - head_len)
        assert wrong == 0


def test_finish_checksum_of_udp_never_stores_zero() -> None:
    """A payload that makes the sum 0xffff, so that the checksum would be 0: "none" in UDP."""
    frame = bytearray(bytes(ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"  "))
    pseudo = naive.pseudo(bytes(frame[26:30]), bytes(frame[30:34]), 17, 10)
    frame[40:42] = naive.ones_sum(pseudo).to_bytes(2, "big")
    frame[42:44] = (0xFFFF - naive.ones_sum(bytes(frame[34:42]))).to_bytes(2, "big")
    head = Memory(bytes(frame))
    assert kernels.finish_checksum(head.address, len(frame), 0, 0, 34, 6) == 1
    assert head.read()[40:42] == b"\xff\xff"


@given(st.integers(-5, 80), st.integers(-5, 80))
def test_finish_checksum_refuses_a_place_outside_the_head(start: int, offset: int) -> None:
    frame = bytes(60)
    head = Memory(frame)
    inside = start >= 0 and offset >= 0 and start + offset + (4 if offset == 8 else 2) <= len(frame)
    assert kernels.finish_checksum(head.address, len(frame), 0, 0, start, offset) == int(inside)
    assert head.untouched()
    if not inside:
        assert head.read() == frame

"""The generator on a dummy port: frames as scapy reads them, flows and sizes, numbers without gaps, pace, the loop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import traffic as naive
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from penstock.datapath.layout import FLAG_CSUM_PARTIAL, GSO_TCPV4, HEADER_MAX, OFFLOAD_CSUM, OFFLOAD_TSO4
from penstock.machine import measure_cycles_hz
from penstock.memory import Arena
from penstock.ports.dummy import Frame
from penstock.traffic.driver import Driver
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.frames import Frame as Prepared
from penstock.traffic.generator import Generator, Timed, frames_to_learn
from penstock.traffic.generator_kernels import generator_turn
from penstock.traffic.layout import FRACTION_BITS
from penstock.traffic.loop_kernels import traffic_loop
from penstock.traffic.sink import Sink
from penstock.traffic.stream import Stream, StreamError

DEADLINE = settings(deadline=None, max_examples=40)
OFFLOADS = OFFLOAD_CSUM | OFFLOAD_TSO4


@pytest.fixture(scope="module")
def hz() -> int:
    return measure_cycles_hz()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    arena = Arena.create(256 << 20)
    with Endpoint(arena, "dummy", "a", {"keep": True, "offloads": OFFLOADS}) as made:
        yield made
    arena.close()


def generated(endpoint: Endpoint, stream: Stream, hz: int) -> list[Frame]:
    """The frames of a stream that ends by itself."""
    generator = Generator.of_stream(endpoint, stream, hz)
    while not generator.done:
        generator_turn(generator.tasks[0][1])
    assert (generator.sent, generator.refused) == (stream.count, 0)
    generator.close()
    return endpoint.port.transmitted()  # type: ignore[attr-defined,no-any-return]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    ipv6 = draw(st.booleans())
    low = draw(st.integers(1, 200))
    first = f"2001:db8::{low:x}" if ipv6 else f"10.0.0.{low}"
    last = f"2001:db8::{low + 40:x}" if ipv6 else f"10.0.0.{low + 40}"
    return Stream(
        size=draw(st.sampled_from(["98,1000", "128", "98-120/3", "1518", "257-263"])),
        count=draw(st.integers(1, 200)),
        flows=draw(st.none() | st.integers(1, 60)),
        src_mac="02:00:00:00:00:01-02:00:00:00:00:05",
        vlan=draw(st.none() | st.just("5-7")),
        src_ip=f"{first}-{last}{draw(st.sampled_from(['', '/7', '/random']))}",
        dst_ip="2001:db8::ffff" if ipv6 else "10.1.0.0",
        protocol=draw(st.sampled_from(["udp", "tcp"])),
        src_port=draw(st.sampled_from(["5000", "5000-5002", "65535"])),
        seed=draw(st.integers(0, 3)),
        first_flow=draw(st.sampled_from([0, 1000, (1 << 24) - 100])),
    )


@DEADLINE
@given(streams())
def test_frames(endpoint: Endpoint, hz: int, stream: Stream) -> None:
    frames = [each.data for each in generated(endpoint, stream, hz)]
    numbers: Counter[int] = Counter()
    ends: dict[int, set[tuple[object, ...]]] = {}
    for data in frames:
        assert len(data) + 4 in stream.sizes
        at = naive.payload_at(data)
        signature, sequence, flow = naive.read_stamp(data[at : at + 16])
        assert signature == naive.SIGNATURE
        assert sequence == numbers[flow]
        numbers[flow] += 1
        parsed = Ether(data)
        network, transport = parsed[IPv6 if stream.kind.ipv6 else IP], parsed[TCP if stream.kind.tcp else UDP]
        tag = parsed[Dot1Q].vlan if stream.vlan else None
        ends.setdefault(flow, set()).add((parsed.src, tag, network.src, network.dst, transport.sport, transport.dport))
        again = parsed.copy()
        if stream.kind.ipv6 or stream.kind.tcp:
            del again[type(transport)].chksum
        if not stream.kind.ipv6:
            del again[IP].chksum, again[IP].len
        assert bytes(again) == data, "scapy's checksums and lengths are others"
    assert set(numbers) <= set(range(stream.first_flow, stream.first_flow + stream.flow_count))
    assert all(len(each) == 1 for each in ends.values()), "a flow changed its addresses"
    assert max(numbers.values()) - min(numbers.values()) <= 1, "not all flows had their turn"


def test_each_flow_goes_through_all_sizes(endpoint: Endpoint, hz: int) -> None:
    frames = generated(endpoint, Stream(size="imix", count=12 * 6, src_port="1-6"), hz)
    found = Counter((Ether(each.data)[UDP].sport, len(each.data) + 4) for each in frames)
    assert found == {(port, size): times for port in range(1, 7) for size, times in ((64, 7), (594, 4), (1518, 1))}


def test_ranges_step_together_and_begin_again(endpoint: Endpoint, hz: int) -> None:
    stream = Stream(size="64", count=6, src_port="10-14/2", dst_port="1-2", flows=6)
    found = [(Ether(each.data)[UDP].sport, Ether(each.data)[UDP].dport) for each in generated(endpoint, stream, hz)]
    assert found == [(10, 1), (12, 2), (14, 1), (10, 2), (12, 1), (14, 2)]


def test_large_segments_are_left_to_the_port(endpoint: Endpoint, hz: int) -> None:
    (frame,) = generated(endpoint, Stream(size="60000", protocol="tcp", gso_size=1448, count=1), hz)
    assert len(frame.data) == 59_996
    assert (frame.gso_type, frame.gso_size, frame.flags) == (GSO_TCPV4, 1448, FLAG_CSUM_PARTIAL)
    assert (frame.csum_start, frame.csum_offset) == (34, 16)
    parsed = Ether(frame.data)
    pseudo = parsed[IP].copy()
    pseudo.remove_payload()
    expected = sum(int.from_bytes(bytes(pseudo)[at : at + 2], "big") for at in range(12, 20, 2)) + 6 + 59_996 - 34
    while expected >> 16:
        expected = (expected & 0xFFFF) + (expected >> 16)
    assert parsed[TCP].chksum == expected


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (
            Stream(size="128", src_ip="2001:db8::1", dst_ip="2001:db8::2", protocol="tcp", gso_size=40),
            "lacks offload tso6",
        ),
        (Stream(size="1519"), "size 1519 does not fit port 'a': its MTU is 1500"),
    ],
)
def test_what_a_port_cannot_send(endpoint: Endpoint, hz: int, stream: Stream, text: str) -> None:
    with pytest.raises(StreamError, match=text):
        Generator.of_stream(endpoint, stream, hz)


def test_refused_frames_leave_no_gap(endpoint: Endpoint, hz: int) -> None:
    """The dummy's memory for frames fills up in the midst of bursts."""
    generator = Generator.of_stream(endpoint, Stream(size="1518", count=5000, src_port="1-3"), hz)
    seen: list[tuple[int, int]] = []
    for _ in range(100_000):
        if generator.done:
            break
        if generator_turn(generator.tasks[0][1]) == 0:
            seen += [naive.read_stamp(each.data[42:58])[1:] for each in endpoint.port.transmitted()]  # type: ignore[attr-defined]
    seen += [naive.read_stamp(each.data[42:58])[1:] for each in endpoint.port.transmitted()]  # type: ignore[attr-defined]
    assert generator.refused > 0
    assert generator.sent == 5000
    assert seen == [(number // 3, number % 3) for number in range(5000)]
    generator.close()


def test_paced_frames_that_are_refused_are_lost(endpoint: Endpoint, hz: int) -> None:
    generator = Generator.of_stream(endpoint, Stream(size="1518", rate="10Mpps", count=5000), hz)
    while not generator.done:
        generator_turn(generator.tasks[0][1])
    assert generator.refused > 0
    assert generator.sent + generator.refused == 5000
    numbers = [naive.read_stamp(each.data[42:58])[1] for each in endpoint.port.transmitted()]  # type: ignore[attr-defined]
    assert numbers == list(range(generator.sent))
    generator.close()


@pytest.mark.parametrize("rate", ["5000", "2.4Mbps"])
def test_pace(endpoint: Endpoint, hz: int, rate: str) -> None:
    """Both are about 5,000 frames a second: 64 bytes are 512 bits."""
    stream = Stream(size="64", rate=rate, count=1000)
    asked = stream.frames_per_second
    assert asked
    generator = Generator.of_stream(endpoint, stream, hz)
    while not generator.done:
        generator_turn(generator.tasks[0][1])
    row = generator.rows[0]
    assert row["due"] == generator.sent * int(row["interval"]) + int(row["skipped"])
    assert int(row["interval"]) == pytest.approx((hz << FRACTION_BITS) / asked, rel=1e-6)
    assert generator.sent == 1000
    assert generator.seconds >= 999 / asked * 0.999999, "never faster than asked for"
    endpoint.port.transmitted()  # type: ignore[attr-defined]
    generator.close()


def test_frames_as_they_are(endpoint: Endpoint, hz: int) -> None:
    frames = [bytes([number]) * (60 + 100 * number) for number in range(5)]
    timed = [Timed(Prepared(data, len(data))) for data in frames]
    generator = Generator.of_frames(endpoint, timed, hz, rounds=3)
    while not generator.done:
        generator_turn(generator.tasks[0][1])
    assert [each.data for each in endpoint.port.transmitted()] == frames * 3  # type: ignore[attr-defined]
    generator.close()


def test_what_is_not_in_the_head_of_a_frame_is_zeros(endpoint: Endpoint, hz: int) -> None:
    frames = [Timed(Prepared(b"\x01" * HEADER_MAX, length)) for length in (HEADER_MAX, HEADER_MAX + 1, 1514)]
    generator = Generator.of_frames(endpoint, frames, hz)
    while not generator.done:
        generator_turn(generator.tasks[0][1])
    expected = [each.frame.head.ljust(each.frame.length, b"\0") for each in frames]
    assert [each.data for each in endpoint.port.transmitted()] == expected  # type: ignore[attr-defined]
    generator.close()


def test_frames_at_their_own_speed(endpoint: Endpoint, hz: int) -> None:
    frames = [Timed(Prepared(bytes(60), 60), gap) for gap in (0.01, 0.03, 0.0, 0.0)]
    generator = Generator.of_frames(endpoint, frames, hz)
    bursts = []
    while not generator.done:
        bursts.append(generator_turn(generator.tasks[0][1]))
    assert [count for count in bursts if count] == [1, 1, 2], "frames without a gap go in one burst"
    assert generator.seconds >= 0.04 * 0.999
    endpoint.port.transmitted()  # type: ignore[attr-defined]
    generator.close()


def test_destinations_are_learned_once_each() -> None:
    stream = Stream(size="68", dst_mac="02:00:00:00:02:00-02:00:00:00:02:02", vlan="5-6", flows=100)
    heads = [Ether(each.frame.head) for each in frames_to_learn(stream)]
    assert len(heads) == 6
    assert {(each.src, each[Dot1Q].vlan) for each in heads} == {
        (f"02:00:00:00:02:0{n}", vlan) for n in range(3) for vlan in (5, 6)
    }
    assert all(each.dst == "ff:ff:ff:ff:ff:ff" for each in heads)


@pytest.mark.parametrize("cpus", [(), (0,)])
def test_the_loop_drives_generator_and_sink_and_naps(hz: int, endpoint: Endpoint, cpus: tuple[int, ...]) -> None:
    arena = endpoint.arena
    with Endpoint(arena, "dummy", "b", {}) as quiet:
        generator = Generator.of_stream(endpoint, Stream(rate="1000", count=50), hz)
        sink = Sink(quiet, hz)
        quiet.port.inject([bytes(Ether() / IP() / UDP() / naive.stamp(0, 0))])  # type: ignore[attr-defined]
        with Driver(arena, [generator, sink], hz, cpus) as driver:
            row = driver.loops[0]
            deadline = time.monotonic() + 10
            while not generator.done or int(row["naps"]) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert int(row["busy_turns"]) > 0
        assert len(endpoint.port.transmitted()) == 50  # type: ignore[attr-defined]
        assert sink.counts().stamped == 1
        generator.close()
        sink.close()


def test_a_loop_that_was_stopped_does_nothing(hz: int, endpoint: Endpoint) -> None:
    sink = Sink(endpoint, hz)
    driver = Driver(endpoint.arena, [sink], hz)
    driver.loops[0]["stop"] = 1
    assert traffic_loop(driver._addresses[0]) == 0
    assert driver.loops[0]["turns"] == 0
    with driver:
        pass
    sink.close()

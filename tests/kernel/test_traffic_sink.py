"""The sink on a dummy port: its counts against a receiver that remembers everything, latencies, answers of its host."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Interface

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import traffic as naive
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from penstock.machine.thread import read_cycles
from penstock.memory import Arena
from penstock.traffic.endpoint import Endpoint
from penstock.traffic.histogram import BUCKETS, bucket_of, lowest_of, percentiles, summary
from penstock.traffic.layout import TIME_BITS
from penstock.traffic.sink import Sink
from penstock.traffic.sink_kernels import sink_turn
from penstock.traffic.stream import StreamError
from tests.kernel.compiled import compiled

HZ = 1_000_000_000
DEADLINE = settings(deadline=None, max_examples=80)
OURS, THEIRS = "02:00:00:00:02:00", "02:00:00:00:00:01"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    arena = Arena.create(64 << 20)
    with Endpoint(arena, "dummy", "a", {"keep": True}) as made:
        yield made
    arena.close()


def stamped(sequence: int, flow: int = 0, time: int = 0) -> bytes:
    head = Ether(src=THEIRS, dst=OURS) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    return bytes(head / Raw(naive.stamp(sequence, flow, time) + bytes(2)))


def run(sink: Sink, frames: list[bytes]) -> None:
    sink.endpoint.port.inject(frames)  # type: ignore[attr-defined]
    while sink_turn(sink.tasks[0][1]):
        pass


# Mostly in order, with gaps, repetitions and steps back that cross the window's edge.
STEPS = st.lists(st.sampled_from([1, 1, 1, 1, 0, -1, 2, -3, 5, -63, -64, -65, 63, 64, 65, 200]), max_size=60)


@DEADLINE
@given(st.lists(STEPS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_counts(endpoint: Endpoint, flows: list[list[int]], chance: random.Random) -> None:
    sink = Sink(endpoint, HZ, flows=3, window=64)
    receivers = [naive.Receiver(64) for _ in range(3)]
    waiting = [[max(0, sum(steps[: n + 1]) - 1) for n in range(len(steps))] for steps in flows]
    frames = []
    while left := [flow for flow, numbers in enumerate(waiting) if numbers]:
        flow = chance.choice(left)
        number = waiting[flow].pop(0)
        receivers[flow].take(number)
        frames.append(stamped(number, flow))
    run(sink, [*frames, stamped(0, flow=3), bytes(60)])
    counts = sink.counts()
    assert counts.received == len(frames) + 2
    assert (counts.stamped, counts.untracked, counts.foreign) == (len(frames), 1, 1)
    assert counts.octets == 60 * (len(frames) + 2)
    assert counts.expected == sum(each.next for each in receivers)
    assert counts.unique == sum(len(each.came) for each in receivers)
    assert counts.missing == sum(each.next - len(each.came) - each.late for each in receivers)
    for name in ("duplicates", "reordered", "late"):
        assert getattr(counts, name) == sum(getattr(each, name) for each in receivers)
    sink.close()


def test_reset_forgets_all(endpoint: Endpoint) -> None:
    sink = Sink(endpoint, HZ, flows=2, window=64)
    fresh = sink.counts()
    run(sink, [stamped(5, 1), stamped(5, 1), bytes(60)])
    assert sink.counts().duplicates == 1
    sink.reset()
    assert sink.counts() == fresh
    run(sink, [stamped(5, 1)])
    assert sink.counts().unique == 1
    assert sink.counts().duplicates == 0
    sink.close()


def test_latency_is_the_time_since_the_stamp(endpoint: Endpoint) -> None:
    sink = Sink(endpoint, HZ)
    before = read_cycles()
    run(sink, [stamped(number, time=before - age) for number, age in enumerate((10**6, 10**7, 10**8))])
    slack = read_cycles() - before
    latency = sink.counts().latency
    assert latency
    assert latency.count == 3
    assert 10**6 <= latency.min <= 10**6 + slack
    assert 10**7 * 0.98 <= latency.median <= (10**7 + slack) * 1.02
    assert 10**8 <= latency.max <= 10**8 + slack
    sink.reset()
    run(sink, [stamped(0, time=read_cycles() + 10**9)])
    assert sink.counts().latency.max == 0  # type: ignore[union-attr]
    sink.close()


@DEADLINE
@given(st.integers(0, (1 << TIME_BITS) - 1) | st.integers(0, 1000))
def test_buckets_are_narrow_and_in_order(value: int) -> None:
    bucket = compiled_bucket(value)
    assert 0 <= bucket < BUCKETS
    assert lowest_of(bucket) <= value < lowest_of(bucket + 1)
    assert lowest_of(bucket + 1) - lowest_of(bucket) <= max(1, lowest_of(bucket) / 64)


compiled_bucket = compiled(lambda value: bucket_of(value), 1)


@DEADLINE
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300))
def test_percentiles(values: list[int]) -> None:
    counts = np.zeros(BUCKETS, np.int64)
    for value in values:
        counts[compiled_bucket(value)] += 1
    for part, found in zip((0.5, 0.99, 0.999), percentiles(counts, (0.5, 0.99, 0.999)), strict=True):
        right = naive.percentile(values, part)
        assert abs(found - right) <= right / 64
    latency = summary(counts, sum(values), min(values), max(values), HZ)
    assert latency
    assert (latency.count, latency.min, latency.max) == (len(values), min(values), max(values))
    assert latency.mean == pytest.approx(sum(values) / len(values))
    assert latency.min <= latency.median <= latency.p99 <= latency.p999 <= latency.max
    assert summary(np.zeros(BUCKETS, np.int64), 0, 0, 0, HZ) is None


def test_reflected_frames_come_back_with_the_same_stamp(endpoint: Endpoint) -> None:
    sink = Sink(endpoint, HZ)
    sink.reflect()
    head = Ether(src=THEIRS, dst=OURS) / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2)
    whole = bytes(head / Raw(naive.stamp(9, 1) + bytes(1000)))
    run(sink, [whole, bytes(Ether(src=THEIRS, dst="ff:ff:ff:ff:ff:ff") / Raw(bytes(46)))])
    (back,) = endpoint.port.transmitted()  # type: ignore[attr-defined]
    assert back.data == naive.reflected(whole)
    parsed = Ether(back.data)
    assert (parsed.src, parsed.dst, parsed[UDP].sport, parsed[UDP].dport) == (OURS, THEIRS, 2, 1)
    checksum = parsed[UDP].chksum
    del parsed[UDP].chksum
    assert Ether(bytes(parsed))[UDP].chksum == checksum
    assert sink.counts().replied == 1
    sink.close()


LINKS = [Ether(src=THEIRS, dst="ff:ff:ff:ff:ff:ff"), Ether(src=THEIRS, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=5)]


@pytest.mark.parametrize("link", LINKS)
def test_a_host_answers_arp_and_ping(endpoint: Endpoint, link: Ether) -> None:
    sink = Sink(endpoint, HZ)
    sink.answer(0x020000000200, IPv4Interface("10.0.0.2/24"))
    asked = ARP(op=1, hwsrc=THEIRS, psrc="10.0.0.1", pdst="10.0.0.2")
    to_us = link.copy()
    to_us.dst = OURS
    echo = IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(id=7, seq=8) / Raw(b"payload" * 100)
    questions = [link / asked, to_us / echo]
    not_ours = [
        link / ARP(op=1, hwsrc=THEIRS, psrc="10.0.0.1", pdst="10.0.0.3"),
        link / ARP(op=1, hwsrc=THEIRS, psrc="10.0.1.1", pdst="10.0.0.2"),
        link / ARP(op=2, hwsrc=THEIRS, psrc="10.0.0.1", pdst="10.0.0.2"),
        link / echo,
        to_us / IP(src="10.0.0.1", dst="10.0.0.3") / ICMP(),
        to_us / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=0),
        to_us / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / ICMP(),
        to_us / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(),
    ]
    run(sink, [bytes(each) for each in [*questions, *not_ours]])
    answers = [Ether(each.data) for each in endpoint.port.transmitted()]  # type: ignore[attr-defined]
    assert len(answers) == len(questions)
    for each in answers:
        assert (each.src, each.dst) == (OURS, THEIRS)
        assert each.haslayer(Dot1Q) == link.haslayer(Dot1Q)
    reply = answers[0][ARP]
    assert (reply.op, reply.hwsrc, reply.psrc, reply.hwdst, reply.pdst) == (2, OURS, "10.0.0.2", THEIRS, "10.0.0.1")
    right = IP(src="10.0.0.2", dst="10.0.0.1") / ICMP(type=0, id=7, seq=8) / Raw(b"payload" * 100)
    assert bytes(answers[1][IP]) == bytes(right)
    sink.close()


def test_what_a_sink_refuses(endpoint: Endpoint) -> None:
    for arguments, text in (({"window": 100}, "window 100 is wrong"), ({"flows": 0}, "0 flows cannot be tracked")):
        with pytest.raises(StreamError, match=text):
            Sink(endpoint, HZ, **arguments)

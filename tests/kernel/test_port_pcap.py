"""Pcap ports: the file parser against files written field by field and against damage, then replay and writing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import PcapNgReader, PcapReader

from penstock.memory import Arena
from penstock.ports.base import PortError
from penstock.ports.pcap import Pcap
from penstock.ports.pcap_file import OUR_HEADER, CapturedFrame, CaptureError, frames, whole_length
from tests.kernel.port_support import Queues, open_port
from tests.naive import port_capture as capture

FRAMES = st.lists(st.binary(max_size=200), max_size=12)
ORDERS = st.sampled_from("<>")
THREE = [bytes([index]) * (60 + 500 * index) for index in range(3)]


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    made = Arena.create(64 << 20)
    yield made
    made.close()


def frames_until_damage(data: bytes) -> list[CapturedFrame]:
    """The frames that are found before anything is wrong; nothing but CaptureError may come of damage."""
    found: list[CapturedFrame] = []
    with contextlib.suppress(CaptureError):
        found.extend(frames(data))
    return found


def contents(data: bytes) -> list[bytes]:
    return [data[frame.offset : frame.offset + frame.length] for frame in frames(data)]


@given(FRAMES, ORDERS, st.booleans())
def test_pcap(expected: list[bytes], order: str, nanoseconds: bool) -> None:
    data = capture.pcap(expected, order, nanoseconds)
    assert contents(data) == expected
    unit = 1 if nanoseconds else 1000
    assert [frame.time_ns for frame in frames(data)] == [
        second * 10**9 + 5 * unit for second in range(1, len(expected) + 1)
    ]


@given(st.lists(st.tuples(ORDERS, FRAMES, st.sampled_from([None, 6, 9, 0x8A])), max_size=3))
def test_pcapng(sections: list[tuple[str, list[bytes], int | None]]) -> None:
    data = capture.section()
    expected: list[bytes] = []
    for order, wanted, resolution in sections:
        data += capture.section(order) + capture.interface(order, resolution=resolution)
        data += capture.block(order, 0xBAD, b"a block of an unknown kind")
        for number, frame in enumerate(wanted):
            kind = (capture.enhanced, capture.simple, capture.obsolete)[number % 3]
            data += kind(frame, order=order)
        expected += wanted
    assert contents(data) == expected


@pytest.mark.parametrize(("resolution", "second"), [(None, 10**6), (6, 10**6), (9, 10**9), (3, 1000), (0x8A, 1024)])
def test_pcapng_times(resolution: int | None, second: int) -> None:
    data = capture.section() + capture.interface(resolution=resolution) + capture.enhanced(b"x" * 60, 3 * second)
    assert [frame.time_ns for frame in frames(data)] == [3 * 10**9]


def test_snap_length_cuts_simple_packets() -> None:
    cut = capture.block("<", 3, struct.pack("<I", 500) + b"x" * 64)
    assert contents(capture.section() + capture.interface(snaplen=64) + cut) == [b"x" * 64]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "offset 0: 0 bytes are too few"),
        (b"\x7fELF" + bytes(100), "offset 0: 0x7f454c46 begins neither"),
        (capture.pcap([])[:20], "offset 20: the file ends inside its header"),
        (capture.pcap([], link=101), "offset 20: link type 101"),
        (capture.pcap(THREE)[:-1], "offset 676: a frame of 1060 bytes, where 1059 are left"),
        (capture.pcap(THREE) + bytes(7), "offset 1752: the file ends inside a record's header"),
        (capture.pcap([]) + b"\xff" * 16, "offset 24: a frame of 4294967295 bytes, where 0 are left"),
        (capture.section()[:8] + bytes(20), "offset 8: no byte-order magic"),
        (capture.section() + capture.simple(b"x" * 60), "offset 36: a frame of interface 0, which is not described"),
        (capture.section() + capture.interface(link=113) + capture.simple(b"x"), "offset 56: link type 113"),
        (capture.section() + b"\x06\0\0\0\x0d\0\0\0" + bytes(20), "offset 28: a block of 13 bytes"),
        (capture.section() + b"\x06\0\0\0\0\0\0\x10" + bytes(20), "offset 28: a block of 268435456 bytes"),
        (capture.section() + b"\x06\0\0\0", "offset 28: the file ends inside a block's header"),
        (capture.section() + capture.interface()[:-4] + bytes(4), "length is 20 at its start and 0 at its end"),
        (capture.section() + capture.block("<", 1, bytes(4)), "offset 36: an interface description of 4 bytes"),
        (
            capture.section() + capture.interface() + capture.block("<", 6, struct.pack("<5I", 0, 0, 0, 900, 900)),
            "offset 56: a frame of 900 bytes in a block that has 0 for it",
        ),
    ],
)
def test_damage_is_named_with_its_offset(data: bytes, text: str) -> None:
    with pytest.raises(CaptureError) as caught:
        list(frames(data))
    assert text in str(caught.value)


WHOLE = capture.section() + capture.interface(resolution=9) + b"".join(capture.enhanced(each) for each in THREE)
SEEDS = [capture.pcap(THREE), capture.pcap(THREE, ">", nanoseconds=False), WHOLE, capture.section(">") + WHOLE, b""]


@settings(max_examples=1000)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2500), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 2500),
    st.binary(max_size=64),
)
def test_whatever_a_file_holds_frames_lie_inside_it(
    seed: bytes, edits: list[tuple[int, bytes]], length: int, more: bytes
) -> None:
    data = bytearray(seed)
    for position, change in edits:
        data[position : position + len(change)] = change
    damaged = bytes(data[:length] + more)
    found = frames_until_damage(damaged)
    assert all(frame.offset + frame.length <= len(damaged) for frame in found)
    assert all(frame.offset >= 24 and frame.length >= 0 for frame in found)


@given(st.integers(0, 1800))
def test_whole_length_is_the_end_of_a_record(length: int) -> None:
    data = OUR_HEADER + capture.pcap(THREE)[24:]
    if length < 24:
        with pytest.raises(CaptureError):
            whole_length(data[:length])
    else:
        ends = [24, 24 + 16 + 60, 24 + 32 + 620, 24 + 48 + 1680]
        assert whole_length(data[:length]) == max(end for end in ends if end <= length)


def replay(arena: Arena, path: Path, limit: int, **options: object) -> list[bytes]:
    """What a port receives from a file, up to so many frames."""
    port = open_port(arena, Pcap, "p", read=str(path), **options)
    queues = Queues(arena, port)
    received: list[bytes] = []
    while len(received) < limit and (count := queues.receive()):
        received += [queues.frame(i) for i in range(count)]
    assert port.check() == ("up", "")
    port.close()
    return received


def test_replay_once(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "in.pcapng"
    path.write_bytes(WHOLE + b"".join(capture.enhanced(bytes([n]) * 100) for n in range(60)))
    expected = THREE + [bytes([n]) * 100 for n in range(60)]
    assert replay(arena, path, 1000) == expected
    port = open_port(arena, Pcap, "p", read=str(path))
    queues = Queues(arena, port)
    assert port.rx[0].fd == -1
    assert queues.pending() == 1
    assert [queues.receive() for _ in range(3)] == [32, 31, 0]
    assert queues.pending() == 0  # so the worker may sleep
    assert port.driver_stats() == {"replayed": 63}
    assert queues.packets["headroom"][0] >= 128
    port.close()


def test_replay_is_not_changed_by_what_the_bridge_does_to_headers(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture.pcap(THREE))
    port = open_port(arena, Pcap, "p", read=str(path), loop=True)
    queues = Queues(arena, port)
    for _ in range(20):
        assert queues.receive(limit=3) == 3
        for index, frame in enumerate(THREE):
            assert queues.frame(index) == frame
            head = queues.packets[index]["head"]
            ctypes.memset(int(head) - 100, 0xEE, 100 + min(len(frame), 256))
    assert queues.pending() == 1
    port.close()


def test_replay_of_an_empty_file_ends_even_in_a_loop(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture.pcap([]))
    assert replay(arena, path, 10, loop=True) == []


@pytest.mark.parametrize("rate", [400, 20_000])
def test_replay_at_a_rate(arena: Arena, tmp_path: Path, rate: int) -> None:
    count = rate // 4
    path = tmp_path / "in.pcap"
    path.write_bytes(capture.pcap([b"x" * 60] * count))
    port = open_port(arena, Pcap, "p", read=str(path), rate=rate)
    queues = Queues(arena, port)
    poller = select.epoll()
    poller.register(port.rx[0].fd, select.EPOLLIN)
    started, received, wakeups = time.monotonic(), 0, 0
    while received < count:
        assert poller.poll(2)
        wakeups += 1
        while got := queues.receive():
            received += got
    took = time.monotonic() - started
    assert 0.2 < took < 0.6
    assert wakeups <= 300
    assert port.check() == ("up", "")  # which stops the timer of a file that is exhausted
    queues.receive()
    assert not poller.poll(0.05)
    poller.close()
    port.close()


def test_written_file_is_read_by_others(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    port = open_port(arena, Pcap, "p", write=str(path))
    assert port.offloads == 0  # so that the file shows frames as on a wire
    queues = Queues(arena, port)
    expected = [bytes([index]) * (60 + 90 * index) for index in range(100)]
    before = time.time()
    for index, frame in enumerate(expected):
        queues.send(frame, split=index % 2 * 40)
    with PcapReader(str(path)) as reader:
        packets = list(reader)  # without closing: what is sent is in the file
    assert [bytes(packet) for packet in packets] == expected
    assert all(before - 1 < float(packet.time) < time.time() + 1 for packet in packets)
    assert queues.counters["tx_packets"] == 100
    assert queues.counters["tx_bytes"] == sum(map(len, expected))
    assert port.driver_stats() == {"file_bytes": path.stat().st_size}
    assert port.rx == []
    port.close()
    assert replay(arena, path, 1000) == expected


def test_bursts_are_written_whole(arena: Arena, tmp_path: Path) -> None:
    source, path = tmp_path / "in.pcap", tmp_path / "out.pcap"
    source.write_bytes(capture.pcap([bytes([n]) * 700 for n in range(32)]))
    port = open_port(arena, Pcap, "p", read=str(source), write=str(path))
    queues = Queues(arena, port)
    assert queues.receive() == 32
    queues.transmit([queues.packet_address(i) for i in range(32)])
    port.close()
    assert contents(path.read_bytes()) == [bytes([n]) * 700 for n in range(32)]


def test_file_is_continued_after_its_last_whole_record(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    for cut in (0, 5, 20):
        port = open_port(arena, Pcap, "p", write=str(path))
        queues = Queues(arena, port)
        queues.send(b"a" * 60)
        queues.send(b"b" * 60)
        port.close()
        os.truncate(path, path.stat().st_size - cut)
    data = path.read_bytes()
    assert [frame[:1] for frame in contents(data[: whole_length(data)])] == [b"a", b"b", b"a", b"a"]


def test_full_disk(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    port = open_port(arena, Pcap, "p", write=str(path))
    queues = Queues(arena, port)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        for _ in range(6):
            queues.send(b"x" * 300)
        assert port.check()[0] == "error"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert queues.drops() == {"tx_rejected": 3}
    assert contents(path.read_bytes()) == [b"x" * 300] * 3
    queues.send(b"y" * 300)
    assert port.check() == ("up", "")
    port.close()
    assert contents(path.read_bytes()) == [b"x" * 300] * 3 + [b"y" * 300]


def test_port_that_only_reads_counts_what_is_sent_to_it(arena: Arena, tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(capture.pcap(THREE))
    port = open_port(arena, Pcap, "p", read=str(path))
    queues = Queues(arena, port)
    queues.send(b"x" * 60)
    assert queues.drops() == {"not_written": 1}
    port.close()


def test_errors_name_the_port_and_the_file(arena: Arena, tmp_path: Path) -> None:
    bad, long, text = tmp_path / "bad.pcap", tmp_path / "long.pcap", tmp_path / "notes.txt"
    bad.write_bytes(capture.pcap(THREE)[:-1])
    long.write_bytes(capture.pcap([bytes(70000)]))
    text.write_text("not a capture")
    wrong = [
        ({}, "needs option 'read' or 'write'"),
        ({"read": str(tmp_path / "none")}, "cannot be read: No such file"),
        ({"read": str(tmp_path)}, "cannot be read: Is a directory"),
        ({"read": str(bad)}, f"file '{bad}', offset 676: a frame of 1060 bytes"),
        ({"read": str(long)}, f"file '{long}', offset 40: a frame of 70000 bytes"),
        ({"write": str(text)}, f"file '{text}' exists and will not be overwritten: offset 0"),
        ({"write": str(tmp_path / "none" / "out.pcap")}, "cannot be written: No such file"),
        ({"write": "/dev/null"}, "'/dev/null' is not a regular file"),
        ({"read": str(bad), "write": str(tmp_path / "x" / ".." / "bad.pcap")}, "cannot be both read and written"),
    ]
    for options, message in wrong:
        with pytest.raises(PortError, match="port 'p'") as caught:
            open_port(arena, Pcap, "p", **options)
        assert message in str(caught.value)
    assert text.read_text() == "not a capture"


def test_pcapng_of_scapy(tmp_path: Path) -> None:
    """The same frames as another reader finds in a file of several interfaces."""
    path = tmp_path / "in.pcapng"
    path.write_bytes(WHOLE)
    with PcapNgReader(str(path)) as reader:
        assert [bytes(packet) for packet in reader] == contents(WHOLE)

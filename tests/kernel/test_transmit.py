"""Transmit between dummy ports of different offloads: segments, checksums and the MTU, as a receiver sees them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from naive import transmit as naive
from scapy.all import IP, TCP, UDP, Dot1Q, Ether, IPv6, Packet, raw

from penstock.datapath.layout import (
    FLAG_CSUM_PARTIAL,
    FLAG_CSUM_VALID,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    OFFLOAD_CSUM,
)
from penstock.engine.engine import Engine
from penstock.engine.warm import warm
from penstock.ports.dummy import Frame
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig
from tests.engine.support import add_dummy, clear, counters, drops, dummy, frame, mac, send, sent, tagged

ALL = 31
DATA = random.Random(2).randbytes(65000)


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    warm(lambda done, total, name: None)
    engine = Engine(workers=1, arena_bytes=256 << 20)
    yield engine
    engine.stop()


@pytest.fixture
def engine(running: Engine) -> Iterator[Engine]:
    """A bridge with the sender "in" and ports that can nothing, checksums only, and all."""
    running.add_bridge(BridgeSpec("br0"))
    add_dummy(running, "in")
    add_dummy(running, "none")
    add_dummy(running, "csum", offloads=OFFLOAD_CSUM)
    add_dummy(running, "all", offloads=ALL)
    yield running
    clear(running)


def partial(packet: Packet, gso_type: int = 0, gso_size: int = 0) -> Frame:
    """The frame as a kernel hands it over: the checksum field holds the pseudo header's sum, the rest is to be done."""
    layer = TCP if TCP in packet else UDP
    data = bytearray(raw(packet))
    whole = Ether(bytes(data))
    start = len(data) - len(raw(whole[layer]))
    at = start + (16 if layer is TCP else 6)
    size = len(data) - start
    proto = 6 if layer is TCP else 17
    if IP in whole:
        ip = raw(whole[IP])
        pseudo = ip[12:20] + proto.to_bytes(2, "big") + size.to_bytes(2, "big")
    else:
        ip = raw(whole[IPv6])
        pseudo = ip[8:40] + size.to_bytes(4, "big") + proto.to_bytes(4, "big")
    total = sum(int.from_bytes(pseudo[i : i + 2], "big") for i in range(0, len(pseudo), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 2] = total.to_bytes(2, "big")
    return Frame(bytes(data), start, at - start, gso_size, gso_type, FLAG_CSUM_PARTIAL)


def large(layer4: Packet, six: bool, size: int, vlan: int = 0) -> Packet:
    ether = Ether(dst=mac(2).hex(":"), src=mac(1).hex(":"))
    ip = IPv6(src="2001:db8::1", dst="2001:db8::2") if six else IP(src="10.0.0.1", dst="10.0.0.2", id=65530)
    return ether / (Dot1Q(vlan=vlan, prio=5) / ip if vlan else ip) / layer4 / DATA[:size]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("size", [1, 1400, 1401, 2800, 64000])
@pytest.mark.parametrize("vlan", [0, 7])
def test_tcp_is_split_for_ports_that_cannot(engine: Engine, six: bool, size: int, vlan: int) -> None:
    options = [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]
    packet = large(TCP(seq=0xFFFFF000, flags="PA", sport=1, dport=2, options=options), six, size, vlan)
    whole = partial(packet, GSO_TCPV6 if six else GSO_TCPV4, 1400)
    send(engine, "in", [whole])
    (passed,) = dummy(engine, "all").transmitted()
    assert passed == whole
    for port in ("none", "csum"):
        frames = sent(engine, port)
        assert len(frames) == -(-size // 1400)
        assert naive.stream(frames) == DATA[:size]
        assert [Ether(each)[TCP].flags.P for each in frames] == [False] * (len(frames) - 1) + [True]
        assert counters(engine, port)["tx_packets"] == len(frames)
        assert counters(engine, port)["tx_bytes"] == sum(map(len, frames))
        if vlan:
            assert {each[12:16] for each in frames} == {bytes.fromhex("8100a007")}


@pytest.mark.parametrize("six", [False, True])
def test_uso_and_ufo(engine: Engine, six: bool) -> None:
    send(engine, "in", [partial(large(UDP(sport=1, dport=2), six, 5000), GSO_UDP_L4, 1200)])
    frames = sent(engine, "none")
    assert naive.datagrams(frames) == [DATA[at : min(at + 1200, 5000)] for at in range(0, 5000, 1200)]
    send(engine, "in", [partial(large(UDP(sport=1, dport=2), six, 9000), GSO_UDP, 1400)])
    frames = sent(engine, "none")
    assert len(frames) == 7
    assert naive.datagram(frames) == DATA[:9000]
    assert [each.gso_type for each in dummy(engine, "all").transmitted()] == [GSO_UDP_L4, GSO_UDP]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("layer", [TCP, UDP])
@pytest.mark.parametrize("size", [0, 1, 201, 1400])
@pytest.mark.parametrize("vlan", [0, 7])
def test_checksums_are_finished_for_ports_that_cannot(
    engine: Engine, six: bool, layer: type[Packet], size: int, vlan: int
) -> None:
    whole = partial(large(layer(sport=1, dport=2), six, size, vlan))
    send(engine, "in", [whole])
    for port in ("csum", "all"):
        (passed,) = dummy(engine, port).transmitted()
        assert passed == whole or passed.flags == FLAG_CSUM_VALID
    (finished,) = dummy(engine, "none").transmitted()
    assert finished.flags == FLAG_CSUM_VALID
    assert naive.payload(naive.check(finished.data)) == DATA[:size]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("size", [100, 5000])
def test_offload_positions_move_with_the_tag(engine: Engine, six: bool, size: int) -> None:
    """Untagged in, tagged out by one port and untagged by another, with and without offloads."""
    for name, vlan, offloads in (
        ("from", VlanConfig("access", 9), 0),
        ("to9", VlanConfig("access", 9), ALL),
        ("trunk", VlanConfig("trunk", trunks=(9,)), ALL),
        ("soft9", VlanConfig("access", 9), 0),
        ("soft", VlanConfig("trunk", trunks=(9,)), 0),
    ):
        add_dummy(engine, name, vlan, offloads=offloads)
    packet = large(TCP(sport=1, dport=2, seq=5), six, size)
    whole = partial(packet, (GSO_TCPV6 if six else GSO_TCPV4) if size > 1400 else 0, 1400 if size > 1400 else 0)
    send(engine, "from", [whole])
    (plain,) = dummy(engine, "to9").transmitted()
    (with_tag,) = dummy(engine, "trunk").transmitted()
    soft, soft9 = sent(engine, "soft"), sent(engine, "soft9")
    # Ports that want the same form share it: once a checksum is finished for one, it is for all.
    assert plain.data == (whole.data if plain.flags == FLAG_CSUM_PARTIAL else soft9[0])
    assert with_tag.data == (tagged(whole.data, 9) if with_tag.flags == FLAG_CSUM_PARTIAL else soft[0])
    assert plain.csum_start == whole.csum_start
    assert with_tag.csum_start == whole.csum_start + 4
    assert with_tag.gso_size == whole.gso_size
    assert naive.stream(soft) == naive.stream(soft9) == DATA[:size]
    assert soft == [tagged(each, 9) for each in soft9]
    back = Frame(tagged(whole.data, 9), with_tag.csum_start, 16, whole.gso_size, whole.gso_type, FLAG_CSUM_PARTIAL)
    send(engine, "trunk", [back])
    assert sent(engine, "soft9") == soft9


def test_through_two_patches(engine: Engine) -> None:
    """A large packet that gets a tag in one bridge and loses it in the third, where software splits it."""
    for bridge in ("br1", "br2"):
        engine.add_bridge(BridgeSpec(bridge))
    trunk, access = VlanConfig("trunk"), VlanConfig("access", 9)
    add_dummy(engine, "a", access)
    for bridge, name, peer in (("br0", "p", "q"), ("br1", "q", "p"), ("br1", "r", "s"), ("br2", "s", "r")):
        engine.add_port(PortSpec(bridge, name, "patch", {"peer": peer}, trunk))
    for name in ("x", "y"):
        add_dummy(engine, name, access, "br2")
    add_dummy(engine, "z", trunk, "br2")
    whole = partial(large(TCP(sport=1, dport=2), False, 30000), GSO_TCPV4, 1448)
    for _ in range(2):
        send(engine, "a", [whole])
        assert naive.stream(sent(engine, "x")) == naive.stream(sent(engine, "y")) == DATA[:30000]
        assert naive.stream([each[:12] + each[16:] for each in sent(engine, "z")]) == DATA[:30000]
        # The answer teaches all bridges the way, so that the next one is no flood until the last bridge.
        send(engine, "x", [frame(mac(1), mac(3))])
        for port in ("a", "y", "z"):
            sent(engine, port)
        whole = Frame(mac(9) + whole.data[6:], *list(vars(whole).values())[1:])


@pytest.mark.parametrize(("bytes_", "passes"), [(1500, True), (1501, False)])
def test_the_mtu_counts_what_is_behind_the_tags(engine: Engine, bytes_: int, passes: bool) -> None:
    for data in (frame(mac(2), mac(1), bytes(bytes_)), tagged(frame(mac(2), mac(1), bytes(bytes_)), 5)):
        send(engine, "in", [data])
        assert sent(engine, "none") == ([data] if passes else [])
    assert drops(engine, "none") == ({} if passes else {"mtu_exceeded": 2})
    assert counters(engine, "none")["tx_packets"] == 2 * passes


def test_a_changed_mtu_holds_at_once(engine: Engine) -> None:
    data = frame(mac(2), mac(1), bytes(600))
    for mtu, passes in ((599, False), (600, True)):
        engine.set_port(PortSpec("br0", "none", "dummy", engine.ports["none"].spec.options, VlanConfig(), mtu))
        send(engine, "in", [data])
        assert sent(engine, "none") == ([data] if passes else [])
    assert drops(engine, "none") == {"mtu_exceeded": 1}


@pytest.mark.parametrize("port", ["none", "all"])
def test_segments_that_exceed_the_mtu_are_dropped_whole(engine: Engine, port: str) -> None:
    send(engine, "in", [partial(large(TCP(), False, 5000), GSO_TCPV4, 1461)])
    assert sent(engine, port) == []
    assert drops(engine, port) == {"mtu_exceeded": 1}


@pytest.mark.parametrize(
    "change",
    [{"gso_type": GSO_TCPV6}, {"gso_type": GSO_UDP_L4}, {"gso_size": 0}, {"data": frame(mac(2), mac(1), bytes(50))}],
)
def test_what_software_cannot_split_is_dropped(engine: Engine, change: dict[str, object]) -> None:
    whole = partial(large(TCP(), False, 3000), GSO_TCPV4, 1000)
    send(engine, "in", [Frame(**{**vars(whole), **change})])  # type: ignore[arg-type]
    assert sent(engine, "none") == []
    assert sum(drops(engine, "none").values()) == 1
    assert set(drops(engine, "none")) <= {"cannot_finish", "mtu_exceeded"}


@pytest.mark.parametrize(("start", "offset"), [(5000, 16), (90, 16), (54, 65000)])
def test_a_checksum_outside_the_frame_is_not_written(engine: Engine, start: int, offset: int) -> None:
    send(engine, "in", [Frame(frame(mac(2), mac(1), bytes(60)), start, offset, 0, 0, FLAG_CSUM_PARTIAL)])
    assert sent(engine, "none") == []
    assert drops(engine, "none") == {"cannot_finish": 1}


def test_a_burst_keeps_its_order(engine: Engine) -> None:
    small = [frame(mac(2), mac(1), bytes([number]) * 50) for number in range(40)]
    burst: list[Frame | bytes] = [*small[:3], partial(large(TCP(), False, 60000), GSO_TCPV4, 1000), *small[3:30]]
    burst += [frame(mac(2), mac(1), bytes(1600)), partial(large(UDP(), False, 100)), *small[30:]]
    send(engine, "in", burst)
    frames = sent(engine, "none")
    assert [each for each in frames if len(each) == 64] == small
    assert frames[:3] == small[:3]
    assert naive.stream(frames[3:63]) == DATA[:60000]
    assert drops(engine, "none") == {"mtu_exceeded": 1}


def test_a_full_receiver_is_counted(engine: Engine) -> None:
    data = [Frame(frame(mac(2), mac(1), bytes(1400)))] * 3500
    send(engine, "in", data)
    kept = len(sent(engine, "all"))
    assert 0 < kept < 3500
    assert counters(engine, "all")["tx_packets"] == kept
    assert drops(engine, "all") == {"tx_ring_full": 3500 - kept}

"""What ovs-ofctl says to Open vSwitch, recorded, said to a session: its answers against those of Open vSwitch.

The recordings and how they were made: tests/captures/README.md. What may differ is listed in UNLIKE and ENTRIES, each
with its reason; all else is equal to the byte, but for times and counters.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.openflow.match import port_32
from penstock.openflow.ports import OfPort
from penstock.openflow.stats import (
    DESC,
    EXPERIMENTER,
    FLOW,
    GROUP,
    GROUP_DESC,
    GROUP_FEATURES,
    METER,
    METER_CONFIG,
    METER_FEATURES,
    NX_FLOW,
    PORT,
    PORT_DESC,
    TABLE,
)
from penstock.openflow.wire import OF10, OF13, TYPES, Raw, Stream, Type
from tests.unit.openflow_support import FakeHost

TCP = pytest.importorskip("scapy.layers.inet", reason="scapy is not installed").TCP
PcapReader = pytest.importorskip("scapy.utils").PcapReader

CAPTURES = Path(__file__).parents[1] / "captures"
FILES = {OF10: CAPTURES / "openflow10.pcap", OF13: CAPTURES / "openflow13.pcap"}
# Statistics in which switches tell of themselves.
UNLIKE = {
    DESC: "who made the switch",
    TABLE: "names, and bits of what can be matched",
    PORT: "counters; ours is told of no errors",
    GROUP_FEATURES: "actions in buckets: ours has copies of TTLs",
    METER_FEATURES: "numbers; ours has DSCP remark",
}
# Flow entries that are told in another way, by priority.
ENTRIES = {
    OF10: {232: "the order of MPLS's fields"},
    OF13: {232: "the order of MPLS's fields"},
}
ENTRY_AT = {OF10: 16, OF13: 8}  # behind the heads of NXST_FLOW and of OFPMP_FLOW


def conversations(file: Path) -> list[tuple[list[Raw], list[Raw]]]:
    """What ovs-ofctl and the switch said, a pair for each connection, hellos left out."""
    parts: dict[int, tuple[dict[int, bytes], dict[int, bytes]]] = defaultdict(lambda: ({}, {}))
    with PcapReader(str(file)) as reader:
        for packet in reader:
            if TCP in packet and bytes(packet[TCP].payload):
                tcp = packet[TCP]
                asked = tcp.dport == 6653
                parts[tcp.sport if asked else tcp.dport][0 if asked else 1][tcp.seq] = bytes(tcp.payload)
    return [
        (messages(b"".join(data for _, data in sorted(asked.items()))),
         messages(b"".join(data for _, data in sorted(said.items()))))
        for asked, said in parts.values()
    ]  # fmt: skip


def messages(data: bytes) -> list[Raw]:
    """All but the hello that they begin with."""
    hello, *others = Stream().feed(data)
    assert hello.number == Type.HELLO
    return others


def kind_of(raw: Raw) -> Type:
    return TYPES[raw.version][raw.number]


def statistic(raw: Raw) -> int:
    return int(struct.unpack_from("!H", raw.body)[0])


def recorded_ports(talk: list[tuple[list[Raw], list[Raw]]]) -> dict[int, OfPort]:
    """The ports that Open vSwitch told of."""
    for _, said in talk:
        for raw in said:
            if kind_of(raw) == Type.FEATURES_REPLY and raw.version == OF10:
                rows = [struct.unpack_from("!H6s16sII", raw.body, at) for at in range(24, len(raw.body), 48)]
                return {port_32(row[0]): _port(port_32(row[0]), row[1], row[2], row[4]) for row in rows}
            if kind_of(raw) == Type.MULTIPART_REPLY and statistic(raw) == PORT_DESC:
                rows = [struct.unpack_from("!I4x6s2x16sII", raw.body, at) for at in range(8, len(raw.body), 64)]
                return {row[0]: _port(row[0], row[1], row[2], row[4]) for row in rows}
    raise AssertionError("no message describes the ports")


def _port(number: int, mac: bytes, name: bytes, state: int) -> OfPort:
    return OfPort(number, name.rstrip(b"\0").decode(), mac.hex(":"), not state & 1)


def entries(raw: Raw) -> dict[int, bytes]:
    """Flow entries by priority, their ages and counters blanked."""
    found: dict[int, bytes] = {}
    for part in _parts(bytes(raw.body[ENTRY_AT[raw.version] :])):
        entry = bytearray(part)
        entry[4:12] = bytes(8)
        entry[32:48] = bytes(16)
        if raw.version == OF10:
            entry[20:24] = bytes(4)
        (priority,) = struct.unpack_from("!H", entry, 12)
        found[priority] = bytes(entry)
    return found


def blanked(raw: Raw) -> bytes:
    """A message without what differs from run to run."""
    data = bytearray(raw.data)
    kind = kind_of(raw)
    if kind == Type.ERROR:
        return bytes(data[:2] + data[4 : 12 + 64])  # how much of the message comes back is free, from 64 bytes on
    if kind == Type.FEATURES_REPLY:
        # Datapath id, buffers, capabilities and actions; of ports what they advertise.
        return struct.pack("!HB", raw.number, raw.body[12])
    if kind == Type.MULTIPART_REPLY and raw.version == OF13:
        if statistic(raw) == PORT_DESC:
            # In no order; without what they advertise.
            return bytes(data[:16]) + b"".join(sorted(bytes(data[at : at + 32]) for at in range(16, len(data), 64)))
        elif statistic(raw) == GROUP_DESC:
            return bytes(data[:16]) + b"".join(sorted(_parts(bytes(data[16:]))))
        elif statistic(raw) in (GROUP, METER):
            data[16 + 32 : 16 + 40] = bytes(8)
        elif statistic(raw) == METER_CONFIG:
            data[-8:-4] = bytes(4)  # Open vSwitch tells a burst, of a second, where none was given
    return bytes(data)


def _parts(data: bytes) -> Iterator[bytes]:
    """What begins with its length in two bytes."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        yield data[at : at + size]
        at += size


def is_flows(raw: Raw) -> bool:
    if kind_of(raw) != Type.MULTIPART_REPLY:
        return False
    if raw.version == OF13:
        return statistic(raw) == FLOW
    return statistic(raw) == EXPERIMENTER and struct.unpack_from("!4xII", raw.body)[1] == NX_FLOW


def compare(ours: Raw, theirs: Raw, seen: Counter[str]) -> None:
    """Assert that two answers are alike; counts by what they are."""
    kind = kind_of(theirs)
    assert (kind_of(ours), ours.xid) == (kind, theirs.xid)
    if is_flows(theirs):
        mine, other = entries(ours), entries(theirs)
        assert mine.keys() == other.keys()
        unlike = ENTRIES[theirs.version]
        assert {key: mine[key] for key in mine if key not in unlike} == {
            key: other[key] for key in other if key not in unlike
        }
        seen["flow entries"] += len(mine.keys() - unlike.keys())
    elif kind == Type.MULTIPART_REPLY and statistic(theirs) in UNLIKE:
        assert statistic(ours) == statistic(theirs)
        seen["own affairs"] += 1
    else:
        assert blanked(ours) == blanked(theirs)
        seen[kind.name] += 1


@pytest.fixture
def host() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


EXPECTED = {
    OF10: {"BARRIER_REPLY": 105, "ERROR": 1, "FEATURES_REPLY": 2, "GET_CONFIG_REPLY": 5, "ECHO_REPLY": 1,
           "MULTIPART_REPLY": 3, "own affairs": 3, "flow entries": 177},
    OF13: {"BARRIER_REPLY": 114, "ERROR": 1, "FEATURES_REPLY": 1, "GET_CONFIG_REPLY": 5, "ECHO_REPLY": 1,
           "EXPERIMENTER": 2, "MULTIPART_REPLY": 11, "own affairs": 4, "flow entries": 287},
}  # fmt: skip


@pytest.mark.parametrize("version", [OF10, OF13])
def test_answers_are_those_of_open_vswitch(host: FakeHost, version: int) -> None:
    talk = conversations(FILES[version])
    host.ports = recorded_ports(talk)
    seen: Counter[str] = Counter()
    for asked, said in talk:
        answers = messages(host.talk(b"".join(raw.data for raw in asked), version))
        told = [(kind_of(raw).name, raw.xid) for raw in answers]
        assert told == [(kind_of(raw).name, raw.xid) for raw in said]
        for ours, theirs in zip(answers, said, strict=True):
            compare(ours, theirs, seen)
    assert dict(seen) == EXPECTED[version]

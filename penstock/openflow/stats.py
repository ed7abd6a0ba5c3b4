"""Statistics (1.0: stats, 1.3: multipart): requests read, replies written, cut where a message would be too long.

OpenFlow 1.0.2, section 5.3.5; 1.3.5, section 7.3.5; NXST_FLOW and NXST_AGGREGATE of Open vSwitch's nicira-ext.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from penstock.engine.flow_tables import FlowEntry
from penstock.machine import monotonic_ns
from penstock.openflow.actions10 import to_10
from penstock.openflow.bridge import ANY_PORT, OpenFlowBridge, Select
from penstock.openflow.match import Match, decode_13, decode_tlvs, encode_13, encode_tlvs, port_32
from penstock.openflow.match10 import MATCH_10, decode_10, encode_10
from penstock.openflow.wire import BAD_LEN, OF10, ErrorType, OpenFlowError, Type, message

DESC, FLOW, AGGREGATE, TABLE, PORT, QUEUE, GROUP, GROUP_DESC, GROUP_FEATURES, METER, METER_CONFIG, METER_FEATURES = (
    range(12)
)
TABLE_FEATURES, PORT_DESC, EXPERIMENTER = 12, 13, 0xFFFF
NX_FLOW, NX_AGGREGATE = 0, 1
MORE = 1
PART_MAX = 60000
NANOSECONDS = 1_000_000_000
NONE_16 = 0xFFFF


def parts(version: int, xid: int, kind: int, entries: Iterable[bytes], prefix: bytes = b"") -> Iterator[bytes]:
    """The replies that hold all entries; each begins with ``prefix``."""
    body = bytearray()
    padding = b"" if version == OF10 else bytes(4)

    def reply(flags: int) -> bytes:
        return message(version, Type.MULTIPART_REPLY, xid, struct.pack("!HH", kind, flags) + padding + prefix + body)

    for each in entries:
        if len(body) + len(each) > PART_MAX:
            yield reply(MORE)
            body.clear()
        body += each
    yield reply(0)


def _short(body: memoryview, size: int) -> None:
    if len(body) < size:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"a request of {len(body)} bytes, not {size}")


def select_10(body: memoryview) -> Select:
    """Of a flow or aggregate request of 1.0."""
    _short(body, MATCH_10.size + 4)
    table, port = struct.unpack_from("!BxH", body, MATCH_10.size)
    return Select(table, decode_10(body, 0), out_port=ANY_PORT if port == NONE_16 else port_32(port))


def select_nx(body: memoryview) -> Select:
    """Of an NXST_FLOW or NXST_AGGREGATE request."""
    _short(body, 8)
    port, length, table = struct.unpack_from("!HHB", body)
    _short(body, 8 + length)
    return Select(table, decode_tlvs(body[8 : 8 + length]), out_port=ANY_PORT if port == NONE_16 else port_32(port))


def select_13(body: memoryview) -> Select:
    """Of a flow or aggregate request of 1.3."""
    _short(body, 32)
    table, port, group, cookie, mask = struct.unpack_from("!B3xII4xQQ", body)
    match, _ = decode_13(body, 32)
    return Select(table, match, cookie, mask, port, group)


def _duration(entry: FlowEntry, now: int) -> tuple[int, int]:
    spent = max(0, now - entry.created)
    return spent // NANOSECONDS, spent % NANOSECONDS


def flow_10(bridge: OpenFlowBridge, entry: FlowEntry, now: int) -> bytes:
    """ofp_flow_stats of 1.0."""
    packets, octets, _ = bridge.region.count(entry.number)
    actions = to_10(bridge.instructions(entry))
    head = struct.pack("!HBx", 4 + 40 + 44 + len(actions), entry.table)
    rest = struct.pack(
        "!IIHHH6xQQQ", *_duration(entry, now), entry.priority, entry.idle, entry.hard, entry.cookie, packets, octets
    )
    return head + encode_10(Match(entry.key, entry.mask)) + rest + actions


def flow_nx(bridge: OpenFlowBridge, entry: FlowEntry, now: int) -> bytes:
    """nx_flow_stats."""
    packets, octets, used = bridge.region.count(entry.number)
    actions = to_10(bridge.instructions(entry))
    match = encode_tlvs(Match(entry.key, entry.mask), nxm=True)
    idle_age = min(0xFFFF, max(0, now // NANOSECONDS - (used or entry.created // NANOSECONDS)) + 1)
    hard_age = min(0xFFFF, max(0, now - entry.modified) // NANOSECONDS + 1)
    padded = match + bytes(-len(match) % 8)
    head = struct.pack(
        "!HBxIIHHHHHHQQQ", 48 + len(padded) + len(actions), entry.table, *_duration(entry, now), entry.priority,
        entry.idle, entry.hard, len(match), idle_age, hard_age, entry.cookie, packets, octets,
    )  # fmt: skip
    return head + padded + actions


def flow_13(bridge: OpenFlowBridge, entry: FlowEntry, now: int) -> bytes:
    """ofp_flow_stats of 1.3."""
    packets, octets, _ = bridge.region.count(entry.number)
    body = encode_13(Match(entry.key, entry.mask)) + bridge.instructions(entry)
    head = struct.pack(
        "!HBxIIHHHH4xQQQ", 48 + len(body), entry.table, *_duration(entry, now), entry.priority, entry.idle,
        entry.hard, entry.flags, entry.cookie, packets, octets,
    )  # fmt: skip
    return head + body


def aggregate(bridge: OpenFlowBridge, select: Select) -> bytes:
    """Packets, bytes and number of the selected flows: the body of every version's aggregate reply."""
    packets = octets = count = 0
    for entry in bridge.flows(select):
        of_flow = bridge.region.count(entry.number)
        packets, octets, count = packets + of_flow[0], octets + of_flow[1], count + 1
    return struct.pack("!QQI4x", packets, octets, count)


def tables(version: int, bridge: OpenFlowBridge) -> Iterator[bytes]:
    """One entry for each table."""
    counts: dict[int, int] = {}
    for entry in bridge.tables.scan():
        counts[entry.table] = counts.get(entry.table, 0) + 1
    for table, (lookups, matched) in enumerate(bridge.tables.table_counters()[:255]):
        if version == OF10:
            name = (b"classifier" if table == 0 else b"table%d" % table).ljust(32, b"\0")
            yield struct.pack(
                "!B3x32sIIIQQ", table, name, (1 << 22) - 1, 1_000_000, counts.get(table, 0), lookups, matched
            )
        else:
            yield struct.pack("!B3xIQQ", table, counts.get(table, 0), lookups, matched)


def now_ns() -> int:
    return int(monotonic_ns())

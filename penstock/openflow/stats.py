"""Statistics (1.0: stats, 1.3: multipart): requests read, replies written, cut where a message would be too long.

OpenFlow 1.0.2, section 5.3.5; 1.3.5, section 7.3.5; NXST_FLOW and NXST_AGGREGATE of Open vSwitch's nicira-ext.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version as package_version

from penstock.engine.flow_tables import FlowEntry
from penstock.machine import monotonic_ns
from penstock.openflow import groups, meters
from penstock.openflow import ports as port_codec
from penstock.openflow.actions10 import to_10
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import ANY_PORT, Select
from penstock.openflow.match import Match, decode_13, decode_tlvs, encode_13, encode_tlvs, port_32, split_cookie
from penstock.openflow.match10 import MATCH_10, decode_10, encode_10
from penstock.openflow.monitor import NXST_FLOW_MONITOR, decode, initial
from penstock.openflow.session import Session
from penstock.openflow.table_features import table_features
from penstock.openflow.wire import (
    BAD_EXP_TYPE,
    BAD_EXPERIMENTER,
    BAD_LEN,
    BAD_MULTIPART,
    BAD_PORT,
    NANOSECONDS,
    NICIRA_ID,
    OF10,
    OF13,
    ErrorType,
    OpenFlowError,
    Raw,
    Type,
    duration,
    message,
)

DESC, FLOW, AGGREGATE, TABLE, PORT, QUEUE, GROUP, GROUP_DESC, GROUP_FEATURES, METER, METER_CONFIG, METER_FEATURES = (
    range(12)
)
TABLE_FEATURES, PORT_DESC, EXPERIMENTER = 12, 13, 0xFFFF
NX_FLOW, NX_AGGREGATE = 0, 1
MORE = 1
PART_MAX = 60000
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
    tlvs, cookie = split_cookie(body[8 : 8 + length])
    value, mask = cookie or (0, 0)
    return Select(table, decode_tlvs(tlvs), value, mask, ANY_PORT if port == NONE_16 else port_32(port))


def select_13(body: memoryview) -> Select:
    """Of a flow or aggregate request of 1.3."""
    _short(body, 32)
    table, port, group, cookie, mask = struct.unpack_from("!B3xII4xQQ", body)
    match, _ = decode_13(body, 32)
    return Select(table, match, cookie, mask, port, group)


def flow_10(bridge: OpenFlowBridge, entry: FlowEntry, now: int) -> bytes:
    """ofp_flow_stats of 1.0."""
    packets, octets, _ = bridge.region.count(entry.number)
    actions = to_10(bridge.instructions(entry))
    head = struct.pack("!HBx", 4 + 40 + 44 + len(actions), entry.table)
    rest = struct.pack(
        "!IIHHH6xQQQ",
        *duration(now - entry.created),
        entry.priority,
        entry.idle,
        entry.hard,
        entry.cookie,
        packets,
        octets,
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
        "!HBxIIHHHHHHQQQ", 48 + len(padded) + len(actions), entry.table, *duration(now - entry.created), entry.priority,
        entry.idle, entry.hard, len(match), idle_age, hard_age, entry.cookie, packets, octets,
    )  # fmt: skip
    return head + padded + actions


def flow_13(bridge: OpenFlowBridge, entry: FlowEntry, now: int) -> bytes:
    """ofp_flow_stats of 1.3."""
    packets, octets, _ = bridge.region.count(entry.number)
    body = encode_13(Match(entry.key, entry.mask)) + bridge.instructions(entry)
    head = struct.pack(
        "!HBxIIHHHH4xQQQ", 48 + len(body), entry.table, *duration(now - entry.created), entry.priority, entry.idle,
        entry.hard, entry.flags, entry.cookie, packets, octets,
    )  # fmt: skip
    return head + body


def _written(
    bridge: OpenFlowBridge, select: Select, write: Callable[[OpenFlowBridge, FlowEntry, int], bytes]
) -> Iterator[bytes]:
    """The selected flows in a version's form. Others have a turn between the messages that they fill."""
    now = int(monotonic_ns())
    for some in bridge.flows(select):
        yield from [write(bridge, entry, now) for entry in some]


def aggregate(bridge: OpenFlowBridge, select: Select) -> bytes:
    """Packets, bytes and number of the selected flows: the body of every version's aggregate reply."""
    packets = octets = count = 0
    for some in bridge.flows(select):
        for entry in some:
            of_flow = bridge.region.count(entry.number)
            packets, octets, count = packets + of_flow[0], octets + of_flow[1], count + 1
    return struct.pack("!QQI4x", packets, octets, count)


def tables(version: int, bridge: OpenFlowBridge) -> Iterator[bytes]:
    """One entry for each table."""
    for table, (lookups, matched) in enumerate(bridge.tables.table_counters()):
        if version == OF10:
            name = (b"classifier" if table == 0 else b"table%d" % table).ljust(32, b"\0")
            yield struct.pack(
                "!B3x32sIIIQQ",
                table,
                name,
                (1 << 22) - 1,
                bridge.limit_of(table),
                bridge.count_of(table),
                lookups,
                matched,
            )
        else:
            yield struct.pack("!B3xIQQ", table, bridge.count_of(table), lookups, matched)


async def _ports(session: Session, body: memoryview) -> Iterable[bytes]:
    version = session.version
    (wanted,) = struct.unpack_from("!H" if version == OF10 else "!I", body)
    wanted = port_32(wanted) if version == OF10 else wanted
    now = int(monotonic_ns())
    ports = [port for port in await session.host.read_ports() if wanted in (ANY_PORT, port.number)]
    if not ports and wanted != ANY_PORT:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_PORT, f"port {wanted} does not exist")
    return [port_codec.statistics(version, port, now) for port in ports]


async def answer(session: Session, raw: Raw) -> Iterable[bytes]:
    """The replies to a request for statistics. Raises OpenFlowError."""
    version, xid = session.version, raw.xid
    kind, _flags = struct.unpack_from("!HH", raw.body)
    body = raw.body[4 if version == OF10 else 8 :]
    bridge = session.host.bridge
    if kind == PORT:
        return parts(version, xid, kind, await _ports(session, body))
    if kind == EXPERIMENTER:
        return _nicira(session, raw, body)
    if kind == FLOW:
        chosen = select_10(body) if version == OF10 else select_13(body)
        write = flow_10 if version == OF10 else flow_13
        return parts(version, xid, kind, _written(bridge, chosen, write))
    if kind == AGGREGATE:
        return parts(version, xid, kind, [aggregate(bridge, select_10(body) if version == OF10 else select_13(body))])
    if kind == DESC:
        return parts(version, xid, kind, [_description(bridge)])
    if kind == TABLE:
        return parts(version, xid, kind, tables(version, bridge))
    if kind == QUEUE:
        return parts(version, xid, kind, [])
    if kind == PORT_DESC:  # of 1.3, and Open vSwitch's own in 1.0
        entries = [port_codec.describe(version, port) for _, port in sorted(session.host.ports.items())]
        return parts(version, xid, kind, entries)
    if version == OF13 and kind in REQUESTS_13:
        # Whole, for others have a turn between the messages, and a group may be gone then.
        return parts(version, xid, kind, list(REQUESTS_13[kind](session, body)))
    raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_MULTIPART, f"statistics of type {kind} are not there")


REQUESTS_13: dict[int, Callable[[Session, memoryview], Iterable[bytes]]] = {
    GROUP: lambda session, body: groups.group_stats(session.host.bridge, body),
    GROUP_DESC: lambda session, _body: groups.group_descriptions(session.host.bridge),
    GROUP_FEATURES: lambda _session, _body: [groups.group_features()],
    METER: lambda session, body: meters.meter_stats(session.host.bridge, body),
    METER_CONFIG: lambda session, body: meters.meter_configs(session.host.bridge, body),
    METER_FEATURES: lambda _session, _body: [meters.meter_features()],
    TABLE_FEATURES: lambda session, _body: table_features(session.host.bridge.limit_of),
}


def _description(bridge: OpenFlowBridge) -> bytes:
    texts = (("Penstock", 256), ("Penstock", 256), (package_version("penstock"), 256), ("None", 32), (bridge.name, 256))
    return b"".join(text.encode().ljust(size, b"\0") for text, size in texts)


def _nicira(session: Session, raw: Raw, body: memoryview) -> Iterable[bytes]:
    vendor, subtype = struct.unpack_from("!II", body)
    if vendor != NICIRA_ID:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXPERIMENTER, f"experimenter {vendor:#x} is unknown")
    # In 1.0 the header of Nicira's statistics has 4 bytes of padding.
    start, prefix = (12, struct.pack("!II4x", vendor, subtype)) if session.version == OF10 else (8, bytes(body[:8]))
    bridge = session.host.bridge
    if subtype == NX_FLOW:
        entries = _written(bridge, select_nx(body[start:]), flow_nx)
        return parts(session.version, raw.xid, EXPERIMENTER, entries, prefix)
    if subtype == NX_AGGREGATE:
        return parts(session.version, raw.xid, EXPERIMENTER, [aggregate(bridge, select_nx(body[start:]))], prefix)
    if subtype == NXST_FLOW_MONITOR:
        monitors = decode(body[start:])
        for each in monitors:
            if each.number in session.monitors:
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"flow monitor {each.number} is there already")
            session.monitors[each.number] = each
        session.host.monitors_changed()
        return parts(session.version, raw.xid, EXPERIMENTER, initial(bridge, monitors), prefix)
    raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"Nicira statistics {subtype} are not there")

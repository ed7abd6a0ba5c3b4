"""Packet-ins and flow-removed, as each version and Nicira's formats write them.

OpenFlow 1.0.2, sections 5.4.1 and 5.4.3; 1.3.5, sections 7.4.1 and 7.4.2; NXT_PACKET_IN and NXT_PACKET_IN2 of Open
vSwitch's nicira-ext.h. Packets are not buffered: all of a packet is sent.
"""

from __future__ import annotations

import struct

from penstock.engine.flow_tables import FlowEntry
from penstock.engine.frames import PacketIn
from penstock.machine import monotonic_ns
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import Removal
from penstock.openflow.match import Match, encode_13, encode_tlvs, in_key, make, port_16
from penstock.openflow.match10 import encode_10
from penstock.openflow.wire import NICIRA_ID, OF10, Type, duration, message, tlv
from penstock.packet.fields import FIELDS

STANDARD, NX, NX2 = range(3)  # formats
NXT_PACKET_IN, NXT_PACKET_IN2, NXT_FLOW_REMOVED = 17, 30, 14
PACKET, FULL_LEN, _BUFFER_ID, TABLE_ID, COOKIE, REASON, METADATA, USERDATA = range(8)
NO_BUFFER = 0xFFFFFFFF
NO_MATCH = 0  # a reason
# What a packet has beside its bytes.
_METADATA = [row for row in FIELDS if (row.oxm or row.nxm) and (row.kept or row.name == "pkt_mark") and not row.at]
_IN_PORT = next(row for row in FIELDS if row.name == "in_port")


def metadata(key: bytes) -> Match:
    """What is known of a packet beside its bytes, as a match: in_port, and the rest where it is not 0."""
    number = int.from_bytes(key, "big")
    value = mask = 0
    for row in (_IN_PORT, *_METADATA):
        shift = in_key(row)
        bits = (1 << row.bits) - 1 << shift
        if number & bits or row is _IN_PORT:
            value |= number & bits
            mask |= bits
    return make(value, mask)


def in_port(key: bytes) -> int:
    """The OpenFlow port that a packet came in by."""
    return int.from_bytes(key[_IN_PORT.offset : _IN_PORT.offset + _IN_PORT.size], "big")


def packet_in(version: int, form: int, found: PacketIn, user_data: bytes) -> bytes:
    """The message for a packet."""
    frame = found.data
    if form == NX2:
        head = struct.pack("!II", NICIRA_ID, NXT_PACKET_IN2)
        return message(version, Type.EXPERIMENTER, 0, head + _properties(found, user_data))
    if form == NX:
        match = encode_tlvs(metadata(found.key), nxm=True)
        head = struct.pack(
            "!IIIHBBQH6x", NICIRA_ID, NXT_PACKET_IN, NO_BUFFER, found.wire_length & 0xFFFF, found.reason, found.table,
            found.cookie, len(match),
        )  # fmt: skip
        return message(version, Type.EXPERIMENTER, 0, head + match + bytes(-len(match) % 8 + 2) + frame)
    if version == OF10:
        body = struct.pack("!IHHBx", NO_BUFFER, found.wire_length & 0xFFFF, port_16(in_port(found.key)), found.reason)
        return message(version, Type.PACKET_IN, 0, body + frame)
    head = struct.pack("!IHBBQ", NO_BUFFER, found.wire_length & 0xFFFF, found.reason, found.table, found.cookie)
    return message(version, Type.PACKET_IN, 0, head + encode_13(metadata(found.key)) + bytes(2) + frame)


def _properties(found: PacketIn, user_data: bytes) -> bytes:
    out = tlv(PACKET, found.data)
    if found.wire_length != len(found.data):
        out += tlv(FULL_LEN, struct.pack("!I", found.wire_length))
    out += tlv(TABLE_ID, bytes([found.table])) + tlv(REASON, bytes([found.reason]))
    if found.cookie != 0xFFFFFFFFFFFFFFFF:
        out += tlv(COOKIE, struct.pack("!4xQ", found.cookie))
    out += tlv(METADATA, encode_tlvs(metadata(found.key)))
    if user_data:
        out += tlv(USERDATA, user_data)
    return out


def flow_removed(version: int, nxm: bool, bridge: OpenFlowBridge, entry: FlowEntry, reason: Removal) -> bytes:
    """The message that a flow is gone; ``nxm``: its match has Nicira's form (1.0 alone)."""
    packets, octets, _ = bridge.region.count(entry.number)
    match = Match(entry.key, entry.mask)
    seconds, rest = duration(int(monotonic_ns()) - entry.created)
    if version == OF10 and nxm:
        tlvs = encode_tlvs(match, nxm=True)
        head = struct.pack(
            "!IIQHBBIIHHQQ", NICIRA_ID, NXT_FLOW_REMOVED, entry.cookie, entry.priority, reason, entry.table + 1,
            seconds, rest, entry.idle, len(tlvs), packets, octets,
        )  # fmt: skip
        return message(version, Type.EXPERIMENTER, 0, head + tlvs + bytes(-len(tlvs) % 8))
    if version == OF10:
        body = encode_10(match) + struct.pack(
            "!QHBxIIH2xQQ", entry.cookie, entry.priority, reason, seconds, rest, entry.idle, packets, octets
        )
        return message(version, Type.FLOW_REMOVED, 0, body)
    head = struct.pack(
        "!QHBBIIHHQQ", entry.cookie, entry.priority, reason, entry.table, seconds, rest, entry.idle, entry.hard,
        packets, octets,
    )  # fmt: skip
    return message(version, Type.FLOW_REMOVED, 0, head + encode_13(match))

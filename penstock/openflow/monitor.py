"""Flow monitors: a session is told of changes to flows that it watches. NXST_FLOW_MONITOR of nicira-ext.h.

What a session changes itself it is told of by a short update with the transaction's number, unless it asks for all.
Monitors are not paused: a peer that reads too slowly loses what it did not read of everything unasked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from penstock.engine.flow_tables import FlowEntry
from penstock.openflow.actions10 import to_10
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import ALL_TABLES, ANY_PORT, Change, Event, Select
from penstock.openflow.match import Match, decode_tlvs, encode_tlvs, port_32
from penstock.openflow.wire import BAD_LEN, NICIRA_ID, OF10, ErrorType, OpenFlowError, Type, message

REQUEST = struct.Struct("!IHHHB5x")
NXST_FLOW_MONITOR = 2
EXPERIMENTER = 0xFFFF
NONE_16 = 0xFFFF
ABBREVIATED = 3
BAD_ID = 0  # of a monitor that there is none of, or that there is already
PART_MAX = 60000


class Flag(IntEnum):
    """What a monitor asks for."""

    INITIAL = 1
    ADD = 2
    DELETE = 4
    MODIFY = 8
    ACTIONS = 16
    OWN = 32


WANTED = {Event.ADDED: Flag.ADD, Event.DELETED: Flag.DELETE, Event.MODIFIED: Flag.MODIFY}


@dataclass(frozen=True)
class Monitor:
    """What a session watches."""

    number: int
    flags: int
    select: Select

    def covers(self, bridge: OpenFlowBridge, entry: FlowEntry) -> bool:
        """Whether a flow is one of those that are watched."""
        wanted = self.select
        if wanted.table not in (ALL_TABLES, entry.table) or not _is_within(entry, wanted.match):
            return False
        return bridge.sends(entry, wanted.out_port, wanted.out_group)


def _is_within(entry: FlowEntry, match: Match) -> bool:
    mask = int.from_bytes(match.mask, "big")
    differs = (int.from_bytes(entry.key, "big") ^ int.from_bytes(match.key, "big")) & mask
    return not differs and int.from_bytes(entry.mask, "big") & mask == mask


def decode(body: memoryview) -> list[Monitor]:
    """The monitors of a request. Raises OpenFlowError."""
    found = []
    at = 0
    while at < len(body):
        if len(body) - at < REQUEST.size:
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"{len(body) - at} bytes are left of the monitors")
        number, flags, port, length, table = REQUEST.unpack_from(body, at)
        at += REQUEST.size
        if at + length > len(body):
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"a match of {length} bytes does not fit")
        out_port = ANY_PORT if port == NONE_16 else port_32(port)
        found.append(Monitor(number, flags, Select(table, decode_tlvs(body[at : at + length]), out_port=out_port)))
        at += (length + 7) // 8 * 8
    return found


def _update(change: Change, with_actions: bool) -> bytes:
    entry = change.entry
    match = encode_tlvs(Match(entry.key, entry.mask), nxm=True)
    padded = match + bytes(-len(match) % 8)
    actions = to_10(change.instructions) if with_actions else b""
    head = struct.pack(
        "!HHHHHHHBxQ", 24 + len(padded) + len(actions), change.event, change.reason, entry.priority, entry.idle,
        entry.hard, len(match), entry.table, entry.cookie,
    )  # fmt: skip
    return head + padded + actions


def initial(bridge: OpenFlowBridge, monitors: list[Monitor]) -> Iterator[bytes]:
    """The flows that monitors which ask for that begin with."""
    for monitor in monitors:
        if monitor.flags & Flag.INITIAL:
            for some in bridge.flows(monitor.select):
                changes = [Change(Event.ADDED, entry, bridge.instructions(entry)) for entry in some]
                yield from [_update(change, bool(monitor.flags & Flag.ACTIONS)) for change in changes]


def updates(
    version: int, bridge: OpenFlowBridge, monitors: list[Monitor], changes: list[Change], own: int | None
) -> Iterator[bytes]:
    """The messages that tell of changes; ``own`` is the transaction number when the session made them."""
    body = bytearray()
    abbreviated = False
    for change in changes:
        covering = [
            each for each in monitors if each.flags & WANTED[change.event] and each.covers(bridge, change.entry)
        ]
        if not covering:
            continue
        if own is not None and not any(each.flags & Flag.OWN for each in covering):
            if not abbreviated:
                body += struct.pack("!HHI", 8, ABBREVIATED, own)
                abbreviated = True
            continue
        if len(body) > PART_MAX:
            yield _message(version, body)
            body.clear()
        body += _update(change, any(each.flags & Flag.ACTIONS for each in covering))
    if body:
        yield _message(version, body)


def _message(version: int, body: bytearray) -> bytes:
    head = struct.pack("!HH", EXPERIMENTER, 0) + (b"" if version == OF10 else bytes(4))
    vendor = struct.pack("!II", NICIRA_ID, NXST_FLOW_MONITOR) + (bytes(4) if version == OF10 else b"")
    return message(version, Type.MULTIPART_REPLY, 0, head + vendor + body)

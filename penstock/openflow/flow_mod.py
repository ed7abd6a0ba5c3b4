"""Changes of flow tables as all versions of OpenFlow have them, and which flows a request is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from penstock.engine.flow_tables import FlowEntry
from penstock.openflow.match import Match

SEND_FLOW_REM, CHECK_OVERLAP, RESET_COUNTS, NO_PACKET_COUNTS, NO_BYTE_COUNTS = (1 << bit for bit in range(5))
FLAGS_KNOWN = 0x1F
NO_COOKIE = (1 << 64) - 1  # of Open vSwitch's flow-mods that leave the cookie as it is
ALL_TABLES = 0xFF
ANY_PORT = ANY_GROUP = 0xFFFFFFFF
PRIORITY_MAX = 0xFFFF  # flows above are the switch's own


class Command(IntEnum):
    """What a flow-mod does."""

    ADD = 0
    MODIFY = 1
    MODIFY_STRICT = 2
    DELETE = 3
    DELETE_STRICT = 4


class Removal(IntEnum):
    """Why a flow is gone (ofp_flow_removed_reason)."""

    IDLE = 0
    HARD = 1
    DELETE = 2
    GROUP_DELETE = 3


@dataclass(slots=True)
class FlowMod:
    """A flow-mod of any version; ``instructions`` as OpenFlow 1.3 writes them.

    ``cookie`` is what an added flow gets, and else with ``cookie_mask`` says which flows are meant; those that are
    modified get ``new_cookie``, if there is one.
    """

    command: int
    table: int
    priority: int
    match: Match
    instructions: bytes = b""
    cookie: int = 0
    cookie_mask: int = 0
    idle: int = 0
    hard: int = 0
    flags: int = 0
    importance: int = 0
    out_port: int = ANY_PORT
    out_group: int = ANY_GROUP
    modify_adds: bool = False  # 1.0: modify of what is not there adds it
    new_cookie: int | None = None


@dataclass(frozen=True, slots=True)
class Select:
    """Which flows a statistics request is about."""

    table: int
    match: Match
    cookie: int = 0
    cookie_mask: int = 0
    out_port: int = ANY_PORT
    out_group: int = ANY_GROUP


class Event(IntEnum):
    """What became of a flow."""

    ADDED = 0
    DELETED = 1
    MODIFIED = 2


@dataclass(frozen=True, slots=True)
class Change:
    """A flow that was added, deleted (with the reason of a removal) or modified."""

    event: Event
    entry: FlowEntry
    instructions: bytes
    reason: int = 0

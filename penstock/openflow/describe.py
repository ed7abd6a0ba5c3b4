"""How a bridge's connections to controllers and tools fare, for operators."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from penstock.openflow.connections import Connection
from penstock.openflow.session import EQUAL, MASTER, SLAVE, Session
from penstock.openflow.wire import VERSION_NAMES

ROLES = {EQUAL: "equal", MASTER: "master", SLAVE: "slave"}


def describe(connections: Mapping[str, Connection], sessions: Collection[Session]) -> list[dict[str, Any]]:
    """A row for each target, with the role of a controller that has agreed on a version ("": there is none), and one
    for each session.
    """
    now = time.monotonic()
    targets = [
        {
            "target": text,
            "state": "connected" if connection.state.connected else "disconnected",
            "seconds": now - connection.state.since,
            "error": connection.state.error,
            "passive": connection.target.is_passive,
            "role": next((ROLES[each.role] for each in sessions if each.version and _is_of(each, text)), ""),
        }
        for text, connection in connections.items()
    ]
    return targets + [
        {
            "target": session.name,
            "state": "session",
            "seconds": now - session.connected,
            "error": "",
            "version": VERSION_NAMES.get(session.version, ""),
            "role": ROLES[session.role],
            "packet_ins_lost": session.packet_ins_lost,
            "auxiliaries": len(session.auxiliaries),
        }
        for session in sessions
    ]


def _is_of(session: Session, target: str) -> bool:
    """Whether a session came by a target; one that was waited for is named after its peer too."""
    return session.target == target or session.target.startswith(f"{target} from ")

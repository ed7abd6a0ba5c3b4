"""Requests of OpenFlow 1.0 and 1.3, one function for each type of message."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from penstock.engine.flow_tables import TABLES
from penstock.openflow import ports as port_codec
from penstock.openflow import stats
from penstock.openflow.action_wire import apply_instruction
from penstock.openflow.actions10 import actions_from_10, from_10
from penstock.openflow.flow_mod import (
    ANY_GROUP,
    ANY_PORT,
    CHECK_OVERLAP,
    FLAGS_KNOWN,
    NO_COOKIE,
    RESET_COUNTS,
    SEND_FLOW_REM,
    Command,
    FlowMod,
)
from penstock.openflow.group_mod import decode_group_mod
from penstock.openflow.groups import group_mod
from penstock.openflow.match import Match, decode_13, port_32
from penstock.openflow.match10 import MATCH_10, decode_10
from penstock.openflow.meters import decode_meter_mod, meter_mod
from penstock.openflow.session import EQUAL, LOG, MASTER, NOCHANGE, SLAVE, Asynchronous, Session, handles
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import (
    BAD_LEN,
    BUFFER_UNKNOWN,
    FLOW_MOD_BAD_FLAGS,
    OF10,
    ErrorType,
    OpenFlowError,
    Raw,
    Type,
    message,
)
from penstock.packet.fields import BY_NAME

CAPABILITIES_10 = 0x87  # flow, table and port statistics, addresses of ARP
CAPABILITIES_13 = 0x0F  # flow, table, port and group statistics
ACTIONS_10 = 0xFFF
FRAG_MASK = 3
CONFIG_KNOWN = 7
BAD_CONFIG_FLAGS = 0
NO_BUFFER = 0xFFFFFFFF


@handles(Type.HELLO)
@handles(Type.ECHO_REPLY)
async def _ignore(_session: Session, _raw: Raw) -> list[bytes]:
    return []


@handles(Type.ERROR)
async def _error(session: Session, raw: Raw) -> list[bytes]:
    LOG.warning("%s: a controller refused a message: %s", session.name, raw.data[8:].hex())
    return []


@handles(Type.ECHO_REQUEST)
async def _echo(session: Session, raw: Raw) -> list[bytes]:
    return [message(session.version, Type.ECHO_REPLY, raw.xid, bytes(raw.body))]


@handles(Type.FEATURES_REQUEST)
async def _features(session: Session, raw: Raw) -> list[bytes]:
    host = session.host
    if session.version == OF10:
        body = struct.pack("!QIB3xII", host.datapath_id, 0, TABLES, CAPABILITIES_10, ACTIONS_10)
        body += b"".join(port_codec.describe(OF10, port) for _, port in sorted(host.ports.items()))
    else:
        body = struct.pack("!QIBB2xII", host.datapath_id, 0, TABLES, session.auxiliary_id, CAPABILITIES_13, 0)
    return [message(session.version, Type.FEATURES_REPLY, raw.xid, body)]


@handles(Type.GET_CONFIG_REQUEST)
async def _get_config(session: Session, raw: Raw) -> list[bytes]:
    flags = session.config_flags & ~FRAG_MASK | int(session.host.bridge.tables.row["frags"])
    return [message(session.version, Type.GET_CONFIG_REPLY, raw.xid, struct.pack("!HH", flags, session.miss_len))]


@handles(Type.SET_CONFIG)
async def _set_config(session: Session, raw: Raw) -> list[bytes]:
    flags, miss_len = struct.unpack_from("!HH", raw.body)
    if flags & ~CONFIG_KNOWN:
        why = f"configuration flags {flags & ~CONFIG_KNOWN:#x} are unknown"
        raise OpenFlowError(ErrorType.SWITCH_CONFIG_FAILED, BAD_CONFIG_FLAGS, why)
    if session.role != SLAVE and flags & FRAG_MASK != 2:  # reassembly is not there, and left as it was
        session.host.bridge.tables.row["frags"] = flags & FRAG_MASK
    session.config_flags, session.miss_len = flags, miss_len
    session.host.interests_changed()
    return []


@handles(Type.BARRIER_REQUEST)
async def _barrier(session: Session, raw: Raw) -> list[bytes]:
    await session.host.quiet()
    return [message(session.version, Type.BARRIER_REPLY, raw.xid)]


def decode_flow_mod(session: Session, raw: Raw) -> FlowMod:
    """A flow-mod of either version."""
    body = raw.body
    if session.version == OF10:
        match = decode_10(body, 0)
        cookie, command, idle, hard, priority, buffer, port, flags = struct.unpack_from(
            "!QHHHHIHH", body, MATCH_10.size
        )
        _check_buffer(buffer)
        return flow_mod_10(session, match, cookie, command, idle, hard, priority, port, flags, body[64:])
    cookie, mask, table, command, idle, hard, priority, buffer, port, group, flags = struct.unpack_from(
        "!QQBBHHHIIIH2x", body
    )
    match, at = decode_13(body, 40)
    _check_buffer(buffer)
    if flags & ~FLAGS_KNOWN:
        why = f"flow-mod flags {flags & ~FLAGS_KNOWN:#x} are unknown"
        raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_BAD_FLAGS, why)
    return FlowMod(
        command, table, priority, match, bytes(body[at:]), cookie, mask, idle, hard, flags, 0,
        port if command >= 3 else ANY_PORT, group if command >= 3 else ANY_GROUP,
    )  # fmt: skip


def _check_buffer(buffer: int) -> None:
    if buffer != NO_BUFFER:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BUFFER_UNKNOWN, f"buffer {buffer:#x}: packets are not buffered")


def flow_mod_10(
    session: Session, match: Match, cookie: int, command: int, idle: int, hard: int, priority: int, port: int,
    flags: int, actions: memoryview,
) -> FlowMod:  # fmt: skip
    """A flow-mod of 1.0, whose actions are 1.0's."""
    table = 0xFF
    if session.table_ids:
        table, command = command >> 8, command & 0xFF
    if table == 0xFF and command == 0:
        table = 0
    proto = match.key[BY_NAME["nw_proto"].offset]
    out_port = ANY_PORT if port == 0xFFFF or command < 3 else port_32(port)
    flags &= SEND_FLOW_REM | CHECK_OVERLAP
    if command == Command.ADD:
        flags |= RESET_COUNTS
    return FlowMod(
        command, table, priority, match, from_10(actions, proto), cookie, 0, idle, hard, flags, 0, out_port,
        modify_adds=True, new_cookie=None if cookie == NO_COOKIE else cookie,
    )  # fmt: skip


@handles(Type.FLOW_MOD)
async def _flow_mod(session: Session, raw: Raw) -> list[bytes]:
    session.host.bridge.flow_mod(decode_flow_mod(session, raw), (session, raw.xid))
    return []


@handles(Type.GROUP_MOD)
async def _group_mod(session: Session, raw: Raw) -> list[bytes]:
    with Transaction(session.host.bridge, (session, raw.xid)) as transaction:
        group_mod(session.host.bridge, transaction, decode_group_mod(raw.body))
    return []


@handles(Type.METER_MOD)
async def _meter_mod(session: Session, raw: Raw) -> list[bytes]:
    with Transaction(session.host.bridge, (session, raw.xid)) as transaction:
        meter_mod(session.host.bridge, transaction, decode_meter_mod(raw.body))
    return []


@handles(Type.PORT_MOD)
async def _port_mod(session: Session, raw: Raw) -> list[bytes]:
    mod = port_codec.decode_port_mod(session.version, raw.body)
    port = session.host.ports.get(mod.number)
    if port is None:
        raise OpenFlowError(ErrorType.PORT_MOD_FAILED, port_codec.BAD_PORT, f"port {mod.number} does not exist")
    await session.host.set_port_config(port, port_codec.changed(port, mod))
    return []


@handles(Type.TABLE_MOD)
async def _table_mod(_session: Session, raw: Raw) -> list[bytes]:
    table, config = struct.unpack_from("!B3xI", raw.body)
    if table >= TABLES and table != 0xFF:
        raise OpenFlowError(ErrorType.TABLE_MOD_FAILED, 0, f"table {table} does not exist")
    if config & ~3:
        raise OpenFlowError(ErrorType.TABLE_MOD_FAILED, 1, f"table configuration {config:#x} is unknown")
    return []  # 1.3 keeps the message for bits that mean nothing any more


@handles(Type.PACKET_OUT)
async def _packet_out(session: Session, raw: Raw) -> list[bytes]:
    body = raw.body
    if session.version == OF10:
        buffer, port, length = struct.unpack_from("!IHH", body)
        start, port = 8, port_32(port)
    else:
        buffer, port, length = struct.unpack_from("!IIH6x", body)
        start = 16
    if start + length > len(body):
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"{length} bytes of actions do not fit in the message")
    actions, frame = body[start : start + length], bytes(body[start + length :])
    _check_buffer(buffer)
    made = actions_from_10(actions, 6) if session.version == OF10 else bytes(actions)
    await session.host.packet_out(frame, port, apply_instruction(made))
    return []


@handles(Type.QUEUE_GET_CONFIG_REQUEST)
async def _queues(session: Session, raw: Raw) -> list[bytes]:
    """There are no queues to tell of."""
    if session.version == OF10:
        (port,) = struct.unpack_from("!H", raw.body)
        return [message(OF10, Type.QUEUE_GET_CONFIG_REPLY, raw.xid, struct.pack("!H6x", port))]
    (port,) = struct.unpack_from("!I", raw.body)
    return [message(session.version, Type.QUEUE_GET_CONFIG_REPLY, raw.xid, struct.pack("!I4x", port))]


@handles(Type.ROLE_REQUEST)
async def _role(session: Session, raw: Raw) -> list[bytes]:
    role, generation = struct.unpack_from("!I4xQ", raw.body)
    if role not in (NOCHANGE, EQUAL, MASTER, SLAVE):
        raise OpenFlowError(ErrorType.ROLE_REQUEST_FAILED, 2, f"role {role} is unknown")
    if role != NOCHANGE:
        session.host.claim_role(session, role, generation if role != EQUAL else None)
    reply = struct.pack("!I4xQ", session.role, generation)
    return [message(session.version, Type.ROLE_REPLY, raw.xid, reply)]


@handles(Type.GET_ASYNC_REQUEST)
async def _get_async(session: Session, raw: Raw) -> list[bytes]:
    a = session.asynchronous
    return [
        message(
            session.version,
            Type.GET_ASYNC_REPLY,
            raw.xid,
            struct.pack("!6I", *a.packet_in, *a.port_status, *a.flow_removed),
        )
    ]


@handles(Type.SET_ASYNC)
async def _set_async(session: Session, raw: Raw) -> list[bytes]:
    set_asynchronous(session, raw.body)
    return []


def set_asynchronous(session: Session, body: memoryview) -> None:
    """Take the six masks of an asynchronous configuration."""
    masks = struct.unpack_from("!6I", body)
    session.asynchronous = Asynchronous(masks[0:2], masks[2:4], masks[4:6])
    session.host.interests_changed()


@handles(Type.MULTIPART_REQUEST)
async def _multipart(session: Session, raw: Raw) -> Iterable[bytes]:
    return await stats.answer(session, raw)

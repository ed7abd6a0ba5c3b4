"""Experimenters' messages: Nicira's for 1.0 (and 1.3), and the Open Networking Foundation's bundles for 1.3.

Open vSwitch's nicira-ext.h; bundles are OpenFlow 1.4's (1.4.1, section 7.3.9), which ONF extension 230 brings to 1.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from penstock.openflow.flow_mod import FlowMod
from penstock.openflow.group_mod import decode_group_mod
from penstock.openflow.groups import group_mod
from penstock.openflow.match import decode_tlvs, split_cookie
from penstock.openflow.meters import decode_meter_mod, meter_mod
from penstock.openflow.packet_in import NX2
from penstock.openflow.requests import decode_flow_mod, flow_mod_10, set_asynchronous
from penstock.openflow.session import EQUAL, MASTER, SLAVE, Session, handles
from penstock.openflow.tlv_map import change_map, encode_map
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import (
    BAD_EXP_TYPE,
    BAD_EXPERIMENTER,
    BAD_LEN,
    NICIRA_ID,
    ONF_ID,
    TYPES,
    ErrorType,
    OpenFlowError,
    Raw,
    Type,
    message,
)

ROLE_REQUEST, ROLE_REPLY, SET_FLOW_FORMAT, FLOW_MOD, FLOW_REMOVED, FLOW_MOD_TABLE_ID, SET_PACKET_IN_FORMAT = range(
    10, 17
)
SET_ASYNC, SET_CONTROLLER_ID, FLOW_MONITOR_CANCEL = 19, 20, 21
TLV_TABLE_MOD, TLV_TABLE_REQUEST, TLV_TABLE_REPLY = 24, 25, 26
FORMAT_OPENFLOW10, FORMAT_NXM = 0, 2
ROLES = {0: EQUAL, 1: MASTER, 2: SLAVE}
BUNDLE_CONTROL, BUNDLE_ADD_MESSAGE = 2300, 2301
OPEN, OPEN_REPLY, CLOSE, CLOSE_REPLY, COMMIT, COMMIT_REPLY, DISCARD, DISCARD_REPLY = range(8)
ERROR_BAD_ID, ERROR_EXISTS, ERROR_BAD_TYPE, ERROR_UNSUPPORTED, ERROR_XID, ERROR_FAILED = (
    2301,
    2302,
    2307,
    2309,
    2310,
    2311,
)
BUNDLES_MAX, BUNDLED_MAX = 16, 1_000_000  # bundles of a session, and messages of one


def _unknown(what: str, number: int) -> OpenFlowError:
    return OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"{what} {number} is not there")


def _flow_format(_session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    (wanted,) = struct.unpack_from("!I", body)
    if wanted not in (FORMAT_OPENFLOW10, FORMAT_NXM):
        raise _unknown("flow format", wanted)
    _session.nxm = wanted == FORMAT_NXM
    return []


def _packet_in_format(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    (wanted,) = struct.unpack_from("!I", body)
    if wanted > NX2:
        raise _unknown("packet-in format", wanted)
    session.form = wanted
    return []


def _table_ids(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    session.table_ids = bool(body[0])
    return []


def decode_nx_flow_mod(session: Session, body: memoryview) -> FlowMod:
    """An NXT_FLOW_MOD, behind its Nicira header."""
    cookie, command, idle, hard, priority, _buffer, port, flags, length = struct.unpack_from("!QHHHHIHHH6x", body)
    if 32 + length > len(body):
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"a match of {length} bytes does not fit in the message")
    value, cookie_mask = split_cookie(body[32 : 32 + length])
    match = decode_tlvs(value)
    at = 32 + (length + 7) // 8 * 8
    mod = flow_mod_10(session, match, cookie, command, idle, hard, priority, port, flags, body[at:])
    if cookie_mask is not None and mod.command:
        mod.cookie, mod.cookie_mask = cookie_mask
    return mod


def _flow_mod(session: Session, raw: Raw, body: memoryview) -> list[bytes]:
    session.check_writes()
    session.host.bridge.flow_mod(decode_nx_flow_mod(session, body), (session, raw.xid))
    return []


def _role(session: Session, raw: Raw, body: memoryview) -> list[bytes]:
    (role,) = struct.unpack_from("!I", body)
    if role not in ROLES:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"role {role} is unknown")
    session.host.claim_role(session, ROLES[role], None)
    reply = struct.pack("!III", NICIRA_ID, ROLE_REPLY, role)
    return [message(session.version, Type.EXPERIMENTER, raw.xid, reply)]


def _set_async(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    set_asynchronous(session, body)
    return []


def _controller_id(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    (session.controller_id,) = struct.unpack_from("!6xH", body)
    return []


def _cancel_monitor(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    (number,) = struct.unpack_from("!I", body)
    if session.monitors.pop(number, None) is None:
        raise _unknown("flow monitor", number)
    session.host.monitors_changed()
    return []


def _change_tlvs(session: Session, _raw: Raw, body: memoryview) -> list[bytes]:
    session.check_writes()
    bridge = session.host.bridge
    change_map(bridge.tlvs, body, bridge.options_named())
    return []


def _tell_tlvs(session: Session, raw: Raw, _body: memoryview) -> list[bytes]:
    reply = struct.pack("!II", NICIRA_ID, TLV_TABLE_REPLY) + encode_map(session.host.bridge.tlvs)
    return [message(session.version, Type.EXPERIMENTER, raw.xid, reply)]


NICIRA: dict[int, Callable[[Session, Raw, memoryview], list[bytes]]] = {
    ROLE_REQUEST: _role,
    SET_FLOW_FORMAT: _flow_format,
    FLOW_MOD: _flow_mod,
    FLOW_MOD_TABLE_ID: _table_ids,
    SET_PACKET_IN_FORMAT: _packet_in_format,
    SET_ASYNC: _set_async,
    SET_CONTROLLER_ID: _controller_id,
    FLOW_MONITOR_CANCEL: _cancel_monitor,
    TLV_TABLE_MOD: _change_tlvs,
    TLV_TABLE_REQUEST: _tell_tlvs,
}


# Bundles


def _bundle_error(code: int, why: str) -> OpenFlowError:
    return OpenFlowError(ErrorType.EXPERIMENTER, code, why)


def _control(session: Session, raw: Raw, body: memoryview) -> list[bytes]:
    number, what = struct.unpack_from("!IH", body)
    if what == OPEN:
        if number in session.bundles:
            raise _bundle_error(ERROR_EXISTS, f"bundle {number} is open already")
        if len(session.bundles) >= BUNDLES_MAX:
            raise _bundle_error(ERROR_FAILED, f"{BUNDLES_MAX} bundles are open, the most there can be")
        session.bundles[number] = []
    elif what == CLOSE:
        _opened(session, number)
    elif what == COMMIT:
        _opened(session, number)
        _commit(session, session.bundles.pop(number), raw.xid)
    elif what == DISCARD:
        session.bundles.pop(number, None)
    else:
        raise _bundle_error(ERROR_BAD_TYPE, f"bundle control {what} is unknown")
    reply = struct.pack("!IIIHH", ONF_ID, BUNDLE_CONTROL, number, what + 1, 0)
    return [message(session.version, Type.EXPERIMENTER, raw.xid, reply)]


def _opened(session: Session, number: int) -> list[Raw]:
    """The messages of an open bundle. Raises OpenFlowError when it is not."""
    if number not in session.bundles:
        raise _bundle_error(ERROR_BAD_ID, f"bundle {number} is not open")
    return session.bundles[number]


def _add(session: Session, raw: Raw, body: memoryview) -> list[bytes]:
    number, _flags = struct.unpack_from("!I2xH", body)
    inner = bytes(body[8:])
    if len(inner) < 8:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, "a bundled message has no header")
    version, kind, length, xid = struct.unpack_from("!BBHI", inner)
    if length < 8 or length > len(inner):
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"a bundled message of {length} bytes does not fit")
    if xid != raw.xid:
        raise _bundle_error(ERROR_XID, f"a bundled message has transaction {xid:#x}, not {raw.xid:#x}")
    if version != session.version or TYPES[session.version].get(kind) not in BUNDLED:
        raise _bundle_error(ERROR_UNSUPPORTED, f"a message of type {kind} cannot be in a bundle")
    held = _opened(session, number)
    if len(held) >= BUNDLED_MAX:
        raise _bundle_error(ERROR_FAILED, f"bundle {number} has {BUNDLED_MAX} messages, the most there can be")
    held.append(Raw(version, kind, xid, inner[:length]))
    return []


BUNDLED = {Type.FLOW_MOD, Type.GROUP_MOD, Type.METER_MOD}


def _commit(session: Session, held: list[Raw], xid: int) -> None:
    """Carry out a bundle, whole or not at all."""
    session.check_writes()
    bridge = session.host.bridge
    with Transaction(bridge, (session, xid)) as transaction:
        for raw in held:
            kind = TYPES[session.version][raw.number]
            if kind == Type.FLOW_MOD:
                transaction.flow_mod(decode_flow_mod(session, raw))
            elif kind == Type.GROUP_MOD:
                group_mod(bridge, transaction, decode_group_mod(raw.body))
            else:
                meter_mod(bridge, transaction, decode_meter_mod(raw.body))


ONF: dict[int, Callable[[Session, Raw, memoryview], list[bytes]]] = {
    BUNDLE_CONTROL: _control,
    BUNDLE_ADD_MESSAGE: _add,
}
EXPERIMENTERS = {NICIRA_ID: NICIRA, ONF_ID: ONF}


@handles(Type.EXPERIMENTER)
async def experimenter(session: Session, raw: Raw) -> list[bytes]:
    """Any experimenter's message."""
    vendor, subtype = struct.unpack_from("!II", raw.body)
    known = EXPERIMENTERS.get(vendor)
    if known is None:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXPERIMENTER, f"experimenter {vendor:#x} is unknown")
    handler = known.get(subtype)
    if handler is None:
        raise _unknown(f"message of experimenter {vendor:#x},", subtype)
    return handler(session, raw, raw.body[8:])

"""One OpenFlow connection: greeting, requests answered, errors sent back; by whichever version both sides speak.

A message that cannot be accepted is answered by the error that its specification names, and changes nothing; a stream
that is no OpenFlow ends the connection. Run by the control process's loop.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.engine.flow_tables import FlowEntry
from penstock.openflow import stats
from penstock.openflow.actions import NICIRA_ID, apply_instruction
from penstock.openflow.actions10 import actions_from_10, from_10
from penstock.openflow.bridge import ANY_GROUP, ANY_PORT, FlowMod, OpenFlowBridge, Removal
from penstock.openflow.match import Match, decode_13, decode_tlvs, encode_13, port_16, port_32
from penstock.openflow.match10 import MATCH_10, decode_10, encode_10
from penstock.openflow.wire import (
    BAD_EXP_TYPE,
    BAD_EXPERIMENTER,
    BAD_LEN,
    BAD_MULTIPART,
    BAD_TYPE,
    BAD_VERSION,
    HELLO_INCOMPATIBLE,
    OF10,
    OF13,
    TYPES,
    ErrorType,
    OpenFlowError,
    Raw,
    Stream,
    Type,
    message,
)
from penstock.packet.fields import BY_NAME

LOG = logging.getLogger("penstock.openflow")
READ_BYTES = 1 << 18
TABLES = 254
CAPABILITIES_10 = 0x87  # flow, table and port statistics, addresses of ARP
CAPABILITIES_13 = 0x0F  # flow, table, port and group statistics
ACTIONS_10 = 0xFFF
NX_ROLE_REQUEST, NX_ROLE_REPLY, NX_SET_FLOW_FORMAT, NX_FLOW_MOD, NX_FLOW_REMOVED, NX_FLOW_MOD_TABLE_ID = (
    10, 11, 12, 13, 14, 15,
)  # fmt: skip
NX_SET_PACKET_IN_FORMAT, NX_SET_ASYNC, NX_SET_CONTROLLER_ID = 16, 19, 20
ROLE_NOCHANGE, ROLE_EQUAL, ROLE_MASTER, ROLE_SLAVE = range(4)


@dataclass(frozen=True)
class OfPort:
    """A port as OpenFlow tells of it; ``up`` is its link, ``counters`` are the switch's."""

    number: int
    name: str
    mac: str
    up: bool
    config: int
    counters: dict[str, int]


class Host(Protocol):
    """What a session needs of the agent that it belongs to."""

    datapath_id: int
    bridge: OpenFlowBridge

    async def ports(self) -> Sequence[OfPort]:
        """The bridge's ports."""

    async def packet_out(self, frame: bytes, in_port: int, actions: bytes) -> None:
        """Run actions of 1.3 on a frame."""

    async def quiet(self) -> None:
        """Return when every worker forwards by the tables as they are now."""


Handler = Callable[["Session", Raw], Awaitable[Iterable[bytes]]]


class Session:
    """A connection in either direction."""

    def __init__(self, host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, versions: Sequence[int]):
        self.host = host
        self._reader, self._writer = reader, writer
        self._versions = versions
        self.version = 0
        self.role = ROLE_EQUAL
        self.table_ids = False
        self.miss_len = 128
        self.config_flags = 0

    async def run(self) -> None:
        """Talk until the other side ends the connection or talks nonsense."""
        stream = Stream()
        self._writer.write(_hello(self._versions))
        try:
            while data := await self._reader.read(READ_BYTES):
                for each in stream.feed(data):
                    await self._answer(each)
                await self._writer.drain()
        except OpenFlowError as error:
            LOG.warning("an OpenFlow connection is closed: %s", error)
        except ConnectionError as error:
            LOG.info("an OpenFlow connection ended: %s", error)
        finally:
            self._writer.close()

    def send(self, data: bytes) -> None:
        """Send a message that answers nothing."""
        self._writer.write(data)

    async def _answer(self, raw: Raw) -> None:
        if not self.version:
            self._greet(raw)
            return
        try:
            if raw.version != self.version:
                why = f"version {raw.version}, {self.version} was agreed on"
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_VERSION, why)
            kind = TYPES[self.version].get(raw.number)
            handler = HANDLERS.get(kind) if kind is not None else None
            if handler is None:
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_TYPE, f"message type {raw.number} is not for a switch")
            for reply in await handler(self, raw):
                self._writer.write(reply)
        except OpenFlowError as error:
            LOG.info("refused: %s", error)
            self._writer.write(error.encode(self.version, raw.xid, raw.data))
        except struct.error as error:
            short = OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, f"the message is too short: {error}")
            self._writer.write(short.encode(self.version, raw.xid, raw.data))

    def _greet(self, raw: Raw) -> None:
        """Agree on a version (1.3.5, section 6.3.1)."""
        if raw.number != Type.HELLO:
            raise OpenFlowError(ErrorType.HELLO_FAILED, HELLO_INCOMPATIBLE, "the first message is no hello")
        offered = _offered(raw)
        common = [version for version in self._versions if version in offered]
        if not common:
            why = f"versions {sorted(offered)} are offered, known are {sorted(self._versions)}"
            error = OpenFlowError(ErrorType.HELLO_FAILED, HELLO_INCOMPATIBLE, why)
            spoken = raw.version if raw.version in self._versions else max(self._versions)
            self._writer.write(error.encode(spoken, raw.xid, why.encode()))
            raise error
        self.version = max(common)

    def flow_removed(self, entry: FlowEntry, reason: Removal) -> bytes:
        """The message that a flow is gone."""
        now = stats.now_ns()
        spent = now - entry.created
        packets, octets, _ = self.host.bridge.region.count(entry.number)
        match = Match(entry.key, entry.mask)
        seconds, rest = divmod(spent, 1_000_000_000)
        if self.version == OF10:
            body = encode_10(match) + struct.pack(
                "!QHBxIIH2xQQ", entry.cookie, entry.priority, reason, seconds, rest, entry.idle, packets, octets
            )
        else:
            body = struct.pack(
                "!QHBBIIHHQQ", entry.cookie, entry.priority, reason, entry.table, seconds, rest, entry.idle,
                entry.hard, packets, octets,
            ) + encode_13(match)  # fmt: skip
        return message(self.version, Type.FLOW_REMOVED, 0, body)


def _hello(versions: Sequence[int]) -> bytes:
    bitmap = struct.pack("!HHI", 1, 8, sum(1 << version for version in versions))
    return message(max(versions), Type.HELLO, 0, bitmap)


def _offered(raw: Raw) -> set[int]:
    """The versions that a hello offers."""
    body = raw.body
    at = 0
    while at + 4 <= len(body):
        kind, length = struct.unpack_from("!HH", body, at)
        if length < 4 or at + length > len(body):
            break
        if kind == 1 and length >= 8:
            (bits,) = struct.unpack_from("!I", body, at + 4)
            return {version for version in range(32) if bits >> version & 1}
        at += (length + 7) // 8 * 8
    return set(range(1, raw.version + 1))


# Requests


async def _ignore(_session: Session, _raw: Raw) -> list[bytes]:
    return []


async def _error(_session: Session, raw: Raw) -> list[bytes]:
    LOG.warning("a controller refused a message: %s", raw.data[8:].hex())
    return []


async def _echo(session: Session, raw: Raw) -> list[bytes]:
    return [message(session.version, Type.ECHO_REPLY, raw.xid, bytes(raw.body))]


async def _features(session: Session, raw: Raw) -> list[bytes]:
    host = session.host
    if session.version == OF10:
        body = struct.pack("!QIB3xII", host.datapath_id, 0, TABLES, CAPABILITIES_10, ACTIONS_10)
        body += b"".join(port_10(port) for port in await host.ports())
    else:
        body = struct.pack("!QIBB2xII", host.datapath_id, 0, TABLES, 0, CAPABILITIES_13, 0)
    return [message(session.version, Type.FEATURES_REPLY, raw.xid, body)]


async def _get_config(session: Session, raw: Raw) -> list[bytes]:
    body = struct.pack("!HH", session.config_flags, session.miss_len)
    return [message(session.version, Type.GET_CONFIG_REPLY, raw.xid, body)]


async def _set_config(session: Session, raw: Raw) -> list[bytes]:
    session.config_flags, session.miss_len = struct.unpack_from("!HH", raw.body)
    return []


async def _barrier(session: Session, raw: Raw) -> list[bytes]:
    await session.host.quiet()
    return [message(session.version, Type.BARRIER_REPLY, raw.xid)]


def decode_flow_mod(session: Session, raw: Raw) -> FlowMod:
    """A flow-mod of either version."""
    body = raw.body
    if session.version == OF10:
        match = decode_10(body, 0)
        cookie, command, idle, hard, priority, _buffer, port, flags = struct.unpack_from(
            "!QHHHHIHH", body, MATCH_10.size
        )
        return _flow_mod_10(session, match, cookie, command, idle, hard, priority, port, flags, body[64:])
    cookie, mask, table, command, idle, hard, priority, _buffer, port, group, flags = struct.unpack_from(
        "!QQBBHHHIIIH2x", body
    )
    match, at = decode_13(body, 40)
    return FlowMod(
        command, table, priority, match, bytes(body[at:]), cookie, mask, idle, hard, flags, 0,
        port if command >= 3 else ANY_PORT, group if command >= 3 else ANY_GROUP,
    )  # fmt: skip


def _flow_mod_10(
    session: Session, match: Match, cookie: int, command: int, idle: int, hard: int, priority: int, port: int,
    flags: int, actions: memoryview,
) -> FlowMod:  # fmt: skip
    table = 0xFF
    if session.table_ids:
        table, command = command >> 8, command & 0xFF
    if table == 0xFF and command == 0:
        table = 0
    proto = match.key[BY_NAME["nw_proto"].offset]
    out_port = ANY_PORT if port == 0xFFFF or command < 3 else port_32(port)
    return FlowMod(
        command, table, priority, match, from_10(actions, proto), cookie, 0, idle, hard, flags & 3, 0, out_port,
        modify_adds=True,
    )  # fmt: skip


async def _flow_mod(session: Session, raw: Raw) -> list[bytes]:
    session.host.bridge.flow_mod(decode_flow_mod(session, raw))
    return []


async def _packet_out(session: Session, raw: Raw) -> list[bytes]:
    body = raw.body
    if session.version == OF10:
        _buffer, port, length = struct.unpack_from("!IHH", body)
        actions, frame = actions_from_10(body[8 : 8 + length], 6), bytes(body[8 + length :])
        port = port_32(port)
    else:
        _buffer, port, length = struct.unpack_from("!IIH6x", body)
        actions, frame = bytes(body[16 : 16 + length]), bytes(body[16 + length :])
    await session.host.packet_out(frame, port, apply_instruction(actions))
    return []


async def _multipart(session: Session, raw: Raw) -> Iterable[bytes]:
    kind, _flags = struct.unpack_from("!HH", raw.body)
    body = raw.body[4 if session.version == OF10 else 8 :]
    bridge = session.host.bridge
    version, xid = session.version, raw.xid
    now = stats.now_ns()
    if kind == stats.DESC:
        texts = (("Nicira, Inc.", 256), ("Penstock", 256), ("0.1", 256), ("None", 32), (session.host.bridge.name, 256))
        return stats.parts(version, xid, kind, [text.encode().ljust(size, b"\0") for text, size in texts])
    if kind == stats.FLOW:
        if version == OF10:
            chosen = stats.select_10(body)
            return stats.parts(version, xid, kind, (stats.flow_10(bridge, each, now) for each in bridge.flows(chosen)))
        chosen = stats.select_13(body)
        return stats.parts(version, xid, kind, (stats.flow_13(bridge, each, now) for each in bridge.flows(chosen)))
    if kind == stats.AGGREGATE:
        chosen = stats.select_10(body) if version == OF10 else stats.select_13(body)
        return stats.parts(version, xid, kind, [stats.aggregate(bridge, chosen)])
    if kind == stats.TABLE:
        return stats.parts(version, xid, kind, stats.tables(version, bridge))
    if kind == stats.PORT:
        (wanted,) = struct.unpack_from("!H" if version == OF10 else "!I", body)
        every = wanted == (0xFFFF if version == OF10 else ANY_PORT)
        wanted = port_32(wanted) if version == OF10 else wanted
        ports = [port for port in await session.host.ports() if every or port.number == wanted]
        return stats.parts(version, xid, kind, [port_stats(version, port) for port in ports])
    if kind == stats.PORT_DESC and version == OF13:
        return stats.parts(version, xid, kind, [port_13(port) for port in await session.host.ports()])
    if kind == stats.EXPERIMENTER:
        return _nicira_stats(session, raw, body)
    raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_MULTIPART, f"statistics of type {kind} are not there")


def _nicira_stats(session: Session, raw: Raw, body: memoryview) -> Iterable[bytes]:
    vendor, subtype = struct.unpack_from("!II", body)
    if vendor != NICIRA_ID:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXPERIMENTER, f"experimenter {vendor:#x} is unknown")
    bridge, now = session.host.bridge, stats.now_ns()
    prefix = struct.pack("!II4x", vendor, subtype)
    if subtype == stats.NX_FLOW:
        entries = (stats.flow_nx(bridge, each, now) for each in bridge.flows(stats.select_nx(body[12:])))
        return stats.parts(session.version, raw.xid, stats.EXPERIMENTER, entries, prefix)
    if subtype == stats.NX_AGGREGATE:
        found = stats.aggregate(bridge, stats.select_nx(body[12:]))
        return stats.parts(session.version, raw.xid, stats.EXPERIMENTER, [found], prefix)
    raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"Nicira statistics {subtype} are not there")


async def _experimenter(session: Session, raw: Raw) -> list[bytes]:
    vendor, subtype = struct.unpack_from("!II", raw.body)
    if vendor != NICIRA_ID:
        raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXPERIMENTER, f"experimenter {vendor:#x} is unknown")
    body = raw.body[8:]
    if subtype in (NX_SET_FLOW_FORMAT, NX_SET_PACKET_IN_FORMAT):
        (wanted,) = struct.unpack_from("!I", body)
        if wanted not in (0, 2) or (subtype == NX_SET_PACKET_IN_FORMAT and wanted):
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"format {wanted} is not there")
        return []
    if subtype == NX_FLOW_MOD_TABLE_ID:
        session.table_ids = bool(body[0])
        return []
    if subtype == NX_FLOW_MOD:
        cookie, command, idle, hard, priority, _buffer, port, flags, length = struct.unpack_from("!QHHHHIHHH6x", body)
        match = decode_tlvs(body[32 : 32 + length])
        at = 32 + (length + 7) // 8 * 8
        mod = _flow_mod_10(session, match, cookie, command, idle, hard, priority, port, flags, body[at:])
        session.host.bridge.flow_mod(mod)
        return []
    if subtype == NX_ROLE_REQUEST:
        (role,) = struct.unpack_from("!I", body)
        session.role = {0: ROLE_EQUAL, 1: ROLE_MASTER, 2: ROLE_SLAVE}.get(role, session.role)
        reply = struct.pack("!III", NICIRA_ID, NX_ROLE_REPLY, role)
        return [message(session.version, Type.EXPERIMENTER, raw.xid, reply)]
    raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_EXP_TYPE, f"Nicira message {subtype} is not there")


def _mac(port: OfPort) -> bytes:
    return bytes.fromhex(port.mac.replace(":", "")) if port.mac else bytes(6)


def port_10(port: OfPort) -> bytes:
    """ofp_phy_port."""
    state = 0 if port.up else 1
    name = port.name.encode()[:15].ljust(16, b"\0")
    return struct.pack("!H6s16sIIIIII", port_16(port.number), _mac(port), name, port.config, state, 0, 0, 0, 0)


def port_13(port: OfPort) -> bytes:
    """ofp_port of 1.3."""
    state = 4 if port.up else 1
    name = port.name.encode()[:15].ljust(16, b"\0")
    return struct.pack("!I4x6s2x16sIIIIIIII", port.number, _mac(port), name, port.config, state, 0, 0, 0, 0, 0, 0)


def port_stats(version: int, port: OfPort) -> bytes:
    """ofp_port_stats; what the switch does not count is all ones."""
    c = port.counters
    counts = (
        c.get("rx_packets", 0), c.get("tx_packets", 0), c.get("rx_bytes", 0), c.get("tx_bytes", 0),
        c.get("rx_dropped", 0), c.get("tx_dropped", 0), *([0xFFFFFFFFFFFFFFFF] * 6),
    )  # fmt: skip
    if version == OF10:
        return struct.pack("!H6x12Q", port_16(port.number), *counts)
    return struct.pack("!I4x12QII", port.number, *counts, 0xFFFFFFFF, 0xFFFFFFFF)


HANDLERS: dict[Type | None, Handler] = {
    Type.HELLO: _ignore,
    Type.ERROR: _error,
    Type.ECHO_REQUEST: _echo,
    Type.ECHO_REPLY: _ignore,
    Type.EXPERIMENTER: _experimenter,
    Type.FEATURES_REQUEST: _features,
    Type.GET_CONFIG_REQUEST: _get_config,
    Type.SET_CONFIG: _set_config,
    Type.FLOW_MOD: _flow_mod,
    Type.PACKET_OUT: _packet_out,
    Type.BARRIER_REQUEST: _barrier,
    Type.MULTIPART_REQUEST: _multipart,
}

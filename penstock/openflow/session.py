"""One OpenFlow connection: greeting, requests answered, errors sent back, and what is sent unasked.

A message that cannot be accepted is answered by the error that its specification names, and changes nothing; a stream
that is no OpenFlow ends the connection. Run by the control process's loop.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.engine.client import EngineError
from penstock.engine.flow_tables import FlowEntry
from penstock.engine.frames import PacketIn
from penstock.openflow import ports as port_codec
from penstock.openflow.bridge import OpenFlowBridge
from penstock.openflow.flow_mod import Change, Removal
from penstock.openflow.monitor import Monitor, updates
from penstock.openflow.packet_in import STANDARD, flow_removed, packet_in
from penstock.openflow.ports import OfPort
from penstock.openflow.wire import (
    BAD_LEN,
    BAD_TYPE,
    BAD_VERSION,
    EPERM,
    HELLO_INCOMPATIBLE,
    IS_SLAVE,
    OF10,
    TYPES,
    ErrorType,
    OpenFlowError,
    Raw,
    Stream,
    Type,
    message,
)

LOG = logging.getLogger(__name__)
READ_BYTES = 1 << 18
UNSENT_MAX = 16 << 20  # bytes that a peer may leave unread before what it did not ask for is lost to it
NOCHANGE, EQUAL, MASTER, SLAVE = range(4)
AWAKE_SECONDS = 300e-6  # waking up takes as long as the answer
ANSWERS = 64  # replies written before the peer is waited for


@dataclass
class Asynchronous:
    """Which messages come unasked, as bits by reason: those of a master or equal, and those of a slave."""

    packet_in: tuple[int, int] = (0x3B, 0)  # all but an invalid TTL
    port_status: tuple[int, int] = (0x7, 0x7)
    flow_removed: tuple[int, int] = (0xF, 0)


class Host(Protocol):
    """What a session needs of the bridge's agent."""

    bridge: OpenFlowBridge
    ports: dict[int, OfPort]

    @property
    def datapath_id(self) -> int:
        """The bridge's id."""

    async def read_ports(self) -> Sequence[OfPort]:
        """The bridge's ports, with their counters."""

    async def set_port_config(self, port: OfPort, config: int) -> None:
        """Change what is forbidden a port."""

    async def packet_out(self, frame: bytes, in_port: int, instructions: bytes) -> None:
        """Run instructions of 1.3 on a frame."""

    async def quiet(self) -> None:
        """Return when every worker forwards by the tables as they are now."""

    def claim_role(self, session: Session, role: int, generation: int | None) -> None:
        """Give a session a role. Raises OpenFlowError for a stale generation."""

    def monitors_changed(self) -> None:
        """A session watches other flows now than before."""

    def greeted(self, session: Session) -> None:
        """A session has agreed on a version."""

    def interests_changed(self) -> None:
        """A session wants other things now than before."""


Handler = Callable[["Session", Raw], Awaitable[Iterable[bytes]]]
HANDLERS: dict[Type, Handler] = {}
WRITES = {Type.FLOW_MOD, Type.PACKET_OUT, Type.GROUP_MOD, Type.METER_MOD, Type.PORT_MOD, Type.TABLE_MOD}


def handles(kind: Type) -> Callable[[Handler], Handler]:
    """Have a function answer messages of this type."""

    def register(handler: Handler) -> Handler:
        HANDLERS[kind] = handler
        return handler

    return register


@dataclass(eq=False)
class Session:
    """A connection in either direction. ``service``: of a tool, which is told nothing that it did not ask for."""

    host: Host
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    versions: Sequence[int]
    name: str
    service: bool = False
    target: str = ""  # that the connection is of
    probe: float = 5.0  # seconds of silence after which an echo is sent, and then the connection given up
    rate: int = 0  # packet-ins in a second; 0: any number
    burst: int = 0
    version: int = 0
    role: int = EQUAL
    table_ids: bool = False  # Nicira's extension of 1.0's flow-mods
    nxm: bool = False  # Nicira's form of flow-removed
    form: int = STANDARD
    controller_id: int = 0
    miss_len: int = 0
    config_flags: int = 0
    asynchronous: Asynchronous = field(default_factory=Asynchronous)
    bundles: dict[int, list[Raw]] = field(default_factory=dict)
    awake_until: float = 0.0
    monitors: dict[int, Monitor] = field(default_factory=dict)
    heard: float = 0.0
    connected: float = 0.0
    packet_ins_lost: int = 0
    main: Session | None = None  # of an auxiliary connection: whose state this is of
    auxiliary_id: int = 0
    auxiliaries: list[Session] = field(default_factory=list)
    tokens: float = 0.0
    refilled: float = 0.0

    async def run(self) -> None:
        """Talk until the other side ends the connection, falls silent, or talks nonsense."""
        self.miss_len = 0 if self.service else 128
        stream = Stream()
        self.heard = time.monotonic()
        self.writer.write(_hello(self.versions))
        probing = asyncio.create_task(self._probe())
        try:
            while data := await self.reader.read(READ_BYTES):
                self.heard = time.monotonic()
                for each in stream.feed(data):
                    await self._answer(each)
                await self.writer.drain()
                self._stay_awake()
        except OpenFlowError as error:
            LOG.warning("%s: the OpenFlow connection is closed: %s", self.name, error)
        except ConnectionError as error:
            LOG.info("%s: the OpenFlow connection ended: %s", self.name, error)
        finally:
            probing.cancel()
            self.writer.close()

    def _stay_awake(self) -> None:
        """Look for the next message at once for a while: a tool that waits for each answer sends it soon."""
        spinning = self.awake_until > 0.0
        self.awake_until = time.monotonic() + AWAKE_SECONDS
        if not spinning:
            asyncio.get_running_loop().call_soon(self._spin)

    def _spin(self) -> None:
        if time.monotonic() < self.awake_until:
            asyncio.get_running_loop().call_soon(self._spin)
        else:
            self.awake_until = 0.0

    async def _probe(self) -> None:
        """Ask for a sign of life after a time of silence, and end the connection after another."""
        while self.probe:
            await asyncio.sleep(max(0.05, self.heard + self.probe - time.monotonic()))
            silent_since = self.heard
            if time.monotonic() - silent_since < self.probe:
                continue
            if self.version:
                self.writer.write(message(self.version, Type.ECHO_REQUEST, 0))
            await asyncio.sleep(self.probe)
            if self.heard == silent_since:
                LOG.warning("%s: no answer to an echo for %g s: the connection is closed", self.name, self.probe)
                self.writer.transport.abort()
                return

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
            if kind is None or handler is None:
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_TYPE, f"message type {raw.number} is not for a switch")
            # Only which connection it is differs from the main one.
            subject = self if self.main is None or kind == Type.FEATURES_REQUEST else self.main
            if kind in WRITES:
                subject.check_writes()
            for index, reply in enumerate(await handler(subject, raw), 1):
                self.writer.write(reply)
                if index % ANSWERS == 0:
                    await self.writer.drain()
        except OpenFlowError as error:
            self._refuse(raw, error)
        except EngineError as error:
            self._refuse(raw, OpenFlowError(ErrorType.BAD_REQUEST, EPERM, str(error)))
        except (struct.error, IndexError) as error:
            why = f"the message is too short: {error}"
            self._refuse(raw, OpenFlowError(ErrorType.BAD_REQUEST, BAD_LEN, why))

    def _refuse(self, raw: Raw, error: OpenFlowError) -> None:
        LOG.info("%s: refused: %s", self.name, error)
        self.writer.write(error.encode(self.version, raw.xid, raw.data))

    def check_writes(self) -> None:
        """Raises OpenFlowError when the session's role does not let it change anything."""
        if self.role == SLAVE:
            code = EPERM if self.version == OF10 else IS_SLAVE
            raise OpenFlowError(ErrorType.BAD_REQUEST, code, "a slave changes nothing")

    def _greet(self, raw: Raw) -> None:
        """Agree on a version (1.3.5, section 6.3.1)."""
        if raw.number != Type.HELLO:
            raise OpenFlowError(ErrorType.HELLO_FAILED, HELLO_INCOMPATIBLE, "the first message is no hello")
        offered = _offered(raw)
        common = [version for version in self.versions if version in offered]
        if not common:
            why = f"versions {sorted(offered)} are offered, known are {sorted(self.versions)}"
            error = OpenFlowError(ErrorType.HELLO_FAILED, HELLO_INCOMPATIBLE, why)
            spoken = raw.version if raw.version in self.versions else max(self.versions)
            self.writer.write(error.encode(spoken, raw.xid, why.encode()))
            raise error
        self.version = max(common)
        self.connected = time.monotonic()
        self.host.greeted(self)

    # What is sent unasked

    def _wants(self, bits: tuple[int, int], reason: int) -> bool:
        """Whether a message comes to this session. A tool gets none until it says how much of packets it wants."""
        if not self.version or (self.service and not self.miss_len):
            return False
        if self.writer.transport.get_write_buffer_size() > UNSENT_MAX:
            return False
        return bool(bits[int(self.role == SLAVE)] >> reason & 1)

    @property
    def wants_misses(self) -> bool:
        """Whether packets that no flow matches come here though no flow says so: as 1.0 has it."""
        return self.version == OF10 and self._wants(self.asynchronous.packet_in, 0)

    def tell_packet_in(self, found: PacketIn, user_data: bytes, implicit: bool) -> None:
        """Send a packet, if this session gets such. ``implicit``: no flow asked for that."""
        if found.controller != self.controller_id or (implicit and self.version != OF10):
            return
        bits = self.asynchronous.packet_in
        if self.config_flags & 4:  # OFPC_INVALID_TTL_TO_CONTROLLER
            bits = (bits[0] | 4, bits[1])
        if not self._wants(bits, found.reason):
            return
        if self.rate and not self._take_token():
            self.packet_ins_lost += 1
            return
        carriers = [each for each in self.auxiliaries if each.version] or [self]
        carrier = carriers[hash(found.key) % len(carriers)]
        carrier.writer.write(packet_in(self.version, self.form, found, user_data))

    def _take_token(self) -> bool:
        now = time.monotonic()
        limit = float(self.burst or self.rate)
        self.tokens = min(limit, self.tokens + (now - self.refilled) * self.rate) if self.refilled else limit
        self.refilled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def tell_flow_removed(self, entry: FlowEntry, reason: Removal) -> None:
        """Send that a flow is gone, if this session gets such."""
        if self._wants(self.asynchronous.flow_removed, reason):
            self.writer.write(flow_removed(self.version, self.nxm, self.host.bridge, entry, reason))

    def tell_changes(self, changes: list[Change], own: int | None) -> None:
        """Send what became of flows that this session watches; ``own``: its transaction that changed them."""
        if self.monitors and self.writer.transport.get_write_buffer_size() <= UNSENT_MAX:
            for each in updates(self.version, self.host.bridge, list(self.monitors.values()), changes, own):
                self.writer.write(each)

    def tell_port(self, reason: int, port: OfPort) -> None:
        """Send what became of a port, if this session gets such."""
        if self._wants(self.asynchronous.port_status, reason):
            self.writer.write(port_codec.status(self.version, reason, port))


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

"""One bridge's agent: its sessions, its ports as controllers see them, what they are told, and how it fares alone.

The control process's loop thread alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from penstock.datapath.pipeline.program import PORT_CONTROLLER, PORT_LOCAL
from penstock.engine.client import EngineClient, EngineError
from penstock.engine.flow_region import FlowRegion
from penstock.engine.flow_tables import FlowEntry, FlowTables
from penstock.engine.frames import REASON_FIN_TIMEOUT, REASON_LEARN, PacketIn
from penstock.machine import monotonic_ns
from penstock.openflow import experimenter, requests  # noqa: F401 - their handlers register themselves
from penstock.openflow import ports as port_codec
from penstock.openflow.auxiliary import Auxiliaries
from penstock.openflow.bridge import OpenFlowBridge, normal_instructions
from penstock.openflow.connections import Connection, Keys, Serve, parse_target
from penstock.openflow.describe import describe
from penstock.openflow.eviction import Limit
from penstock.openflow.flow_mod import ANY_PORT, Change, Command, FlowMod, Removal
from penstock.openflow.match import EMPTY, Match
from penstock.openflow.packet_in import NO_MATCH
from penstock.openflow.ports import OfPort
from penstock.openflow.session import MASTER, SLAVE, Session
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.text_match import TextError, show_match
from penstock.openflow.text_program import show_operation
from penstock.openflow.text_shown import show_instructions
from penstock.openflow.wire import BAD_PACKET, BAD_PORT, OF13, VERSION_NAMES, ErrorType, OpenFlowError
from penstock.ports.spec import BridgeSpec, PortState
from penstock.switch.engine_link import EngineLink

LOG = logging.getLogger(__name__)
VERSIONS = {name: number for number, name in VERSION_NAMES.items()}
FAIL_OPEN_PROBES = 3  # silent probes after which a standalone bridge goes on alone
STALE = 0
QUIET_POLL = 20e-6
QUIET_SECONDS = 5.0
HALF = 1 << 63


# Settings that a change of makes connections anew.
OF_CONNECTIONS = (
    "private_key", "certificate", "ca_cert", "max_backoff", "protocols", "inactivity_probe", "controller_rate_limit",
    "controller_burst_limit", "auxiliary_connections",
)  # fmt: skip


def has_controllers(spec: BridgeSpec) -> bool:
    """Whether controllers are connected to: tools that are waited for leave a bridge to itself."""
    return any(not parse_target(text).is_passive for text in spec.controllers)


class BridgeHost:
    """The agent of the bridge that ``spec`` describes; implements session.Host."""

    def __init__(
        self,
        spec: BridgeSpec,
        link: EngineLink,
        region: FlowRegion,
        tables: FlowTables,
        rundir: Path,
        cycles_hz: int,
        packet_outs: Callable[[], tuple[int, int]],
        configs: Mapping[str, int],
    ) -> None:
        self.spec = spec
        self.bridge = OpenFlowBridge(region, tables, cycles_hz, self._tell_flow_removed)
        self.bridge.on_changes = self._tell_changes
        self._limit_tables()
        self.ports: dict[int, OfPort] = {}
        self.sessions: set[Session] = set()
        self.connections: dict[str, Connection] = {}
        self._link, self._region, self._rundir = link, region, rundir
        self._packet_outs = packet_outs  # bytes of packet-outs that were written and that were sent
        self._configs = dict(configs)  # by port name: what OpenFlow forbids it
        self._since: dict[str, int] = {}
        self._generation: int | None = None
        self._sending: deque[tuple[int, int]] = deque()  # packet-outs: where their record ends in the ring, program
        self._applied: dict[str, None] = {}  # flows of the configuration that are in
        self._refused: dict[str, str] = {}  # and those that cannot be, with the reason
        self._alone_since = time.monotonic()
        self._auxiliaries: dict[Session, Auxiliaries] = {}
        self._management = self._connection(f"punix:{spec.name}.mgmt")

    @property
    def datapath_id(self) -> int:
        """As configured, or one that is this host's and this bridge's."""
        if self.spec.datapath_id:
            return int(self.spec.datapath_id, 16)
        own = f"{socket.gethostname()}/{self.spec.name}".encode()
        return int.from_bytes(hashlib.sha256(own).digest()[:6], "big") & ~(1 << 40) | 1 << 41

    # Set-up

    def _connection(self, text: str, serve: Serve | None = None) -> Connection:
        spec = self.spec
        keys = None
        if spec.private_key and spec.certificate and spec.ca_cert:
            keys = Keys(spec.private_key, spec.certificate, spec.ca_cert)
        return Connection(parse_target(text), self._rundir, serve or self._serve, keys, spec.max_backoff)

    async def configure(self, spec: BridgeSpec) -> None:
        """Follow a change of the bridge's settings."""
        before, self.spec = self.spec, spec
        self._limit_tables()
        anew = any(getattr(spec, key) != getattr(before, key) for key in OF_CONNECTIONS)
        await self._connect(anew)
        if bool(before.flows) != bool(spec.flows):
            self.bridge.flow_mod(FlowMod(Command.DELETE_STRICT, 0, 0, EMPTY))
            self.add_default()
        left_alone = not has_controllers(spec) and spec.fail_mode != before.fail_mode
        if left_alone or has_controllers(before) != has_controllers(spec):
            self._alone_since = time.monotonic()
            self.flush()
        if self.ports:
            self.configure_flows()
        self.check_alone()

    async def _connect(self, anew: bool) -> None:
        """Have a connection for each target of the settings, made ``anew`` also where there is one."""
        for text in list(self.connections):
            if anew or text not in self.spec.controllers:
                await self.connections.pop(text).close()
        for text in self.spec.controllers:
            if text not in self.connections:
                self.connections[text] = self._connection(text)

    async def reconnect(self) -> None:
        """Make the connections to controllers anew."""
        await self._connect(anew=True)

    def _limit_tables(self) -> None:
        self.bridge.limits = {
            each.number: Limit(each.flow_limit, each.overflow_policy == "evict", each.groups)
            for each in self.spec.tables
        }

    def configure_flows(self) -> None:
        """Bring the flows of the configuration in, and take those out that it has no more."""
        wanted = dict.fromkeys(self.spec.flows)
        names, _ = self.port_names()
        gone = [each for each in self._applied if each not in wanted]
        for text in [*gone, *(each for each in wanted if each not in self._applied)]:
            try:
                mod = parse_flow(text, names)
                if text in self._applied:
                    mod.command = Command.DELETE_STRICT
                self.bridge.flow_mod(mod)
            except (TextError, OpenFlowError) as error:
                # A port that it names may come yet: it is tried again when ports are added.
                if self._refused.get(text) != str(error):
                    LOG.warning("%s: flow '%s' cannot be added: %s", self.spec.name, text, error)
                self._refused[text] = str(error)
                continue
            self._refused.pop(text, None)
            if text in wanted:
                self._applied[text] = None
            else:
                del self._applied[text]

    def flush(self) -> None:
        """Back to what a bridge does without a controller: the flows of the configuration, else NORMAL or nothing."""
        self.bridge.flow_mod(FlowMod(command=3, table=0xFF, priority=0, match=EMPTY))
        self._applied = {}
        self.add_default()

    def resume(self) -> None:
        """Go on with what a control process before this one had made."""
        self._applied = dict.fromkeys(self.spec.flows)
        self.bridge.resume()
        if self.bridge.is_fail_open:
            self._alone_since = -math.inf  # it goes on alone until a controller is there

    def add_default(self) -> None:
        """The flow of a bridge that nobody programs."""
        if not has_controllers(self.spec) and not self.spec.flows and self.spec.fail_mode == "standalone":
            self.bridge.flow_mod(FlowMod(0, 0, 0, EMPTY, normal_instructions()))

    async def close(self) -> None:
        """End all connections."""
        await self._management.close()
        for connection in self.connections.values():
            await connection.close()
        self.connections.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        spec = self.spec
        service = name not in self.connections
        session = Session(
            self, reader, writer, [VERSIONS[each] for each in spec.protocols], f"{spec.name}<->{name}", service,
            probe=0.0 if service else float(spec.inactivity_probe), rate=spec.controller_rate_limit,
            burst=spec.controller_burst_limit, target=name,
        )  # fmt: skip
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            if auxiliaries := self._auxiliaries.pop(session, None):
                await auxiliaries.close()
            self.monitors_changed()
            self.interests_changed()

    def greeted(self, session: Session) -> None:
        """Make the auxiliary connections of a session to a controller that has agreed on 1.3."""
        if session.main is not None:
            return
        count, connection = self.spec.auxiliary_connections, self.connections.get(session.target)
        if count and connection is not None and not connection.target.is_passive and session.version == OF13:
            connect = partial(self._connection, session.target)
            self._auxiliaries[session] = Auxiliaries(session, count, connect)
        self.interests_changed()

    # Alone or not

    @property
    def is_controlled(self) -> bool:
        """Whether a controller is connected."""
        return any(not session.service and session.version for session in self.sessions)

    def check_alone(self) -> None:
        """Have NORMAL forward while a standalone bridge has lost its controllers. Called each second."""
        now = time.monotonic()
        if self.is_controlled or not has_controllers(self.spec):
            self._alone_since = now
        patience = FAIL_OPEN_PROBES * (self.spec.inactivity_probe or 5)
        alone = self.spec.fail_mode == "standalone" and now - self._alone_since >= patience
        self.bridge.set_fail_open(alone)

    def monitors_changed(self) -> None:
        """See whether anybody watches flows."""
        self.bridge.watched = any(session.monitors for session in self.sessions)

    def _tell_changes(self, changes: list[Change], origin: object) -> None:
        """Tell those who watch; the origin is a session and the number of its transaction, or None."""
        for session in list(self.sessions):
            own = origin[1] if isinstance(origin, tuple) and origin[0] is session else None
            session.tell_changes(changes, own)

    def interests_changed(self) -> None:
        """See whether packets that no flow matches have to be handed to anybody, and whether anybody controls."""
        self.bridge.set_misses_told(any(session.wants_misses for session in self.sessions))
        self.check_alone()

    def claim_role(self, session: Session, role: int, generation: int | None) -> None:
        """Give a session a role; the master before it becomes a slave (1.3.5, section 6.3.5)."""
        if generation is not None:
            if self._generation is not None and (generation - self._generation) % (1 << 64) >= HALF:
                why = f"generation {generation} is older than {self._generation}"
                raise OpenFlowError(ErrorType.ROLE_REQUEST_FAILED, STALE, why)
            self._generation = generation
        if role == MASTER:
            for other in self.sessions:
                if other.role == MASTER and other is not session:
                    other.role = SLAVE
        session.role = role
        self.interests_changed()

    # Ports

    def follow_ports(self, states: Mapping[str, PortState]) -> None:
        """Tell controllers what became of the ports."""
        now = int(monotonic_ns())
        here = {}
        for name, state in states.items():
            if state.spec.bridge == self.spec.name:
                since = self._since.setdefault(name, now)
                up = state.state == "up"
                here[state.ofport] = OfPort(state.ofport, name, state.mac, up, self._configs.get(name, 0), {}, since)
        before, self.ports = self.ports, here
        for number, port in before.items():
            if number not in here or here[number].name != port.name:
                self._since.pop(port.name, None)
                self._configs.pop(port.name, None)
                self._tell_port(port_codec.DELETED, port)
        for number, port in here.items():
            if number not in before or before[number].name != port.name:
                self._tell_port(port_codec.ADDED, port)
            elif before[number] != port:
                self._tell_port(port_codec.MODIFIED, port)
        if before.keys() != here.keys():
            self.configure_flows()

    def _tell_port(self, reason: int, port: OfPort) -> None:
        for session in self.sessions:
            session.tell_port(reason, port)

    async def read_ports(self) -> Sequence[OfPort]:
        """The ports with their counters."""
        counters = await self._link.call(lambda client: client.port_counters())
        return [
            OfPort(p.number, p.name, p.mac, p.up, p.config, counters.get(p.name, {}), p.since)
            for _, p in sorted(self.ports.items())
        ]

    async def set_port_config(self, port: OfPort, config: int) -> None:
        """Change what is forbidden a port."""
        await self._link.call(lambda client: client.set_port_config(port.name, port_codec.of_datapath(config)))
        self._configs[port.name] = config
        changed = OfPort(port.number, port.name, port.mac, port.up, config, {}, port.since)
        if self.ports.get(port.number) != changed:
            self.ports[port.number] = changed
            self._tell_port(port_codec.MODIFIED, changed)

    async def restore_configs(self) -> None:
        """Forbid a new engine's ports what was forbidden the old one's."""
        for name, config in self._configs.items():
            if config:
                bits = port_codec.of_datapath(config)
                await self._link.call(lambda client, name=name, bits=bits: client.set_port_config(name, bits))  # type: ignore[misc]

    # In words

    def port_names(self) -> tuple[dict[str, int], dict[int, str]]:
        """OpenFlow numbers by port name, and names by number."""
        names = {port.name: number for number, port in self.ports.items()}
        return names, {number: name for name, number in names.items()}

    def spell_flow(self, address: int) -> str:
        """A flow by its address, for a trace."""
        entry = self.bridge.tables.read(address)
        _, numbers = self.port_names()
        match = ",".join([f"priority={entry.priority}", *show_match(Match(entry.key, entry.mask), numbers)])
        return f"{match} actions={show_instructions(self.bridge.instructions(entry), numbers)}"

    def spell_operation(self, address: int) -> str:
        """An operation of a program by its address, for a trace."""
        return show_operation(self._region.operation(address), self.port_names()[1])

    def describe_connections(self) -> list[dict[str, Any]]:
        """Targets, how they fare, and the sessions."""
        return describe(self.connections, self.sessions)

    # Packets

    async def packet_out(self, frame: bytes, in_port: int, instructions: bytes) -> None:
        """Run instructions of 1.3 on a frame. Raises OpenFlowError."""
        number = 0
        if in_port not in (PORT_CONTROLLER, ANY_PORT, PORT_LOCAL) or in_port in self.ports:
            if in_port not in self.ports:
                raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_PORT, f"packet-out: port {in_port} does not exist")
            number = self.bridge.tables.engine_port(in_port)
        program = self.bridge.programs.for_any(instructions)
        self._region.hold(program)
        address = self.bridge.tables.address

        def send(client: EngineClient) -> int:
            try:
                client.run_program(frame, number, address, program)
            except ValueError as error:
                raise EngineError(str(error)) from error
            return client.packet_outs_written()

        try:
            written = await self._link.call(send)
        except EngineError as error:
            self._region.drop_reference(program)
            raise OpenFlowError(ErrorType.BAD_REQUEST, BAD_PACKET, str(error)) from error
        self._sending.append((written, program))
        self.release_sent()

    def release_sent(self) -> None:
        """Let go of the programs of packet-outs that workers have taken, or that ended with their engine."""
        written, sent = self._packet_outs()
        while self._sending and not sent < self._sending[0][0] <= written:
            done = self._sending.popleft()[1]
            self._region.defer(partial(self._region.drop_reference, done))

    def take_packet_in(self, found: PacketIn) -> None:
        """Do what a worker asks for: teach a flow, shorten its time-outs, or tell controllers of a packet."""
        if found.reason == REASON_LEARN:
            try:
                self.bridge.learn(self._region.read_blob(found.user_data), found.key)
            except OpenFlowError as error:
                LOG.warning("%s: a flow cannot be learned: %s", self.spec.name, error)
        elif found.reason == REASON_FIN_TIMEOUT:
            self.bridge.end_soon(found.user_data)
        else:
            self._tell_packet_in(found)

    def _tell_packet_in(self, found: PacketIn) -> None:
        """Send a packet to the sessions that get such."""
        implicit = found.reason == NO_MATCH and found.cookie == 0xFFFFFFFFFFFFFFFF
        user_data = self._region.read_blob(found.user_data) if found.user_data else b""
        for session in list(self.sessions):
            session.tell_packet_in(found, user_data, implicit)

    def _tell_flow_removed(self, entry: FlowEntry, reason: Removal) -> None:
        for session in list(self.sessions):
            session.tell_flow_removed(entry, reason)

    async def quiet(self) -> None:
        """Return when every worker forwards by the tables as they are now, and has sent all packet-outs."""
        turns = self._region.turns()
        wanted, _ = self._packet_outs()
        deadline = time.monotonic() + QUIET_SECONDS

        def is_sent() -> bool:
            written, sent = self._packet_outs()
            return not sent < wanted <= written  # less was written: the engine is another one

        while not self._region.is_quiet_since(turns) or not is_sent():
            if time.monotonic() > deadline:
                LOG.error("%s: a worker did not begin a turn in %g s", self.spec.name, QUIET_SECONDS)
                break
            await asyncio.sleep(QUIET_POLL)
        self._region.run_deferred()

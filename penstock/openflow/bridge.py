"""A bridge as controllers see it: flow-mods become transactions of its flow tables, statistics are read from them.

Knows nothing of connections: whoever calls encodes the answers. The control process's loop thread alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_region import FlowRegion, RegionError
from penstock.engine.flow_tables import ANY_TABLE, FlowEntry, FlowTables
from penstock.machine import monotonic_ns
from penstock.openflow.actions import Program, Targets, compile_instructions
from penstock.openflow.match import Match
from penstock.openflow.wire import (
    FLOW_MOD_BAD_COMMAND,
    FLOW_MOD_BAD_TABLE,
    FLOW_MOD_OVERLAP,
    FLOW_MOD_TABLE_FULL,
    ErrorType,
    OpenFlowError,
)
from penstock.packet.fields import KEY_SIZE

SEND_FLOW_REM, CHECK_OVERLAP, RESET_COUNTS, NO_PACKET_COUNTS, NO_BYTE_COUNTS = (1 << bit for bit in range(5))
ALL_TABLES = 0xFF
LAST_TABLE = 254
ANY_PORT = ANY_GROUP = 0xFFFFFFFF
PROGRAMS_MAX = 65536


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


@dataclass(slots=True)
class FlowMod:
    """A flow-mod of any version; ``instructions`` as OpenFlow 1.3 writes them."""

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


@dataclass(frozen=True, slots=True)
class Select:
    """Which flows a statistics request is about."""

    table: int
    match: Match
    cookie: int = 0
    cookie_mask: int = 0
    out_port: int = ANY_PORT
    out_group: int = ANY_GROUP


EMPTY = Match(bytes(KEY_SIZE), bytes(KEY_SIZE))


class OpenFlowBridge:
    """The flow tables of one bridge; ``on_removed`` is told of flows that asked for it."""

    def __init__(
        self, region: FlowRegion, tables: FlowTables, on_removed: Callable[[FlowEntry, Removal], None]
    ) -> None:
        self.region = region
        self.tables = tables
        self.name = tables.row["name"].decode()
        self._on_removed = on_removed
        self._compiled: dict[tuple[bytes, int], Program] = {}

    # Changes

    def flow_mod(self, mod: FlowMod) -> None:
        """Carry out a flow-mod, whole or not at all. Raises OpenFlowError."""
        self.flow_mods([mod])

    def flow_mods(self, mods: list[FlowMod]) -> None:
        """Carry out flow-mods so that packets see all of them at once, or none. Raises OpenFlowError."""
        gone: list[FlowEntry] = []
        try:
            for mod in mods:
                self._prepare(mod, gone)
        except RegionError as error:
            self.tables.abort()
            raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_TABLE_FULL, str(error)) from error
        except BaseException:
            self.tables.abort()
            raise
        self.tables.commit()
        for entry in gone:
            self._on_removed(entry, Removal.DELETE)
        self.region.run_deferred()

    def _prepare(self, mod: FlowMod, gone: list[FlowEntry]) -> None:
        if mod.command == Command.ADD:
            self._add(mod)
        elif mod.command in (Command.MODIFY, Command.MODIFY_STRICT):
            self._modify(mod)
        elif mod.command in (Command.DELETE, Command.DELETE_STRICT):
            for entry in list(self._selected(mod, mod.command == Command.DELETE_STRICT)):
                self.tables.remove(entry.address)
                if entry.flags & SEND_FLOW_REM:
                    gone.append(entry)
        else:
            raise OpenFlowError(
                ErrorType.FLOW_MOD_FAILED, FLOW_MOD_BAD_COMMAND, f"flow-mod command {mod.command} is unknown"
            )

    def _add(self, mod: FlowMod) -> None:
        if not 0 <= mod.table <= LAST_TABLE:
            raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_BAD_TABLE, f"table {mod.table} cannot hold flows")
        program = self._program(mod.instructions, mod.table)
        if mod.flags & CHECK_OVERLAP:
            key, mask = mod.match.key, mod.match.mask
            for other in self.tables.scan(mod.table, key, mask, priority=mod.priority, overlapping=True):
                if (other.key, other.mask) != (key, mask):
                    why = f"a flow of priority {mod.priority} in table {mod.table} overlaps"
                    raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_OVERLAP, why)
        self.tables.add(
            mod.table,
            mod.priority,
            mod.match.key,
            mod.match.mask,
            program,
            cookie=mod.cookie,
            idle=mod.idle,
            hard=mod.hard,
            flags=mod.flags,
            importance=mod.importance,
            keep_counters=not mod.flags & RESET_COUNTS and not mod.modify_adds,
        )

    def _modify(self, mod: FlowMod) -> None:
        found = list(self._selected(mod, mod.command == Command.MODIFY_STRICT))
        if not found and mod.modify_adds:
            mod.table = 0 if mod.table == ALL_TABLES else mod.table
            self._add(mod)
            return
        for entry in found:
            program = self._program(mod.instructions, entry.table)
            cookie = mod.cookie if mod.modify_adds else None
            self.tables.modify(entry.address, program, cookie=cookie, reset=bool(mod.flags & RESET_COUNTS))

    def _selected(self, mod: FlowMod, strict: bool) -> Iterator[FlowEntry]:
        table = ANY_TABLE if mod.table == ALL_TABLES else mod.table
        key, mask = mod.match.key, mod.match.mask
        if strict and table != ANY_TABLE:
            address = self.tables.find(table, mod.priority, key, mask)
            found: Iterator[FlowEntry] = iter([self.tables.read(address)] if address else [])
        else:
            found = self.tables.scan(table, key, mask, cookie=mod.cookie, cookie_mask=mod.cookie_mask)
        for entry in found:
            if strict and (entry.priority, entry.mask) != (mod.priority, mask):
                continue
            if (entry.cookie ^ mod.cookie) & mod.cookie_mask == 0 and self._sends(entry, mod.out_port, mod.out_group):
                yield entry

    def _sends(self, entry: FlowEntry, port: int, group: int) -> bool:
        """Whether a flow's instructions output to a port and a group; the ANY_ ones ask nothing."""
        if port == ANY_PORT and group == ANY_GROUP:
            return True
        made = self._compile(self.region.source(entry.program), entry.table)
        return (port == ANY_PORT or port in made.ports) and (group == ANY_GROUP or group in made.groups)

    def _compile(self, instructions: bytes, table: int) -> Program:
        known = self._compiled.get((instructions, table))
        if known is None:
            targets = Targets(table, lambda _number: 0, lambda _number: 0)
            known = compile_instructions(instructions, targets)
            if len(self._compiled) >= PROGRAMS_MAX:
                self._compiled.clear()
            self._compiled[instructions, table] = known
        return known

    def _program(self, instructions: bytes, table: int) -> int:
        made = self._compile(instructions, table)
        if made.reads:
            self.tables.reads(made.reads.to_bytes(KEY_SIZE, "big"))
        return self.region.program(made.operations, instructions)

    # Statistics

    def flows(self, select: Select) -> Iterator[FlowEntry]:
        """The flows that a request is about."""
        table = ANY_TABLE if select.table == ALL_TABLES else select.table
        match = select.match
        for entry in self.tables.scan(
            table, match.key, match.mask, cookie=select.cookie, cookie_mask=select.cookie_mask
        ):
            if self._sends(entry, select.out_port, select.out_group):
                yield entry

    def instructions(self, entry: FlowEntry) -> bytes:
        """A flow's instructions as OpenFlow 1.3 writes them."""
        return self.region.source(entry.program)

    # Time

    def expire(self, addresses: list[int]) -> None:
        """End flows of this bridge whose time is over."""
        ended = [self.tables.read(address) for address in addresses]
        for entry in ended:
            self.tables.remove(entry.address)
        self.tables.commit()
        now = int(monotonic_ns())
        for entry in ended:
            hard = entry.hard and now - entry.modified >= entry.hard * 1_000_000_000
            if entry.flags & SEND_FLOW_REM:
                self._on_removed(entry, Removal.HARD if hard else Removal.IDLE)


def normal_instructions() -> bytes:
    """What the flow does that a bridge has when no controller said anything: NORMAL."""
    return bytes.fromhex("0004001800000000") + bytes.fromhex(f"00000010{p.PORT_NORMAL:08x}0000000000000000")

"""Changes of a bridge that are made together or not at all: flow-mods, group-mods and meter-mods, and bundles of them.

Packets see the flows of a transaction all at once, as it ends. Groups and meters they see as each is put, since what it
is put for is not there yet, or is there already; those that are taken away stay until the flows are gone. When anything
is refused, groups and meters are put back as they were. The control process's loop thread alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from penstock.engine.flow_region import RegionError
from penstock.engine.flow_tables import TABLES, FlowEntry
from penstock.engine.group_tables import Band, Bucket
from penstock.openflow.compile import Program
from penstock.openflow.eviction import Limit, choose
from penstock.openflow.flow_mod import (
    ALL_TABLES,
    CHECK_OVERLAP,
    PRIORITY_MAX,
    RESET_COUNTS,
    SEND_FLOW_REM,
    Change,
    Command,
    Event,
    FlowMod,
    Removal,
)
from penstock.openflow.match import Match
from penstock.openflow.wire import (
    FLOW_MOD_BAD_COMMAND,
    FLOW_MOD_BAD_TABLE,
    FLOW_MOD_OVERLAP,
    FLOW_MOD_TABLE_FULL,
    ErrorType,
    OpenFlowError,
)

if TYPE_CHECKING:
    from penstock.openflow.bridge import OpenFlowBridge

GROUPS_FULL, METERS_FULL = 3, 10


class Transaction:
    """Use as a context manager: it ends with the block, and is undone by an exception."""

    def __init__(self, bridge: OpenFlowBridge, origin: object = None) -> None:
        self._bridge, self._origin = bridge, origin
        self._tables = bridge.tables
        self._made: list[tuple[Event, int]] = []
        self._gone: list[tuple[FlowEntry, Removal]] = []
        self._settle: list[Callable[[bool], None]] = []  # of groups and meters, told whether they stay as they are now

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._commit()
            return
        self._tables.abort()
        for settle in reversed(self._settle):
            settle(False)
        if self._settle:
            self._bridge.programs.forget()
        if isinstance(error, RegionError):
            raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_TABLE_FULL, str(error)) from error

    def _commit(self) -> None:
        bridge = self._bridge
        self._tables.commit()
        changes = []
        if bridge.watched:
            for event, flow in self._made:
                entry = self._tables.read(flow)
                changes.append(Change(event, entry, bridge.instructions(entry)))
        bridge.tell(changes, self._gone, self._origin)
        for settle in self._settle:
            settle(True)
        if self._settle:
            bridge.programs.forget()
        bridge.region.run_deferred()

    # Flows

    def flow_mod(self, mod: FlowMod) -> None:
        """Prepare a flow-mod. Raises OpenFlowError, RegionError."""
        if mod.command == Command.ADD:
            self._made.append(self._add(mod))
        elif mod.command in (Command.MODIFY, Command.MODIFY_STRICT):
            self._made += self._modify(mod)
        elif mod.command in (Command.DELETE, Command.DELETE_STRICT):
            for entry in list(self._selected(mod, mod.command == Command.DELETE_STRICT)):
                self._remove(entry, Removal.DELETE)
        else:
            raise OpenFlowError(
                ErrorType.FLOW_MOD_FAILED, FLOW_MOD_BAD_COMMAND, f"flow-mod command {mod.command} is unknown"
            )

    def _add(self, mod: FlowMod) -> tuple[Event, int]:
        if not 0 <= mod.table < TABLES:
            raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_BAD_TABLE, f"table {mod.table} cannot hold flows")
        program = self._program(mod, mod.table, mod.priority, mod.match)
        if mod.flags & CHECK_OVERLAP:
            key, mask = mod.match.key, mod.match.mask
            for some in self._tables.scan(mod.table, key, mask, priority=mod.priority, overlapping=True):
                if any((other.key, other.mask) != (key, mask) for other in some):
                    why = f"a flow of priority {mod.priority} in table {mod.table} overlaps"
                    raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_OVERLAP, why)
        event = Event.ADDED
        limit = self._bridge.limits.get(mod.table)
        if (self._bridge.watched or limit) and self._tables.find(
            mod.table, mod.priority, mod.match.key, mod.match.mask
        ):
            event = Event.MODIFIED
        elif limit:
            self._make_room(mod.table, limit)
        return event, self._tables.add(
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
            keep_counters=not mod.flags & RESET_COUNTS,
        )

    def _make_room(self, table: int, limit: Limit) -> None:
        while self._tables.count_of(table) >= limit.flows:
            flows = [entry for some in self._tables.scan(table) for entry in some] if limit.evicts else []
            victim = choose(self._bridge.region, flows, limit.groups)
            if victim is None:
                why = f"table {table} holds {limit.flows} flows, the most that it may"
                raise OpenFlowError(ErrorType.FLOW_MOD_FAILED, FLOW_MOD_TABLE_FULL, why)
            self._remove(victim, Removal.DELETE)

    def _modify(self, mod: FlowMod) -> list[tuple[Event, int]]:
        found = list(self._selected(mod, mod.command == Command.MODIFY_STRICT))
        if not found and mod.modify_adds and not mod.cookie_mask:
            mod.table = 0 if mod.table == ALL_TABLES else mod.table
            return [self._add(mod)]
        made = []
        for entry in found:
            program = self._program(mod, entry.table, entry.priority, Match(entry.key, entry.mask))
            reset = bool(mod.flags & RESET_COUNTS)
            flow = self._tables.modify(entry.address, program, cookie=mod.new_cookie, reset=reset)
            made.append((Event.MODIFIED, flow))
        return made

    def _selected(self, mod: FlowMod, strict: bool) -> Iterator[FlowEntry]:
        if strict and mod.table != ALL_TABLES:
            address = self._tables.find(mod.table, mod.priority, mod.match.key, mod.match.mask)
            found = [self._tables.read(address)] if address else []
        else:
            found = [entry for some in self._bridge.scan(mod) for entry in some]
        for entry in found:
            if entry.priority > PRIORITY_MAX:
                continue
            if strict and (entry.priority, entry.mask) != (mod.priority, mod.match.mask):
                continue
            if (entry.cookie ^ mod.cookie) & mod.cookie_mask == 0 and self._bridge.sends(
                entry, mod.out_port, mod.out_group
            ):
                yield entry

    def _program(self, mod: FlowMod, table: int, priority: int, match: Match) -> int:
        return self._bridge.programs.for_flow(mod.instructions, table, match.key, priority == 0 and not any(match.mask))

    def _remove(self, entry: FlowEntry, why: Removal) -> None:
        self._tables.remove(entry.address)
        if self._bridge.watched or entry.flags & SEND_FLOW_REM:
            self._gone.append((entry, why))

    # Groups and meters

    def put_group(self, number: int, kind: int, buckets: list[Bucket], source: bytes) -> None:
        """Add a group, or replace what it is. Raises OpenFlowError when there is no room."""
        try:
            self._settle.append(self._bridge.groups.put(number, kind, buckets, source))
        except RegionError as error:
            raise OpenFlowError(ErrorType.GROUP_MOD_FAILED, GROUPS_FULL, str(error)) from error
        self._bridge.programs.forget()

    def remove_groups(self, numbers: Sequence[int]) -> None:
        """Remove groups, and the flows that name them."""
        self._remove_users(lambda made: bool(made.groups & set(numbers)))
        self._settle += [self._bridge.groups.leave(number) for number in numbers]
        self._bridge.programs.forget()

    def put_meter(self, number: int, flags: int, kbps: bool, bands: list[Band]) -> None:
        """Add a meter, or replace what it is. Raises OpenFlowError when there is no room."""
        try:
            self._settle.append(self._bridge.meters.put(number, flags, kbps, bands))
        except RegionError as error:
            raise OpenFlowError(ErrorType.METER_MOD_FAILED, METERS_FULL, str(error)) from error
        self._bridge.programs.forget()

    def remove_meters(self, numbers: Sequence[int]) -> None:
        """Remove meters, and the flows that name them."""
        self._remove_users(lambda made: bool(made.meters & set(numbers)))
        self._settle += [self._bridge.meters.leave(number) for number in numbers]
        self._bridge.programs.forget()

    def _remove_users(self, names: Callable[[Program], bool]) -> None:
        for entry in [each for each in self._tables.flows() if names(self._bridge.program_of(each))]:
            self._remove(entry, Removal.GROUP_DELETE)

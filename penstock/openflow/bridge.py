"""A bridge as controllers see it: flow-mods become transactions of its flow tables, statistics are read from them.

Knows nothing of connections: whoever calls encodes the answers. The control process's loop thread alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_region import FlowRegion
from penstock.engine.flow_tables import ANY_TABLE, FLOWS_MAX, MISS_CONTROLLER, MISS_DROP, FlowEntry, FlowTables
from penstock.engine.group_tables import GroupTable, MeterTable
from penstock.engine.tlv_map import TlvMap
from penstock.machine import monotonic_ns
from penstock.openflow.action_wire import apply_instruction, output_action
from penstock.openflow.compile import Program
from penstock.openflow.eviction import Limit
from penstock.openflow.flow_mod import (
    ALL_TABLES,
    ANY_GROUP,
    ANY_PORT,
    PRIORITY_MAX,
    SEND_FLOW_REM,
    Change,
    Event,
    FlowMod,
    Removal,
    Select,
)
from penstock.openflow.group_mod import GROUP_ANY, split_buckets
from penstock.openflow.learn import decode_learn
from penstock.openflow.match import EMPTY, in_key
from penstock.openflow.programs import Programs
from penstock.openflow.transaction import Transaction
from penstock.openflow.wire import NANOSECONDS
from penstock.packet.fields import FIELDS

FAIL_OPEN = 0xF0F0F0
_OPTIONS = [row for row in FIELDS if row.variable]


class OpenFlowBridge:
    """The flow tables, groups and meters of one bridge; ``on_removed`` is told of flows that asked for it."""

    def __init__(
        self,
        region: FlowRegion,
        tables: FlowTables,
        cycles_hz: int,
        on_removed: Callable[[FlowEntry, Removal], None],
    ) -> None:
        self.region = region
        self.tables = tables
        self.groups = GroupTable(region, tables.address)
        self.meters = MeterTable(region, tables.address, cycles_hz)
        self.name = tables.row["name"].decode()
        self._on_removed = on_removed
        self.watched = False  # whether anybody is to be told of changes
        self.on_changes: Callable[[list[Change], object], None] = lambda _changes, _origin: None
        self.limits: dict[int, Limit] = {}  # by table
        self._misses_told = False
        self.tlvs = TlvMap(region, tables.address)
        self.programs = Programs(region, tables, self.groups, self.meters)

    def resume(self) -> None:
        """Go on with a pipeline that another control process made: learn what its actions read of packets."""
        self.programs.resume()
        self.tables.masks.set_every_miss(MISS_DROP)

    def destroy(self) -> None:
        """Give all of it back; the engine uses it no more."""
        self.tlvs.replace([])
        self.tables.destroy()
        for number in list(self.groups.numbers()):
            self.groups.remove(number)
        for number in list(self.meters.numbers()):
            self.meters.remove(number)

    # Changes

    def flow_mod(self, mod: FlowMod, origin: object = None) -> None:
        """Carry out a flow-mod, whole or not at all. Raises OpenFlowError."""
        self.flow_mods([mod], origin)

    def flow_mods(self, mods: list[FlowMod], origin: object = None) -> None:
        """Carry out flow-mods so that packets see all of them at once, or none. Raises OpenFlowError."""
        with Transaction(self, origin) as transaction:
            for mod in mods:
                transaction.flow_mod(mod)

    def scan(self, what: FlowMod | Select) -> Iterator[list[FlowEntry]]:
        """The flows that a flow-mod or a request may mean, by table, match and cookie; the switch's own too."""
        table = ANY_TABLE if what.table == ALL_TABLES else what.table
        match = what.match
        return self.tables.scan(table, match.key, match.mask, cookie=what.cookie, cookie_mask=what.cookie_mask)

    def tell(self, changes: list[Change], gone: list[tuple[FlowEntry, Removal]], origin: object = None) -> None:
        """Tell those who want to know what became of flows; ``origin``: whose changes they are, to those who watch."""
        if self.watched and (changes or gone):
            changes += [Change(Event.DELETED, each, self.instructions(each), why) for each, why in gone]
            self.on_changes(changes, origin)
        for entry, why in gone:
            if entry.flags & SEND_FLOW_REM:
                self._on_removed(entry, why)

    def sends(self, entry: FlowEntry, port: int, group: int) -> bool:
        """Whether a flow's instructions output to a port and a group; the ANY_ ones ask nothing."""
        if port == ANY_PORT and group == ANY_GROUP:
            return True
        made = self.program_of(entry)
        return (port == ANY_PORT or port in made.ports) and (group == ANY_GROUP or group in made.groups)

    # Groups and meters

    def named_groups(self, number: int) -> set[int]:
        """The groups that a group's buckets name or watch."""
        _, source = self.groups.describe(number)
        found = set()
        for _, _, watched, actions in split_buckets(source):
            found |= self.programs.compiled(apply_instruction(actions)).groups | {watched}
        return found - {GROUP_ANY}

    def reachable_groups(self, numbers: set[int]) -> set[int]:
        """These groups and all that their buckets lead to."""
        found: set[int] = set()
        waiting = set(numbers)
        while waiting:
            number = waiting.pop()
            if number not in found and number in self.groups:
                found.add(number)
                waiting |= self.named_groups(number)
        return found

    def program_of(self, entry: FlowEntry) -> Program:
        """What a flow's instructions come to."""
        return self.programs.compiled(self.region.source(entry.program), entry.table)

    def group_references(self) -> dict[int, int]:
        """How many flows name each group."""
        return self._references(lambda made: made.groups)

    def meter_references(self) -> dict[int, int]:
        """How many flows name each meter."""
        return self._references(lambda made: made.meters)

    def _references(self, named: Callable[[Program], set[int]]) -> dict[int, int]:
        found: dict[int, int] = {}
        for entry in self.tables.flows():
            for number in named(self.program_of(entry)):
                found[number] = found.get(number, 0) + 1
        return found

    def options_named(self) -> set[str]:
        """The fields of the TLV map that flows match or their actions name."""
        found: set[str] = set()
        for entry in self.tables.flows():
            made = self.program_of(entry)
            read = made.reads | int.from_bytes(entry.mask, "big")
            found |= made.options | {row.name for row in _OPTIONS if read >> in_key(row) & (1 << row.bits) - 1}
        return found

    def set_misses_told(self, wanted: bool) -> None:
        """Whether packets that no flow matches go to controllers that take them unasked."""
        if wanted != self._misses_told:
            self._misses_told = wanted
            self.tables.masks.set_every_miss(MISS_CONTROLLER if wanted else MISS_DROP)

    # The switch's own flows

    @property
    def is_fail_open(self) -> bool:
        """Whether NORMAL forwards everything, whatever the flows say."""
        return bool(self.tables.find(0, FAIL_OPEN, EMPTY.key, EMPTY.mask))

    def set_fail_open(self, wanted: bool) -> None:
        """Have that so, or not."""
        if wanted == self.is_fail_open:
            return
        if wanted:
            program = self.programs.for_any(normal_instructions())
            self.tables.add(0, FAIL_OPEN, EMPTY.key, EMPTY.mask, program)
        else:
            self.tables.remove(self.tables.find(0, FAIL_OPEN, EMPTY.key, EMPTY.mask))
        self.tables.commit()

    # Statistics

    def flows(self, select: Select) -> Iterator[list[FlowEntry]]:
        """The flows that a request is about, some at a time; what is read of a list is read before others have a turn.

        Those of the switch itself are left out.
        """
        for some in self.scan(select):
            yield [
                entry
                for entry in some
                if entry.priority <= PRIORITY_MAX and self.sends(entry, select.out_port, select.out_group)
            ]

    def count_of(self, table: int) -> int:
        """Flows in a table, the switch's own left out."""
        return self.tables.count_of(table) - int(table == 0 and self.is_fail_open)

    def limit_of(self, table: int) -> int:
        """How many there can be."""
        limit = self.limits.get(table)
        return limit.flows if limit is not None else FLOWS_MAX

    def instructions(self, entry: FlowEntry) -> bytes:
        """A flow's instructions as OpenFlow 1.3 writes them."""
        return self.region.source(entry.program)

    # What packets ask for

    def learn(self, action: bytes, key: bytes) -> None:
        """Add the flow that a packet with this key teaches, or begin its time-outs anew. Raises OpenFlowError."""
        mod = decode_learn(memoryview(action)).teach(key)
        address = self.tables.find(mod.table, mod.priority, mod.match.key, mod.match.mask)
        if address:
            entry = self.tables.read(address)
            same = (entry.idle, entry.hard, entry.cookie) == (mod.idle, mod.hard, mod.cookie)
            if same and self.instructions(entry) == mod.instructions:
                self.tables.refresh(address)
                return
        self.flow_mod(mod)

    def end_soon(self, flow: int) -> None:
        """Shorten a flow's time-outs as its FIN_TIMEOUT says."""
        for idle, hard in self.tables.fin_timeouts(flow):
            self.tables.shorten(flow, idle, hard)

    # Time

    def expire(self, addresses: list[int]) -> None:
        """End flows of this bridge whose time is over."""
        ended = [self.tables.read(address) for address in addresses]
        for entry in ended:
            self.tables.remove(entry.address)
        self.tables.commit()
        now = int(monotonic_ns())
        gone = []
        for entry in ended:
            hard = entry.hard and now - entry.modified >= entry.hard * NANOSECONDS
            gone.append((entry, Removal.HARD if hard else Removal.IDLE))
        self.tell([], gone)


def normal_instructions() -> bytes:
    """What the flow does that a bridge has when no controller said anything: NORMAL."""
    return apply_instruction(output_action(p.PORT_NORMAL))

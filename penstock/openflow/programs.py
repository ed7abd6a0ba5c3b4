"""The programs of one bridge: compiled from instructions once, and stored where workers run them."""

from __future__ import annotations

from penstock.engine.flow_region import FlowRegion
from penstock.engine.flow_tables import ANY_TABLE, FlowTables
from penstock.engine.group_tables import GroupTable, MeterTable
from penstock.openflow.compile import Program, Targets
from penstock.openflow.instructions import compile_instructions
from penstock.openflow.wire import ACTION_MATCH_INCONSISTENT, ErrorType, OpenFlowError
from penstock.packet.fields import KEY_SIZE, PREREQUISITES

COMPILED_MAX = 8192


class Programs:
    """What instructions compile to on a bridge. The control process's loop thread alone."""

    def __init__(self, region: FlowRegion, tables: FlowTables, groups: GroupTable, meters: MeterTable) -> None:
        self._region, self._tables, self._groups, self._meters = region, tables, groups, meters
        self._compiled: dict[tuple[bytes, int, bool], Program] = {}

    def resume(self) -> None:
        """Go on with programs that another control process stored: learn what they read of packets."""
        reads = 0
        for program in self._region.programs():
            reads |= self.compiled(self._region.source(program), ANY_TABLE).reads
        self._note_reads(reads)

    def compiled(self, instructions: bytes, table: int = 0, miss: bool = False) -> Program:
        """What instructions of a flow in a table compile to; ``miss``: of its table-miss flow. Raises OpenFlowError."""
        known = self._compiled.get((instructions, table, miss))
        if known is None:
            targets = Targets(table, self._groups.address, self._meters.address, self._region.blob, miss)
            known = compile_instructions(instructions, targets)
            if len(self._compiled) >= COMPILED_MAX:
                self._compiled.clear()
            self._compiled[instructions, table, miss] = known
        return known

    def forget(self) -> None:
        """Compile anew from now on: groups or meters are elsewhere."""
        self._compiled.clear()

    def for_flow(self, instructions: bytes, table: int, key: bytes, miss: bool) -> int:
        """The stored program of a flow that matches ``key``. Raises OpenFlowError."""
        made = self.compiled(instructions, table, miss)
        for need in made.needs:
            if not PREREQUISITES[need](key):
                why = f"the actions are for packets that are {need.replace('|', ' or ')}, which the match does not say"
                raise OpenFlowError(ErrorType.BAD_ACTION, ACTION_MATCH_INCONSISTENT, why)
        if made.is_conjunctive:
            self._tables.masks.set_conjunctive(table)
        return self._store(made, instructions)

    def for_any(self, instructions: bytes) -> int:
        """The stored program of a packet-out or a bucket, which any packet may meet. Raises OpenFlowError."""
        return self._store(self.compiled(instructions), instructions)

    def _store(self, made: Program, source: bytes) -> int:
        self._note_reads(made.reads)
        return self._region.program(made.operations, source)

    def _note_reads(self, reads: int) -> None:
        if reads:
            self._tables.masks.reads(reads.to_bytes(KEY_SIZE, "big"))

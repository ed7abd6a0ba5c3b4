"""The flow tables of one bridge, as the control process changes and reads them.

Changes are made in a transaction: ``add``, ``remove`` and ``modify`` prepare them, ``commit`` has all packets from then
on see all of them, ``abort`` none. A flow is known by its address, which is good until the commit after its removal.
What a flow was made from is kept in its program as opaque bytes. One thread.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence

from penstock.datapath.pipeline.changes import begin_log, log_removal, publish
from penstock.datapath.pipeline.layout import (
    CHANGE_LOG,
    FLOW,
    FLOW_ADDED,
    FLOW_REMOVED,
    FLOW_TABLE,
    FLOWS_MAX,
    FOREVER,
    KEY_WORDS,
    MISS_CONTROLLER,
    MISS_DROP,
    PIPELINE,
    PORT_MAP,
    PROGRAM_NORMAL,
    REGION_BASE,
    TABLE_COUNTER_BYTES,
    TABLES,
    WORKERS,
)
from penstock.datapath.pipeline.program import END, FIN_TIMEOUT
from penstock.datapath.pipeline.subtables import NO_MEMORY
from penstock.datapath.pipeline.tables import (
    ADDITION,
    DONE,
    GROW,
    KEEP_COUNTERS,
    NEW_COUNTERS,
    TOO_MANY,
    add_flow,
    commit_addition,
    commit_removal,
    find_flow,
    link_flow,
    release_flow,
    unlink_flow,
)
from penstock.engine.flow_masks import FlowMasks
from penstock.engine.flow_reading import ANY_TABLE, NONE, FlowEntry, FlowReader, expired, mask_words
from penstock.engine.flow_region import FlowRegion, RegionError
from penstock.machine import monotonic_ns, records, store64
from penstock.packet.fields import KEY_SIZE

__all__ = [
    "ANY_TABLE", "FLOWS_MAX", "MISS_CONTROLLER", "MISS_DROP", "TABLES", "FlowEntry", "FlowTables", "expired",
    "mask_words",
]  # fmt: skip

_ADDITION = struct.Struct(f"={len(ADDITION.names or ())}q")


class FlowTables(FlowReader):
    """The pipeline at ``address`` in the region."""

    def __init__(self, region: FlowRegion, address: int) -> None:
        super().__init__(address)
        self.region = region
        self.masks = FlowMasks(region, self)
        self._counts: dict[int, int] = {}  # flows that packets see, by table
        self._grown: dict[int, int] = {}  # by how much the present transaction changes that
        self._key = ctypes.create_string_buffer(KEY_SIZE + 64)
        self._key_address = ctypes.addressof(self._key)
        self._addition = ctypes.create_string_buffer(_ADDITION.size)
        self._addition_address = ctypes.addressof(self._addition)
        self._removed: list[int] = []

    @classmethod
    def create(cls, region: FlowRegion, name: str) -> FlowTables:
        """An empty pipeline for a bridge: packets miss in table 0."""
        address = region.allocate(PIPELINE.itemsize)
        row = records(PIPELINE, address)[0]
        row["cacheable"], row["miss_len"] = 1, 128
        row["name"] = name.encode()
        row["ports"] = region.allocate(PORT_MAP * 2)
        row["table_counters"] = region.allocate(WORKERS * TABLES * TABLE_COUNTER_BYTES)
        row["words"] = region.allocate(KEY_WORDS.itemsize)
        row["log"] = region.allocate(CHANGE_LOG.itemsize)
        begin_log(address, int(region.header["versions"]) + 1)
        region.list_pipeline(address)
        return cls(region, address)

    def destroy(self) -> None:
        """Give everything back. The engine's bridge uses it no more."""
        self.region.unlist_pipeline(self.address)
        publish(self.address)
        for flow in self.flows():
            self.remove(flow.address)
        self.commit()
        self.region.header["versions"] = max(int(self.region.header["versions"]), int(self.row["version"]))
        # Flows take two quiet points to be gone, and what was emptied with them one more.
        self._after(3, self._release_all)

    def _after(self, points: int, function: Callable[[], object]) -> None:
        self.region.defer(lambda: self._after(points - 1, function) if points > 1 else function())

    def _release_all(self) -> None:
        self.masks.release_all()
        self.region.release(int(self.row["ports"]), PORT_MAP * 2)
        self.region.release(int(self.row["table_counters"]), WORKERS * TABLES * TABLE_COUNTER_BYTES)
        self.region.release(int(self.row["words"]), KEY_WORDS.itemsize)
        self.region.release(int(self.row["log"]), CHANGE_LOG.itemsize)
        self.region.release(self.address, PIPELINE.itemsize)

    @classmethod
    def resume(cls, region: FlowRegion, address: int) -> FlowTables:
        """The pipeline that a control process before this one made; what it left half done is completed."""
        tables = cls(region, address)
        flows = [flow for flow in region.flow_addresses() if int(records(FLOW, flow)[0]["pipeline"]) == address]
        version = int(tables.row["version"])
        following = version + 1
        begun = any(
            following in (int(row["added"]), int(row["removed"])) for row in (records(FLOW, f)[0] for f in flows)
        )
        begin_log(address, following if begun else version)
        for flow in flows:
            if int(records(FLOW, flow)[0]["removed"]) <= tables.row["version"]:
                commit_removal(flow)
            else:
                number = int(records(FLOW, flow)[0]["table"])
                tables._counts[number] = tables._counts.get(number, 0) + 1
                region.adopt_program(int(records(FLOW, flow)[0]["program"]))
        tables.masks.resume()
        return tables

    # Transactions

    def add(
        self,
        table: int,
        priority: int,
        key: bytes,
        mask: bytes,
        program: int,
        *,
        cookie: int = 0,
        idle: int = 0,
        hard: int = 0,
        flags: int = 0,
        importance: int = 0,
        keep_counters: bool = False,
        created: int | None = None,
        modified: int | None = None,
        counted_as: int | None = None,
    ) -> int:
        """Prepare a flow, in place of the one with the same match and priority; its address. Raises RegionError."""
        subtable = self.masks.get(table, mask)
        now = int(monotonic_ns()) if created is None or modified is None else 0
        ctypes.memmove(self._key_address, key, KEY_SIZE)
        counters = counted_as if counted_as is not None else KEEP_COUNTERS if keep_counters else NEW_COUNTERS
        _ADDITION.pack_into(
            self._addition, 0,
            REGION_BASE, self.address, subtable.address, self._key_address, program, table, priority,
            cookie if cookie < 1 << 63 else cookie - (1 << 64), idle, hard, flags, importance,
            now if created is None else created, now if modified is None else modified, counters, 0, 0,
        )  # fmt: skip
        outcome = add_flow(self._addition_address)
        flow, replaced = _ADDITION.unpack_from(self._addition)[-2:]
        if outcome in (NO_MEMORY, TOO_MANY):
            raise RegionError("no memory for another flow" if outcome == NO_MEMORY else "too many flows")
        while outcome == GROW:
            self.masks.grow(subtable)
            outcome = link_flow(flow)
        assert outcome == DONE
        self.pending.append(flow)
        if replaced:
            self._take_out(replaced)
        else:
            self._grown[table] = self._grown.get(table, 0) + 1
        self.masks.raise_priority(subtable, priority)
        return int(flow)

    def modify(self, flow: int, program: int, *, cookie: int | None = None, reset: bool = False) -> int:
        """Prepare other instructions for a flow; the address of what takes its place."""
        entry = self.read(flow)
        return self.add(
            entry.table,
            entry.priority,
            entry.key,
            entry.mask,
            program,
            cookie=entry.cookie if cookie is None else cookie,
            idle=entry.idle,
            hard=entry.hard,
            flags=entry.flags,
            importance=entry.importance,
            created=entry.created,
            modified=int(monotonic_ns()),
            counted_as=None if reset else entry.number,
        )

    def remove(self, flow: int) -> None:
        """Prepare the end of a flow."""
        self._take_out(flow)
        table = ctypes.c_int32.from_address(flow + FLOW_TABLE).value
        self._grown[table] = self._grown.get(table, 0) - 1

    def _take_out(self, flow: int) -> None:
        store64(flow + FLOW_REMOVED, int(self.row["version"]) + 1)
        self._removed.append(flow)

    def commit(self) -> None:
        """Have packets see what was prepared, all at once."""
        if not self.pending and not self._removed:
            return
        added, removed, self.pending, self._removed = self.pending, self._removed, [], []
        self.row["normal"] = 0
        # Whoever takes over after a death between any two of these steps completes the transaction: see ``resume``.
        for flow in added:
            commit_addition(flow)
        for table, change in self._grown.items():
            self._counts[table] = self._counts.get(table, 0) + change
        self._grown.clear()
        for flow in removed:
            log_removal(flow)
        publish(self.address)
        gone = []
        for flow in removed:
            gone.append((flow, int(commit_removal(flow))))
        if gone:
            self.region.defer(lambda: self._unlink(gone))
        if self.count == 1:
            self._find_normal()

    def abort(self) -> None:
        """Undo what was prepared."""
        for flow in self._removed:
            store64(flow + FLOW_REMOVED, FOREVER)
        self._removed = []
        for flow in self.pending:
            # It was to be seen from the next version on, which others may become.
            store64(flow + FLOW_ADDED, FOREVER)
            store64(flow + FLOW_REMOVED, 0)
        fresh = [(flow, self._is_fresh(flow)) for flow in self.pending]
        self.pending = []
        self._grown.clear()
        if fresh:
            self.region.defer(lambda: self._unlink(fresh))

    def _is_fresh(self, flow: int) -> int:
        """Whether an uncommitted flow has an id of its own."""
        number = int(records(FLOW, flow)[0]["id"])
        return int(self.region.listed(number) == 0)

    def _unlink(self, gone: Sequence[tuple[int, int]]) -> None:
        for flow, _ in gone:
            unlink_flow(flow)
        self.region.defer(lambda: self._release(gone))

    def _release(self, gone: Sequence[tuple[int, int]]) -> None:
        for flow, own_id in gone:
            row = records(FLOW, flow)[0]
            if own_id:
                self.region.give_id(int(row["id"]))
            self.region.drop_reference(int(row["program"]))
            self.masks.forget_if_empty(int(row["table"]), int(row["subtable"]))
            release_flow(REGION_BASE, flow)

    def _find_normal(self) -> None:
        """When the only flow has NORMAL forward everything, bursts need no lookups."""
        flow = next(iter(self.flows()), None)
        if flow is None or flow.table != 0 or flow.mask != NONE:
            return
        if int(records(FLOW, flow.address)[0]["kind"]) == PROGRAM_NORMAL:
            self.row["normal"] = flow.number + 1

    # Time-outs

    def refresh(self, flow: int) -> None:
        """Begin a flow's hard time-out anew."""
        records(FLOW, flow)[0]["modified"] = int(monotonic_ns())

    def fin_timeouts(self, flow: int) -> list[tuple[int, int]]:
        """Idle and hard time-out of each FIN_TIMEOUT in a flow's program; none when it is no flow any more."""
        row = records(FLOW, flow)[0]
        number = int(row["id"])
        if not 0 <= number < int(self.region.header["ids"]) or self.region.listed(number) != flow:
            return []
        words = self.region.operations(int(row["program"]))
        found = []
        at = 0
        while words[at] & 255 != END:
            if words[at] & 255 == FIN_TIMEOUT:
                found.append((words[at + 1] >> 16, words[at + 1] & 0xFFFF))
            at += max(1, words[at] >> 8 & 255)
        return found

    def shorten(self, flow: int, idle: int, hard: int) -> None:
        """Lower the time-outs of a flow to these (0: as they are)."""
        row = records(FLOW, flow)[0]
        for name, wanted in (("idle", idle), ("hard", hard)):
            if wanted and (not row[name] or wanted < row[name]):
                row[name] = wanted

    # Reading

    @property
    def count(self) -> int:
        """Flows that packets see."""
        return sum(self._counts.values())

    def count_of(self, table: int) -> int:
        """Flows in a table, as the present transaction has them."""
        return self._counts.get(table, 0) + self._grown.get(table, 0)

    def find(self, table: int, priority: int, key: bytes, mask: bytes) -> int:
        """The flow with exactly this match and priority; 0 when there is none."""
        subtable = self.masks.find(table, mask)
        if subtable is None:
            return 0
        ctypes.memmove(self._key_address, key, KEY_SIZE)
        return int(find_flow(subtable.address, self._key_address, priority))

"""The flow tables of one bridge, as the control process changes and reads them.

Changes are made in a transaction: ``add``, ``remove`` and ``modify`` prepare them, ``commit`` has all packets from then
on see all of them, ``abort`` none. A flow is known by its address, which is good until the commit after its removal.
What a flow was made from is kept in its program as opaque bytes. One thread.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.datapath.pipeline.changes import begin_log, log_removal, publish
from penstock.datapath.pipeline.layout import (
    CACHE_WORDS,
    CHANGE_LOG,
    FLOW,
    FLOW_BYTES,
    FLOWS_MAX,
    KEY_WORDS,
    MISS_CONTROLLER,
    MISS_DROP,
    PIPELINE,
    PIPELINE_TABLES,
    PORT_MAP,
    PROGRAM_NORMAL,
    REGION_BASE,
    SUBTABLE,
    SUBTABLE_WORDS,
    SUBTABLES_MAX,
    TABLE,
    TABLE_COUNTER,
    TABLE_COUNTER_BYTES,
    TABLES,
    WORD,
    WORDS_MAX,
    WORKERS,
)
from penstock.datapath.pipeline.program import END, FIN_TIMEOUT
from penstock.datapath.pipeline.scan import ANY, OVERLAPPING, SCAN, WITHIN, expired_flows, scan_flows
from penstock.datapath.pipeline.tables import (
    ADDITION,
    DONE,
    GROW,
    KEEP_COUNTERS,
    NEW_COUNTERS,
    NO_MEMORY,
    TOO_MANY,
    add_flow,
    commit_addition,
    commit_removal,
    find_flow,
    link_flow,
    make_subtable,
    release_buckets,
    release_flow,
    release_subtable,
    subtable_grow,
    sweep_subtable,
    unlink_flow,
)
from penstock.engine.flow_region import FlowRegion, RegionError
from penstock.machine import monotonic_ns, records, store64
from penstock.packet.fields import KEY_SIZE

__all__ = ["ANY_TABLE", "FLOWS_MAX", "MISS_CONTROLLER", "MISS_DROP", "TABLES", "FlowEntry", "FlowTables", "expired"]

LIST_HEADER, LIST_ITEM = 8, 16
SCAN_ROOM = 4096
ANY_TABLE = ANY  # for ``scan``
_ADDITION = struct.Struct(f"={len(ADDITION.names or ())}q")
_FLOW = struct.Struct("=4q2i6q4H4iq")
_NONE = bytes(KEY_SIZE)
assert _FLOW.size == FLOW.itemsize == FLOW_BYTES


@dataclass(frozen=True, slots=True)
class FlowEntry:
    """A flow as it is. Times are CLOCK_MONOTONIC nanoseconds, time-outs seconds (0: none)."""

    address: int
    table: int
    priority: int
    key: bytes
    mask: bytes
    cookie: int
    idle: int
    hard: int
    flags: int
    importance: int
    created: int
    modified: int
    program: int
    number: int  # of its counters


@dataclass(slots=True)
class _Subtable:
    address: int
    table: int
    mask: bytes
    words: tuple[tuple[int, int], ...]  # offset, mask as they are loaded
    priority: int = -1  # as it is listed


class FlowTables:
    """The pipeline at ``address`` in the region."""

    def __init__(self, region: FlowRegion, address: int) -> None:
        self.region = region
        self.address = address
        self.row = records(PIPELINE, address)[0]
        self.count = 0  # flows that packets see
        self._subtables: dict[tuple[int, bytes], _Subtable] = {}
        self._masks: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        self._reads = 0  # what actions read of a key, as a number
        self._union = 0  # of that and of the masks
        self._key = ctypes.create_string_buffer(KEY_SIZE + 64)
        self._key_address = ctypes.addressof(self._key)
        self._addition = ctypes.create_string_buffer(_ADDITION.size)
        self._addition_address = ctypes.addressof(self._addition)
        self._added: list[int] = []
        self._removed: list[int] = []
        self._scan_words = np.zeros(WORDS_MAX, dtype=WORD)
        self._miss = MISS_DROP

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
        for table in range(TABLES):
            address = int(records(np.dtype(np.int64), self.address + PIPELINE_TABLES + table * 8)[0])
            if address:
                listed = int(records(TABLE, address)[0]["list"])
                self.region.release(listed, LIST_HEADER + LIST_ITEM)
                self.region.release(address, TABLE.itemsize)
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
                tables.count += 1
                region.adopt_program(int(records(FLOW, flow)[0]["program"]))
        for table in range(TABLES):
            tables._resume_table(table)
        tables._publish_words()
        return tables

    def _resume_table(self, table: int) -> None:
        address = int(records(np.dtype(np.int64), self.address + PIPELINE_TABLES + table * 8)[0])
        if not address:
            return
        listed = int(records(TABLE, address)[0]["list"])
        count = int(records(np.dtype(np.int64), listed)[0])
        for priority, subtable in records(np.dtype((np.int64, 2)), listed + LIST_HEADER, max(1, count))[
            :count
        ].tolist():
            mask, _ = self._mask_of(subtable)
            sweep_subtable(REGION_BASE, subtable)
            self._subtables[table, mask] = _Subtable(subtable, table, mask, mask_words(mask), priority)
            self._union |= int.from_bytes(mask, "big")

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
        subtable = self._subtable(table, mask)
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
            self._grow(subtable)
            outcome = link_flow(flow)
        assert outcome == DONE
        self._added.append(flow)
        if replaced:
            self._take_out(replaced)
        if priority > subtable.priority:
            subtable.priority = priority
            self._publish_list(table)
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

    def _take_out(self, flow: int) -> None:
        store64(flow + 16, int(self.row["version"]) + 1)
        self._removed.append(flow)

    def commit(self) -> None:
        """Have packets see what was prepared, all at once."""
        if not self._added and not self._removed:
            return
        added, removed, self._added, self._removed = self._added, self._removed, [], []
        self.row["normal"] = 0
        # Whoever takes over after a death between any two of these steps completes the transaction: see ``resume``.
        for flow in added:
            self.count += int(commit_addition(flow))
        for flow in removed:
            log_removal(flow)
        publish(self.address)
        gone = []
        for flow in removed:
            listed = int(commit_removal(flow))
            self.count -= listed
            gone.append((flow, listed))
        if gone:
            self.region.defer(lambda: self._unlink(gone))
        if self.count == 1:
            self._find_normal()

    def abort(self) -> None:
        """Undo what was prepared."""
        for flow in self._removed:
            store64(flow + 16, (1 << 63) - 1)
        self._removed = []
        for flow in self._added:
            # It was to be seen from the next version on, which others may become.
            store64(flow + 8, (1 << 63) - 1)
            store64(flow + 16, 0)
        fresh = [(flow, self._is_fresh(flow)) for flow in self._added]
        self._added = []
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
            self._forget_if_empty(int(row["table"]), int(row["subtable"]))
            release_flow(REGION_BASE, flow)

    def _forget_if_empty(self, table: int, subtable: int) -> None:
        """Take a subtable away that has no flow any more: masks that were in use once must not slow lookups down."""
        mask, _ = self._mask_of(subtable)
        known = self._subtables.get((table, mask))
        if known is None or known.address != subtable or int(records(SUBTABLE, subtable)[0]["count"]):
            return
        del self._subtables[table, mask]
        self._publish_list(table)
        before, self._union = self._union, self._reads
        for each in self._subtables.values():
            self._union |= int.from_bytes(each.mask, "big")
        if self._union != before:
            self._publish_words()

        def release() -> None:
            self._masks.pop(subtable, None)
            release_subtable(REGION_BASE, subtable)

        self.region.defer(release)

    def _find_normal(self) -> None:
        """When the only flow has NORMAL forward everything, bursts need no lookups."""
        flow = next(iter(self.flows()), None)
        if flow is None or flow.table != 0 or flow.mask != _NONE:
            return
        if int(records(FLOW, flow.address)[0]["kind"]) == PROGRAM_NORMAL:
            self.row["normal"] = flow.number + 1

    # Tables

    def set_miss(self, table: int, what: int) -> None:
        """What a table does with packets that no flow matches: MISS_."""
        records(TABLE, self._table(table))[0]["miss"] = what

    def set_conjunctive(self, table: int) -> None:
        """Have lookups in a table look for conjunctive matches too; before the first flow of one is committed."""
        records(TABLE, self._table(table))[0]["conjunctions"] = 1

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

    def set_every_miss(self, what: int) -> None:
        """What all tables do, those too that come later."""
        self._miss = what
        self._table(0)
        for table in range(TABLES):
            address = int(records(np.dtype(np.int64), self.address + PIPELINE_TABLES + table * 8)[0])
            if address:
                records(TABLE, address)[0]["miss"] = what

    def _table(self, table: int) -> int:
        cell = self.address + PIPELINE_TABLES + table * 8
        address = int(records(np.dtype(np.int64), cell)[0])
        if not address:
            address = self.region.allocate(TABLE.itemsize)
            records(TABLE, address)[0]["list"] = self.region.allocate(LIST_HEADER + LIST_ITEM)
            records(TABLE, address)[0]["miss"] = self._miss
            store64(cell, address)
        return address

    def _subtable(self, table: int, mask: bytes) -> _Subtable:
        found = self._subtables.get((table, mask))
        if found is None:
            words = mask_words(mask)
            number = int.from_bytes(mask, "big")
            if number | self._union != self._union:
                self._union |= number
                self._publish_words()
            self._table(table)
            for place, word in enumerate(words):
                self._scan_words[place] = word
            address = int(make_subtable(REGION_BASE, self._scan_words.ctypes.data, len(words)))
            if address == NO_MEMORY:
                raise RegionError("no memory for another mask")
            found = _Subtable(address, table, mask, words)
            self._subtables[table, mask] = found
        return found

    def _grow(self, subtable: _Subtable) -> None:
        old = subtable_grow(REGION_BASE, subtable.address)
        if old == NO_MEMORY:
            raise RegionError("no memory for a larger table")
        self.region.defer(lambda: release_buckets(REGION_BASE, old))

    def _publish_list(self, table: int) -> None:
        """Order the subtables of a table anew."""
        rows = sorted(
            (each for each in self._subtables.values() if each.table == table and each.priority >= 0),
            key=lambda each: -each.priority,
        )
        if len(rows) > SUBTABLES_MAX:
            raise RegionError(f"table {table} has flows of {len(rows)} masks: {SUBTABLES_MAX} are the most")
        size = LIST_HEADER + LIST_ITEM * max(1, len(rows))
        address = self.region.allocate(size)
        data = struct.pack(
            f"={1 + 2 * len(rows)}q", len(rows), *(n for row in rows for n in (row.priority, row.address))
        )
        ctypes.memmove(address, data, len(data))
        place = self._table(table)
        old = int(records(TABLE, place)[0]["list"])
        old_size = LIST_HEADER + LIST_ITEM * max(1, int(records(np.dtype(np.int64), old)[0]))
        store64(place, address)
        self.region.defer(lambda: self.region.release(old, old_size))

    def _publish_words(self) -> None:
        """Tell the cache what of a key counts."""
        words = mask_words(self._union.to_bytes(KEY_SIZE, "big"))
        address = self.region.allocate(KEY_WORDS.itemsize)
        self.region.header["serials"] += 1
        serial = int(self.region.header["serials"])
        data = struct.pack(f"={2 + 2 * len(words)}q", len(words), serial, *(n for word in words for n in word))
        ctypes.memmove(address, data, len(data))
        old = int(self.row["words"])
        self.row["cacheable"] = int(len(words) <= CACHE_WORDS)
        self.row["words"] = address
        self.region.defer(lambda: self.region.release(old, KEY_WORDS.itemsize))

    def reads(self, mask: bytes) -> None:
        """Say that actions read these bits of a key, so that packets which differ in them are not one flow."""
        self._reads |= int.from_bytes(mask, "big")
        if self._reads | self._union != self._union:
            self._union |= self._reads
            self._publish_words()

    # Reading

    def read(self, flow: int) -> FlowEntry:
        """A flow by its address."""
        (_next, _added, _removed, program, priority, number, subtable, _hash, cookie, _pipeline, created, modified,
         idle, hard, flags, importance, table, words, _kind, _reset, _port) = _FLOW.unpack(
            ctypes.string_at(flow, FLOW_BYTES)
        )  # fmt: skip
        mask, places = self._mask_of(subtable)
        key = bytearray(KEY_SIZE)
        data = ctypes.string_at(flow + FLOW_BYTES, words * 8)
        for index, place in enumerate(places):
            key[place : place + 8] = data[index * 8 : index * 8 + 8]
        return FlowEntry(
            flow, table, priority, bytes(key), mask, cookie & 0xFFFFFFFFFFFFFFFF, idle, hard, flags, importance,
            created, modified, program, number,
        )  # fmt: skip

    def _mask_of(self, subtable: int) -> tuple[bytes, tuple[int, ...]]:
        found = self._masks.get(subtable)
        if found is None:
            row = records(SUBTABLE, subtable)[0]
            words = records(WORD, subtable + SUBTABLE_WORDS, max(1, int(row["word_count"])))[: int(row["word_count"])]
            mask = bytearray(KEY_SIZE)
            for word in words:
                at = int(word["offset"])
                mask[at : at + 8] = int(word["mask"]).to_bytes(8, "little", signed=True)
            found = bytes(mask), tuple(int(word["offset"]) for word in words)
            self._masks[subtable] = found
        return found

    def find(self, table: int, priority: int, key: bytes, mask: bytes) -> int:
        """The flow with exactly this match and priority; 0 when there is none."""
        subtable = self._subtables.get((table, mask))
        if subtable is None:
            return 0
        ctypes.memmove(self._key_address, key, KEY_SIZE)
        return int(find_flow(subtable.address, self._key_address, priority))

    def scan(
        self,
        table: int = ANY,
        key: bytes = _NONE,
        mask: bytes = _NONE,
        *,
        cookie: int = 0,
        cookie_mask: int = 0,
        priority: int = ANY,
        overlapping: bool = False,
    ) -> Iterator[list[FlowEntry]]:
        """The flows whose match is this or narrower (``overlapping``: that share packets with it), some at a time.

        Those that the present transaction adds are among them, those that it removes are not. The tables may change
        between one list and the next; the flows of a list may then be no more.
        """
        words = np.zeros(WORDS_MAX, dtype=WORD)
        places = mask_words(mask)
        for index, word in enumerate(places):
            words[index] = word
        value = ctypes.create_string_buffer(key, KEY_SIZE + 8)
        found = np.zeros(SCAN_ROOM, dtype=np.int64)
        scan = np.zeros(1, dtype=SCAN)
        row = scan[0]
        row["region"], row["pipeline"], row["table"], row["priority"] = REGION_BASE, self.address, table, priority
        row["cookie"], row["cookie_mask"] = _signed(cookie), _signed(cookie_mask)
        row["how"] = OVERLAPPING if overlapping else WITHIN
        row["words"], row["word_count"], row["key"] = words.ctypes.data, len(places), ctypes.addressof(value)
        row["found"], row["room"] = found.ctypes.data, SCAN_ROOM
        if self._added:
            pending = np.array(self._added, dtype=np.int64)
            row["pending"], row["pending_count"] = pending.ctypes.data, len(pending)
        while True:
            count = int(scan_flows(scan.ctypes.data))
            yield [self.read(address) for address in found[:count].tolist()]
            if count < SCAN_ROOM:
                return

    def flows(self) -> list[FlowEntry]:
        """All flows."""
        return [entry for some in self.scan() for entry in some]

    def engine_port(self, ofport: int) -> int:
        """The engine's number of an OpenFlow port; 0 when there is none."""
        if ofport >= PORT_MAP:
            return int(self.row["local"])
        return int(records(np.dtype(np.uint16), int(self.row["ports"]), PORT_MAP)[ofport])

    def table_counters(self) -> list[tuple[int, int]]:
        """Lookups and matches of each table."""
        rows = records(TABLE_COUNTER, int(self.row["table_counters"]), WORKERS * TABLES).reshape(WORKERS, TABLES)[:-1]
        return list(zip(rows["lookups"].sum(axis=0).tolist(), rows["matched"].sum(axis=0).tolist(), strict=True))


def expired(now: int) -> list[int]:
    """Addresses of flows of any pipeline whose idle or hard time-out has passed, some at a time."""
    found = np.zeros(SCAN_ROOM, dtype=np.int64)
    count = int(expired_flows(REGION_BASE, now, found.ctypes.data, SCAN_ROOM))
    addresses: list[int] = found[:count].tolist()
    return addresses


def mask_words(mask: bytes) -> tuple[tuple[int, int], ...]:
    """The 8-byte words of a mask that are not zero: offset, and the word as it is loaded."""
    words = np.frombuffer(mask, dtype=np.int64)
    return tuple((int(index) * 8, int(words[index])) for index in np.flatnonzero(words))


def _signed(value: int) -> int:
    return value if value < 1 << 63 else value - (1 << 64)

"""The tables of a pipeline and their subtables: one for each mask among a table's flows.

Subtables are listed by their highest priorities. Lists that workers read are replaced as a whole. One thread.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

import numpy as np

from penstock.datapath.pipeline.layout import (
    CACHE_WORDS,
    KEY_WORDS,
    MISS_DROP,
    PIPELINE_TABLES,
    REGION_BASE,
    SUBTABLE,
    SUBTABLES_MAX,
    TABLE,
    TABLES,
    WORD,
    WORDS_MAX,
)
from penstock.datapath.pipeline.subtables import (
    NO_MEMORY,
    make_subtable,
    release_buckets,
    release_subtable,
    subtable_grow,
    sweep_subtable,
)
from penstock.engine.flow_reading import FlowReader, mask_words
from penstock.engine.flow_region import FlowRegion, RegionError
from penstock.machine import records, store64
from penstock.packet.fields import KEY_SIZE

LIST_HEADER, LIST_ITEM = 8, 16


@dataclass(slots=True)
class Subtable:
    """The flows of one mask in one table."""

    address: int
    table: int
    mask: bytes
    words: tuple[tuple[int, int], ...]  # offset, mask as they are loaded
    priority: int = -1  # as it is listed


class FlowMasks:
    """Those of one pipeline."""

    def __init__(self, region: FlowRegion, reader: FlowReader) -> None:
        self._region, self._reader = region, reader
        self._row, self._address = reader.row, reader.address
        self._subtables: dict[tuple[int, bytes], Subtable] = {}
        self._reads = 0  # what actions read of a key, as a number
        self._union = 0  # of that and of the masks
        self._words = np.zeros(WORDS_MAX, dtype=WORD)
        self._miss = MISS_DROP

    def resume(self) -> None:
        """Go on with those that a control process before this one made."""
        for table in range(TABLES):
            self._resume_table(table)
        self._publish_words()

    def _resume_table(self, table: int) -> None:
        address = int(records(np.dtype(np.int64), self._address + PIPELINE_TABLES + table * 8)[0])
        if not address:
            return
        listed = int(records(TABLE, address)[0]["list"])
        count = int(records(np.dtype(np.int64), listed)[0])
        for priority, subtable in records(np.dtype((np.int64, 2)), listed + LIST_HEADER, max(1, count))[
            :count
        ].tolist():
            mask, _ = self._reader.mask_of(subtable)
            sweep_subtable(REGION_BASE, subtable)
            self._subtables[table, mask] = Subtable(subtable, table, mask, mask_words(mask), priority)
            self._union |= int.from_bytes(mask, "big")

    def release_all(self) -> None:
        """Give back the tables of a pipeline that has no flows any more and that nobody uses."""
        for table in range(TABLES):
            address = int(records(np.dtype(np.int64), self._address + PIPELINE_TABLES + table * 8)[0])
            if address:
                self._region.release(int(records(TABLE, address)[0]["list"]), LIST_HEADER + LIST_ITEM)
                self._region.release(address, TABLE.itemsize)

    # Tables

    def set_miss(self, table: int, what: int) -> None:
        """What a table does with packets that no flow matches: MISS_."""
        records(TABLE, self._table(table))[0]["miss"] = what

    def set_conjunctive(self, table: int) -> None:
        """Have lookups in a table look for conjunctive matches too; before the first flow of one is committed."""
        records(TABLE, self._table(table))[0]["conjunctions"] = 1

    def set_every_miss(self, what: int) -> None:
        """What all tables do, those too that come later."""
        self._miss = what
        self._table(0)
        for table in range(TABLES):
            address = int(records(np.dtype(np.int64), self._address + PIPELINE_TABLES + table * 8)[0])
            if address:
                records(TABLE, address)[0]["miss"] = what

    def _table(self, table: int) -> int:
        cell = self._address + PIPELINE_TABLES + table * 8
        address = int(records(np.dtype(np.int64), cell)[0])
        if not address:
            address = self._region.allocate(TABLE.itemsize)
            records(TABLE, address)[0]["list"] = self._region.allocate(LIST_HEADER + LIST_ITEM)
            records(TABLE, address)[0]["miss"] = self._miss
            store64(cell, address)
        return address

    # Subtables

    def find(self, table: int, mask: bytes) -> Subtable | None:
        """The subtable of a mask, if there is one."""
        return self._subtables.get((table, mask))

    def get(self, table: int, mask: bytes) -> Subtable:
        """The subtable of a mask, made when there is none. Raises RegionError."""
        found = self._subtables.get((table, mask))
        if found is None:
            words = mask_words(mask)
            number = int.from_bytes(mask, "big")
            if number | self._union != self._union:
                self._union |= number
                self._publish_words()
            self._table(table)
            for place, word in enumerate(words):
                self._words[place] = word
            address = int(make_subtable(REGION_BASE, self._words.ctypes.data, len(words)))
            if address == NO_MEMORY:
                raise RegionError("no memory for another mask")
            found = Subtable(address, table, mask, words)
            self._subtables[table, mask] = found
        return found

    def grow(self, subtable: Subtable) -> None:
        """Make room for more flows. Raises RegionError."""
        old = subtable_grow(REGION_BASE, subtable.address)
        if old == NO_MEMORY:
            raise RegionError("no memory for a larger table")
        self._region.defer(lambda: release_buckets(REGION_BASE, old))

    def raise_priority(self, subtable: Subtable, priority: int) -> None:
        """Note that a subtable has a flow of a priority."""
        if priority > subtable.priority:
            subtable.priority = priority
            self._publish_list(subtable.table)

    def forget_if_empty(self, table: int, subtable: int) -> None:
        """Take a subtable away that has no flow any more: masks that were in use once must not slow lookups down."""
        mask, _ = self._reader.mask_of(subtable)
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
            self._reader.forget_mask(subtable)
            release_subtable(REGION_BASE, subtable)

        self._region.defer(release)

    def _publish_list(self, table: int) -> None:
        """Order the subtables of a table anew."""
        rows = sorted(
            (each for each in self._subtables.values() if each.table == table and each.priority >= 0),
            key=lambda each: -each.priority,
        )
        if len(rows) > SUBTABLES_MAX:
            raise RegionError(f"table {table} has flows of {len(rows)} masks: {SUBTABLES_MAX} are the most")
        size = LIST_HEADER + LIST_ITEM * max(1, len(rows))
        address = self._region.allocate(size)
        data = struct.pack(
            f"={1 + 2 * len(rows)}q", len(rows), *(n for row in rows for n in (row.priority, row.address))
        )
        ctypes.memmove(address, data, len(data))
        place = self._table(table)
        old = int(records(TABLE, place)[0]["list"])
        old_size = LIST_HEADER + LIST_ITEM * max(1, int(records(np.dtype(np.int64), old)[0]))
        store64(place, address)
        self._region.defer(lambda: self._region.release(old, old_size))

    def _publish_words(self) -> None:
        """Tell the cache what of a key counts."""
        words = mask_words(self._union.to_bytes(KEY_SIZE, "big"))
        address = self._region.allocate(KEY_WORDS.itemsize)
        self._region.header["serials"] += 1
        serial = int(self._region.header["serials"])
        data = struct.pack(f"={2 + 2 * len(words)}q", len(words), serial, *(n for word in words for n in word))
        ctypes.memmove(address, data, len(data))
        old = int(self._row["words"])
        self._row["cacheable"] = int(len(words) <= CACHE_WORDS)
        self._row["words"] = address
        self._region.defer(lambda: self._region.release(old, KEY_WORDS.itemsize))

    def reads(self, mask: bytes) -> None:
        """Say that actions read these bits of a key, so that packets which differ in them are not one flow."""
        self._reads |= int.from_bytes(mask, "big")
        if self._reads | self._union != self._union:
            self._union |= self._reads
            self._publish_words()

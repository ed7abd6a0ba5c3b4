"""Flows of a pipeline as they are, read from the region: one by one, by selection, and those whose time is over."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.datapath.pipeline.layout import (
    FLOW,
    FLOW_BYTES,
    PIPELINE,
    PORT_MAP,
    REGION_BASE,
    SUBTABLE,
    SUBTABLE_WORDS,
    TABLE_COUNTER,
    TABLES,
    WORD,
    WORDS_MAX,
    WORKERS,
)
from penstock.datapath.pipeline.scan import ANY, OVERLAPPING, SCAN, WITHIN, expired_flows, scan_flows
from penstock.machine import records
from penstock.packet.fields import KEY_SIZE

SCAN_ROOM = 4096
ANY_TABLE = ANY  # for ``scan``
NONE = bytes(KEY_SIZE)  # a key or mask of nothing
_FLOW = struct.Struct("=4q2i6q4H4iq")
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


class FlowReader:
    """Reads the pipeline at ``address`` in the region."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.row = records(PIPELINE, address)[0]
        self.pending: list[int] = []  # flows that packets do not see yet
        self._masks: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    def read(self, flow: int) -> FlowEntry:
        """A flow by its address."""
        (_next, _added, _removed, program, priority, number, subtable, _hash, cookie, _pipeline, created, modified,
         idle, hard, flags, importance, table, words, _kind, _reset, _port) = _FLOW.unpack(
            ctypes.string_at(flow, FLOW_BYTES)
        )  # fmt: skip
        mask, places = self.mask_of(subtable)
        key = bytearray(KEY_SIZE)
        data = ctypes.string_at(flow + FLOW_BYTES, words * 8)
        for index, place in enumerate(places):
            key[place : place + 8] = data[index * 8 : index * 8 + 8]
        return FlowEntry(
            flow, table, priority, bytes(key), mask, cookie & 0xFFFFFFFFFFFFFFFF, idle, hard, flags, importance,
            created, modified, program, number,
        )  # fmt: skip

    def mask_of(self, subtable: int) -> tuple[bytes, tuple[int, ...]]:
        """The mask of a subtable, and the offsets of its words."""
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

    def forget_mask(self, subtable: int) -> None:
        """A subtable is no more: another may come in its place."""
        self._masks.pop(subtable, None)

    def scan(
        self,
        table: int = ANY,
        key: bytes = NONE,
        mask: bytes = NONE,
        *,
        cookie: int = 0,
        cookie_mask: int = 0,
        priority: int = ANY,
        overlapping: bool = False,
    ) -> Iterator[list[FlowEntry]]:
        """The flows whose match is this or narrower (``overlapping``: that share packets with it), some at a time.

        Those that are pending are among them, those that the present transaction removes are not. The tables may change
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
        if self.pending:
            added = np.array(self.pending, dtype=np.int64)
            row["pending"], row["pending_count"] = added.ctypes.data, len(added)
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

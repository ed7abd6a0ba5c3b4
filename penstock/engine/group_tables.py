"""The groups and meters of one pipeline, as the control process changes and reads them. One thread.

What a group or meter is gets replaced as a whole, by the store of one pointer; flows name the GROUP or METER, whose
address stays. Both are lists from the PIPELINE, for the control process that comes after this one.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.datapath.pipeline.layout import BUCKET, BUCKETS_AT, GROUP, GROUP_BUCKETS, PIPELINE
from penstock.datapath.pipeline.meters import BAND, BANDS_AT, BURST_LIMIT, METER, METER_BANDS
from penstock.engine.flow_region import FlowRegion
from penstock.machine import monotonic_ns, records, store64


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket: addresses of its program and of the GROUP it watches (0: none), OpenFlow number of the port."""

    program: int
    weight: int
    watch_port: int
    watch_group: int


@dataclass(frozen=True, slots=True)
class Band:
    """A band of a meter: its kind, rate (packets or kilobits in a second), burst as given, and drop precedence."""

    kind: int
    rate: int
    burst: int
    level: int


class _List(ABC):
    """Structs that begin with a pointer to what they are, in a list from a field of the PIPELINE."""

    def __init__(self, region: FlowRegion, pipeline: int, kind: np.dtype[Any], head: str) -> None:
        self.region = region
        self._pipeline = records(PIPELINE, pipeline)[0]
        self._kind, self._head = kind, head
        self.addresses: dict[int, int] = {}
        self.leaving: set[int] = set()  # numbers that a transaction takes away
        address = int(self._pipeline[head])
        while address:
            row = self.row(address)
            self.addresses[int(row["number"])] = address
            address = int(row["next"])

    def row(self, address: int) -> Any:
        return records(self._kind, address)[0]

    def numbers(self) -> Iterator[int]:
        """The numbers in use, in order."""
        return iter(sorted(self.addresses.keys() - self.leaving))

    def __contains__(self, number: int) -> bool:
        return number in self.addresses and number not in self.leaving

    def address(self, number: int) -> int:
        """Where flows find it; 0 when there is none."""
        return self.addresses[number] if number in self else 0

    def created(self, number: int) -> int:
        """CLOCK_MONOTONIC, nanoseconds."""
        return int(self.row(self.addresses[number])["created"])

    def count(self, number: int) -> tuple[int, int]:
        """Packets and bytes."""
        return self.region.count(int(self.row(self.addresses[number])["id"]))[:2]

    def _put(self, number: int, what: int) -> Callable[[bool], None]:
        """Give a number, which is taken if it is not known, this meaning; to be told later whether it stays."""
        leaving = number in self.leaving
        self.leaving.discard(number)
        old = int(records(np.dtype(np.int64), self.addresses[number])[0]) if number in self.addresses else 0
        self._publish(number, what)

        def settle(stays: bool) -> None:
            if not stays and old:
                store64(self.addresses[number], old)
                self.leaving |= {number} if leaving else set()
            elif not stays:
                self._withdraw(number)
            unused = old if stays else what
            if unused:
                self.region.defer(lambda: self._release_block(unused))

        return settle

    def leave(self, number: int) -> Callable[[bool], None]:
        """Take a number away that no flow names any more; to be told later whether that stays so."""
        self.leaving.add(number)

        def settle(stays: bool) -> None:
            if stays and number in self.leaving:
                self.remove(number)
            self.leaving.discard(number)

        return settle

    def remove(self, number: int) -> None:
        """Take away what no flow names any more."""
        block = int(records(np.dtype(np.int64), self.addresses[number])[0])
        self._withdraw(number)
        self.region.defer(lambda: self._release_block(block))

    @abstractmethod
    def _release_block(self, block: int) -> None:
        """Give back what a number meant."""

    def _publish(self, number: int, what: int) -> None:
        address = self.addresses.get(number)
        if address is not None:
            store64(address, what)
            return
        address = self.region.allocate(self._kind.itemsize)
        row = self.row(address)
        row["id"], row["number"], row["created"] = self.region.take_id(), number, int(monotonic_ns())
        row["next"] = self._pipeline[self._head]
        store64(address, what)
        self._pipeline[self._head] = address
        self.addresses[number] = address

    def _withdraw(self, number: int) -> None:
        """Take a number that no flow names any more off the list."""
        gone = self.addresses.pop(number)
        row = self.row(gone)
        before = next((each for each in self.addresses.values() if int(self.row(each)["next"]) == gone), 0)
        if before:
            self.row(before)["next"] = row["next"]
        else:
            self._pipeline[self._head] = row["next"]
        identity = int(row["id"])

        def release() -> None:
            self.region.give_id(identity)
            self.region.release(gone, self._kind.itemsize)

        self.region.defer(release)


class GroupTable(_List):
    """Groups by number."""

    def __init__(self, region: FlowRegion, pipeline: int) -> None:
        super().__init__(region, pipeline, GROUP, "groups")
        for address in self.addresses.values():
            for row in self._buckets(int(self.row(address)["buckets"])):
                region.adopt_program(int(row["program"]))

    @staticmethod
    def _head_row(block: int) -> Any:
        return records(GROUP_BUCKETS, block)[0]

    def _buckets(self, block: int) -> Any:
        count = int(self._head_row(block)["count"])
        return records(BUCKET, block + BUCKETS_AT, max(1, count))[:count]

    def put(self, number: int, kind: int, buckets: Sequence[Bucket], source: bytes) -> Callable[[bool], None]:
        """Add a group, or replace what it is; to be told later whether it stays."""
        block = self.region.allocate(_block_bytes(len(buckets), len(source)))
        head = self._head_row(block)
        head["count"], head["kind"], head["source_bytes"] = len(buckets), kind, len(source)
        rows = self._buckets(block)
        for index, (row, bucket) in enumerate(zip(rows, buckets, strict=True)):
            self.region.hold(bucket.program)
            row["program"], row["weight"], row["watch_port"] = bucket.program, bucket.weight, bucket.watch_port
            row["watch_group"], row["id"], row["number"] = bucket.watch_group, self.region.take_id(), index
        ctypes.memmove(block + BUCKETS_AT + len(buckets) * BUCKET.itemsize, source, len(source))
        return self._put(number, block)

    def _release_block(self, block: int) -> None:
        for row in self._buckets(block):
            self.region.give_id(int(row["id"]))
            self.region.drop_reference(int(row["program"]))
        head = self._head_row(block)
        self.region.release(block, _block_bytes(int(head["count"]), int(head["source_bytes"])))

    def describe(self, number: int) -> tuple[int, bytes]:
        """Kind and source."""
        block = int(self.row(self.addresses[number])["buckets"])
        head = self._head_row(block)
        start = block + BUCKETS_AT + int(head["count"]) * BUCKET.itemsize
        return int(head["kind"]), ctypes.string_at(start, int(head["source_bytes"]))

    def bucket_counts(self, number: int) -> list[tuple[int, int]]:
        """Packets and bytes of each bucket."""
        block = int(self.row(self.addresses[number])["buckets"])
        return [self.region.count(int(row["id"]))[:2] for row in self._buckets(block)]


def _block_bytes(buckets: int, source: int) -> int:
    return BUCKETS_AT + buckets * BUCKET.itemsize + source


class MeterTable(_List):
    """Meters by number. ``cycles_hz`` is the rate of the workers' clock."""

    def __init__(self, region: FlowRegion, pipeline: int, cycles_hz: int) -> None:
        super().__init__(region, pipeline, METER, "meters")
        self.cycles_hz = cycles_hz

    def _block(self, number: int) -> int:
        return int(self.row(self.addresses[number])["bands"])

    @staticmethod
    def _bands(block: int) -> Any:
        count = int(records(METER_BANDS, block)[0]["count"])
        return records(BAND, block + BANDS_AT, max(1, count))[:count]

    def put(self, number: int, flags: int, kbps: bool, bands: Sequence[Band]) -> Callable[[bool], None]:
        """Add a meter, or replace what it is; to be told later whether it stays.

        A burst of 0 is that of one second, and none is above BURST_LIMIT.
        """
        block = self.region.allocate(METER_BANDS.itemsize)
        head = records(METER_BANDS, block)[0]
        head["flags"], head["kbps"], head["count"] = flags, int(kbps), len(bands)
        for row, band in zip(self._bands(block), bands, strict=True):
            row["limit"] = row["bucket"] = min(band.burst or band.rate, BURST_LIMIT) * self.cycles_hz
            row["rate"], row["kind"], row["level"], row["burst"] = band.rate, band.kind, band.level, band.burst
            row["id"] = self.region.take_id()
        return self._put(number, block)

    def _release_block(self, block: int) -> None:
        for row in self._bands(block):
            self.region.give_id(int(row["id"]))
        self.region.release(block, METER_BANDS.itemsize)

    def describe(self, number: int) -> tuple[int, list[Band]]:
        """Flags and bands, as they were given."""
        block = self._block(number)
        bands = [
            Band(int(row["kind"]), int(row["rate"]), int(row["burst"]), int(row["level"])) for row in self._bands(block)
        ]
        return int(records(METER_BANDS, block)[0]["flags"]), bands

    def band_counts(self, number: int) -> list[tuple[int, int]]:
        """Packets and bytes that each band was applied to."""
        return [self.region.count(int(row["id"]))[:2] for row in self._bands(self._block(number))]

"""What tests of flow tables share: an engine with dummy ports whose bridge has a pipeline; matches by field name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from penstock.datapath.pipeline.layout import BUCKET, BUCKETS_AT, GROUP, GROUP_BUCKETS
from penstock.datapath.pipeline.meters import BAND, BANDS_AT, METER, METER_BANDS
from penstock.datapath.pipeline.program import SET, operation
from penstock.engine.engine import Engine
from penstock.engine.flow_region import FlowRegion, make_region
from penstock.engine.flow_tables import FlowTables
from penstock.engine.warm import warm
from penstock.machine import records
from penstock.openflow.compile import FOLLOWS, field_words
from penstock.packet.fields import BY_NAME, KEY_SIZE
from tests.engine.support import add_bridge, clear, send, sent

PORTS = ("a", "b", "c", "d")


def match(**fields: int | tuple[int, int]) -> tuple[bytes, bytes]:
    """Key and mask of a match: a value, or value and mask, for each field."""
    key = mask = 0
    for name, wanted in fields.items():
        row = BY_NAME[name]
        value, bits = wanted if isinstance(wanted, tuple) else (wanted, (1 << row.bits) - 1)
        shift = (KEY_SIZE - row.offset - row.size) * 8 + row.shift
        key |= (value & bits) << shift
        mask |= bits << shift
    return key.to_bytes(KEY_SIZE, "big"), mask.to_bytes(KEY_SIZE, "big")


def set_field(name: str, value: int, mask: int | None = None) -> list[int]:
    """The operation that sets a field."""
    row = BY_NAME[name]
    bits = (1 << row.bits) - 1 if mask is None else mask
    start, words = field_words(
        row, (value << row.shift).to_bytes(row.size, "big"), (bits << row.shift).to_bytes(row.size, "big")
    )

    return operation(SET, start, FOLLOWS.get(name, 0), tuple(words))


def bit(name: str) -> int:
    """Where a field begins in the key, in bits."""
    row = BY_NAME[name]
    return (row.offset + row.size) * 8 - row.shift - row.bits


class Bench:
    """The engine, its region and the tables of bridge br0 with four ports, numbered 1 to 4."""

    def __init__(self) -> None:
        warm(lambda _done, _total, _name: None)
        self.engine = Engine(workers=1, arena_bytes=256 << 20)
        fd = make_region()
        self.engine.use_flow_region(f"/proc/{os.getpid()}/fd/{fd}")
        os.close(fd)
        self.region = FlowRegion()
        self.region.set_workers([worker.row for worker in self.engine.workers.all])
        add_bridge(self.engine, *PORTS)
        self.tables = self.new_tables()

    def new_tables(self) -> FlowTables:
        """Give the bridge an empty pipeline."""
        self.tables = FlowTables.create(self.region, "br0")
        self.use(self.tables)
        return self.tables

    def use(self, tables: FlowTables) -> None:
        """Have the bridge run by these tables."""
        self.tables = tables
        self.engine.set_pipeline("br0", tables.address)

    def add(self, table: int, priority: int, operations: Sequence[int], commit: bool = True, **fields: Any) -> int:
        """Add a flow; its address."""
        key, mask = match(**fields)
        flow = self.tables.add(table, priority, key, mask, self.region.program(operations, b""))
        if commit:
            self.tables.commit()
        return flow

    def group(self, kind: int, buckets: Sequence[tuple[list[int], int, int]]) -> int:
        """A group of buckets: operations, weight, watched port (PORT_ANY: none); its address."""
        block = self.region.allocate(BUCKETS_AT + len(buckets) * BUCKET.itemsize)
        head = records(GROUP_BUCKETS, block)[0]
        head["count"], head["kind"] = len(buckets), kind
        rows = records(BUCKET, block + BUCKETS_AT, len(buckets))
        for index, (operations, weight, port) in enumerate(buckets):
            row = rows[index]
            row["program"], row["weight"] = self.region.program(operations, b"bucket"), weight
            row["watch_port"], row["id"], row["number"] = port, self.region.take_id(), index
        group = self.region.allocate(GROUP.itemsize)
        row = records(GROUP, group)[0]
        row["buckets"], row["id"] = block, self.region.take_id()
        return group

    def meter(self, rate: int, burst: int, kind: int, *, kbps: bool = False, level: int = 0) -> int:
        """A meter of one band; its address."""
        hz = self.engine.workers.cycles_hz
        meter, bands = self.region.allocate(METER.itemsize), self.region.allocate(METER_BANDS.itemsize)
        row = records(METER, meter)[0]
        row["bands"], row["id"] = bands, self.region.take_id()
        row = records(METER_BANDS, bands)[0]
        row["kbps"], row["count"] = int(kbps), 1
        band = records(BAND, bands + BANDS_AT)[0]
        band["limit"] = band["bucket"] = burst * hz
        band["rate"], band["kind"], band["level"], band["id"] = rate, kind, level, self.region.take_id()
        return meter

    def send(self, port: str, *frames: bytes) -> dict[str, list[bytes]]:
        """Have a port receive frames; what left by each port."""
        send(self.engine, port, frames)
        self.region.run_deferred()
        return {name: got for name in PORTS if (got := sent(self.engine, name))}

    def packets(self, flow: int) -> int:
        """How many packets a flow counted."""
        return self.region.count(self.tables.read(flow).number)[0]

    def stop(self) -> None:
        self.region.set_workers(())
        clear(self.engine)
        self.engine.stop()

"""Flow tables changed at full speed under traffic: every packet sees the old tables or the new, no mix and no hole."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from kernel.pipeline_support import Bench, match, operation, set_field

import penstock.datapath.pipeline.program as p
from penstock.engine.flow_tables import FlowTables
from tests.engine.support import drops, frame, mac, send, sent

CHANGES = 4000
BURST = 32
CONFIGURATIONS = {"b": (11, 2), "c": (22, 3)}  # by the port that packets leave by: its mark and number


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


def add_configuration(bench: Bench, tables: FlowTables, mark: int, port: int) -> list[int]:
    """Three tables, each of which knows packets by what the one before has written; not committed."""
    rows = [
        (0, {}, [*set_field("reg0", mark), *operation(p.GOTO, a=1)]),
        (1, {"reg0": mark}, [*operation(p.PUSH_VLAN, a=0x0081), *set_field("vlan_tci", 0x1000 | mark, 0x1FFF),
                             *operation(p.GOTO, a=2)]),
        (2, {"reg0": mark, "vlan_tci": (0x1000 | mark, 0x1FFF)}, operation(p.OUTPUT, b=port)),
    ]  # fmt: skip
    flows = []
    for table, fields, operations in rows:
        key, mask = match(**fields)  # type: ignore[arg-type]
        flows.append(tables.add(table, 5, key, mask, bench.region.program(operations, b"")))
    return flows


def test_every_packet_sees_the_old_or_the_new(bench: Bench) -> None:
    tables = bench.new_tables()
    flows = add_configuration(bench, tables, *CONFIGURATIONS["b"])
    tables.commit()
    stop = threading.Event()
    failed: list[BaseException] = []
    count = 0
    got = {"b": 0, "c": 0}

    def forward() -> None:
        nonlocal count
        data = frame(mac(1), mac(2))
        try:
            while not stop.is_set():
                send(bench.engine, "a", [data] * BURST)
                count += BURST
                for name, (mark, _port) in CONFIGURATIONS.items():
                    for each in sent(bench.engine, name):
                        assert each[12:16] == b"\x81\x00" + mark.to_bytes(2, "big"), each.hex()
                        got[name] += 1
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    before = drops(bench.engine, "a")
    thread = threading.Thread(target=forward)
    thread.start()
    for turn in range(CHANGES):
        following = add_configuration(bench, tables, *CONFIGURATIONS["bc"[turn % 2 == 0]])
        # The first flow of a configuration takes the place of the other's.
        for flow in flows[1:]:
            tables.remove(flow)
        tables.commit()
        bench.region.run_deferred()
        flows = following
    stop.set()
    thread.join()
    assert not failed, failed
    assert drops(bench.engine, "a") == before
    assert sum(got.values()) == count
    assert min(got.values()) > 0
    assert tables.count == 3

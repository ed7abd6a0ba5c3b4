"""The flow cache while flow tables change: as if every packet were searched for, and without searching for most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel.pipeline_support import PORTS, Bench, match, operation, set_field
from naive.pipeline import NaiveFlow, NaivePipeline
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from penstock.datapath.pipeline import program as p
from penstock.datapath.pipeline.changes import CHECKS_MAX
from penstock.datapath.pipeline.layout import EXEC, LOG_VERSIONS
from penstock.engine.flow_tables import FlowTables
from penstock.machine import records

ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.1.1")
UDP_PORTS = (53, 80)


def udp(address: int, port: int) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(dst=ADDRESSES[address]) / UDP(dport=port))


FRAMES = [(port, udp(address, number)) for port in (1, 2) for address in range(3) for number in UDP_PORTS]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


@pytest.fixture
def fresh(bench: Bench) -> Bench:
    bench.new_tables()
    return bench


def misses(bench: Bench) -> int:
    """Searches so far, of packets or of their ways."""
    return int(records(EXEC, int(bench.engine.workers.all[0].row["exec"]))[0]["misses"])


@dataclass(frozen=True)
class Flow:
    """One to add: its match by field, what it writes to reg0 (0: nothing), where it sends packets and goes on."""

    table: int
    fields: tuple[tuple[str, Any], ...]
    reg0: int
    outputs: tuple[int, ...]
    goto: int | None


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    table = draw(st.integers(0, 2))
    fields: dict[str, Any] = {}
    if table and draw(st.booleans()):
        fields["reg0"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        fields["in_port"] = draw(st.integers(1, 2))
    if draw(st.booleans()):
        fields["eth_type"] = 0x0800
        if draw(st.booleans()):
            fields["ip_dst"] = draw(st.sampled_from([(0x0A000001, 0xFFFFFFFF), (0x0A000000, 0xFFFFFF00)]))
        if draw(st.booleans()):
            fields |= {"nw_proto": 17, "udp_dst": draw(st.sampled_from(UDP_PORTS))}
    outputs = tuple(draw(st.lists(st.sampled_from((3, 4)), max_size=2, unique=True)))
    goto = draw(st.sampled_from((None, *range(table + 1, 3))))
    return Flow(table, tuple(fields.items()), draw(st.integers(0, 2)), outputs, goto)


changes = st.lists(
    st.one_of(st.tuples(st.just("add"), flows()), st.tuples(st.just("remove"), st.integers(0, 30))),
    min_size=1, max_size=4,
)  # fmt: skip


class Both:
    """The tables of a bench and their twin, under the same changes. Later flows have priority over earlier ones."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.twin = bench, NaivePipeline()
        self.tables = bench.new_tables()
        self.known: list[tuple[int, NaiveFlow]] = []
        self.priority = 0

    def change(self, what: str, of: Any) -> None:
        if what == "add":
            self.add(of)
        elif self.known:
            address, mine = self.known.pop(of % len(self.known))
            self.tables.remove(address)
            self.twin.flows.remove(mine)

    def add(self, flow: Flow) -> None:
        self.priority += 1
        operations = [word for port in flow.outputs for word in operation(p.OUTPUT, b=port)]
        operations += set_field("reg0", flow.reg0) if flow.reg0 else []
        operations += operation(p.GOTO, flow.goto) if flow.goto is not None else []
        key, mask = match(**dict(flow.fields))
        written, write_mask = match(reg0=flow.reg0) if flow.reg0 else (b"", b"")
        mine = NaiveFlow(
            flow.table, self.priority, key, mask, flow.outputs, flow.goto,
            int.from_bytes(written, "big"), int.from_bytes(write_mask, "big"),
        )  # fmt: skip
        address = self.bench.add(flow.table, self.priority, operations, commit=False, **dict(flow.fields))
        self.twin.add(mine)
        self.known.append((address, mine))

    def compare(self) -> None:
        for port, data in FRAMES:
            left = self.bench.send(PORTS[port - 1], data)
            expected = self.twin.receive(port, data)
            assert {name: len(got) for name, got in left.items()} == {
                PORTS[number - 1]: expected.count(number) for number in set(expected)
            }
        for address, mine in self.known:
            assert self.bench.packets(address) == mine.packets


@settings(max_examples=40)
@given(st.lists(changes, min_size=2, max_size=10))
def test_packets_go_as_they_would_by_search_after_each_transaction(bench: Bench, wanted: list[Any]) -> None:
    both = Both(bench)
    for each in wanted:
        for what, of in each:
            both.change(what, of)
        both.tables.commit()
        both.compare()


def test_a_change_that_does_not_concern_a_flow_costs_it_no_search(fresh: Bench) -> None:
    way = [
        fresh.add(0, 1, operation(p.GOTO, 1), in_port=1),
        fresh.add(1, 1, operation(p.OUTPUT, b=2), eth_type=0x0800, ip_dst=0x0A000001),
    ]
    others = {"eth_type": 0x0800, "ip_dst": 0x0A000009}
    fresh.add(0, 9, operation(p.OUTPUT, b=4), **others)
    fresh.send("a", udp(0, 53))
    before = misses(fresh)
    for table in (0, 1, 2):
        flow = fresh.add(table, 10 + table, operation(p.OUTPUT, b=4), **others)
        assert list(fresh.send("a", udp(0, 53))) == ["b"]
        fresh.tables.remove(flow)
        fresh.tables.commit()
        assert list(fresh.send("a", udp(0, 53))) == ["b"]
    fresh.add(2, 1, operation(p.OUTPUT, b=4))  # of a table that it does not come to
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    assert misses(fresh) == before
    assert [fresh.packets(flow) for flow in way] == [8, 8]
    fresh.add(1, 7, operation(p.OUTPUT, b=3), in_port=1)
    assert list(fresh.send("a", udp(0, 53))) == ["c"]
    assert misses(fresh) == before + 1


def test_behind_a_flow_that_writes_to_the_key_every_change_of_the_table_counts(fresh: Bench) -> None:
    fresh.add(0, 1, [*set_field("reg0", 5), *operation(p.GOTO, 1)], in_port=1)
    fresh.add(1, 1, operation(p.OUTPUT, b=2), reg0=0)
    assert fresh.send("a", udp(0, 53)) == {}
    flow = fresh.add(1, 2, operation(p.OUTPUT, b=3), reg0=5)
    assert list(fresh.send("a", udp(0, 53))) == ["c"]
    fresh.tables.remove(flow)
    fresh.tables.commit()
    assert fresh.send("a", udp(0, 53)) == {}


@pytest.mark.parametrize("count", [CHECKS_MAX - 1, CHECKS_MAX + 1, LOG_VERSIONS + 40])
@pytest.mark.parametrize("at_once", [True, False])
def test_after_many_changes_the_one_that_concerns_a_flow_is_not_missed(fresh: Bench, count: int, at_once: bool) -> None:
    fresh.add(0, 1, operation(p.OUTPUT, b=2), in_port=1)
    fresh.add(0, 2, operation(p.OUTPUT, b=4), in_port=3)
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    before = misses(fresh)
    for number in range(count):
        fresh.add(0, 10 + number, operation(p.OUTPUT, b=4), commit=not at_once, in_port=3)
    fresh.tables.commit()
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    assert misses(fresh) - before == int(count > CHECKS_MAX)
    for number in range(count):
        ours = number == count // 2
        fresh.add(0, 1000 + number, operation(p.OUTPUT, b=3), commit=not at_once, in_port=1 if ours else 3)
    fresh.tables.commit()
    assert list(fresh.send("a", udp(0, 53))) == ["c"]


def test_whoever_takes_over_has_flows_searched_anew(fresh: Bench) -> None:
    fresh.add(0, 1, operation(p.OUTPUT, b=2), in_port=1)
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    before = misses(fresh)
    fresh.use(FlowTables.resume(fresh.region, fresh.tables.address))
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    assert misses(fresh) == before + 1
    fresh.add(0, 5, operation(p.OUTPUT, b=3), in_port=1)
    assert list(fresh.send("a", udp(0, 53))) == ["c"]
    assert misses(fresh) == before + 2


def test_a_pipeline_in_the_place_of_another_begins_with_nothing_known(fresh: Bench) -> None:
    old = fresh.tables
    fresh.add(0, 1, operation(p.OUTPUT, b=2))  # of no field: the cache has no words to tell the two apart by
    assert list(fresh.send("a", udp(0, 53))) == ["b"]
    fresh.new_tables()
    old.destroy()
    for _ in range(8):
        fresh.engine.workers.quiesce()
        fresh.region.run_deferred()
    following = fresh.new_tables()
    assert following.address == old.address, "no test of what it is meant to be"
    assert fresh.send("a", udp(0, 53)) == {}

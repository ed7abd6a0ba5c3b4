"""Flow tables in running workers: against a naive twin, under change, and after the death of who wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel.pipeline_support import PORTS, Bench, bit, match, operation, set_field
from naive.pipeline import NaiveFlow, NaivePipeline

from penstock.datapath.pipeline import program as p
from penstock.datapath.pipeline.layout import (
    GROUP_ALL,
    GROUP_FAST_FAILOVER,
    GROUP_INDIRECT,
    GROUP_SELECT,
    MISS_CONTINUE,
    PIPELINE,
)
from penstock.datapath.pipeline.meters import BAND_DROP, BAND_DSCP_REMARK
from penstock.engine.flow_tables import FlowTables, expired
from penstock.machine import monotonic_ns, records
from tests.engine.support import drops, frame, mac

UDP = bytes.fromhex("450000 2e 0000 0000 40 11 0000".replace(" ", "")) + bytes(8)


def udp(source: int, destination: int, sport: int, dport: int, tos: int = 0) -> bytes:
    """A frame with a UDP datagram without checksum."""
    ip = bytearray(UDP)
    ip[1] = tos
    ip[12:16], ip[16:20] = source.to_bytes(4, "big"), destination.to_bytes(4, "big")
    total = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    ip[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    ports = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + (26).to_bytes(2, "big") + bytes(2)
    return frame(mac(1), mac(2), bytes(ip) + ports + bytes(18), 0x0800)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


@pytest.fixture
def fresh(bench: Bench) -> Bench:
    bench.new_tables()
    return bench


ADDRESSES = (0x0A000001, 0x0A000002, 0x0A000101, 0x0B000001)
MASKS = (0xFFFFFFFF, 0xFFFFFF00, 0xFF000000)
PORT_NUMBERS = (1, 2, 53)


@st.composite
def matches(draw: st.DrawFn) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if draw(st.booleans()):
        fields["in_port"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        fields["eth_type"] = 0x0800
        for name in ("ip_src", "ip_dst"):
            if draw(st.booleans()):
                fields[name] = (draw(st.sampled_from(ADDRESSES)), draw(st.sampled_from(MASKS)))
        if draw(st.booleans()):
            fields["nw_proto"] = 17
            fields["udp_dst"] = draw(st.sampled_from(PORT_NUMBERS))
    return fields


@st.composite
def flows(draw: st.DrawFn) -> tuple[int, int, dict[str, Any], tuple[int, ...], int | None]:
    table = draw(st.integers(0, 2))
    outputs = tuple(draw(st.lists(st.integers(1, 4), max_size=3, unique=True)))
    goto = draw(st.sampled_from((None, *range(table + 1, 3))))
    return table, draw(st.integers(0, 60000)), draw(matches()), outputs, goto


frames = st.tuples(
    st.integers(0, 3), st.builds(udp, st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES), st.just(9),
                                 st.sampled_from(PORT_NUMBERS))
)  # fmt: skip


@settings(max_examples=60)
@given(
    st.lists(flows(), max_size=24, unique_by=lambda flow: flow[:2]),
    st.lists(frames, min_size=1, max_size=12),
    st.data(),
)
def test_what_leaves_and_what_is_counted_are_those_of_the_twin(
    bench: Bench, wanted: list[Any], received: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    """Priorities differ, since among equals the choice is free; the second half of the flows comes amid the traffic."""
    bench.new_tables()
    twin = NaivePipeline()
    addresses: dict[int, NaiveFlow] = {}

    def add(flow: Any) -> None:
        table, priority, fields, outputs, goto = flow
        operations = [word for port in outputs for word in operation(p.OUTPUT, b=port)]
        operations += operation(p.GOTO, goto) if goto is not None else []
        address = bench.add(table, priority, operations, **fields)
        mine = NaiveFlow(table, priority, *match(**fields), outputs, goto)
        twin.add(mine)
        addresses[address] = mine

    half = len(wanted) // 2
    for flow in wanted[:half]:
        add(flow)
    for step in range(3):
        for port, each in received:
            left = bench.send(PORTS[port], each, each)
            expected = twin.receive(port + 1, each) + twin.receive(port + 1, each)
            assert {name: len(got) for name, got in left.items()} == {
                PORTS[number - 1]: expected.count(number) for number in set(expected)
            }
            assert all(data == each for got in left.values() for data in got)
        if step == 0:
            for flow in wanted[half:]:
                add(flow)
    for address, mine in addresses.items():
        if mine in twin.flows:
            assert bench.packets(address) == mine.packets
    assert bench.tables.count == len(twin.flows)


def test_a_transaction_is_seen_whole_or_not_at_all(fresh: Bench) -> None:
    one = fresh.add(0, 5, operation(p.OUTPUT, b=2))
    fresh.add(0, 9, operation(p.OUTPUT, b=3), commit=False)
    fresh.tables.remove(one)
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]
    fresh.tables.abort()
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]
    fresh.add(0, 9, operation(p.OUTPUT, b=3), commit=False)
    fresh.tables.remove(one)
    fresh.tables.commit()
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["c"]
    assert fresh.tables.count == 1


def test_a_replaced_flow_counts_anew_unless_it_keeps_its_counters(fresh: Bench) -> None:
    key, mask = match(in_port=1)
    program = fresh.region.program(operation(p.OUTPUT, b=2), b"")
    fresh.region.hold(program)  # else it ends with its last flow
    fresh.tables.add(0, 1, key, mask, program)
    fresh.tables.commit()
    fresh.send("a", udp(1, 2, 3, 4))
    kept = fresh.tables.add(0, 1, key, mask, program, keep_counters=True)
    fresh.tables.commit()
    assert fresh.packets(kept) == 1
    changed = fresh.tables.modify(kept, fresh.region.program(operation(p.OUTPUT, b=3), b""))
    fresh.tables.commit()
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["c"]
    assert fresh.packets(changed) == 2
    anew = fresh.tables.add(0, 1, key, mask, program)
    fresh.tables.commit()
    assert fresh.packets(anew) == 0
    assert fresh.tables.count == 1


def test_many_flows_of_one_mask_and_their_memory(fresh: Bench) -> None:
    before = int(fresh.region.header["used"])
    program = fresh.region.program(operation(p.OUTPUT, b=2), b"")
    addresses = []
    for number in range(5000):
        addresses.append(fresh.tables.add(0, 7, *match(eth_type=0x0800, ip_dst=number), program))
        fresh.tables.commit()
    for number in (0, 1, 2500, 4999):
        assert list(fresh.send("a", udp(1, number, 3, 4))) == ["b"]
        assert fresh.tables.find(0, 7, *match(eth_type=0x0800, ip_dst=number)) == addresses[number]
    assert fresh.send("a", udp(1, 5000, 3, 4)) == {}
    assert len(fresh.tables.flows()) == fresh.tables.count == 5000
    for flow in addresses:
        fresh.tables.remove(flow)
    fresh.tables.commit()
    for _ in range(4):
        fresh.send("a", udp(1, 1, 3, 4))
    assert fresh.region.run_deferred() == 0
    assert fresh.tables.count == 0
    assert int(fresh.region.header["used"]) - before < 4096


def test_a_pipeline_that_is_destroyed_gives_all_back(bench: Bench) -> None:
    region = bench.region
    bench.new_tables()
    for _ in range(8):
        bench.engine.workers.quiesce()
        region.run_deferred()
    before = int(region.header["used"])
    tables = FlowTables.create(region, "br9")
    for number in range(100):
        for table, mask in ((0, {"ip_dst": number}), (3, {"ip_src": number}), (7, {"ip_dst": number, "in_port": 1})):
            tables.add(
                table, number, *match(eth_type=0x0800, **mask), region.program(operation(p.OUTPUT, b=number), b"")
            )
    tables.commit()
    version = int(tables.row["version"])
    tables.destroy()
    for _ in range(8):
        bench.engine.workers.quiesce()
        region.run_deferred()
    assert int(region.header["used"]) == before
    following = FlowTables.create(region, "br9")
    assert int(following.row["version"]) > version, "flow caches must not take its flows for those of the old one"
    following.destroy()


def test_scans_select_by_match_cookie_priority_and_table(fresh: Bench) -> None:
    narrow, wide, other = match(eth_type=0x0800, ip_dst=1), match(eth_type=0x0800), match(eth_type=0x0806)
    program = fresh.region.program([], b"")
    for table, priority, (key, mask), cookie in ((0, 1, narrow, 0x10), (0, 2, wide, 0x11), (1, 3, other, 0x20)):
        fresh.tables.add(table, priority, key, mask, program, cookie=cookie)
    fresh.tables.commit()

    def priorities(**how: Any) -> list[int]:
        return sorted(each.priority for some in fresh.tables.scan(**how) for each in some)

    assert priorities() == [1, 2, 3]
    assert priorities(key=wide[0], mask=wide[1]) == [1, 2]
    assert priorities(key=narrow[0], mask=narrow[1]) == [1]
    assert priorities(key=narrow[0], mask=narrow[1], overlapping=True) == [1, 2]
    assert priorities(table=1) == [3]
    assert priorities(cookie=0x10, cookie_mask=0xF0) == [1, 2]
    assert priorities(priority=2) == [2]


def test_time_outs(fresh: Bench) -> None:
    key, mask = match(in_port=1)
    program = fresh.region.program(operation(p.OUTPUT, b=2), b"")
    idle = fresh.tables.add(0, 1, key, mask, program, idle=10)
    hard = fresh.tables.add(0, 2, *match(in_port=2), program, hard=20)
    fresh.tables.add(0, 3, *match(in_port=3), program)
    fresh.tables.commit()
    now = int(monotonic_ns())
    second = 1_000_000_000
    assert expired(now) == []
    assert expired(now + 11 * second) == [idle]
    assert set(expired(now + 21 * second)) == {idle, hard}


def test_a_miss_may_continue_in_the_next_table(fresh: Bench) -> None:
    fresh.add(1, 1, operation(p.OUTPUT, b=4))
    assert fresh.send("a", udp(1, 2, 3, 4)) == {}
    fresh.tables.masks.set_miss(0, MISS_CONTINUE)
    fresh.add(2, 1, [])
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["d"]


def test_write_actions_run_at_the_end_in_their_order(fresh: Bench) -> None:
    written = operation(p.OUTPUT, b=2) + set_field("ip_dst", 9) + [p.END]
    fresh.add(0, 1, operation(p.WRITE, b=len(written)) + written + operation(p.GOTO, 1))
    again = [*operation(p.OUTPUT, b=3), p.END]
    fresh.add(1, 1, operation(p.OUTPUT, b=4) + operation(p.WRITE, b=len(again)) + again)
    left = fresh.send("a", udp(1, 2, 3, 4))
    assert left == {"d": [udp(1, 2, 3, 4)], "c": [udp(1, 9, 3, 4)]}
    fresh.add(1, 2, operation(p.CLEAR))
    assert fresh.send("a", udp(1, 2, 3, 4)) == {}


def test_resubmit_comes_back_and_its_port_holds_for_the_lookup_alone(fresh: Bench) -> None:
    fresh.add(0, 1, operation(p.RESUBMIT, 1, 4) + operation(p.OUTPUT, b=3))
    fresh.add(1, 1, operation(p.OUTPUT, b=2), in_port=4)
    assert sorted(fresh.send("a", udp(1, 2, 3, 4))) == ["b", "c"]
    fresh.add(1, 2, operation(p.RESUBMIT, 1, 4), in_port=4)
    before = drops(fresh.engine, "a").get("pipeline_loop", 0)
    assert fresh.send("a", udp(1, 2, 3, 4)) == {}
    assert drops(fresh.engine, "a")["pipeline_loop"] == before + 1


def test_registers_moves_the_stack_and_computed_outputs(fresh: Bench) -> None:
    loaded = set_field("reg1", 0x20000)
    moved = operation(p.MOVE, 0, 0, (bit("reg1"), bit("reg3"), 32))
    stacked = operation(p.PUSH, words=(bit("reg3"), 16)) + operation(p.POP, words=(bit("metadata") + 48, 16, 0))
    fresh.add(0, 1, loaded + moved + stacked + operation(p.GOTO, 1))
    fresh.add(1, 5, operation(p.OUTPUT_FIELD, bit("reg3"), words=(16,)), reg3=0x20000, metadata=2)
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]
    clone = set_field("ip_dst", 7) + operation(p.OUTPUT, b=4) + [p.END]
    fresh.add(1, 6, operation(p.CLONE, b=len(clone)) + clone + operation(p.OUTPUT, b=3))
    left = fresh.send("a", udp(1, 2, 3, 4))
    assert left == {"d": [udp(1, 7, 3, 4)], "c": [udp(1, 2, 3, 4)]}
    fresh.add(1, 7, operation(p.OUTPUT, b=2) + operation(p.EXIT) + operation(p.OUTPUT, b=3))
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]


def test_reserved_ports(fresh: Bench) -> None:
    fresh.add(0, 1, operation(p.OUTPUT, b=p.PORT_IN_PORT))
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["a"]
    fresh.add(0, 2, operation(p.OUTPUT, b=p.PORT_FLOOD))
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b", "c", "d"]
    fresh.engine.set_port_config("c", 1 << 4)  # no flooding
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b", "d"]
    fresh.engine.set_port_config("c", 0)
    fresh.add(0, 3, operation(p.OUTPUT, b=p.PORT_NORMAL))
    assert fresh.send("b", frame(mac(7), mac(1))) != {}
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]
    fresh.add(0, 4, operation(p.OUTPUT, b=99))
    before = drops(fresh.engine, "a").get("no_such_port", 0)
    assert fresh.send("a", udp(1, 2, 3, 4)) == {}
    assert drops(fresh.engine, "a")["no_such_port"] == before + 1


def test_only_normal_is_counted_by_bursts(fresh: Bench) -> None:
    flow = fresh.add(0, 0, operation(p.OUTPUT, b=p.PORT_NORMAL))
    assert records(PIPELINE, fresh.tables.address)[0]["normal"]
    fresh.send("a", *[udp(1, 2, 3, 4)] * 40)
    assert fresh.packets(flow) == 40
    fresh.add(0, 1, operation(p.OUTPUT, b=3), in_port=1)
    assert not records(PIPELINE, fresh.tables.address)[0]["normal"]
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["c"]


def test_groups(fresh: Bench) -> None:
    def bucket(port: int, weight: int = 1, watch: int = p.PORT_ANY, to: int = 0) -> tuple[list[int], int, int]:
        return set_field("ip_dst", to or port) + operation(p.OUTPUT, b=port), weight, watch

    def use(group: int) -> None:
        fresh.add(0, 1, operation(p.GROUP, words=(group,)) + operation(p.OUTPUT, b=4))

    use(fresh.group(GROUP_ALL, [bucket(2), bucket(3)]))
    assert fresh.send("a", udp(1, 9, 3, 4)) == {
        "b": [udp(1, 2, 3, 4)], "c": [udp(1, 3, 3, 4)], "d": [udp(1, 9, 3, 4)],
    }  # fmt: skip
    use(fresh.group(GROUP_INDIRECT, [bucket(3)]))
    assert sorted(fresh.send("a", udp(1, 9, 3, 4))) == ["c", "d"]
    use(fresh.group(GROUP_FAST_FAILOVER, [bucket(2, watch=77), bucket(3, watch=3)]))
    assert sorted(fresh.send("a", udp(1, 9, 3, 4))) == ["c", "d"]
    use(fresh.group(GROUP_SELECT, [bucket(2, 3), bucket(3, 1), bucket(3, 9, watch=77)]))
    left = fresh.send("a", *(udp(1, number, 3, 4) for number in range(2000)))
    assert len(left["d"]) == 2000
    assert 0.21 < len(left["c"]) / 2000 < 0.29
    assert len(left["b"]) + len(left["c"]) == 2000


def test_meters_drop_and_mark(fresh: Bench) -> None:
    before = drops(fresh.engine, "a").get("meter", 0)
    fresh.add(0, 1, operation(p.METER, words=(fresh.meter(1, 10, BAND_DROP),)) + operation(p.OUTPUT, b=2))
    left = fresh.send("a", *[udp(1, 2, 3, 4)] * 50)
    assert 10 <= len(left["b"]) <= 12
    assert drops(fresh.engine, "a")["meter"] - before == 50 - len(left["b"])
    marking = fresh.meter(1, 1, BAND_DSCP_REMARK, kbps=True, level=1)
    fresh.add(0, 2, operation(p.METER, words=(marking,)) + operation(p.OUTPUT, b=2))
    af11, af12 = 0x0A << 2, 0x0C << 2
    left = fresh.send("a", *[udp(1, 2, 3, 4, af11)] * 10)
    assert set(left["b"][2:]) == {udp(1, 2, 3, 4, af12)}
    assert left["b"][0] == udp(1, 2, 3, 4, af11)


def test_tables_go_on_after_their_writer_died(fresh: Bench) -> None:
    old = fresh.tables
    kept = fresh.add(0, 1, operation(p.OUTPUT, b=2), in_port=1)
    gone = fresh.add(0, 2, operation(p.OUTPUT, b=3), in_port=2)
    fresh.send("a", udp(1, 2, 3, 4))
    fresh.add(0, 9, operation(p.OUTPUT, b=4), commit=False)  # begun, and never seen
    resumed = FlowTables.resume(fresh.region, old.address)
    fresh.use(resumed)
    assert {each.address for each in resumed.flows()} == {kept, gone}
    assert resumed.count == 2
    assert fresh.packets(kept) == 1
    resumed.remove(gone)
    resumed.commit()
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["b"]
    assert fresh.send("b", udp(1, 2, 3, 4)) == {}
    assert fresh.add(0, 9, operation(p.OUTPUT, b=4))
    assert list(fresh.send("a", udp(1, 2, 3, 4))) == ["d"]

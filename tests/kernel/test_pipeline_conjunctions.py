"""Conjunctive matches against a naive twin: every flow looked at, priority by priority."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel.pipeline_support import PORTS, Bench, operation
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from penstock.datapath.pipeline import program as p

ADDRESSES, NUMBERS = (1, 2, 3), (10, 11)
FRAMES = [
    (source, destination, number, bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src=f"10.0.0.{source}", dst=f"10.0.1.{destination}") / UDP(sport=9, dport=number)
    ))
    for source in ADDRESSES for destination in ADDRESSES for number in NUMBERS
]  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """Matches source, destination and port where these are not None, and a conj_id; is a part of others, or outputs."""

    priority: int
    source: int | None = None
    destination: int | None = None
    number: int | None = None
    conj_id: int = 0
    parts: tuple[tuple[int, int, int], ...] = ()  # id, clause, clauses
    output: int = 0

    def matches(self, source: int, destination: int, number: int, conj_id: int = 0) -> bool:
        wanted = ((self.source, source), (self.destination, destination), (self.number, number))
        return self.conj_id in (0, conj_id) and all(mine in (None, theirs) for mine, theirs in wanted)


def naive_lookup(flows: list[Flow], *packet: int) -> set[Flow | None]:
    """The flows that may be the packet's: which of several ids of one priority is looked at first is not said.

    ovs-actions(7), "conjunction".
    """

    def hard(conj_id: int = 0) -> Flow | None:
        found = [flow for flow in flows if not flow.parts and flow.matches(*packet, conj_id)]
        return max(found, key=lambda flow: flow.priority, default=None)

    plain = hard()
    parts = [flow for flow in flows if flow.parts and flow.matches(*packet)]
    least = plain.priority if plain is not None else -1
    for priority in sorted({flow.priority for flow in parts if flow.priority > least}, reverse=True):
        met: dict[int, set[int]] = {}
        wanted: dict[int, int] = {}
        for flow in parts:
            if flow.priority == priority:
                for ident, clause, clauses in flow.parts:
                    met.setdefault(ident, set()).add(clause)
                    wanted[ident] = clauses
        whole = [ident for ident, clauses in met.items() if len(clauses) == wanted[ident]]
        found = {hard(ident) for ident in whole} - {None}
        if found and None not in {hard(ident) for ident in whole}:
            return set(found)
        if found:
            return {*found, plain}
    return {plain}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.stop()


@st.composite
def rules(draw: st.DrawFn) -> list[Flow]:
    """Up to three conjunctions of two or three clauses each, flows for their ids, and others."""
    found: list[Flow] = []
    for ident in range(1, draw(st.integers(1, 3)) + 1):
        clauses = draw(st.integers(2, 3))
        priority = 10 * draw(st.integers(1, 3))
        fields = ("source", "destination", "number")[:clauses]
        for clause, name in enumerate(fields):
            values = NUMBERS if name == "number" else ADDRESSES
            for value in draw(st.sets(st.sampled_from(values), max_size=2)):
                own = draw(st.sampled_from((priority, priority, priority, 10)))
                found.append(Flow(own, parts=((ident, clause, clauses),), **{name: value}))
        if draw(st.booleans()):
            found.append(Flow(priority * 100 + ident, conj_id=ident, output=draw(st.integers(2, 4))))
    for index in range(draw(st.integers(0, 2))):
        found.append(Flow(draw(st.integers(1, 3)) * 10 + 5 + index, source=draw(st.sampled_from(ADDRESSES)), output=2))
    # One flow for each match and priority: what is a part of several conjunctions says so in one.
    merged: dict[tuple[object, ...], Flow] = {}
    for flow in found:
        key = (flow.priority, flow.source, flow.destination, flow.number, flow.conj_id)
        if key in merged and merged[key].parts and flow.parts:
            flow = Flow(*key[:4], parts=(*merged[key].parts, *flow.parts))  # type: ignore[arg-type]
        merged[key] = flow
    return draw(st.permutations(list(merged.values())))


def install(bench: Bench, flows: list[Flow]) -> None:
    bench.new_tables()
    bench.tables.masks.set_conjunctive(0)
    for flow in flows:
        fields: dict[str, int] = {"eth_type": 0x0800}
        fields |= {"ip_src": 0x0A000000 | flow.source} if flow.source is not None else {}
        fields |= {"ip_dst": 0x0A000100 | flow.destination} if flow.destination is not None else {}
        fields |= {"nw_proto": 17, "udp_dst": flow.number} if flow.number is not None else {}
        fields |= {"conj_id": flow.conj_id} if flow.conj_id else {}
        operations = operation(p.OUTPUT, b=flow.output) if flow.output else []
        for ident, clause, clauses in flow.parts:
            operations += operation(p.CONJUNCTION, b=ident, words=(clause | clauses << 8,))
        bench.add(0, flow.priority, operations, **fields)


def check(bench: Bench, flows: list[Flow]) -> None:
    for source, destination, number, data in FRAMES:
        allowed = {flow.output if flow is not None else 0 for flow in naive_lookup(flows, source, destination, number)}
        for _ in range(2):  # by search, and by the cache
            left = [PORTS.index(name) + 1 for name in bench.send("a", data)]
            assert (left[0] if left else 0) in allowed, (source, destination, number)


@settings(max_examples=60)
@given(rules())
def test_conjunctions_match_what_the_twin_does(bench: Bench, flows: list[Flow]) -> None:
    install(bench, flows)
    check(bench, flows)


def test_all_clauses_at_one_priority_are_needed(bench: Bench) -> None:
    flows = [
        Flow(20, source=1, parts=((7, 0, 2),)),
        Flow(20, destination=2, parts=((7, 1, 2),)),
        Flow(10, destination=3, parts=((7, 1, 2),)),
        Flow(15, source=1, output=4),
        Flow(30, conj_id=7, output=3),
    ]
    install(bench, flows)
    check(bench, flows)
    by = {(source, destination): bench.send("a", data) for source, destination, _, data in FRAMES}
    assert list(by[1, 2]) == ["c"], "a conjunction of priority 20 is above the flow of priority 15"
    assert list(by[1, 3]) == ["d"], "its clauses are of two priorities"
    assert by[2, 2] == {}

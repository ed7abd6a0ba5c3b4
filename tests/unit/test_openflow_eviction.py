"""Tables that may hold so many flows: another one is refused, or a flow makes room for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from penstock.openflow.eviction import Limit
from penstock.openflow.flow_mod import ALL_TABLES, Change, Command, FlowMod, Removal, Select
from penstock.openflow.match import EMPTY
from penstock.openflow.stats import tables
from penstock.openflow.text_flow import parse_flow
from penstock.openflow.wire import OF10, OpenFlowError
from tests.unit.openflow_support import FakeHost


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeHost]:
    made = FakeHost()
    yield made
    made.close()


@pytest.fixture
def host(shared: FakeHost) -> Iterator[FakeHost]:
    yield shared
    shared.bridge.limits.clear()
    shared.bridge.watched = False
    shared.bridge.flow_mod(FlowMod(Command.DELETE, ALL_TABLES, 0, EMPTY))


def add(host: FakeHost, *texts: str) -> None:
    host.bridge.flow_mods([parse_flow(f"table=3,{text},actions=drop", {}) for text in texts])


def priorities(host: FakeHost) -> set[int]:
    return {entry.priority for some in host.bridge.flows(Select(3, EMPTY)) for entry in some}


def test_a_full_table_refuses_and_changes_nothing(host: FakeHost) -> None:
    host.bridge.limits[3] = Limit(2, evicts=False)
    add(host, "priority=1,hard_timeout=9", "priority=2")
    with pytest.raises(OpenFlowError, match=r"table 3 holds 2 flows, the most that it may .* code 1"):
        add(host, "priority=3")
    with pytest.raises(OpenFlowError, match="table 3 holds 2 flows"):
        host.bridge.flow_mods(
            [
                FlowMod(Command.DELETE_STRICT, 3, 1, EMPTY),
                *[parse_flow(f"table=3,priority={number},actions=drop", {}) for number in (4, 5)],
            ]
        )
    assert priorities(host) == {1, 2}
    add(host, "priority=2,hard_timeout=7")  # takes the place of one
    host.bridge.flow_mod(FlowMod(Command.DELETE_STRICT, 3, 1, EMPTY))
    add(host, "priority=3")
    assert priorities(host) == {2, 3}
    assert host.bridge.count_of(3) == 2
    host.bridge.flow_mods([parse_flow(f"table=4,priority={number},actions=drop", {}) for number in (1, 2, 3)])
    assert host.bridge.count_of(4) == 3


def test_the_least_important_that_ends_soonest_makes_room(host: FakeHost) -> None:
    gone: list[tuple[int, int]] = []

    def note(changes: list[Change], _origin: object) -> None:
        gone.extend((each.entry.priority, each.reason) for each in changes if each.reason)

    host.bridge.on_changes = note
    host.bridge.watched = True
    host.bridge.limits[3] = Limit(5, evicts=True)
    add(
        host,
        "priority=1,importance=9",
        "priority=2,importance=5,hard_timeout=10",
        "priority=3,importance=5,idle_timeout=5",
        "priority=4,importance=5,hard_timeout=100,idle_timeout=7",
        "priority=5,importance=1,hard_timeout=1000",
    )
    for number, victim in ((11, 5), (12, 3), (13, 4), (14, 2)):
        add(host, f"priority={number}")
        assert gone.pop() == (victim, Removal.DELETE)
    with pytest.raises(OpenFlowError, match="table 3 holds 5 flows"):
        add(host, "priority=15")
    assert priorities(host) == {1, 11, 12, 13, 14}


def test_the_largest_group_makes_room(host: FakeHost) -> None:
    host.bridge.limits[3] = Limit(5, evicts=True, groups=("in_port",))
    add(host, *[f"priority={number},in_port=1,hard_timeout={number}" for number in (1, 2)])
    add(host, *[f"priority={number},in_port=2,hard_timeout={number * 100}" for number in (3, 4, 5)])
    add(host, "priority=6,in_port=1,hard_timeout=50")
    assert priorities(host) == {1, 2, 4, 5, 6}
    add(host, "priority=7,in_port=3,hard_timeout=1")
    assert priorities(host) == {2, 4, 5, 6, 7}


def test_what_a_table_holds_is_told(host: FakeHost) -> None:
    host.bridge.limits[3] = Limit(7, evicts=True)
    add(host, "priority=1", "priority=2")
    host.bridge.set_fail_open(True)
    told = {each[0]: struct.unpack_from("!II", each, 40) for each in tables(OF10, host.bridge)}
    host.bridge.set_fail_open(False)
    assert told[3] == (7, 2)
    assert told[0] == (1 << 22, 0)

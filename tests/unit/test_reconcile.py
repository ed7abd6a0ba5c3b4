"""The plan from actual to desired, and its application to an engine that refuses disorder."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine.client import EngineGone
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig
from penstock.switch.model import DesiredState
from penstock.switch.reconcile import AddPort, RemovePort, SetBridge, SetPort, apply, plan, repairs
from tests.unit.fake_engine import FakeEngine

NAMES = ["a", "b", "c", "d"]
vlans = st.one_of(
    st.integers(1, 3).map(lambda tag: VlanConfig("access", tag)),
    st.lists(st.integers(1, 3), max_size=2, unique=True).map(lambda some: VlanConfig("trunk", None, tuple(some))),
)


@st.composite
def states(draw: st.DrawFn) -> DesiredState:
    """Bridges and ports as a file could ask for them: names unique, net devices unique, every port's bridge there."""
    bridge_names = draw(st.lists(st.sampled_from(["br0", "br1", "br2"]), unique=True))
    bridges = {name: BridgeSpec(name, mac_ageing=draw(st.sampled_from([60, 300]))) for name in bridge_names}
    port_names = draw(st.lists(st.sampled_from(NAMES), unique=True)) if bridges else []
    netdevs = draw(st.permutations([f"eth{index}" for index in range(len(NAMES))]))
    ports = {}
    for index, name in enumerate(port_names):
        kind = draw(st.sampled_from(["tap", "packet"]))
        options = {"netdev": netdevs[index]} if kind == "packet" else {"queues": draw(st.integers(1, 2))}
        ports[name] = PortSpec(
            bridge=draw(st.sampled_from(bridge_names)),
            name=name,
            kind=kind,
            options=options,
            vlan=draw(vlans),
            mtu=draw(st.sampled_from([None, 1400])),
        )
    return DesiredState(bridges, ports)


def engine_with(state: DesiredState) -> FakeEngine:
    engine = FakeEngine()
    assert not [outcome for outcome in reconcile(engine, state) if outcome.error]
    engine.calls.clear()
    return engine


def reconcile(engine: FakeEngine, desired: DesiredState) -> list:
    return apply(engine, plan(engine.bridges(), engine.ports(), desired))


@given(states(), states())
def test_applying_a_plan_reaches_the_desired_state(before: DesiredState, after: DesiredState) -> None:
    engine = engine_with(before)
    outcomes = reconcile(engine, after)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert engine.bridges() == after.bridges
    assert {name: state.spec for name, state in engine.ports().items()} == after.ports


@given(states())
def test_the_plan_for_equal_states_is_empty(state: DesiredState) -> None:
    engine = engine_with(state)
    assert plan(engine.bridges(), engine.ports(), state) == []


@given(states(), states())
def test_a_plan_touches_only_what_differs(before: DesiredState, after: DesiredState) -> None:
    engine = engine_with(before)
    same = {name for name, spec in after.ports.items() if before.ports.get(name) == spec}
    same |= {name for name, spec in after.bridges.items() if before.bridges.get(name) == spec}
    reconcile(engine, after)
    assert {call.split()[1] for call in engine.calls} & same == set()


PORT = PortSpec("br0", "vm1", "tap", {"queues": 1}, VlanConfig("access", 10))
STATE = DesiredState({"br0": BridgeSpec("br0")}, {"vm1": PORT})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (replace(PORT, vlan=VlanConfig("access", 20)), ["SetPort"]),
        (replace(PORT, mtu=1400), ["SetPort"]),
        (replace(PORT, kind="internal"), ["RemovePort", "AddPort"]),
        (replace(PORT, options={"queues": 2}), ["RemovePort", "AddPort"]),
        (replace(PORT, bridge="br1"), ["RemovePort", "AddBridge", "AddPort"]),
    ],
)
def test_how_a_changed_port_is_brought_about(changed: PortSpec, expected: list[str]) -> None:
    engine = engine_with(STATE)
    bridges = {name: BridgeSpec(name) for name in {"br0", changed.bridge}}
    desired = DesiredState(bridges, {"vm1": changed})
    assert [type(change).__name__ for change in plan(engine.bridges(), engine.ports(), desired)] == expected


def test_a_changed_bridge_keeps_its_ports() -> None:
    engine = engine_with(STATE)
    changed = BridgeSpec("br0", mac_ageing=10)
    desired = DesiredState({"br0": changed}, STATE.ports)
    assert plan(engine.bridges(), engine.ports(), desired) == [SetBridge(changed)]


def test_a_failure_is_reported_and_disturbs_nothing_else() -> None:
    engine = FakeEngine()
    engine.refused.add("gone0")
    bad = PortSpec("br0", "eth1", "packet", {"netdev": "gone0"})
    desired = DesiredState(STATE.bridges, {"eth1": bad, "vm1": PORT})
    outcomes = reconcile(engine, desired)
    assert [(str(outcome.change), outcome.error) for outcome in outcomes] == [
        ("add bridge br0", ""),
        ("add port eth1 (packet) to bridge br0", "port eth1: net device gone0 does not exist"),
        ("add port vm1 (tap) to bridge br0", ""),
    ]
    assert list(engine.ports()) == ["vm1"]
    assert plan(engine.bridges(), engine.ports(), desired) == [AddPort(bad)]


def test_an_engine_that_dies_stops_the_application() -> None:
    engine = FakeEngine()
    engine.die()
    with pytest.raises(EngineGone):
        reconcile(engine, STATE)


def test_ports_that_lost_their_device_are_made_again() -> None:
    engine = engine_with(STATE)
    actual = engine.ports()
    assert repairs(actual, STATE) == []
    actual["vm1"] = replace(actual["vm1"], state="error", error="its device is gone")
    assert repairs(actual, STATE) == [RemovePort("vm1", "br0"), AddPort(PORT)]
    unwanted = DesiredState(STATE.bridges, {"vm1": replace(PORT, kind="internal")})
    assert repairs(actual, unwanted) == []


def test_set_port_changes_say_what_they_are() -> None:
    assert str(SetPort(PORT)) == "change port vm1 of bridge br0"


def test_a_number_that_a_port_was_given_may_be_asked_for_later() -> None:
    desired = DesiredState({"br0": BridgeSpec("br0")}, {"a": PortSpec("br0", "a", "tap")})
    engine = engine_with(desired)
    given = engine.ports()["a"].ofport
    for number, expected in ((given, []), (given + 1, [RemovePort, AddPort])):
        asked = replace(desired, ports={"a": replace(desired.ports["a"], ofport=number)})
        assert [type(change) for change in plan(engine.bridges(), engine.ports(), asked)] == expected

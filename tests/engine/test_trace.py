"""Traces: what ``trace`` foretells is what the engine then does, and a trace itself leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.datapath.layout import PORT_DOWN, PORT_UP
from penstock.engine.engine import Engine
from penstock.engine.results import TraceResult
from penstock.engine.tracer import Tracer
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig
from tests.engine.support import add_dummy, counters, drops, fdb, frame, mac, send, sent, tagged

PORTS = {
    "access": VlanConfig("access", 10),
    "trunk": VlanConfig("trunk"),
    "tagged": VlanConfig("native-tagged", 10, (20,)),
    "untagged": VlanConfig("native-untagged", 10, (20,)),
    "small": VlanConfig("trunk"),
}
FAR = {"far10": VlanConfig("access", 10), "far20": VlanConfig("access", 20)}


class Bench:
    """An engine with two bridges joined by a patch, and a tracer over it."""

    def __init__(self) -> None:
        self.engine = engine = Engine(workers=1, arena_bytes=256 << 20)
        for bridge in ("br0", "br1"):
            engine.add_bridge(BridgeSpec(bridge))
        for name, vlan in PORTS.items():
            add_dummy(engine, name, vlan, mtu=100 if name == "small" else None)
        for name, vlan in FAR.items():
            add_dummy(engine, name, vlan, "br1")
        engine.add_port(PortSpec("br0", "out", "patch", {"peer": "in"}, VlanConfig("trunk")))
        engine.add_port(PortSpec("br1", "in", "patch", {"peer": "out"}, VlanConfig("trunk", trunks=(10, 20))))
        self.tracer = Tracer(
            engine.tables.ports_address, engine.tables.bridges_address, engine.workers.cycles_hz, lambda: 0
        )

    def trace(self, name: str, data: bytes) -> TraceResult:
        names = {port.number: name for name, port in self.engine.ports.items()}
        return self.tracer.trace(self.engine.ports[name].number, data, names, punt=False)

    def state(self) -> object:
        """All that a trace must leave alone."""
        engine = self.engine
        return [(name, counters(engine, name), drops(engine, name)) for name in engine.ports], [
            fdb(engine, bridge) for bridge in engine.bridges
        ]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    warm(lambda done, total, name: None)
    made = Bench()
    yield made
    made.engine.stop()


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    hosts = [*(mac(number) for number in range(4)), b"\xff" * 6, bytes.fromhex("0180c2000002")]
    size = draw(st.sampled_from((0, 46, 87, 300, 1400, 1600)))
    data = frame(draw(st.sampled_from(hosts)), draw(st.sampled_from(hosts[:4] * 3 + hosts)), bytes(size))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2)))):
        data = tagged(data, draw(st.sampled_from((0, 10, 20, 30))), draw(st.integers(0, 7)))
    return data[: draw(st.sampled_from((None, None, None, None, None, 5)))]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([*PORTS, *FAR]), frames()), min_size=1, max_size=5))
def test_a_trace_foretells_what_is_sent_and_changes_nothing(bench: Bench, sequence: list[tuple[str, bytes]]) -> None:
    for name, data in sequence:
        before = bench.state()
        dropped = {each: drops(bench.engine, each) for each in bench.engine.ports}
        told = bench.trace(name, data)
        assert bench.state() == before
        assert bench.trace(name, data) == told
        send(bench.engine, name, [data])
        left = {each: sent(bench.engine, each) for each in (*PORTS, *FAR)}
        foretold: dict[str, list[bytes]] = {each: [] for each in left}
        for output in told.outputs:
            foretold[output.port].append(output.frame)
        assert foretold == left
        reasons = {
            reason
            for each in bench.engine.ports
            for reason, count in drops(bench.engine, each).items()
            if count != dropped[each].get(reason, 0)
        }
        assert (told.drop in reasons) if reasons else told.drop is None


def test_the_steps_say_what_happens(bench: Bench) -> None:
    send(bench.engine, "trunk", [tagged(frame(mac(77), mac(70)), 10)])
    sent(bench.engine, "access")
    result = bench.trace("access", frame(mac(70), mac(71)))
    assert result.steps == [
        "received on port 'access'",
        "belongs to VLAN 10",
        "source address is unknown or moved: would be learned on port 'access'",
        "destination address is known on port 'trunk'",
        "output to port 'trunk', tagged with VLAN 10",
        "leaves by port 'trunk'",
    ]
    assert [(output.port, output.frame) for output in result.outputs] == [
        ("trunk", tagged(frame(mac(70), mac(71)), 10))
    ]
    assert result.drop is None
    assert result.fields["eth_src"] == "02:00:00:00:00:47"


def test_crossing_a_patch_and_the_mtu_are_told(bench: Bench) -> None:
    result = bench.trace("trunk", tagged(frame(mac(88), mac(89), bytes(500)), 20))
    assert "crosses the patch to port 'in'" in result.steps
    assert [output.frame for output in result.outputs if output.port == "far20"] == [
        frame(mac(88), mac(89), bytes(500))
    ]
    assert any(step.startswith("dropped at port 'small': mtu_exceeded: ") for step in result.steps)


def test_a_port_that_is_down_passes_nothing(bench: Bench) -> None:
    row = bench.engine.tables.ports[bench.engine.ports["access"].number]
    row["state"] = PORT_DOWN
    try:
        result = bench.trace("access", frame(mac(70), mac(71)))
        assert (result.outputs, result.drop) == ([], "ingress_down")
        assert all(output.port != "access" for output in bench.trace("tagged", frame(mac(90), mac(71))).outputs)
    finally:
        row["state"] = PORT_UP


def test_a_frame_that_is_none_is_refused(bench: Bench) -> None:
    for size in (0, 65536):
        with pytest.raises(ValueError, match=f"1 to 65535 bytes, not {size}"):
            bench.trace("trunk", bytes(size))

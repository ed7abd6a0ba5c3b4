"""NORMAL forwarding against its naive twin: random bridges of dummy ports on a running engine, frame for frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from naive.normal import NaivePort, NaiveSwitch

from penstock.engine.engine import Engine
from penstock.engine.warm import warm
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig
from tests.engine.support import add_dummy, clear, counters, drops, fdb, frame, mac, send, sent, tagged

VLANS = (1, 10, 20, 4094)
GROUPS = (b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("0180c2000010"))
RESERVED = (bytes.fromhex("0180c2000000"), bytes.fromhex("0180c200000f"))
HOSTS = [*(mac(number) for number in range(5)), bytes(6)]
TPIDS = (0x8100, 0x8100, 0x88A8, 0x9100)
IPV4 = bytes.fromhex("45000028000040004006000a0a0000010a000002") + bytes(20)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    warm(lambda done, total, name: None)
    running = Engine(workers=1, arena_bytes=256 << 20)
    yield running
    running.stop()


@st.composite
def vlan_configs(draw: st.DrawFn) -> VlanConfig:
    some = st.lists(st.sampled_from((0, *VLANS)), unique=True, max_size=3)
    mode = draw(st.sampled_from(("access", "trunk", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")))
    tag = None if mode == "trunk" else draw(st.sampled_from(VLANS if mode == "dot1q-tunnel" else (0, *VLANS)))
    trunks = () if mode in ("access", "dot1q-tunnel") else draw(some)
    cvlans = draw(some) if mode == "dot1q-tunnel" else ()
    qinq_ethtype = draw(st.sampled_from(("802.1ad", "802.1q")))
    return VlanConfig(mode, tag, tuple(trunks), tuple(cvlans), qinq_ethtype, draw(st.booleans()))


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    destination = draw(st.sampled_from((*HOSTS, *HOSTS, *HOSTS, *GROUPS, *RESERVED)))
    source = draw(st.sampled_from((*HOSTS, *HOSTS, *HOSTS, GROUPS[1])))
    size = draw(st.sampled_from((46, 46, 0, 2, 242, 300, 1492, 1496, 1500, 1501, 1504)))
    if draw(st.booleans()):
        data = frame(destination, source, (IPV4 + bytes(size))[:size], 0x0800)
    else:
        data = frame(destination, source, (bytes(range(256)) * 6)[:size])
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 1, 2, 3)))):
        data = tagged(
            data, draw(st.sampled_from((0, *VLANS, 4095))), draw(st.integers(0, 7)), draw(st.sampled_from(TPIDS))
        )
    cut = draw(st.sampled_from((None,) * 40 + (1, 13, 14, 15, 17, 18)))
    return data[:cut]


@dataclass(frozen=True)
class Step:
    """Frames that one port receives in one go."""

    port: int
    frames: list[bytes]


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[NaivePort], list[Step]]:
    """Ports of one bridge, or of two that a patch joins, and what is received."""
    count = draw(st.integers(2, 6))
    patched = draw(st.booleans())
    ports = []
    for number in range(count):
        config = draw(vlan_configs())
        bridge = "br1" if patched and number % 2 else "br0"
        mtu = draw(st.sampled_from((1500, 1500, 1496)))
        protected = draw(st.booleans())
        ports.append(NaivePort(f"p{number}", bridge, **vars(config), mtu=mtu, protected=protected))
    if patched:
        for number in range(2):
            config = draw(vlan_configs())
            name, peer = f"patch{number}", f"patch{1 - number}"
            ports.append(NaivePort(name, f"br{number}", **vars(config), peer=peer))
    bursts = st.lists(frames(), min_size=1, max_size=6) | st.tuples(frames(), st.integers(30, 70)).map(
        lambda pair: [pair[0]] * pair[1]
    )
    steps = draw(st.lists(st.builds(Step, st.integers(0, count - 1), bursts), min_size=1, max_size=8))
    return ports, steps


def build(engine: Engine, ports: list[NaivePort], flood_vlans: tuple[int, ...]) -> None:
    for bridge in sorted({port.bridge for port in ports}):
        engine.add_bridge(BridgeSpec(bridge, mac_table_size=64, flood_vlans=flood_vlans))
    for port in ports:
        vlan = VlanConfig(**{each.name: getattr(port, each.name) for each in fields(VlanConfig)})
        if port.peer is None:
            add_dummy(engine, port.name, vlan, port.bridge, port.mtu)
            engine.set_port(replace(engine.ports[port.name].spec, protected=port.protected))
        else:
            engine.add_port(PortSpec(port.bridge, port.name, "patch", {"peer": port.peer}, vlan))


@settings(max_examples=250)
@given(scenarios(), st.lists(st.sampled_from((0, *VLANS)), unique=True, max_size=2))
def test_frames_counters_and_fdb_are_those_of_the_twin(
    engine: Engine, scenario: tuple[list[NaivePort], list[Step]], flood_vlans: list[int]
) -> None:
    ports, steps = scenario
    twin = NaiveSwitch(ports, flood_vlans)
    build(engine, ports, tuple(flood_vlans))
    try:
        for step in steps:
            name = ports[step.port].name
            send(engine, name, step.frames)
            for each in step.frames:
                twin.receive(name, each)
            for port in ports:
                if port.peer is None:
                    assert sent(engine, port.name) == port.sent, port.name
                    port.sent.clear()
        for port in ports:
            wanted = (port.rx_packets, port.rx_bytes, port.tx_packets, port.tx_bytes)
            assert tuple(counters(engine, port.name).values()) == wanted, port.name
            assert drops(engine, port.name) == dict(port.drops), port.name
            for reason in port.drops:
                event(f"dropped: {reason}")
        learned = {(bridge, *key): port for bridge in engine.bridges for key, port in fdb(engine, bridge).items()}
        assert learned == twin.fdb
    finally:
        clear(engine)

"""The running engine: workers that sleep and wake, ports that come and go under traffic, frames handed in and out."""

from __future__ import annotations

import ctypes
import random
import re
import statistics
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from penstock.engine.addresses import add_fdb
from penstock.engine.engine import Engine
from penstock.engine.frames import OUT_NORMAL, OUT_PORT, Out, read_packet_ins, read_records, write_packet_out
from penstock.engine.installing import add_ports
from penstock.engine.open_port import EngineFault
from penstock.engine.warm import warm
from penstock.machine import records
from penstock.memory import RECORD_RING
from penstock.ports.dummy_kernels import DUMMY, SINK_BYTES, SINK_SLOTS
from penstock.ports.spec import BridgeSpec, PortSpec, VlanConfig
from tests.engine.support import (
    add_bridge,
    add_dummy,
    clear,
    counters,
    drops,
    dummy,
    fdb,
    frame,
    mac,
    send,
    sent,
    tagged,
    wait_until,
)

ARENA = 256 << 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Engine]:
    warm(lambda done, total, name: None)
    made = Engine(workers=1, arena_bytes=ARENA)
    yield made
    made.stop()


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    yield shared
    clear(shared)


class TestWorkers:
    def test_at_rest_no_turn_begins(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        worker = engine.workers.all[0]
        wait_until(lambda: worker.row["state"] != 0, "the worker to sleep")
        time.sleep(0.05)
        turns, cpu = worker.turns, time.process_time()
        time.sleep(0.5)
        assert worker.turns - turns <= 3
        assert time.process_time() - cpu < 0.05

    def test_a_sleeping_worker_wakes_for_a_frame(self, engine: Engine) -> None:
        a, _b = add_bridge(engine, "a", "b")
        row = engine.workers.all[0].row
        latencies = []
        for number in range(50):
            wait_until(lambda: row["state"] != 0, "the worker to sleep")
            started = time.perf_counter()
            a.inject([frame(mac(2), mac(1))])
            while counters(engine, "b")["tx_packets"] == number:
                assert time.perf_counter() < started + 1
            latencies.append(time.perf_counter() - started)
        assert statistics.median(latencies) < 0.01
        assert len(sent(engine, "b")) == 50


def vlans_in_sink(engine: Engine, name: str) -> set[int]:
    """The VLANs, as source addresses tell them, of the last frames that a port without ``keep`` sent."""
    sink = int(records(DUMMY, dummy(engine, name).tx[0].ctx)[0]["sink"])
    frames = [ctypes.string_at(sink + slot * SINK_BYTES, 12) for slot in range(SINK_SLOTS)]
    return {each[10] for each in frames}


def test_the_first_frame_of_a_port_goes_to_all_that_are_added_with_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port whose descriptor is readable at once, with others that take their time."""
    engine.add_bridge(BridgeSpec("br0"))
    frames = [frame(b"\xff" * 6, mac(1), number.to_bytes(46, "big")) for number in range(20)]
    wrpcap(str(tmp_path / "in.pcap"), [Ether(each) for each in frames])
    show = engine.publish_members

    def show_late(names: Collection[str]) -> list[int]:
        time.sleep(0.1)
        return show(names)

    monkeypatch.setattr(engine, "publish_members", show_late)
    player = PortSpec("br0", "player", "pcap", {"read": str(tmp_path / "in.pcap"), "rate": 1000})
    assert add_ports(engine, [player, PortSpec("br0", "late", "dummy", {"keep": True})]) == ["", ""]
    wait_until(lambda: counters(engine, "player")["rx_packets"] == len(frames), "all frames")
    assert sent(engine, "late") == frames
    assert drops(engine, "player") == {}


class TestPortsUnderTraffic:
    def test_ports_come_and_go_a_thousand_times(self, engine: Engine) -> None:
        """Ports of three VLANs under replayed traffic: no frame in the wrong VLAN, memory bounded."""
        engine.add_bridge(BridgeSpec("br0"))
        add_dummy(engine, "source", keep=False).replay(
            [
                tagged(frame(destination, mac(vlan << 8 | host)), vlan)
                for vlan in (10, 20, 30)
                for host in range(4)
                for destination in (b"\xff" * 6, mac(vlan << 8 | 7))
            ]
        )
        rng = random.Random(3)
        vlans: dict[str, int] = {}
        used = checked = 0
        for cycle in range(1000):
            name = f"p{rng.randrange(6)}"
            if name not in vlans or rng.random() < 0.5:
                vlan = VlanConfig("access", rng.choice((10, 20, 30)))
                if name in vlans:
                    engine.set_port(PortSpec("br0", name, "dummy", engine.ports[name].spec.options, vlan))
                else:
                    add_dummy(engine, name, vlan, keep=False)
                vlans[name] = vlan.tag or 0
                if cycle % 10 == 0:
                    before = counters(engine, name)["tx_packets"]
                    wait_until(lambda: counters(engine, name)["tx_packets"] > before + 2 * SINK_SLOTS, "traffic")  # noqa: B023
                    assert vlans_in_sink(engine, name) == {vlans[name]}
                    checked += 1
            else:
                engine.remove_port(name)
                del vlans[name]
            if cycle == 100:
                used = engine.arena.used
        assert checked > 20
        assert engine.arena.used <= used + (2 << 20)
        assert set(drops(engine, "source")) <= {"no_destination"}

    def test_the_fdb_forgets_a_removed_port_and_a_changed_vlan(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b", "c")
        for index, name in enumerate("abc"):
            send(engine, name, [frame(mac(77), mac(index)), tagged(frame(mac(77), mac(index)), 5)])
        assert len(fdb(engine, "br0")) == 6
        engine.remove_port("b")
        assert set(fdb(engine, "br0").values()) == {"a", "c"}
        engine.set_port(PortSpec("br0", "c", "dummy", engine.ports["c"].spec.options, VlanConfig("access", 5)))
        assert set(fdb(engine, "br0").values()) == {"a"}
        sent(engine, "a")
        send(engine, "c", [frame(mac(0), mac(2))])
        assert sent(engine, "a") == [tagged(frame(mac(0), mac(2)), 5)]

    def test_a_static_address_goes_with_its_port(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        add_fdb(engine, "br0", "b", 5, "02:00:00:00:00:07")
        assert list(fdb(engine, "br0").values()) == ["b"]
        engine.remove_port("b")
        assert fdb(engine, "br0") == {}
        for operands, text in (
            (("br0", "a", 5000, "02:00:00:00:00:07"), "VLAN 5000 is out of range: 0"),
            (("br0", "a", 5, "02:00"), "mac '02:00' is not a unicast MAC address"),
            (("br0", "x", 5, "02:00:00:00:00:07"), "no port 'x'; there are: a"),
        ):
            with pytest.raises(EngineFault, match=re.escape(text)):
                add_fdb(engine, *operands)

    def test_a_number_is_not_used_again_at_once(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        first = engine.ports["b"].number
        engine.remove_port("b")
        add_dummy(engine, "b")
        assert engine.ports["b"].number != first

    def test_what_cannot_be_is_refused_and_leaves_nothing(self, engine: Engine) -> None:
        add_bridge(engine, "a")
        used = engine.arena.used
        for spec, text in (
            (PortSpec("br0", "a", "dummy"), "port 'a' exists already, on bridge 'br0'"),
            (PortSpec("br9", "x", "dummy"), "no bridge 'br9'; there are: br0"),
            (PortSpec("br0", "x", "wire"), "port 'x': type 'wire' is unknown; known are: "),
            (PortSpec("br0", "x" * 65, "dummy"), "a name has 1 to 64 bytes, not 65"),
            (PortSpec("br0", "x", "dummy", {"speed": 1}), "port 'x': .*speed"),
        ):
            with pytest.raises(EngineFault, match=text):
                engine.add_port(spec)
        for vlan in (VlanConfig("sideways"), VlanConfig("access", 5000)):  # type: ignore[arg-type]
            with pytest.raises((ValueError, IndexError, EngineFault)):
                engine.add_port(PortSpec("br0", "x", "dummy", vlan=vlan))
        assert list(engine.ports) == ["a"]
        assert engine.arena.used <= used + (1 << 20)
        with pytest.raises(EngineFault, match="bridge 'br0' exists already"):
            engine.add_bridge(BridgeSpec("br0"))
        with pytest.raises(EngineFault, match="bridge 'br0' still has ports: a; remove them first"):
            engine.remove_bridge("br0")
        with pytest.raises(EngineFault, match="port 'a': bridge, type and options cannot change"):
            engine.set_port(PortSpec("br0", "a", "patch", {"peer": "b"}))

    def test_resizing_the_fdb_under_traffic(self, engine: Engine) -> None:
        a, _ = add_bridge(engine, "a", "b")
        engine.set_port(PortSpec("br0", "b", "dummy", engine.ports["b"].spec.options))
        a.replay([frame(mac(100 + number), mac(number)) for number in range(64)])
        for size in (16, 1000, 16, 1000, 64) * 10:
            engine.set_bridge(BridgeSpec("br0", mac_table_size=size))
        wait_until(lambda: fdb(engine, "br0"), "addresses to be learned again")
        a.stop_replay()

    def test_a_loop_of_patches_ends(self, engine: Engine) -> None:
        for bridge in ("br0", "br1"):
            engine.add_bridge(BridgeSpec(bridge))
        for bridge, name, peer in (("br0", "p", "q"), ("br1", "q", "p"), ("br0", "r", "s"), ("br1", "s", "r")):
            engine.add_port(PortSpec(bridge, name, "patch", {"peer": peer}))
        add_dummy(engine, "a")
        add_dummy(engine, "b", bridge="br1")
        send(engine, "a", [frame(b"\xff" * 6, mac(number)) for number in range(64)])
        dropped = {reason for name in engine.ports for reason in drops(engine, name)}
        assert dropped & {"patch_loop", "patch_full", "no_buffers"}
        for name in ("r", "s"):
            engine.remove_port(name)
        sent(engine, "b")
        for _ in range(20):
            send(engine, "a", [frame(b"\xff" * 6, mac(1))] * 64)
        assert len(sent(engine, "b")) == 20 * 64

    def test_patches_without_peer_drop_and_say_so(self, engine: Engine) -> None:
        engine.add_bridge(BridgeSpec("br0"))
        add_dummy(engine, "a")
        engine.add_port(PortSpec("br0", "p", "patch", {"peer": "q"}))
        send(engine, "a", [frame(mac(2), mac(1))])
        assert drops(engine, "p") == {"no_peer": 1}
        state = {port.spec.name: port for port in engine.port_states()}["p"]
        assert (state.state, state.error) == ("error", "peer 'q' does not exist")


class TestHandover:
    def test_packet_out_to_a_port_and_to_normal(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b", "c")
        engine.set_port(PortSpec("br0", "b", "dummy", engine.ports["b"].spec.options, VlanConfig("access", 7)))
        ring = engine.workers.packet_out
        numbers = {name: port.number for name, port in engine.ports.items()}
        raw, normal = tagged(frame(mac(2), mac(1)), 3), tagged(frame(mac(2), mac(1)), 7)
        assert write_packet_out(ring, raw, -1, Out(OUT_PORT, numbers["b"]))
        assert write_packet_out(ring, normal, numbers["a"], Out(OUT_NORMAL))
        engine.workers.kick()
        wait_until(lambda: counters(engine, "b")["tx_packets"] == 2, "both frames")
        assert sent(engine, "b") == [raw, frame(mac(2), mac(1))]
        assert sent(engine, "c") == [normal]
        assert fdb(engine, "br0") == {(7, mac(1)): "a"}
        big = frame(mac(2), mac(1), bytes(65535 - 14))
        engine.set_port(PortSpec("br0", "c", "dummy", engine.ports["c"].spec.options, mtu=65535))
        assert write_packet_out(ring, big, -1, Out(OUT_PORT, numbers["c"]))
        engine.workers.kick()
        wait_until(lambda: counters(engine, "c")["tx_packets"] == 2, "the large frame")
        assert sent(engine, "c") == [big]

    def test_packet_out_to_ports_that_are_gone(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        number = engine.ports["b"].number
        engine.remove_port("b")
        for source, out in ((-1, Out(OUT_PORT, number)), (number, Out(OUT_NORMAL))):
            assert write_packet_out(engine.workers.packet_out, frame(mac(2), mac(1)), source, out)
        engine.workers.kick()
        ring = records(RECORD_RING, engine.workers.packet_out)[0]
        wait_until(lambda: ring["head"] == ring["tail"], "the frames to be taken")
        assert fdb(engine, "br0") == {}
        assert sent(engine, "a") == []

    def test_reserved_addresses_are_punted_when_asked_for(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        ring = int(engine.workers.all[0].row["packet_in"])
        hello = frame(bytes.fromhex("0180c200000e"), mac(1), bytes(range(200)) * 5)
        send(engine, "a", [hello])
        assert list(read_packet_ins(ring)) == []
        engine.set_punt(True)
        send(engine, "a", [hello, tagged(hello, 9)])
        engine.set_punt(False)
        assert [(each.port, each.data) for each in read_packet_ins(ring)] == [
            (engine.ports["a"].number, hello),
            (engine.ports["a"].number, tagged(hello, 9)),
        ]
        assert drops(engine, "a") == {"reserved_multicast": 3}

    def test_captures_hold_what_passed_and_count_what_they_lost(self, engine: Engine) -> None:
        add_bridge(engine, "a", "b")
        engine.set_port(PortSpec("br0", "b", "dummy", engine.ports["b"].spec.options, VlanConfig("access", 7)))
        ring = int(engine.workers.all[0].row["captures"])
        number = {name: port.number for name, port in engine.ports.items()}
        data = [tagged(frame(mac(2), mac(1), bytes([size & 255]) * size), 7) for size in (46, 300, 1400)]
        engine.set_capture("a", 65535)
        engine.set_capture("b", 100)
        before = time.time_ns()
        send(engine, "a", data)
        found = list(read_records(ring))
        assert [(each.port, each.kind, each.data) for each in found if each.port == number["a"]] == [
            (number["a"], 0, each) for each in data
        ]
        plain = [each[:12] + each[16:] for each in data]
        assert [(each.kind, each.wire_length, each.data) for each in found if each.port == number["b"]] == [
            (1, len(each), each[:100]) for each in plain
        ]
        assert all(before - 10**9 <= each.time_ns <= time.time_ns() + 10**9 for each in found)
        sent(engine, "b")
        for _ in range(2):
            send(engine, "a", [data[2]] * 3000)
            sent(engine, "b")
        lost = int(records(RECORD_RING, ring)[0]["lost"])
        kept = sum(1 for _ in range(4) for _ in read_records(ring))
        assert lost > 0
        assert kept + lost == 2 * 2 * 3000
        engine.set_capture("a", 0)
        engine.set_capture("b", 0)
        send(engine, "a", data)
        assert list(read_records(ring)) == []

"""Hosts on TAP, veth and internal ports reach each other inside a VLAN and nobody outside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.demo.echo import ping
from tests.system.frames import Wire, frame, payload_of
from tests.system.lab import Lab, unanswered

CONFIG = """
[bridge.br0]
[bridge.br0.port.red1]
type = "tap"
tag = 10
[bridge.br0.port.red2]
type = "packet"
netdev = "red2"
tag = 10
[bridge.br0.port.red3]
type = "packet"
netdev = "red3"
tag = 10
[bridge.br0.port.host0]
type = "internal"
tag = 10
[bridge.br0.port.blue1]
type = "tap"
tag = 20
[bridge.br0.port.blue2]
type = "packet"
netdev = "blue2"
tag = 20
"""
ADDRESSES = {
    "red1": ("10.0.0.1", "fd00::1"),
    "red2": ("10.0.0.2", "fd00::2"),
    "red3": ("10.0.0.3", "fd00::3"),
    "host0": ("10.0.0.4", "fd00::4"),
    "blue1": ("10.0.0.11", "fd00::11"),
    "blue2": ("10.0.0.12", "fd00::12"),
}


def with_prefixes(name: str) -> tuple[str, str]:
    v4, v6 = ADDRESSES[name]
    return f"{v4}/24", f"{v6}/64"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("reachability")) as lab:
        for name in ("red2", "red3", "blue2"):
            lab.veth(name, *with_prefixes(name))
        lab.start(CONFIG)
        for name in ("red1", "blue1"):
            lab.plug(name, *with_prefixes(name))
        lab.site.assign("host0", *with_prefixes("host0"))
        lab.hosts["host0"] = lab.site
        yield lab
        del lab.hosts["host0"]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("red1", "red2"),
        ("red2", "red1"),
        ("red2", "red3"),
        ("red1", "host0"),
        ("host0", "red3"),
        ("blue1", "blue2"),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_hosts_of_one_vlan_reach_each_other(lab: Lab, source: str, target: str, version: int) -> None:
    address = ADDRESSES[target][0 if version == 4 else 1]
    assert ping(lab.hosts[source], address).received == 3


@pytest.mark.needs("ping")
def test_the_systems_own_ping_agrees(lab: Lab) -> None:
    done = lab.hosts["red1"].run("ping", "-c", "3", "-i", "0.1", "10.0.0.2")
    assert "3 received" in done.stdout
    done = lab.hosts["red1"].run("ping", "-c", "3", "-i", "0.1", "fd00::2")
    assert "3 received" in done.stdout


@pytest.mark.parametrize(("source", "target"), [("red1", "blue1"), ("red2", "blue2"), ("blue1", "host0")])
def test_hosts_of_different_vlans_do_not(lab: Lab, source: str, target: str) -> None:
    for address in ADDRESSES[target]:
        assert unanswered(lab.hosts[source], address, timeout=0.5)


def test_a_broadcast_stays_in_its_vlan(lab: Lab) -> None:
    names = ("red2", "red3", "blue1", "blue2")
    wires = {name: Wire(lab.hosts[name]) for name in names}
    with Wire(lab.hosts["red1"]) as wire:
        wire.send(frame("02:00:00:00:00:01", payload=b"for all"))
    heard = {name for name, wire in wires.items() if [payload_of(each) for each in wire.received()] == [b"for all"]}
    for opened in wires.values():
        opened.__exit__(None, None, None)
    assert heard == {"red2", "red3"}


def test_the_fdb_tells_where_each_host_is(lab: Lab) -> None:
    ping(lab.hosts["red1"], "10.0.0.2")
    ping(lab.hosts["blue1"], "10.0.0.12")
    fdb = lab.fdb()
    for name, vlan in (("red1", 10), ("red2", 10), ("blue1", 20), ("blue2", 20)):
        assert fdb[lab.hosts[name].mac("eth0"), vlan] == name


def test_counters_are_exact(lab: Lab) -> None:
    ping(lab.hosts["red1"], "10.0.0.2")
    source, target = lab.hosts["red1"].mac("eth0"), lab.hosts["red2"].mac("eth0")
    before = {name: lab.counters(name) for name in ("red1", "red2", "blue1")}
    with Wire(lab.hosts["red1"]) as wire, Wire(lab.hosts["red2"]) as other:
        wire.send(*[frame(source, target, b"%d" % number, vlan=None) for number in range(500)])
        assert len(other.received()) == 500
    after = {name: lab.counters(name) for name in ("red1", "red2", "blue1")}
    grown = {name: {key: after[name][key] - before[name][key] for key in before[name]} for name in before}
    # A host's own chatter (neighbour discovery) may add a few frames, but never take one away.
    assert 500 <= grown["red1"]["rx_packets"] < 510
    assert 500 <= grown["red2"]["tx_packets"] < 510
    assert grown["red1"]["rx_bytes"] >= 500 * 60
    assert grown["blue1"]["tx_packets"] < 10
    assert grown["red2"]["tx_dropped"] == 0


def test_link_local_groups_are_not_forwarded(lab: Lab) -> None:
    before = lab.drops("red1").get("reserved_multicast", 0)
    with Wire(lab.hosts["red1"]) as wire, Wire(lab.hosts["red2"]) as other:
        wire.send(frame("02:00:00:00:00:01", "01:80:c2:00:00:00", b"spanning tree"))
        assert other.received() == []
    assert lab.drops("red1")["reserved_multicast"] == before + 1

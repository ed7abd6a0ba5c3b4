"""Reloading the configuration changes what differs, and only that."""

from __future__ import annotations

import time

import pytest

from penstock.demo import traffic
from penstock.demo.echo import ping
from tests.system.frames import Wire, frame
from tests.system.lab import Lab, eventually, unanswered

BASE = """
[bridge.br0]
[bridge.br0.port.vm1]
type = "tap"
tag = 10
[bridge.br0.port.vm2]
type = "tap"
tag = 10
"""
THIRD = """
[bridge.br0.port.vm3]
type = "tap"
tag = 20
"""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.start(BASE)
    lab.plug("vm1", "10.0.0.1/24")
    lab.plug("vm2", "10.0.0.2/24")
    return lab


def test_reloading_the_same_file_changes_nothing(lab: Lab) -> None:
    assert lab.reload() == "nothing to change\n"


def test_traffic_and_counters_of_other_ports_go_on(lab: Lab) -> None:
    ping(lab.hosts["vm1"], "10.0.0.2")
    macs = {(lab.hosts[name].mac("eth0"), 10): name for name in ("vm1", "vm2")}
    before, numbers = lab.counters("vm1"), (lab.state("vm1")["number"], lab.state("vm2")["number"])
    receiving = traffic.receiver(lab.hosts["vm2"], "udp", 5001)
    sending = traffic.sender(lab.hosts["vm1"], "udp", "10.0.0.2", 5001, "--rate", "2000", "--seconds", "3")
    time.sleep(0.3)
    assert "vm3" in lab.reload(BASE + THIRD)
    lab.plug("vm3", "10.0.0.3/24")
    assert unanswered(lab.hosts["vm1"], "10.0.0.3", timeout=0.5)
    assert "vm3" in lab.reload(BASE + THIRD.replace("20", "10"))
    assert ping(lab.hosts["vm1"], "10.0.0.3").received == 3
    assert "vm3" in lab.reload(BASE)
    eventually("the TAP of a removed port is gone", lambda: lab.hosts["vm3"].links().keys() == {"lo"})
    sent, received = traffic.result(sending), traffic.result(receiving)
    assert received["received"] == sent["sent"]
    assert macs.items() <= lab.fdb().items()
    assert lab.counters("vm1")["rx_packets"] >= before["rx_packets"] + sent["sent"]
    assert (lab.state("vm1")["number"], lab.state("vm2")["number"]) == numbers


def test_a_running_tcp_stream_does_not_notice(lab: Lab) -> None:
    receiving = traffic.receiver(lab.hosts["vm2"], "tcp", 5001, "--hash")
    sending = traffic.sender(lab.hosts["vm1"], "tcp", "10.0.0.2", 5001, "--hash", "--seconds", "2")
    for config in (BASE + THIRD, BASE, BASE + THIRD, BASE):
        time.sleep(0.2)
        lab.reload(config)
    sent, received = traffic.result(sending), traffic.result(receiving)
    assert sent["sha256"] == received["sha256"]


def test_vlan_and_mtu_change_in_place(lab: Lab) -> None:
    number = lab.state("vm2")["number"]
    ping(lab.hosts["vm1"], "10.0.0.2")
    lab.reload(
        BASE.replace("[bridge.br0.port.vm2]", "[bridge.br0.port.vm2]\nmtu = 2000").replace("tag = 10", "tag = 30")
    )
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3
    assert lab.state("vm2")["number"] == number
    assert lab.state("vm2")["mtu"] == 2000
    assert lab.state("vm2")["vlan"]["tag"] == 30
    assert {vlan for _mac, vlan in lab.fdb()} == {30}, "addresses learned in the old VLAN are forgotten"
    lab.reload(BASE)
    assert lab.state("vm2")["mtu"] == 1500, "an MTU that is no longer asked for is the kernel's default again"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BASE + "colour = 3\n", "colour"),
        (BASE + THIRD.replace("20", "5000"), "5000"),
        (BASE.replace("type", "typ", 1), "typ"),
        (BASE + "[[[", "TOML"),
        (BASE + THIRD.replace('"tap"', '"tape"'), "tape"),
    ],
)
def test_a_bad_file_changes_nothing(lab: Lab, text: str, named: str) -> None:
    ping(lab.hosts["vm1"], "10.0.0.2")
    ports, fdb = lab.switch.query("ports"), lab.fdb()
    lab.switch.config.write_text(text)
    done = lab.switch.command("reload")
    assert done.returncode == 1
    assert named in done.stderr
    assert str(lab.switch.config) in done.stderr
    assert "nothing was changed" in done.stderr
    assert lab.switch.query("ports") == ports
    assert fdb.items() <= lab.fdb().items()
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3


def test_removing_a_port_while_traffic_flows_disturbs_nobody_else(lab: Lab) -> None:
    lab.reload(BASE + THIRD.replace("20", "10"))
    lab.plug("vm3", "10.0.0.3/24")
    ping(lab.hosts["vm3"], "10.0.0.1")
    receiving = traffic.receiver(lab.hosts["vm2"], "udp", 5001)
    sending = traffic.sender(lab.hosts["vm1"], "udp", "10.0.0.2", 5001, "--rate", "2000", "--seconds", "2")
    doomed = traffic.receiver(lab.hosts["vm1"], "tcp", 5002)
    stream = traffic.sender(lab.hosts["vm3"], "tcp", "10.0.0.1", 5002, "--seconds", "2")
    time.sleep(0.7)
    lab.reload(BASE)
    for process in (doomed, stream):
        process.kill()
    sent, received = traffic.result(sending), traffic.result(receiving)
    assert received["received"] == sent["sent"]
    assert "vm3" not in lab.fdb().values()
    with Wire(lab.hosts["vm1"]) as wire:
        wire.send(frame(lab.hosts["vm1"].mac("eth0"), payload=b"still here"))
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3

"""What is particular to a kind of port: internal, patch, pcap, several queues and workers, an existing TAP."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap, wrpcap, wrpcapng

from penstock.demo import traffic
from penstock.demo.echo import ping
from tests.system.frames import TEST_TYPE, Wire, frame, payload_of
from tests.system.lab import Lab, eventually, unanswered


def test_patch_ports_join_two_bridges(lab: Lab) -> None:
    lab.start(
        """
        [bridge.left.port.vm1]
        type = "tap"
        tag = 10
        [bridge.left.port.to-right]
        type = "patch"
        peer = "to-left"
        [bridge.right.port.to-left]
        type = "patch"
        peer = "to-right"
        [bridge.right.port.vm2]
        type = "tap"
        tag = 10
        [bridge.right.port.vm3]
        type = "tap"
        tag = 20
        """
    )
    for position, name in enumerate(("vm1", "vm2", "vm3"), 1):
        lab.plug(name, f"10.0.0.{position}/24")
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3
    assert unanswered(lab.hosts["vm1"], "10.0.0.3", timeout=0.5)
    fdb = lab.fdb("left")
    assert fdb[lab.hosts["vm2"].mac("eth0"), 10] == "to-right"
    assert lab.fdb("right")[lab.hosts["vm1"].mac("eth0"), 10] == "to-left"
    receiving = traffic.receiver(lab.hosts["vm2"], "tcp", 5001, "--hash")
    sending = traffic.sender(lab.hosts["vm1"], "tcp", "10.0.0.2", 5001, "--hash", "--bytes", "50000000")
    assert traffic.result(sending)["sha256"] == traffic.result(receiving)["sha256"]
    counters = lab.counters("to-right")
    assert counters["tx_packets"] > 0
    assert counters["rx_packets"] > 0


def test_a_loop_of_patch_ports_is_cut(lab: Lab) -> None:
    lab.veth("one")
    ports = "\n".join(
        f'[bridge.{bridge}.port.{bridge}{number}]\ntype = "patch"\npeer = "{other}{number}"'
        for bridge, other in (("a", "b"), ("b", "a"))
        for number in (1, 2)
    )
    lab.start(f'{ports}\n[bridge.a.port.one]\ntype = "packet"\nnetdev = "one"')
    with Wire(lab.hosts["one"]) as wire:
        wire.send(frame("02:00:00:00:00:01", payload=b"round and round"))
    eventually("the loop is noticed", lambda: any("patch" in row["reason"] for row in lab.switch.query("drops")))
    assert lab.switch.command("show").returncode == 0


def test_pcap_ports_replay_and_record(lab: Lab, tmp_path: Path) -> None:
    source, target = tmp_path / "in.pcapng", tmp_path / "out.pcap"
    sent = [Ether(frame("02:00:00:00:00:01", payload=b"frame %d" % number)) for number in range(300)]
    wrpcapng(str(source), sent)
    lab.veth("one")
    lab.start(
        f"""
        [bridge.br0.port.recorder]
        type = "pcap"
        write = "{target}"
        [bridge.br0.port.one]
        type = "packet"
        netdev = "one"
        [bridge.br0.port.player]  # last, as it plays at once
        type = "pcap"
        read = "{source}"
        rate = 1000
        """
    )
    eventually("all frames are recorded", lambda: len(played(target)) == 300)
    assert played(target) == [bytes(each) for each in sent]
    assert lab.counters("player")["rx_packets"] == 300
    assert lab.counters("one")["tx_packets"] == 300


def played(file: Path) -> list[bytes]:
    """The frames of the test type in a capture file."""
    return [bytes(each) for each in rdpcap(str(file)) if each.type == TEST_TYPE]


def test_a_pcap_port_loops(lab: Lab, tmp_path: Path) -> None:
    source = tmp_path / "in.pcap"
    wrpcap(str(source), [Ether(frame("02:00:00:00:00:01", payload=b"again"))])
    lab.veth("one")
    lab.start(
        f"""
        [bridge.br0.port.player]
        type = "pcap"
        read = "{source}"
        rate = 200
        loop = true
        [bridge.br0.port.one]
        type = "packet"
        netdev = "one"
        """
    )
    with Wire(lab.hosts["one"]) as wire:
        heard = [payload_of(each) for each in wire.received(1.0)]
    assert 120 <= heard.count(b"again") <= 260


@pytest.mark.needs("ip")
def test_an_existing_tap_is_attached_and_stays(lab: Lab) -> None:
    lab.site.run("ip", "tuntap", "add", "dev", "mine", "mode", "tap")
    lab.start('[bridge.br0.port.vm1]\ntype = "tap"\ndevice = "mine"\n[bridge.br0.port.host0]\ntype = "internal"')
    lab.site.assign("mine", "10.0.0.1/24")
    peer = lab.host("peer")
    peer.take("host0", lab.site, "eth0")
    peer.assign("eth0", "10.0.0.2/24")
    assert ping(peer, "10.0.0.1").received == 3
    lab.switch.stop()
    assert "mine" in lab.site.links(), "it was not ours to delete"
    assert "eth0" not in peer.links(), "what the switch made goes with it"


@pytest.mark.parametrize("workers", [2])
def test_several_workers_share_the_queues(lab: Lab, workers: int) -> None:
    lab.veth("veth1", "10.0.0.3/24")
    lab.start(
        """
        [bridge.br0.port.vm1]
        type = "tap"
        queues = 2
        [bridge.br0.port.vm2]
        type = "tap"
        queues = 2
        [bridge.br0.port.veth1]
        type = "packet"
        netdev = "veth1"
        queues = 2
        """,
        "--workers",
        str(workers),
    )
    lab.plug("vm1", "10.0.0.1/24")
    lab.plug("vm2", "10.0.0.2/24")
    for target in ("vm2", "veth1"):
        address = {"vm2": "10.0.0.2", "veth1": "10.0.0.3"}[target]
        receiving = [traffic.receiver(lab.hosts[target], "tcp", 5001 + each, "--hash") for each in range(4)]
        sending = [
            traffic.sender(lab.hosts["vm1"], "tcp", address, 5001 + each, "--hash", "--bytes", "20000000")
            for each in range(4)
        ]
        assert [traffic.result(each)["sha256"] for each in sending] == [
            traffic.result(each)["sha256"] for each in receiving
        ]
    loads = lab.switch.query("top")["workers"]
    assert len(loads) == workers

"""Large frames and TCP's offloads through every pair of port kinds, and the MTU."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from penstock.demo import traffic
from tests.system.lab import Lab, eventually

CONFIG = """
[bridge.br0]
[bridge.br0.port.tap1]
type = "tap"
[bridge.br0.port.tap2]
type = "tap"
queues = 2
[bridge.br0.port.veth1]
type = "packet"
netdev = "veth1"
[bridge.br0.port.veth2]
type = "packet"
netdev = "veth2"
[bridge.br0.port.plain]
type = "packet"
netdev = "plain"
[bridge.br0.port.file]
type = "pcap"
write = "{file}"
[bridge.br0.port.jumbo1]
type = "tap"
mtu = 9000
tag = 90
[bridge.br0.port.jumbo2]
type = "packet"
netdev = "jumbo2"
tag = 90
[bridge.br0.port.narrow]
type = "tap"
tag = 90
"""
ADDRESSES = {
    "tap1": ("10.0.0.1", "fd00::1"),
    "tap2": ("10.0.0.2", "fd00::2"),
    "veth1": ("10.0.0.3", "fd00::3"),
    "veth2": ("10.0.0.4", "fd00::4"),
    "plain": ("10.0.0.5", "fd00::5"),
    "jumbo1": ("10.0.9.1", "fd09::1"),
    "jumbo2": ("10.0.9.2", "fd09::2"),
    "narrow": ("10.0.9.3", "fd09::3"),
}
MEGABYTES = 200


@pytest.fixture(scope="module")
def capture_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("capture") / "flooded.pcap"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, capture_file: Path) -> Iterator[Lab]:
    def with_prefixes(name: str) -> list[str]:
        v4, v6 = ADDRESSES[name]
        return [f"{v4}/24", f"{v6}/64"]

    with Lab(tmp_path_factory.mktemp("offloads")) as lab:
        for name in ("veth1", "veth2", "plain"):
            lab.veth(name, *with_prefixes(name))
        lab.veth("jumbo2", *with_prefixes("jumbo2"), mtu=9000)
        lab.start(CONFIG.format(file=capture_file))
        for name in ("tap1", "tap2", "jumbo1", "narrow"):
            lab.plug(name, *with_prefixes(name))
        yield lab


def transfer(lab: Lab, source: str, target: str, version: int, megabytes: int) -> float:
    """A TCP stream whose content must come through as it was sent; its rate in Gb/s, hashing at both ends included."""
    address = ADDRESSES[target][0 if version == 4 else 1]
    receiving = traffic.receiver(lab.hosts[target], "tcp", 5001, "--hash")
    sending = traffic.sender(lab.hosts[source], "tcp", address, 5001, "--hash", "--bytes", str(megabytes * 1_000_000))
    sent, received = traffic.result(sending), traffic.result(receiving)
    assert received["bytes"] == sent["bytes"] == megabytes * 1_000_000
    assert received["sha256"] == sent["sha256"]
    return float(received["bytes"] * 8 / received["seconds"] / 1e9)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "target"),
    [("tap1", "tap2"), ("tap1", "veth1"), ("veth1", "tap1"), ("veth1", "veth2"), ("tap2", "veth2"), ("veth2", "tap2")],
)
def test_tcp_passes_whole_in_large_segments(lab: Lab, source: str, target: str, version: int) -> None:
    before = lab.counters(source), lab.counters(target)
    transfer(lab, source, target, version, MEGABYTES)
    after = lab.counters(source), lab.counters(target)
    received = after[0]["rx_bytes"] - before[0]["rx_bytes"], after[0]["rx_packets"] - before[0]["rx_packets"]
    sent = after[1]["tx_bytes"] - before[1]["tx_bytes"], after[1]["tx_packets"] - before[1]["tx_packets"]
    assert received[0] / received[1] > 10_000, "segments come in whole"
    assert sent[0] / sent[1] > 10_000, "segments leave whole"


@pytest.mark.needs("ethtool")
@pytest.mark.parametrize("direction", ["from", "to"])
def test_a_host_without_offloads_takes_part(lab: Lab, direction: str) -> None:
    lab.hosts["plain"].run("ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off")
    ends = ("plain", "tap1") if direction == "from" else ("tap1", "plain")
    transfer(lab, *ends, version=4, megabytes=20)


@pytest.mark.needs("iperf3")
def test_iperf3_runs_both_ways_at_once(lab: Lab) -> None:
    server = lab.hosts["veth1"].start("iperf3", "--server", "--one-off", "--forceflush")
    assert server.stdout is not None
    while "listening" not in server.stdout.readline():
        continue
    done = lab.hosts["tap1"].run(
        "iperf3", "--client", ADDRESSES["veth1"][0], "--time", "2", "--bidir", "--parallel", "4", timeout=20
    )
    assert "receiver" in done.stdout
    server.wait(10)


def test_software_segments_udp_for_ports_that_cannot(lab: Lab, capture_file: Path) -> None:
    """One UDP send of ten segments, flooded (nobody has the address), must lie in the file as ten whole datagrams."""
    host = lab.hosts["tap1"]
    host.netlink.neigh(
        "replace",
        index=host.index("eth0"),
        dst="10.0.0.99",
        lladdr="02:00:00:00:00:99",
        state=0x80,
        family=socket.AF_INET,
    )
    payload = b"".join(struct.pack("!H", number) * 600 for number in range(10))
    with host.entered():
        endpoint = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with endpoint:
        endpoint.setsockopt(socket.SOL_UDP, 103, 1200)  # UDP_SEGMENT
        endpoint.sendto(payload, ("10.0.0.99", 9))

    def found() -> list[Ether]:
        return [each for each in rdpcap(str(capture_file)) if IP in each and each[IP].dst == "10.0.0.99"]

    eventually("the datagrams are in the file", lambda: capture_file.exists() and len(found()) == 10)
    assert b"".join(bytes(each[UDP].payload) for each in found()) == payload
    for each in found():
        again = Ether(bytes(each))
        del again[IP].chksum, again[UDP].chksum
        assert bytes(Ether(bytes(again))) == bytes(each), "lengths and checksums are right"


@pytest.mark.needs("ping")
def test_jumbo_frames_pass_between_jumbo_ports(lab: Lab) -> None:
    done = lab.hosts["jumbo1"].run("ping", "-M", "do", "-s", "8972", "-c", "2", "-i", "0.1", "10.0.9.2")
    assert "2 received" in done.stdout
    transfer(lab, "jumbo1", "jumbo2", version=4, megabytes=20)


@pytest.mark.needs("ping")
def test_frames_beyond_a_ports_mtu_are_dropped_and_counted(lab: Lab) -> None:
    lab.hosts["jumbo1"].run("ping", "-c", "1", "10.0.9.3")
    before = lab.drops("narrow").get("mtu_exceeded", 0)
    done = lab.hosts["jumbo1"].run(
        "ping", "-M", "do", "-s", "8972", "-c", "2", "-i", "0.1", "-W", "1", "10.0.9.3", check=False
    )
    assert "0 received" in done.stdout
    assert lab.drops("narrow")["mtu_exceeded"] == before + 2

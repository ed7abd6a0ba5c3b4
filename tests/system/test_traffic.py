"""Generated traffic through a running switch: exact counts, loss and reordering made on purpose, an answering host."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import rdpcap, wrpcap

from penstock.demo.echo import ping
from penstock.demo.hosts import cable
from penstock.demo.launch import PENSTOCK
from tests.system.lab import Lab, unanswered

TWO = """
[bridge.br0.port.one]
type = "packet"
netdev = "one"
ring = 4096
[bridge.br0.port.two]
type = "packet"
netdev = "two"
"""
GUESTS = """
[bridge.br0.port.vm1]
type = "vhost-user"
path = "{vm1}"
[bridge.br0.port.vm2]
type = "vhost-user"
path = "{vm2}"
"""
ANSWERING = """
[bridge.br0.port.two]
type = "packet"
netdev = "two"
[bridge.br0.port.vm1]
type = "tap"
"""
BY_TWO = ("--port", "packet:netdev=one", "--rx", "packet:netdev=two,ring=4096")


def penstock(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in the host named tester."""
    return lab.host("tester").run(*PENSTOCK, *arguments, check=False, timeout=60)


def asked(lab: Lab, *arguments: str) -> Any:
    done = penstock(lab, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def two(lab: Lab) -> Lab:
    """A switch with two cables to the same host."""
    for name in ("one", "two"):
        cable(lab.site, name, lab.host("tester"), name)
    lab.start(TWO)
    return lab


@pytest.mark.parametrize(
    "stream",
    [
        ("--size", "imix", "--src-port", "1000-1099", "--src-mac", "02:00:00:00:00:01-02:00:00:00:00:64"),
        ("--size", "100", "--vlan", "10-19", "--src-ip", "fd00::1", "--dst-ip", "fd00::2"),
        ("--size", "30000", "--protocol", "tcp", "--gso-size", "1448"),
    ],
    ids=["imix", "ipv6-vlans", "tso"],
)
def test_every_frame_arrives_once_and_in_order(two: Lab, stream: tuple[str, ...]) -> None:
    count = 3000
    found = asked(two, "generate", *BY_TWO, "--rate", "3000", "--count", str(count), *stream, "--expect-no-loss")
    sent, received = found["sent"], found["received"]
    assert (sent["frames"], found["lost"]) == (count, 0)
    assert (received["stamped"], received["unique"]) == (count, count)
    assert (received["duplicates"], received["reordered"], received["late"]) == (0, 0, 0)
    assert received["latency"]["count"] == count
    assert 0 < received["latency"]["min"] <= received["latency"]["median"] <= received["latency"]["p99"]
    assert two.counters("one")["rx_packets"] >= count
    assert two.counters("two")["tx_packets"] >= count


def test_loss_made_on_purpose_is_counted_exactly(two: Lab) -> None:
    """VLAN 11 of two goes nowhere: half of the flows are lost, which no receiver could tell by their numbers."""
    two.reload(TWO + "trunks = [10]\n")
    done = penstock(
        two, "generate", *BY_TWO, "--rate", "2000", "--count", "1001", "--vlan", "10-11", "--size", "100",
        "--expect-no-loss", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["sent"]["frames"], found["received"]["unique"], found["lost"]) == (1001, 501, 500)


def test_replayed_captures_with_loss_repetition_and_reordering(two: Lab, tmp_path: Path) -> None:
    whole, changed = tmp_path / "whole.pcap", tmp_path / "changed.pcap"
    done = penstock(two, "generate", "--port", f"pcap:write={whole}", "--count", "1000", "--size", "64,512")
    assert done.returncode == 0, done.stderr
    frames = rdpcap(str(whole))
    assert len(frames) == 1000
    order = list(range(1000))
    order[100], order[101] = order[101], order[100]
    order[500], order[503] = order[503], order[500]  # 500, 501 and 502 come after 503
    order[700:700] = [650, 650]
    del order[900:907]
    wrpcap(str(changed), [frames[number] for number in order])
    receiving = two.host("tester").start(
        *PENSTOCK, "receive", "--port", "packet:netdev=two,ring=4096", "--seconds", "20", "--count",
        str(len(order)), "--json", stderr=subprocess.PIPE,
    )  # fmt: skip
    assert receiving.stderr
    assert receiving.stderr.readline().startswith("receiving by packet")
    done = penstock(two, "generate", "--port", "packet:netdev=one", "--pcap", str(changed), "--rate", "2000")
    assert done.returncode == 0, done.stderr
    output, _ = receiving.communicate(timeout=30)
    found = json.loads(output)["received"]
    assert found["stamped"] == len(order)
    assert (found["expected"], found["unique"]) == (1000, 993)
    assert (found["duplicates"], found["reordered"]) == (2, 4)
    assert json.loads(output)["lost"] == 7


def test_a_reflecting_receiver_gives_round_trips(two: Lab) -> None:
    reflecting = two.host("tester").start(
        *PENSTOCK, "receive", "--port", "packet:netdev=two,ring=4096", "--reflect", "--json", stderr=subprocess.PIPE
    )
    assert reflecting.stderr
    assert reflecting.stderr.readline().startswith("receiving by packet")
    found = asked(
        two, "generate", "--port", "packet:netdev=one,ring=4096", "--loopback", "--rate", "1000", "--count", "500"
    )
    assert (found["sent"]["frames"], found["received"]["unique"], found["lost"]) == (500, 500, 0)
    reflecting.send_signal(signal.SIGTERM)
    output, _ = reflecting.communicate(timeout=20)
    assert reflecting.returncode == 0
    assert json.loads(output)["received"]["replied"] >= 500


def test_a_receiver_answers_ping_at_little_cost(lab: Lab, measured: Any) -> None:
    cable(lab.site, "two", lab.host("tester"), "two")
    lab.start(ANSWERING)
    host = lab.plug("vm1", "10.0.0.1/24")
    answering = lab.host("tester").start(
        *PENSTOCK, "receive", "--port", "packet:netdev=two", "--answer", "10.0.0.2/24", "--json", stderr=subprocess.PIPE
    )
    assert answering.stderr
    assert answering.stderr.readline().startswith("receiving by packet")
    assert ping(host, "10.0.0.2").received == 3
    assert unanswered(host, "10.0.0.3", timeout=0.3)
    before = cpu_seconds(answering.pid)
    assert ping(host, "10.0.0.2", count=1).received == 1
    host.run("sleep", "2")
    spent = (cpu_seconds(answering.pid) - before) / 2
    measured(f"an answering guest at rest takes {100 * spent:.1f} % of a core")
    assert spent < 0.2
    answering.send_signal(signal.SIGINT)
    output, _ = answering.communicate(timeout=20)
    assert json.loads(output)["received"]["replied"] >= 5


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_throughput_search(two: Lab) -> None:
    found = asked(
        two, "generate", *BY_TWO, "--rfc2544", "--size", "64,1518", "--trial-seconds", "0.2", "--resolution", "0.3",
        "--max-rate", "20000", "--tolerance", "0.2",
    )  # fmt: skip
    assert [each["size"] for each in found] == [64, 1518]
    for each in found:
        assert 0 < each["frames_per_second"] <= 20_000
        assert each["trials"] >= 1
        assert each["bits_per_second"] == pytest.approx(each["frames_per_second"] * 8 * each["size"])


@pytest.mark.parametrize("rings", [",ring=4096", ",ring=4096,packed=true"], ids=["split", "packed"])
@pytest.mark.parametrize(
    "stream",
    [("--size", "64,1518", "--flows", "10"), ("--size", "60000", "--protocol", "tcp", "--gso-size", "1448")],
    ids=["small", "tso"],
)
def test_from_guest_to_guest(lab: Lab, tmp_path: Path, rings: str, stream: tuple[str, ...]) -> None:
    vm1, vm2 = tmp_path / "vm1", tmp_path / "vm2"
    lab.start(GUESTS.format(vm1=vm1, vm2=vm2))
    ends = ("--port", f"virtio-user:path={vm1}{rings}", "--rx", f"virtio-user:path={vm2},mac=02:00:00:00:02:00{rings}")
    found = asked(lab, "generate", *ends, "--rate", "1000", "--count", "1000", *stream, "--expect-no-loss")
    assert (found["sent"]["frames"], found["received"]["unique"], found["received"]["reordered"]) == (1000, 1000, 0)
    assert lab.counters("vm1")["rx_bytes"] == found["sent"]["octets"]
    assert lab.counters("vm2")["tx_packets"] == 1000, "large segments went through whole"


def test_a_port_that_breaks_ends_the_run(lab: Lab) -> None:
    cable(lab.site, "one", lab.host("tester"), "one")
    receiving = lab.host("tester").start(*PENSTOCK, "receive", "--port", "packet:netdev=one", stderr=subprocess.PIPE)
    assert receiving.stderr
    assert receiving.stderr.readline().startswith("receiving by packet")
    lab.site.delete("one")
    _output, said = receiving.communicate(timeout=10)
    assert receiving.returncode == 1
    assert "penstock: port 'rx' broke:" in said
    done = penstock(lab, "generate", "--port", "packet:netdev=none")
    assert done.returncode == 1
    assert done.stderr.startswith("penstock: port 'tx': ")

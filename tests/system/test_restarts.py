"""Processes killed with SIGKILL under traffic, start-up time, and the load of a switch at rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.demo import traffic
from penstock.demo.echo import ping
from tests.system.lab import Lab, eventually

CONFIG = """
[bridge.br0]
[bridge.br0.port.vm1]
type = "tap"
tag = 10
[bridge.br0.port.vm2]
type = "tap"
tag = 10
[bridge.br0.port.eth1]
type = "packet"
netdev = "eth1"
tag = 10
"""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.veth("eth1", "10.0.0.3/24")
    lab.start(CONFIG)
    lab.plug("vm1", "10.0.0.1/24")
    lab.plug("vm2", "10.0.0.2/24")
    ping(lab.hosts["vm1"], "10.0.0.2")
    ping(lab.hosts["vm1"], "10.0.0.3")
    return lab


def test_control_killed_under_load_loses_nothing(lab: Lab) -> None:
    before, fdb, engine = lab.counters("vm1"), lab.fdb(), lab.switch.status()["engine"]["pid"]
    receiving = [traffic.receiver(lab.hosts[name], "udp", 5001) for name in ("vm2", "eth1")]
    sending = [
        traffic.sender(lab.hosts["vm1"], "udp", address, 5001, "--rate", "5000", "--seconds", "4")
        for address in ("10.0.0.2", "10.0.0.3")
    ]
    for _ in range(2):
        time.sleep(0.6)
        killed = lab.switch.kill("control")
        lab.switch.await_return("control", killed)
    for sender, receiver in zip(sending, receiving, strict=True):
        sent, received = traffic.result(sender), traffic.result(receiver)
        assert received["received"] == sent["sent"] > 15_000
        assert received["repeated"] == received["out_of_order"] == 0
    after = lab.counters("vm1")
    assert after["rx_packets"] >= before["rx_packets"] + 30_000, "counters go on from where they were"
    assert fdb.items() <= lab.fdb().items()
    assert lab.switch.status()["engine"]["pid"] == engine
    assert lab.switch.status()["control"]["restarts"] == 2
    assert lab.reload() == "nothing to change\n"


def test_engine_killed_is_back_within_two_seconds(lab: Lab, measured: Callable[[str], None]) -> None:
    addresses = lab.hosts["vm1"].run("ip", "-4", "-json", "address", "show", "eth0").stdout
    receiving = traffic.receiver(lab.hosts["vm2"], "udp", 5001, "--idle", "10")
    sending = traffic.sender(lab.hosts["vm1"], "udp", "10.0.0.2", 5001, "--rate", "1000", "--seconds", "6")
    time.sleep(1)
    killed = lab.switch.kill("engine")
    during = lab.switch.command("ports")
    lab.switch.await_return("engine", killed)
    sent, received = traffic.result(sending), traffic.result(receiving)
    measured(f"forwarding again {received['longest_gap']:.2f} s after the engine was killed")
    assert 0 < received["longest_gap"] < 2.0
    assert received["received"] > 0.6 * sent["sent"]
    assert during.returncode == 0 or "signal 9" in during.stderr
    shown = lab.switch.command("show").stdout
    assert "killed by signal 9" in shown
    assert "restarted 1 time" in shown
    assert lab.hosts["vm1"].run("ip", "-4", "-json", "address", "show", "eth0").stdout == addresses
    for address in ("10.0.0.2", "10.0.0.3"):
        assert ping(lab.hosts["vm1"], address).received == 3


def test_a_tcp_stream_survives_the_engine(lab: Lab) -> None:
    receiving = traffic.receiver(lab.hosts["vm2"], "tcp", 5001, "--hash")
    sending = traffic.sender(lab.hosts["vm1"], "tcp", "10.0.0.2", 5001, "--hash", "--seconds", "4")
    time.sleep(1)
    lab.switch.await_return("engine", lab.switch.kill("engine"))
    assert traffic.result(sending)["sha256"] == traffic.result(receiving)["sha256"]


def test_both_killed_come_back(lab: Lab) -> None:
    killed = {role: lab.switch.kill(role) for role in ("control", "engine")}
    for role, pid in killed.items():
        lab.switch.await_return(role, pid)
    assert ping(lab.hosts["vm1"], "10.0.0.2").received == 3
    assert ping(lab.hosts["vm1"], "10.0.0.3").received == 3


def test_a_killed_supervisor_takes_its_processes_with_it(lab: Lab) -> None:
    pids = [lab.switch.status()[role]["pid"] for role in ("engine", "control")]
    assert lab.switch.process is not None
    lab.switch.process.kill()
    eventually("engine and control end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)
    lab.switch.start()
    assert "vm1" in lab.site.links()


def test_a_warm_start_forwards_within_three_seconds(lab: Lab, measured: Callable[[str], None]) -> None:
    assert lab.switch.stop() == 0
    began = time.monotonic()
    lab.start(CONFIG)
    lab.plug("vm1", "10.0.0.1/24")
    lab.plug("vm2", "10.0.0.2/24")
    while ping(lab.hosts["vm1"], "10.0.0.2", count=1, timeout=0.2).received == 0:
        assert time.monotonic() - began < 10
    seconds = time.monotonic() - began
    measured(f"the first frame was forwarded {seconds:.2f} s after the start ({lab.switch.ready_line})")
    assert seconds < 3.0


def test_at_rest_it_takes_next_to_nothing(lab: Lab, measured: Callable[[str], None]) -> None:
    status = lab.switch.status()
    pids = [status["pid"], status["engine"]["pid"], status["control"]["pid"]]
    time.sleep(2)
    before, began = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(3)
    used = (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - began)
    measured(f"at rest the switch takes {100 * used:.1f} % of a core")
    assert used < 0.02


def cpu_seconds(pid: int) -> float:
    """Time that all threads of a process ran, to the nanosecond (proc/PID/stat counts in steps of 10 ms)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

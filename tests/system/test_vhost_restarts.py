"""Guests, engine, control process and switch killed or restarted under each other: traffic resumes, nothing leaks.

A probe sends 1,000 frames a second by one port to a guest at another, which sends them back, so an outage of either
direction shows. `make soak` runs the same with more rounds.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal

import pytest

from penstock.datapath.layout import BURST
from penstock.demo.hosts import cable
from penstock.engine.messages import receive_message, send_message, socket_path
from tests.system.guests import RING, Probe, PythonGuest, dpdk_guest
from tests.system.lab import Lab, eventually

Measured = Callable[[str], None]

RESUMED_SECONDS = 1.0
SOAK = "PENSTOCK_SOAK" in os.environ
PYTHON_ROUNDS = {"split": 20, "packed": 20 if SOAK else 5}
TESTPMD_ROUNDS = 20 if SOAK else 2
ENGINE_KILLS = 20 if SOAK else 2
SWITCH_ROUNDS = 10 if SOAK else 1
CALM_SECONDS = 3.0 if SOAK else 0.0  # five deaths within ten seconds, and the supervisor gives up
IN_FLIGHT_MAX = 100  # frames between two looks at counters
RSS_GROWTH_MAX = 8 << 20

NEEDS_TESTPMD = pytest.mark.needs("dpdk-testpmd")
ONLY_SOAK = pytest.mark.skipif(not SOAK, reason="one of many combinations: make soak runs them all")


def port(name: str, path: Path, mode: str = "server", more: str = "") -> str:
    return f'[bridge.br0.port.{name}]\ntype = "vhost-user"\npath = "{path}"\nmode = "{mode}"\n{more}\n'


def config(lab: Lab, mode: str = "server") -> str:
    """Two ports for guests: "probe" and "vm"."""
    return port("probe", lab.directory / "probe.sock") + port("vm", lab.directory / "vm.sock", mode)


@contextmanager
def probing(lab: Lab) -> Iterator[Probe]:
    """The probe as a guest at its port, at work."""
    with Probe("virtio-user", {"path": str(lab.directory / "probe.sock"), "poll": False, "ring": RING}) as probe:
        yield probe


def guest(lab: Lab, kind: str, mode: str, options: dict[str, Any]) -> AbstractContextManager[Any]:
    """A guest at port "vm", which is in this mode: the guest's socket is in the other."""
    path = lab.directory / "vm.sock"
    if kind == "python":
        return PythonGuest(path, **options, mode="client" if mode == "server" else "server")
    arguments = [f"{key}={value}" for key, value in options.items()]
    return dpdk_guest(lab.site, lab.directory, path, *arguments, *(["server=1"] if mode == "client" else []))


def footprint(lab: Lab) -> tuple[dict[str, int], int]:
    """What must be the same in the engine after any number of guests, and its resident bytes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # No EngineClient: it would map the arena where this process has the probe's.
        connection.connect(str(socket_path(lab.switch.rundir)))
        send_message(connection, {"op": "info"})
        info = receive_message(connection)[0]["result"]
        time.sleep(0.2)  # earlier connections are closed by now, and what the last guest left is let go of
        process = Path(f"/proc/{info['pid']}")
        counts = Counter(re.sub(r"\d+", "N", str(link.readlink())) for link in (process / "fd").iterdir())
    counts["mappings"] = len((process / "maps").read_text().splitlines())
    counts["arena bytes"] = info["arena_used"]
    counts["kept by the supervisor"] = len(list(Path(f"/proc/{lab.switch.status()['pid']}/fd").iterdir()))
    return dict(counts), int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kill_engine(lab: Lab, probe: Probe, *others: Literal["control"]) -> float:
    """Kill the engine, its spare being ready; for how long nothing came back."""
    eventually("a spare engine waits", lambda: lab.switch.status()["spare"], 20)
    killed = [lab.switch.kill(role) for role in ("engine", *others)]
    return probe.outage(lambda: lab.switch.status()["engine"]["pid"] not in (0, killed[0]))


def told(times: list[float]) -> str:
    return f"median {1000 * median(times):.0f} ms, longest {1000 * max(times):.0f} ms of {len(times)}"


# Guests killed


@pytest.mark.parametrize("rings", ["split", "packed"])
def test_a_guest_killed_over_and_over(lab: Lab, rings: str, measured: Measured) -> None:
    lab.start(config(lab))
    times = []
    with guest(lab, "python", "server", {"packed": rings == "packed"}) as vm, probing(lab) as probe:
        for number in range(PYTHON_ROUNDS[rings] + 1):
            times.append(probe.await_back(20) - vm.connected())
            if number == 1:
                before, rss_before = footprint(lab)
            if number < PYTHON_ROUNDS[rings]:
                vm.kill()
                vm.start()
        after, rss_after = footprint(lab)
        with probe.lossless():
            pass
    measured(f"killed and restarted guest, {rings}: traffic after {told(times[1:])}")
    assert after == before
    assert rss_after - rss_before < RSS_GROWTH_MAX
    assert max(times[1:]) < RESUMED_SECONDS
    assert lab.switch.status()["engine"]["restarts"] == 0


@NEEDS_TESTPMD
def test_testpmd_killed_over_and_over(lab: Lab, measured: Measured) -> None:
    lab.start(config(lab))
    times = []
    with probing(lab) as probe:
        for number in range(TESTPMD_ROUNDS + 1):
            with guest(lab, "testpmd", "server", {}) as vm:
                ready = time.monotonic()
                times.append(probe.await_back(20) - ready)
                if number == 1:
                    before, rss_before = footprint(lab)
                if number == TESTPMD_ROUNDS:
                    after, rss_after = footprint(lab)
                    with probe.lossless():
                        pass
                vm.kill()
    measured(f"killed and restarted dpdk-testpmd: traffic after {told(times)}")
    assert after == before
    assert rss_after - rss_before < RSS_GROWTH_MAX
    assert max(times) < RESUMED_SECONDS


# The engine and the control process killed


@pytest.mark.parametrize(
    ("kind", "options", "mode"),
    [
        pytest.param("python", {}, "server", id="python-split-server"),
        pytest.param("python", {}, "client", id="python-split-client", marks=ONLY_SOAK),
        pytest.param("python", {"packed": True}, "server", id="python-packed-server", marks=ONLY_SOAK),
        pytest.param("python", {"packed": True}, "client", id="python-packed-client"),
        pytest.param("testpmd", {}, "server", id="testpmd-split-server", marks=[NEEDS_TESTPMD, ONLY_SOAK]),
        pytest.param("testpmd", {}, "client", id="testpmd-split-client", marks=NEEDS_TESTPMD),
        pytest.param("testpmd", {"packed_vq": 1}, "server", id="testpmd-packed-server", marks=NEEDS_TESTPMD),
        pytest.param(
            "testpmd", {"packed_vq": 1}, "client", id="testpmd-packed-client", marks=[NEEDS_TESTPMD, ONLY_SOAK]
        ),
    ],
)
def test_the_engine_killed_under_guests(
    lab: Lab, kind: str, options: dict[str, Any], mode: str, measured: Measured, request: pytest.FixtureRequest
) -> None:
    lab.start(config(lab, mode))
    times = []
    with guest(lab, kind, mode, options) as vm, probing(lab) as probe:
        probe.await_back(100)
        earlier = probe.counts()
        for _ in range(ENGINE_KILLS):
            time.sleep(CALM_SECONDS)
            times.append(kill_engine(lab, probe))
        before = lab.switch.query("stats")
        with probe.lossless():
            pass
        after = lab.switch.query("stats")
        counts = probe.counts()
        assert vm.alive, "the guest did not notice"
    passed = {
        (name, counter): after[name][counter] - before[name][counter]
        for name in ("vm", "probe")
        for counter in ("rx_packets", "tx_packets")
    }
    assert min(passed.values()) >= 500
    assert max(passed.values()) - min(passed.values()) < IN_FLIGHT_MAX
    assert after["vm"]["driver.violations"] == after["probe"]["driver.violations"] == 0
    measured(
        f"engine killed under {request.node.callspec.id}: traffic after {told(times)}; "
        f"{counts.missing - earlier.missing} frames lost, {counts.duplicates} repeated"
    )
    assert counts.duplicates <= len(times) * BURST * 2
    assert max(times) < RESUMED_SECONDS


@pytest.mark.parametrize("kind", ["python", pytest.param("testpmd", marks=NEEDS_TESTPMD)])
def test_the_control_process_killed_loses_nothing(lab: Lab, kind: str) -> None:
    lab.start(config(lab))
    with guest(lab, kind, "server", {}) as vm, probing(lab) as probe:
        probe.await_back(100)
        with probe.lossless():
            for _ in range(2):
                lab.switch.await_return("control", lab.switch.kill("control"))
        assert vm.alive
    assert lab.switch.status()["engine"]["restarts"] == 0


def test_the_engine_and_the_control_process_killed(lab: Lab, measured: Measured) -> None:
    lab.start(config(lab))
    with guest(lab, "python", "server", {}), probing(lab) as probe:
        probe.await_back(100)
        outage = kill_engine(lab, probe, "control")
        with probe.lossless():
            pass
    measured(f"engine and control process killed: traffic after {told([outage])}")
    assert outage < 5.0, "of the control process there is no spare"


# The whole switch, and the port


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("python", "server"),
        ("python", "client"),
        pytest.param("testpmd", "client", marks=NEEDS_TESTPMD),
    ],
)
def test_the_switch_stopped_and_started_under_a_guest(lab: Lab, kind: str, mode: str, measured: Measured) -> None:
    tester = lab.host("tester")
    cable(lab.site, "eth1", tester, "eth1")
    lab.start(
        f'[bridge.br0.port.eth1]\ntype = "packet"\nnetdev = "eth1"\n{port("vm", lab.directory / "vm.sock", mode)}'
    )
    times = []
    with tester.entered():
        probe = Probe("packet", {"netdev": "eth1", "ring": 4096})
    with guest(lab, kind, mode, {}) as vm, probe:
        probe.await_back(100)
        for _ in range(SWITCH_ROUNDS):
            assert lab.switch.stop() == 0
            lab.switch.start()
            ready = time.monotonic()
            times.append(probe.await_back(100) - ready)
        with probe.lossless():
            pass
        assert vm.alive
    measured(f"switch stopped and started under {kind}, port as {mode}: traffic {told(times)} after the start")
    assert max(times) < RESUMED_SECONDS


@pytest.mark.parametrize("mode", ["server", "client"])
def test_a_port_removed_and_added_under_traffic(lab: Lab, mode: str, measured: Measured) -> None:
    whole = config(lab, mode)
    lab.start(whole)
    times = []
    with guest(lab, "python", mode, {}), probing(lab) as probe:
        for number in range(4):
            probe.await_back(100)
            if number == 1:
                before, _ = footprint(lab)
            lab.reload(port("probe", lab.directory / "probe.sock"))
            stopped = probe.back
            time.sleep(0.1)
            assert probe.back <= stopped + IN_FLIGHT_MAX
            lab.reload(whole)
            added = time.monotonic()
            times.append(probe.await_back(100) - added)
        with probe.lossless():
            pass
        after, _ = footprint(lab)
    measured(f"port removed and added, as {mode}: traffic after {told(times)}")
    assert after == before
    assert max(times) < RESUMED_SECONDS


def test_a_change_of_another_port_disturbs_no_guest(lab: Lab) -> None:
    both = config(lab)
    third = port("third", lab.directory / "third.sock")
    lab.start(both)
    with guest(lab, "python", "server", {}), probing(lab) as probe:
        probe.await_back(100)
        with probe.lossless():
            for text in (both + third, both + third + "tag = 7\n", both, both + '[bridge.br1.port.t]\ntype = "tap"\n'):
                assert "nothing" not in lab.reload(text)


def test_a_guest_left_by_an_engine_does_not_fit_a_changed_port(lab: Lab) -> None:
    """The port changed while no engine was there: the guest is not taken over but connects anew."""
    lab.start(config(lab))
    with guest(lab, "python", "server", {}) as vm, probing(lab) as probe:
        probe.await_back(100)
        vm.connected()
        lab.switch.config.write_text(config(lab) + "queues = 2\n")
        killed = lab.switch.kill("engine")
        lab.switch.command("reload")
        lab.switch.await_return("engine", killed)
        eventually("the port is as the file says", lambda: lab.switch.command("reload").returncode == 0, 10)
        vm.connected()
        with probe.lossless():
            pass
        assert lab.state("vm")["state"] == "up"

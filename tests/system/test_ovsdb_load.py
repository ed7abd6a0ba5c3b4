"""What is done to penstock-vswitchd and its database while virtual machines send: no frame is lost, none comes twice.

A station at one vhost-user port sends 10,000 frames a second to a guest at another, which sends each one back.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.guests import RING, Probe, PythonGuest
from tests.system.lab import eventually
from tests.system.vswitchd import Daemon

pytestmark = pytest.mark.needs("ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl")
RATE = 10_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("load"))
    daemon.vsctl("add-br", "br0")
    for name in ("probe", "vm"):
        daemon.vsctl("add-port", "br0", name, "--", "set", "interface", name, "type=dpdkvhostuser")
    daemon.ofctl("add-flow", "br0", "priority=7,actions=normal")
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def probe(daemon: Daemon) -> Iterator[Probe]:
    options = {"path": str(daemon.directory / "probe"), "poll": False, "ring": RING}
    with PythonGuest(daemon.directory / "vm"), Probe("virtio-user", options, RATE) as probe:
        probe.await_back(RATE)
        yield probe


def test_the_daemon_is_killed_and_started_again(daemon: Daemon, probe: Probe) -> None:
    pid, engine = daemon.pid, daemon.child("penstock.engine")
    with probe.lossless(RATE):
        os.kill(pid, signal.SIGKILL)
        eventually("its end", lambda: not Path(f"/proc/{pid}").exists())
        begun = daemon.start()
        assert begun.returncode == 0, begun.stderr
        daemon.vsctl("add-port", "br0", "later", "--", "set", "interface", "later", "type=internal")
    assert daemon.child("penstock.engine") == engine
    assert "priority=7" in daemon.ofctl("dump-flows", "br0")
    assert [daemon.vsctl("get", "interface", name, "ofport") for name in ("probe", "vm", "later")] == ["1", "2", "3"]


def test_the_database_is_killed_and_started_again(daemon: Daemon, probe: Probe) -> None:
    with probe.lossless(RATE):
        daemon.database.process.kill()
        daemon.database.process.wait(5)
        probe.await_back(RATE)
        daemon.database.start()
        daemon.vsctl("--timeout=20", "set", "port", "vm", "external_ids:again=1")


def test_ports_come_and_go_beside_them(daemon: Daemon, probe: Probe) -> None:
    names = [f"dum{number}" for number in range(50)]
    with probe.lossless(RATE):
        for _ in range(2):
            words = [word for name in names for word in ("--", "add-port", "br0", name)]
            words += [word for name in names for word in ("--", "set", "interface", name, "type=dummy")]
            daemon.vsctl(*words[1:])
            daemon.vsctl(*[word for name in names for word in ("--", "del-port", name)][1:])

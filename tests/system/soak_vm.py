"""What takes minutes (`make soak-vm`): machines killed and migrated, and their switch killed, `ROUNDS` times each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from penstock.demo import traffic
from penstock.demo.echo import ping
from penstock.demo.vm import Machine, VhostUser
from penstock.demo.vm_traffic import receive, received
from tests.system.lab import Lab
from tests.system.test_vm import need_kernel

pytestmark = pytest.mark.needs("qemu-system-x86_64", "busybox", "ethtool", "ping")

ROUNDS = int(os.environ.get("ROUNDS", "10"))
HOST, MODES = "10.0.0.100", ("server", "client")  # of the switch
MACS = {"server": "52:54:00:00:00:01", "client": "52:54:00:00:00:02"}
HOST_MAC = "52:54:00:00:01:00"
ADDRESSES = {"server": "10.0.0.1", "client": "10.0.0.2"}
CONFIG = """
[bridge.br0]
[bridge.br0.port.host1]
type = "tap"
[bridge.br0.port.server]
type = "vhost-user"
path = "{directory}/server.sock"
[bridge.br0.port.client]
type = "vhost-user"
path = "{directory}/client.sock"
mode = "client"
[bridge.br0.port.other]
type = "vhost-user"
path = "{directory}/other.sock"
"""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    need_kernel()
    lab.start(CONFIG.format(directory=lab.directory))
    plug(lab)
    return lab


def plug(lab: Lab) -> None:
    """Plug the host in; it knows the guests' addresses and they know its own, so that nobody waits for ARP."""
    host = lab.host("host1")
    host.take("host1", lab.site, "eth0")
    host.change("eth0", address=HOST_MAC)
    host.assign("eth0", f"{HOST}/24")
    for mode, address in ADDRESSES.items():
        host.run("ip", "neighbour", "replace", address, "lladdr", MACS[mode], "dev", "eth0", "nud", "permanent")


def machine(lab: Lab, mode: str) -> Machine:
    """A machine at the port of the mode."""
    card = VhostUser(lab.directory / f"{mode}.sock", MACS[mode], server=mode == "client")
    return Machine(lab.site, lab.directory / mode, [card], memory=128)


def ready(booted: Machine, mode: str) -> None:
    booted.ready()
    booted.assign(f"{ADDRESSES[mode]}/24")
    booted.run(f"arp -s {HOST} {HOST_MAC}")


def seconds_to_reply(lab: Lab, mode: str) -> float:
    """How long the host has to ask until the machine replies."""
    began = time.monotonic()
    while not ping(lab.hosts["host1"], ADDRESSES[mode], count=1, timeout=0.1).received:
        assert time.monotonic() - began < 10, f"{mode}: no reply within 10 s"
    return time.monotonic() - began


def held(lab: Lab) -> tuple[int, int]:
    """How many descriptors and memory mappings the engine has."""
    process = Path(f"/proc/{lab.switch.status()['engine']['pid']}")
    return len(list((process / "fd").iterdir())), len((process / "maps").read_text().splitlines())


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_is_killed_under_traffic(lab: Lab, mode: str, measured: Callable[[str], None]) -> None:
    lab.hosts["host1"].start("ping", "-q", "-i", "0.001", "-s", "1000", ADDRESSES[mode])
    waits, holds = [], []
    for _ in range(ROUNDS):
        with machine(lab, mode) as booted:
            ready(booted, mode)
            waits.append(seconds_to_reply(lab, mode))
            holds.append(held(lab))
            assert lab.fdb()[MACS[mode], 0] == mode
    measured(f"guest killed {ROUNDS} times (switch as {mode}): {max(waits):.2f} s at most until a new one replied")
    assert max(waits) < 1
    assert holds[-1] == holds[1], "the engine keeps no descriptor or mapping of a guest that is gone"


def test_the_engine_is_killed_under_guests(lab: Lab, measured: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        for mode in MODES:
            stack.enter_context(booted := machine(lab, mode))
            ready(booted, mode)
        waits = []
        for _ in range(ROUNDS):
            killed = lab.switch.kill("engine")
            lab.switch.await_return("engine", killed)
            waits.append(max(seconds_to_reply(lab, mode) for mode in MODES))
            time.sleep(2.5)  # a supervisor gives up on an engine that dies too often
    measured(f"engine killed {ROUNDS} times under two guests: {max(waits):.2f} s at most from its return to replies")
    assert max(waits) < 1


def test_the_switch_is_stopped_and_started_under_guests(lab: Lab, measured: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        for mode in MODES:
            stack.enter_context(booted := machine(lab, mode))
            ready(booted, mode)
        waits = []
        for _ in range(ROUNDS):
            assert lab.switch.stop() == 0
            lab.switch.start()
            plug(lab)
            waits.append(max(seconds_to_reply(lab, mode) for mode in MODES))
    measured(f"switch restarted {ROUNDS} times under two guests: {max(waits):.2f} s at most from ready to replies")
    assert max(waits) < 2.5, "QEMU looks for its switch once a second"


def test_a_guest_moves_there_and_back(lab: Lab, measured: Callable[[str], None]) -> None:
    """Each time to a fresh QEMU at the other port, while it receives a stream."""
    stops = []
    with ExitStack() as stack:
        here = stack.enter_context(machine(lab, "server"))
        ready(here, "server")
        for turn in range(ROUNDS):
            port = ("other", "server")[turn % 2]
            there = Machine(
                lab.site,
                lab.directory / f"{port}{turn}",
                [VhostUser(lab.directory / f"{port}.sock", MACS["server"])],
                memory=128,
                incoming=True,
            )
            stack.enter_context(there)
            there.ready()
            receive(here, 5001)
            host = lab.hosts["host1"]
            sending = traffic.sender(host, "tcp", ADDRESSES["server"], 5001, "--hash", "--seconds", "5")
            time.sleep(0.5)
            stops.append(here.migrate(there)["downtime"])
            here.close()
            here = there
            sent = traffic.result(sending)
            assert received(here, 5001) == sent["sha256"]
            assert lab.fdb()[MACS["server"], 0] == port
    measured(
        f"live migration, {ROUNDS} times: the guest was stopped for {max(stops)} ms at most, every stream was whole"
    )


def test_every_claim_of_the_demonstration_holds() -> None:
    demo = [sys.executable, "-m", "penstock.demo", "--vm"]
    done = subprocess.run(demo, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.partition("Verdicts")[2].count("PASS") == 5

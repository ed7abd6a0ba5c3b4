"""dpdk-testpmd as a guest, in every layout and mode of its virtio device: frames circle between two ports of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from bench import dpdk
from tests.system.lab import Lab, eventually

pytestmark = pytest.mark.needs("dpdk-testpmd")

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
PORTS = ("vm1", "vm2")
BURSTS = 4  # of 32 frames each way: fewer than a ring holds, so none is lost
SECONDS = 0.5


def config(lab: Lab, mode: str, queues: int) -> str:
    return "".join(
        f'[bridge.br0.port.{name}]\ntype = "vhost-user"\npath = "{lab.directory / name}"\n'
        f'mode = "{mode}"\nqueues = {queues}\n'
        for name in PORTS
    )


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "packed_vq=1",
        "mrg_rxbuf=0",
        "in_order=1",
        "vectorized=1",
        "packed_vq=1,vectorized=1",
        "queues=2",
        "server=1",
    ],
)
def test_frames_circle_between_two_ports_of_a_guest(lab: Lab, argument: str, measured: Callable[[str], None]) -> None:
    queues = 2 if argument == "queues=2" else 1
    lab.start(config(lab, "client" if argument == "server=1" else "server", queues))
    devices = [
        ",".join(filter(None, (f"net_virtio_user{number},path={lab.directory / name},mac={mac}", argument)))
        for number, (name, mac) in enumerate(zip(PORTS, MACS, strict=True))
    ]
    peers = (f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}", f"--rxq={queues}", f"--txq={queues}")
    cpu = max(os.sched_getaffinity(0))
    with dpdk.Testpmd(lab.site, cpu, devices, *peers, "--no-mlockall", plain_memory=lab.directory) as guest:
        for name in PORTS:
            eventually(f"{name} is up", lambda name=name: lab.state(name)["state"] == "up")
        guest.ask(f"start tx_first {BURSTS}")
        eventually("both addresses are learned", lambda: len(lab.fdb()) == 2)
        guest.received()
        time.sleep(SECONDS)
        received = guest.received()
        counters = {name: lab.counters(name) for name in PORTS}
    measured(f"dpdk-testpmd, {argument or 'default'}: {sum(received.values()):,} frames/s in a loop")
    assert min(received.values()) > 1000
    for name in PORTS:
        assert counters[name]["driver.violations"] == 0
        assert counters[name]["driver.bad_chains"] == 0
        assert counters[name]["driver.rings"] == 2 * queues

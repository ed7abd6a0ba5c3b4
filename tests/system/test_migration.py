"""Live migration: a guest moves from one QEMU to another, and from one vhost-user port to another, under traffic."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from penstock.demo import traffic
from penstock.demo.echo import Missing
from penstock.demo.initramfs import GuestError
from penstock.demo.vm import Machine, VhostUser, accelerator, kernel_with
from penstock.demo.vm_traffic import receive, received
from tests.system.lab import Lab, eventually

CONFIG = """
[bridge.br0]
[bridge.br0.port.host1]
type = "tap"
[bridge.br0.port.here]
type = "vhost-user"
path = "{directory}/here.sock"
mode = "server"
[bridge.br0.port.there]
type = "vhost-user"
path = "{directory}/there.sock"
mode = "server"
"""
MAC = "52:54:00:00:00:01"
HOST, GUEST = "10.0.0.100", "10.0.0.1"
INTERVAL = 0.02  # seconds between echo requests
REQUESTS = 300
DIRTIER = "while :; do dd if=/dev/zero of=/tmp/dirty bs=64k count=64 conv=notrunc; done"


def echo_stream(lab: Lab) -> subprocess.Popen[str]:
    """Echo requests from the host to the guest, at a steady pace."""
    return lab.hosts["host1"].start("ping", "-i", str(INTERVAL), "-c", str(REQUESTS), "-W", "1", GUEST)


@pytest.mark.needs("qemu-system-x86_64", "busybox", "ethtool", "ping")
def test_a_guest_moves_under_traffic(lab: Lab, measured: Callable[[str], None]) -> None:
    """What was received while moving is whole, and traffic goes on at the new port."""
    try:
        kernel_with()
    except GuestError as error:
        pytest.skip(str(error))
    lab.start(CONFIG.format(directory=lab.directory))
    host = lab.plug("host1", f"{HOST}/24")
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(
                Machine(
                    lab.site,
                    lab.directory / name,
                    [VhostUser(lab.directory / f"{name}.sock", MAC)],
                    memory=128,
                    incoming=incoming,
                )
            )
            for name, incoming in (("here", False), ("there", True))
        )
        here.ready()
        here.assign(f"{GUEST}/24")
        there.ready()
        here.background(DIRTIER)
        receive(here, 5001)
        pings = echo_stream(lab)
        sending = traffic.sender(host, "tcp", GUEST, 5001, "--hash", "--seconds", "5")
        eventually("the stream flows", lambda: lab.counters("here")["tx_bytes"] > 1_000_000)
        told = here.migrate(there)
        eventually("the guest is at the new port", lambda: lab.fdb().get((MAC, 0)) == "there")
        here.close()
        before = lab.counters("there")
        sent = traffic.result(sending)
        assert received(there, 5001) == sent["sha256"]
        after = lab.counters("there")
        assert after["tx_bytes"] > before["tx_bytes"], "the stream went on at the new port"
        missing = Missing.of(pings.communicate(timeout=60)[0], REQUESTS)
    memory = told["ram"]
    measured(
        f"live migration ({accelerator()}): {memory['transferred'] / 1e6:.0f} MB in {told['total-time'] / 1000:.1f} s,"
        f" dirty pages looked for {memory['dirty-sync-count']} times, guest stopped for {told['downtime']} ms;"
        f" {missing.count} of {REQUESTS} pings lost, {missing.longest * INTERVAL:.2f} s on end at most;"
        f" {sent['bytes'] / 1e6:.0f} MB of TCP received meanwhile, whole"
    )
    assert memory["dirty-sync-count"] > 2, "the guest wrote to memory that was sent already"
    assert missing.longest * INTERVAL < 2

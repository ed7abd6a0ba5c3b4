"""Measure the vhost cases: every switch is started once for a case, with a guest of its own, and then they take turns.

The switch's worker has the first CPU, the guests and all the rest the second. A case's ratios are taken round by round,
of turns that follow each other at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.dpdk import Testpmd, guest_memory_mb
from bench.frames import write_pcap
from bench.tunnel_switches import TUNNEL_SWITCHES
from bench.vhost_cases import Case, Flows, Loop, Replay, Tunneled
from bench.vhost_switches import SWITCHES, Switch
from penstock.demo.hosts import Host
from penstock.peers.huge_pages import huge_pages
from penstock.peers.ovs import GROWTH_MB, OVS_DPDK, PROGRAMS, SWITCH_MB
from penstock.peers.ovsdb import wait_for
from penstock.peers.turns import pause, resume, turn

NEEDED = ("dpdk-testpmd", OVS_DPDK, *PROGRAMS)
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
BURSTS = 7  # of 32 frames each way: fewer than a ring of 256 holds, so none is ever lost
BUSY_MACHINE = 0.5  # load average
RESUME_SECONDS = 0.3  # caches fill, and what a guest has missed is made up for
SETTLE_SECONDS = 1.5  # Open vSwitch revises what it does with a flow every half second


@dataclass(frozen=True)
class Sample:
    """One measurement. `guest_cycles` is what the guest spends on a frame that it takes in and sends or drops."""

    pps: float
    cycles: float
    load: float
    guest_cycles: float


def missing() -> list[str]:
    """What this machine lacks."""
    found = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0:
        found.append("root")
    if len(os.sched_getaffinity(0)) < 2:
        found.append("a second CPU")
    return found


def measure(
    cases: Sequence[Case], switches: Sequence[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, dict[str, list[Sample]]]:
    """Samples by case, switch and round. Raises DpdkError when the machine has no memory for huge pages."""
    results: dict[str, dict[str, list[Sample]]] = {}
    if os.getloadavg()[0] > BUSY_MACHINE:
        progress(
            f"the load average is {os.getloadavg()[0]:.1f} before the start: what else runs here spoils the figures"
        )
    guest_mb = max(guest_memory_mb(_frames(case)) for case in cases)
    with huge_pages((SWITCH_MB + GROWTH_MB + guest_mb) * len(switches)):
        for case in cases:
            subjects = [name for name in switches if case.rules or "rules" not in name]
            progress(f"{case.title}: {', '.join(subjects)}, {rounds} turns of {seconds:g} s each")
            results[case.name] = _take_turns(case, subjects, rounds, seconds)
    return results


def _frames(case: Case) -> int:
    return 0 if isinstance(case.traffic, Loop) else case.traffic.frames + case.traffic.destinations


def _take_turns(case: Case, names: Sequence[str], rounds: int, seconds: float) -> dict[str, list[Sample]]:
    with ExitStack() as stack:
        subjects = {name: stack.enter_context(_subject(case, name)) for name in names}
        samples: dict[str, list[Sample]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, subject in subjects.items():
                with turn(subject.host):
                    samples[name].append(subject.sample(seconds))
        return samples


@dataclass(frozen=True)
class Subject:
    """A switch and its guest at work in a host of their own; paused but for its turns."""

    title: str
    host: Host
    switch: Switch
    guest: Testpmd
    ports: list[int]  # of the guest, at which to count

    def sample(self, seconds: float) -> Sample:
        time.sleep(RESUME_SECONDS)
        self.guest.ask("clear fwd stats all")
        self.guest.received()
        self.switch.mark()
        time.sleep(seconds)
        load, received = self.switch.measured(), self.guest.received()
        silent = [port for port in self.ports if received[port] == 0]
        if silent:
            raise RuntimeError(f"{self.title}: nothing came to the guest's port {silent[0]}")
        return Sample(sum(received[port] for port in self.ports), load.cycles, load.load, self.guest.cycles())


@contextmanager
def _subject(case: Case, name: str) -> Iterator[Subject]:
    worker_cpu, guest_cpu = sorted(os.sched_getaffinity(0))[:2]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-vhost-")))
        host = stack.enter_context(Host("vhost"))
        starts = TUNNEL_SWITCHES if isinstance(case.traffic, Tunneled) else SWITCHES
        switch = stack.enter_context(starts[name](host, directory, worker_cpu))
        guest, ports = stack.enter_context(_guest(case.traffic, switch, host, directory, guest_cpu))
        time.sleep(SETTLE_SECONDS)
        pause(host)
        try:
            yield Subject(f"{name}, {case.title}", host, switch, guest, ports)
        finally:
            resume(host)


def _guest(
    traffic: Loop | Replay | Flows | Tunneled, switch: Switch, host: Host, directory: Path, cpu: int
) -> AbstractContextManager[tuple[Testpmd, list[int]]]:
    """A guest at work, the switch having learned its addresses; and those of its ports at which to count."""
    if isinstance(traffic, Loop):
        return _loop(traffic, switch, host, cpu)
    if isinstance(traffic, Flows):
        return _flows(traffic, switch, host, directory, cpu)
    return _replay(traffic, switch, host, directory, cpu)


@contextmanager
def _flows(
    traffic: Flows, switch: Switch, host: Host, directory: Path, cpu: int
) -> Iterator[tuple[Testpmd, list[int]]]:
    """A guest that replays to its first virtio port and drops what its second receives, past flow entries."""
    switch.add_flows(traffic.entries())
    forth = directory / "forth.pcap"
    write_pcap(forth, traffic.forth())
    devices = [
        f"net_pcap0,rx_pcap={forth},infinite_rx=1",
        f"net_virtio_user0,path={switch.sockets[0]},mac={MACS[0]}",
        f"net_virtio_user1,path={switch.sockets[1]},mac={MACS[1]}",
        "net_null0,no-rx=1",
    ]
    with Testpmd(host, cpu, devices, frames=traffic.frames) as guest:
        guest.ask("set portlist 0,1,2,3")
        guest.ask("set record-core-cycles on")
        guest.ask("start")
        wait_for(lambda: guest.received()[2] > 0, "frames from guest to guest", 30)
        yield guest, [2]


@contextmanager
def _loop(traffic: Loop, switch: Switch, host: Host, cpu: int) -> Iterator[tuple[Testpmd, list[int]]]:
    """A guest whose two ports pass frames to and fro."""
    devices = [
        f"net_virtio_user{index},path={socket},mac={address}"
        for index, (socket, address) in enumerate(zip(switch.sockets, MACS, strict=True))
    ]
    peers = (f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}")
    with Testpmd(host, cpu, devices, *peers) as guest:
        guest.ask(f"set txpkts {traffic.frame_bytes}")
        guest.ask("set record-core-cycles on")

        def flowing() -> bool:
            """Start afresh: what a switch lost before its ports were ready must not be missing from the loop."""
            guest.ask("stop")
            guest.ask(f"start tx_first {BURSTS}")
            time.sleep(0.3)
            guest.received()
            time.sleep(0.2)
            return all(guest.received().values())

        wait_for(flowing, "traffic both ways")
        yield guest, [0, 1]


@contextmanager
def _replay(
    traffic: Replay | Tunneled, switch: Switch, host: Host, directory: Path, cpu: int
) -> Iterator[tuple[Testpmd, list[int]]]:
    """A guest that replays to its first virtio port and drops what its second receives."""
    forth, back = directory / "forth.pcap", directory / "back.pcap"
    write_pcap(forth, traffic.forth())
    write_pcap(back, traffic.back())
    into, out = switch.sockets[::-1] if traffic.from_second else switch.sockets
    devices = [
        f"net_pcap0,rx_pcap={forth},infinite_rx=1",
        f"net_virtio_user0,path={into},mac={MACS[0]}",
        f"net_virtio_user1,path={out},mac={MACS[1]}",
        "net_null0,no-rx=1",
        f"net_pcap1,rx_pcap={back},infinite_rx=1",
    ]
    with Testpmd(host, cpu, devices, frames=traffic.frames + traffic.destinations) as guest:
        guest.ask("set portlist 4,2")
        guest.ask("start")
        wait_for(lambda: switch.learned() >= traffic.destinations, f"{traffic.destinations} addresses in the FDB", 60)
        guest.ask("stop")
        guest.ask("set portlist 0,1,2,3")
        guest.ask("set record-core-cycles on")
        guest.ask("start")
        wait_for(lambda: switch.learned() >= traffic.addresses, f"{traffic.addresses} addresses in the FDB", 60)
        yield guest, [2]

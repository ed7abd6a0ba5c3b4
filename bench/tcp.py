"""TCP between two kernels' stacks through Penstock's TAPs, Open vSwitch's user-space datapath and the Linux bridge.

All three switches are up at once, each in a network namespace of its own with two hosts; a round measures one after the
other. The figures are medians over the rounds, and the ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from bench.outcome import Outcome, ratios, spread
from penstock.demo.hosts import Host, cable
from penstock.demo.launch import RunningSwitch
from penstock.peers.ovs import PROGRAMS, OpenVSwitch
from penstock.peers.ovsdb import wait_for

SERVER = "10.77.0.2"
CONFIG = """
[bridge.br0.port.client]
type = "tap"
[bridge.br0.port.server]
type = "tap"
"""
NEEDED = ("iperf3", *PROGRAMS)
FASTER = 5  # than Open vSwitch, at least

Pair = tuple[Host, Host]


def connect(switch: Host, stack: ExitStack) -> Pair:
    """Move the devices ``client`` and ``server`` from the switch's namespace into hosts of their own."""
    hosts = []
    for name, address in (("client", "10.77.0.1/24"), ("server", f"{SERVER}/24")):
        host = stack.enter_context(Host(name))
        host.take(name, switch)
        host.assign(name, address)
        hosts.append(host)
    return hosts[0], hosts[1]


@contextmanager
def penstock(directory: Path) -> Iterator[Pair]:
    """Penstock with two TAP ports."""
    with ExitStack() as stack:
        switch = stack.enter_context(Host("penstock"))
        stack.enter_context(RunningSwitch(switch, directory, CONFIG))
        yield connect(switch, stack)


@contextmanager
def open_vswitch(directory: Path) -> Iterator[Pair]:
    """Open vSwitch with its user-space datapath and two TAP ports, as it comes."""
    with ExitStack() as stack:
        switch = stack.enter_context(Host("ovs"))
        ovs = OpenVSwitch(switch, directory)
        for port in ("client", "server"):
            ovs.add_port(port, "tap")
        wait_for(lambda: {"client", "server"} <= set(switch.links()), "Open vSwitch's TAPs")
        yield connect(switch, stack)


@contextmanager
def linux_bridge(_directory: Path) -> Iterator[Pair]:
    """The kernel's bridge with two veth pairs."""
    with ExitStack() as stack:
        switch = stack.enter_context(Host("bridge"))
        switch.netlink.link("add", ifname="br0", kind="bridge")
        switch.up("br0")
        for port in ("client", "server"):
            cable(switch, f"{port}0", switch, port)
            switch.netlink.link("set", index=switch.index(f"{port}0"), master=switch.index("br0"))
        yield connect(switch, stack)


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Pair]]] = {
    "penstock": penstock,
    "open vswitch": open_vswitch,
    "linux bridge": linux_bridge,
}


def throughput(pair: Pair, seconds: float) -> float:
    """Gb/s of one TCP connection, as its receiver counts them."""
    client, server = pair
    listener = server.start("iperf3", "--server", "--one-off")
    wait_for(lambda: b":1451 " in Path(f"/proc/{listener.pid}/net/tcp6").read_bytes(), "iperf3's port")
    report = json.loads(client.run("iperf3", "-c", SERVER, "-t", str(seconds), "-J", timeout=seconds + 30).stdout)
    listener.wait(10)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def missing() -> list[str]:
    """What this machine lacks."""
    return [name for name in NEEDED if shutil.which(name) is None] + ["root"] * (os.geteuid() != 0)


def measure(rounds: int, seconds: float, progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Gb/s per subject and round."""
    results: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-peers-")))
        pairs = {}
        for name, make in SUBJECTS.items():
            place = directory / name.replace(" ", "-")
            place.mkdir()
            pairs[name] = stack.enter_context(make(place))
        for pair in pairs.values():
            throughput(pair, 1)  # a first round to learn addresses and grow windows, not counted
        for number in range(rounds):
            for name, pair in pairs.items():
                progress(f"TCP: round {number + 1} of {rounds}, {name}")
                results[name].append(throughput(pair, seconds))
    return results


def run(rounds: int, seconds: float, progress: Callable[[str], None]) -> Outcome:
    """Measure; Penstock must be at least five times as fast as Open vSwitch's user-space datapath."""
    results = measure(rounds, seconds, progress)
    over = {name: ratios(results["penstock"], figures) for name, figures in results.items()}
    table = Table(title=f"TCP between two namespaces, {rounds} rounds of {seconds:g} s")
    for column in ("switch", "Gb/s (median)", "least", "most", "penstock over it"):
        table.add_column(column, justify="left" if column == "switch" else "right")
    for name, figures in results.items():
        of = spread(figures)
        table.add_row(name, *(f"{each:.2f}" for each in (of.median, of.least, of.most, over[name].median)))
    unmet = []
    if over["open vswitch"].median < FASTER:
        unmet.append(f"TCP: {over['open vswitch'].median:.2f} times Open vSwitch, must be at least {FASTER}")
    found = {"gbps": results, "penstock_over": {name: asdict(ratio) for name, ratio in over.items()}}
    return Outcome(found, [table], unmet)

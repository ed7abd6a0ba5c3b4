"""TCP between two kernels' stacks through Penstock's TAPs, Open vSwitch's user-space datapath and the Linux bridge.

``python -m bench.peers [--rounds N] [--seconds S] [--json]``, as root, with iperf3 and openvswitch-switch installed.
All three switches are up at once, each in a network namespace of its own with two hosts; a round measures one after the
other. The figures are medians over the rounds, and the ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from penstock.demo.hosts import Host, cable
from penstock.demo.launch import RunningSwitch

SERVER = "10.77.0.2"
CONFIG = """
[bridge.br0.port.client]
type = "tap"
[bridge.br0.port.server]
type = "tap"
"""
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
NEEDED = ("iperf3", "ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "nsenter", "setpriv")

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
        database, socket = directory / "conf.db", directory / "db.sock"
        settings = {f"OVS_{name}": str(directory) for name in ("RUNDIR", "LOGDIR", "DBDIR")}
        environment = {**os.environ, **settings}
        switch.run("ovsdb-tool", "create", str(database), str(SCHEMA))
        with (directory / "log").open("w") as log:
            switch.start("ovsdb-server", str(database), f"--remote=punix:{socket}", env=environment, stderr=log)
            wait_for(socket.exists, "ovsdb-server's socket")
            vsctl = ("ovs-vsctl", f"--db=unix:{socket}", "--timeout=20")
            switch.run(*vsctl, "--no-wait", "init")
            switch.start("ovs-vswitchd", f"unix:{socket}", env=environment, stderr=log)
            switch.run(*vsctl, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
            for port in ("client", "server"):
                switch.run(*vsctl, "add-port", "br0", port, "--", "set", "interface", port, "type=tap")
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


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not appear in {seconds:.0f} s")
        time.sleep(0.05)


def throughput(pair: Pair, seconds: float) -> float:
    """Gb/s of one TCP connection, as its receiver counts them."""
    client, server = pair
    listener = server.start("iperf3", "--server", "--one-off")
    wait_for(lambda: b":1451 " in Path(f"/proc/{listener.pid}/net/tcp6").read_bytes(), "iperf3's port")
    report = json.loads(client.run("iperf3", "-c", SERVER, "-t", str(seconds), "-J", timeout=seconds + 30).stdout)
    listener.wait(10)
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def measure(rounds: int, seconds: float) -> dict[str, list[float]]:
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
        for _ in range(rounds):
            for name, pair in pairs.items():
                results[name].append(throughput(pair, seconds))
    return results


def main() -> int:
    """Measure and print; 1 when Penstock is less than five times as fast as Open vSwitch's user-space datapath."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        print(f"bench.peers needs root and: {', '.join(missing) or 'nothing else'}", file=sys.stderr)
        return 2
    results = measure(options.rounds, options.seconds)
    medians = {name: statistics.median(figures) for name, figures in results.items()}
    ours = results["penstock"]
    ratios = {
        name: statistics.median(mine / theirs for mine, theirs in zip(ours, figures, strict=True))
        for name, figures in results.items()
    }
    if options.json:
        print(json.dumps({"gbps": results, "medians": medians, "penstock_over": ratios}, indent=2))
    else:
        table = Table(title=f"TCP between two namespaces, {options.rounds} rounds of {options.seconds:g} s")
        for column in ("switch", "Gb/s (median)", "least", "most", "penstock over it"):
            table.add_column(column, justify="left" if column == "switch" else "right")
        for name, figures in results.items():
            row = (f"{medians[name]:.2f}", f"{min(figures):.2f}", f"{max(figures):.2f}", f"{ratios[name]:.2f}")
            table.add_row(name, *row)
        Console().print(table)
    return int(ratios["open vswitch"] < 5)


if __name__ == "__main__":
    raise SystemExit(main())

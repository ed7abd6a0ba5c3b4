"""The switches that are measured: each with the whole scale in it, guests at its ports, and a CPU for its worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.peers.load import Load, OvsLoad, PenstockLoad, load_flows
from penstock.peers.ovs import start_dpdk
from penstock.peers.turns import descendants
from penstock.reference.scale import (
    FAR_NETWORK,
    FIRST_VM,
    HERE,
    HERE_MAC,
    MTU,
    ROUTER,
    ROUTER_MAC,
    TUNNEL,
    UNDERLAY_BITS,
    VMS_MAX,
    Scale,
)

READY_SECONDS = 120.0
ATTEMPTS = 5


@dataclass
class SetUp:
    """What building the scale took: seconds by step, and bytes of memory that its processes hold."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = 0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


@dataclass
class Subject:
    """A switch at work in a host of its own, and its guests."""

    name: str
    host: Host
    load: PenstockLoad | OvsLoad
    set_up: SetUp
    guests: subprocess.Popen[str]

    def run(self, vms: int, flows: int, size: int, seconds: float) -> tuple[dict[str, Any], Load]:
        """Have VMs send; what the guests and the switch's worker tell."""
        assert self.guests.stdin is not None
        assert self.guests.stdout is not None
        self.load.mark()
        began = time.monotonic()
        self.guests.stdin.write(f"{vms} {flows} {size} {seconds}\n")
        self.guests.stdin.flush()
        line = self.guests.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the guests ended with {self.guests.wait()}")
        load = self.load.measured()
        # The guests wait for stragglers: all that the worker did, it did while they sent.
        busy = load.load * (time.monotonic() - began) / seconds
        return json.loads(line), Load(load.cycles, min(1.0, busy))


@contextmanager
def penstock(scale: Scale, worker_cpu: int, guest_cpu: int) -> Iterator[Subject]:
    """Penstock."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-reference-")))
        host = stack.enter_context(Host("reference"))
        sockets = {name: directory / f"{name}.sock" for name in ("nic", *(f"vm{n + 1}" for n in range(VMS_MAX)))}
        config = f"""
[engine]
workers = 1
cpus = [{worker_cpu}]
poll = "busy"
[bridge.under.port.nic]
type = "vhost-user"
path = "{sockets["nic"]}"
mtu = {MTU}
[bridge.under.port.host0]
type = "internal"
mac = "{HERE_MAC}"
mtu = {MTU}
[bridge.over.port.tunnel]
type = "vxlan"
ofport = {TUNNEL}
remote_ip = "flow"
key = "flow"
remotes = [{", ".join(f'"{scale.far_end(number)}"' for number in range(scale.tunnels))}]
"""
        for vm in range(VMS_MAX):
            name = f"vm{vm + 1}"
            config += f'[bridge.over.port.{name}]\ntype = "vhost-user"\n'
            config += f'path = "{sockets[name]}"\nofport = {FIRST_VM + vm}\n'
        set_up = SetUp()
        with set_up.step("start"):
            running = stack.enter_context(RunningSwitch(host, directory, config))
        load = PenstockLoad(running.rundir)
        with set_up.step("far ends"):
            host.assign("host0", f"{HERE}/{UNDERLAY_BITS}")
            _route(host, "host0")
            _wait(lambda: len(load.control.call("tunnels")) == scale.tunnels and _all_ready(load), "all far ends")
        with set_up.step("flow entries"):
            environment = {**os.environ, "OVS_RUNDIR": str(running.rundir)}

            def ofctl(*words: str) -> None:
                subprocess.run(["ovs-ofctl", "-O", "OpenFlow13", "--bundle", *words], env=environment, check=True)

            load_flows(ofctl, "over", list(scale.entries()))
        set_up.memory_bytes = _memory(running)
        yield Subject("penstock", host, load, set_up, _guests(host, guest_cpu, scale, list(sockets.values())))


@contextmanager
def open_vswitch(scale: Scale, worker_cpu: int, guest_cpu: int) -> Iterator[Subject]:
    """Open vSwitch with DPDK."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-reference-")))
        host = stack.enter_context(Host("reference"))
        set_up = SetUp()
        with set_up.step("start"):
            ovs = start_dpdk(host, directory, worker_cpu)
            ovs.ofctl("del-flows")
            ovs.vsctl(
                *("add-br", "under", "--", "set", "bridge", "under", "datapath_type=netdev"),
                f'other_config:hwaddr="{HERE_MAC}"',
            )
            names = ["nic", *(f"vm{number + 1}" for number in range(VMS_MAX))]
            for number, name in enumerate(names):
                bridge, ofport = ("under", 1) if name == "nic" else ("br0", FIRST_VM + number - 1)
                settings = ("type=dpdkvhostuser", f"ofport_request={ofport}", f"mtu_request={MTU}")
                ovs.vsctl("add-port", bridge, name, "--", "set", "interface", name, *settings)
            ovs.vsctl("set", "interface", "under", f"mtu_request={MTU}")
            options = ("type=vxlan", f"ofport_request={TUNNEL}", "options:remote_ip=flow", "options:key=flow")
            ovs.vsctl("add-port", "br0", "tunnel", "--", "set", "interface", "tunnel", *options)
        with set_up.step("far ends"):
            host.assign("under", f"{HERE}/{UNDERLAY_BITS}")
            _route(host, "under")
            ovs.appctl("tnl/neigh/set", "under", ROUTER, ROUTER_MAC)
        with set_up.step("flow entries"):
            bridge = f"unix:{directory / 'br0.mgmt'}"
            load_flows(
                lambda *words: host.run("ovs-ofctl", "-O", "OpenFlow13", "--bundle", *words, timeout=600),
                bridge,
                list(scale.entries()),
            )
        set_up.memory_bytes = _resident(int(process.pid) for process in host.processes)
        sockets = [directory / name for name in names]
        yield Subject("open vswitch", host, OvsLoad(ovs, worker_cpu), set_up, _guests(host, guest_cpu, scale, sockets))


def _route(host: Host, device: str) -> None:
    """Reach all far ends by one router, whose address is known."""
    index = host.index(device)
    host.netlink.neigh("replace", dst=ROUTER, lladdr=ROUTER_MAC, ifindex=index, state="permanent")
    host.netlink.route("add", dst=FAR_NETWORK, gateway=ROUTER, oif=index)


def _all_ready(load: PenstockLoad) -> bool:
    return all(row["state"] == "ready" for row in load.control.call("tunnels"))


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {READY_SECONDS:g} s")
        time.sleep(0.2)


def _memory(running: RunningSwitch) -> int:
    """Bytes that all processes of a Penstock hold, what they share counted once."""
    assert running.process is not None
    return _resident(descendants(running.process.pid))


def _resident(pids: Any) -> int:
    """Proportional set size of some processes."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return total


def _guests(host: Host, cpu: int, scale: Scale, sockets: list[Path]) -> subprocess.Popen[str]:
    numbers = f"{scale.tunnels},{scale.vnis},{scale.macs}"
    words = [sys.executable, "-m", "penstock.reference.guests", str(cpu), numbers, *map(str, sockets)]
    for _ in range(ATTEMPTS):
        guests = host.start(*words, stdin=subprocess.PIPE)
        assert guests.stdout is not None
        if guests.stdout.readline().strip() == "ready":
            return guests
        time.sleep(1.0)  # a switch that was just started may turn guests away
    raise RuntimeError(f"the guests did not get ready: they ended with {guests.wait()}")

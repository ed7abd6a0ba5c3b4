"""What the demonstration with virtual machines shows: `make demo-vm`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from penstock.demo import traffic
from penstock.demo.echo import Missing, ping
from penstock.demo.hosts import Host
from penstock.demo.launch import RunningSwitch
from penstock.demo.telling import Telling
from penstock.demo.vm import Machine, VhostUser, accelerator
from penstock.demo.vm_traffic import pinged, receive, received, send, sent_digest, start_pinging, start_sending

HOST = "10.0.0.100"
ADDRESSES = {"vm1": "10.0.0.1", "vm2": "10.0.0.2"}
PINGS, INTERVAL = 80, 0.05

CONFIG = """\
[bridge.br0]
[bridge.br0.port.host1]
type = "tap"
[bridge.br0.port.vm1]
type = "vhost-user"
path = "{directory}/vm1.sock"
queues = 2
[bridge.br0.port.vm2]
type = "vhost-user"
path = "{directory}/vm2.sock"
mode = "client"
"""


@dataclass
class MachineStory(Telling):
    """The scenes in order, on two machines and a host that are plugged into a running switch."""

    switch: RunningSwitch
    host: Host
    machines: tuple[Machine, Machine]

    def scenes(self) -> tuple[Callable[[], None], ...]:
        return self.introduce, self.reachability, self.throughput, self.counters, self.survival

    def introduce(self) -> None:
        self.title("One switch, two virtual machines, one host")
        vm1, vm2 = self.machines
        rows = [
            (
                "vm1",
                "vhost-user, the switch listens, 2 queues",
                ADDRESSES["vm1"],
                f"booted in {vm1.boot_seconds:.1f} s",
            ),
            ("vm2", "vhost-user, QEMU listens", ADDRESSES["vm2"], f"booted in {vm2.boot_seconds:.1f} s"),
            ("host1", "tap", HOST, "a network namespace"),
        ]
        self.table(("name", "attached by", "IPv4", ""), rows)
        release = vm1.run("uname -r").output.strip()
        self.console.print(f"{self.switch.ready_line}; guests run Linux {release} under {accelerator().upper()}")

    def reachability(self) -> None:
        self.title("Everybody reaches everybody")
        missing = []
        for machine, other in (self.machines, self.machines[::-1]):
            for name, address in ((other.name, ADDRESSES[other.name]), ("host1", HOST)):
                output = machine.run(f"ping -c 3 -i 0.2 -W 2 {address}", check=False).output
                self.line(f"{machine.name} to {name}: {output.strip().splitlines()[-1]}")
                if Missing.of(output, 3).count:
                    missing.append(f"{machine.name} to {name}")
            echoes = ping(self.host, ADDRESSES[machine.name])
            self.line(f"host1 to {machine.name}: {echoes.received} of {echoes.sent} replies")
            if echoes.received < echoes.sent:
                missing.append(f"host1 to {machine.name}")
        self.verdict("machines and host reach each other", not missing, ", ".join(missing) or "all replies came")

    def throughput(self) -> None:
        self.title("TCP with checksums and segmentation left to the receiver's side")
        vm1, vm2 = self.machines
        on = [name for name, on in vm1.offloads().items() if on and name in ("tx-checksumming", "tx-tcp-segmentation")]
        self.line(f"offloads that vm1's driver agreed on: {', '.join(on)}")
        before = self.switch.query("stats")["vm1"]
        receive(vm2, 5001)
        seconds = send(vm1, ADDRESSES["vm2"], 5001)
        arrived = received(vm2, 5001)
        after = self.switch.query("stats")["vm1"]
        count, frames = (after[name] - before[name] for name in ("rx_bytes", "rx_packets"))
        self.verdict(
            "TCP from vm1 to vm2, whole and in large segments",
            arrived == sent_digest() and count / frames > 2000,
            f"{count / 1e6:.0f} MB in {seconds:.1f} s, {count // frames} bytes in a frame on average, SHA-256 the same",
        )
        receiving = traffic.receiver(self.host, "tcp", 5002, "--hash")
        seconds = send(vm1, HOST, 5002)
        told = traffic.result(receiving)
        self.verdict(
            "TCP from vm1 to host1, whole",
            told["sha256"] == sent_digest(),
            f"{told['bytes'] / 1e6:.0f} MB in {seconds:.1f} s",
        )

    def counters(self) -> None:
        self.show_counters(self.switch)

    def survival(self) -> None:
        self.title("The engine is killed in mid-traffic (SIGKILL); the guests keep their cards")
        vm1, vm2 = self.machines
        receive(vm2, 5003)
        start_pinging(vm2, HOST, PINGS, INTERVAL)
        start_sending(vm1, ADDRESSES["vm2"], 5003)
        time.sleep(0.2)
        killed = self.switch.kill("engine")
        self.line(f"kill -9 {killed} (engine)")
        self.line(f"a new engine was ready {self.switch.await_return('engine', killed):.2f} s later")
        arrived = received(vm2, 5003)
        missing = Missing.of(pinged(vm2), PINGS)
        self.verdict("the TCP stream from vm1 to vm2 arrived whole", arrived == sent_digest(), "SHA-256 the same")
        self.verdict(
            "traffic resumed by itself",
            missing.longest * INTERVAL < 3,
            f"{missing.count} of {PINGS} pings from vm2 to host1 lost, {missing.longest * INTERVAL:.2f} s at a time",
        )

    def instructions(self, entered: bool) -> None:
        """How to go on by hand while the demonstration stays up; `entered` tells that it runs in a user namespace."""
        user = f" --target {self.host.path.split('/')[2]} --user --preserve-credentials" if entered else ""
        self.title("It stays up until Ctrl-C. Try, in another terminal" + ("" if entered else " (as root)"))
        for address in ADDRESSES.values():
            self.line(f"nsenter{user} --net={self.host.path} ping {address}")
        self.show_verbs(self.switch, "capture vm1")


def stage(stack: ExitStack, directory: Path, console: Console) -> MachineStory:
    """A running switch, a host and two machines that have booted, all removed when `stack` closes."""
    site, host = stack.enter_context(Host("switch")), stack.enter_context(Host("host1"))
    switch = stack.enter_context(RunningSwitch(site, directory, CONFIG.format(directory=directory)))
    host.take("host1", site, "eth0")
    host.assign("eth0", f"{HOST}/24")
    listening = VhostUser(directory / "vm2.sock", "52:54:00:00:00:02", server=True)
    connecting = VhostUser(directory / "vm1.sock", "52:54:00:00:00:01", queues=2)
    vm1 = stack.enter_context(Machine(site, directory / "vm1", [connecting], processors=2))
    vm2 = stack.enter_context(Machine(site, directory / "vm2", [listening]))
    with console.status("two virtual machines boot"):
        for machine in (vm1, vm2):
            machine.ready()
            machine.assign(f"{ADDRESSES[machine.name]}/24")
    return MachineStory(console, switch, host, (vm1, vm2))

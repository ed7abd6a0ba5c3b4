"""What the demo shows, scene by scene; each scene ends in verdicts on what it claims."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.demo import overlay, traffic
from penstock.demo.echo import ping
from penstock.demo.guests import answering, generate
from penstock.demo.hosts import Host
from penstock.demo.launch import LaunchError, RunningSwitch
from penstock.demo.telling import Telling

DATAGRAM_RATE = 5000
SEGMENTS = ("--size", "64000", "--protocol", "tcp", "--gso-size", "1448")


@dataclass(frozen=True)
class Guest:
    """A host of the demo: how it is attached, and the VLAN that its port puts it in."""

    name: str
    kind: str  # of its port
    vlan: int
    address: str
    address6: str


# All in one IP subnet, so that nothing but the VLAN keeps them apart.
GUESTS = (
    Guest("red1", "tap", 10, "10.0.0.1", "fd00::1"),
    Guest("red2", "packet", 10, "10.0.0.2", "fd00::2"),
    Guest("blue1", "tap", 20, "10.0.0.3", "fd00::3"),
    Guest("blue2", "packet", 20, "10.0.0.4", "fd00::4"),
)


# Two virtual machines beside them, in the red VLAN.
MACHINES = ("vm1", "vm2")
MACHINE_ADDRESS = "10.0.0.11"
GUEST_SECONDS = 60.0  # for the first guest to be compiled


def socket_path(directory: Path, machine: str) -> str:
    """Where a virtual machine's program finds its port."""
    return str(directory / f"{machine}.sock")


def configuration(directory: Path) -> str:
    """The configuration file of the demo's switch; sockets in ``directory``."""
    lines = ["[bridge.br0]"]
    for guest in GUESTS:
        lines += [f"[bridge.br0.port.{guest.name}]", f'type = "{guest.kind}"']
        if guest.kind == "packet":
            lines.append(f'netdev = "{guest.name}"')
        lines.append(f"tag = {guest.vlan}")
    for machine in MACHINES:
        lines += [f"[bridge.br0.port.{machine}]", 'type = "vhost-user"', f'path = "{socket_path(directory, machine)}"']
        lines.append(f"tag = {GUESTS[0].vlan}")
    return "\n".join(lines) + "\n"


@dataclass
class Story(Telling):
    """The scenes in order, on hosts that are plugged into a running switch."""

    switch: RunningSwitch
    hosts: dict[str, Host]

    def scenes(self) -> tuple[Callable[[], None], ...]:
        return (
            self.introduce,
            self.reachability,
            self.isolation,
            self.throughput,
            self.addresses,
            self.machines,
            self.counters,
            self.overlay,
            self.survival,
        )

    def introduce(self) -> None:
        self.title("One switch, four hosts and two virtual machines, two VLANs")
        rows = [(guest.name, guest.kind, guest.vlan, guest.address, guest.address6) for guest in GUESTS]
        rows += [(machine, "vhost-user", GUESTS[0].vlan, "", "") for machine in MACHINES]
        self.table(("host", "attached by", "VLAN", "IPv4", "IPv6"), rows)
        self.console.print(f"{self.switch.ready_line} (process start to here {self.switch.ready_after:.1f} s)")

    def reachability(self) -> None:
        self.title("Inside a VLAN, hosts reach each other (ICMP echo by the kernels' own stacks)")
        missing = []
        for one, other in _pairs(same_vlan=True):
            for address in (other.address, other.address6):
                echoes = ping(self.hosts[one.name], address)
                middle = sorted(echoes.times)[echoes.received // 2] if echoes.times else 0.0
                self.console.print(
                    f"  {one.name} to {other.name} ({address}): {echoes.received} of {echoes.sent} replies,"
                    f" {middle * 1e6:.0f} µs"
                )
                if echoes.received < echoes.sent:
                    missing.append(f"{one.name} to {address}")
        self.verdict(
            "hosts of one VLAN reach each other", not missing, ", ".join(missing) or "all replies came, IPv4 and IPv6"
        )

    def isolation(self) -> None:
        self.title("Between VLANs, nothing passes (one IP subnet: only the VLAN keeps them apart)")
        passed = []
        for one, other in _pairs(same_vlan=False):
            echoes = ping(self.hosts[one.name], other.address, count=1, timeout=0.3)
            self.console.print(f"  {one.name} to {other.name} ({other.address}): {echoes.received} of 1 replies")
            if echoes.received:
                passed.append(f"{one.name} to {other.name}")
        self.verdict("hosts of different VLANs do not", not passed, ", ".join(passed) or "no reply came")

    def throughput(self) -> None:
        self.title("TCP at full speed, in segments of up to 64 KB that the switch never has to cut")
        for one, other in ((GUESTS[0], GUESTS[1]), (GUESTS[3], GUESTS[2])):
            before = self.switch.query("stats")
            with self.console.status(f"{one.name} sends to {other.name} for 3 seconds"):
                receiving = traffic.receiver(self.hosts[other.name], "tcp", 5001)
                sending = traffic.sender(self.hosts[one.name], "tcp", other.address, 5001, "--seconds", "3")
                sent, received = traffic.result(sending), traffic.result(receiving)
            after = self.switch.query("stats")
            counted = after[one.name]["rx_bytes"] - before[one.name]["rx_bytes"]
            frames = after[one.name]["rx_packets"] - before[one.name]["rx_packets"]
            rate = received["bytes"] * 8 / received["seconds"] / 1e9
            self.console.print(
                f"  {one.name} to {other.name}: {received['bytes'] / 1e9:.2f} GB in {received['seconds']:.1f} s,"
                f" [bold]{rate:.1f} Gb/s[/], {counted // max(frames, 1)} bytes in a frame on average"
            )
            self.verdict(
                f"TCP from {one.name} ({one.kind}) to {other.name} ({other.kind})",
                sent["bytes"] == received["bytes"] <= counted,
                f"{rate:.1f} Gb/s; {sent['bytes']} bytes sent, {received['bytes']} received, {counted} counted",
            )

    def addresses(self) -> None:
        self.title("The FDB: what the bridge has learned (penstock fdb br0)")
        entries = self.switch.query("fdb", "br0")
        rows = [(entry["port"], entry["vlan"], entry["mac"], f"{entry['age']:.1f} s") for entry in entries]
        self.table(("port", "VLAN", "MAC address", "age"), sorted(rows))
        known = {(entry["mac"], entry["vlan"]): entry["port"] for entry in entries}
        wrong = [
            guest.name for guest in GUESTS if known.get((self.hosts[guest.name].mac("eth0"), guest.vlan)) != guest.name
        ]
        self.verdict(
            "every host is learned on its port and VLAN", not wrong, ", ".join(wrong) or f"{len(rows)} entries"
        )

    def counters(self) -> None:
        self.show_counters(self.switch)

    def machines(self) -> None:
        self.title("Two virtual machines (virtio guests in Python): one copy, from memory to memory")
        for what, unit, options in (
            ("64-byte frames", "M frames/s", ("--seconds", "2")),
            ("64 KB segments", "Gb/s", ("--seconds", "2", *SEGMENTS)),
        ):
            before, strays = self._lost(), self._strays()
            with self.console.status(f"vm1 sends {what} to vm2 for 2 seconds"):
                found = generate(*(socket_path(self.switch.config.parent, machine) for machine in MACHINES), *options)
            sent, received = found["sent"], found["received"]
            rate = received["stamped"] / sent["seconds"] / 1e6
            if unit == "Gb/s":
                rate = received["octets"] * 8 / sent["seconds"] / 1e9
            dropped, strays = self._lost() - before, self._strays() - strays
            self.console.print(
                f"  {what}: [bold]{rate:.1f} {unit}[/]; latency under this load"
                f" {received['latency']['median'] / 1000:.0f} µs (median)"
            )
            self.verdict(
                f"vm1 to vm2, {what}: each arrived once and in order, or is counted as dropped",
                0 <= received["unique"] + dropped - sent["frames"] <= strays
                and not received["duplicates"] + received["reordered"],
                f"{rate:.1f} {unit}; {sent['frames']} sent, {received['unique']} arrived, {dropped} dropped"
                " (tx_ring_full: the guest was slower)",
            )
        self.engine_survival()

    def engine_survival(self) -> None:
        """A guest that answers ping, while the engine is killed."""
        red = self.hosts["red1"]
        path = socket_path(self.switch.config.parent, "vm1")
        with answering(self.switch, path, f"{MACHINE_ADDRESS}/24"):
            eventually(lambda: ping(red, MACHINE_ADDRESS, 1, 0.2).received == 1, "vm1 to answer ping", GUEST_SECONDS)
            killed = self.switch.kill("engine")
            began = time.monotonic()
            self.console.print(f"  vm1 answers ping from red1; kill -9 {killed} (engine)")
            eventually(lambda: ping(red, MACHINE_ADDRESS, 1, 0.05).received == 1, "vm1 to answer again", 20)
            seconds = time.monotonic() - began
            self.switch.await_return("engine", killed)
        self.verdict(
            "red1 reaches vm1 again after the engine was killed; the guest keeps its connection",
            seconds < 2,
            f"after {seconds:.2f} s",
        )

    def _lost(self) -> int:
        """Frames that were dropped at vm2 so far."""
        return sum(int(row["count"]) for row in self.switch.query("drops") if row["port"] == "vm2")

    def _strays(self) -> int:
        """Frames that the red hosts sent so far: now and then one is flooded to vm2, and may be dropped there too."""
        found = self.switch.query("stats")
        return sum(int(found[guest.name]["rx_packets"]) for guest in GUESTS if guest.vlan == GUESTS[0].vlan)

    def overlay(self) -> None:
        overlay.show(self, self.switch.config.parent)

    def survival(self) -> None:
        self.title("The control process is killed in mid-traffic (SIGKILL); the engine forwards on")
        one, other = GUESTS[0], GUESTS[1]
        before, learned = self.switch.query("stats")[one.name]["rx_packets"], self._learned()
        receiving = traffic.receiver(self.hosts[other.name], "udp", 5002)
        pace = ("--rate", str(DATAGRAM_RATE), "--seconds", "5")
        sending = traffic.sender(self.hosts[one.name], "udp", other.address, 5002, *pace)
        self.console.print(
            f"  {one.name} sends {DATAGRAM_RATE} numbered datagrams a second to {other.name} for 5 seconds"
        )
        time.sleep(1.5)
        killed = self.switch.kill("control")
        self.console.print(f"  kill -9 {killed} (control)")
        answer = self.switch.command("ports")
        if answer.returncode != 0:
            self.console.print(f"  meanwhile the command line says: [italic]{answer.stderr.strip()}[/]")
        seconds = self.switch.await_return("control", killed)
        self.console.print(f"  a new control process has taken over {seconds:.1f} s later, with the engine as it was")
        with self.console.status("the datagrams go on"):
            sent, received = traffic.result(sending)["sent"], traffic.result(receiving)
        after = self.switch.query("stats")[one.name]["rx_packets"]
        self.verdict(
            "no datagram was lost, repeated or put out of order",
            received["received"] == sent and not received["repeated"] and not received["out_of_order"],
            f"{received['received']} of {sent} arrived, longest gap {received['longest_gap'] * 1000:.0f} ms",
        )
        self.verdict(
            "counters went on", after >= before + sent, f"{one.name} rx_packets {before} before, {after} after"
        )
        kept = learned <= self._learned()
        self.verdict(
            "the FDB is intact", kept, f"{len(learned)} entries before, all still there" if kept else "it lost some"
        )

    def instructions(self, entered: bool) -> None:
        """How to go on by hand while the demo stays up; `entered` tells that it runs in a user namespace."""
        user = f" --target {self.hosts['red1'].path.split('/')[2]} --user --preserve-credentials" if entered else ""
        self.title("It stays up until Ctrl-C. Try, in another terminal" + ("" if entered else " (as root)"))
        for guest, other in zip(GUESTS, (GUESTS[1], GUESTS[0], GUESTS[3], GUESTS[2]), strict=True):
            self.line(f"nsenter{user} --net={self.hosts[guest.name].path} ping {other.address}   # {guest.name}")
        self.show_verbs(self.switch, "capture red1")

    def _learned(self) -> set[tuple[str, int, str]]:
        return {(entry["mac"], entry["vlan"], entry["port"]) for entry in self.switch.query("fdb", "br0")}


def eventually(holds: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait until something holds. Raises LaunchError."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise LaunchError(f"waited {seconds:g} s for {what}")


def _pairs(same_vlan: bool) -> list[tuple[Guest, Guest]]:
    return [
        (one, other) for one in GUESTS for other in GUESTS if one is not other and (one.vlan == other.vlan) == same_vlan
    ]

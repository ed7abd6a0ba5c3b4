"""Virtual machines: a real Linux kernel in QEMU, its memory shared with the switch, driven command by command.

A machine runs in a host (a network namespace) and ends with it, or with this process. In its directory are its console
(a log), the sockets of its two channels (`guest_channels`), and the socket by which it takes in a migrating machine.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from penstock.demo.guest_channels import Agent, Done, Monitor
from penstock.demo.hosts import Host
from penstock.demo.initramfs import GuestError, Kernel, build, kernels

QEMU = "qemu-system-x86_64"
PROGRAMS = ("ethtool",)
DATA = "/data"  # a file in every guest, for it to send
BOOT_SECONDS = 40.0
KVM_SECONDS = 6.0  # a processor that runs guests itself boots one in about a second
MIGRATION_SECONDS = 60.0
MIGRATION_BANDWIDTH = 32 << 20  # bytes a second: slow enough for a guest of this size to be at work meanwhile

Accelerator = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class VhostUser:
    """A virtio-net card on a vhost-user socket, to which QEMU connects, or where it listens (`server`)."""

    path: Path
    mac: str
    server: bool = False
    queues: int = 1
    features: str = ""  # more properties of the device: "packed=on,mrg_rxbuf=off"

    def arguments(self, index: int, accelerator: Accelerator) -> list[str]:
        role = "server=on" if self.server else "reconnect=1"
        # QEMU 7.2 without KVM crashes when a vhost-user card uses MSI-X: there it gets one interrupt line instead.
        vectors = 2 * self.queues + 2 if accelerator == "kvm" else 0
        card = f"virtio-net-pci,netdev=net{index},mac={self.mac},romfile=,vectors={vectors}"
        more = (["mq=on"] if self.queues > 1 else []) + ([self.features] if self.features else [])
        return [
            *("-chardev", f"socket,id=vhost{index},path={self.path},{role}"),
            *("-netdev", f"vhost-user,id=net{index},chardev=vhost{index},queues={self.queues}"),
            *("-device", ",".join([card, *more])),
        ]


@dataclass(frozen=True)
class Tap:
    """An emulated card on a TAP that QEMU makes, called `device`, in the host where it runs."""

    device: str
    mac: str
    model: str = "e1000"

    def arguments(self, index: int, _accelerator: Accelerator) -> list[str]:
        return [
            *("-netdev", f"tap,id=net{index},ifname={self.device},script=no,downscript=no"),
            *("-device", f"{self.model},netdev=net{index},mac={self.mac},romfile="),
        ]


@dataclass
class Machine:
    """A virtual machine; use as a context manager: entering starts it, `ready` waits for it, leaving ends it.

    With `incoming` it does not boot, but waits for the state of another machine with the same cards.
    """

    host: Host
    directory: Path
    cards: Sequence[VhostUser | Tap] = ()
    memory: int = 160  # megabytes
    processors: int = 1
    incoming: bool = False
    boot_seconds: float = field(default=0.0, init=False)
    launched: float = field(default=0.0, init=False, repr=False)
    process: subprocess.Popen[str] = field(init=False, repr=False)
    agent: Agent = field(init=False, repr=False)
    monitor: Monitor = field(init=False, repr=False)

    def __enter__(self) -> Machine:
        self.launch(accelerator())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def launch(self, accelerator: Accelerator) -> None:
        """Start QEMU, which boots the guest."""
        self.directory.mkdir(exist_ok=True)
        modules = [card.model for card in self.cards if isinstance(card, Tap)]
        kernel = kernel_with(*modules)
        build(self.directory / "initramfs", kernel, modules, PROGRAMS, {DATA.lstrip("/"): data()})
        self.launched = time.monotonic()
        with (self.directory / "qemu.log").open("w") as log:
            self.process = self.host.start(*self._command(kernel, accelerator), stderr=log)

    def ready(self, patience: float = BOOT_SECONDS) -> None:
        """Wait until the guest answers (an incoming machine: until QEMU does). Raises GuestError."""
        deadline = self.launched + patience
        try:
            self.agent = Agent(self._connected("agent", deadline))
            self.monitor = Monitor(self._connected("qmp", deadline), patience)
            if not self.incoming:
                self.agent.until(Agent.READY, deadline - time.monotonic())
        except (GuestError, OSError) as error:
            raise GuestError(f"{self.name} did not boot: {error}; {self._said()}") from error
        self.boot_seconds = time.monotonic() - self.launched

    @property
    def name(self) -> str:
        return self.directory.name

    def _command(self, kernel: Kernel, accelerator: Accelerator) -> list[str]:
        here = self.directory
        command = [
            *(QEMU, "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", accelerator, "-smp", str(self.processors), "-m", str(self.memory)),
            *("-machine", "q35,memory-backend=ram"),
            *("-object", f"memory-backend-memfd,id=ram,size={self.memory}M,share=on"),
            *("-kernel", str(kernel.image), "-initrd", f"{here}/initramfs"),
            *("-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off"),
            *("-chardev", f"file,id=console,path={here}/console", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=agent,path={here}/agent,server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent"),
            *("-qmp", f"unix:{here}/qmp,server=on,wait=off"),
        ]
        for index, card in enumerate(self.cards):
            command += card.arguments(index, accelerator)
        return [*command, "-incoming", self._migration_address] if self.incoming else command

    def _connected(self, name: str, deadline: float) -> socket.socket:
        """A connection to a socket of QEMU's, which is there some time after the start."""
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self.directory / name))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                connection.close()
                if self.process.poll() is not None:
                    raise GuestError(f"QEMU ended with exit code {self.process.returncode}") from error
                if time.monotonic() > deadline:
                    raise GuestError(f"QEMU makes no {name} socket") from error
                time.sleep(0.02)
            else:
                return connection

    def _said(self) -> str:
        logs = [(self.directory / name) for name in ("qemu.log", "console")]
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs if log.exists())

    def close(self) -> None:
        """End the machine at once, as if its plug were pulled."""
        self.process.kill()
        self.process.wait()
        for name in ("agent", "monitor"):
            if hasattr(self, name):
                getattr(self, name).close()

    def run(self, command: str, timeout: float = 30.0, check: bool = True) -> Done:
        """Run a shell command in the guest to its end. Raises GuestError when it fails and `check` is set."""
        try:
            done = self.agent.run(command, timeout)
        except GuestError as error:
            raise GuestError(f"{self.name}: '{command}': {error}; {self._said()}") from error
        if check and done.code != 0:
            raise GuestError(f"{self.name}: '{command}' ended with exit code {done.code}: {done.output}")
        return done

    def background(self, command: str) -> None:
        """Start a shell command in the guest and go on; what it prints is lost unless it is led into a file."""
        self.run(f"({command}) >/dev/null 2>&1 &")

    def assign(self, address: str, link: str = "eth0") -> None:
        """Bring a card up with an address: "10.0.0.1/24", or "fd00::1/64"."""
        self.run(f"ip link set {link} up && ip address add {address} dev {link}")

    def offloads(self, link: str = "eth0") -> dict[str, bool]:
        """The offloads of a card as ethtool names them, and whether the guest has them on."""
        rows = (line.split() for line in self.run(f"ethtool -k {link}").output.splitlines()[1:])
        return {row[0].rstrip(":"): row[1] == "on" for row in rows}

    def statistics(self, link: str = "eth0") -> dict[str, int]:
        """The card's own counters: ethtool's, such as tx_queue_1_packets."""
        rows = (line.split(":") for line in self.run(f"ethtool -S {link}").output.splitlines()[1:])
        return {name.strip(): int(value) for name, value in rows}

    def negotiated(self, link: str = "eth0") -> set[int]:
        """The virtio features that driver and device agreed on, by bit number (virtio 1.2, sections 5.1.3 and 6)."""
        bits = self.run(f"cat /sys/class/net/{link}/device/features").output.strip()
        return {number for number, bit in enumerate(bits) if bit == "1"}

    @property
    def _migration_address(self) -> str:
        return f"unix:{self.directory}/migration"

    def migrate(self, target: Machine) -> dict[str, Any]:
        """Move to an incoming machine, live; returns what QEMU tells of it (times in ms). Raises GuestError."""
        self.monitor.command("migrate-set-parameters", **{"max-bandwidth": MIGRATION_BANDWIDTH})
        self.monitor.command("migrate", uri=target._migration_address)
        deadline = time.monotonic() + MIGRATION_SECONDS
        while True:
            told: dict[str, Any] = self.monitor.command("query-migrate")
            if told.get("status") == "completed":
                return told
            if told.get("status") == "failed" or time.monotonic() > deadline:
                raise GuestError(f"{self.name} did not migrate to {target.name}: {told}; {target._said()}")
            time.sleep(0.05)


@cache
def data() -> bytes:
    """What is in the file DATA: numbered lines, so that no piece of it is like another."""
    return b"".join(b"%d\n" % number for number in range(1_500_000))


def kernel_with(*modules: str) -> Kernel:
    """A kernel of this machine that has the modules. Raises GuestError when there is none."""
    for kernel in kernels():
        if all(map(kernel.has, modules)):
            return kernel
    wanted = f" with {', '.join(modules)}" if modules else ""
    raise GuestError(f"no kernel{wanted} under /boot: install linux-image-{'' if modules else 'cloud-'}amd64")


@cache
def accelerator() -> Accelerator:
    """KVM where a guest really boots with it, else TCG, QEMU's emulation."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    if not {"vmx", "svm"} & set(flags) or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with Host("probe") as host, tempfile.TemporaryDirectory(prefix="penstock-kvm-") as directory:
        probe = Machine(host, Path(directory) / "probe")
        probe.launch("kvm")
        try:
            probe.ready(KVM_SECONDS)
        except GuestError:
            return "tcg"
        finally:
            probe.close()
    return "kvm"

"""What the benchmarks take from DPDK: dpdk-testpmd as a real virtio guest.

A guest is one dpdk-testpmd process on one CPU, spoken to by its prompt on a pseudo-terminal, as a person would.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from penstock.demo.hosts import Host

MBUF_BYTES = 2432  # testpmd's default buffer, with its headers
MBUFS = 16384
_PROMPT = b"testpmd> "
_RECEIVED = re.compile(r"NIC statistics for port (\d+) .*?Rx-pps:\s+(\d+)", re.DOTALL)
_CYCLES = re.compile(r"CPU cycles/packet=([\d.]+)")


class DpdkError(Exception):
    """A guest cannot be had; the text says why."""


class Testpmd:
    """A dpdk-testpmd with virtual devices, its ports numbered in their order; leave its `with` block to end it."""

    def __init__(
        self,
        host: Host,
        cpu: int,
        devices: Sequence[str],
        *options: str,
        frames: int = 0,
        plain_memory: Path | None = None,
    ) -> None:
        """`frames` is how many frames its pcap devices hold; each takes a buffer.

        With `plain_memory`, a directory for its own files, it does without huge pages.
        """
        self.memory_mb = guest_memory_mb(frames)
        self._text = b""
        self._terminal, terminal = pty.openpty()
        eal = ["--lcores", f"0@{cpu},1@{cpu}", "--no-pci", "--no-telemetry", "-m", str(self.memory_mb)]
        eal += ["--no-huge"] if plain_memory else ["--in-memory", "--single-file-segments"]
        eal += [f"--vdev={device}" for device in devices]
        environment = {**os.environ, "RUNTIME_DIRECTORY": str(plain_memory)} if plain_memory else None
        own = ["-i", "--nb-cores=1", f"--total-num-mbufs={MBUFS + frames}", f"--portmask={(1 << len(devices)) - 1:#x}"]
        self.process: subprocess.Popen[str] = host.start(
            "dpdk-testpmd", *eal, "--", *own, *options,
            stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
        )  # fmt: skip
        os.close(terminal)
        self._read_to_prompt(60)

    def __enter__(self) -> Testpmd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.alive:
            os.write(self._terminal, b"stop\nquit\n")
        try:
            deadline = time.monotonic() + 20
            while self._read(deadline):
                pass
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._terminal)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def ask(self, command: str) -> str:
        """Give a command; what is printed until the next prompt. Raises DpdkError."""
        os.write(self._terminal, command.encode() + b"\n")
        return self._read_to_prompt(20)

    def received(self) -> dict[int, int]:
        """Frames per second that each port received since this was asked last."""
        return {int(port): int(rate) for port, rate in _RECEIVED.findall(self.ask("show port stats all"))}

    def cycles(self) -> float:
        """Cycles the guest spends on a frame that it moves from port to port, since `clear fwd stats all`."""
        text = self.ask("show fwd stats all")
        found = _CYCLES.search(text)
        if found is None:
            raise DpdkError(f"dpdk-testpmd tells no cycles per packet:\n{text}")
        return float(found[1])

    def _read_to_prompt(self, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while _PROMPT not in self._text:
            if not self._read(deadline):
                raise DpdkError(f"dpdk-testpmd gave no prompt; it said:\n{self._text.decode(errors='replace')}")
        said, _, self._text = self._text.partition(_PROMPT)
        return said.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        """Take in what it says next; False when it ended or nothing came until the deadline."""
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self._terminal], [], [], left)[0]:
            return False
        try:
            self._text += os.read(self._terminal, 65536)
        except OSError:  # how a pseudo-terminal says that its other side is gone
            return False
        return True


def guest_memory_mb(frames: int) -> int:
    """What a guest needs for rings, buffers and the frames that it replays."""
    return 256 + (frames * MBUF_BYTES >> 20)

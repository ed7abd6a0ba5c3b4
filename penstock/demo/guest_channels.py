"""The two channels by which a virtual machine is driven: its agent, which runs commands, and QEMU's monitor (QMP).

Both are Unix sockets on which QEMU listens. A channel belongs to one thread: it asks, then reads the answer.
"""

from __future__ import annotations

import json
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

from penstock.demo.initramfs import GuestError

ENDED = re.compile(rb"\x01(\d+) (\d+)\n")


@dataclass(frozen=True)
class Done:
    """A command that ended in a guest: what it printed, errors included, and its exit code."""

    output: str
    code: int


class Channel:
    """A stream that is read up to a pattern. Raises GuestError when that does not come in time, or at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, text: str) -> None:
        self._socket.sendall(text.encode())

    def until(self, pattern: re.Pattern[bytes], timeout: float) -> tuple[bytes, re.Match[bytes]]:
        """What comes before the pattern, and the match."""
        deadline = time.monotonic() + timeout
        while (found := pattern.search(self._received)) is None:
            left = deadline - time.monotonic()
            try:
                self._socket.settimeout(max(left, 0.001))
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise GuestError(f"no answer within {timeout:g} s, only {self._received[-500:]!r}") from None
            if not data:
                raise GuestError(f"QEMU ended, after {self._received[-500:]!r}")
            self._received += data
        before, self._received = self._received[: found.start()], self._received[found.end() :]
        return before, found


class Agent(Channel):
    """The shell in the guest (`initramfs.AGENT`)."""

    READY = re.compile(rb"\x01ready\n")

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._number = 0

    def run(self, command: str, timeout: float) -> Done:
        """Run a command to its end. An answer to an earlier one, which was given up, is passed over."""
        self._number += 1
        self.send(f"{self._number} {command}\n")
        while True:
            output, ended = self.until(ENDED, timeout)
            if int(ended[1]) == self._number:
                return Done(output.decode(errors="replace"), int(ended[2]))


class Monitor(Channel):
    """QMP: one JSON object a line (docs/interop/qmp-spec.txt of QEMU)."""

    LINE = re.compile(rb"\r?\n")

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        super().__init__(connection)
        self.until(self.LINE, timeout)  # the greeting: until the machine is made, there is none
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """What a command returns; events that come meanwhile are passed over. Raises GuestError when it is refused."""
        self.send(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        while True:
            line, _ = self.until(self.LINE, 20)
            answer = json.loads(line)
            if "error" in answer:
                raise GuestError(f"QEMU refuses {name} {arguments}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

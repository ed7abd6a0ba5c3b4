"""Run a switch as an operator would, in a host of its own, and use it by its command line."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from penstock.demo.hosts import Host

PENSTOCK = (sys.executable, "-m", "penstock.cli")


class LaunchError(Exception):
    """The switch did not come up; the text holds what it said."""


class RunningSwitch:
    """`penstock run` in `host`, with its configuration file and run directory under `directory`.

    Use as a context manager: entering waits until the switch forwards, leaving stops it.
    """

    def __init__(self, host: Host, directory: Path, config: str, *options: str) -> None:
        self.host = host
        self.rundir = directory / "run"
        self.config = directory / "penstock.toml"
        self.log = directory / "log"
        self.config.write_text(config)
        self.options = options
        self.ready_line = ""
        self.ready_after = 0.0
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RunningSwitch:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self, timeout: float = 180.0) -> None:
        """Start the switch and wait for its "ready:" line. Raises LaunchError with its output when none comes."""
        arguments = ("run", "--config", str(self.config), "--rundir", str(self.rundir), *self.options)
        began = time.monotonic()
        with self.log.open("a") as log:
            self.process = self.host.start(*PENSTOCK, *arguments, stderr=log)
        if not self._await_ready(began + timeout):
            said = self.log.read_text().strip()
            self.process.kill()
            raise LaunchError(f"the switch did not get ready; it said:\n{said}")
        self.ready_after = time.monotonic() - began

    def _await_ready(self, deadline: float) -> bool:
        assert self.process is not None
        assert self.process.stdout is not None
        stream = self.process.stdout
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([stream], [], [], left)[0]:
                return False
            line = stream.readline()
            if not line:
                return False
            if line.startswith("ready:"):
                self.ready_line = line.strip()
                return True
        return False

    def stop(self, timeout: float = 20.0) -> int:
        """Stop the switch as Ctrl-C does; returns its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb; the caller looks at its exit code and output."""
        verb, *rest = arguments
        return subprocess.run(
            [*PENSTOCK, verb, "--rundir", str(self.rundir), *rest], text=True, capture_output=True, timeout=60
        )

    def query(self, *arguments: str) -> Any:
        """What a verb tells with --json. Raises LaunchError when it fails."""
        done = self.command(*arguments, "--json")
        if done.returncode != 0:
            raise LaunchError(f"penstock {' '.join(arguments)} ended with exit code {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def status(self) -> dict[str, Any]:
        """What the supervisor tells about its processes."""
        found: dict[str, Any] = json.loads((self.rundir / "supervisor.json").read_text())
        return found

    def kill(self, role: Literal["engine", "control"]) -> int:
        """Kill a process of the switch with SIGKILL; returns its process id."""
        pid = int(self.status()[role]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def await_return(self, role: Literal["engine", "control"], killed: int, timeout: float = 10.0) -> float:
        """Wait until the successor of a killed process is ready; returns after how many seconds it was."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            status = self.status()[role]
            if status["pid"] not in (0, killed) and status["ready"] >= status["started"]:
                return float(status["ready"] - status["last_exit_at"])
            time.sleep(0.02)
        raise LaunchError(f"no new {role} was ready {timeout:g} s after process {killed} was killed: {self.status()}")

"""ovsdb-server in a directory, and penstock-vswitchd under it, driven by ovs-vsctl. No service is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from penstock.demo.hosts import Host
from penstock.ovsdb.service import SCHEMA
from penstock.switch.status import SupervisorStatus

END_SECONDS = 20.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not appear in {seconds:.0f} s")
        time.sleep(0.05)


class OvsdbServer:
    """ovsdb-server with a database of Open_vSwitch that is new; it ends with its host."""

    def __init__(self, host: Host, directory: Path, said: IO[str] | int = subprocess.DEVNULL) -> None:
        self.host, self.directory = host, directory
        self.environment = os.environ | {f"OVS_{name}": str(directory) for name in ("RUNDIR", "LOGDIR", "DBDIR")}
        self.socket = directory / "db.sock"
        self._said = said
        host.run("ovsdb-tool", "create", str(directory / "conf.db"), str(SCHEMA))
        self.start()

    def start(self) -> None:
        """Start it, also after it was killed."""
        self.socket.unlink(missing_ok=True)
        remote, control = f"--remote=punix:{self.socket}", f"--unixctl={self.directory / 'db.ctl'}"
        words = ("ovsdb-server", str(self.directory / "conf.db"), remote, control)
        self.process = self.host.start(*words, env=self.environment, stderr=self._said)
        wait_for(self.socket.exists, "ovsdb-server's socket")

    def end(self) -> None:
        """End it, and wait for that."""
        self.process.terminate()
        self.process.wait(5)


class Vswitchd:
    """A database, and penstock-vswitchd in the background, whose files are in a directory; to be closed."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host, self.directory = host, directory
        self.database = OvsdbServer(host, directory)
        self.vsctl("--no-wait", "init")
        done = self.start()
        if done.returncode != 0:
            raise RuntimeError(f"penstock-vswitchd did not start: {done.stderr}")

    @property
    def pidfile(self) -> Path:
        return self.directory / "ovs-vswitchd.pid"

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def supervisor(self) -> int:
        """The number of the process whose children the switch's processes are."""
        status = SupervisorStatus.read(self.directory)
        if status is None:
            raise RuntimeError(f"no switch was started in {self.directory}")
        return status.pid

    def start(self, database: str | None = None) -> subprocess.CompletedProcess[str]:
        """Start it in the background, as it ended in front; the database may be named in another way."""
        where = database or f"unix:{self.database.socket}"
        command = [sys.executable, "-m", "penstock.ovsdb.daemon", where, "--detach"]
        words = self.host.command(*command, "--pidfile", "--log-file", "--no-chdir", "-vconsole:off")
        return subprocess.run(words, env=self.database.environment, text=True, capture_output=True, timeout=60)

    def stop(self) -> None:
        """End it, and wait for that."""
        os.kill(self.pid, signal.SIGTERM)
        wait_for(lambda: not self.pidfile.exists(), "the end of penstock-vswitchd", END_SECONDS)

    def close(self) -> None:
        """End both."""
        self.stop()
        self.database.end()

    def try_vsctl(self, *words: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """ovs-vsctl, waiting for the daemon."""
        command = ("ovs-vsctl", f"--db=unix:{self.database.socket}", f"--timeout={timeout - 10:.0f}", *words)
        return self.host.run(*command, check=False, timeout=timeout)

    def vsctl(self, *words: str, timeout: float = 30) -> str:
        """What it says. Raises RuntimeError when it fails."""
        done = self.try_vsctl(*words, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"ovs-vsctl {' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

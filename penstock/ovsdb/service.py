"""ovsdb-server with its database, and penstock-vswitchd under it, started and stopped as one service.

The database, the files and what is written into it at the start are those of Open vSwitch's ovs-ctl(8), so a host's
configuration goes on from one to the other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from penstock.ovsdb.daemon import LOGDIR, NAME, RUNDIR
from penstock.switch.ending import end_process
from penstock.switch.rundir import LOCK, lock_holder

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
DBDIR = Path("/etc/openvswitch")
SERVER = "ovsdb-server"
BACKGROUND = ("--pidfile", "--detach", "--no-chdir", "--log-file")
FLOCK = struct.Struct("hhqqi4x")  # struct flock of a 64-bit Linux
TOOL_SECONDS, END_SECONDS = 60.0, 20.0


class ServiceError(Exception):
    """It cannot be started or stopped; the text says why."""


@dataclass(frozen=True)
class Service:
    """Where its files are. ``schema`` is that of a new database, and of an old one that has to be brought up to it."""

    rundir: Path = RUNDIR
    logdir: Path = LOGDIR
    dbdir: Path = DBDIR
    schema: Path = SCHEMA
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def database(self) -> Path:
        return self.dbdir / "conf.db"

    @property
    def socket(self) -> Path:
        return self.rundir / "db.sock"

    def process(self, name: str) -> int | None:
        """The number of a daemon's process, which holds a lock on its pidfile; None when it does not run."""
        try:
            with (self.rundir / f"{name}.pid").open() as file:
                asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
        except FileNotFoundError:
            return None
        return None if kind == fcntl.F_UNLCK else int(pid)

    def start(self, system_id: str | None = None) -> Iterator[str]:
        """Start what does not run; what is done, in sentences. Raises ServiceError."""
        both = self.process(SERVER) is not None and self.process(NAME) is not None
        for directory in (self.rundir, self.logdir, self.dbdir):
            directory.mkdir(parents=True, exist_ok=True)
        if self.process(SERVER) is None:
            yield from self._make_database()
            yield self._start_server()
        self._initialize(system_id)
        if self.process(NAME) is None:
            yield f"penstock-vswitchd starts; the first time it compiles for minutes, as its log in {self.logdir} tells"
            words = [sys.executable, "-m", "penstock.ovsdb.daemon", f"unix:{self.socket}", *BACKGROUND]
            self._run(words, seconds=None)
            yield f"penstock-vswitchd started: process {self.process(NAME)}"
        if both:
            yield "both run already"

    def stop(self) -> Iterator[str]:
        """End the switch, then the database; what is done, in sentences. Raises ServiceError."""
        finders: dict[str, Callable[[], int | None]] = {
            "penstock-vswitchd": lambda: self.process(NAME),
            "the switch, whose daemon was killed,": lambda: lock_holder(self.rundir / LOCK),
            SERVER: lambda: self.process(SERVER),
        }
        found = False
        for name, find in finders.items():
            pid = find()
            try:
                if pid is not None and end_process(pid, END_SECONDS):
                    found = True
                    yield f"{name} stopped"
            except (PermissionError, TimeoutError) as error:
                raise ServiceError(f"{name} (process {pid}) cannot be stopped: {error}") from error
        if not found:
            yield "neither runs"

    def _make_database(self) -> list[str]:
        """A new database, or the old one brought up to the schema, with a copy kept of what it was."""
        if not self.database.exists():
            self._run(["ovsdb-tool", "create", str(self.database), str(self.schema)])
            return [f"database {self.database} made"]
        if self._run(["ovsdb-tool", "needs-conversion", str(self.database), str(self.schema)]) != "yes":
            return []
        version = self._run(["ovsdb-tool", "db-version", str(self.database)])
        backup = self.database.with_name(f"{self.database.name}.backup{version}-{uuid4().hex[:8]}")
        shutil.copy2(self.database, backup)
        self._run(["ovsdb-tool", "convert", str(self.database), str(self.schema)])
        return [f"database {self.database} converted to a newer schema; as it was, it is in {backup}"]

    def _start_server(self) -> str:
        ssl = (("private-key", "private_key"), ("certificate", "certificate"), ("bootstrap-ca-cert", "ca_cert"))
        words = [
            SERVER,
            str(self.database),
            f"--remote=punix:{self.socket}",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            *(f"--{flag}=db:Open_vSwitch,SSL,{column}" for flag, column in ssl),
            "-vconsole:off",
        ]
        self._run([*words, *BACKGROUND])
        return f"{SERVER} started: process {self.process(SERVER)}, at {self.socket}"

    def _initialize(self, system_id: str | None) -> None:
        """The row of the database, with its schema's version and the id that the system has, or gets once."""
        told = f"--db=unix:{self.socket}", "--no-wait"
        self._run(["ovs-vsctl", *told, "init"])
        if system_id is None:
            here = self._run(["ovs-vsctl", *told, "--if-exists", "get", "Open_vSwitch", ".", "external_ids:system-id"])
            system_id = here.strip('"') or str(uuid4())
        version = self._run(["ovsdb-tool", "db-version", str(self.database)])
        settings = f"db-version={version}", f'external_ids:system-id="{system_id}"'
        self._run(["ovs-vsctl", *told, "set", "Open_vSwitch", ".", *settings])

    def _run(self, words: Sequence[str], seconds: float | None = TOOL_SECONDS) -> str:
        """What a program says when it has succeeded."""
        directories = {"OVS_RUNDIR": self.rundir, "OVS_LOGDIR": self.logdir, "OVS_DBDIR": self.dbdir}
        environment = {**self.environment, **{name: str(directory) for name, directory in directories.items()}}
        try:
            done = subprocess.run(words, env=environment, text=True, capture_output=True, timeout=seconds, check=False)
        except FileNotFoundError as error:
            text = f"{words[0]} is not installed: it is in Debian's packages openvswitch-common and openvswitch-switch"
            raise ServiceError(text) from error
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"{' '.join(words)}: not done in {seconds:g} s") from error
        if done.returncode != 0:
            raise ServiceError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

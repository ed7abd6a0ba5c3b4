"""The daemon's side of a switch's ownership: it starts a switch, or takes over one whose daemon was killed."""

from __future__ import annotations

import hashlib
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock import __version__
from penstock.engine.log_file import ignore_signal, reopen_at_signal
from penstock.ovsdb.ownership import SOCKET, receive, send
from penstock.switch.ending import catch_signals, is_end
from penstock.switch.rundir import RundirError, make_rundir

LISTEN_SECONDS = 30.0
END_SECONDS = 30.0


def identity_of(rundir: Path, database: str) -> str:
    """What must be the same for a running switch to be taken over: version, Python, database, network namespace."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    parts = (__version__, sys.executable, str(rundir), database, str(namespace))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


class Owner:
    """A switch that belongs to this process. Raises RundirError when there cannot be one."""

    def __init__(self, rundir: Path, database: str, unixctl: Path | None) -> None:
        self._rundir, self._database, self._wanted_unixctl = rundir, database, unixctl
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Path | None = None
        self._signals = catch_signals()
        reopen_at_signal()
        make_rundir(rundir)
        answer = self._join() or self._begin()
        if "joined" not in answer:
            raise RundirError(answer.get("error", "the switch ended before it was anybody's"))
        pid, _uid, _gid = struct.unpack("3i", self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._supervisor = os.pidfd_open(pid)
        self._ready = bool(answer["ready"])
        self._link_unixctl(Path(answer["unixctl"]) if answer["unixctl"] else None)

    def run(self, on_ready: Callable[[], None]) -> int:
        """Own the switch until it has ended; ``on_ready`` is called when it forwards. Its exit code."""
        if self._ready:
            on_ready()
        code = None
        stopping = False
        while code is None:
            for ready in select.select([self._connection, self._signals], [], [])[0]:
                if ready is self._signals:
                    if not stopping and is_end(self._signals):
                        stopping = True
                        with suppress(OSError):  # it is ending by itself
                            send(self._connection, stop=True)
                    continue
                message = receive(self._connection)
                if message.get("ready") and not self._ready:
                    self._ready = True
                    on_ready()
                if "ended" in message:
                    code = int(message["ended"])
                elif not message:
                    _say("the supervisor of the switch was killed, and the switch with it")
                    code = 1
        select.select([self._supervisor], [], [], END_SECONDS)  # what it had open may be had by others then
        if self._process is not None:
            self._process.wait()
        if self._link is not None:
            self._link.unlink(missing_ok=True)
        return code

    @property
    def has_been_ready(self) -> bool:
        return self._ready

    def _join(self) -> dict[str, Any]:
        """What a switch that runs already says to us; {} when there is none, or when it has ended for us."""
        connection = self._connect()
        if connection is None:
            return {}
        self._connection = connection
        try:
            answer = self._introduce()
            if "different" in answer:
                self._connection.settimeout(END_SECONDS)
                while receive(self._connection):
                    continue
                self._connection.close()
                return {}
        except OSError:
            return {}  # it was about to end
        if answer.get("joined"):
            _say("took over a switch that runs, whose daemon was gone")
        return answer

    def _introduce(self) -> dict[str, Any]:
        send(self._connection, identity=identity_of(self._rundir, self._database), pid=os.getpid())
        return receive(self._connection)

    def _begin(self) -> dict[str, Any]:
        """Start a switch of our own, and what it says to us."""
        errors, theirs = os.pipe()
        command = [sys.executable, "-m", "penstock.ovsdb.supervise", "--rundir", str(self._rundir)]
        command += ["--database", self._database, "--identity", identity_of(self._rundir, self._database)]
        command += ["--errors", str(theirs)]
        if self._wanted_unixctl is not None:
            command += ["--unixctl", str(self._wanted_unixctl)]
        # In a session of its own, so that what ends this process ends that one only when it is told.
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=ignore_signal,
        )
        os.close(theirs)
        deadline = time.monotonic() + LISTEN_SECONDS
        while (connection := self._connect()) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = os.read(errors, 4096).decode() if self._process.poll() is not None else ""
                raise RundirError(text or "the supervisor of the switch did not start")
            time.sleep(0.02)
        os.close(errors)
        self._connection = connection
        return self._introduce()

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(self._rundir / SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def _link_unixctl(self, found: Path | None) -> None:
        """Have ovs-appctl find the commands of a switch that was taken over where it looks for ours."""
        wanted = self._wanted_unixctl
        if wanted is not None and found is not None and wanted != found:
            wanted.unlink(missing_ok=True)
            wanted.symlink_to(found)
            self._link = wanted


def _say(text: str) -> None:
    print(f"penstock-vswitchd: {text}", file=sys.stderr, flush=True)

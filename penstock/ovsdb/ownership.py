"""Whom a running switch belongs to: the daemon that tools know by its pidfile, which may die and be started again.

The switch's supervisor listens at <rundir>/owner.sock (SOCK_SEQPACKET, a JSON object in each message). A daemon says
{"identity": I, "pid": N} and stays connected as long as it lives. It is told {"joined": true, "ready": R, "unixctl":
P}, or {"different": true} by a switch of other settings, which then ends, or {"error": text}; later {"ready": true},
and at last {"ended": exit code}. {"stop": true} from it ends the switch. One that is left alone forwards on, and ends
after ORPHAN_SECONDS unless another daemon has come.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from penstock.engine.log_file import SIGNAL
from penstock.switch.supervisor import Supervisor

SOCKET = "owner.sock"
MESSAGE_BYTES = 4096
HELLO_SECONDS = 2.0
ORPHAN_SECONDS = 60.0


def send(connection: socket.socket, **message: Any) -> None:
    """Send one message. Raises OSError when the other end is gone."""
    connection.send(json.dumps(message).encode())


def receive(connection: socket.socket) -> dict[str, Any]:
    """One message; {} when the other end is gone. Raises ValueError for what is none."""
    try:
        data = connection.recv(MESSAGE_BYTES)
    except ConnectionError:
        return {}
    message = json.loads(data) if data else {}
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object, not {message!r}")
    return message


class Ownership:
    """The supervisor's side. The supervisor's thread alone."""

    def __init__(
        self, supervisor: Supervisor, identity: str, unixctl: Path | None, patience: float = ORPHAN_SECONDS
    ) -> None:
        self._supervisor, self._identity, self._unixctl = supervisor, identity, unixctl
        self._patience = patience
        self._path = supervisor.rundir / SOCKET
        self._listener: socket.socket | None = None
        self._owner: socket.socket | None = None
        self._owner_pid = 0
        self._successor: socket.socket | None = None

    def listen(self) -> None:
        """Take daemons from now on. The supervisor has its lock: nobody else listens here."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen()
        self._supervisor.watch(self._listener.fileno(), self._accept)
        self._supervisor.stop_at = time.monotonic() + self._patience

    def tell_ready(self) -> None:
        """The switch forwards."""
        if self._owner is not None:
            try:
                send(self._owner, ready=True)
            except OSError:
                self._lose()

    def reopen_log(self) -> None:
        """The log file was opened anew: have the daemon do so."""
        if self._owner is not None:
            with suppress(ProcessLookupError):  # it is seen soon that it is gone
                os.kill(self._owner_pid, SIGNAL)

    def end(self, code: int) -> None:
        """The switch has ended."""
        if self._owner is not None:
            with suppress(OSError):  # it is gone at the same time
                send(self._owner, ended=code)
        if self._listener is not None:
            self._path.unlink(missing_ok=True)
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        connection.settimeout(HELLO_SECONDS)
        try:
            if not self._take(connection):
                connection.close()
        except (OSError, ValueError) as error:
            _say(f"whoever connected at {self._path} is no daemon: {error}")
            connection.close()

    def _take(self, connection: socket.socket) -> bool:
        """Whether a daemon that has connected owns the switch now."""
        asked = receive(connection)
        if self._owner is not None:
            send(connection, error=f"penstock already runs on {self._supervisor.rundir} (process {self._owner_pid})")
            return False
        if asked.get("identity") != self._identity:
            send(connection, different=True)
            _say("a daemon of another version or with other settings was started: this switch ends for it")
            self._successor = connection  # it sees the end of the switch by that of the connection
            self._supervisor.stopping = True
            return True
        unixctl = str(self._unixctl) if self._unixctl is not None else ""
        send(connection, joined=True, ready=self._supervisor.announced, unixctl=unixctl)
        self._owner, self._owner_pid = connection, int(asked.get("pid", 0))
        self._supervisor.watch(connection.fileno(), self._on_owner)
        self._supervisor.stop_at = None
        return True

    def _on_owner(self) -> None:
        assert self._owner is not None
        try:
            message = receive(self._owner)
        except (OSError, ValueError):
            message = {}
        if "stop" in message:
            self._supervisor.stopping = True
        elif not message:
            self._lose()

    def _lose(self) -> None:
        assert self._owner is not None
        self._supervisor.unwatch(self._owner.fileno())
        self._owner.close()
        self._owner = None
        self._supervisor.stop_at = time.monotonic() + self._patience
        _say(
            f"the daemon (process {self._owner_pid}) is gone; the switch forwards on, and ends in {self._patience:g} s"
            " unless penstock-vswitchd is started again"
        )


def _say(text: str) -> None:
    print(f"penstock: {text}", file=sys.stderr, flush=True)

"""Talk to the control process, as the command line does; synchronous, and light to import.

Every failure becomes a ControlError whose text says which process is down and why, as far as supervisor.json tells.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from penstock.switch.rundir import CONTROL_SOCKET, LOCK, lock_holder
from penstock.switch.status import SupervisorStatus

_TIMEOUT = 30.0


class ControlError(Exception):
    """The request failed: the text is a plain sentence for the operator."""


class Stream:
    """Messages from a verb that keeps sending; iterate until it ends, from either side."""

    def __init__(self, connection: socket.socket, replies: BinaryIO) -> None:
        self._connection = connection
        self._replies = replies
        self.stopped = False

    def stop(self) -> None:
        """End the stream from this side; what has arrived is still iterated over. Callable from a signal handler."""
        self.stopped = True
        with suppress(OSError):  # the other side may have closed it at the same time
            self._connection.shutdown(socket.SHUT_RDWR)

    def __iter__(self) -> Iterator[Any]:
        with self._connection, self._replies:
            for line in self._replies:
                if line.endswith(b"\n"):
                    yield json.loads(line)


class ControlClient:
    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir

    def call(self, verb: str, **arguments: Any) -> Any:
        """The result of a verb. Raises ControlError."""
        with self._connect() as connection, connection.makefile("rb") as replies:
            return self._reply(self._ask(connection, verb, arguments, replies.readline))

    def stream(self, verb: str, **arguments: Any) -> Stream:
        """What a streaming verb sends. Raises ControlError when the verb cannot be begun."""
        connection = self._connect()
        replies = connection.makefile("rb")
        try:
            self._reply(self._ask(connection, verb, arguments, replies.readline))
        except ControlError:
            connection.close()
            raise
        connection.settimeout(None)
        return Stream(connection, replies)

    def status(self) -> SupervisorStatus | None:
        return SupervisorStatus.read(self.rundir)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(self.rundir / CONTROL_SOCKET))
        except (FileNotFoundError, ConnectionError) as error:
            connection.close()
            raise ControlError(self.why_down("control")) from error
        except OSError as error:
            connection.close()
            raise ControlError(
                f"{self.rundir / CONTROL_SOCKET} cannot be reached: {error.strerror or error}"
            ) from error
        return connection

    def _ask(self, connection: socket.socket, verb: str, arguments: dict[str, Any], read: Any) -> bytes:
        try:
            connection.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line: bytes = read()
        except TimeoutError as error:
            raise ControlError(f"the control process did not answer within {_TIMEOUT:.0f} s") from error
        except ConnectionError as error:
            raise ControlError(self.why_down("control")) from error
        if not line:
            raise ControlError(self.why_down("control"))
        return line

    def _reply(self, line: bytes) -> Any:
        reply = json.loads(line)
        if reply["ok"]:
            return reply["result"]
        if reply.get("down") == "engine":
            raise ControlError(self.why_down("engine"))
        raise ControlError(reply["error"])

    def why_down(self, role: str) -> str:
        """A sentence saying that the engine or the control process is down, and why."""
        if lock_holder(self.rundir / LOCK) is None:
            return (
                f"penstock does not run on {self.rundir}: start it with 'penstock run', or name another with --rundir"
            )
        status = self.status()
        name = "engine" if role == "engine" else "control process"
        child = getattr(status, role) if status is not None else None
        if child is None or not child.history:
            return f"the {name} is starting"
        if child.running and child.ready >= child.started:
            return f"the {name} runs but does not answer yet"
        return f"the {name} is down: it {child.history}"

"""The supervisor's side of the descriptor store: keeps what the engine gives it, gives it to the next engine.

The messages are those of `penstock.engine.fdstore`. One keeper lives as long as the supervisor; each engine gets a
socket of its own, so that nothing half-said by a killed one reaches its successor. A spare engine gets its socket
beforehand: what it asks there is answered when it succeeds, and until then it waits.
"""

from __future__ import annotations

import json
import os
import socket

from penstock.engine.fdstore import MAX_DESCRIPTORS, MESSAGE_BYTES

_SEND_TIMEOUT = 2.0


class FdKeeper:
    def __init__(self) -> None:
        self.kept: dict[str, list[int]] = {}
        self._ours: socket.socket | None = None
        self._next: socket.socket | None = None

    def connect(self) -> socket.socket:
        """A new socket for the next engine; the caller hands it down and closes its own copy."""
        theirs = self.prepare()
        self.promote()
        return theirs

    def prepare(self) -> socket.socket:
        """A new socket for a spare engine, as `connect` makes one; nothing is served there before `promote`.

        That there is something to serve (``next_fileno``) tells that the spare has got as far as to wait.
        """
        self._close_next()
        self._next, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._next.settimeout(_SEND_TIMEOUT)
        return theirs

    def next_fileno(self) -> int:
        if self._next is None:
            raise ValueError("no socket for a spare engine was prepared")
        return self._next.fileno()

    def promote(self) -> None:
        """Serve the socket that was prepared last."""
        self.disconnect()
        self._ours, self._next = self._next, None

    def _close_next(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None

    def fileno(self) -> int:
        if self._ours is None:
            raise ValueError("the descriptor store is not connected")
        return self._ours.fileno()

    def serve(self) -> bool:
        """Handle one message that is waiting; False when the engine's end is closed."""
        if self._ours is None:
            return False
        fds: list[int] = []
        try:
            data, fds, _flags, _address = socket.recv_fds(self._ours, MESSAGE_BYTES, MAX_DESCRIPTORS)
            if not data:
                return False
            self._handle(json.loads(data), fds)
        except (ConnectionError, TimeoutError, ValueError):
            # The engine went away or does not speak our language; what it stored before stays.
            for descriptor in fds:
                os.close(descriptor)
            return False
        return True

    def _handle(self, message: dict[str, str], fds: list[int]) -> None:
        match message:
            case {"op": "store", "name": name}:
                self._drop(name)
                self.kept[name] = fds
            case {"op": "forget", "name": name}:
                self._drop(name)
            case {"op": "take"} if self._ours is not None:
                for name, kept in self.kept.items():
                    socket.send_fds(self._ours, [json.dumps({"name": name}).encode()], kept)
                self._ours.send(json.dumps({"end": True}).encode())
            case {"op": "sync"} if self._ours is not None:
                self._ours.send(json.dumps({"end": True}).encode())

    def _drop(self, name: str) -> None:
        for descriptor in self.kept.pop(name, []):
            os.close(descriptor)

    def disconnect(self) -> None:
        """Close our end, after taking in what the engine sent before it ended."""
        if self._ours is None:
            return
        self._ours.setblocking(False)
        try:
            while self.serve():
                continue
        except BlockingIOError:
            pass  # nothing is waiting, and some child of the engine still holds its end
        self._ours.close()
        self._ours = None

    def close(self) -> None:
        self.disconnect()
        self._close_next()
        for name in list(self.kept):
            self._drop(name)

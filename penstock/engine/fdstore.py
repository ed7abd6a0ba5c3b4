"""The engine's side of the supervisor's descriptor store, by which TAP devices outlive an engine that is killed.

The kernel keeps a TAP (its name, addresses and namespace) as long as one descriptor of it is open anywhere. The
engine gives the supervisor duplicates under a name it chooses, and after a restart takes them all back.

The socket is a UNIX SOCK_SEQPACKET inherited from the supervisor, its number in $PENSTOCK_FDSTORE. Each message is one
JSON object, descriptors travel beside it (SCM_RIGHTS):

    {"op": "store", "name": N} + descriptors     keep them, in place of what N had
    {"op": "forget", "name": N}                  close what N had
    {"op": "take"}                               answered by {"name": N} + descriptors for each name, then {"end": true}
    {"op": "sync"}                               answered by {"end": true}: what was asked before has been done

Used by the engine's main thread alone. Without a supervisor (no variable) every call does nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

ENVIRONMENT = "PENSTOCK_FDSTORE"
MESSAGE_BYTES = 4096
MAX_DESCRIPTORS = 253  # what the kernel passes in one message (SCM_MAX_FD)


class FdStore:
    """A connection to the store, or a stand-in that keeps nothing when there is no supervisor."""

    def __init__(self) -> None:
        number = os.environ.get(ENVIRONMENT)
        self._socket = socket.socket(fileno=int(number)) if number else None
        if self._socket is not None:
            self._socket.set_inheritable(False)

    def store(self, name: str, fds: Sequence[int]) -> None:
        """Have duplicates of `fds` kept under `name`, in place of any kept before."""
        if len(fds) > MAX_DESCRIPTORS:
            raise ValueError(f"{name}: {len(fds)} descriptors to store, at most {MAX_DESCRIPTORS} go under one name")
        if self._socket is not None:
            socket.send_fds(self._socket, [json.dumps({"op": "store", "name": name}).encode()], list(fds))

    def forget(self, name: str) -> None:
        """Have what is kept under `name` closed; nothing happens when there is none."""
        if self._socket is not None:
            self._socket.send(json.dumps({"op": "forget", "name": name}).encode())

    def sync(self) -> None:
        """Wait until all that was asked before has been done. Raises ConnectionError when the supervisor is gone."""
        if self._socket is not None:
            self._socket.send(json.dumps({"op": "sync"}).encode())
            self._receive()

    def _receive(self) -> tuple[dict[str, Any], list[int]]:
        assert self._socket is not None
        data, fds, _flags, _address = socket.recv_fds(self._socket, MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not data:
            raise ConnectionError("the supervisor closed the descriptor store")
        return json.loads(data), fds

    def take_all(self) -> dict[str, list[int]]:
        """Duplicates of all that is kept, by name; they stay in the store until forgotten or replaced.

        Raises ConnectionError when the supervisor is gone.
        """
        if self._socket is None:
            return {}
        self._socket.send(json.dumps({"op": "take"}).encode())
        taken: dict[str, list[int]] = {}
        while True:
            message, fds = self._receive()
            if "end" in message:
                return taken
            taken[message["name"]] = fds

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

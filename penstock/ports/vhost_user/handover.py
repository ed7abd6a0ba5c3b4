"""Leaving a guest to the next engine: its state and descriptors are kept outside this process while it is connected.

What is kept: a memory file with the session as JSON, then the descriptors in the order of ``descriptors``. The file
begins with one byte that says whether a message is being dealt with. An engine that dies between taking a message and
answering it leaves a front end that waits for ever, so its connection is not taken over but closed, and the front end
connects anew. The same is done when the port is not what it was: its settings are kept beside the session.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Iterator
from typing import Any

from penstock.ports.base import PortContext
from penstock.ports.vhost_user.memory import RegionSpec
from penstock.ports.vhost_user.session import Session
from penstock.ports.vhost_user.vring import RingAddress

IDLE, BUSY = b"\0", b"\1"


class Handover:
    """What is kept of one port's guest, under the port's name."""

    def __init__(self, name: str, options: dict[str, Any], context: PortContext) -> None:
        self._name = f"{name}/vhost-user"
        self._options = options
        self._context = context
        self._state: mmap.mmap | None = None
        self._kept = b""

    def begin(self) -> None:
        """Say that a message is going to be dealt with."""
        if self._state is not None:
            self._state[0:1] = BUSY

    def end(self, session: Session, connection: socket.socket) -> None:
        """Keep the session as it is now: nothing is half done."""
        state = json.dumps({"options": self._options, **session.to_json()}).encode()
        if state != self._kept:
            fd = os.memfd_create("penstock-guest", os.MFD_CLOEXEC)
            os.write(fd, IDLE + state)
            self._state = mmap.mmap(fd, 1)
            self._context.keep(self._name, [fd, connection.fileno(), *descriptors(session)])
            os.close(fd)
            self._kept = state
        elif self._state is not None:
            self._state[0:1] = IDLE

    def forget(self) -> None:
        """Keep nothing: there is no guest."""
        self._context.forget(self._name)
        self._state, self._kept = None, b""

    def take(self) -> tuple[dict[str, Any], list[int]] | None:
        """The state and descriptors that an earlier engine left, the caller's; None when there is no going on."""
        fds = self._context.adopt(self._name)
        if not fds:
            return None
        state = os.pread(fds[0], os.fstat(fds[0]).st_size, 0)
        os.close(fds[0])
        kept = json.loads(state[1:])
        if state[:1] != IDLE or kept["options"] != self._options:
            for fd in fds[1:]:
                os.close(fd)
            self.forget()
            return None
        return kept, fds[1:]


def descriptors(session: Session) -> list[int]:
    """The descriptors that belong to a session's JSON."""
    found = [session.progress.fd, *(region.fd for region in session.memory.regions)]
    found += [fd for vring in session.vrings for fd in (vring.kick, vring.call) if fd >= 0]
    return [*found, session.log.fd] if session.log.fd >= 0 else found


def restore(session: Session, state: dict[str, Any], fds: list[int]) -> None:
    """Make a new session what the kept one was, and put its rings into service. Raises ProtocolViolation, OSError.

    Owns the descriptors, whatever happens.
    """
    left = iter(fds)
    try:
        _restore(session, state, left)
    finally:
        for fd in left:
            os.close(fd)


def _restore(session: Session, state: dict[str, Any], fds: Iterator[int]) -> None:
    session.features, session.protocol_features = state["features"], state["protocol_features"]
    session.status = state["status"]
    progress = state["progress"]
    session.progress.use(next(fds), progress["size"], progress["offset"], progress["rings"])
    specs = [RegionSpec(**spec) for spec in state["regions"]]
    files = [next(fds) for _spec in specs]
    try:
        session.memory.replace(specs, files)
    finally:
        for fd in files:
            os.close(fd)
    for vring, kept in zip(session.vrings, state["vrings"], strict=True):
        vring.size, vring.base, vring.enabled = kept["size"], kept["base"], kept["enabled"]
        vring.place = None if kept["place"] is None else RingAddress(**kept["place"])
        if kept["kick"]:
            vring.set_kick(next(fds))
        vring.has_kick = kept["has_kick"]
        if kept["call"]:
            vring.set_call(next(fds))
        if kept["running"]:
            vring.resume_from(session.progress.word(vring.index))
    if state["log"] is not None:
        session.log.map(next(fds), state["log"]["size"], state["log"]["offset"])
    session.resume(state["mtu"])

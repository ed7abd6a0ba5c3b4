"""Captures that clients of the control process asked for: started, drained, handed out, and stopped with the last one.

The engine keeps one capture per port; each client gets its copy, cut to its own snap length. The rings are drained
every 20 ms while there is a client, and not at all otherwise. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
import base64
import logging

from penstock.engine.client import EngineClient, EngineError, EngineGone
from penstock.engine.frames import Captured
from penstock.switch.engine_link import EngineLink
from penstock.switch.server import Connection

MAX_SNAPLEN = 262144

_DRAIN_SECONDS = 0.02
_MAX_UNSENT = 32 << 20  # bytes queued for one slow client before its frames are counted as lost instead
_BATCH = 256
_log = logging.getLogger(__name__)


class Subscriber:
    """One client of one port's capture."""

    def __init__(self, connection: Connection, port: str, snaplen: int) -> None:
        self.connection = connection
        self.port = port
        self.snaplen = snaplen
        self.lost = 0

    def send(self, frames: list[Captured]) -> None:
        if self.connection.unsent > _MAX_UNSENT:
            self.lost += len(frames)
            return
        rows = [
            [frame.time_ns, frame.direction, frame.wire_length, base64.b64encode(frame.data[: self.snaplen]).decode()]
            for frame in frames
        ]
        self.connection.send({"frames": rows, "lost": self.lost})


class Captures:
    def __init__(self, link: EngineLink) -> None:
        self._link = link
        self._subscribers: list[Subscriber] = []
        self._drainer: asyncio.Task[None] | None = None
        self._lost_in_engine = 0  # as read last: the engine counts since its start, over all captures

    async def stream(self, connection: Connection, port: str, snaplen: int) -> None:
        """Send what `port` captures until the client closes. Raises EngineError when it cannot be captured."""
        subscriber = Subscriber(connection, port, snaplen)
        if not self._subscribers:
            self._lost_in_engine = await self._link.call(lambda client: client.capture_lost())
        await self._start(port, max([snaplen, *(other.snaplen for other in self._on(port))]))
        self._subscribers.append(subscriber)
        connection.send({"ok": True, "result": {"port": port, "snaplen": snaplen}})
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._drain())
        try:
            await connection.closed()
        finally:
            self._subscribers.remove(subscriber)
            if not self._on(port):
                await self._stop(port)

    async def take_over(self) -> None:
        """Have an engine newly connected to capture what clients wait for, and nothing else.

        A new engine has no captures yet; one that ran before may have those of a control process that was killed.
        """
        self._lost_in_engine = 0
        await self._link.call(_end_all_captures)
        for port in {subscriber.port for subscriber in self._subscribers}:
            try:
                await self._start(port, max(other.snaplen for other in self._on(port)))
            except EngineGone:
                raise
            except EngineError as error:
                _log.warning("the capture of port %s cannot go on: %s", port, error)

    def _on(self, port: str) -> list[Subscriber]:
        return [subscriber for subscriber in self._subscribers if subscriber.port == port]

    async def _start(self, port: str, snaplen: int) -> None:
        await self._link.call(lambda client: client.start_capture(port, snaplen))

    async def _stop(self, port: str) -> None:
        try:
            await self._link.call(lambda client: client.stop_capture(port))
        except EngineError as error:
            # The port or the engine is gone, and its capture with it.
            _log.info("the capture of port %s ended before it was stopped: %s", port, error)

    async def _drain(self) -> None:
        while self._subscribers:
            try:
                frames, lost = await self._link.call(_read_captured)
            except EngineGone:
                frames, lost = [], 0
            by_port: dict[str, list[Captured]] = {}
            for frame in frames:
                by_port.setdefault(frame.port, []).append(frame)
            new_losses = max(0, lost - self._lost_in_engine)
            self._lost_in_engine = lost
            for subscriber in self._subscribers:
                subscriber.lost += new_losses
                mine = by_port.get(subscriber.port, [])
                for start in range(0, len(mine), _BATCH):
                    subscriber.send(mine[start : start + _BATCH])
            await asyncio.sleep(_DRAIN_SECONDS)
        self._drainer = None


def _read_captured(client: EngineClient) -> tuple[list[Captured], int]:
    return client.read_captured(), client.capture_lost()


def _end_all_captures(client: EngineClient) -> None:
    for port in client.ports():
        client.stop_capture(port)
    while client.read_captured():
        continue

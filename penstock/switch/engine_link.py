"""The control process's link to the engine: connects, notices its death at once, and keeps calls off the loop.

EngineClient's calls block, so they run one at a time in a thread of their own; a slow engine delays the verb that
asked, not the others. Used by the control process's event loop alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from penstock.engine.client import EngineClient, EngineError, EngineGone

T = TypeVar("T")

_RETRY_SECONDS = 0.05
_FAULT_SECONDS = 1.0
_log = logging.getLogger(__name__)


class EngineLink:
    """`connect` opens a client or raises EngineGone while there is no engine to connect to."""

    def __init__(self, connect: Callable[[], EngineClient]) -> None:
        self._connect = connect
        self._client: EngineClient | None = None
        self._lost = asyncio.Event()
        self.on_drop: Callable[[], None] = lambda: None  # called when the engine is gone, before its memory is
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine-call")

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def open(self) -> None:
        """Connect, however long it takes until an engine is there."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client = await loop.run_in_executor(self._thread, self._connect)
            except EngineGone:
                await asyncio.sleep(_RETRY_SECONDS)
            except EngineError as error:
                _log.error("the engine cannot be used: %s", error)
                await asyncio.sleep(_FAULT_SECONDS)
            else:
                break
        self._client = client
        self._lost.clear()
        loop.add_reader(client.fileno(), self._on_readable, client)

    async def call(self, function: Callable[[EngineClient], T]) -> T:
        """Run `function` with the client. Raises EngineGone when there is no engine or it dies meanwhile."""
        client = self._client
        if client is None:
            raise EngineGone("the engine is down")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, client)
        except EngineGone:
            self._drop(client)
            raise

    async def wait_lost(self) -> None:
        await self._lost.wait()

    def _on_readable(self, client: EngineClient) -> None:
        # Readable is also a reply on its way to the thread that asked; only the end of the stream is a death.
        if _has_ended(client.fileno()):
            self._drop(client)

    def _drop(self, client: EngineClient) -> None:
        if client is not self._client:
            return
        self._client = None
        self.on_drop()
        asyncio.get_running_loop().remove_reader(client.fileno())
        self._thread.submit(client.close)
        self._lost.set()

    def close(self) -> None:
        if self._client is not None:
            self._drop(self._client)
        self._thread.shutdown(wait=True)


def _has_ended(descriptor: int) -> bool:
    """Whether the other end of a connected socket is closed; takes nothing from what waits in it."""
    with socket.socket(fileno=os.dup(descriptor)) as peeked:
        try:
            return peeked.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

"""The control socket: one JSON object per line in each direction.

A request is {"verb": NAME, ...arguments}; the reply {"ok": true, "result": ...} or {"ok": false, "error": TEXT}, with
"down": "engine" when it is the engine that cannot be reached. A verb that streams sends its reply and then more lines,
until either side closes the connection. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from penstock.engine.client import EngineError, EngineGone

Request = dict[str, Any]
Handler = Callable[[Request], Awaitable[Any]]
StreamHandler = Callable[[Request, "Connection"], Awaitable[None]]

_MAX_LINE = 1 << 20
_log = logging.getLogger(__name__)


class VerbError(Exception):
    """A request that cannot be carried out; the text is for the one who asked."""


class Connection:
    """One client, as a verb sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def unsent(self) -> int:
        """Bytes that wait for a client which reads slower than it is written to."""
        return self._writer.transport.get_write_buffer_size()

    def send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def closed(self) -> None:
        """Return when the client has closed its end (it says nothing else while it is streamed to)."""
        await self._reader.read()


class ControlServer:
    """Serves `verbs` and `streams` on a UNIX socket, each client until it closes."""

    def __init__(self, path: Path, verbs: dict[str, Handler], streams: dict[str, StreamHandler]) -> None:
        self._path = path
        self._verbs = verbs
        self._streams = streams
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; the caller holds the lock of the run directory, so a socket found there is left over and replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._on_client, path=str(self._path), limit=_MAX_LINE)

    async def stop(self) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except ConnectionError:
            _log.debug("a client went away in mid-reply")
        except asyncio.CancelledError:
            _log.debug("closing a client: the control process stops")
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                connection.send({"ok": False, "error": f"the request is longer than {_MAX_LINE} bytes"})
                await writer.drain()
                return
            if not line:
                return
            connection_ends = await self._answer(line, connection)
            await writer.drain()
            if connection_ends:
                return

    async def _answer(self, line: bytes, connection: Connection) -> bool:
        """Carry out one request; true when the connection is used up by it."""
        try:
            request = json.loads(line)
            verb = request["verb"]
        except (ValueError, TypeError, KeyError):
            connection.send({"ok": False, "error": 'a request is a JSON object on one line with a "verb"'})
            return False
        try:
            if verb in self._streams:
                await self._streams[verb](request, connection)
                return True
            if verb not in self._verbs:
                raise VerbError(f"unknown verb {verb!r} (known: {', '.join([*self._verbs, *self._streams])})")
            connection.send({"ok": True, "result": await self._verbs[verb](request)})
        except EngineGone as error:
            connection.send({"ok": False, "error": str(error), "down": "engine"})
        except (VerbError, EngineError) as error:
            connection.send({"ok": False, "error": str(error)})
        except Exception as error:  # noqa: BLE001 (a fault in one verb must not look like a dead control process)
            _log.exception("the verb %s failed in a way nobody thought of", verb)
            connection.send(
                {"ok": False, "error": f"internal error in {verb}: {error!r}; the control process logged it"}
            )
        return False

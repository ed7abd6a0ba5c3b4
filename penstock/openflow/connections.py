"""Connections of a bridge to controllers and tools: made, accepted, kept up, each with a Session on it.

Targets are written as in Open vSwitch: ``tcp:HOST[:PORT]``, ``ssl:HOST[:PORT]`` and ``unix:PATH`` are connected to,
again and again with a growing pause; ``ptcp:[PORT][:HOST]``, ``pssl:[PORT][:HOST]`` and ``punix:PATH`` are listened on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger(__name__)
DEFAULT_PORT = 6653
ACTIVE, PASSIVE = ("tcp", "ssl", "unix"), ("ptcp", "pssl", "punix")
BACKOFF_FIRST = 1.0
CONNECT_SECONDS = 5.0
STEADY_SECONDS = 10.0  # a connection that lasted so long was a good one: the next pause is short again


@dataclass(frozen=True)
class Target:
    """Where to connect to or to listen: for unix sockets ``host`` is the path."""

    kind: str
    host: str
    port: int
    text: str

    @property
    def is_passive(self) -> bool:
        return self.kind in PASSIVE

    @property
    def uses_ssl(self) -> bool:
        return self.kind in ("ssl", "pssl")


def parse_target(text: str) -> Target:
    """A target from its text. Raises ValueError."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in (*ACTIVE, *PASSIVE):
        raise ValueError(f"'{text}' does not begin with one of {', '.join(f'{each}:' for each in (*ACTIVE, *PASSIVE))}")
    if kind in ("unix", "punix"):
        if not rest:
            raise ValueError(f"'{text}' names no path")
        return Target(kind, rest, 0, text)
    if kind in ("ptcp", "pssl"):
        number, _, host = rest.partition(":")
        return Target(kind, host.strip("[]"), _port(number, text), text)
    if rest.startswith("["):
        host, _, number = rest[1:].partition("]")
        number = number.removeprefix(":")
    else:
        host, _, number = rest.partition(":")
    if not host:
        raise ValueError(f"'{text}' names no host")
    return Target(kind, host, _port(number, text), text)


def _port(number: str, text: str) -> int:
    if not number:
        return DEFAULT_PORT
    if not number.isdecimal() or int(number) > 65535:
        raise ValueError(f"'{text}': port '{number}' is no number up to 65535")
    return int(number)


@dataclass(frozen=True)
class Keys:
    """Files for TLS: own private key and certificate, and the certificate of who signs those of controllers."""

    private_key: str
    certificate: str
    ca: str

    def context(self, server: bool) -> ssl.SSLContext:
        """The TLS context; both sides show certificates. Raises OSError (ssl.SSLError is one)."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        made.load_cert_chain(self.certificate, self.private_key)
        made.load_verify_locations(self.ca)
        made.verify_mode = ssl.CERT_REQUIRED
        made.check_hostname = False  # controllers' certificates name no hosts, as Open vSwitch has it
        return made


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


@dataclass
class State:
    """How a target is doing."""

    connected: bool = False
    since: float = 0.0  # time.monotonic() of the last change
    error: str = ""


class Connection:
    """A target that is kept connected, or listened on; ``serve`` runs on each connection."""

    def __init__(self, target: Target, rundir: Path, serve: Serve, keys: Keys | None, max_backoff: float) -> None:
        self.target = target
        self.state = State(since=time.monotonic())
        self._rundir, self._serve, self._keys, self._max_backoff = rundir, serve, keys, max_backoff
        self._server: asyncio.Server | None = None
        self._accepted: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._listen() if target.is_passive else self._keep_connected())

    async def close(self) -> None:
        """End all connections of the target."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        if self._server is not None:
            self._server.close()
        for task in list(self._accepted):
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)
        if self.target.kind == "punix":
            self._path().unlink(missing_ok=True)

    def _path(self) -> Path:
        return self._rundir / self.target.host

    def _context(self) -> ssl.SSLContext | None:
        if not self.target.uses_ssl:
            return None
        if self._keys is None:
            raise OSError("no private key, certificate and CA certificate are configured")
        return self._keys.context(self.target.is_passive)

    def _set(self, connected: bool, error: str = "") -> None:
        if error and error != self.state.error:
            LOG.warning("%s: %s", self.target.text, error)
        if connected != self.state.connected:
            self.state.since = time.monotonic()
        self.state.connected, self.state.error = connected, error

    # Out

    async def _keep_connected(self) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            pause = min(max(pause * 2, BACKOFF_FIRST), self._max_backoff)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):  # wait_for would miss being cancelled as it connects
                    reader, writer = await self._connect()
            except (OSError, TimeoutError) as error:
                self._set(False, str(error) or type(error).__name__)
                continue
            self._set(True)
            LOG.info("%s: connected", self.target.text)
            begun = time.monotonic()
            try:
                await self._serve(reader, writer, self.target.text)
            except Exception:
                LOG.exception("%s: the connection is closed for a fault of the switch", self.target.text)
            finally:
                writer.close()
                self._set(False)
            LOG.info("%s: connection lost", self.target.text)
            if time.monotonic() - begun > STEADY_SECONDS:
                pause = 0.0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self.target
        if target.kind == "unix":
            return await asyncio.open_unix_connection(self._path())
        return await asyncio.open_connection(target.host, target.port, ssl=self._context())

    # In

    async def _listen(self) -> None:
        while True:
            try:
                self._server = await self._open_server()
            except OSError as error:
                self._set(False, f"cannot be listened on: {error}")
                await asyncio.sleep(self._max_backoff)
            else:
                self._set(True)
                return

    async def _open_server(self) -> asyncio.Server:
        target = self.target
        if target.kind == "punix":
            self._path().unlink(missing_ok=True)
            return await asyncio.start_unix_server(self._accept, self._path())
        return await asyncio.start_server(self._accept, target.host or None, target.port, ssl=self._context())

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepted.add(task)
        peer = writer.get_extra_info("peername")
        name = f"{self.target.text} from {peer[0]}:{peer[1]}" if isinstance(peer, tuple) else self.target.text
        try:
            await self._serve(reader, writer, name)
        except Exception:
            LOG.exception("%s: the connection is closed for a fault of the switch", name)
        finally:
            self._accepted.discard(task)
            writer.close()

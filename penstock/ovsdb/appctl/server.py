"""The socket that ovs-appctl talks to, served by the ovs package's unixctl in a thread; commands run on the loop.

The thread alone touches connections. Commands are handed to the loop of the control process, and what came of them
comes back by a queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import ovs.unixctl
from ovs.poller import POLLIN, Poller
from ovs.unixctl.server import UnixctlConnection, UnixctlServer

from penstock.engine.client import EngineError
from penstock.ovsdb.appctl import datapath, fdb, ofproto, process, tunnels, workers  # noqa: F401 - they register
from penstock.ovsdb.appctl.commands import COMMANDS, Command, CommandError, Switch
from penstock.switch.server import VerbError

LOG = logging.getLogger(__name__)


class Unixctl(threading.Thread):
    """Serves COMMANDS at a path. To be made in the main thread: the package asks for the signals that are free."""

    def __init__(self, path: Path, switch: Switch) -> None:
        super().__init__(name="unixctl", daemon=True)
        self._path, self._switch, self._loop = path, switch, asyncio.get_running_loop()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._replies: SimpleQueue[tuple[UnixctlConnection, bool, str]] = SimpleQueue()
        self._tasks: set[asyncio.Task[tuple[bool, str]]] = set()  # which nothing else would keep
        self._stopping = False
        self.failed: asyncio.Future[None] = self._loop.create_future()  # why the thread ended before it was told to
        for each in COMMANDS.values():
            ovs.unixctl.command_register(each.name, each.usage, each.least, each.most, self._asked, each)
        path.unlink(missing_ok=True)  # of a control process before this one
        error, self._server = UnixctlServer.create(str(path))
        if error:
            raise OSError(error, f"the control socket {path} cannot be made: {os.strerror(error)}")
        path.chmod(0o750)

    async def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)
        await asyncio.to_thread(self.join)
        for task in self._tasks:
            task.cancel()
        os.close(self._wakeup)
        self._path.unlink(missing_ok=True)

    def run(self) -> None:
        """The thread."""
        try:
            self._serve()
        except Exception as error:
            LOG.exception("serving ovs-appctl failed")
            self._loop.call_soon_threadsafe(self.failed.set_exception, error)

    def _serve(self) -> None:
        while not self._stopping:
            self._server.run()
            poller = Poller()
            self._server.wait(poller)
            poller.fd_wait(self._wakeup, POLLIN)
            poller.block()
            self._reply_all()
        self._server.run()  # what was replied last goes out
        self._server.close()

    def _reply_all(self) -> None:
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return
        while True:
            try:
                connection, good, text = self._replies.get_nowait()
            except Empty:
                return
            if connection._request_id is None:
                continue
            if good:
                connection.reply(text)
            else:
                connection.reply_error(text)

    def _asked(self, connection: UnixctlConnection, words: Sequence[str], each: Command) -> None:
        """A command came: have the loop carry it out."""
        work = partial(self._begin, connection, each, words)
        self._loop.call_soon_threadsafe(work)

    def _begin(self, connection: UnixctlConnection, each: Command, words: Sequence[str]) -> None:
        task = self._loop.create_task(self._carry_out(each, words))
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, connection))

    def _done(self, connection: UnixctlConnection, task: asyncio.Task[tuple[bool, str]]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or self._stopping:
            return
        good, text = task.result()
        self._replies.put((connection, good, text if not text or text.endswith("\n") else f"{text}\n"))
        os.eventfd_write(self._wakeup, 1)

    async def _carry_out(self, each: Command, words: Sequence[str]) -> tuple[bool, str]:
        try:
            return True, await each.run(self._switch, words)
        except (CommandError, VerbError, EngineError, OSError) as error:
            return False, str(error)
        except Exception as error:
            LOG.exception("the command %s failed in a way nobody thought of", each.name)
            return False, f"{each.name}: internal error, the control process logged it: {error!r}"

"""The connection to ovsdb-server, by the ovs package's replica of the database (IDL), in a thread of its own.

The thread alone touches the replica. It hands snapshots to the loop of the control process and takes changes of columns
from there; what a lost connection or a restarted server interrupts is written again when the replica is whole.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from ovs.db.idl import Transaction
from ovs.jsonrpc import Connection, Message
from ovs.poller import POLLIN, Poller
from ovs.stream import Stream

from penstock.ovsdb.replica import Replica
from penstock.ovsdb.rows import Snapshot

LOG = logging.getLogger(__name__)
DATABASE = "Open_vSwitch"
RETRY_SECONDS = 1.0
Cell = tuple[str, UUID, str]  # table, row, column


class Database(threading.Thread):
    """Follows a database; ``changed`` is called on the loop with each snapshot that differs from the one before.

    ``failed`` is called there when the thread has ended for a reason that was logged.
    """

    def __init__(
        self,
        remote: str,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[Snapshot], None],
        failed: Callable[[], None],
    ) -> None:
        super().__init__(name="ovsdb", daemon=True)
        self._remote, self._loop, self._changed, self._failed = remote, loop, changed, failed
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._cells: dict[Cell, Any] = {}  # what is to be written, under the lock
        self._stopping = False

    def write(self, cells: Mapping[Cell, Any]) -> None:
        """Have columns get these values; a later value of a cell takes the place of one that waits."""
        with self._lock:
            self._cells.update(cells)
        os.eventfd_write(self._wakeup, 1)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)
        self.join()
        os.close(self._wakeup)

    def run(self) -> None:
        """The thread."""
        try:
            self._follow()
        except Exception:
            LOG.exception("following the database failed")
            self._loop.call_soon_threadsafe(self._failed)

    def _follow(self) -> None:
        """Replica, snapshots, changes, until told to stop."""
        schema = self._await_schema()
        if schema is None:
            return
        idl = Replica(self._remote, schema)
        told: Snapshot | None = None
        seen = None
        transaction: Transaction | None = None
        writing: dict[Cell, Any] = {}
        while not self._stopping:
            idl.run()
            if idl.has_ever_connected() and idl.change_seqno != seen:
                seen = idl.change_seqno
                now = idl.snapshot()
                if now is not None and now != told:
                    told = now
                    self._loop.call_soon_threadsafe(self._changed, now)
            if transaction is None and self._cells and idl.has_ever_connected():
                with self._lock:
                    writing, self._cells = self._cells, {}
                transaction = _begin(idl, writing)
            if transaction is not None and (status := transaction.commit()) != Transaction.INCOMPLETE:
                if status == Transaction.TRY_AGAIN:
                    # The connection is lost, or others changed the same: when something has come from the server.
                    with self._lock:
                        self._cells = writing | self._cells
                elif status not in (Transaction.SUCCESS, Transaction.UNCHANGED):
                    LOG.error("the database refused what it was told: %s", transaction.get_error())
                transaction = None
                if status != Transaction.TRY_AGAIN:
                    continue  # more may wait to be written
            poller = Poller()
            idl.wait(poller)
            if transaction is not None:
                transaction.wait(poller)
            poller.fd_wait(self._wakeup, POLLIN)
            poller.block()
            self._drain()
        idl.close()

    def _drain(self) -> None:
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            return

    def _await_schema(self) -> Any:
        """The database's schema as the server has it, whichever version that is; None when told to stop."""
        said = ""
        while not self._stopping:
            error, stream = Stream.open_block(Stream.open(self._remote), 1000)
            refused = None
            if not error:
                connection = Connection(stream)
                error, reply = connection.transact_block(Message.create_request("get_schema", [DATABASE]))
                connection.close()
                if not error and reply.error is None:
                    return reply.result
                refused = reply.error if not error else None
            why = str(refused) if refused is not None else os.strerror(abs(error))
            if why != said:
                LOG.warning("the database %s at %s cannot be read yet: %s", DATABASE, self._remote, why)
                said = why
            time.sleep(RETRY_SECONDS)
        return None


def _begin(idl: Replica, cells: Mapping[Cell, Any]) -> Transaction:
    """A transaction that writes cells; it has to be committed before the replica runs on."""
    transaction = Transaction(idl)
    for (table, uuid, column), value in cells.items():
        row = idl.tables[table].rows.get(uuid)
        if row is not None and getattr(row, column) != value:  # it may be gone by now, or have it already
            setattr(row, column, value)
    return transaction

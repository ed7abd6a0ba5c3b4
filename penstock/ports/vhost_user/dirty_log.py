"""The log of pages written to in a guest's memory, which a migrating front end reads: mapped here, filled by workers.

The main thread's alone; workers see a LOG that is replaced by a pointer store, and unmapped after a quiet point.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from penstock.machine import records, store_release, sys_mmap, sys_munmap
from penstock.memory import Arena
from penstock.ports.vhost_user.layout import LOG, VHOST_LOG
from penstock.ports.vhost_user.lost_memory import Mappings
from penstock.ports.vhost_user.messages import ProtocolViolation

SIZE_MAX = 1 << 34  # where it ends in its file: more than the pages of any guest take


class DirtyLog:
    """One guest's log: where it lies, and whether writes are noted in it."""

    def __init__(self, arena: Arena, vhost: int, quiesce: Callable[[], None]) -> None:
        self._arena = arena
        self._vhost = vhost
        self._quiesce = quiesce
        self._mappings = Mappings(arena)
        self._published = 0
        self._mapping: tuple[int, int] | None = None
        self.fd = -1
        self.size = self.offset = 0
        self.enabled = False

    def map(self, fd: int, size: int, offset: int) -> None:
        """Note writes in this file from now on; owns the descriptor. Raises ProtocolViolation."""
        length = offset + size
        have = os.fstat(fd).st_size
        if size == 0 or length > SIZE_MAX or have < length:
            os.close(fd)
            raise ProtocolViolation(f"SET_LOG_BASE: {size} bytes at offset {offset} are not in a file of {have} bytes")
        mapping = int(sys_mmap(0, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0))
        if mapping < 0:
            os.close(fd)
            raise ProtocolViolation(f"SET_LOG_BASE: {length} bytes cannot be mapped: {os.strerror(-mapping)}")
        self._mappings.watch(mapping, length, self._vhost)
        old, old_fd = self._mapping, self.fd
        self._mapping, self.fd, self.size, self.offset = (mapping, length), fd, size, offset
        self._publish()
        self._unmap(old, old_fd)

    def enable(self, enabled: bool) -> None:
        """Whether writes are noted (VHOST_F_LOG_ALL)."""
        if enabled != self.enabled:
            self.enabled = enabled
            self._publish()

    def close(self) -> None:
        """Note nothing and let the file go."""
        self.enabled = False
        old, old_fd = self._mapping, self.fd
        self._mapping, self.fd = None, -1
        self._publish()
        self._unmap(old, old_fd)

    def _publish(self) -> None:
        new = 0
        if self.enabled and self._mapping is not None:
            new = self._arena.allocate(LOG.itemsize)
            row: Any = records(LOG, new)[0]
            row["bits"], row["pages"] = self._mapping[0] + self.offset, self.size * 8
        old, self._published = self._published, new
        store_release(self._vhost + VHOST_LOG, new)
        if old:
            self._quiesce()
            self._arena.free(old)

    def _unmap(self, mapping: tuple[int, int] | None, fd: int) -> None:
        if mapping is not None:
            self._mappings.forget(mapping[0])
            sys_munmap(*mapping)
            os.close(fd)
